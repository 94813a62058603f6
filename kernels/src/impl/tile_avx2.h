// The GEMM's tile without dot-product instructions: vpmaddubsw saturates on u8 x s8, so both are widened to 16 bits and
// multiplied by vpmaddwd, which is exact. Included inside a level's namespace.

// Of every four levels or weights, the first and third as 16 bits, then the second and fourth.
inline __m256i even_levels(__m256i four) { return _mm256_and_si256(four, _mm256_set1_epi32(0x00ff00ff)); }
inline __m256i odd_levels(__m256i four) { return _mm256_srli_epi16(four, 8); }
inline __m256i even_weights(__m256i four) { return _mm256_srai_epi16(_mm256_slli_epi16(four, 8), 8); }
inline __m256i odd_weights(__m256i four) { return _mm256_srai_epi16(four, 8); }

inline __m256i four_of_a_row(const std::uint8_t* a) {
    std::int32_t value;
    __builtin_memcpy(&value, a, 4);
    return _mm256_set1_epi32(value);
}

// R rows x 16 columns
template <int R>
inline void strip(const std::uint8_t* a, std::int64_t stride, const std::int8_t* w, std::int64_t steps,
                  const std::int32_t* start, std::int32_t* out) {
    __m256i acc[R][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < 2; ++j) acc[r][j] = _mm256_load_si256(reinterpret_cast<const __m256i*>(start + 8 * j));
    for (; steps > 0; --steps, a += 4, w += 4 * kPanel) {
        const auto* columns = reinterpret_cast<const __m256i*>(w);
        __m256i first = _mm256_load_si256(columns), second = _mm256_load_si256(columns + 1);
        __m256i even[2] = {even_weights(first), even_weights(second)};
        __m256i odd[2] = {odd_weights(first), odd_weights(second)};
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            __m256i four = four_of_a_row(a + r * stride);
            __m256i x = even_levels(four), y = odd_levels(four);
#pragma GCC unroll 2
            for (int j = 0; j < 2; ++j) {
                __m256i products = _mm256_add_epi32(_mm256_madd_epi16(x, even[j]), _mm256_madd_epi16(y, odd[j]));
                acc[r][j] = _mm256_add_epi32(acc[r][j], products);
            }
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < 2; ++j) _mm256_store_si256(reinterpret_cast<__m256i*>(out + r * kPanel + 8 * j), acc[r][j]);
}

template <int R>
void tile(const std::uint8_t* a, std::int64_t stride, const std::int8_t* w, std::int64_t steps,
          const std::int32_t* start, std::int32_t* out, Prefetch&) {
    constexpr int kFirst = R < 3 ? R : 3;  // three rows at once: six accumulators, eight registers of operands
    for (int j = 0; j < 4; ++j) {
        strip<kFirst>(a, stride, w + 64 * j, steps, start + 16 * j, out + 16 * j);
        if constexpr (R > kFirst)
            strip<R - kFirst>(a + kFirst * stride, stride, w + 64 * j, steps, start + 16 * j,
                              out + kFirst * kPanel + 16 * j);
    }
}

// Register-resident: what no GEMM can exceed.
double spin(std::int64_t turns) {
    __m256i acc[6];
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) acc[i] = _mm256_set1_epi32(i);
    __m256i a = _mm256_set1_epi16(1), w = _mm256_set1_epi16(2);
    for (std::int64_t t = 0; t < turns; ++t)
#pragma GCC unroll 6
        for (int i = 0; i < 6; ++i) {
            __m256i product;
            asm volatile("vpmaddwd %2, %1, %0" : "=x"(product) : "x"(a), "x"(w));
            asm volatile("vpaddd %1, %0, %0" : "+x"(acc[i]) : "x"(product));
        }
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) asm volatile("" : : "x"(acc[i]));
    return static_cast<double>(turns) * 6 * 16 * 2;
}
