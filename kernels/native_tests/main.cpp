// What sanitizers look at, without Python: the pool, and whole passes of random models at every level, on several
// threads and from several callers. Numbers are held against numpy elsewhere (tests/test_kernels*.py); here passes only
// have to agree bit by bit, and to touch nothing that is not theirs: every tensor is an allocation of its own.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "model.h"

using namespace guardpass;

namespace {

void require(bool holds, const std::string& what) {
    if (holds) return;
    std::fprintf(stderr, "FAILED: %s\n", what.c_str());
    std::exit(1);
}

struct Data {
    std::mt19937 random{1};
    std::vector<std::unique_ptr<void, void (*)(void*)>> owned;
    Tensors tensors;

    // As large as its contents and not a byte larger, so that a sanitizer sees a read beyond.
    void* room(std::int64_t bytes) {
        void* data = nullptr;
        if (posix_memalign(&data, 64, static_cast<std::size_t>(bytes)) != 0) std::abort();
        owned.emplace_back(data, std::free);
        return data;
    }

    template <class T, class Value>
    void add(const std::string& name, Dtype dtype, std::vector<std::int64_t> shape, Value value) {
        std::int64_t count = 1;
        for (std::int64_t each : shape) count *= each;
        T* data = static_cast<T*>(room(count * static_cast<std::int64_t>(sizeof(T))));
        for (std::int64_t i = 0; i < count; ++i) data[i] = static_cast<T>(value(i));
        tensors[name] = {data, dtype, shape, true};
    }

    void reals(const std::string& name, std::vector<std::int64_t> shape, float size) {
        std::normal_distribution<float> normal(0, size);
        add<float>(name, Dtype::f32, shape, [&](std::int64_t) { return normal(random); });
    }

    void linear(const Config& c, const std::string& name, std::int64_t panels, std::int64_t k) {
        auto byte = [&](std::int64_t) { return random() & 255; };
        if (c.int4) {
            std::int64_t groups = (k + 31) / 32;
            add<std::uint8_t>(name + ".weight", Dtype::u8, {panels, groups, 4, 64, 4}, byte);
            add<std::uint8_t>(name + ".group", Dtype::u8, {panels, groups, 64}, [&](std::int64_t) { return 1 + random() % 16; });
        } else {
            add<std::int8_t>(name + ".weight", Dtype::i8, {panels, (k + 3) / 4, 64, 4}, byte);
        }
        add<float>(name + ".scale", Dtype::f32, {panels * 64}, [](std::int64_t) { return 1e-4f; });
        add<std::int32_t>(name + ".sum", Dtype::i32, {panels * 64}, [](std::int64_t i) { return i % 7; });
    }
};

void fill(Data& data, const Config& c) {
    std::int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
    data.reals("embedding", {c.vocab, c.hidden}, 1);
    data.reals("inv_freq", {c.head_dim / 2}, 1);
    data.reals("verdict_head", {c.columns, c.hidden}, 1);
    data.reals("signs.residual", {c.residual_block}, 1);
    data.reals("signs.ffn", {c.ffn_block}, 1);
    if (c.prefix) data.add<std::int32_t>("prefix.positions", Dtype::i32, {c.prefix}, [](std::int64_t i) { return i; });
    for (std::int64_t i = 0; i < c.layers; ++i) {
        std::string name = "model.layers." + std::to_string(i), attention = name + ".self_attn.";
        data.linear(c, attention + "q_proj", (q + 63) / 64, c.hidden);
        data.linear(c, attention + "k_proj", (kv + 63) / 64, c.hidden);
        data.linear(c, attention + "v_proj", (kv + 63) / 64, c.hidden);
        data.linear(c, attention + "o_proj", (c.hidden + 63) / 64, q);
        data.linear(c, name + ".mlp.gate_up", (c.ffn + 31) / 32, c.hidden);
        data.linear(c, name + ".mlp.down_proj", (c.hidden + 63) / 64, c.ffn);
        if (c.prefix)
            for (const char* part : {"k_prefix", "v_prefix"}) data.reals(attention + part, {c.kv_heads, c.prefix, c.head_dim}, 1);
        if (c.head_norms)
            for (const char* part : {"q_norm.weight", "k_norm.weight"}) data.reals(attention + part, {c.head_dim}, 1);
        if (c.post_norms)
            for (const char* part : {".post_attention_layernorm.weight", ".post_feedforward_layernorm.weight"})
                data.reals(name + part, {c.hidden}, 1);
    }
}

Config config_of(int variant) {
    Config c;
    c.layers = 2, c.heads = 4, c.kv_heads = 2, c.vocab = 11, c.columns = 3, c.context = 1000, c.eps = 1e-5f, c.scale = 0.3f;
    c.hidden = variant % 2 ? 50 : 128, c.ffn = variant % 2 ? 35 : 192, c.head_dim = variant % 2 ? 6 : 64;
    c.prefix = variant % 3 * 70;
    c.int4 = variant & 2;
    if (variant & 4) c.post_norms = c.gelu_tanh = true, c.softcap = 5, c.final_softcap = 3, c.embed_scale = 2;
    c.head_norms = variant & 1;
    c.windows = {variant & 4 ? 20 : 0, 0};
    c.residual_block = variant % 2 ? 2 : 64, c.ffn_block = variant % 2 ? 1 : 64;
    return c;
}

// A pass of `span` tokens and a tree of `tree` that hang on one another.
struct Asked {
    std::vector<std::int64_t> tokens, positions, slots{0};
    std::vector<std::int32_t> chain;
    std::vector<std::uint8_t> sees;
    std::int64_t tree;

