// AVX-512 with VNNI: Cascade Lake, Zen 4 and later.
#include <immintrin.h>

#include <cstdint>

#include "kernels.h"

// Nothing else is included: an inline function of a shared header, compiled here, could be the copy that the linker
// keeps for all.
extern "C" float tanhf(float);

namespace guardpass::avx512_vnni {
namespace {

// clang-format off: in the order that one uses the other
#include "impl/simd_avx512.h"
#include "impl/vector_math.h"
#include "impl/fwht.h"
#include "impl/rows.h"
#include "impl/prefetch.h"
#include "impl/tile_avx512_vnni.h"
#include "impl/unpack_avx512.h"
#include "impl/epilogue.h"
#include "impl/gemm.h"
#include "impl/fma_tile.h"
#include "impl/attention.h"
#include "impl/table.h"
// clang-format on

constexpr Kernels kTable = table("avx512_vnni");

}  // namespace

const Kernels& kernels() { return kTable; }

}  // namespace guardpass::avx512_vnni
