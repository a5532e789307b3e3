// What a GPU answers with a fault, or with wrong numbers: the simulator names the line. Not for
// GPUs. Prints one line per kernel, the error or the first number that came out.
#include <cstdio>
#include <stdexcept>
#include <string>

#include "../../csrc/cuda/device.h"

namespace tilegrad {
namespace cuda {

__global__ void misaligned_row(float* y, const float*) {
  __shared__ __align__(16) float tile[64];
  tile[2 * threadIdx.x] = tile[2 * threadIdx.x + 1] = 1;
  __syncwarp();
  uint32_t fragment[1];
  ptx::ldmatrix<1>(fragment, tile + 1);
  y[threadIdx.x] = static_cast<float>(fragment[0]);
}

__global__ void row_in_global_memory(float* y, const float* x) {
  uint32_t fragment[1];
  ptx::ldmatrix_trans<1>(fragment, x);
  y[threadIdx.x] = static_cast<float>(fragment[0]);
}

__global__ void lane_that_left(float* y, const float*) {
  if (threadIdx.x == 31) return;
  float d[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  ptx::mma_m16n8k16_bf16(d, a, b);
  y[threadIdx.x] = d[0];
}

__global__ void misaligned_copy(float* y, const float* x) {
  __shared__ __align__(16) float tile[4 * 32];
  ptx::cp_async<16>(tile + 4 * threadIdx.x, x + 1);
  ptx::cp_async_commit();
  ptx::cp_async_wait_group<0>();
  y[threadIdx.x] = tile[4 * threadIdx.x];
}

__global__ void copy_to_global_memory(float* y, const float* x) {
  ptx::cp_async<4>(y + threadIdx.x, x + threadIdx.x);
}

__global__ void copy_of_too_many_bytes(float* y, const float* x) {
  __shared__ float tile[32];
  ptx::cp_async<4>(tile + threadIdx.x, x + threadIdx.x, 8);
  y[threadIdx.x] = tile[threadIdx.x];
}

__global__ void copy_without_wait(float* y, const float* x) {
  __shared__ float tile[32];
  ptx::cp_async<4>(tile + threadIdx.x, x + threadIdx.x);
  ptx::cp_async_commit();
  y[threadIdx.x] = tile[threadIdx.x];
}

__global__ void wait_for_another_group(float* y, const float* x) {
  __shared__ float tile[32];
  ptx::cp_async<4>(tile + threadIdx.x, x + threadIdx.x);
  ptx::cp_async_commit();
  ptx::cp_async_wait_group<1>();
  y[threadIdx.x] = tile[threadIdx.x];
}

}  // namespace cuda
}  // namespace tilegrad

int main() {
  using namespace tilegrad;
  using namespace tilegrad::cuda;
  struct {
    const char* name;
    void (*kernel)(float*, const float*);
  } const kernels[] = {{"misaligned_row", misaligned_row},
                       {"row_in_global_memory", row_in_global_memory},
                       {"lane_that_left", lane_that_left},
                       {"misaligned_copy", misaligned_copy},
                       {"copy_to_global_memory", copy_to_global_memory},
                       {"copy_of_too_many_bytes", copy_of_too_many_bytes},
                       {"copy_without_wait", copy_without_wait},
                       {"wait_for_another_group", wait_for_another_group}};
  const float ones[256] = {1};
  auto* x = static_cast<float*>(device_malloc(sizeof ones));
  auto* y = static_cast<float*>(device_malloc(sizeof ones));
  copy_to_device(x, ones, sizeof ones);
  copy_to_device(y, ones, sizeof ones);
  for (const auto& each : kernels) {
    try {
      launch(each.kernel, dim3(1), dim3(warp_size), 0, Stream{}, y, x);
      float first;
      copy_to_host(&first, y, sizeof first);
      std::printf("%s: %g\n", each.name, static_cast<double>(first));
    } catch (const std::exception& error) {
      const std::string message = error.what();
      std::printf("%s: %s\n", each.name, message.substr(0, message.find('\n')).c_str());
    }
  }
  device_free(x);
  device_free(y);
  return 0;
}
