// What sanitizers look at, without Python: the pool, whole passes of random models at every level, on several threads
// and from several callers, passes that keep keys and values, and passes that are stopped. Numbers are held against
// numpy elsewhere (tests/kernels/test_kernels*.py); here passes only have to agree bit by bit, and to touch nothing that
// is not theirs.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>

#include "kernels.h"
#include "random_model.h"

using namespace guardpass;

namespace {

using Scores = std::vector<float>;

void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "FAILED: %s\n", what);
    std::exit(1);
}

void require_same(const Scores& found, const Scores& expected) {
    require(found.size() == expected.size(), "as many scores");
    require(std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)) == 0, "the same bits");
}

void test_pool(int threads) {
    Pool pool(threads);
    std::mt19937 random(2);
    for (int round = 0; round < 3000; ++round) {
        auto count = static_cast<std::size_t>(random() % 40);
        std::vector<int> done(count, 0);
        pool.run(static_cast<std::int64_t>(count), [&](std::int64_t task, std::int64_t next, int worker) {
            ++done[static_cast<std::size_t>(task)];  // no atomic: a task is one worker's
            if (worker < 0 || worker >= threads || next >= static_cast<std::int64_t>(count)) std::abort();
        });
        for (int each : done) require(each == 1, "a task ran once");
        if (round % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // so that workers fall asleep
    }
}

void test_passes(const Config& c, const Data& data) {
    std::vector<Asked> asked;
    for (auto [span, tree] : {std::pair{2, 0}, {5, 7}, {70, 0}, {0, 9}, {61, 20}}) asked.emplace_back(c, span, tree);
    std::vector<Scores> expected;
    Model alone(c, data.tensors, 1, false);
    for (const Asked& each : asked) expected.push_back(each.run(alone));
    for (int threads : {2, 4}) {
        Model model(c, data.tensors, threads, threads == 4);
        std::vector<std::thread> callers;
        for (int caller = 0; caller < 3; ++caller)
            callers.emplace_back([&] {
                for (std::size_t i = 0; i < asked.size(); ++i) require_same(asked[i].run(model), expected[i]);
            });
        for (std::thread& each : callers) each.join();
    }
}

// A span that grows within a block and beyond it, changes and shrinks; two callers with caches of their own, and two
// that share one.
void test_sessions(const Config& c, const Data& data) {
    std::vector<Asked> steps;
    std::vector<Scores> expected;
    Model alone(c, data.tensors, 1, false), model(c, data.tensors, 2, false);
    auto step = [&](std::int64_t span, std::int64_t tree, std::int64_t changed = 1 << 20) {
        steps.emplace_back(c, span, tree, tree ? span : span - 1, changed);
        expected.push_back(steps.back().run(alone));
    };
    step(3, 5), step(3, 5), step(9, 0), step(60, 9), step(70, 2), step(70, 2, 66), step(140, 3, 66), step(20, 4);
    std::unique_ptr<Cache> shared = model.cache(143);
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller)
        callers.emplace_back([&, caller] {
            std::unique_ptr<Cache> own = model.cache(143);
            for (std::size_t i = 0; i < steps.size(); ++i) {
                require_same(steps[i].run(model, caller < 2 ? own.get() : shared.get()), expected[i]);
                if (caller < 2 && i == 1) require(own->kept() == 3, "what did not change is kept");
            }
        });
    for (std::thread& each : callers) each.join();
    try {
        Asked(c, 140, 4).run(model, shared.get());
        require(false, "a pass beyond the capacity is refused");
    } catch (const std::invalid_argument&) {
    }
}

// Stops that come at any moment; passes beside and behind are right.
void test_stops(const Config& c, const Data& data) {
    Model model(c, data.tensors, 2, false);
    Asked asked(c, 61, 20, 61);
    Scores expected = asked.run(model);
    std::unique_ptr<Cache> cache = model.cache(81);
    std::thread beside([&] {
        for (int i = 0; i < 5; ++i) require_same(asked.run(model), expected);
    });
    for (int delay : {0, 20, 50, 100, 300, 1000}) {
        Stop stop;
        std::thread other([&] {
            std::this_thread::sleep_for(std::chrono::microseconds(delay));
            stop.set();
        });
        try {
            while (true) require_same(asked.run(model, cache.get(), &stop), expected);
        } catch (const Stopped&) {
        }
        other.join();
        require_same(asked.run(model, cache.get()), expected);
    }
    beside.join();
}

#if defined(GUARDPASS_AMX)
// A thread's tiles are as they were before a pass: others in the process may rely on theirs.
void test_tiles(const Config& c, const Data& data) {
    struct alignas(64) Tiles {
        std::uint8_t palette = 1, start = 0, reserved[14] = {};
        std::uint16_t bytes[16] = {64, 32, 16, 8, 64, 32, 16, 8};
        std::uint8_t rows[16] = {1, 2, 3, 4, 5, 6, 7, 8};
    } before, after, none;
    asm volatile("ldtilecfg %0" : : "m"(before));
    Model model(c, data.tensors, 1, false);
    Asked(c, 61, 20, 61).run(model);
    asm volatile("sttilecfg %0" : "=m"(after));
    require(std::memcmp(&before, &after, sizeof before) == 0, "tiles are given back");
    none.palette = 0;
    asm volatile("ldtilecfg %0" : : "m"(none));
}
#endif

}  // namespace

int main() {
    for (int threads : {1, 2, 3, 8}) test_pool(threads);
    int count = 0;
    const Kernels* const* table = available(&count);
    for (int i = 0; i < count; ++i) {
        setenv("GUARDPASS_KERNELS_LEVEL", table[i]->level, 1);
        for (int variant = 0; variant < 8; ++variant) {
            Config c = config_of(variant);
            Data data;
            fill(data, c);
            test_passes(c, data);
            test_sessions(c, data);
            test_stops(c, data);
#if defined(GUARDPASS_AMX)
            if (std::strcmp(table[i]->level, "amx_int8") == 0) test_tiles(c, data);
#endif
        }
        std::printf("%s: passes agree\n", table[i]->level);
    }
}
