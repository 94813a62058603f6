// Keys and values of a span that grows, kept from one pass to the next.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "config.h"
#include "request.h"

namespace guardpass {

// Where the keys and values of a layer's passes lie, and for how many tokens of each head there is room.
struct LayerKeys {
    float *keys = nullptr, *values = nullptr;  // [kv_heads, blocks, head_dim, 64], [kv_heads, tokens, value_stride]
    std::int64_t blocks = 0, tokens = 0;
};

// A pass with a cache writes its keys and values here, in the columns where a pass without would have them, and leaves
// out the tokens with which its span begins as the one before did. So it finds just what it would have computed.
class Cache {
  public:
    // Room for passes of up to `capacity` tokens, taken as they come. The owner is whoever's keys and values these are.
    Cache(const Config& config, std::int64_t capacity, const void* owner);

    void refuse_unless_fits(const Request& request, const void* asking) const;

    // How many tokens of a request need not run; from here on only they are kept.
    std::int64_t cut(const Request& request);
    // Now the request's whole span is.
    void filled(const Request& request);

    LayerKeys layer(std::int64_t i) const;
    // What the last `cut` gave.
    std::int64_t kept() const { return kept_; }

  private:
    struct Free {
        void operator()(float* data) const;
    };

    std::int64_t capacity_, blocks_, keys_size_, values_size_;  // of a layer
    const void* owner_;
    std::unique_ptr<float[], Free> data_;
    std::vector<std::int64_t> tokens_, positions_;  // of the span that is here
    std::vector<std::uint64_t> chain_;              // behind which it is
    std::atomic<std::int64_t> kept_{0};
};

}  // namespace guardpass
