// Vectors of one float: the interface that the other levels have, in plain C++. Included inside a level's namespace.
constexpr int W = 1;
using F = float;
using Bits = std::uint32_t;

inline F load(const float* p) { return *p; }
inline F load_n(const float* p, std::int64_t) { return *p; }
inline void store(float* p, F x) { *p = x; }
inline void store_n(float* p, F x, std::int64_t) { *p = x; }
inline F set(float x) { return x; }
inline F fma(F a, F b, F c) { return a * b + c; }
// Both give b where either is NaN.
inline F max(F a, F b) { return a > b ? a : b; }
inline F min(F a, F b) { return a < b ? a : b; }
inline F reciprocal(F x) { return 1.0f / x; }
inline F rounded(F x) { return __builtin_rintf(x); }
inline float sum(F x) { return x; }
inline float largest(F x) { return x; }

// x * 2^n for whole n from -126 to 127
inline F scaled(F x, F n) {
    if (!(n == n)) return n;
    return x * __builtin_bit_cast(float, static_cast<std::uint32_t>(static_cast<int>(n) + 127) << 23);
}

// The bits of |x|: as integers they order like the numbers, with infinity and then NaN above all.
inline Bits no_bits() { return 0; }
inline Bits max_abs(Bits most, F x) {
    Bits bits = __builtin_bit_cast(std::uint32_t, x) & 0x7fffffffu;
    return bits > most ? bits : most;
}
inline std::uint32_t largest_bits(Bits x) { return x; }

// For y from 1 to 2: adds y - 1, in parts of 2^-23.
inline Bits add_parts(Bits parts, F y) { return parts + (__builtin_bit_cast(std::uint32_t, y) - 0x3f800000u); }
inline std::uint32_t total(Bits x) { return x; }

// Lanes whose bit is 0 get `other`.
inline F where(std::uint32_t bits, F x, F other) { return bits & 1 ? x : other; }

inline F load(const std::int32_t* p) { return static_cast<float>(*p); }

// Rounded to the nearest whole number, ties to even, plus 128; |x| <= 127
inline void store_levels(std::uint8_t* p, F x) {
    *p = static_cast<std::uint8_t>(static_cast<int>(__builtin_rintf(x)) + 128);
}

// One stage of the FWHT within a vector: there is none.
template <int H>
inline F butterfly(F x) {
    return x;
}

constexpr int kFmaRows = 4, kFmaVectors = 16;  // the fp32 tile
