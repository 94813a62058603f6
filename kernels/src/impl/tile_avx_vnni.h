// The GEMM's tile with 256-bit dot products: R rows x 16 columns of i32 at a time, in 2 R of 16 registers. Included
// inside a level's namespace.

// A tied register operand: GCC 12 spills the accumulators of the intrinsic.
inline void dot(__m256i& acc, __m256i levels, __m256i weights) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(levels), "x"(weights));
}

inline __m256i eight_columns(const std::int8_t* w) {
    __m256i result;
    asm("vmovdqu %1, %0" : "=x"(result) : "m"(*reinterpret_cast<const char (*)[32]>(w)));
    return result;
}

inline __m256i four_of_a_row(const std::uint8_t* a) {
    __m256i result;
    asm("vpbroadcastd %1, %0" : "=x"(result) : "m"(*reinterpret_cast<const char (*)[4]>(a)));
    return result;
}

template <int R>
inline void strip(const std::uint8_t* a, std::int64_t stride, const std::int8_t* w, std::int64_t steps,
                  const std::int32_t* start, std::int32_t* out) {
    __m256i acc[R][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < 2; ++j) acc[r][j] = _mm256_load_si256(reinterpret_cast<const __m256i*>(start + 8 * j));
    for (; steps > 0; --steps, a += 4, w += 4 * kPanel) {
        __m256i columns[2] = {eight_columns(w), eight_columns(w + 32)};
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            __m256i row = four_of_a_row(a + r * stride);
            dot(acc[r][0], row, columns[0]);
            dot(acc[r][1], row, columns[1]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < 2; ++j) _mm256_store_si256(reinterpret_cast<__m256i*>(out + r * kPanel + 8 * j), acc[r][j]);
}

template <int R>
void tile(const std::uint8_t* a, std::int64_t stride, const std::int8_t* w, std::int64_t steps,
          const std::int32_t* start, std::int32_t* out, Prefetch&) {
    for (int j = 0; j < 4; ++j) strip<R>(a, stride, w + 64 * j, steps, start + 16 * j, out + 16 * j);
}

// Register-resident: what no GEMM can exceed.
double spin(std::int64_t turns) {
    __m256i acc[12];
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) acc[i] = _mm256_set1_epi32(i);
    __m256i a = _mm256_set1_epi8(1), w = _mm256_set1_epi8(2);
    for (std::int64_t t = 0; t < turns; ++t)
#pragma GCC unroll 12
        for (int i = 0; i < 12; ++i) asm volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc[i]) : "x"(a), "x"(w));
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) asm volatile("" : : "x"(acc[i]));
    return static_cast<double>(turns) * 12 * 32 * 2;
}
