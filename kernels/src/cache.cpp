#include "cache.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "error.h"
#include "kernels.h"
#include "memory.h"

namespace guardpass {
namespace {

std::int64_t valid(std::int64_t capacity) {
    if (capacity < 1 || capacity > kMostTokens)
        refuse("capacity is ", capacity, ", expected 1 to ", kMostTokens, " tokens");
    return capacity;
}

}  // namespace

Cache::Cache(const Config& c, std::int64_t capacity, const void* owner)
    : capacity_(valid(capacity)), blocks_((capacity + kKeyBlock - 1) / kKeyBlock),
      keys_size_(c.kv_heads * blocks_ * c.head_dim * kKeyBlock),
      values_size_(c.kv_heads * blocks_ * kKeyBlock * round_up(c.head_dim, 16)), owner_(owner) {
    tokens_.reserve(static_cast<std::size_t>(capacity));  // so that `filled` cannot fail
    positions_.reserve(static_cast<std::size_t>(capacity));
    chain_.reserve(static_cast<std::size_t>((c.prefix + kKeyBlock - 1) / kKeyBlock));
    // Not touched: the system gives pages when they are written to, so a short text does not take a long one's memory.
    auto bytes = static_cast<std::size_t>(c.layers * (keys_size_ + values_size_)) * sizeof(float);
    data_.reset(static_cast<float*>(std::aligned_alloc(kAlign, bytes)));
    if (data_ == nullptr) throw std::bad_alloc();
}

void Cache::Free::operator()(float* data) const { std::free(data); }

void Cache::refuse_unless_fits(const Request& request, const void* asking) const {
    if (asking != owner_) refuse("cache is another model's, expected one that this model made");
    if (request.count > capacity_)
        refuse("tokens has ", request.count, " entries, expected at most the cache's capacity, ", capacity_);
}

std::int64_t Cache::cut(const Request& request) {
    // What is scored has to run.
    std::int64_t most = std::min(request.span, *std::min_element(request.slots.begin(), request.slots.end()));
    most = std::min(most, request.chain == chain_ ? static_cast<std::int64_t>(tokens_.size()) : 0);
    std::int64_t kept = 0;
    while (kept < most) {
        auto i = static_cast<std::size_t>(kept);
        if (tokens_[i] != request.tokens[i] || positions_[i] != request.positions[i]) break;
        ++kept;
    }
    tokens_.resize(static_cast<std::size_t>(kept));
    positions_.resize(static_cast<std::size_t>(kept));
    kept_ = kept;
    return kept;
}

void Cache::filled(const Request& request) {
    tokens_.assign(request.tokens.begin(), request.tokens.begin() + request.span);
    positions_.assign(request.positions.begin(), request.positions.begin() + request.span);
    chain_ = request.chain;
}

LayerKeys Cache::layer(std::int64_t i) const {
    float* start = data_.get() + i * (keys_size_ + values_size_);
    return {start, start + keys_size_, blocks_, blocks_ * kKeyBlock};
}

}  // namespace guardpass
