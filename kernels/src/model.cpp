#include "model.h"

#include "error.h"
#include "pass.h"

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace guardpass {
namespace {

long this_process() {
#if defined(__unix__) || defined(__APPLE__)
    return static_cast<long>(getpid());
#else
    return 0;
#endif
}

const Config& valid(const Config& config) {
    check(config);
    return config;
}

int valid_threads(int threads) {
    if (threads < 1 || threads > 1024) refuse("threads is ", threads, ", expected 1 to 1024");
    return threads;
}

}  // namespace

Workshop::Workshop(int threads)
    : pool(threads), scratch(std::make_unique<Arena[]>(static_cast<std::size_t>(threads))), process(this_process()) {}

Model::Model(const Config& config, const Tensors& tensors, int threads, bool profiled)
    : config_(valid(config)), weights_(config_, tensors), kernels_(guardpass::kernels()),
      threads_(valid_threads(threads)), profiled_(profiled), workshop_(new Workshop(threads_)) {}

Model::~Model() {
    Workshop* mine = workshop_.load();
    if (mine->process == this_process()) delete mine;
}

// After a fork the child has none of its parent's threads, and maybe a locked lock: it gets a workshop of its own, and
// the parent's is left as it is.
Workshop& Model::workshop() {
    Workshop* mine = workshop_.load(std::memory_order_acquire);
    if (mine->process == this_process()) return *mine;
    auto fresh = std::make_unique<Workshop>(threads_);
    if (workshop_.compare_exchange_strong(mine, fresh.get(), std::memory_order_acq_rel)) return *fresh.release();
    return *mine;
}

Request Model::request(const Tensor& tokens, const Tensor& positions, const Tensor& slots, const Tensor& chain,
                       const Tensor& sees) const {
    return Request(config_, weights_.prefix_positions, tokens, positions, slots, chain, sees);
}

std::unique_ptr<Cache> Model::cache(std::int64_t capacity) const {
    return std::make_unique<Cache>(config_, capacity, this);
}

void Model::run(const Request& request, float* scores, Cache* cache, const Stop* stop) {
    if (cache) cache->refuse_unless_fits(request, this);
    Workshop& shop = workshop();
    std::lock_guard lock(shop.mutex);
    Pass(config_, weights_, kernels_, request, shop, profiled_ ? &shop.profile : nullptr, cache, stop).run(scores);
    if (cache) cache->filled(request);
}

Profile Model::take_profile() {
    Workshop& shop = workshop();
    std::lock_guard lock(shop.mutex);
    return std::exchange(shop.profile, Profile{});
}

}  // namespace guardpass
