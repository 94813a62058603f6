// The packed file's tensors as the kernels want them: checked once, then plain pointers.
#pragma once

#include <memory>
#include <vector>

#include "config.h"
#include "kernels.h"
#include "tensor.h"

namespace guardpass {

struct LayerWeights {
    Linear q, k, v, o, gate_up, down;
    const float *q_norm = nullptr, *k_norm = nullptr;                // gains, with head_norms
    const float *attention_norm = nullptr, *ffn_norm = nullptr;      // gains, with post_norms
    std::unique_ptr<float[]> keys;    // baked, transposed: [kv_heads, blocks, head_dim, 64]
    std::unique_ptr<float[]> padded;  // baked values, only where head_dim is no multiple of 16
    const float* values = nullptr;    // baked: [kv_heads, prefix, value_stride]
};

struct Weights {
    Weights(const Config& config, const Tensors& tensors);

    std::vector<LayerWeights> layers;
    const void* embedding = nullptr;
    Dtype embedding_dtype = Dtype::f32;
    const float *inv_freq = nullptr, *verdict_head = nullptr;
    const std::int32_t* prefix_positions = nullptr;
    Rotation residual, ffn;
};

}  // namespace guardpass
