// Spreads the prefetch of what comes next evenly over a panel's tiles: a line now and then is hidden behind the dot
// products, several at once would keep the tile's own loads waiting.
struct Prefetch {
    const char* at = nullptr;
    const char* end = nullptr;
    std::int64_t bytes = 0;  // every 4 steps
    std::int64_t due = 0;

    void some() {
        for (due += bytes; due > 0 && at < end; at += 64, due -= 64) __builtin_prefetch(at, 0, 2);
    }
};
