#include "embedding.h"

#include <bit>

namespace guardpass {
namespace {

float from_bfloat16(std::uint16_t x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x) << 16); }

// Moves exponent and fraction to float32's place, and mends the exponent by a multiplication, which is exact for
// subnormals too; infinities and NaN, whose exponent is all ones, are put right after.
float from_float16(std::uint16_t x) {
    std::uint32_t sign = (x & 0x8000u) << 16, rest = (x & 0x7fffu) << 13;
    float value = std::bit_cast<float>(rest) * 0x1p112f;
    std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
    if (rest >= 0x7c00u << 13) bits |= 0x7f800000u;
    return std::bit_cast<float>(bits | sign);
}

}  // namespace

void read_embedding(const void* table, Dtype dtype, std::int64_t token, std::int64_t width, float scale, float* out) {
    std::int64_t first = token * width;
    if (dtype == Dtype::f32) {
        const float* row = static_cast<const float*>(table) + first;
        for (std::int64_t i = 0; i < width; ++i) out[i] = row[i] * scale;
        return;
    }
    const std::uint16_t* row = static_cast<const std::uint16_t*>(table) + first;
    if (dtype == Dtype::bf16) {
        for (std::int64_t i = 0; i < width; ++i) out[i] = from_bfloat16(row[i]) * scale;
    } else {
        for (std::int64_t i = 0; i < width; ++i) out[i] = from_float16(row[i]) * scale;
    }
}

}  // namespace guardpass
