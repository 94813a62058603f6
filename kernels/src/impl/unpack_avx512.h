// int4 levels of a panel to int8 weights: (level - 8) * group. Two levels, each at most 15, are multiplied as one
// 16-bit number: with a group of at most 16 the lower product does not reach the upper one's byte. Included inside a
// level's namespace.
void unpack(const Linear& linear, std::int64_t panel, std::int8_t* out) {
    std::int64_t groups = linear.depth / 32;
    const std::uint8_t* nibbles = linear.nibbles + panel * groups * 4 * 4 * kPanel;
    const std::uint8_t* scales = linear.group + panel * groups * kPanel;
    const __m512i low = _mm512_set1_epi8(15);
    for (std::int64_t g = 0; g < groups; ++g, scales += kPanel)
        for (int j = 0; j < 4; ++j) {
            __m512i scale = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales + 16 * j)));
            __m512i factor = _mm512_or_si512(scale, _mm512_slli_epi32(scale, 16));
            __m512i zero = _mm512_slli_epi16(_mm512_or_si512(factor, _mm512_slli_epi16(factor, 8)), 3);
#pragma GCC unroll 4
            for (int h = 0; h < 4; ++h) {
                __m512i both = _mm512_loadu_si512(nibbles + ((4 * g + h) * 4 + j) * 64);
                __m512i first = _mm512_and_si512(both, low);
                __m512i second = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
                std::int8_t* at = out + ((4 * g + h) * 8 + j) * 64;
                _mm512_store_si512(at, _mm512_sub_epi8(_mm512_mullo_epi16(first, factor), zero));
                _mm512_store_si512(at + 256, _mm512_sub_epi8(_mm512_mullo_epi16(second, factor), zero));
            }
        }
}
