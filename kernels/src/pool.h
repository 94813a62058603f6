// Threads that wait for work: they spin briefly, then sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace guardpass {

// Runs one parallel loop at a time, with the calling thread as worker 0. Tasks are claimed one by one, by whoever is
// awake: the caller would do all of them by itself, and waits only for those that others have begun, so a worker that
// the system lets wait costs nothing. Which worker runs a task is not determined, and a task's result must not depend
// on it. Not for use by several threads at once: the model's lock sees to that.
class Pool {
  public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_; }

    // body(task, next, worker) for every task below `count`, which is below 2^31. `next` is a hint for prefetching: the
    // task this worker probably takes next, or -1. The body must not throw.
    template <class Body>
    void run(std::int64_t count, Body&& body) {
        using Plain = std::remove_reference_t<Body>;
        Loop call = [](void* context, std::int64_t task, std::int64_t next, int worker) {
            (*static_cast<Plain*>(context))(task, next, worker);
        };
        run_loop(count, call, const_cast<void*>(static_cast<const void*>(&body)));
    }

  private:
    using Loop = void (*)(void*, std::int64_t, std::int64_t, int);

    void run_loop(std::int64_t count, Loop loop, void* context);
    std::int64_t claim(std::uint32_t round, std::int64_t leave);
    void work(std::uint32_t round, int worker);
    void wait_and_work(int worker);
    void stop();

    const int threads_;
    // The loop at hand. Written between loops; read only by who holds a task of it, before that task is done.
    Loop loop_ = nullptr;
    void* context_ = nullptr;
    std::int64_t count_ = 0;
    std::uint32_t rounds_ = 0;  // the caller's own count of loops
    // Round in the upper half, tasks that nobody has claimed in the lower: a claim for a loop that is over fails.
    alignas(64) std::atomic<std::uint64_t> open_{0};
    alignas(64) std::atomic<std::int32_t> unfinished_{0};
    alignas(64) std::atomic<std::uint32_t> round_{0};  // what workers sleep on
    std::atomic<bool> stopping_{false};
    std::vector<std::thread> workers_;
};

}  // namespace guardpass
