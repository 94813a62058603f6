#include "pool.h"

#include <chrono>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace guardpass {
namespace {

void relax() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Waits until `value` is no longer `old`. Between the loops of a pass that takes microseconds, so spinning is the rule;
// a preempted thread, or the time between passes, is not worth a core.
template <class T>
void wait_for_change(const std::atomic<T>& value, T old) {
    constexpr auto kSpin = std::chrono::microseconds(100);
    auto until = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int turn = 0; turn < 64; ++turn) {
            if (value.load(std::memory_order_acquire) != old) return;
            relax();
        }
    } while (std::chrono::steady_clock::now() < until);
    while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

Pool::Pool(int threads) : threads_(threads) {
    try {
        for (int worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { wait_and_work(worker); });
    } catch (...) {  // no more threads to be had: stop those there are
        stopping_.store(true, std::memory_order_relaxed);
        round_.fetch_add(1, std::memory_order_release);
        round_.notify_all();
        for (std::thread& each : workers_) each.join();
        throw;
    }
}

Pool::~Pool() {
    stopping_.store(true, std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    for (std::thread& each : workers_) each.join();
}

void Pool::run_loop(std::int64_t count, Loop loop, void* context) {
    loop_ = loop;
    context_ = context;
    count_ = count;
    claimed_.store(threads_, std::memory_order_relaxed);  // worker w begins with task w
    if (threads_ == 1 || count <= 1) {
        claimed_.store(1, std::memory_order_relaxed);
        if (count > 0) work(0);
        return;
    }
    busy_.store(threads_ - 1, std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    work(0);
    for (std::int32_t busy; (busy = busy_.load(std::memory_order_acquire)) != 0;) wait_for_change(busy_, busy);
}

void Pool::work(int worker) {
    std::int64_t task = worker;
    while (task < count_) {
        // Near the end a task is claimed only when it is begun, so that no worker sits on one while others idle.
        std::int64_t next = -1;
        if (claimed_.load(std::memory_order_relaxed) < count_ - 2 * threads_) {
            next = claimed_.fetch_add(1, std::memory_order_relaxed);
        }
        std::int64_t likely = next >= 0 ? next : task + threads_;
        loop_(context_, task, likely < count_ ? likely : -1, worker);
        task = next >= 0 ? next : claimed_.fetch_add(1, std::memory_order_relaxed);
    }
}

void Pool::wait_and_work(int worker) {
    std::uint32_t seen = 0;
    while (true) {
        wait_for_change(round_, seen);
        ++seen;  // a new round begins only after this one has ended for every worker
        if (stopping_.load(std::memory_order_relaxed)) return;
        work(worker);
        if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
    }
}

}  // namespace guardpass
