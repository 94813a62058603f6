// Attention of a few query tokens' heads over blocks of keys. Included inside a level's namespace.
//
// All scores of the rows are held at once, so the softmax is the plain one and the values are added up in registers.

// The scores of a block that a row sees, or -inf; with the softcap, if any. Returns the largest so far.
template <bool All, bool Capped>
inline F masked(float* at, std::int64_t columns, std::uint64_t seen, const AttentionTask& task, F most) {
    for (std::int64_t i = 0; i < columns; i += W) {
        F x = load(at + i);
        if constexpr (Capped) x = softcapped(x * set(task.scale), task.softcap);
        if constexpr (!All) x = where(static_cast<std::uint32_t>(seen >> i), x, set(-__builtin_inff()));
        if constexpr (!All || Capped) store(at + i, x);
        most = max(most, x);
    }
    return most;
}

// A row's scores become weights, not yet divided by their sum, which is returned. Masked keys get exactly 0.
template <bool Capped>
inline float softmax(const AttentionTask& task, float* scores, const std::uint64_t* bits) {
    constexpr std::uint64_t kAll = ~std::uint64_t{0};
    F most = set(-__builtin_inff());
    float* at = scores;
    for (std::int64_t b = 0; b < task.block_count; ++b) {
        std::uint64_t seen = bits[task.blocks[b].bits];
        std::int64_t columns = (task.blocks[b].count + 15) / 16 * 16;
        most = seen == kAll ? masked<true, Capped>(at, columns, seen, task, most)
                            : masked<false, Capped>(at, columns, seen, task, most);
        at += columns;
    }
    // In powers of two: one multiplication less for each score. Weights are whole parts of 2^-23, so that their sum is
    // exact and no bit of it depends on where in a block a key lies, that is on what other branches a pass has.
    float factor = (Capped ? 1.0f : task.scale) * 1.44269504f;
    F slope = set(factor), shift = set(-largest(most) * factor), one = set(1.0f);
    std::uint64_t parts = 0;
    at = scores;
    for (std::int64_t b = 0; b < task.block_count; ++b) {
        std::uint64_t seen = bits[task.blocks[b].bits];
        std::int64_t columns = (task.blocks[b].count + 15) / 16 * 16;
        Bits block = no_bits();  // 64 weights, each at most 2^23 parts
        for (std::int64_t i = 0; i < columns; i += W, at += W) {
            F x = min(one, power_of_two(fma(load(at), slope, shift)));
            if (seen != kAll) x = where(static_cast<std::uint32_t>(seen >> i), x, set(0));
            F shifted = x + one;
            store(at, shifted - one);
            block = add_parts(block, shifted);
        }
        parts += total(block);
    }
    return static_cast<float>(parts) * 0x1p-23f;
}

void attention(const AttentionTask& task) {
    float* scores = task.scores;
    for (std::int64_t b = 0; b < task.block_count; ++b) {
        const KeyBlock& block = task.blocks[b];
        std::int64_t columns = (block.count + 15) / 16 * 16;
        multiply<false>(task.queries, task.head_dim, block.keys, kKeyBlock, task.head_dim, scores, task.scores_stride,
                        task.rows, columns);
        scores += columns;
    }
    float* out = task.out;
    for (std::int64_t i = 0; i < task.rows * task.value_stride; i += W) store(out + i, set(0));
    float sums[kMostRows];
    for (std::int64_t r = 0; r < task.rows; ++r) {
        float* row = task.scores + r * task.scores_stride;
        const std::uint64_t* seen = task.bits + r / task.rows_per_token;
        sums[r] = task.softcap > 0 ? softmax<true>(task, row, seen) : softmax<false>(task, row, seen);
    }
    scores = task.scores;
    for (std::int64_t b = 0; b < task.block_count; ++b) {
        const KeyBlock& block = task.blocks[b];
        multiply<true>(scores, task.scores_stride, block.values, task.value_stride, block.count, out, task.value_stride,
                       task.rows, task.value_stride);
        scores += (block.count + 15) / 16 * 16;
    }
    for (std::int64_t r = 0; r < task.rows; ++r, out += task.value_stride) {
        F factor = set(1.0f / sums[r]);
        for (std::int64_t i = 0; i < task.value_stride; i += W) store(out + i, load(out + i) * factor);
    }
}
