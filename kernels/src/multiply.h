// Rows times linear layers, on all threads.
#pragma once

#include <initializer_list>

#include "kernels.h"
#include "memory.h"
#include "pool.h"

namespace guardpass {

// fp32 activations, rows `stride` floats apart.
struct Matrix {
    float* data = nullptr;
    std::int64_t stride = 0;
    float* row(std::int64_t i) const { return data + i * stride; }
};

// Rows times a linear layer.
struct Product {
    const Linear& linear;
    Levels rows;
    std::int64_t count;
    Matrix out;
    Epilogue epilogue = Epilogue::store;
};

// All products side by side, panel by panel; `following` is the layer that comes next, if any.
void multiply(const Kernels& kernels, Pool& pool, Arena* scratch, std::initializer_list<Product> products,
              const Linear* following);

}  // namespace guardpass
