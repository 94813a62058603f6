// Sizes and constants of a decoder, checked: no later arithmetic on sizes can overflow 64 bits.
#pragma once

#include <cstdint>
#include <vector>

namespace guardpass {

struct Config {
    std::int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, vocab = 0;
    std::int64_t columns = 0;  // verdict tokens that are scored
    std::int64_t prefix = 0;   // baked columns
    std::int64_t context = 0;
    float eps = 0, scale = 0;                // of norms; of attention scores
    float softcap = 0, final_softcap = 0;    // 0: none
    float embed_scale = 1;
    bool gelu_tanh = false;                  // else silu
    bool post_norms = false, head_norms = false, int4 = false;
    std::vector<std::int64_t> windows;       // by layer; 0: none
    std::int64_t residual_block = 1, ffn_block = 1;  // of the rotations; 1: none
};

// Refuses what no decoder has, what the kernels cannot do, and sizes beyond the limits.
void check(const Config& config);

// Limits, chosen so that a product of any three stays far below 2^63.
inline constexpr std::int64_t kMostWidth = 65536;  // also keeps 255 * 128 * K below 2^31
inline constexpr std::int64_t kMostTokens = std::int64_t{1} << 20;

}  // namespace guardpass
