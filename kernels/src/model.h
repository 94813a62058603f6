// A guard's decoder: config and weights, and what its passes run on.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include "config.h"
#include "memory.h"
#include "pool.h"
#include "profile.h"
#include "request.h"
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

    // Writes [slots, columns]. Safe to call from several threads: the passes run one after the other.
    void run(const Request& request, float* scores);

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
