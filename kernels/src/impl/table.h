// The level's table of kernels. Included inside a level's namespace, last.
constexpr Kernels table(const char* level) {
    return {level, quantize, panel, head, attention, add_normed, rotate, verdict, spin};
}
