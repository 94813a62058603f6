// One pass's input, checked, and who of its tokens sees whom.
#pragma once

#include <cstdint>
#include <vector>

#include "config.h"
#include "tensor.h"

namespace guardpass {

struct Request {
    // Refuses what does not fit the config, or itself.
    Request(const Config& config, const std::int32_t* prefix_positions, const Tensor& tokens, const Tensor& positions,
            const Tensor& slots, const Tensor& chain, const Tensor& sees);

    std::int64_t count = 0;  // tokens, T
    std::int64_t span = 0;   // the first of them, which form a causal chain
    std::vector<std::int64_t> tokens, positions, slots;
    std::vector<std::uint64_t> chain;  // of the baked blocks: the columns in use

    // Keys in blocks of 64, the baked ones' first, then the pass's. The keys of a block that a token sees, as bits;
    // `window` 0 is none.
    std::int64_t baked_blocks = 0, blocks = 0;
    std::uint64_t seen(std::int64_t token, std::int64_t block, std::int64_t window) const;

  private:
    std::uint64_t unwindowed(std::int64_t token, std::int64_t block) const;

    std::vector<std::uint64_t> tree_;  // [T - span, pass blocks]
    std::vector<std::int64_t> key_positions_;  // [blocks, 64]
    std::vector<std::int64_t> least_;  // [blocks], the least position in each
};

}  // namespace guardpass
