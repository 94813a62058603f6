// The level that is correct everywhere.
#include <cstdint>

#include "kernels.h"

// Nothing else is included: an inline function of a shared header, compiled here, could be the copy that the linker
// keeps for all.
extern "C" float tanhf(float);

namespace guardpass::portable {
namespace {

// clang-format off: in the order that one uses the other
#include "impl/simd_portable.h"
#include "impl/vector_math.h"
#include "impl/fwht.h"
#include "impl/rows.h"
#include "impl/prefetch.h"
#include "impl/tile_portable.h"
#include "impl/unpack_plain.h"
#include "impl/epilogue.h"
#include "impl/gemm.h"
#include "impl/fma_tile.h"
#include "impl/attention.h"
#include "impl/table.h"
// clang-format on

constexpr Kernels kTable = table("portable");

}  // namespace

const Kernels& kernels() { return kTable; }

}  // namespace guardpass::portable
