#include "memory.h"

#include <cstdlib>
#include <new>
#include <stdexcept>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace guardpass {
namespace { constexpr std::int64_t kHugePage = std::int64_t{2} << 20; }  // namespace

Arena::~Arena() { std::free(data_); }

void Arena::reset(std::int64_t bytes) {
    used_ = 0;
    if (bytes <= size_) return;
    std::free(data_);
    data_ = nullptr;
    size_ = 0;
    bool huge = bytes >= kHugePage;
    bytes = round_up(bytes, huge ? kHugePage : kAlign);
    data_ = static_cast<std::byte*>(std::aligned_alloc(huge ? kHugePage : kAlign, static_cast<std::size_t>(bytes)));
    if (data_ == nullptr) throw std::bad_alloc();
    size_ = bytes;
#if defined(__linux__)
    if (huge) madvise(data_, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);  // rows lie in many pages
#endif
}

void* Arena::cut_bytes(std::int64_t bytes) {
    bytes = round_up(bytes, kAlign);
    if (bytes > size_ - used_) throw std::logic_error("an arena was cut beyond its size");
    void* start = data_ + used_;
    used_ += bytes;
    return start;
}

}  // namespace guardpass
