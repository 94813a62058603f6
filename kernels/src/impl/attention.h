// Attention of a few query tokens' heads over blocks of keys. Included inside a level's namespace.
//
// All scores of the rows are held at once, so the softmax is the plain one and the values are added up in registers.

// Rows' scores become weights, not yet divided by their sum, which is returned. Masked keys get exactly 0.
inline float softmax(const AttentionTask& task, float* scores, const std::uint64_t* bits) {
    F most = set(-__builtin_inff());
    float* at = scores;
    for (std::int64_t b = 0; b < task.block_count; ++b) {
        std::uint64_t seen = bits[task.blocks[b].bits];
        std::int64_t columns = (task.blocks[b].count + 15) / 16 * 16;
        for (std::int64_t i = 0; i < columns; i += W, at += W) {
            F x = load(at) * set(task.scale);
            if (task.softcap > 0) x = softcapped(x, task.softcap);
            x = where(static_cast<std::uint32_t>(seen >> i), x, set(-__builtin_inff()));
            store(at, x);
            most = max(most, x);
        }
    }
    F shift = set(largest(most)), total = set(0);
    at = scores;
    for (std::int64_t b = 0; b < task.block_count; ++b) {
        std::uint64_t seen = bits[task.blocks[b].bits];
        std::int64_t columns = (task.blocks[b].count + 15) / 16 * 16;
        for (std::int64_t i = 0; i < columns; i += W, at += W) {
            F x = where(static_cast<std::uint32_t>(seen >> i), exponential(load(at) - shift), set(0));
            store(at, x);
            total = total + x;
        }
    }
    return sum(total);
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
    for (std::int64_t r = 0; r < task.rows; ++r)
        sums[r] = softmax(task, task.scores + r * task.scores_stride, task.bits + r / task.rows_per_token);
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
