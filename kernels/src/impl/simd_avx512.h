// Vectors of 16 floats. Included inside a level's namespace.
constexpr int W = 16;
using F = __m512;
using Bits = __m512i;

inline __mmask16 lanes(std::int64_t n) { return n >= W ? 0xffff : static_cast<__mmask16>((1u << n) - 1); }

inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline F load_n(const float* p, std::int64_t n) { return n >= W ? load(p) : _mm512_maskz_loadu_ps(lanes(n), p); }
inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
inline void store_n(float* p, F x, std::int64_t n) {
    if (n >= W) return store(p, x);
    _mm512_mask_storeu_ps(p, lanes(n), x);
}
inline F set(float x) { return _mm512_set1_ps(x); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
// Both give b where either is NaN.
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
// An estimate of 14 bits and one Newton step; 0 of infinity, as a step would make NaN of it.
inline F reciprocal(F x) {
    F r = _mm512_rcp14_ps(x);
    F error = _mm512_fnmadd_ps(x, r, set(1.0f));
    return _mm512_mask_fmadd_ps(r, _mm512_cmp_ps_mask(x, set(1e37f), _CMP_NGE_UQ), error, r);
}
inline F rounded(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline float sum(F x) { return _mm512_reduce_add_ps(x); }
inline float largest(F x) { return _mm512_reduce_max_ps(x); }

// x * 2^n for whole n from -126 to 127
inline F scaled(F x, F n) { return _mm512_scalef_ps(x, n); }

// The bits of |x|: as integers they order like the numbers, with infinity and then NaN above all.
inline Bits no_bits() { return _mm512_setzero_si512(); }
inline Bits max_abs(Bits most, F x) { return _mm512_max_epi32(most, _mm512_castps_si512(_mm512_abs_ps(x))); }
inline std::uint32_t largest_bits(Bits x) { return static_cast<std::uint32_t>(_mm512_reduce_max_epi32(x)); }

// For y from 1 to 2: adds y - 1, in parts of 2^-23.
inline Bits add_parts(Bits parts, F y) {
    return _mm512_add_epi32(parts, _mm512_sub_epi32(_mm512_castps_si512(y), _mm512_set1_epi32(0x3f800000)));
}
inline std::uint32_t total(Bits x) { return static_cast<std::uint32_t>(_mm512_reduce_add_epi32(x)); }

// Lanes whose bit is 0 get `other`.
inline F where(std::uint32_t bits, F x, F other) {
    return _mm512_mask_blend_ps(static_cast<__mmask16>(bits), other, x);
}

inline F load(const std::int32_t* p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }

// Rounded to the nearest whole number, ties to even, plus 128; |x| <= 127
inline void store_levels(std::uint8_t* p, F x) {
    __m512i level = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(128));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(level));
}

// One stage of the FWHT within a vector: x[i] + x[i + H], then x[i] - x[i + H].
template <int H>
inline F butterfly(F x) {
    constexpr __mmask16 kSecond = H == 1 ? 0xaaaa : H == 2 ? 0xcccc : H == 4 ? 0xf0f0 : 0xff00;
    F other;
    if constexpr (H == 1) other = _mm512_permute_ps(x, 0xb1);
    else if constexpr (H == 2) other = _mm512_permute_ps(x, 0x4e);
    else if constexpr (H == 4) other = _mm512_shuffle_f32x4(x, x, 0xb1);
    else other = _mm512_shuffle_f32x4(x, x, 0x4e);
    return _mm512_mask_sub_ps(_mm512_add_ps(x, other), kSecond, other, x);
}

constexpr int kFmaRows = 6, kFmaVectors = 4;  // the fp32 tile: 24 of 32 registers
