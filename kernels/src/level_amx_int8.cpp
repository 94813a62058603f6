// AMX for int8, AVX-512 for all else: Sapphire Rapids and later.
#include <immintrin.h>

#include <cstdint>

#include "kernels.h"

// Nothing else is included: an inline function of a shared header, compiled here, could be the copy that the linker
// keeps for all.
extern "C" float tanhf(float);

namespace guardpass::amx_int8 {
namespace {

// clang-format off: in the order that one uses the other
#include "impl/simd_avx512.h"
#include "impl/vector_math.h"
#include "impl/fwht.h"
#include "impl/rows.h"
#include "impl/prefetch.h"
#include "impl/unpack_avx512.h"
#include "impl/epilogue.h"
#include "impl/gemm_amx.h"
#include "impl/fma_tile.h"
#include "impl/attention.h"
#include "impl/table.h"
// clang-format on

constexpr Kernels kTable = table("amx_int8");

}  // namespace

const Kernels& kernels() { return kTable; }

}  // namespace guardpass::amx_int8
