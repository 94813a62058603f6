// How one thread asks a pass that runs in another to end.
#pragma once

#include <atomic>
#include <exception>

namespace guardpass {

struct Stopped : std::exception {
    const char* what() const noexcept override { return "the pass was asked to stop"; }
};

// Looked at between a pass's parallel loops: the longest of them is a product, about half a layer.
class Stop {
  public:
    void set() { asked_.store(true, std::memory_order_relaxed); }
    void check() const {
        if (asked_.load(std::memory_order_relaxed)) throw Stopped();
    }

  private:
    std::atomic<bool> asked_{false};
};

}  // namespace guardpass
