// Which level runs: the best this CPU has, or the one that GUARDPASS_KERNELS_LEVEL names.
#include <cstdlib>
#include <cstring>

#include "error.h"
#include "kernels.h"

#if defined(GUARDPASS_X86)
#include <cpuid.h>
#endif
#if defined(GUARDPASS_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace guardpass {

namespace portable { const Kernels& kernels(); }
#if defined(GUARDPASS_X86)
namespace avx2 { const Kernels& kernels(); }
namespace avx_vnni { const Kernels& kernels(); }
namespace avx512_vnni { const Kernels& kernels(); }
#endif
#if defined(GUARDPASS_AMX)
namespace amx_int8 { const Kernels& kernels(); }
#endif

namespace {

struct Found {
    const Kernels* table[5] = {};
    int count = 0;
};

#if defined(GUARDPASS_X86)
// What the operating system saves of the registers: XCR0.
unsigned long long saved_state() {
    unsigned low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<unsigned long long>(high) << 32) | low;
}

#if defined(GUARDPASS_AMX)
// Tiles are 8 KB more of state for every thread, so Linux saves them only for processes that asked; it refuses those
// with a signal stack too small for them.
bool amx_is_granted() {
    constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

void detect(Found& found) {
    unsigned a, b, c, d, b7, c7, d7, a71, unused;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !__get_cpuid_count(7, 0, &unused, &b7, &c7, &d7)) return;
    constexpr unsigned kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;  // leaf 1, ecx
    constexpr unsigned kNeeded = kFma | kOsxsave | kAvx | kF16c;
    if ((c & kNeeded) != kNeeded) return;
    unsigned long long state = saved_state();
    if ((state & 0x6) != 0x6 || !(b7 >> 5 & 1)) return;  // ymm; AVX2
    found.table[found.count++] = &avx2::kernels();
    if (__get_cpuid_count(7, 1, &a71, &unused, &unused, &unused) && (a71 >> 4 & 1))
        found.table[found.count++] = &avx_vnni::kernels();
    bool zmm = (state & 0xe6) == 0xe6;
    bool avx512 = (b7 >> 16 & 1) && (b7 >> 17 & 1) && (b7 >> 30 & 1) && (b7 >> 31 & 1);  // F, DQ, BW, VL
    if (!zmm || !avx512 || !(c7 >> 11 & 1)) return;
    found.table[found.count++] = &avx512_vnni::kernels();
#if defined(GUARDPASS_AMX)
    bool amx = (d7 >> 24 & 1) && (d7 >> 25 & 1) && (state >> 17 & 3) == 3;  // tiles; int8; the system saves them
    if (amx && amx_is_granted()) found.table[found.count++] = &amx_int8::kernels();
#endif
}
#endif

const Found& levels() {
    static const Found found = [] {
        Found result;
        result.table[result.count++] = &portable::kernels();
#if defined(GUARDPASS_X86)
        detect(result);
#endif
        return result;
    }();
    return found;
}

}  // namespace

const Kernels* const* available(int* count) {
    *count = levels().count;
    return levels().table;
}

const Kernels& kernels() {
    const Found& found = levels();
    const char* forced = std::getenv("GUARDPASS_KERNELS_LEVEL");
    if (forced == nullptr || *forced == 0) return *found.table[found.count - 1];
    std::ostringstream names;
    for (int i = 0; i < found.count; ++i) {
        if (std::strcmp(found.table[i]->level, forced) == 0) return *found.table[i];
        names << (i ? ", " : "") << found.table[i]->level;
    }
    refuse("GUARDPASS_KERNELS_LEVEL is ", forced, ", expected one of what this CPU can run: ", names.str());
}

}  // namespace guardpass
