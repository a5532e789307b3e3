// Kernels with planted bugs, each with a correct twin, and kernels whose memory traffic is known.
// Run by tests/test_simt_trace.py, which expects a report on the lines marked "reported:", with one
// of the kinds named there, and none anywhere else.
//
// Usage: planted SEED [NAME...]: runs those cases, or all, and prints {"name": report, ...}.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "../../csrc/cuda/device.h"
#include "../../csrc/simt/control.h"
#include "../../csrc/simt/trace.h"

namespace tilegrad {
namespace cuda {

// --- barriers of the block -----------------------------------------------------------------------

__global__ void removed_barrier(float* y, const float* x) {
  __shared__ float tile[64];
  const unsigned i = threadIdx.x;
  tile[i] = x[i];       // reported: race
  y[i] = tile[63 - i];  // reported: race, uninitialised shared read
}

__global__ void with_barrier(float* y, const float* x) {
  __shared__ float tile[64];
  const unsigned i = threadIdx.x;
  tile[i] = x[i];
  __syncthreads();
  y[i] = tile[63 - i];
}

__global__ void barrier_at_one_end_of_loop(float* y, const float* x) {
  __shared__ float tile[64];
  const unsigned i = threadIdx.x;
  float sum = 0;
  for (int k = 0; k < 2; ++k) {
    tile[i] = x[i] + static_cast<float>(k);  // reported: race
    __syncthreads();
    sum += tile[63 - i];  // reported: race
  }
  y[i] = sum;
}

__global__ void barrier_at_both_ends_of_loop(float* y, const float* x) {
  __shared__ float tile[64];
  const unsigned i = threadIdx.x;
  float sum = 0;
  for (int k = 0; k < 2; ++k) {
    tile[i] = x[i] + static_cast<float>(k);
    __syncthreads();
    sum += tile[63 - i];
    __syncthreads();
  }
  y[i] = sum;
}

__global__ void divergent_barrier(float* y, const float* x) {
  const unsigned i = threadIdx.x;
  if (i < 40) {
    y[i] = x[i];
    __syncthreads();  // reported: divergent barrier
  } else {
    y[i] = -x[i];
    __syncthreads();  // reported: divergent barrier
  }
}

__global__ void convergent_barrier(float* y, const float* x) {
  const unsigned i = threadIdx.x;
  y[i] = i < 40 ? x[i] : -x[i];
  __syncthreads();
}

// In a function of its own, so that the line is not the kernel's.
__device__ __noinline__ float helper_read(const float* tile, unsigned i) {
  return tile[i];  // reported in race_in_helper: race, uninitialised shared read
}

__global__ void race_in_helper(float* y, const float* x) {
  __shared__ float tile[64];
  const unsigned i = threadIdx.x;
  tile[i] = x[i];  // reported: race
  y[i] = helper_read(tile, 63 - i);
}

__device__ __noinline__ float careful_read(const float* tile, unsigned i) {
  __syncthreads();
  return tile[i];
}

__global__ void barrier_in_helper(float* y, const float* x) {
  __shared__ float tile[64];
  const unsigned i = threadIdx.x;
  tile[i] = x[i];
  y[i] = careful_read(tile, 63 - i);
}

// --- operations of a warp ------------------------------------------------------------------------

__global__ void syncwarp_too_weak(float* y, const float* x) {
  __shared__ float tile[64];
  const unsigned i = threadIdx.x;
  tile[i] = x[i];  // reported: race
  __syncwarp();
  y[i] = tile[63 - i];  // reported: race, uninitialised shared read
}

__global__ void syncwarp_strong_enough(float* y, const float* x) {
  __shared__ float tile[64];
  const unsigned i = threadIdx.x;
  tile[i] = x[i];
  __syncwarp();
  y[i] = tile[i ^ 31];
}

__global__ void half_mask(float* y, const float* x) {
  __shared__ float tile[64];
  const unsigned i = threadIdx.x;
  tile[i] = x[i];  // reported: race
  __syncwarp(i % 32 < 16 ? 0x0000ffffu : 0xffff0000u);
  y[i] = tile[i ^ 16];  // reported: race, uninitialised shared read
}

__global__ void half_mask_for_half_warp(float* y, const float* x) {
  __shared__ float tile[64];
  const unsigned i = threadIdx.x;
  tile[i] = x[i];
  __syncwarp(i % 32 < 16 ? 0x0000ffffu : 0xffff0000u);
  y[i] = tile[i ^ 15];
}

// Two steps of quarters, so that lanes learn of lanes that they never met.
__global__ void masks_in_turn(float* y, const float* x) {
  __shared__ float tile[64];
  const unsigned i = threadIdx.x, lane = i % 32;
  tile[i] = x[i];
  __syncwarp(lane < 16 ? 0x0000ffffu : 0xffff0000u);
  __syncwarp(lane / 8 % 2 == 0 ? 0x00ff00ffu : 0xff00ff00u);
  y[i] = tile[i ^ 31];
}

__global__ void before_volta(float* y, const float* x) {
  __shared__ volatile float sums[64];
  const unsigned i = threadIdx.x;
  sums[i] = x[i];
  __syncthreads();
  if (i < 32) {
    sums[i] = sums[i] + sums[i + 32];  // reported: race
    sums[i] = sums[i] + sums[i + 16];  // reported: race
    sums[i] = sums[i] + sums[i + 8];   // reported: race
    y[i] = sums[i];
  }
}

__global__ void since_volta(float* y, const float* x) {
  __shared__ float sums[64];
  const unsigned i = threadIdx.x;
  sums[i] = x[i];
  __syncthreads();
  if (i < 32) {
    float sum = sums[i] + sums[i + 32];
    for (unsigned width = 16; width > 4; width /= 2) {
      __syncwarp();
      sums[i] = sum;
      __syncwarp();
      sum += sums[(i + width) % 32];
    }
    y[i] = sum;
  }
}

__global__ void shuffles(float* y, const float* x) {
  __shared__ float partial[2];
  const unsigned i = threadIdx.x;
  float sum = x[i];
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(full_warp, sum, offset);
  if (i % 32 == 0) partial[i / 32] = sum;
  __syncthreads();
  y[i] = partial[0] + partial[1];
}

// --- device memory -------------------------------------------------------------------------------

__global__ void store_out_of_bounds(float* y, const float* x, unsigned n) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i <= n) y[i] = x[i % n];  // reported: out of bounds
}

