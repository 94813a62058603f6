// The fast Walsh-Hadamard transform (Sylvester order), blocks of a power of two. Included inside a level's namespace.

// Stages 1, 2, 4, ... within a vector.
template <int H = 1>
inline F within_vector(F x) {
    if constexpr (H < W) return within_vector<2 * H>(butterfly<H>(x));
    return x;
}

// A block of V vectors, in registers.
template <int V>
inline void block_of_vectors(const float* x, const float* signs, float* y) {
    F v[V];
    for (int i = 0; i < V; ++i) v[i] = within_vector(load(x + i * W) * load(signs + i * W));
    for (int h = 1; h < V; h *= 2)
        for (int i = 0; i < V; ++i)
            if (!(i & h)) {
                F a = v[i], b = v[i + h];
                v[i] = a + b;
                v[i + h] = a - b;
            }
    for (int i = 0; i < V; ++i) store(y + i * W, v[i]);
}

// Any block: stage by stage, in memory.
inline void block_in_memory(const float* x, const float* signs, float* y, std::int64_t block) {
    for (std::int64_t i = 0; i < block; ++i) y[i] = x[i] * signs[i];
    for (std::int64_t h = 1; h < block; h *= 2)
        for (std::int64_t i = 0; i < block; i += 2 * h)
            for (std::int64_t j = i; j < i + h; ++j) {
                float a = y[j], b = y[j + h];
                y[j] = a + b;
                y[j + h] = a - b;
            }
}

// y = FWHT(x * signs), without the factor 1 / sqrt(block).
inline void transform(const float* x, float* y, std::int64_t width, const Rotation& rotation) {
    std::int64_t block = rotation.block;
    for (std::int64_t i = 0; i < width; i += block) {
        if (W > 1 && block == 4 * W) block_of_vectors<4>(x + i, rotation.signs, y + i);
        else if (W > 1 && block == 8 * W) block_of_vectors<8>(x + i, rotation.signs, y + i);
        else if (W > 1 && block == 2 * W) block_of_vectors<2>(x + i, rotation.signs, y + i);
        else if (W > 1 && block == W) block_of_vectors<1>(x + i, rotation.signs, y + i);
        else block_in_memory(x + i, rotation.signs, y + i, block);
    }
}

void rotate(float* x, std::int64_t width, const Rotation& rotation) {
    if (rotation.block == 1) return;
    transform(x, x, width, rotation);
    F factor = set(1.0f / __builtin_sqrtf(static_cast<float>(rotation.block)));
    for (std::int64_t i = 0; i < width; i += W) store_n(x + i, load_n(x + i, width - i) * factor, width - i);
}
