// The block that is being simulated, as the runtime shows it to emulated instructions, to the traced
// build and to error reports. One launch runs at a time; all of its threads run on one OS thread.
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

// Without this, a library's own functions and variables are reached through its symbol table.
#define SIMT_LOCAL __attribute__((visibility("hidden")))
#define SIMT_EXPORT __attribute__((visibility("default")))

// The builtin behind C++20's std::source_location, which knows columns, looks for this name.
#if __cplusplus < 202002L && __has_builtin(__builtin_source_location)
#define SIMT_HAS_COLUMNS
namespace std {
struct source_location {
  struct __impl {
    const char* _M_file_name;
    const char* _M_function_name;
    unsigned _M_line, _M_column;
  };
};
}  // namespace std
#endif

namespace simt {

// A place in a kernel's source. As a default argument, here() is the caller's place.
struct Site {
  const char* file;
  int line, column;
};

#ifdef SIMT_HAS_COLUMNS
__attribute__((always_inline)) inline constexpr Site here(
    const void* place = __builtin_source_location()) {
  const auto* p = static_cast<const std::source_location::__impl*>(place);
  return {p->_M_file_name, static_cast<int>(p->_M_line), static_cast<int>(p->_M_column)};
}
#else
__attribute__((always_inline)) inline constexpr Site here(const char* file = __builtin_FILE(),
                                                          int line = __builtin_LINE()) {
  return {file, line, 0};
}
#endif

// What went wrong in a kernel or its launch. The message names file and line where they are known,
// kernel, block and thread.
class SIMT_EXPORT Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// --- what runs -------------------------------------------------------------------------------------

struct Running {
  int thread;        // number within the block, -1 outside of kernels
  int64_t block;     // number within the grid
  bool kernel_code;  // false while a kernel's thread runs the runtime's
};
extern SIMT_LOCAL Running running;

inline bool in_kernel() { return running.thread >= 0; }
inline int warp() { return running.thread / 32; }
inline int lane() { return running.thread % 32; }

struct Range {
  const char* begin = nullptr;
  const char* end = nullptr;

  __attribute__((always_inline)) bool contains(const void* p) const {
    return static_cast<const char*>(p) >= begin && static_cast<const char*>(p) < end;
  }
  size_t size() const { return static_cast<size_t>(end - begin); }
};

// Of the launch that runs; empty where there is none.
struct Memory {
  Range static_shared;   // the __shared__ variables of all kernels; empty under AddressSanitizer
  Range dynamic_shared;  // exactly as many bytes as the launch asked for
  Range stacks;          // local memory, of all threads
  Range parameters;      // the kernel's arguments
};
SIMT_LOCAL const Memory& memory();

// --- errors ----------------------------------------------------------------------------------------

// A line "in kernel name, block (x, y, z), thread (x, y, z)": of a thread of the running block.
SIMT_LOCAL std::string whereabouts(int thread);
// The kernel's name, from the symbol table.
SIMT_LOCAL const char* kernel_name();
SIMT_LOCAL std::string to_string(Site site);
// "(x, y, z)", or (x, y, z) of the numbered thread.
SIMT_LOCAL std::string thread_text(int thread);

// Ends the launch by an exception: message, then where and which thread (the running one, or a lane
// of its warp).
[[noreturn]] SIMT_LOCAL void fail(const std::string& message);
[[noreturn]] SIMT_LOCAL void fail(Site site, const std::string& message);
[[noreturn]] SIMT_LOCAL void fail(Site site, const std::string& message, int lane);
// The same for emulated instructions, with printf's format. They must not build strings: the traced
// build watches the standard library's functions, too, where they were compiled with a kernel.
[[noreturn]] SIMT_LOCAL __attribute__((format(printf, 2, 3))) void fail_format(Site site,
                                                                               const char* format,
                                                                               ...);
// Ends the launch by leaving the thread where it stands, for code that exceptions cannot leave, such
// as the compiler's hooks. The message is complete.
[[noreturn]] SIMT_LOCAL void leave(const std::string& complete_message);

// A function's name without result, parameters and "[clone ...]".
inline std::string short_name(const std::string& name) {
  // outside of <>: templates begin with a result and a space
  size_t begin = 0;
  int depth = 0;
  for (size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '<') ++depth;
    if (name[i] == '>') --depth;
    if (depth > 0) continue;
    if (name[i] == ' ') begin = i + 1;
    if (name.compare(i, 21, "(anonymous namespace)") == 0)
      i += 20;
    else if (name[i] == '(')
      return name.substr(begin, i - begin);
  }
  return name.substr(begin);
}

// --- what emulated instructions are made of ------------------------------------------------------

// An operation of the lanes in `mask`. Each lane brings a pointer to its arguments, valid until its
// call returns; the last of those that have not exited runs operation(arguments, lanes) for all:
// arguments[i] is set for each lane i in `lanes`. Two lanes that come to the same mask with another
// operation are an error. `name` is for reports.
using Operation = void (*)(void* const* arguments, uint32_t lanes);
SIMT_LOCAL void warp_collective(uint32_t mask, const char* name, Site site, void* my_arguments,
                                Operation operation);

// cp.async. Until the wait the destination holds NaN; then it is source[0 : source_bytes], and 0 up
// to `bytes`. wait(n) returns when at most the newest n groups of this thread are under way.
SIMT_LOCAL void async_copy(void* destination, const void* source, int bytes, int source_bytes,
                           const void* caller);
SIMT_LOCAL void async_commit();
SIMT_LOCAL void async_wait(int groups);

}  // namespace simt
