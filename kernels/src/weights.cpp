#include "weights.h"

#include <algorithm>
#include <set>

#include "error.h"
#include "memory.h"

namespace guardpass {
namespace {

// Looks tensors up, and remembers which were asked for.
class Reader {
  public:
    Reader(const Config& config, const Tensors& tensors) : config_(config), tensors_(tensors) {}

    const Tensor& get(const std::string& name) {
        auto found = tensors_.find(name);
        if (found == tensors_.end()) refuse("tensor ", name, " is missing");
        read_.insert(name);
        return found->second;
    }

    template <class T>
    const T* as(const std::string& name, Dtype dtype, const std::vector<std::int64_t>& shape) {
        const T* data = checked_as<T>(get(name), name, dtype, shape);
        if (reinterpret_cast<std::uintptr_t>(data) % alignof(T) != 0)
            refuse(name, " is not aligned to ", alignof(T), " bytes");
        return data;
    }

    // `columns` as in Linear; a gate_up layer has n gates and n ups.
    Linear linear(const std::string& name, std::int64_t n, std::int64_t k, std::int64_t columns = kPanel) {
        Linear result;
        result.n = n, result.k = k, result.columns = columns;
        result.panels = (n + columns - 1) / columns;
        result.depth = round_up(k, config_.int4 ? 32 : 4);
        std::int64_t groups = result.depth / 32;
        if (config_.int4) {
            result.nibbles = aligned<std::uint8_t>(name + ".weight", Dtype::u8, {result.panels, groups, 4, kPanel, 4});
            result.group = as<std::uint8_t>(name + ".group", Dtype::u8, {result.panels, groups, kPanel});
        } else {
            std::vector<std::int64_t> shape{result.panels, result.depth / 4, kPanel, 4};
            result.weight = aligned<std::int8_t>(name + ".weight", Dtype::i8, shape);
        }
        result.scale = as<float>(name + ".scale", Dtype::f32, {result.panels * kPanel});
        result.sum = as<std::int32_t>(name + ".sum", Dtype::i32, {result.panels * kPanel});
        return result;
    }

    Rotation rotation(const std::string& name, std::int64_t block) {
        if (block == 1 && !tensors_.contains(name)) return {};
        return {as<float>(name, Dtype::f32, {block}), block};
    }

    bool has(const std::string& name) const { return tensors_.contains(name); }

    void refuse_others() const {
        for (const auto& [name, tensor] : tensors_)
            if (!read_.contains(name)) refuse("tensor ", name, " is none that this config has");
    }

  private:
    template <class T>
    const T* aligned(const std::string& name, Dtype dtype, const std::vector<std::int64_t>& shape) {
        const T* data = as<T>(name, dtype, shape);
        if (reinterpret_cast<std::uintptr_t>(data) % kAlign != 0) refuse(name, " is not aligned to ", kAlign, " bytes");
        return data;
    }

    const Config& config_;
    const Tensors& tensors_;
    std::set<std::string> read_;
};

// Keys as attention reads them: blocks of 64, channel by channel. They are few; the file's own copy is let go of.
std::unique_ptr<float[]> transposed(const float* keys, const Config& c) {
    std::int64_t blocks = (c.prefix + kKeyBlock - 1) / kKeyBlock;
    auto result = std::make_unique<float[]>(static_cast<std::size_t>(c.kv_heads * blocks * c.head_dim * kKeyBlock));
    for (std::int64_t h = 0; h < c.kv_heads; ++h)
        for (std::int64_t p = 0; p < c.prefix; ++p) {
            float* block = result.get() + (h * blocks + p / kKeyBlock) * c.head_dim * kKeyBlock;
            const float* key = keys + (h * c.prefix + p) * c.head_dim;
            for (std::int64_t d = 0; d < c.head_dim; ++d) block[d * kKeyBlock + p % kKeyBlock] = key[d];
        }
    return result;
}

void read_prefix(Reader& reader, const Config& c, const std::string& name, LayerWeights& layer) {
    std::vector<std::int64_t> shape{c.kv_heads, c.prefix, c.head_dim};
    if (c.prefix == 0 && !reader.has(name + ".k_prefix")) return;
    layer.keys = transposed(reader.as<float>(name + ".k_prefix", Dtype::f32, shape), c);
    layer.values = reader.as<float>(name + ".v_prefix", Dtype::f32, shape);
    std::int64_t stride = round_up(c.head_dim, 16);
    if (stride == c.head_dim) return;
    layer.padded = std::make_unique<float[]>(static_cast<std::size_t>(c.kv_heads * c.prefix * stride));
    for (std::int64_t i = 0; i < c.kv_heads * c.prefix; ++i)
        std::copy_n(layer.values + i * c.head_dim, c.head_dim, layer.padded.get() + i * stride);
    layer.values = layer.padded.get();
}

}  // namespace

Weights::Weights(const Config& c, const Tensors& tensors) {
    Reader reader(c, tensors);
    const Tensor& table = reader.get("embedding");
    if (table.dtype != Dtype::f16 && table.dtype != Dtype::bf16 && table.dtype != Dtype::f32)
        refuse("embedding is ", name_of(table.dtype), ", expected float16, uint16 (bfloat16) or float32");
    embedding_dtype = table.dtype;
    embedding = checked(table, "embedding", table.dtype, {c.vocab, c.hidden});
    if (reinterpret_cast<std::uintptr_t>(embedding) % 4 != 0) refuse("embedding is not aligned to 4 bytes");
    inv_freq = reader.as<float>("inv_freq", Dtype::f32, {c.head_dim / 2});
    verdict_head = reader.as<float>("verdict_head", Dtype::f32, {c.columns, c.hidden});
    if (c.prefix > 0 || reader.has("prefix.positions"))
        prefix_positions = reader.as<std::int32_t>("prefix.positions", Dtype::i32, {c.prefix});
    residual = reader.rotation("signs.residual", c.residual_block);
    ffn = reader.rotation("signs.ffn", c.ffn_block);

    std::int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
    for (std::int64_t i = 0; i < c.layers; ++i) {
        LayerWeights& layer = layers.emplace_back();
        std::string name = "model.layers." + std::to_string(i), attention = name + ".self_attn", mlp = name + ".mlp";
        layer.q = reader.linear(attention + ".q_proj", q, c.hidden);
        layer.k = reader.linear(attention + ".k_proj", kv, c.hidden);
        layer.v = reader.linear(attention + ".v_proj", kv, c.hidden);
        layer.o = reader.linear(attention + ".o_proj", c.hidden, q);
        layer.gate_up = reader.linear(mlp + ".gate_up", c.ffn, c.hidden, kPanel / 2);
        layer.down = reader.linear(mlp + ".down_proj", c.hidden, c.ffn);
        if (c.head_norms) {
            layer.q_norm = reader.as<float>(attention + ".q_norm.weight", Dtype::f32, {c.head_dim});
            layer.k_norm = reader.as<float>(attention + ".k_norm.weight", Dtype::f32, {c.head_dim});
        }
        if (c.post_norms) {
            layer.attention_norm = reader.as<float>(name + ".post_attention_layernorm.weight", Dtype::f32, {c.hidden});
            layer.ffn_norm = reader.as<float>(name + ".post_feedforward_layernorm.weight", Dtype::f32, {c.hidden});
        }
        read_prefix(reader, c, attention, layer);
    }
    reader.refuse_others();
}

}  // namespace guardpass
