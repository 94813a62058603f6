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
        for (int worker = 1; worker < threads; ++worker)
            workers_.emplace_back([this, worker] { wait_and_work(worker); });
    } catch (...) {  // no more threads to be had
        stop();
        throw;
    }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
    stopping_.store(true, std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    for (std::thread& each : workers_) each.join();
}

void Pool::run_loop(std::int64_t count, Loop loop, void* context) {
    if (threads_ == 1 || count <= 1) {
        for (std::int64_t task = 0; task < count; ++task) loop(context, task, task + 1 < count ? task + 1 : -1, 0);
        return;
    }
    loop_ = loop;
    context_ = context;
    count_ = count;
    std::uint32_t round = ++rounds_;
    unfinished_.store(static_cast<std::int32_t>(count), std::memory_order_relaxed);
    open_.store(static_cast<std::uint64_t>(round) << 32 | static_cast<std::uint64_t>(count), std::memory_order_release);
    round_.store(round);  // before it is looked who sleeps, so not released only
    round_.notify_all();
    work(round, 0);
    for (std::int32_t left; (left = unfinished_.load(std::memory_order_acquire)) != 0;)
        wait_for_change(unfinished_, left);
}

// Takes a task of this round where more than `leave` are open: how many were, or 0.
std::int64_t Pool::claim(std::uint32_t round, std::int64_t leave) {
    std::uint64_t open = open_.load(std::memory_order_acquire);
    while (true) {
        std::int64_t left = static_cast<std::int64_t>(open & 0xffffffffu);
        if (open >> 32 != round || left <= leave) return 0;
        if (open_.compare_exchange_weak(open, open - 1, std::memory_order_acq_rel, std::memory_order_acquire))
            return left;
    }
}

void Pool::work(std::uint32_t round, int worker) {
    std::int64_t left = claim(round, 0);
    while (left > 0) {
        std::int64_t task = count_ - left;
        // Near the end a task is claimed only when it is begun, so that no worker sits on one while others idle.
        std::int64_t ahead = claim(round, 2 * threads_);
        std::int64_t next = ahead > 0 ? count_ - ahead : task + threads_;
        loop_(context_, task, next < count_ ? next : -1, worker);
        // The last of them: from here on the loop may be over, and its fields another's.
        if (ahead == 0) ahead = claim(round, 0);
        if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1 && worker != 0) unfinished_.notify_one();
        left = ahead;
    }
}

void Pool::wait_and_work(int worker) {
    std::uint32_t seen = 0;
    while (true) {
        wait_for_change(round_, seen);
        // In this order: who has seen the last round has seen why it is the last, and does not wait for another.
        seen = round_.load(std::memory_order_acquire);
        if (stopping_.load(std::memory_order_relaxed)) return;
        work(seen, worker);
    }
}

}  // namespace guardpass
