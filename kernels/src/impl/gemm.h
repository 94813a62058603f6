// One panel of weights times all rows of a task, tile by tile. Included inside a level's namespace, after its
// `tile<R>`: R rows x 64 columns of i32, added to what `start` has for each column.

inline void tile_of(int rows, const std::uint8_t* a, std::int64_t stride, const std::int8_t* w, std::int64_t steps,
                    const std::int32_t* start, std::int32_t* acc, Prefetch& ahead) {
    switch (rows) {
        case 1: return tile<1>(a, stride, w, steps, start, acc, ahead);
        case 2: return tile<2>(a, stride, w, steps, start, acc, ahead);
        case 3: return tile<3>(a, stride, w, steps, start, acc, ahead);
        case 4: return tile<4>(a, stride, w, steps, start, acc, ahead);
        case 5: return tile<5>(a, stride, w, steps, start, acc, ahead);
        default: return tile<6>(a, stride, w, steps, start, acc, ahead);
    }
}

void panel(const PanelTask& task) {
    const Linear& linear = *task.linear;
    std::int64_t steps = linear.depth / 4, rows = task.row_end - task.row_begin;
    const std::int8_t* weights = linear.weight + task.panel * linear.depth * kPanel;
    if (linear.nibbles) {
        unpack(linear, task.panel, task.unpacked);
        weights = task.unpacked;
    }
    // Blocks of nearly equal height: six and five rows run at full speed, a last block of one would not.
    std::int64_t blocks = (rows + kTileRows - 1) / kTileRows;
    const char* next = static_cast<const char*>(task.prefetch);
    Prefetch ahead{next, next ? next + task.prefetch_bytes : next, task.prefetch_bytes * 4 / (blocks * steps) + 1};
    // Levels are 128 too large: sums begin at what that adds to a column, taken off.
    alignas(64) std::int32_t start[kPanel];
    for (int i = 0; i < kPanel; ++i)
        start[i] = static_cast<std::int32_t>(-128u * static_cast<std::uint32_t>(linear.sum[task.panel * kPanel + i]));
    alignas(64) std::int32_t acc[kTileRows * kPanel];
    std::int64_t row = task.row_begin;
    for (std::int64_t b = 0; b < blocks; ++b) {
        std::int64_t end = task.row_begin + rows * (b + 1) / blocks;
        int count = static_cast<int>(end - row);
        const std::uint8_t* a = task.rows.data + row * task.rows.stride;
        tile_of(count, a, task.rows.stride, weights, steps, start, acc, ahead);
        finish(task, acc, row, count);
        row = end;
    }
}
