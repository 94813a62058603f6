// AVX2 with 256-bit VNNI: Alder Lake and later, CPUs without AVX-512.
#include <immintrin.h>

#include <cstdint>

#include "kernels.h"

// Nothing else is included: an inline function of a shared header, compiled here, could be the copy that the linker
// keeps for all.
extern "C" float tanhf(float);

namespace guardpass::avx_vnni {
namespace {

// clang-format off: in the order that one uses the other
#include "impl/simd_avx2.h"
#include "impl/vector_math.h"
#include "impl/fwht.h"
#include "impl/rows.h"
#include "impl/prefetch.h"
#include "impl/tile_avx_vnni.h"
#include "impl/unpack_avx2.h"
#include "impl/epilogue.h"
#include "impl/gemm.h"
#include "impl/fma_tile.h"
#include "impl/attention.h"
#include "impl/table.h"
// clang-format on

constexpr Kernels kTable = table("avx_vnni");

}  // namespace

const Kernels& kernels() { return kTable; }

}  // namespace guardpass::avx_vnni
