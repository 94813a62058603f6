// Work on single rows of activations. Included inside a level's namespace.

// RMSNorm, rotation and int8 levels in one go. A norm's factor moves a row's scale, never its levels, so it is applied
// to the scale alone; likewise the rotation's 1 / sqrt(block).
void quantize(const RowTask& task) {
    std::int64_t width = task.width;
    float factor = task.normed ? norm_factor(task.x, width, task.eps) : 1.0f;
    const float* y = task.x;
    if (task.rotation.block > 1) {
        transform(task.x, task.scratch, width, task.rotation);
        factor *= 1.0f / __builtin_sqrtf(static_cast<float>(task.rotation.block));
        y = task.scratch;
    }
    Bits most = no_bits();
    for (std::int64_t i = 0; i < width; i += W) most = max_abs(most, load_n(y + i, width - i));
    std::uint32_t bits = largest_bits(most);
    float largest = __builtin_bit_cast(float, bits);
    bool finite = bits < 0x7f800000u;
    // Below 1e-30 a row counts as zeros: 127 / largest would overflow.
    F inverse = set(finite && largest >= 1e-30f ? 127.0f / largest : 0.0f);
    *task.scale = finite ? largest / 127.0f * factor : __builtin_nanf("");
    for (std::int64_t i = 0; i < (width + 63) / 64 * 64; i += W) {
        F each = i < width && finite ? load_n(y + i, width - i) : set(0.0f);
        store_levels(task.levels + i, each * inverse);
    }
}

void add_normed(float* x, const float* y, const float* gain, std::int64_t width, float eps) {
    F factor = set(norm_factor(y, width, eps));
    for (std::int64_t i = 0; i < width; i += W) {
        std::int64_t n = width - i;
        store_n(x + i, fma(load_n(y + i, n) * factor, load_n(gain + i, n), load_n(x + i, n)), n);
    }
}

void head(const HeadTask& task) {
    std::int64_t half = task.head_dim / 2;
    float factor = task.factor;
    if (task.gain) factor *= norm_factor(task.x, task.head_dim, task.eps);
    for (std::int64_t i = 0; i < half; i += W) {
        std::int64_t n = half - i;
        F first = load_n(task.x + i, n) * set(factor), second = load_n(task.x + half + i, n) * set(factor);
        if (task.gain) {
            first = first * load_n(task.gain + i, n);
            second = second * load_n(task.gain + half + i, n);
        }
        F c = load_n(task.cosine + i, n), s = load_n(task.sine + i, n);
        store_n(task.out + i, first * c - second * s, n);
        store_n(task.out + half + i, second * c + first * s, n);
    }
}

void verdict(const HeadScores& task) {
    float factor = norm_factor(task.x, task.hidden, task.eps);
    for (std::int64_t c = 0; c < task.columns; ++c) {
        const float* row = task.head + c * task.hidden;
        F total = set(0);
        for (std::int64_t i = 0; i < task.hidden; i += W)
            total = fma(load_n(task.x + i, task.hidden - i), load_n(row + i, task.hidden - i), total);
        float score = sum(total) * factor;
        task.scores[c] = task.softcap > 0 ? task.softcap * tanhf(score / task.softcap) : score;
    }
}
