// The one error that callers cause: module.cpp lets Python see it as a ValueError.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace guardpass {

struct Invalid : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    throw Invalid(text.str());
}

}  // namespace guardpass
