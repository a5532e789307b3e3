// The GPU's side of the module: streams, scratch memory, what card this is. Not for the simulator.
#include "runtime.h"

#include <map>
#include <utility>

#include "../core/memory.h"
#include "device.h"

namespace tilegrad {
namespace {

thread_local Stream stream = nullptr;

struct Block {
  void* data = nullptr;
  int64_t bytes = 0;
};

}  // namespace

Stream current_stream() { return stream; }

void set_current_stream(Stream s) { stream = s; }

void set_current_stream(uintptr_t s) { stream = reinterpret_cast<Stream>(s); }

// One buffer for each thread, device and stream: what a thread queues on a stream runs in order, so
// the buffer may be reused as soon as the next kernel is queued. It grows, and never shrinks; it is
// not freed at the end, when CUDA may be gone.
void* workspace(int64_t bytes) {
  thread_local auto* const blocks = new std::map<std::pair<int, Stream>, Block>;
  if (bytes == 0) return nullptr;
  int device = 0;
  check(cudaGetDevice(&device), "workspace");
  Block& block = (*blocks)[{device, stream}];
  if (bytes > block.bytes) {
    // device_free waits for the kernels that still use it
    if (block.data != nullptr) device_free(std::exchange(block.data, nullptr));
    block.bytes = 0;
    block.data = device_malloc(static_cast<size_t>(bytes));
    block.bytes = bytes;
  }
  return block.data;
}

DeviceCount device_count() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  return {static_cast<int>(status), status == cudaSuccess ? count : 0, cudaGetErrorString(status)};
}

DeviceInfo device_info() {
  int device = 0;
  cudaDeviceProp p;
  DeviceInfo info{};
  check(cudaGetDevice(&device), "device_info");
  check(cudaGetDeviceProperties(&p, device), "device_info");
  check(cudaDriverGetVersion(&info.driver), "device_info");
  check(cudaRuntimeGetVersion(&info.runtime), "device_info");
  info.name = p.name;
  info.major = p.major;
  info.minor = p.minor;
  info.multiprocessors = p.multiProcessorCount;
  info.memory_bytes = p.totalGlobalMem;
  info.l2_bytes = static_cast<size_t>(p.l2CacheSize);
  return info;
}

}  // namespace tilegrad
