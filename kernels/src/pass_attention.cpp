// A layer's attention: keys and values put in their places, then each token's heads over those it sees.
#include <algorithm>

#include "pass.h"

namespace guardpass {

// Keys roped and transposed, in blocks of 64; values side by side, head by head.
void Pass::arrange(const LayerWeights& layer) {
    Timed timed = begin(Stage::arrange);
    std::int64_t dim = c_.head_dim, half = dim / 2, count = request_.count;
    std::int64_t least = first_ / kKeyBlock, blocks = (count + kKeyBlock - 1) / kKeyBlock - least;
    pool_.run(c_.kv_heads * blocks, [&](std::int64_t task, std::int64_t, int) {
        std::int64_t h = task / blocks, b = least + task % blocks, begin = b * kKeyBlock;
        std::int64_t end = std::min(count, begin + kKeyBlock);
        float* block = keys_.keys + (h * keys_.blocks + b) * dim * kKeyBlock;
        for (std::int64_t d = 0; d < dim; ++d)  // nobody sees them, but they are multiplied
            std::fill(block + d * kKeyBlock + end - begin, block + (d + 1) * kKeyBlock, 0.0f);
        for (std::int64_t t = std::max(first_, begin); t < end; ++t) {
            float key[1024];
            std::int64_t row = t - first_;
            kernels_.head({k_.row(row) + h * dim, key, dim, cosine_ + row * half, sine_ + row * half, layer.k_norm,
                           c_.eps, 1});
            for (std::int64_t d = 0; d < dim; ++d) block[d * kKeyBlock + t - begin] = key[d];
            float* value = keys_.values + (h * keys_.tokens + t) * value_stride_;
            std::copy_n(v_.row(row) + h * dim, dim, value);
            std::fill(value + dim, value + value_stride_, 0.0f);
        }
    });
}

void Pass::attend(const LayerWeights& layer, std::int64_t window) {
    Timed timed = begin(Stage::attention);
    std::int64_t dim = c_.head_dim, half = dim / 2, group = c_.heads / c_.kv_heads;
    std::int64_t tokens = tokens_per_task(group, request_.blocks), tiles = (rows_ + tokens - 1) / tokens;
    pool_.run(c_.kv_heads * tiles, [&](std::int64_t task, std::int64_t, int worker) {
        std::int64_t h = task % c_.kv_heads, tile = tiles - 1 - task / c_.kv_heads;  // the longest first
        std::int64_t begin = tile * tokens, count = std::min(tokens, rows_ - begin), rows = count * group;
        Arena& scratch = scratch_[worker];
        scratch.reset(0);
        float* queries = scratch.cut<float>(rows * dim);
        float* out = scratch.cut<float>(rows * value_stride_);
        KeyBlock* blocks = scratch.cut<KeyBlock>(request_.blocks);
        std::uint64_t* bits = scratch.cut<std::uint64_t>((request_.blocks + 1) * count);
        for (std::int64_t r = 0; r < rows; ++r) {
            std::int64_t row = begin + r / group, angles = (asking_[row] - first_) * half;
            kernels_.head({q_.row(row) + (h * group + r % group) * dim, queries + r * dim, dim, cosine_ + angles,
                           sine_ + angles, layer.q_norm, c_.eps, 1});
        }
        HeadKeys keys{layer.keys.get() + h * request_.baked_blocks * dim * kKeyBlock,
                      layer.values + h * c_.prefix * value_stride_,
                      keys_.keys + h * keys_.blocks * dim * kKeyBlock,
                      keys_.values + h * keys_.tokens * value_stride_,
                      dim,
                      value_stride_};
        std::int64_t found = blocks_of(request_, asking_ + begin, count, window, keys, blocks, bits);
        std::int64_t stride = found * kKeyBlock + 16;
        float* scores = scratch.cut<float>(rows * stride);
        kernels_.attention({queries, rows, group, dim, value_stride_, c_.scale, c_.softcap, blocks, found, bits, scores,
                            stride, out});
        for (std::int64_t r = 0; r < rows; ++r)
            std::copy_n(out + r * value_stride_, dim, mixed_.row(begin + r / group) + (h * group + r % group) * dim);
    });
}

}  // namespace guardpass
