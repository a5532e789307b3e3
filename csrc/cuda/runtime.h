// What the CUDA module needs of CUDA besides kernels, without CUDA's headers.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace tilegrad {

// The stream of this thread's next kernels, by its address.
void set_current_stream(uintptr_t stream);

struct DeviceCount {
  int status;  // cudaGetDeviceCount's; 35 (driver too old or absent) and 100 mean no GPU
  int count;
  std::string text;
};
DeviceCount device_count();

struct DeviceInfo {
  std::string name;
  int major, minor;  // compute capability
  int multiprocessors;
  size_t memory_bytes, l2_bytes;
  int driver, runtime;  // CUDA versions, 1000 major + 10 minor
};
DeviceInfo device_info();  // of the current GPU; throws std::runtime_error

}  // namespace tilegrad
