// How attention is cut into tasks, and which blocks of keys a task looks at.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "request.h"

namespace guardpass {

// Query tokens of a task, so that the scores of all their heads stay in the cache.
std::int64_t tokens_per_task(std::int64_t group, std::int64_t key_blocks);

// Where the keys and values of one key-value head lie.
struct HeadKeys {
    const float *baked_keys, *baked_values;  // [blocks, head_dim, 64], [prefix, value_stride]
    const float *keys, *values;              // of the pass: [blocks, head_dim, 64], [T, value_stride]
    std::int64_t head_dim, value_stride;
};

// Lists the blocks that any of the tokens sees, and each one's masks. Returns how many.
std::int64_t blocks_of(const Request& request, const std::int64_t* tokens, std::int64_t count, std::int64_t window,
                       const HeadKeys& head, KeyBlock* blocks, std::uint64_t* bits);

}  // namespace guardpass