__global__ void store_in_bounds(float* y, const float* x, unsigned n) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i % n];
}

__global__ void load_out_of_bounds(float* y, const float* x, int n) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < n) y[i] = x[i - 1];  // reported: out of bounds
}

__global__ void vector_out_of_bounds(float* y, const float* x) {
  const float4 v = reinterpret_cast<const float4*>(x)[threadIdx.x];  // reported: out of bounds
  y[threadIdx.x] = v.x + v.w;
}

__global__ void read_freed(float* y, const float* x) {
  y[threadIdx.x] = x[threadIdx.x];  // reported: use after free
}

__global__ void read_host_memory(float* y, const float* x) {
  y[threadIdx.x] = x[threadIdx.x];  // reported: not device memory
}

__global__ void read_null(float* y, const float* x) {
  y[threadIdx.x] = x[threadIdx.x];  // reported: null pointer
}

__global__ void write_read_only(float* y, const float* x) {
  const_cast<float*>(x)[threadIdx.x] = 1;  // reported: write to read-only array
  y[threadIdx.x] = 1;
}

__global__ void misaligned_vector(float* y, const float* x) {
  const float4 v = *reinterpret_cast<const float4*>(x + 1);  // reported: misaligned access
  y[threadIdx.x] = v.y;
}

__global__ void aligned_vector(float* y, const float* x) {
  const float4 v = *reinterpret_cast<const float4*>(x + 4);
  y[threadIdx.x] = v.y;
}

