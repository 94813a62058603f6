// fp32 products for attention: rows times a matrix, in tiles that stay in registers. Included inside a level's
// namespace.

// c[R][V * W] (+)= a[R][depth] * b[depth][V * W]
template <int R, int V, bool Add>
inline void fma_tile(const float* a, std::int64_t a_stride, const float* b, std::int64_t b_stride, std::int64_t depth,
                     float* c, std::int64_t c_stride) {
    F acc[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) acc[r][v] = Add ? load(c + r * c_stride + v * W) : set(0);
    for (std::int64_t k = 0; k < depth; ++k, b += b_stride) {
        F columns[V];
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) columns[v] = load(b + v * W);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            F row = set(a[r * a_stride + k]);
#pragma GCC unroll 16
            for (int v = 0; v < V; ++v) acc[r][v] = fma(row, columns[v], acc[r][v]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) store(c + r * c_stride + v * W, acc[r][v]);
}

template <int V, bool Add>
inline void fma_rows(const float* a, std::int64_t a_stride, const float* b, std::int64_t b_stride, std::int64_t depth,
                     float* c, std::int64_t c_stride, std::int64_t rows) {
    for (; rows >= kFmaRows; rows -= kFmaRows, a += kFmaRows * a_stride, c += kFmaRows * c_stride)
        fma_tile<kFmaRows, V, Add>(a, a_stride, b, b_stride, depth, c, c_stride);
    for (; rows >= 2; rows -= 2, a += 2 * a_stride, c += 2 * c_stride)
        fma_tile<2, V, Add>(a, a_stride, b, b_stride, depth, c, c_stride);
    if (rows == 1) fma_tile<1, V, Add>(a, a_stride, b, b_stride, depth, c, c_stride);
}

// c[rows][columns] (+)= a[rows][depth] * b[depth][columns]; columns is a multiple of 16
template <bool Add>
void multiply(const float* a, std::int64_t a_stride, const float* b, std::int64_t b_stride, std::int64_t depth,
              float* c, std::int64_t c_stride, std::int64_t rows, std::int64_t columns) {
    constexpr std::int64_t kWide = kFmaVectors * W;
    std::int64_t j = 0;
    for (; j + kWide <= columns; j += kWide)
        fma_rows<kFmaVectors, Add>(a, a_stride, b + j, b_stride, depth, c + j, c_stride, rows);
    if constexpr (kWide > 16) {
        if (j + 32 <= columns) {
            fma_rows<32 / W, Add>(a, a_stride, b + j, b_stride, depth, c + j, c_stride, rows);
            j += 32;
        }
        if (j < columns) fma_rows<16 / W, Add>(a, a_stride, b + j, b_stride, depth, c + j, c_stride, rows);
    }
}
