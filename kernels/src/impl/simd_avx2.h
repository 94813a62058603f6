// Vectors of 8 floats. Included inside a level's namespace.
constexpr int W = 8;
using F = __m256;
using Bits = __m256i;

inline __m256i lanes(std::int64_t n) {
    __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), index);
}

inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline F load_n(const float* p, std::int64_t n) { return n >= W ? load(p) : _mm256_maskload_ps(p, lanes(n)); }
inline void store(float* p, F x) { _mm256_storeu_ps(p, x); }
inline void store_n(float* p, F x, std::int64_t n) {
    if (n >= W) return store(p, x);
    _mm256_maskstore_ps(p, lanes(n), x);
}
inline F set(float x) { return _mm256_set1_ps(x); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
// Both give b where either is NaN.
inline F max(F a, F b) { return _mm256_max_ps(a, b); }
inline F min(F a, F b) { return _mm256_min_ps(a, b); }
inline F reciprocal(F x) { return _mm256_div_ps(set(1.0f), x); }
inline F rounded(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline float sum(F x) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float largest(F x) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// x * 2^n for whole n from -126 to 127; NaN stays, as x is NaN too
inline F scaled(F x, F n) {
    __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(x, _mm256_castsi256_ps(exponent));
}

// The bits of |x|: as integers they order like the numbers, with infinity and then NaN above all.
inline Bits no_bits() { return _mm256_setzero_si256(); }
inline Bits max_abs(Bits most, F x) {
    return _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff)));
}
inline std::uint32_t largest_bits(Bits x) {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1))));
}

// For y from 1 to 2: adds y - 1, in parts of 2^-23.
inline Bits add_parts(Bits parts, F y) {
    return _mm256_add_epi32(parts, _mm256_sub_epi32(_mm256_castps_si256(y), _mm256_set1_epi32(0x3f800000)));
}
inline std::uint32_t total(Bits x) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1))));
}

// Lanes whose bit is 0 get `other`.
inline F where(std::uint32_t bits, F x, F other) {
    __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i set_bits = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), each);
    return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set_bits, each)));
}

inline F load(const std::int32_t* p) {
    return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// Rounded to the nearest whole number, ties to even, plus 128; |x| <= 127
inline void store_levels(std::uint8_t* p, F x) {
    __m256i level = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(128));
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(level), _mm256_extracti128_si256(level, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}

// One stage of the FWHT within a vector: x[i] + x[i + H], then x[i] - x[i + H].
template <int H>
inline F butterfly(F x) {
    F other;
    if constexpr (H == 1) other = _mm256_permute_ps(x, 0xb1);
    else if constexpr (H == 2) other = _mm256_permute_ps(x, 0x4e);
    else other = _mm256_permute2f128_ps(x, x, 0x01);
    constexpr int kSecond = H == 1 ? 0xaa : H == 2 ? 0xcc : 0xf0;
    return _mm256_blend_ps(_mm256_add_ps(x, other), _mm256_sub_ps(other, x), kSecond);
}

constexpr int kFmaRows = 6, kFmaVectors = 2;  // the fp32 tile: 12 of 16 registers
