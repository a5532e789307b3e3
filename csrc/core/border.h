// How a module meets Python's arrays: whose memory it takes, and who watches a call. One object per
// module, filled in when the module is imported.
#pragma once
#include <cstdint>

namespace tilegrad {

// Called for each call of a kernel from Python, with the interpreter's lock held.
struct Observer {
  void (*begin)(const char* op);  // before the first argument is looked at
  void (*array)(const void* data, int64_t bytes, const char* name, bool writable);  // each argument
};

struct Border {
  bool numpy = true;                   // NumPy arrays lie in this module's memory
  bool cuda = false;                   // so does what has __cuda_array_interface__
  const Observer* observer = nullptr;  // or nobody
};

extern Border border;

}  // namespace tilegrad