__global__ void local_arrays(float* y, const float* x, int n) {
  float local[8];
  for (int k = 0; k < 8; ++k) local[(k + n) % 8] = x[threadIdx.x] * static_cast<float>(k);
  float sum = 0;
  for (int k = 0; k < 8; ++k) sum += local[(k * n) % 8];
  y[threadIdx.x] = sum;
}

struct ManyParameters {
  float* y[4];
  const float* x[4];
  float scale[4];
};

__global__ void parameters_by_value(ManyParameters p) {
  for (int k = 0; k < 4; ++k) p.y[k][threadIdx.x] = p.scale[k] * p.x[k][threadIdx.x];
}

// --- shared memory -------------------------------------------------------------------------------

__global__ void unwritten_shared(float* y, const float* x) {
  __shared__ float tile[64];
  const unsigned i = threadIdx.x;
  if (i < 63) tile[i] = x[i];
  __syncthreads();
  y[i] = tile[63 - i];  // reported: uninitialised shared read
}

__global__ void unwritten_dynamic_shared(float* y, const float* x) {
  auto* tile = dyn_smem<float>();
  const unsigned i = threadIdx.x;
  if (i < 63) tile[i] = x[i];
  __syncthreads();
  y[i] = tile[63 - i];  // reported: uninitialised shared read
}

__global__ void written_dynamic_shared(float* y, const float* x) {
  auto* tile = dyn_smem<float>();
  const unsigned i = threadIdx.x;
  tile[i] = x[i];
  __syncthreads();
  y[i] = tile[63 - i];
}

__global__ void dynamic_shared_out_of_bounds(float* y, const float* x) {
  auto* tile = dyn_smem<float>();
  const unsigned i = threadIdx.x;
  tile[i] = x[i];
  if (i == 63) tile[i + 1] = 0;  // reported: out of bounds
  y[i] = tile[i];
}

__global__ void race_in_dynamic_shared(float* y, const float* x) {
  auto* tile = dyn_smem<float>();
  const unsigned i = threadIdx.x;
  tile[i] = x[i];       // reported: race
  y[i] = tile[63 - i];  // reported: race, uninitialised shared read
}

__global__ void neighbouring_bytes(float* y, const float* x) {
  __shared__ unsigned char flags[64];
  const unsigned i = threadIdx.x;
  flags[i] = x[i] > 0;
  __syncthreads();
  y[i] = flags[63 - i];
}

__global__ void same_bytes(float* y, const float* x) {
  __shared__ unsigned char flags[64];
  const unsigned i = threadIdx.x;
  flags[i / 2] = x[i] > 0;  // reported: race
  __syncthreads();
  y[i] = flags[i / 2];
}

// --- blocks and atomics --------------------------------------------------------------------------

__global__ void two_blocks_write_one_word(float* y, const float* x) {
  if (threadIdx.x == 0) y[0] = x[blockIdx.x];  // reported: race
}

__global__ void two_blocks_write_two_words(float* y, const float* x) {
  if (threadIdx.x == 0) y[blockIdx.x] = x[blockIdx.x];
}

__global__ void in_place_shift(float* y) {
  const unsigned i = threadIdx.x;
  const float v = y[(i + 1) % 64];  // reported: race
  y[i] = v;                         // reported: race
}

__global__ void in_place_shift_with_barrier(float* y) {
  const unsigned i = threadIdx.x;
  const float v = y[(i + 1) % 64];
  __syncthreads();
  y[i] = v;
}

__global__ void atomic_against_plain(float* y, unsigned* count) {
  atomicAdd(count, 1u);                                       // reported: race
  if (threadIdx.x == 5) y[0] = static_cast<float>(count[0]);  // reported: race
}

__global__ void atomics_only(float* y, unsigned* count) {
  const unsigned before = atomicAdd(count, 1u);
  y[blockIdx.x * blockDim.x + threadIdx.x] = static_cast<float>(before);
}

// The write of thread 0 must not be forgotten over its atomic.
__global__ void atomic_after_plain_write(unsigned* count) {
  if (threadIdx.x == 0) {
    count[0] = 0;          // reported: race
    atomicAdd(count, 1u);  // reported: race
  } else if (threadIdx.x == 40) {
    count[0] = 2;  // reported: race
  }
}

