// What becomes of a tile of i32 products. Included inside a level's namespace.

// acc * row scale * column scale, of W columns
inline F dequantized(const std::int32_t* acc, const Linear& linear, std::int64_t column, F row_scale) {
    return load(acc) * (row_scale * load(linear.scale + column));
}

template <Epilogue E>
inline void finish_row(const PanelTask& task, const std::int32_t* acc, std::int64_t row) {
    const Linear& linear = *task.linear;
    std::int64_t first = task.panel * kPanel, begin = task.panel * linear.columns;
    std::int64_t count = linear.n - begin < linear.columns ? linear.n - begin : linear.columns;
    float* out = task.out + row * task.out_stride + begin;
    F scale = set(task.rows.scale[row]);
    for (std::int64_t i = 0; i < count; i += W) {
        F value = dequantized(acc + i, linear, first + i, scale);
        if constexpr (E == Epilogue::add) value = value + load_n(out + i, count - i);
        if constexpr (E == Epilogue::silu || E == Epilogue::gelu_tanh) {
            F up = dequantized(acc + kPanel / 2 + i, linear, first + kPanel / 2 + i, scale);
            value = (E == Epilogue::silu ? silu(value) : gelu_tanh(value)) * up;
        }
        store_n(out + i, value, count - i);
    }
}

inline void finish(const PanelTask& task, const std::int32_t* acc, std::int64_t row, int rows) {
    for (int r = 0; r < rows; ++r, ++row, acc += kPanel) switch (task.epilogue) {
            case Epilogue::store: finish_row<Epilogue::store>(task, acc, row); break;
            case Epilogue::add: finish_row<Epilogue::add>(task, acc, row); break;
            case Epilogue::silu: finish_row<Epilogue::silu>(task, acc, row); break;
            case Epilogue::gelu_tanh: finish_row<Epilogue::gelu_tanh>(task, acc, row); break;
        }
}
