// Errors at the border with Python: what was expected and what came, with the kernel's and the
// argument's name.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <string>
#include <type_traits>

namespace tilegrad {

namespace py = pybind11;

// Text from parts as a stream would write them. Without a stream: those read tables of the C++
// library, and where a module has a library of its own beside the process's, the wrong ones.
template <class Part>
void append(std::string& text, const Part& part) {
  if constexpr (std::is_floating_point_v<Part>) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%g", static_cast<double>(part));
    text += digits;
  } else if constexpr (std::is_integral_v<Part> && !std::is_same_v<Part, char>) {
    text += std::to_string(part);
  } else {
    text += part;
  }
}

inline std::string shape_text(const int64_t* shape, int ndim) {
  std::string text = "(";
  for (int i = 0; i < ndim; ++i) {
    append(text, shape[i]);
    text += ndim == 1 ? "," : i + 1 < ndim ? ", " : "";
  }
  return text + ")";
}

// Throws ValueError: "<op>: <message parts>".
template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail(const char* op, const Parts&... parts) {
  std::string text = std::string(op) + ": ";
  (append(text, parts), ...);
  throw py::value_error(text);
}

// A macro, so that the message is only put together when it is needed.
#define TG_CHECK(ok, op, ...)         \
  do {                                \
    if (!(ok)) fail(op, __VA_ARGS__); \
  } while (0)

// Throws ValueError unless low <= value <= high.
inline void check_range(const char* op, const char* name, int64_t value, int64_t low,
                        int64_t high) {
  TG_CHECK(low <= value && value <= high, op, "expected ", name, " from ", low, " to ", high,
           ", got ", value);
}

}  // namespace tilegrad
