#include "request.h"

#include <algorithm>

#include "error.h"
#include "kernels.h"

namespace guardpass {
namespace {

std::int64_t length_of(const Tensor& tensor, const char* name) {
    if (tensor.shape.size() != 1) refuse(name, " has shape ", text_of(tensor.shape), ", expected one dimension");
    return tensor.shape[0];
}

// Values from 0 to below `limit`, copied before they are checked: whoever owns the array may write to it meanwhile.
template <class T>
std::vector<T> indices(const Tensor& tensor, const char* name, Dtype dtype, std::int64_t limit) {
    const T* data = checked_as<T>(tensor, name, dtype, {length_of(tensor, name)});
    std::vector<T> values(data, data + tensor.shape[0]);
    for (std::size_t i = 0; i < values.size(); ++i)
        if (values[i] < 0 || values[i] >= limit)
            refuse(name, "[", i, "] is ", values[i], ", expected 0 to below ", limit);
    return values;
}

std::uint64_t lowest(std::int64_t count) {  // that many bits
    return count <= 0 ? 0 : count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

}  // namespace

Request::Request(const Config& c, const std::int32_t* prefix_positions, const Tensor& token_ids,
                 const Tensor& token_positions, const Tensor& slot_rows, const Tensor& baked, const Tensor& sees) {
    count = length_of(token_ids, "tokens");
    if (count < 1 || count > kMostTokens) refuse("tokens has ", count, " entries, expected 1 to ", kMostTokens);
    tokens = indices<std::int64_t>(token_ids, "tokens", Dtype::i64, c.vocab);
    if (length_of(token_positions, "positions") != count)
        refuse("positions has ", token_positions.shape[0], " entries, expected as many as tokens, ", count);
    positions = indices<std::int64_t>(token_positions, "positions", Dtype::i64, c.context);
    slots = indices<std::int64_t>(slot_rows, "slots", Dtype::i64, count);
    if (slots.empty() || slot_rows.shape[0] > count)
        refuse("slots has ", slots.size(), " entries, expected 1 to ", count);

    if (sees.shape.size() != 2 || sees.shape[0] != sees.shape[1] || sees.shape[0] > count)
        refuse("sees has shape ", text_of(sees.shape), ", expected [N, N] with N at most ", count);
    std::int64_t tree = sees.shape[0];
    const auto* seen = checked_as<std::uint8_t>(sees, "sees", Dtype::boolean, sees.shape);
    span = count - tree;

    baked_blocks = (c.prefix + kKeyBlock - 1) / kKeyBlock;
    std::int64_t pass_blocks = (count + kKeyBlock - 1) / kKeyBlock;
    blocks = baked_blocks + pass_blocks;

    chain.assign(static_cast<std::size_t>(baked_blocks), 0);
    std::vector<std::int32_t> columns = indices<std::int32_t>(baked, "chain", Dtype::i32, c.prefix);
    for (std::int32_t column : columns) {
        std::uint64_t& word = chain[static_cast<std::size_t>(column / kKeyBlock)];
        std::uint64_t bit = std::uint64_t{1} << column % kKeyBlock;
        if (word & bit) refuse("chain has column ", column, " twice");
        word |= bit;
    }

    tree_.assign(static_cast<std::size_t>(tree * pass_blocks), 0);
    for (std::int64_t row = 0; row < tree; ++row) {
        std::uint64_t* words = tree_.data() + row * pass_blocks;
        if (!seen[row * tree + row]) refuse("sees[", row, "][", row, "] is false, expected every token to see itself");
        for (std::int64_t b = 0; b < pass_blocks; ++b) words[b] = lowest(span - b * kKeyBlock);
        for (std::int64_t i = 0; i < tree; ++i)
            if (seen[row * tree + i]) words[(span + i) / kKeyBlock] |= std::uint64_t{1} << (span + i) % kKeyBlock;
    }

    key_positions_.assign(static_cast<std::size_t>(blocks * kKeyBlock), std::int64_t{1} << 40);
    std::copy_n(prefix_positions, prefix_positions ? c.prefix : 0, key_positions_.begin());
    std::copy_n(positions.begin(), count, key_positions_.begin() + baked_blocks * kKeyBlock);
    for (std::int64_t b = 0; b < blocks; ++b) {
        auto begin = key_positions_.begin() + b * kKeyBlock;
        least_.push_back(*std::min_element(begin, begin + kKeyBlock));
    }
}

std::uint64_t Request::unwindowed(std::int64_t token, std::int64_t block) const {
    if (block < baked_blocks) return chain[static_cast<std::size_t>(block)];
    block -= baked_blocks;
    if (token < span) return lowest(token + 1 - block * kKeyBlock);
    return tree_[static_cast<std::size_t>((token - span) * (blocks - baked_blocks) + block)];
}

std::uint64_t Request::seen(std::int64_t token, std::int64_t block, std::int64_t window) const {
    std::uint64_t bits = unwindowed(token, block);
    std::int64_t position = positions[static_cast<std::size_t>(token)];
    if (window == 0 || bits == 0 || position - least_[static_cast<std::size_t>(block)] < window) return bits;
    const std::int64_t* keys = key_positions_.data() + block * kKeyBlock;
    for (std::int64_t i = 0; i < kKeyBlock; ++i)
        if (position - keys[i] >= window) bits &= ~(std::uint64_t{1} << i);
    return bits;
}

}  // namespace guardpass
