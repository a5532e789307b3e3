// Sums and maxima over a warp or a block: the result is in all of its threads, and the order is
// always the same.
#pragma once
#include <cmath>

#include "device.h"

namespace tilegrad {
namespace cuda {

// Over each run of `lanes` neighbouring lanes (a power of two). Every lane of the warp takes part.
template <int lanes = warp_size, class T, class F>
__device__ __forceinline__ T warp_reduce(T v, F combine) {
#pragma unroll
  for (int step = lanes / 2; step > 0; step /= 2) {
    v = combine(v, __shfl_xor_sync(full_warp, v, step));
  }
  return v;
}

// Over a one-dimensional block of whole warps.
template <class T, class F>
__device__ __forceinline__ T block_reduce(T v, T identity, F combine) {
  __shared__ T of_warp[warp_size];
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  v = warp_reduce(v, combine);
  if (lane == 0) of_warp[warp] = v;
  __syncthreads();
  v = lane < static_cast<int>(blockDim.x) / warp_size ? of_warp[lane] : identity;
  v = warp_reduce(v, combine);
  __syncthreads();  // the next call writes of_warp again
  return v;
}

// Over `threads` neighbouring threads: a power of two up to a warp, or the whole block.
template <int threads, class T, class F>
__device__ __forceinline__ T group_reduce(T v, T identity, F combine) {
  if constexpr (threads <= warp_size) {
    return warp_reduce<threads>(v, combine);
  } else {
    return block_reduce(v, identity, combine);
  }
}

template <int threads>
__device__ __forceinline__ float group_sum(float v) {
  return group_reduce<threads>(v, 0.0f, [](float a, float b) { return a + b; });
}

// Passes over NaN.
template <int threads>
__device__ __forceinline__ float group_max(float v) {
  return group_reduce<threads>(v, -INFINITY, [](float a, float b) { return fmaxf(a, b); });
}

}  // namespace cuda
}  // namespace tilegrad
