// Where a pass's time goes, by stage; without a profile no clock is read.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>

namespace guardpass {

enum class Stage {
    embed,
    norm_quantize,
    qkv,
    arrange,
    attention,
    mixed_quantize,
    o_proj,
    gate_up,
    ffn_quantize,
    down,
    post_norm,
    head,
    count
};

inline constexpr std::array<const char*, static_cast<std::size_t>(Stage::count)> kStageNames = {
    "embed",  "norm_quantize", "qkv",          "arrange", "attention", "mixed_quantize",
    "o_proj", "gate_up",       "ffn_quantize", "down",    "post_norm", "head"};

struct Profile {
    std::array<double, static_cast<std::size_t>(Stage::count)> seconds{};
};

class Timed {
  public:
    Timed(Profile* profile, Stage stage) : profile_(profile), stage_(stage) {
        if (profile_) began_ = Clock::now();
    }
    ~Timed() {
        if (profile_)
            profile_->seconds[static_cast<std::size_t>(stage_)] +=
                std::chrono::duration<double>(Clock::now() - began_).count();
    }
    Timed(const Timed&) = delete;
    Timed& operator=(const Timed&) = delete;

  private:
    using Clock = std::chrono::steady_clock;

    Profile* profile_;
    Stage stage_;
    Clock::time_point began_;
};

}  // namespace guardpass
