// Aligned memory, grown and reused: nothing is allocated while a pass runs its layers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace guardpass {

inline constexpr std::int64_t kAlign = 64;

constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

// One block of memory, cut into arrays; cutting it again starts anew.
class Arena {
  public:
    Arena() = default;
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    ~Arena();

    // Makes room for `bytes`, and forgets what was cut. Contents are undefined.
    void reset(std::int64_t bytes);

    template <class T>
    T* cut(std::int64_t count) {
        return static_cast<T*>(cut_bytes(count * static_cast<std::int64_t>(sizeof(T))));
    }

    template <class T>
    static constexpr std::int64_t size_of(std::int64_t count) {
        return round_up(count * static_cast<std::int64_t>(sizeof(T)), kAlign);
    }

  private:
    void* cut_bytes(std::int64_t bytes);

    std::byte* data_ = nullptr;
    std::int64_t size_ = 0, used_ = 0;
};

}  // namespace guardpass
