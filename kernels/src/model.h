// A guard's decoder: config and weights, and what its passes run on.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include "cache.h"
#include "config.h"
#include "memory.h"
#include "pool.h"
#include "profile.h"
#include "request.h"
#include "stop.h"
#include "weights.h"

namespace guardpass {

// What a pass needs beside the weights. One pass at a time has it: on the few cores of a CPU two passes side by side
// take longer, each and together, than one after the other.
struct Workshop {
    explicit Workshop(int threads);

    std::mutex mutex;
    Pool pool;
    Arena arena;                     // of the pass
    std::unique_ptr<Arena[]> scratch;  // of each worker
    Profile profile;
    long process;  // whose threads these are
};

class Model {
  public:
    // The tensors' memory has to outlive the model.
    Model(const Config& config, const Tensors& tensors, int threads, bool profiled);
    ~Model();

    // What a pass is asked, checked and copied.
    Request request(const Tensor& tokens, const Tensor& positions, const Tensor& slots, const Tensor& chain,
                    const Tensor& sees) const;

    // Writes [slots, columns]. Safe to call from several threads: the passes run one after the other. With a cache of
    // this model what it has of the request is not run again. Throws Stopped where `stop` was set.
    void run(const Request& request, float* scores, Cache* cache = nullptr, const Stop* stop = nullptr);

    // For passes of up to `capacity` tokens of a text that grows. The model has to outlive it.
    std::unique_ptr<Cache> cache(std::int64_t capacity) const;

    const Config& config() const { return config_; }
    // What was measured since the last call.
    Profile take_profile();

  private:
    Workshop& workshop();

    const Config config_;
    const Weights weights_;
    const Kernels& kernels_;
    const int threads_;
    const bool profiled_;
    std::atomic<Workshop*> workshop_;
};

}  // namespace guardpass
