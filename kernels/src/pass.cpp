#include "pass.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "embedding.h"

namespace guardpass {
namespace {

// Rows are apart by an odd number of cache lines: powers of two would put all of them in the same sets of the cache.
std::int64_t float_stride(std::int64_t width) { return round_up(width, 32) + 16; }
std::int64_t byte_stride(std::int64_t width) { return round_up(width, 128) + 64; }

}  // namespace

Pass::Pass(const Config& config, const Weights& weights, const Kernels& kernels, const Request& request, Workshop& shop,
           Profile* profile, Cache* cache, const Stop* stop)
    : c_(config), weights_(weights), kernels_(kernels), request_(request), pool_(shop.pool), arena_(shop.arena),
      scratch_(shop.scratch.get()), profile_(profile), cache_(cache), stop_(stop),
      first_(cache ? cache->cut(request) : 0), rows_(request.count - first_), q_width_(config.heads * config.head_dim),
      kv_width_(config.kv_heads * config.head_dim), value_stride_(round_up(config.head_dim, 16)) {}

void Pass::run(float* scores) {
    allocate();
    embed();
    rope_angles();
    for (std::int64_t i = 0; i < c_.layers; ++i) {
        const LayerWeights& layer = weights_.layers[static_cast<std::size_t>(i)];
        bool last = i == c_.layers - 1;
        if (cache_) keys_ = cache_->layer(i);
        attention(layer, c_.windows[static_cast<std::size_t>(i)], last);
        mlp(layer, last ? nullptr : &weights_.layers[static_cast<std::size_t>(i + 1)].q);
    }
    head(scores);
}

void Pass::attention(const LayerWeights& layer, std::int64_t window, bool last) {
    quantize(x_, c_.hidden, c_.post_norms ? weights_.residual : Rotation{}, true, levels_, Stage::norm_quantize);
    project(layer, last);
    arrange(layer);
    attend(layer, window);
    quantize(mixed_, q_width_, {}, false, levels_, Stage::mixed_quantize);
    if (c_.post_norms) {
        multiply({{layer.o, levels_, rows_, other_}}, &layer.gate_up, Stage::o_proj);
        add_normed(layer.attention_norm);
    } else {
        multiply({{layer.o, levels_, rows_, x_, Epilogue::add}}, &layer.gate_up, Stage::o_proj);
    }
}

void Pass::mlp(const LayerWeights& layer, const Linear* following) {
    quantize(x_, c_.hidden, c_.post_norms ? weights_.residual : Rotation{}, true, levels_, Stage::norm_quantize);
    Epilogue activation = c_.gelu_tanh ? Epilogue::gelu_tanh : Epilogue::silu;
    multiply({{layer.gate_up, levels_, rows_, gated_, activation}}, &layer.down, Stage::gate_up);
    quantize(gated_, c_.ffn, weights_.ffn, false, levels_, Stage::ffn_quantize);
    if (c_.post_norms) {
        multiply({{layer.down, levels_, rows_, other_}}, following, Stage::down);
        add_normed(layer.ffn_norm);
    } else {
        multiply({{layer.down, levels_, rows_, x_, Epilogue::add}}, following, Stage::down);
    }
}

// Queries, keys and values. In the last layer only the slots ask, and from here on they are the only rows.
void Pass::project(const LayerWeights& layer, bool last) {
    std::int64_t count = rows_;
    Levels asking = levels_;
    if (last) {
        keep_slots();
        asking = slot_levels_;
    }
    multiply({{layer.q, asking, rows_, q_}, {layer.k, levels_, count, k_}, {layer.v, levels_, count, v_}}, &layer.o,
             Stage::qkv);
}

void Pass::keep_slots() {
    for (std::size_t s = 0; s < request_.slots.size(); ++s) {
        std::int64_t from = request_.slots[s] - first_, row = static_cast<std::int64_t>(s);
        std::memcpy(slot_levels_.data + row * slot_levels_.stride, levels_.data + from * levels_.stride,
                    static_cast<std::size_t>(round_up(c_.hidden, 64)));
        slot_levels_.scale[row] = levels_.scale[from];
        std::copy_n(x_.row(from), c_.hidden, other_.row(row));
        asking_[row] = request_.slots[s];
    }
    std::swap(x_, other_);
    rows_ = static_cast<std::int64_t>(request_.slots.size());
}

void Pass::allocate() {
    std::int64_t slots = static_cast<std::int64_t>(request_.slots.size());
    std::int64_t count = std::max(rows_, slots);  // a slot asked for twice is two rows
    std::int64_t widest = std::max({c_.hidden, q_width_, c_.ffn});
    Matrix* matrices[] = {&x_, &other_, &q_, &k_, &v_, &mixed_, &gated_};
    std::int64_t widths[] = {c_.hidden, c_.hidden, q_width_, kv_width_, kv_width_, q_width_, c_.ffn};
    std::int64_t angles = count * (c_.head_dim / 2), level_bytes = count * byte_stride(widest);
    std::int64_t blocks = cache_ ? 0 : request_.blocks - request_.baked_blocks;
    std::int64_t keys = c_.kv_heads * blocks * c_.head_dim * kKeyBlock;
    std::int64_t values = cache_ ? 0 : c_.kv_heads * count * value_stride_;
    std::int64_t slot_bytes = slots * byte_stride(c_.hidden);

    std::int64_t bytes = Arena::size_of<std::int64_t>(count) + Arena::size_of<std::uint8_t>(level_bytes) +
                         Arena::size_of<std::uint8_t>(slot_bytes) + 2 * Arena::size_of<float>(count) +
                         2 * Arena::size_of<float>(angles) + Arena::size_of<float>(keys) +
                         Arena::size_of<float>(values);
    for (std::int64_t width : widths) bytes += Arena::size_of<float>(count * float_stride(width));
    arena_.reset(bytes);

    asking_ = arena_.cut<std::int64_t>(count);
    for (std::int64_t i = 0; i < rows_; ++i) asking_[i] = first_ + i;
    for (std::size_t i = 0; i < std::size(matrices); ++i)
        *matrices[i] = {arena_.cut<float>(count * float_stride(widths[i])), float_stride(widths[i])};
    levels_ = {arena_.cut<std::uint8_t>(level_bytes), byte_stride(widest), arena_.cut<float>(count)};
    slot_levels_ = {arena_.cut<std::uint8_t>(slot_bytes), byte_stride(c_.hidden), arena_.cut<float>(count)};
    cosine_ = arena_.cut<float>(angles);
    sine_ = arena_.cut<float>(angles);
    if (!cache_) keys_ = {arena_.cut<float>(keys), arena_.cut<float>(values), blocks, count};

    // A worker's scratch: a panel's sums and its unpacked weights, a row, or a task of attention.
    std::int64_t tokens = tokens_per_task(c_.heads / c_.kv_heads, request_.blocks);
    std::int64_t rows = tokens * (c_.heads / c_.kv_heads);
    std::int64_t attention = Arena::size_of<float>(rows * c_.head_dim) + Arena::size_of<float>(rows * value_stride_) +
                             Arena::size_of<float>(rows * (request_.blocks * kKeyBlock + 16)) +
                             Arena::size_of<KeyBlock>(request_.blocks) +
                             Arena::size_of<std::uint64_t>((request_.blocks + 1) * tokens);
    std::int64_t panel = Arena::size_of<std::int32_t>(count * kPanel) + (c_.int4 ? round_up(widest, 32) * kPanel : 0);
    std::int64_t needed = std::max({attention, panel, Arena::size_of<float>(widest + 64)});
    for (int worker = 0; worker < pool_.threads(); ++worker) scratch_[worker].reset(needed);
}

void Pass::embed() {
    Timed timed = begin(Stage::embed);
    pool_.run(rows_, [&](std::int64_t row, std::int64_t, int) {
        std::int64_t token = request_.tokens[static_cast<std::size_t>(first_ + row)];
        read_embedding(weights_.embedding, weights_.embedding_dtype, token, c_.hidden, c_.embed_scale, x_.row(row));
        if (!c_.post_norms) kernels_.rotate(x_.row(row), c_.hidden, weights_.residual);
    });
}

void Pass::rope_angles() {
    Timed timed = begin(Stage::embed);
    std::int64_t half = c_.head_dim / 2;
    pool_.run(rows_, [&](std::int64_t row, std::int64_t, int) {
        float position = static_cast<float>(request_.positions[static_cast<std::size_t>(first_ + row)]);
        for (std::int64_t i = 0; i < half; ++i) {
            float angle = position * weights_.inv_freq[i];
            cosine_[row * half + i] = std::cos(angle);
            sine_[row * half + i] = std::sin(angle);
        }
    });
}

void Pass::quantize(const Matrix& x, std::int64_t width, const Rotation& rotation, bool normed, Levels& out,
                    Stage stage) {
    Timed timed = begin(stage);
    constexpr std::int64_t kRows = 4;  // of a task
    pool_.run((rows_ + kRows - 1) / kRows, [&](std::int64_t task, std::int64_t, int worker) {
        Arena& scratch = scratch_[worker];
        scratch.reset(0);
        RowTask row{nullptr, width, rotation, normed, c_.eps, nullptr, nullptr, scratch.cut<float>(width + 64)};
        for (std::int64_t i = task * kRows; i < std::min(rows_, (task + 1) * kRows); ++i) {
            row.x = x.row(i), row.levels = out.data + i * out.stride, row.scale = out.scale + i;
            kernels_.quantize(row);
        }
    });
}

void Pass::multiply(std::initializer_list<Product> products, const Linear* following, Stage stage) {
    Timed timed = begin(stage);
    guardpass::multiply(kernels_, pool_, scratch_, products, following);
}

Timed Pass::begin(Stage stage) const {
    if (stop_) stop_->check();
    return Timed(profile_, stage);
}

void Pass::add_normed(const float* gain) {
    Timed timed = begin(Stage::post_norm);
    pool_.run(rows_, [&](std::int64_t row, std::int64_t, int) {
        kernels_.add_normed(x_.row(row), other_.row(row), gain, c_.hidden, c_.eps);
    });
}

void Pass::head(float* scores) {
    Timed timed = begin(Stage::head);
    pool_.run(rows_, [&](std::int64_t row, std::int64_t, int) {
        kernels_.verdict({x_.row(row), c_.hidden, c_.eps, weights_.verdict_head, c_.columns, c_.final_softcap,
                          scores + row * c_.columns});
    });
}

}  // namespace guardpass