    Asked(const Config& c, std::int64_t span, std::int64_t branches) : tree(branches) {
        for (std::int64_t i = 0; i < c.prefix; i += 2) chain.push_back(static_cast<std::int32_t>(i));
        for (std::int64_t i = 0; i < span + tree; ++i) tokens.push_back(i * 7 % c.vocab), positions.push_back(i);
        slots.push_back(span + tree - 1);
        for (std::int64_t i = 0; i < tree * tree; ++i) sees.push_back(i / tree >= i % tree && (i % 3 == 0 || i / tree == i % tree));
    }

    Request request(const Model& model) const {
        auto size = [](const auto& v) { return std::vector<std::int64_t>{static_cast<std::int64_t>(v.size())}; };
        return model.request({tokens.data(), Dtype::i64, size(tokens), true}, {positions.data(), Dtype::i64, size(positions), true},
                             {slots.data(), Dtype::i64, size(slots), true}, {chain.data(), Dtype::i32, size(chain), true},
                             {sees.data(), Dtype::boolean, {tree, tree}, true});
    }
};

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

void test_passes(int variant) {
    Config c = config_of(variant);
    Data data;
    fill(data, c);
    std::vector<Asked> asked;
    for (auto [span, tree] : {std::pair{1, 0}, {5, 7}, {70, 0}, {0, 9}, {61, 20}}) asked.emplace_back(c, span, tree);
    std::vector<std::vector<float>> expected;
    auto run = [&](Model& model, const Asked& each) {
        std::vector<float> scores(each.slots.size() * static_cast<std::size_t>(c.columns));
        model.run(each.request(model), scores.data());
        return scores;
    };
    Model alone(c, data.tensors, 1, false);
    for (const Asked& each : asked) expected.push_back(run(alone, each));
    for (int threads : {2, 4}) {
        Model model(c, data.tensors, threads, threads == 4);
        std::vector<std::thread> callers;
        for (int caller = 0; caller < 3; ++caller)
            callers.emplace_back([&] {
                for (std::size_t i = 0; i < asked.size(); ++i) {
                    std::vector<float> scores = run(model, asked[i]);
                    require(std::memcmp(scores.data(), expected[i].data(), scores.size() * 4) == 0, "the same bits");
                }
            });
        for (std::thread& each : callers) each.join();
    }
}

}  // namespace

int main() {
    for (int threads : {1, 2, 3, 8}) test_pool(threads);
    int count = 0;
    const Kernels* const* table = available(&count);
    for (int i = 0; i < count; ++i) {
        setenv("GUARDPASS_KERNELS_LEVEL", table[i]->level, 1);
        for (int variant = 0; variant < 8; ++variant) test_passes(variant);
        std::printf("%s: passes agree\n", table[i]->level);
    }
}
