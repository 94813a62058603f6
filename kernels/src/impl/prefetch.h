// Spreads the prefetch of what comes next evenly over a panel's tiles, a few lines every 16 steps.
struct Prefetch {
    const char* at = nullptr;
    const char* end = nullptr;
    std::int64_t bytes = 0;  // every 16 steps

    void some() {
        const char* until = end - at < bytes ? end : at + bytes;
        for (; at < until; at += 64) __builtin_prefetch(at, 0, 2);
    }
};
