// Single kernels, for tests: arrays in, arrays out, at any level. Shapes are checked, and inputs copied to where the
// kernels may read them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>
#include <vector>

#include "arrays.h"
#include "attention_plan.h"
#include "error.h"
#include "gemm_rate.h"
#include "memory.h"

namespace nb = nanobind;

namespace guardpass {
namespace {

const Kernels& at_level(const std::string& level) {
    int count = 0;
    const Kernels* const* table = available(&count);
    for (int i = 0; i < count; ++i)
        if (level == table[i]->level) return *table[i];
    refuse("level is ", level, ", expected one that this CPU can run");
}

template <class T>
std::vector<T> copied(nb::handle object, const char* name, Dtype dtype, std::vector<std::int64_t> shape) {
    AnyArray keep;
    Tensor tensor = tensor_of(object, name, keep);
    const T* data = checked_as<T>(tensor, name, dtype, shape);
    std::int64_t count = 1;
    for (std::int64_t each : shape) count *= each;
    return std::vector<T>(data, data + count);
}

std::vector<std::int64_t> shape_of(nb::handle object, const char* name, std::size_t dimensions) {
    AnyArray keep;
    Tensor tensor = tensor_of(object, name, keep);
    if (tensor.shape.size() != dimensions)
        refuse(name, " has shape ", text_of(tensor.shape), ", expected ", dimensions, " dimensions");
    return tensor.shape;
}

template <class T>
nb::ndarray<nb::numpy, T> given_back(std::vector<T> values, std::initializer_list<std::size_t> shape) {
    auto* owned = new std::vector<T>(std::move(values));
    nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return nb::ndarray<nb::numpy, T>(owned->data(), shape, owner);
}

using Bytes = nb::ndarray<nb::numpy, std::uint8_t>;

// Rows x [M, K] as levels [M, K padded to 64] and scales [M].
std::tuple<Bytes, Scores> quantize(const std::string& level, nb::handle x, nb::handle signs, bool normed, float eps) {
    std::vector<std::int64_t> shape = shape_of(x, "x", 2);
    std::int64_t rows = shape[0], width = shape[1], padded = round_up(width, 64);
    std::int64_t block = shape_of(signs, "signs", 1)[0];
    if (width < 1 || block < 1 || (block & (block - 1)) != 0 || width % block != 0)
        refuse("signs has ", block, " entries, expected a power of two that divides ", width);
    auto data = copied<float>(x, "x", Dtype::f32, shape);
    auto sign = copied<float>(signs, "signs", Dtype::f32, {block});
    std::vector<std::uint8_t> levels(static_cast<std::size_t>(rows * padded));
    std::vector<float> scales(static_cast<std::size_t>(rows)), scratch(static_cast<std::size_t>(width + 64));
    for (std::int64_t i = 0; i < rows; ++i)
        at_level(level).quantize({data.data() + i * width,
                                  width,
                                  {sign.data(), block},
                                  normed,
                                  eps,
                                  levels.data() + i * padded,
                                  scales.data() + i,
                                  scratch.data()});
    auto m = static_cast<std::size_t>(rows);
    return {given_back(std::move(levels), {m, static_cast<std::size_t>(padded)}), given_back(std::move(scales), {m})};
}

// Levels [M, K padded to 64] times a packed layer of n columns, added to `out` [M, n] or stored. Gated with `silu` or
// `gelu_tanh`, as `epilogue` says.
Scores gemm(const std::string& level, nb::handle levels, nb::handle scales, nb::dict layer, std::int64_t n,
            std::int64_t k, const std::string& epilogue, nb::handle out) {
    static constexpr const char* kNames[] = {"store", "add", "silu", "gelu_tanh"};
    auto named = std::find(std::begin(kNames), std::end(kNames), epilogue);
    if (named == std::end(kNames)) refuse("epilogue is ", epilogue, ", expected store, add, silu or gelu_tanh");
    if (n < 1 || k < 1 || n > kMostWidth || k > kMostWidth)
        refuse("n, k are ", n, ", ", k, ", expected 1 to ", kMostWidth);
    std::int64_t rows = shape_of(levels, "levels", 2)[0], padded = round_up(k, 64);
    auto data = copied<std::uint8_t>(levels, "levels", Dtype::u8, {rows, padded});
    auto row_scales = copied<float>(scales, "scales", Dtype::f32, {rows});
    auto result = copied<float>(out, "out", Dtype::f32, {rows, n});

    Linear linear;
    bool int4 = layer.contains("group"), gated = epilogue == "silu" || epilogue == "gelu_tanh";
    linear.n = n, linear.k = k, linear.columns = gated ? kPanel / 2 : kPanel;
    linear.panels = (n + linear.columns - 1) / linear.columns;
    linear.depth = round_up(k, int4 ? 32 : 4);
    auto scale = copied<float>(layer["scale"], "scale", Dtype::f32, {linear.panels * kPanel});
    auto sum = copied<std::int32_t>(layer["sum"], "sum", Dtype::i32, {linear.panels * kPanel});
    linear.scale = scale.data(), linear.sum = sum.data();
    std::int64_t bytes = linear.panels * linear.depth * kPanel;
    Arena arena;
    arena.reset(2 * bytes);
    std::vector<std::uint8_t> group;
    if (int4) {
        std::int64_t groups = linear.depth / 32;
        group = copied<std::uint8_t>(layer["group"], "group", Dtype::u8, {linear.panels, groups, kPanel});
        auto weight = copied<std::uint8_t>(layer["weight"], "weight", Dtype::u8, {linear.panels, groups, 4, kPanel, 4});
        linear.nibbles = std::copy(weight.begin(), weight.end(), arena.cut<std::uint8_t>(bytes / 2)) - bytes / 2;
        linear.group = group.data();
    } else {
        std::vector<std::int64_t> packed{linear.panels, linear.depth / 4, kPanel, 4};
        auto weight = copied<std::int8_t>(layer["weight"], "weight", Dtype::i8, packed);
        linear.weight = std::copy(weight.begin(), weight.end(), arena.cut<std::int8_t>(bytes)) - bytes;
    }
    std::vector<std::int32_t> sums(static_cast<std::size_t>(rows * kPanel));
    std::int8_t* unpacked = int4 ? arena.cut<std::int8_t>(linear.depth * kPanel) : nullptr;
    const Kernels& chosen = at_level(level);
    for (std::int64_t p = 0; p < linear.panels && rows > 0; ++p)
        chosen.panel({&linear,
                      p,
                      {data.data(), padded, row_scales.data()},
                      0,
                      rows,
                      result.data(),
                      n,
                      static_cast<Epilogue>(named - std::begin(kNames)),
                      nullptr,
                      0,
                      sums.data(),
                      unpacked});
    return given_back(std::move(result), {static_cast<std::size_t>(rows), static_cast<std::size_t>(n)});
}

// Heads x [M, head_dim] normed where gain is not empty, roped by the angles [M, head_dim / 2], times factor.
Scores head(const std::string& level, nb::handle x, nb::handle angles, nb::handle gain, float eps, float factor) {
    std::vector<std::int64_t> shape = shape_of(x, "x", 2);
    std::int64_t rows = shape[0], dim = shape[1], half = dim / 2;
    if (dim < 2 || dim % 2 != 0) refuse("x has ", dim, " columns, expected an even number");
    auto data = copied<float>(x, "x", Dtype::f32, shape);
    auto turns = copied<float>(angles, "angles", Dtype::f32, {rows, half});
    std::int64_t gains = shape_of(gain, "gain", 1)[0];
    auto gain_data = copied<float>(gain, "gain", Dtype::f32, {gains == 0 ? 0 : dim});
    std::vector<float> cosine(turns.size()), sine(turns.size()), out(data.size());
    std::transform(turns.begin(), turns.end(), cosine.begin(), [](float a) { return std::cos(a); });
    std::transform(turns.begin(), turns.end(), sine.begin(), [](float a) { return std::sin(a); });
    for (std::int64_t i = 0; i < rows; ++i)
        at_level(level).head({data.data() + i * dim, out.data() + i * dim, dim, cosine.data() + i * half,
                              sine.data() + i * half, gains ? gain_data.data() : nullptr, eps, factor});
    return given_back(std::move(out), {static_cast<std::size_t>(rows), static_cast<std::size_t>(dim)});
}

// One key-value head: queries [R, head_dim] over keys and values [K, head_dim], with sees [R, K].
Scores attention(const std::string& level, nb::handle queries, nb::handle keys, nb::handle values, nb::handle sees,
                 float scale, float softcap) {
    std::vector<std::int64_t> shape = shape_of(queries, "queries", 2);
    std::int64_t rows = shape[0], dim = shape[1], count = shape_of(keys, "keys", 2)[0], stride = round_up(dim, 16);
    if (rows < 1 || rows > kMostRows || dim < 1)
        refuse("queries has shape ", text_of(shape), ", expected 1 to 64 rows");
    auto q = copied<float>(queries, "queries", Dtype::f32, shape);
    auto k = copied<float>(keys, "keys", Dtype::f32, {count, dim});
    auto v = copied<float>(values, "values", Dtype::f32, {count, dim});
    auto seen = copied<std::uint8_t>(sees, "sees", Dtype::boolean, {rows, count});
    std::int64_t block_count = (count + kKeyBlock - 1) / kKeyBlock;
    std::vector<float> transposed(static_cast<std::size_t>(block_count * dim * kKeyBlock));
    std::vector<float> padded(static_cast<std::size_t>(count * stride)), out(static_cast<std::size_t>(rows * stride));
    std::vector<std::uint64_t> bits(static_cast<std::size_t>(block_count * rows));
    std::vector<KeyBlock> blocks;
    for (std::int64_t i = 0; i < count; ++i) {
        std::int64_t b = i / kKeyBlock, column = i % kKeyBlock;
        for (std::int64_t d = 0; d < dim; ++d) transposed[(b * dim + d) * kKeyBlock + column] = k[i * dim + d];
        std::copy_n(v.begin() + i * dim, dim, padded.begin() + i * stride);
        for (std::int64_t r = 0; r < rows; ++r)
            if (seen[r * count + i]) bits[b * rows + r] |= std::uint64_t{1} << column;
    }
    for (std::int64_t b = 0; b < block_count; ++b)
        blocks.push_back({transposed.data() + b * dim * kKeyBlock, padded.data() + b * kKeyBlock * stride,
                          std::min(kKeyBlock, count - b * kKeyBlock), b * rows});
    std::int64_t scores_stride = block_count * kKeyBlock + 16;
    std::vector<float> scores(static_cast<std::size_t>(rows * scores_stride));
    at_level(level).attention({q.data(), rows, 1, dim, stride, scale, softcap, blocks.data(), block_count, bits.data(),
                               scores.data(), scores_stride, out.data()});
    std::vector<float> result(q.size());
    for (std::int64_t r = 0; r < rows; ++r) std::copy_n(out.begin() + r * stride, dim, result.begin() + r * dim);
    return given_back(std::move(result), {static_cast<std::size_t>(rows), static_cast<std::size_t>(dim)});
}

}  // namespace

void define_testing(nb::module_& module) {
    module.def("quantize", &quantize, nb::arg("level"), nb::arg("x"), nb::arg("signs"), nb::arg("normed"),
               nb::arg("eps"));
    module.def("gemm", &gemm, nb::arg("level"), nb::arg("levels"), nb::arg("scales"), nb::arg("layer"), nb::arg("n"),
               nb::arg("k"), nb::arg("epilogue"), nb::arg("out"));
    module.def("head", &head, nb::arg("level"), nb::arg("x"), nb::arg("angles"), nb::arg("gain"), nb::arg("eps"),
               nb::arg("factor"));
    module.def("attention", &attention, nb::arg("level"), nb::arg("queries"), nb::arg("keys"), nb::arg("values"),
               nb::arg("sees"), nb::arg("scale"), nb::arg("softcap"));
    module.def("gemm_rate", &gemm_rate, nb::arg("m"), nb::arg("n"), nb::arg("k"), nb::arg("int4"), nb::arg("threads"),
               nb::arg("layers"), nb::arg("seconds"), nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace guardpass
