// How fast the GEMM alone runs: random layers, one after the other as in a pass.
#pragma once

#include <cstdint>

namespace guardpass {

// Operations a second of [m, k] x [k, n] over `layers` different layers, for about `seconds`.
double gemm_rate(std::int64_t m, std::int64_t n, std::int64_t k, bool int4, int threads, std::int64_t layers,
                 double seconds);

}  // namespace guardpass
