// int4 levels of a panel to int8 weights: (level - 8) * group. Included inside a level's namespace.
void unpack(const Linear& linear, std::int64_t panel, std::int8_t* out) {
    std::int64_t groups = linear.depth / 32;
    const std::uint8_t* nibbles = linear.nibbles + panel * groups * 4 * 4 * kPanel;
    const std::uint8_t* scales = linear.group + panel * groups * kPanel;
    for (std::int64_t g = 0; g < groups; ++g, scales += kPanel)
        for (int h = 0; h < 4; ++h, nibbles += 4 * kPanel, out += 8 * kPanel)
            for (int i = 0; i < 4 * kPanel; ++i) {
                out[i] = static_cast<std::int8_t>(((nibbles[i] & 15) - 8) * scales[i / 4]);
                out[4 * kPanel + i] = static_cast<std::int8_t>(((nibbles[i] >> 4) - 8) * scales[i / 4]);
            }
}
