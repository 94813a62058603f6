#include "attention_plan.h"

#include <algorithm>
#include <bit>

namespace guardpass {

std::int64_t tokens_per_task(std::int64_t group, std::int64_t key_blocks) {
    constexpr std::int64_t kMostScores = 64 * 1024;  // 256 KB
    std::int64_t rows = std::clamp(kMostScores / (key_blocks * kKeyBlock), std::int64_t{6}, std::int64_t{48});
    return std::max<std::int64_t>(1, rows / group);
}

std::int64_t blocks_of(const Request& request, const std::int64_t* tokens, std::int64_t count, std::int64_t window,
                       const HeadKeys& head, KeyBlock* blocks, std::uint64_t* bits) {
    std::int64_t found = 0;
    for (std::int64_t b = 0; b < request.blocks; ++b) {
        std::uint64_t any = 0;
        for (std::int64_t t = 0; t < count; ++t) any |= bits[found * count + t] = request.seen(tokens[t], b, window);
        if (any == 0) continue;
        bool baked = b < request.baked_blocks;
        std::int64_t index = baked ? b : b - request.baked_blocks;
        KeyBlock& block = blocks[found];
        block.keys = (baked ? head.baked_keys : head.keys) + index * head.head_dim * kKeyBlock;
        block.values = (baked ? head.baked_values : head.values) + index * kKeyBlock * head.value_stride;
        block.count = 64 - std::countl_zero(any);
        block.bits = found * count;
        ++found;
    }
    return found;
}

}  // namespace guardpass
