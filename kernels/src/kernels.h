// The kernels of one dispatch level, as plain functions over plain memory. Arguments were checked by the callers.
#pragma once

#include <cstdint>

namespace guardpass {

inline constexpr std::int64_t kPanel = 64;     // columns of a panel of weights
inline constexpr std::int64_t kKeyBlock = 64;  // keys of a block of attention
inline constexpr std::int64_t kTileRows = 6;   // rows that a GEMM task works on at once, at most
inline constexpr std::int64_t kMostRows = 64;  // of an attention task

// A linear layer, in panels of 64 columns.
struct Linear {
    const std::int8_t* weight = nullptr;    // int8: [panels, depth / 4, 64, 4]
    const std::uint8_t* nibbles = nullptr;  // int4: [panels, depth / 32, 4, 64, 4]
    const std::uint8_t* group = nullptr;    // int4: [panels, depth / 32, 64]
    const float* scale = nullptr;           // [panels * 64]
    const std::int32_t* sum = nullptr;      // [panels * 64], of the int8 weights
    std::int64_t n = 0, k = 0, panels = 0;
    std::int64_t depth = 0;    // k, padded: to 4, or for int4 to 32
    std::int64_t columns = 0;  // outputs of a panel: 64, or 32 where it holds 32 gates and their 32 ups
};

// Quantized activations: level = signed + 128, rows `stride` bytes apart, 128 beyond the row's end.
struct Levels {
    std::uint8_t* data = nullptr;
    std::int64_t stride = 0;
    float* scale = nullptr;  // of each row; NaN for a row that was not finite
};

// What becomes of a product: stored, added to what is there, or gated: activation(gate) * up.
enum class Epilogue { store, add, silu, gelu_tanh };

struct PanelTask {
    const Linear* linear = nullptr;
    std::int64_t panel = 0;
    Levels rows;
    std::int64_t row_begin = 0, row_end = 0;
    float* out = nullptr;  // of row 0, column 0
    std::int64_t out_stride = 0;
    Epilogue epilogue = Epilogue::store;
    const void* prefetch = nullptr;  // what this thread reads next
    std::int64_t prefetch_bytes = 0;
    std::int32_t* sums = nullptr;     // scratch, [rows, 64], of levels that go through K in parts
    std::int8_t* unpacked = nullptr;  // int4: scratch, [depth, 64]
};

// x -> FWHT(x * signs) / sqrt(block), block by block; a block of 1 is none.
struct Rotation {
    const float* signs = nullptr;
    std::int64_t block = 1;
};

struct RowTask {
    const float* x = nullptr;
    std::int64_t width = 0;
    Rotation rotation;
    bool normed = false;  // RMSNorm with gain 1
    float eps = 0;
    std::uint8_t* levels = nullptr;  // padded to a multiple of 64
    float* scale = nullptr;
    float* scratch = nullptr;  // [width + 64]
};

// A head's query or key: RMSNorm where there is a gain, rope, then times `factor`.
struct HeadTask {
    const float* x = nullptr;
    float* out = nullptr;
    std::int64_t head_dim = 0;
    const float *cosine = nullptr, *sine = nullptr;  // [head_dim / 2]
    const float* gain = nullptr;
    float eps = 0, factor = 1;
};

// Keys and values of a block, as one query token sees it.
struct KeyBlock {
    const float* keys = nullptr;    // [head_dim, 64], transposed
    const float* values = nullptr;  // [count, value_stride]
    std::int64_t count = 0;         // keys to look at: none beyond is seen
    std::int64_t bits = 0;          // where this block's masks begin: one of 64 bits for each token
};

struct AttentionTask {
    const float* queries = nullptr;  // [rows, head_dim], rows of one token side by side
    std::int64_t rows = 0, rows_per_token = 0, head_dim = 0, value_stride = 0;
    float scale = 1, softcap = 0;
    const KeyBlock* blocks = nullptr;
    std::int64_t block_count = 0;
    const std::uint64_t* bits = nullptr;
    float* scores = nullptr;  // scratch, [rows, scores_stride]
    std::int64_t scores_stride = 0;
    float* out = nullptr;  // [rows, value_stride]
};

struct HeadScores {
    const float* x = nullptr;  // a row of the residual stream
    std::int64_t hidden = 0;
    float eps = 0;
    const float* head = nullptr;  // [columns, hidden]
    std::int64_t columns = 0;
    float softcap = 0;
    float* scores = nullptr;
};

struct Kernels {
    const char* level;
    void (*quantize)(const RowTask&);
    void (*panel)(const PanelTask&);
    void (*head)(const HeadTask&);
    void (*attention)(const AttentionTask&);
    // x += RMSNorm(y) * gain
    void (*add_normed)(float* x, const float* y, const float* gain, std::int64_t width, float eps);
    // x -> FWHT(x * signs) / sqrt(block), in place; x has room for 64 more
    void (*rotate)(float* x, std::int64_t width, const Rotation&);
    void (*verdict)(const HeadScores&);
    // Register-resident int8 dot products: does `turns` rounds, returns the operations done.
    double (*spin)(std::int64_t turns);
};

// The chosen level. `available` lists what this CPU runs, best last. Environment: GUARDPASS_KERNELS_LEVEL.
const Kernels& kernels();
const Kernels* const* available(int* count);

}  // namespace guardpass
