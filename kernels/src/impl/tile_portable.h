// The GEMM's tile in plain C++. Included inside a level's namespace.

template <int R>
void tile(const std::uint8_t* a, std::int64_t stride, const std::int8_t* w, std::int64_t steps,
          const std::int32_t* start, std::int32_t* acc, Prefetch&) {
    for (int r = 0; r < R; ++r, a += stride, acc += kPanel) {
        for (int n = 0; n < kPanel; ++n) acc[n] = start[n];
        for (std::int64_t s = 0; s < steps; ++s) {
            const std::uint8_t* x = a + 4 * s;
            const std::int8_t* column = w + s * 4 * kPanel;
            for (int n = 0; n < kPanel; ++n, column += 4) {
                int products = x[0] * column[0] + x[1] * column[1] + x[2] * column[2] + x[3] * column[3];
                auto sum = static_cast<std::uint32_t>(acc[n]) + static_cast<std::uint32_t>(products);
                acc[n] = static_cast<std::int32_t>(sum);
            }
        }
    }
}

double spin(std::int64_t turns) {
    alignas(64) std::int8_t w[64 * 4] = {1, 2, 3};
    std::uint8_t a[4] = {1, 2, 3, 4};
    alignas(64) std::int32_t acc[kPanel] = {};
    std::int32_t total = 0;
    for (std::int64_t i = 0; i < turns; ++i) {
        Prefetch none;
        a[0] = static_cast<std::uint8_t>(i);
        tile<1>(a, 4, w, 1, acc, acc, none);
        total += acc[i % kPanel];
    }
    volatile std::int32_t used = total;
    (void)used;
    return static_cast<double>(turns) * 4 * kPanel * 2;
}
