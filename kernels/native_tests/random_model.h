// Random models and passes. Every tensor is an allocation of its own.
#pragma once

#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "model.h"

namespace guardpass {

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
            auto group = [&](std::int64_t) { return 1 + random() % 16; };
            add<std::uint8_t>(name + ".group", Dtype::u8, {panels, groups, 64}, group);
        } else {
            add<std::int8_t>(name + ".weight", Dtype::i8, {panels, (k + 3) / 4, 64, 4}, byte);
        }
        add<float>(name + ".scale", Dtype::f32, {panels * 64}, [](std::int64_t) { return 1e-4f; });
        add<std::int32_t>(name + ".sum", Dtype::i32, {panels * 64}, [](std::int64_t i) { return i % 7; });
    }
};

inline void fill(Data& data, const Config& c) {
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
            for (const char* part : {"k_prefix", "v_prefix"})
                data.reals(attention + part, {c.kv_heads, c.prefix, c.head_dim}, 1);
        if (c.head_norms)
            for (const char* part : {"q_norm.weight", "k_norm.weight"}) data.reals(attention + part, {c.head_dim}, 1);
        if (c.post_norms)
            for (const char* part : {".post_attention_layernorm.weight", ".post_feedforward_layernorm.weight"})
                data.reals(name + part, {c.hidden}, 1);
    }
}

inline Config config_of(int variant) {
    Config c;
    c.layers = 2, c.heads = 4, c.kv_heads = 2, c.vocab = 11, c.columns = 3, c.context = 1000;
    c.eps = 1e-5f, c.scale = 0.3f;
    c.hidden = variant % 2 ? 50 : 128, c.ffn = variant % 2 ? 35 : 192, c.head_dim = variant % 2 ? 6 : 64;
    c.prefix = variant % 3 * 70;
    c.int4 = variant & 2;
    if (variant & 4) c.post_norms = c.gelu_tanh = true, c.softcap = 5, c.final_softcap = 3, c.embed_scale = 2;
    c.head_norms = variant & 1;
    c.windows = {variant & 4 ? 20 : 0, 0};
    c.residual_block = variant % 2 ? 2 : 64, c.ffn_block = variant % 2 ? 1 : 64;
    return c;
}

// A pass of `span` tokens and a tree of `branches` that hang on one another. Tokens from `changed` on are others.
struct Asked {
    std::vector<std::int64_t> tokens, positions, slots;
    std::vector<std::int32_t> chain;
    std::vector<std::uint8_t> sees;
    std::int64_t tree;

    Asked(const Config& c, std::int64_t span, std::int64_t branches, std::int64_t first_slot = 0,
          std::int64_t changed = 1 << 20)
        : slots{first_slot, span + branches - 1}, tree(branches) {
        for (std::int64_t i = 0; i < c.prefix; i += 2) chain.push_back(static_cast<std::int32_t>(i));
        for (std::int64_t i = 0; i < span + tree; ++i) {
            tokens.push_back((i * 7 + (i >= changed)) % c.vocab);
            positions.push_back(i);
        }
        for (std::int64_t i = 0; i < tree * tree; ++i) {
            std::int64_t row = i / tree, column = i % tree;
            sees.push_back(row >= column && (i % 3 == 0 || row == column));
        }
    }

    Request request(const Model& model) const {
        auto line = [](const auto& values, Dtype dtype) {
            return Tensor{values.data(), dtype, {static_cast<std::int64_t>(values.size())}, true};
        };
        return model.request(line(tokens, Dtype::i64), line(positions, Dtype::i64), line(slots, Dtype::i64),
                             line(chain, Dtype::i32), {sees.data(), Dtype::boolean, {tree, tree}, true});
    }

    std::vector<float> run(Model& model, Cache* cache = nullptr, const Stop* stop = nullptr) const {
        std::vector<float> scores(slots.size() * static_cast<std::size_t>(model.config().columns));
        model.run(request(model), scores.data(), cache, stop);
        return scores;
    }
};

}  // namespace guardpass
