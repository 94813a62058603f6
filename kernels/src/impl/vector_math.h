// exp and what is made of it, and loops over rows. Included inside a level's namespace.

// Relative error below 2e-7 (measured by the tests); NaN stays NaN; below -87.3 the result is about 1e-38.
inline F exponential(F x) {
    x = max(set(-87.3f), x);  // the operand in doubt stands second: NaN passes
    x = min(set(88.0f), x);
    F n = rounded(x * set(1.44269504f));
    F r = fma(n, set(-0.693359375f), x);
    r = fma(n, set(2.12194440e-4f), r);
    F p = set(1.9875691500e-4f);  // minimax, degree 5 above 1 + r (Cephes expf)
    p = fma(p, r, set(1.3981999507e-3f));
    p = fma(p, r, set(8.3334519073e-3f));
    p = fma(p, r, set(4.1665795894e-2f));
    p = fma(p, r, set(1.6666665459e-1f));
    p = fma(p, r, set(5.0000001201e-1f));
    p = fma(p * r, r, r + set(1.0f));
    return scaled(p, n);
}

// 2^x, for x up to 126: where e^x would only cost another rounding. The same bounds.
inline F power_of_two(F x) {
    x = max(set(-126.0f), x);
    F n = rounded(x);
    F r = x - n;
    F p = set(1.535336188e-4f);  // minimax of (2^r - 1) / r (Cephes exp2f)
    p = fma(p, r, set(1.339887440e-3f));
    p = fma(p, r, set(9.618437357e-3f));
    p = fma(p, r, set(5.550332471e-2f));
    p = fma(p, r, set(2.402264791e-1f));
    p = fma(p, r, set(6.931472028e-1f));
    return scaled(fma(p, r, set(1.0f)), n);
}

// cap * tanh(x / cap)
inline F softcapped(F x, float cap) {
    F e = exponential(x * set(2.0f / cap));
    return set(cap) - set(2.0f * cap) * reciprocal(e + set(1.0f));
}

// x / (1 + 2^z) is x * sigmoid(u) for z = -u / ln 2: silu has u = x; gelu_tanh u = 2 sqrt(2 / pi) (x + 0.044715 x^3),
// as 1 + tanh(v) = 2 sigmoid(2v).
inline F gated(F x, F z) { return x * reciprocal(set(1.0f) + power_of_two(min(set(126.0f), z))); }
inline F silu(F x) { return gated(x, x * set(-1.44269504f)); }
inline F gelu_tanh(F x) { return gated(x, fma(x, x * x * set(0.044715f), x) * set(-2.3022082f)); }

// Sum of f(i, lanes) over a row, four sums side by side so that their additions overlap.
inline float sum_of_squares(const float* x, std::int64_t width) {
    F sums[4] = {set(0), set(0), set(0), set(0)};
    std::int64_t i = 0;
    for (; i + 4 * W <= width; i += 4 * W)
        for (int j = 0; j < 4; ++j) {
            F each = load(x + i + j * W);
            sums[j] = fma(each, each, sums[j]);
        }
    for (; i < width; i += W) {
        F each = load_n(x + i, width - i);
        sums[0] = fma(each, each, sums[0]);
    }
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// What RMSNorm multiplies by. A sum that overflowed gives NaN, not the 0 that would pass for an answer.
inline float norm_factor(const float* x, std::int64_t width, float eps) {
    float mean = sum_of_squares(x, width) / static_cast<float>(width) + eps;
    if (!(mean <= 3.4e38f)) return __builtin_nanf("");
    return 1.0f / __builtin_sqrtf(mean);
}
