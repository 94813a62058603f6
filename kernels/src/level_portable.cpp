// The level that is correct everywhere.
#include <cstdint>

#include "kernels.h"

extern "C" float tanhf(float);

namespace guardpass::portable {
namespace {

#include "impl/simd_portable.h"
//
#include "impl/vector_math.h"
//
#include "impl/fwht.h"
#include "impl/rows.h"
#include "impl/tile_portable.h"
//
#include "impl/epilogue.h"
#include "impl/gemm.h"
//
#include "impl/fma_tile.h"
//
#include "impl/attention.h"
#include "impl/table.h"

constexpr Kernels kTable = table("portable");

}  // namespace

const Kernels& kernels() { return kTable; }

}  // namespace guardpass::portable
