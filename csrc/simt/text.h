// Text without the C++ library's streams: those read tables of the library, and where a module has a
// library of its own beside the process's (-static-libstdc++), the wrong ones.
#pragma once
#include <cstdint>
#include <cstdio>
#include <string>
#include <type_traits>

namespace simt {

inline std::string hex(uintptr_t value) {
  char digits[2 * sizeof value + 3];
  std::snprintf(digits, sizeof digits, "0x%llx", static_cast<unsigned long long>(value));
  return digits;
}

class Text {
 public:
  template <class Part>
  Text& operator<<(const Part& part) {
    if constexpr (std::is_arithmetic_v<Part> && !std::is_same_v<Part, char>) {
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

}  // namespace simt
