// Errors at the border with Python: what was expected and what came, with the kernel's and the
// argument's name.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <string>

#include "text.h"

namespace tilegrad {

namespace py = pybind11;

inline std::string shape_text(const int64_t* shape, int ndim) {
  Text text;
  text << '(';
  for (int i = 0; i < ndim; ++i) text << shape[i] << (ndim == 1 ? "," : i + 1 < ndim ? ", " : "");
  text << ')';
  return text.str();
}

// Throws ValueError: "<op>: <message parts>".
template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail(const char* op, const Parts&... parts) {
  Text text;
  text << op << ": ";
  (text << ... << parts);
  throw py::value_error(text.str());
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
