// One panel of weights times all rows of a task, by tiles of 16 x 16 sums (AMX): in the place of `gemm.h`. Included
// inside a level's namespace.
//
// A block is 32 rows x 32 columns, two tiles of rows by two of weights, so that each tile that is loaded is used twice.
// The panels' layout is what the tiles want: 16 rows of 64 bytes, a row of them four of K for each of 16 columns.

constexpr std::int64_t kBlockRows = 32, kStepBytes = 64 * kPanel;  // a step is 64 of K

struct alignas(64) TileConfig {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};

    // Tiles 0 to 3 are sums, 4 and 5 rows, 6 and 7 weights. `first` and `second` are the rows of each half of a block.
    TileConfig(int first, int second) {
        rows[0] = rows[1] = rows[4] = static_cast<std::uint8_t>(first);
        rows[2] = rows[3] = rows[5] = static_cast<std::uint8_t>(second);
    }
};

// The intrinsics do not tell the compiler what memory they read.
inline void all_is_written() { asm volatile("" : : : "memory"); }

inline void configure(int rows) {
    TileConfig config(rows > 16 ? 16 : rows, rows > 16 ? rows - 16 : 16);
    asm volatile("ldtilecfg %0" : : "m"(config));
}

// Tiles are as they were when this ends: llama.cpp configures those of a thread once, and relies on it ever after.
class Borrowed {
  public:
    Borrowed() { asm volatile("sttilecfg %0" : "=m"(before_)); }
    ~Borrowed() { asm volatile("ldtilecfg %0" : : "m"(before_)); }
    Borrowed(const Borrowed&) = delete;
    Borrowed& operator=(const Borrowed&) = delete;

  private:
    alignas(64) std::uint8_t before_[64];
};

// A panel's weights in steps of 64 of K; the last, if it is not whole, is `tail`, made up with zeros.
struct Steps {
    const std::int8_t* weights;
    const std::int8_t* tail;
    std::int64_t whole;
    const std::int8_t* at(std::int64_t step) const { return step < whole ? weights + step * kStepBytes : tail; }
};

// Adds steps from `begin` to `end` of K to up to 32 rows x 32 columns of sums, which begin at `start` or at what is there.
template <bool Second>
inline void block(const std::uint8_t* a, std::int64_t stride, const Steps& steps, std::int64_t begin, std::int64_t end,
                  std::int64_t column, const std::int32_t* start, std::int32_t* acc, Prefetch& ahead) {
    constexpr std::int64_t kRow = kPanel * 4;  // bytes, of sums and of weights
    std::int32_t *first = acc + column, *second = first + 16 * kPanel;
    std::int64_t apart = start ? 0 : kRow;  // of `start` all rows are the same
    const std::int32_t *one = start ? start + column : first, *two = start ? one : second;
    _tile_loadd(0, one, apart);
    _tile_loadd(1, one + 16, apart);
    if constexpr (Second) {
        _tile_loadd(2, two, apart);
        _tile_loadd(3, two + 16, apart);
    }
    for (std::int64_t step = begin; step < end; ++step) {
        const std::int8_t* w = steps.at(step) + 4 * column;
        const std::uint8_t* rows = a + 64 * step;
        _tile_loadd(6, w, kRow);
        _tile_loadd(4, rows, stride);
        _tile_dpbusd(0, 4, 6);
        _tile_loadd(7, w + 64, kRow);
        _tile_dpbusd(1, 4, 7);
        if constexpr (Second) {
            _tile_loadd(5, rows + 16 * stride, stride);
            _tile_dpbusd(2, 5, 6);
            _tile_dpbusd(3, 5, 7);
        }
        ahead.some();
    }
    _tile_stored(0, first, kRow);
    _tile_stored(1, first + 16, kRow);
    if constexpr (Second) {
        _tile_stored(2, second, kRow);
        _tile_stored(3, second + 16, kRow);
    }
}

// How much of K is done for all rows before the next of it: all, where the rows and two panels fit L2, which has 2 MB on
// every CPU with AMX. Of what does not fit, each panel would read all rows from beyond it.
inline std::int64_t steps_at_once(std::int64_t rows, std::int64_t steps) {
    constexpr std::int64_t kFits = 3 << 19, kSteps = 32;
    return (rows + 2 * kPanel) * 64 * steps <= kFits ? steps : kSteps;
}

void panel(const PanelTask& task) {
    const Linear& linear = *task.linear;
    std::int64_t steps = (linear.depth + 63) / 64, rows = task.row_end - task.row_begin, stride = task.rows.stride;
    Steps weights{linear.weight + task.panel * linear.depth * kPanel, nullptr, linear.depth / 64};
    if (linear.nibbles) {
        unpack(linear, task.panel, task.unpacked);
        weights.weights = task.unpacked;
    }
    alignas(64) std::int8_t tail[kStepBytes];
    if (weights.whole < steps) {
        std::int64_t left = linear.depth % 64 * kPanel;
        for (std::int64_t i = 0; i < kStepBytes; ++i)
            tail[i] = i < left ? weights.weights[weights.whole * kStepBytes + i] : std::int8_t{0};
        weights.tail = tail;
    }
    // Levels are 128 too large: sums begin at what that adds to a column, taken off.
    alignas(64) std::int32_t start[kPanel];
    for (int i = 0; i < kPanel; ++i)
        start[i] = static_cast<std::int32_t>(-128u * static_cast<std::uint32_t>(linear.sum[task.panel * kPanel + i]));
    all_is_written();
    std::int64_t blocks = (rows + kBlockRows - 1) / kBlockRows, chunk = steps_at_once(rows, steps);
    Borrowed tiles;
    int configured = 0;
    for (std::int64_t begin = 0, end; begin < steps; begin = end) {
        end = begin + chunk < steps ? begin + chunk : steps;
        // What is read next: more of this panel, or the beginning of another. int4 was read whole to unpack it.
        const char* next = static_cast<const char*>(task.prefetch);
        std::int64_t bytes = task.prefetch_bytes;
        if (end < steps && !linear.nibbles) {
            next = reinterpret_cast<const char*>(weights.at(end));
            bytes = (end + chunk < steps ? chunk : steps - end) * kStepBytes;
        } else if (!linear.nibbles) {
            std::int64_t its = (bytes + kStepBytes - 1) / kStepBytes, first = steps_at_once(rows, its);
            if (first < its) bytes = first * kStepBytes;
        }
        Prefetch ahead{next, next ? next + bytes : next, bytes / (2 * blocks * (end - begin)) + 1};
        for (std::int64_t row = task.row_begin; row < task.row_end; row += kBlockRows) {
            int count = static_cast<int>(task.row_end - row < kBlockRows ? task.row_end - row : kBlockRows);
            if (count != configured) configure(configured = count);
            std::int32_t* acc = task.sums + (row - task.row_begin) * kPanel;
            const std::uint8_t* a = task.rows.data + row * stride;
            for (std::int64_t column = 0; column < kPanel; column += 32) {
                const std::int32_t* first = begin == 0 ? start : nullptr;
                if (count > 16) block<true>(a, stride, weights, begin, end, column, first, acc, ahead);
                else block<false>(a, stride, weights, begin, end, column, first, acc, ahead);
            }
            if (end == steps) finish(task, acc, row, count);
        }
    }
}

// Register-resident: what no GEMM can exceed.
double spin(std::int64_t turns) {
    Borrowed tiles;
    configure(32);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (std::int64_t t = 0; t < turns; ++t) {
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
    }
    return static_cast<double>(turns) * 4 * 16 * 16 * 64 * 2;
}
