#include "gemm_rate.h"

#include <chrono>
#include <memory>
#include <vector>

#include "error.h"
#include "config.h"
#include "multiply.h"

namespace guardpass {

double gemm_rate(std::int64_t m, std::int64_t n, std::int64_t k, bool int4, int threads, std::int64_t layers,
                 double seconds) {
    for (std::int64_t each : {m, n, k, layers})
        if (each < 1 || each > kMostWidth) refuse("a size is ", each, ", expected 1 to ", kMostWidth);
    if (threads < 1 || threads > 1024) refuse("threads is ", threads, ", expected 1 to 1024");
    std::int64_t panels = (n + kPanel - 1) / kPanel, depth = round_up(k, int4 ? 32 : 4);
    std::int64_t bytes = panels * depth * kPanel / (int4 ? 2 : 1), stride = round_up(k, 128) + 64;
    Arena memory;
    memory.reset(layers * bytes + m * stride + m * n * 4 + panels * kPanel * 8 + m * 4 + panels * depth * 2 + 4096);
    auto* weights = memory.cut<std::uint8_t>(layers * bytes);
    std::uint32_t state = 1;
    for (std::int64_t i = 0; i < layers * bytes; ++i) {
        state = state * 1664525 + 1013904223;
        weights[i] = static_cast<std::uint8_t>(state >> 24);
    }
    Levels rows{memory.cut<std::uint8_t>(m * stride), stride, memory.cut<float>(m)};
    for (std::int64_t i = 0; i < m * stride; ++i) rows.data[i] = static_cast<std::uint8_t>(i * 37);
    for (std::int64_t i = 0; i < m; ++i) rows.scale[i] = 1;
    auto* scale = memory.cut<float>(panels * kPanel);
    auto* sum = memory.cut<std::int32_t>(panels * kPanel);
    for (std::int64_t i = 0; i < panels * kPanel; ++i) scale[i] = 1, sum[i] = 0;
    auto* group = memory.cut<std::uint8_t>(panels * depth * 2);
    for (std::int64_t i = 0; i < panels * depth * 2; ++i) group[i] = static_cast<std::uint8_t>(1 + i % 16);
    Matrix out{memory.cut<float>(m * n), n};

    std::vector<Linear> linears(static_cast<std::size_t>(layers));
    for (std::int64_t i = 0; i < layers; ++i) {
        Linear& each = linears[static_cast<std::size_t>(i)];
        each.n = n, each.k = k, each.panels = panels, each.depth = depth, each.columns = kPanel;
        each.scale = scale, each.sum = sum, each.group = group;
        const std::uint8_t* data = weights + i * bytes;
        if (int4) each.nibbles = data;
        else each.weight = reinterpret_cast<const std::int8_t*>(data);
    }
    Pool pool(threads);
    auto scratch = std::make_unique<Arena[]>(static_cast<std::size_t>(threads));
    for (int i = 0; i < threads; ++i)
        scratch[static_cast<std::size_t>(i)].reset(depth * kPanel + m * kPanel * 4 + 2 * kAlign);
    using Clock = std::chrono::steady_clock;
    std::size_t done = 0;
    double elapsed = 0;
    auto once = [&] {
        const Linear& next = linears[(done + 1) % linears.size()];
        multiply(kernels(), pool, scratch.get(), {{linears[done % linears.size()], rows, m, out}}, &next);
        ++done;
    };
    once();
    auto began = Clock::now();
    done = 0;
    do {
        once();
        elapsed = std::chrono::duration<double>(Clock::now() - began).count();
    } while (elapsed < seconds);
    return static_cast<double>(done) * 2 * static_cast<double>(m * n) * static_cast<double>(k) / elapsed;
}

}  // namespace guardpass
