// One run of the decoder, from tokens to scores.
#pragma once

#include <initializer_list>

#include "attention_plan.h"
#include "cache.h"
#include "model.h"
#include "multiply.h"
#include "stop.h"

namespace guardpass {

class Pass {
  public:
    Pass(const Config& config, const Weights& weights, const Kernels& kernels, const Request& request, Workshop& shop,
         Profile* profile, Cache* cache, const Stop* stop);

    void run(float* scores);

  private:
    void allocate();
    void embed();
    void rope_angles();
    void attention(const LayerWeights& layer, std::int64_t window, bool last);
    void mlp(const LayerWeights& layer, const Linear* following);
    void head(float* scores);

    void project(const LayerWeights& layer, bool last);
    void arrange(const LayerWeights& layer);
    void attend(const LayerWeights& layer, std::int64_t window);
    void keep_slots();
    void quantize(const Matrix& x, std::int64_t width, const Rotation& rotation, bool normed, Levels& out, Stage stage);
    void multiply(std::initializer_list<Product> products, const Linear* following, Stage stage);
    void add_normed(const float* gain);
    // Begins a parallel loop. Throws Stopped.
    Timed begin(Stage stage) const;

    const Config& c_;
    const Weights& weights_;
    const Kernels& kernels_;
    const Request& request_;
    Pool& pool_;
    Arena& arena_;
    Arena* scratch_;
    Profile* profile_;
    Cache* cache_;  // where keys and values stay, or none
    const Stop* stop_;

    std::int64_t first_;  // the first token that is run; those before are in the cache
    std::int64_t rows_;   // of x: the tokens that are run, in the end the slots
    std::int64_t q_width_, kv_width_, value_stride_;
    std::int64_t* asking_ = nullptr;  // the token of each row of x
    Matrix x_, other_, q_, k_, v_, mixed_, gated_;
    Levels levels_, slot_levels_;
    float *cosine_ = nullptr, *sine_ = nullptr;  // of the tokens that are run, [head_dim / 2] each
    LayerKeys keys_;                             // of the layer at hand
};

}  // namespace guardpass
