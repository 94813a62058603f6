// The GEMM's tile: R rows x 64 columns of i32 in 4 R registers, 4 of weights, a broadcast or two. Four columns share
// each broadcast and R rows each vector of weights, so that 6 x 4 dot products need 10 loads: the two ports that do dot
// products are busy all the time, the two that load are not.

// GCC 12 spills the accumulators of _mm512_dpbusd_epi32 at this size; a tied register operand leaves it no choice.
inline void dot(__m512i& acc, __m512i levels, __m512i weights) {
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(levels), "v"(weights));
}

// Loads in assembly too: the compiler would read a vector again for every use rather than hold it.
inline __m512i sixteen_columns(const std::int8_t* w) {
    __m512i result;
    asm("vmovdqu64 %1, %0" : "=v"(result) : "m"(*reinterpret_cast<const char (*)[64]>(w)));
    return result;
}

inline __m512i four_of_a_row(const std::uint8_t* a) {
    __m512i result;
    asm("vpbroadcastd %1, %0" : "=v"(result) : "m"(*reinterpret_cast<const char (*)[4]>(a)));
    return result;
}

template <int R>
inline void steps_of(const std::uint8_t* a, std::int64_t stride, const std::int8_t* w, __m512i (&acc)[R][4]) {
    __m512i columns[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) columns[j] = sixteen_columns(w + 64 * j);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
        __m512i row = four_of_a_row(a + r * stride);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) dot(acc[r][j], row, columns[j]);
    }
}

template <int R>
void tile(const std::uint8_t* a, std::int64_t stride, const std::int8_t* w, std::int64_t steps,
          const std::int32_t* start, std::int32_t* out, Prefetch& ahead) {
    __m512i acc[R][4];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) acc[r][j] = _mm512_load_si512(start + 16 * j);
    while (steps > 0) {
        ahead.some();
        std::int64_t chunk = steps < 4 ? steps : 4;
        steps -= chunk;
        for (; chunk > 0; --chunk, a += 4, w += 4 * kPanel) steps_of<R>(a, stride, w, acc);
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) _mm512_store_si512(out + r * kPanel + 16 * j, acc[r][j]);
}

// Register-resident: what no GEMM can exceed.
double spin(std::int64_t turns) {
    __m512i acc[24];
#pragma GCC unroll 24
    for (int i = 0; i < 24; ++i) acc[i] = _mm512_set1_epi32(i);
    __m512i a = _mm512_set1_epi8(1), w = _mm512_set1_epi8(2);
    for (std::int64_t t = 0; t < turns; ++t)
#pragma GCC unroll 24
        for (int i = 0; i < 24; ++i) asm volatile("vpdpbusd %2, %1, %0" : "+v"(acc[i]) : "v"(a), "v"(w));
    __m512i total = acc[0];
#pragma GCC unroll 24
    for (int i = 1; i < 24; ++i) total = _mm512_add_epi32(total, acc[i]);
    asm volatile("" : : "v"(total));
    return static_cast<double>(turns) * 24 * 64 * 2;
}
