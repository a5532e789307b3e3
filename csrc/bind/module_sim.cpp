// The CUDA kernels in the SIMT simulator: `_sim`, and `_simtrace`, which checks and counts every
// access. NumPy arrays are the device's memory.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "../simt/control.h"
#include "../simt/trace.h"
#include "bind.h"

namespace tilegrad {
namespace {

struct Free {
  void operator()(void* block) const { std::free(block); }
};

// The arrays of a call are the device's memory until the next call of the same thread.
std::vector<const void*>& arrays() {
  thread_local std::vector<const void*> instance;
  return instance;
}

const Observer observer = {[](const char*) {
                             for (const void* data : arrays()) simt::trace::memory_remove(data);
                             arrays().clear();
                           },
                           [](const void* data, int64_t bytes, const char* name, bool writable) {
                             simt::trace::memory_add(data, static_cast<size_t>(bytes), name,
                                                     writable);
                             arrays().push_back(data);
                           }};

}  // namespace

// Exactly as large as asked for and full of NaN, so that a kernel that reads what it did not write is
// seen.
void* workspace(int64_t bytes) {
  constexpr size_t alignment = 256;  // as CUDA's allocations
  thread_local std::unique_ptr<void, Free> block;
  block.reset();
  if (bytes == 0) return nullptr;
  const size_t rounded = (static_cast<size_t>(bytes) + alignment - 1) / alignment * alignment;
  block.reset(std::aligned_alloc(alignment, rounded));
  if (block == nullptr) throw std::bad_alloc();
  std::memset(block.get(), 0xff, rounded);
  observer.array(block.get(), bytes, "the workspace", true);
  return block.get();
}

}  // namespace tilegrad

PYBIND11_MODULE(TILEGRAD_MODULE, m) {
  using namespace tilegrad;
  border.observer = &observer;
  m.doc() = "tilegrad's CUDA kernels in the SIMT simulator; see tilegrad.sim";
  bind_memory(m);
  bind_kernels(m);
  m.def("set_schedule", simt::set_schedule);
  m.def("set_strict", simt::set_strict);
  // For tests of the CUDA path without a GPU: arrays with __cuda_array_interface__, whose pointers
  // must then be the host's, are taken too.
  m.def("accept_cuda_arrays", [](bool on) { border.cuda = on; });
#ifdef TILEGRAD_SIM_TRACE
  m.def("trace_start", [](bool raise_errors) { simt::trace_start(raise_errors); });
  m.def("trace_stop", [] { return simt::trace_stop(); });
#endif
}
