// Text without the C++ library's streams: those read tables of the library, and where a module has a
// library of its own beside the process's (-static-libstdc++), the wrong ones.
#pragma once
#include <cstdint>
#include <cstdio>
#include <string>
#include <type_traits>

namespace tilegrad {

// Writes what a stream would write.
class Text {
 public:
  template <class Part>
  Text& operator<<(const Part& part) {
    if constexpr (std::is_floating_point_v<Part>) {
      char digits[32];
      std::snprintf(digits, sizeof digits, "%g", static_cast<double>(part));
      string_ += digits;
    } else if constexpr (std::is_integral_v<Part> && !std::is_same_v<Part, char>) {
      string_ += std::to_string(part);
    } else {
      string_ += part;
    }
    return *this;
  }
  const std::string& str() const { return string_; }

 private:
  std::string string_;
};

inline std::string hex(uintptr_t value) {
  char digits[2 * sizeof value + 3];
  std::snprintf(digits, sizeof digits, "0x%llx", static_cast<unsigned long long>(value));
  return digits;
}

}  // namespace tilegrad
