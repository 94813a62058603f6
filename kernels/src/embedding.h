// Rows of the embedding table, as float32.
#pragma once

#include <cstdint>

#include "tensor.h"

namespace guardpass {

void read_embedding(const void* table, Dtype dtype, std::int64_t token, std::int64_t width, float scale, float* out);

}  // namespace guardpass