// The last block to finish adds up what the others left: true for its threads, false elsewhere.
// Thread 0 may fence for the whole block, since a barrier has let it know of all writes.
enum class Fence { none, by_each, by_one };

template <Fence fence>
__device__ __forceinline__ bool is_last_block(unsigned* count) {
  __shared__ bool last;
  if (fence == Fence::by_each) __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    if (fence == Fence::by_one) __threadfence();
    last = atomicAdd(count, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  return last;
}

__device__ __forceinline__ float add_blocks(const float* partial) {
  float sum = 0;
  for (unsigned k = 0; k < gridDim.x; ++k) {
    sum += partial[k * blockDim.x + 63 - threadIdx.x];  // reported in no_fence, early_fence: race
  }
  return sum;
}

__global__ void last_block_reduces(float* y, const float* x, float* partial, unsigned* count) {
  const unsigned i = threadIdx.x;
  partial[blockIdx.x * blockDim.x + i] = x[i];
  if (is_last_block<Fence::by_each>(count)) {
    y[i] = add_blocks(partial);
    if (i == 0) *count = 0;
  }
}

__global__ void one_fence_for_all(float* y, const float* x, float* partial, unsigned* count) {
  const unsigned i = threadIdx.x;
  partial[blockIdx.x * blockDim.x + i] = x[i];
  if (is_last_block<Fence::by_one>(count)) y[i] = add_blocks(partial);
}

__global__ void no_fence(float* y, const float* x, float* partial, unsigned* count) {
  const unsigned i = threadIdx.x;
  partial[blockIdx.x * blockDim.x + i] = x[i];  // reported: race
  if (is_last_block<Fence::none>(count)) y[i] = add_blocks(partial);
}

__global__ void early_fence(float* y, const float* x, float* partial, unsigned* count) {
  const unsigned i = threadIdx.x;
  __threadfence();
  partial[blockIdx.x * blockDim.x + i] = x[i];  // reported: race
  if (is_last_block<Fence::none>(count)) y[i] = add_blocks(partial);
}

// --- cp.async ------------------------------------------------------------------------------------

__global__ void async_without_wait(float* y, const float* x) {
  __shared__ __align__(16) float tile[64];
  const unsigned i = threadIdx.x;
  ptx::cp_async<4>(&tile[i], &x[i]);  // reported: race
  ptx::cp_async_commit();
  __syncthreads();
  y[i] = tile[63 - i];  // reported: race
  ptx::cp_async_wait_group<0>();
}

__global__ void async_without_barrier(float* y, const float* x) {
  __shared__ __align__(16) float tile[64];
  const unsigned i = threadIdx.x;
  ptx::cp_async<4>(&tile[i], &x[i]);  // reported: race
  ptx::cp_async_commit();
  ptx::cp_async_wait_group<0>();
  y[i] = tile[63 - i];  // reported: race, uninitialised shared read
}

template <bool barrier_before_refill, int pending>
__device__ __forceinline__ float pipeline(float* tile, const float* x, int stages) {
  const int i = static_cast<int>(threadIdx.x);
  float sum = 0;
  ptx::cp_async<4>(&tile[i], &x[i]);  // reported in async_wrong_group: race
  ptx::cp_async_commit();
  for (int k = 0; k < stages; ++k) {
    const int to = 64 * ((k + 1) % 2), from = 64 * (k % 2);
    if (k + 1 < stages) {
      const float* next = &x[64 * (k + 1) + i];
      ptx::cp_async<4>(&tile[to + i], next);  // reported in async_refill, async_wrong_group: race
    }
    ptx::cp_async_commit();
    ptx::cp_async_wait_group<pending>();
    __syncthreads();
    sum += tile[from + 63 - i];  // reported in async_refill, async_wrong_group: race
    if (barrier_before_refill) __syncthreads();
  }
  return sum;
}

__global__ void async_double_buffer(float* y, const float* x) {
  __shared__ __align__(16) float tile[128];
  y[threadIdx.x] = pipeline<true, 1>(tile, x, 4);
}

__global__ void async_refill(float* y, const float* x) {
  __shared__ __align__(16) float tile[128];
  y[threadIdx.x] = pipeline<false, 1>(tile, x, 4);
}

__global__ void async_wrong_group(float* y, const float* x) {
  __shared__ __align__(16) float tile[128];
  y[threadIdx.x] = pipeline<true, 2>(tile, x, 4);
}

// --- traffic -------------------------------------------------------------------------------------

// y (32, 32) = x (32, 32) transposed, by 32 x 8 threads.
template <int pitch>
__device__ __forceinline__ void transpose(float* tile, float* y, const float* x) {
  const unsigned column = threadIdx.x;
  for (unsigned row = threadIdx.y; row < 32; row += 8) {
    tile[row * pitch + column] = x[row * 32 + column];  // line: row_store
  }
  __syncthreads();
  for (unsigned row = threadIdx.y; row < 32; row += 8) {
    y[row * 32 + column] = tile[column * pitch + row];  // line: column_load
  }
}

__global__ void transpose_unpadded(float* y, const float* x) {
  __shared__ float tile[32 * 32];
  transpose<32>(tile, y, x);
}

__global__ void transpose_padded(float* y, const float* x) {
  __shared__ float tile[32 * 33];
  transpose<33>(tile, y, x);
}

__global__ void column_store(float* y, const float* x) {
  for (unsigned row = threadIdx.y; row < 32; row += 8) {
    y[threadIdx.x * 32 + row] = x[row * 32 + threadIdx.x];  // line: column_store
  }
}

__global__ void vector_copy(float* y, const float* x) {
  auto* to = reinterpret_cast<float4*>(y);
  const auto* from = reinterpret_cast<const float4*>(x);
  to[threadIdx.x] = from[threadIdx.x];  // line: vector_copy
}

__global__ void vector_shared(float* y, const float* x) {
  __shared__ float4 tile[64];
  tile[threadIdx.x] = reinterpret_cast<const float4*>(x)[threadIdx.x];  // line: vector_shared
  __syncwarp();
  reinterpret_cast<float4*>(y)[threadIdx.x] = tile[threadIdx.x];
}

__global__ void odd_lanes(float* y, const float* x) {
  const unsigned i = threadIdx.x;
  if (i % 2 == 1) y[i] = x[i];  // line: odd_lanes
}

__global__ void half_warp(float* y, const float* x) {
  const unsigned i = threadIdx.x;
  y[i] = x[i];
  if (i % 32 < 16) y[i + 64] = x[i + 64];
}

__global__ void histogram(unsigned* count) {
  atomicAdd(&count[threadIdx.x % 8], 1u);  // line: histogram
}

// --- host ----------------------------------------------------------------------------------------

// n elements on the device, 0, 1, 2, ...
template <class T>
struct Device {
  explicit Device(size_t n) : data(static_cast<T*>(device_malloc(n * sizeof(T)))) {
    std::vector<T> values(n);
    for (size_t i = 0; i < n; ++i) values[i] = static_cast<T>(i);
    copy_to_device(data, values.data(), n * sizeof(T));
  }
  Device(const Device&) = delete;
  ~Device() { device_free(data); }

  T* const data;
};

using XtoY = void (*)(float*, const float*);

struct Case {
  const char* name;
  void (*run)();
};

template <XtoY kernel>
void one_block() {
  Device<float> y(128), x(256);
  launch(kernel, 1, 64, 0, current_stream(), y.data, x.data);
}

template <XtoY kernel>
void two_blocks() {
  Device<float> y(64), x(64);
  launch(kernel, 2, 64, 0, current_stream(), y.data, x.data);
}

template <XtoY kernel>
void with_dynamic_shared() {
  Device<float> y(64), x(64);
  launch(kernel, 1, 64, 64 * sizeof(float), current_stream(), y.data, x.data);
}

template <XtoY kernel>
void square() {
  Device<float> y(32 * 32), x(32 * 32);
  launch(kernel, 1, dim3(32, 8), 0, current_stream(), y.data, x.data);
}

template <void (*kernel)(float*, const float*, float*, unsigned*)>
void last_block() {
  Device<float> y(64), x(64), partial(3 * 64);
  Device<unsigned> count(1);
  for (int i = 0; i < 2; ++i) {
    launch(kernel, 3, 64, 0, current_stream(), y.data, x.data, partial.data, count.data);
  }
}

template <XtoY kernel>
void vectors() {
  Device<float> y(256), x(256);
  launch(kernel, 1, 64, 0, current_stream(), y.data, x.data);
}

#define ONE_BLOCK(kernel) {#kernel, one_block<kernel>}
#define TWO_BLOCKS(kernel) {#kernel, two_blocks<kernel>}
#define WITH_DYNAMIC_SHARED(kernel) {#kernel, with_dynamic_shared<kernel>}

const Case cases[] = {
    ONE_BLOCK(removed_barrier),
    ONE_BLOCK(with_barrier),
    ONE_BLOCK(barrier_at_one_end_of_loop),
    ONE_BLOCK(barrier_at_both_ends_of_loop),
    ONE_BLOCK(divergent_barrier),
    ONE_BLOCK(convergent_barrier),
    ONE_BLOCK(race_in_helper),
    ONE_BLOCK(barrier_in_helper),
    ONE_BLOCK(syncwarp_too_weak),
    ONE_BLOCK(syncwarp_strong_enough),
    ONE_BLOCK(half_mask),
    ONE_BLOCK(half_mask_for_half_warp),
    ONE_BLOCK(masks_in_turn),
    ONE_BLOCK(before_volta),
    ONE_BLOCK(since_volta),
    ONE_BLOCK(shuffles),
    ONE_BLOCK(write_read_only),
    ONE_BLOCK(misaligned_vector),
    ONE_BLOCK(aligned_vector),
    ONE_BLOCK(unwritten_shared),
    ONE_BLOCK(neighbouring_bytes),
    ONE_BLOCK(same_bytes),
    ONE_BLOCK(async_without_wait),
    ONE_BLOCK(async_without_barrier),
    ONE_BLOCK(async_double_buffer),
    ONE_BLOCK(async_refill),
    ONE_BLOCK(async_wrong_group),
    ONE_BLOCK(odd_lanes),
    ONE_BLOCK(half_warp),
    TWO_BLOCKS(two_blocks_write_one_word),
    TWO_BLOCKS(two_blocks_write_two_words),
    WITH_DYNAMIC_SHARED(unwritten_dynamic_shared),
    WITH_DYNAMIC_SHARED(written_dynamic_shared),
    WITH_DYNAMIC_SHARED(dynamic_shared_out_of_bounds),
    WITH_DYNAMIC_SHARED(race_in_dynamic_shared),
    {"store_out_of_bounds",
     [] {
       Device<float> y(105), x(105);
       launch(store_out_of_bounds, 2, 64, 0, current_stream(), y.data, x.data, 105);
     }},
    {"store_in_bounds",
     [] {
       Device<float> y(105), x(105);
       launch(store_in_bounds, 2, 64, 0, current_stream(), y.data, x.data, 105);
     }},
    {"load_out_of_bounds",
     [] {
       Device<float> y(64), x(64);
       launch(load_out_of_bounds, 1, 64, 0, current_stream(), y.data, x.data, 64);
     }},
    {"vector_out_of_bounds",
     [] {
       Device<float> y(64), x(126);
       launch(vector_out_of_bounds, 1, 32, 0, current_stream(), y.data, x.data);
     }},
    {"read_freed",
     [] {
       Device<float> y(64);
       auto* x = static_cast<float*>(device_malloc(64 * sizeof(float)));
       device_free(x);
       launch(read_freed, 1, 64, 0, current_stream(), y.data, x);
     }},
    {"read_host_memory",
     [] {
       Device<float> y(64);
       const std::vector<float> x(1 << 20);  // far from everything
       launch(read_host_memory, 1, 64, 0, current_stream(), y.data, x.data() + (1 << 19));
     }},
    {"read_null",
     [] {
       Device<float> y(64);
       launch(read_null, 1, 64, 0, current_stream(), y.data, nullptr);
     }},
    {"local_arrays",
     [] {
       Device<float> y(64), x(64);
       launch(local_arrays, 1, 64, 0, current_stream(), y.data, x.data, 3);
     }},
    {"parameters_by_value",
     [] {
       Device<float> y(256), x(256);
       ManyParameters p{};
       for (int k = 0; k < 4; ++k) {
         p.y[k] = y.data + 64 * k;
         p.x[k] = x.data + 64 * k;
         p.scale[k] = 2;
       }
       launch(parameters_by_value, 1, 64, 0, current_stream(), p);
     }},
    {"in_place_shift",
     [] {
       Device<float> y(64);
       launch(in_place_shift, 1, 64, 0, current_stream(), y.data);
     }},
    {"in_place_shift_with_barrier",
     [] {
       Device<float> y(64);
       launch(in_place_shift_with_barrier, 1, 64, 0, current_stream(), y.data);
     }},
    {"atomic_against_plain",
     [] {
       Device<float> y(1);
       Device<unsigned> count(1);
       launch(atomic_against_plain, 1, 64, 0, current_stream(), y.data, count.data);
     }},
    {"atomics_only",
     [] {
       Device<float> y(128);
       Device<unsigned> count(1);
       launch(atomics_only, 2, 64, 0, current_stream(), y.data, count.data);
     }},
    {"atomic_after_plain_write",
     [] {
       Device<unsigned> count(1);
       launch(atomic_after_plain_write, 1, 64, 0, current_stream(), count.data);
     }},
    {"last_block_reduces", last_block<last_block_reduces>},
    {"one_fence_for_all", last_block<one_fence_for_all>},
    {"no_fence", last_block<no_fence>},
    {"early_fence", last_block<early_fence>},
    {"transpose_unpadded", square<transpose_unpadded>},
    {"transpose_padded", square<transpose_padded>},
    {"column_store", square<column_store>},
    {"vector_copy", vectors<vector_copy>},
    {"vector_shared", vectors<vector_shared>},
    {"histogram",
     [] {
       Device<unsigned> count(8);
       launch(histogram, 1, 64, 0, current_stream(), count.data);
     }},
};

// Arrays of the host that the launch is told of, as Python's are.
void run_write_read_only() {
  std::vector<float> y(64), x(64);
  simt::trace::memory_add(y.data(), 64 * sizeof(float), "y", true);
  simt::trace::memory_add(x.data(), 64 * sizeof(float), "x", false);
  launch(write_read_only, 1, 64, 0, current_stream(), y.data(), x.data());
  simt::trace::memory_remove(x.data());
  simt::trace::memory_remove(y.data());
}

bool wanted(const char* name, int count, char** names) {
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(names[i], name) == 0) return true;
  }
  return count == 0;
}

}  // namespace cuda
}  // namespace tilegrad

int main(int argc, char** argv) {
  using namespace tilegrad::cuda;
  const bool raising = std::strcmp(argv[1], "raise") == 0;
  simt::set_schedule(raising ? 0 : std::strtoull(argv[1], nullptr, 10));
  const char* separator = "{";
  for (const Case& c : cases) {
    if (!wanted(c.name, argc - 2, argv + 2)) continue;
    simt::trace_start(raising);
    const bool host_arrays = std::strcmp(c.name, "write_read_only") == 0;
    try {
      host_arrays ? run_write_read_only() : c.run();
    } catch (const simt::Error& e) {
      std::fprintf(stderr, "%s: %s\n", c.name, e.what());
    }
    std::printf("%s\"%s\": %s", separator, c.name, simt::trace_stop().c_str());
    separator = ",\n";
  }
  std::printf("}\n");
}
