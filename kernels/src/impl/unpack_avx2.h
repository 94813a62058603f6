// int4 levels of a panel to int8 weights: (level - 8) * group. Two levels, each at most 15, are multiplied as one
// 16-bit number: with a group of at most 16 the lower product does not reach the upper one's byte. Included inside a
// level's namespace.
void unpack(const Linear& linear, std::int64_t panel, std::int8_t* out) {
    std::int64_t groups = linear.depth / 32;
    const std::uint8_t* nibbles = linear.nibbles + panel * groups * 4 * 4 * kPanel;
    const std::uint8_t* scales = linear.group + panel * groups * kPanel;
    const __m256i low = _mm256_set1_epi8(15);
    for (std::int64_t g = 0; g < groups; ++g, scales += kPanel)
        for (int j = 0; j < 8; ++j) {
            __m256i scale = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales + 8 * j)));
            __m256i factor = _mm256_or_si256(scale, _mm256_slli_epi32(scale, 16));
            __m256i zero = _mm256_slli_epi16(_mm256_or_si256(factor, _mm256_slli_epi16(factor, 8)), 3);
            for (int h = 0; h < 4; ++h) {
                const std::uint8_t* from = nibbles + ((4 * g + h) * 8 + j) * 32;
                __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
                __m256i first = _mm256_and_si256(both, low);
                __m256i second = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
                auto* at = reinterpret_cast<__m256i*>(out + ((4 * g + h) * 16 + j) * 32);
                _mm256_store_si256(at, _mm256_sub_epi8(_mm256_mullo_epi16(first, factor), zero));
                _mm256_store_si256(at + 8, _mm256_sub_epi8(_mm256_mullo_epi16(second, factor), zero));
            }
        }
}
