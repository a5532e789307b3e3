// What a .cu file includes: CUDA's language, or the simulator's (csrc/simt), and what host code needs.
// The project's only #ifdef between nvcc and the simulator; the kernels themselves have none.
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#ifdef __CUDACC__
#include <cuda_runtime.h>

#include "ptx.h"

namespace tilegrad {

using Stream = cudaStream_t;

// Throws std::runtime_error that says what was tried and CUDA's reason.
inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
  }
}

// Runs kernel<<<grid, block, smem, stream>>>(args...); `smem` bytes of dynamic shared memory.
// Returns at once; throws std::runtime_error if the launch is refused.
template <class... Parameters, class... Args>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t smem, Stream stream,
            Args... args) {
  constexpr size_t default_limit = 48 * 1024;  // more must be asked for, kernel by kernel
  if (smem > default_limit) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(smem)),
          "launch: dynamic shared memory");
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = smem;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(args)...), "launch");
}

// The block's dynamic shared memory, as many bytes as its launch asked for.
template <class T>
__device__ T* dyn_smem() {
  extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory);
}

// Memory of the device, for workspaces and test programs; arrays come from Python.
inline void* device_malloc(size_t bytes) {
  void* p = nullptr;
  check(cudaMalloc(&p, bytes), "device_malloc");
  return p;
}
inline void device_free(void* p) { check(cudaFree(p), "device_free"); }
inline void copy_to_device(void* device, const void* host, size_t bytes) {
  check(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "copy_to_device");
}
inline void copy_to_host(void* host, const void* device, size_t bytes) {
  check(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost), "copy_to_host");
}
inline void synchronize() { check(cudaDeviceSynchronize(), "synchronize"); }

}  // namespace tilegrad

#else
#include "../simt/ptx_emulated.h"
#include "../simt/simt.h"
#endif

namespace tilegrad {

// The stream that this thread's kernels run on; the binding sets it for every call.
Stream current_stream();
void set_current_stream(Stream stream);

constexpr int warp_size = 32;
constexpr unsigned full_warp = 0xffffffffu;

// Work is split so that about this many blocks are busy, whatever GPU it is: results then depend on
// the shape alone, not on the card.
constexpr int target_blocks = 264;  // two for each multiprocessor of an H100 or H200

// Whether four floats may be moved at once to or from p.
__host__ __device__ inline bool aligned_16(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

// ceil(a / b) for a >= 0, b > 0
template <class T, class U>
__host__ __device__ constexpr auto ceil_div(T a, U b) {
  return (a + b - 1) / b;
}

namespace cuda {

// A one-dimensional launch's threads: the number of this one, and how many there are.
__device__ __forceinline__ int64_t global_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t all_threads() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

// min(max(x, low), high); NaN stays NaN, which fminf and fmaxf would drop
__device__ __forceinline__ float clamp(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

}  // namespace cuda

}  // namespace tilegrad
