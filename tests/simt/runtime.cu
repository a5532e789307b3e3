// What the simulator must run, and what it must refuse. Arguments: the schedule's seed, then names of
// cases (none: all). Prints "case: ok" for each, or the error's text, its lines joined by " | ".
// tests/test_simt.py knows what to expect; a line marked HERE is one that a message must name.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../../csrc/cuda/device.h"
#include "../../csrc/simt/control.h"

namespace tilegrad {
namespace cuda {

// --- what must work --------------------------------------------------------------------------------

__global__ void indices(int* y) {
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  y[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1000 * block + thread;
}

// y[i] = sum of all x that thread i of its block can see behind each barrier
__global__ void barrier(int* y, int rounds) {
  __shared__ int x[1024];
  int sum = 0;
  for (int i = 0; i < rounds; ++i) {
    x[threadIdx.x] = i;
    __syncthreads();
    for (unsigned j = 0; j < blockDim.x; ++j) sum += x[j];
    __syncthreads();
  }
  y[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

__global__ void barrier_votes(int* y) {
  const int x = threadIdx.x;
  y[3 * x] = __syncthreads_count(x % 3 == 0);
  y[3 * x + 1] = __syncthreads_or(x == 77) + 10 * __syncthreads_or(x == 1000);
  y[3 * x + 2] = __syncthreads_and(x < 1000) + 10 * __syncthreads_and(x != 77);
}

__global__ void early_exit(int* y, int n) {
  const int i = threadIdx.x;
  if (i >= n) return;
  __shared__ int x[64];
  x[i] = i;
  __syncthreads();
  y[i] = x[n - 1 - i];
}

// Half a warp goes on alone, as often as it likes.
__global__ void half_warps(int* y) {
  const unsigned half = threadIdx.x / 16 % 2, mask = half == 0 ? 0x0000ffffu : 0xffff0000u;
  int sum = threadIdx.x;
  for (unsigned i = 0; i < 3 + 4 * half; ++i) sum += __shfl_xor_sync(mask, sum, 1);
  __syncwarp();
  y[threadIdx.x] = sum;
}

__global__ void warp_trip_counts(int* y) {
  const int warp = threadIdx.x / 32;
  int sum = 0;
  for (int i = 0; i <= warp; ++i) sum += __shfl_sync(full_warp, i + warp, i);
  __syncthreads();
  y[threadIdx.x] = sum;
}

__global__ void shuffles(int* y, double* d, long long* q) {
  const int lane = threadIdx.x;
  int* of_lane = y + 8 * lane;
  of_lane[0] = __shfl_sync(full_warp, lane, lane * 5);
  of_lane[1] = __shfl_sync(full_warp, lane, 3, 8);
  of_lane[2] = __shfl_up_sync(full_warp, lane, 3);
  of_lane[3] = __shfl_up_sync(full_warp, lane, 3, 16);
  of_lane[4] = __shfl_down_sync(full_warp, lane, 5);
  of_lane[5] = __shfl_down_sync(full_warp, lane, 5, 8);
  of_lane[6] = __shfl_xor_sync(full_warp, lane, 9);
  of_lane[7] = __shfl_xor_sync(full_warp, lane, 12, 8);
  d[lane] = __shfl_xor_sync(full_warp, 0.25 + lane, 1) + __shfl_up_sync(full_warp, 1.0f * lane, 1);
  q[lane] = __shfl_down_sync(full_warp, (1ll << 40) + lane, 1);
}

__global__ void votes(unsigned* y) {
  const int lane = threadIdx.x;
  unsigned* of_lane = y + 8 * lane;
  of_lane[0] = __ballot_sync(full_warp, lane % 3 == 0);
  of_lane[1] = __any_sync(full_warp, lane == 31) + 10 * __any_sync(full_warp, lane > 31);
  of_lane[2] = __all_sync(full_warp, lane < 32) + 10 * __all_sync(full_warp, lane < 31);
  of_lane[3] = __reduce_add_sync(full_warp, static_cast<unsigned>(lane));
  of_lane[4] = static_cast<unsigned>(__reduce_min_sync(full_warp, 5 - lane));
  of_lane[5] = static_cast<unsigned>(__reduce_max_sync(full_warp, lane ^ 9));
  const unsigned odd = 0xaaaaaaaau;
  of_lane[6] = __ballot_sync(lane % 2 == 0 ? ~odd : odd, lane > 15);
  of_lane[7] = 0;
}

__global__ void atomics(unsigned* u, int* i, float* f, unsigned long long* q) {
  const unsigned x = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&u[0], 1);
  atomicSub(&u[1], 1u);
  atomicMax(&u[2], x);
  atomicOr(&u[3], 1u << x % 32);
  atomicAnd(&u[4], ~(1u << x % 16));
  atomicXor(&u[5], x);
  atomicMin(&i[0], -static_cast<int>(x));
  atomicAdd(&i[1], -1);
  atomicAdd(f, 0.5f);
  atomicAdd(q, 1ull << 33);
  // a sum by compare and swap
  for (unsigned old = 0, seen;; old = seen) {
    seen = atomicCAS(&u[6], old, old + 2);
    if (seen == old) break;
  }
  if (atomicExch(&u[7], 1u) == 0) atomicAdd(&i[2], 1);  // exactly one thread
}

__global__ void dynamic_shared(int* y) {
  float* x = dyn_smem<float>();
  const bool aligned = reinterpret_cast<uintptr_t>(x) % 128 == 0;
  const bool poisoned = isnan(x[threadIdx.x]);
  __syncthreads();
  x[threadIdx.x] = threadIdx.x;
  __syncthreads();
  const bool right = x[blockDim.x - 1 - threadIdx.x] == blockDim.x - 1 - threadIdx.x;
  y[blockIdx.x * blockDim.x + threadIdx.x] = aligned + 2 * poisoned + 4 * right;
}

// What a block finds in shared memory, before it writes there.
__global__ void poison(int* y) {
  __shared__ float x[1000];
  __shared__ __align__(16) float4 v[10];
  bool all = true;
  for (int i = threadIdx.x; i < 1000; i += blockDim.x) all = all && isnan(x[i]);
  for (int i = threadIdx.x; i < 10; i += blockDim.x) all = all && isnan(v[i].w);
  y[blockIdx.x * blockDim.x + threadIdx.x] = all;
  __syncthreads();
  const int written = blockIdx.x % 2 == 0 ? 1000 : 500;
  for (int i = threadIdx.x; i < written; i += blockDim.x) x[i] = 0;
  if (threadIdx.x < 10) v[threadIdx.x] = make_float4(0, 0, 0, 0);
}

struct Pair {
  int a[2];
};

// A thread's parameters are its own.
__global__ void parameters(int* y, Pair p, float scale) {
  p.a[threadIdx.x % 2] += threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = static_cast<int>(scale * (p.a[0] + p.a[1]));
}

__global__ void vectors(float4* y, const float4* x, int* i) {
  __shared__ float4 tile[32];
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  float4 v = tile[31 - threadIdx.x];
  v.x += 1;
  y[threadIdx.x] = v;
  const int4 q = make_int4(1, 2, 3, 4);
  const float2 p{1.5f, 2.5f};
  i[threadIdx.x] = q.x + q.w + static_cast<int>(p.x + p.y) + __popc(0xff) + __clz(1) + __ffs(8) +
                   min(3, 4) + static_cast<int>(max(1.0f, 2.0f)) + __float_as_int(0.0f) +
                   static_cast<int>(__umulhi(1u << 31, 4));
}

// The copies into static and dynamic shared memory arrive at the wait, and not before.
__global__ void async_copies(int* y, const float* x) {
  __shared__ __align__(16) float a[4];
  float* b = dyn_smem<float>();
  simt::async_copy(a, x, 16, 16, nullptr);
  simt::async_commit();
  simt::async_copy(b, x + 4, 16, 8, nullptr);
  simt::async_commit();
  int result = isnan(a[0]) + 2 * isnan(b[0]);
  simt::async_wait(1);
  result += 4 * (a[0] == x[0] && a[3] == x[3]) + 8 * isnan(b[0]);
  simt::async_wait(0);
  result += 16 * (b[0] == x[4] && b[1] == x[5] && b[2] == 0 && b[3] == 0);
  *y = result;
}

// --- what must be refused --------------------------------------------------------------------------
// Block 0 is right, block 1 is not.

__global__ void shuffle_from_exited(int* y) {
  if (blockIdx.x == 1 && threadIdx.x == 3) return;
  int v = threadIdx.x;
  if (threadIdx.x < 8) v = __shfl_sync(0xffu, v, threadIdx.x == 5 ? 3 : 0);  // HERE: from_exited
  y[threadIdx.x] = v;
}

__global__ void shuffle_outside_mask(int* y) {
  const int source = blockIdx.x == 1 ? 20 : 2;
  if (threadIdx.x < 16) {
    y[threadIdx.x] = __shfl_sync(0xffffu, 1, threadIdx.x == 7 ? source : 1);  // HERE: outside
  }
}

__global__ void lane_outside_own_mask() {
  if (blockIdx.x == 1 || threadIdx.x != 9) __syncwarp(0xfffffdffu);  // HERE: own_mask
}

__global__ void two_operations(int* y) {
  if (blockIdx.x == 1 && threadIdx.x % 2 == 1) {
    y[threadIdx.x] = __any_sync(full_warp, 1);  // HERE: any
  } else {
    y[threadIdx.x] = __shfl_sync(full_warp, 1, 0);  // HERE: shuffle
  }
}

__global__ void divergent_barrier() {
  if (blockIdx.x == 0 || threadIdx.x < 40) {
    __syncthreads();  // HERE: barrier_1
  } else {
    __syncthreads();  // HERE: barrier_2
  }
}

// clang-format off
__global__ void divergent_barrier_on_one_line() {
  if (blockIdx.x == 0 || threadIdx.x < 40) { __syncthreads(); } else { __syncthreads(); }  // HERE: one_line
}
// clang-format on

// Lanes 0-7 of warp 1 wait for their warp, the rest of the block waits for them.
__global__ void deadlock(int* y) {
  if (blockIdx.x == 1 && threadIdx.x / 8 == 4) {
    y[threadIdx.x] = __shfl_sync(full_warp, 1, 31);  // HERE: deadlock_shuffle
  }
  __syncthreads();  // HERE: deadlock_barrier
}

__global__ void barrier_after_exit() {
  if (blockIdx.x == 1 && threadIdx.x > 20) return;
  __syncthreads();  // HERE: strict_barrier
}

__global__ void mask_names_exited() {
  if (blockIdx.x == 1 && threadIdx.x == 30) return;
  __syncwarp();  // HERE: strict_mask
}

__global__ void odd_width(int* y) {
  *y = __shfl_sync(full_warp, 1, 0, blockIdx.x == 1 ? 12 : 16);  // HERE: odd_width
}

__global__ void trap() {
  if (blockIdx.x == 1 && threadIdx.x == 33) __trap();  // HERE: trap
}

__global__ void dynamic_overrun() {
  if (threadIdx.x == 0) dyn_smem<int>()[blockIdx.x == 1 ? 25 : 24] = 0;  // of 25
}

__global__ void throws() {
  if (blockIdx.x == 1 && threadIdx.x == 3) throw std::runtime_error("thrown by a kernel");
  __syncthreads();
}

template <int n>
__global__ void nothing() {}

__global__ void launches_again() { launch(nothing<1>, 1, 1, 0, current_stream()); }

__global__ void large_static_shared(int* y, int bytes) {
  __shared__ unsigned char a[40000];
  __shared__ unsigned char b[40000];
  for (int i = threadIdx.x; i < bytes; i += blockDim.x) a[i] = b[i] = static_cast<unsigned char>(i);
  __syncthreads();
  y[threadIdx.x] = a[threadIdx.x] + b[bytes - 1 - threadIdx.x];
}

}  // namespace cuda
}  // namespace tilegrad

namespace {

using namespace tilegrad;
using namespace tilegrad::cuda;

void require(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error("wrong: " + what);
}

// `count` elements of device memory, 0 at first.
template <class T>
class Array {
 public:
  explicit Array(size_t count) : Array(std::vector<T>(count)) {}
  explicit Array(const std::vector<T>& x)
      : count_(x.size()), data_(static_cast<T*>(device_malloc(count_ * sizeof(T)))) {
    copy_to_device(data_, x.data(), count_ * sizeof(T));
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { device_free(data_); }

  T* data() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> x(count_);
    copy_to_host(x.data(), data_, count_ * sizeof(T));
    return x;
  }
  // Compares all elements with f(i).
  template <class F>
  void expect(F f) const {
    const std::vector<T> x = values();
    for (size_t i = 0; i < count_; ++i) {
      const T want = static_cast<T>(f(static_cast<int>(i)));
      require(x[i] == want, "element " + std::to_string(i) + " is " + std::to_string(x[i]) +
                                ", expected " + std::to_string(want));
    }
  }

 private:
  size_t count_;
  T* data_;
};

// launch on the one stream there is
template <class... Parameters, class... Args>
void go(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t smem, Args... args) {
  launch(kernel, grid, block, smem, current_stream(), args...);
}

void run_strict(const std::function<void()>& f) {
  simt::set_strict(true);
  try {
    f();
  } catch (...) {
    simt::set_strict(false);
    throw;
  }
  simt::set_strict(false);
}

// What a warp's shuffles must give, for lane i: the contents of `shuffles`.
int shuffled(int i) {
  const int lane = i / 8;
  switch (i % 8) {
    case 0:
      return lane * 5 % 32;
    case 1:
      return lane / 8 * 8 + 3;
    case 2:
      return lane < 3 ? lane : lane - 3;
    case 3:
      return lane % 16 < 3 ? lane : lane - 3;
    case 4:
      return lane > 26 ? lane : lane + 5;
    case 5:
      return lane % 8 > 2 ? lane : lane + 5;
    case 6:
      return lane ^ 9;
    default:
      return (lane ^ 12) / 8 > lane / 8 ? lane : lane ^ 12;
  }
}

unsigned voted(int i) {
  const int lane = i / 8;
  switch (i % 8) {
    case 0:
      return 0x49249249u;
    case 1:
    case 2:
      return 1;
    case 3:
      return 496;
    case 4:
      return static_cast<unsigned>(-26);
    case 5:
      return 31;
    case 6:
      return lane % 2 == 0 ? 0x55550000u : 0xaaaa0000u;
    default:
      return 0;
  }
}

const std::vector<std::pair<std::string, std::function<void()>>> cases = {
    {"indices",
     [] {
       Array<int> y(2 * 3 * 2 * 5 * 4 * 3);
       go(indices, dim3(2, 3, 2), dim3(5, 4, 3), 0, y.data());
       y.expect([](int i) { return 1000 * (i / 60) + i % 60; });
     }},
    {"barrier",
     [] {
       for (int threads : {1, 31, 33, 256, 1024}) {
         Array<int> y(static_cast<size_t>(2 * threads));
         go(barrier, 2, threads, 0, y.data(), 5);
         y.expect([=](int) { return 10 * threads; });
       }
     }},
    {"barrier_votes",
     [] {
       Array<int> y(3 * 100);
       go(barrier_votes, 1, 100, 0, y.data());
       y.expect([](int i) { return i % 3 == 0 ? 34 : 1; });
     }},
    {"early_exit",
     [] {
       Array<int> y(50);
       go(early_exit, 1, 64, 0, y.data(), 50);
       y.expect([](int i) { return 49 - i; });
     }},
    {"half_warps",
     [] {
       Array<int> y(64);
       go(half_warps, 1, 64, 0, y.data());
       y.expect([](int i) { return ((i & ~1) * 2 + 1) << (i / 16 % 2 == 0 ? 2 : 6); });
     }},
    {"warp_trip_counts",
     [] {
       Array<int> y(128);
       go(warp_trip_counts, 1, 128, 0, y.data());
       y.expect([](int i) { return (i / 32 + 1) * (3 * (i / 32)) / 2; });
     }},
    {"shuffles",
     [] {
       Array<int> y(8 * 32);
       Array<double> d(32);
       Array<long long> q(32);
       go(shuffles, 1, 32, 0, y.data(), d.data(), q.data());
       y.expect(shuffled);
       d.expect([](int i) { return 0.25 + (i ^ 1) + (i == 0 ? 0 : i - 1); });
       q.expect([](int i) { return (1ll << 40) + (i == 31 ? 31 : i + 1); });
     }},
    {"votes",
     [] {
       Array<unsigned> y(8 * 32);
       go(votes, 1, 32, 0, y.data());
       y.expect(voted);
     }},
    {"atomics",
     [] {
       Array<unsigned> u(std::vector<unsigned>{0, 1000, 0, 0, 0xffffffffu, 0, 0, 0});
       Array<int> i(3);
       Array<float> f(1);
       Array<unsigned long long> q(1);
       go(atomics, 10, 100, 0, u.data(), i.data(), f.data(), q.data());
       const unsigned want[] = {1000, 0, 999, 0xffffffffu, 0xffff0000u, 0, 2000, 1};
       u.expect([&](int k) { return want[k]; });
       const int want_int[] = {-999, -1000, 1};
       i.expect([&](int k) { return want_int[k]; });
       f.expect([](int) { return 500; });
       q.expect([](int) { return 1000ull << 33; });
     }},
    {"dynamic_shared",
     [] {
       Array<int> y(3 * 999);
       go(dynamic_shared, 3, 999, 999 * sizeof(float), y.data());
       y.expect([](int) { return 7; });
     }},
    {"most_dynamic_shared",
     [] {
       Array<int> y(1024);
       go(dynamic_shared, 1, 1024, 227 * 1024, y.data());
       y.expect([](int) { return 7; });
     }},
    {"poison",
     [] {
       for (int repeat = 0; repeat < 2; ++repeat) {
         Array<int> y(9 * 64);
         go(poison, 9, 64, 0, y.data());
         y.expect([](int) { return 1; });
       }
     }},
    {"parameters",
     [] {
       Array<int> y(64);
       go(parameters, 1, 64, 0, y.data(), Pair{{3, 4}}, 2);
       y.expect([](int i) { return 2 * (7 + i); });
     }},
    {"vectors",
     [] {
       std::vector<float> values(128);
       for (size_t i = 0; i < 128; ++i) values[i] = static_cast<float>(i);
       Array<float> x(values), y(128);
       Array<int> q(32);
       go(vectors, 1, 32, 0, reinterpret_cast<float4*>(y.data()),
          reinterpret_cast<const float4*>(x.data()), q.data());
       y.expect([](int i) { return 4 * (31 - i / 4) + i % 4 + (i % 4 == 0); });
       q.expect([](int) { return 1 + 4 + 4 + 8 + 31 + 4 + 3 + 2 + 0 + 2; });
     }},
    {"async_copies",
     [] {
       Array<float> x(std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8});
       Array<int> y(1);
       go(async_copies, 1, 1, 16, y.data(), x.data());
       y.expect([](int) { return 31; });
     }},
    {"threads",  // Launches from two OS threads wait for each other.
     [] {
       std::string problems[2];
       auto work = [&problems](int t) {
         try {
           for (int i = 0; i < 50; ++i) {
             Array<int> y(9 * 64);
             go(barrier, 9, 64, 0, y.data(), 3);
             y.expect([](int) { return 192; });
           }
         } catch (const std::exception& e) {
           problems[t] = e.what();
         }
       };
       std::thread other(work, 1);
       work(0);
       other.join();
       require(problems[0].empty() && problems[1].empty(), problems[0] + problems[1]);
     }},
    {"fork",  // A child can go on launching.
     [] {
       std::thread busy([] {
         for (int i = 0; i < 200; ++i) {
           Array<int> y(2 * 256);
           go(barrier, 2, 256, 0, y.data(), 5);
         }
       });
       for (int i = 0; i < 5; ++i) {
         const pid_t child = fork();
         if (child == 0) {
           Array<int> y(64);
           go(barrier, 1, 64, 0, y.data(), 3);
           _exit(y.values()[5] == 192 ? 0 : 1);
         }
         int status = -1;
         waitpid(child, &status, 0);
         if (status != 0) {
           busy.join();
           require(false, "the child ended with status " + std::to_string(status));
         }
       }
       busy.join();
     }},

    {"shuffle_from_exited",
     [] {
       Array<int> y(32);
       go(shuffle_from_exited, 2, 32, 0, y.data());
     }},
    {"shuffle_outside_mask",
     [] {
       Array<int> y(32);
       go(shuffle_outside_mask, 2, 32, 0, y.data());
     }},
    {"lane_outside_own_mask", [] { go(lane_outside_own_mask, 2, 32, 0); }},
    {"two_operations",
     [] {
       Array<int> y(32);
       go(two_operations, 2, 32, 0, y.data());
     }},
    {"divergent_barrier", [] { go(divergent_barrier, 2, 64, 0); }},
    {"divergent_barrier_on_one_line", [] { go(divergent_barrier_on_one_line, 2, 64, 0); }},
    {"deadlock",
     [] {
       Array<int> y(64);
       go(deadlock, 2, 64, 0, y.data());
     }},
    {"odd_width",
     [] {
       Array<int> y(1);
       go(odd_width, 2, 1, 0, y.data());
     }},
    {"trap", [] { go(trap, 2, 64, 0); }},
    {"dynamic_overrun", [] { go(dynamic_overrun, 2, 32, 25 * sizeof(int)); }},
    {"throws", [] { go(throws, 2, 32, 0); }},
    {"launches_again", [] { go(launches_again, 1, 1, 0); }},
    {"static_shared_limit",
     [] {
       Array<int> y(32);
       go(large_static_shared, 1, 32, 0, y.data(), 40000);
     }},
    {"all_shared_limit",
     [] {
       Array<int> y(32);
       go(large_static_shared, 1, 32, 226 * 1024, y.data(), 2000);
     }},
    {"strict_barrier", [] { run_strict([] { go(barrier_after_exit, 2, 32, 0); }); }},
    {"lenient_barrier", [] { go(barrier_after_exit, 2, 32, 0); }},
    {"strict_mask", [] { run_strict([] { go(mask_names_exited, 2, 32, 0); }); }},
    {"lenient_mask", [] { go(mask_names_exited, 2, 32, 0); }},
    {"strict_absent_lanes", [] { run_strict([] { go(mask_names_exited, 1, 8, 0); }); }},
    {"block_too_large", [] { go(nothing<3>, 1, dim3(32, 33), 0); }},
    {"block_too_wide", [] { go(nothing<3>, 1, 1025, 0); }},
    {"block_too_deep", [] { go(nothing<3>, 1, dim3(1, 1, 65), 0); }},
    {"block_empty", [] { go(nothing<3>, 1, dim3(32, 0), 0); }},
    {"grid_empty", [] { go(nothing<3>, 0, 32, 0); }},
    {"grid_too_high", [] { go(nothing<3>, dim3(1, 65536), 32, 0); }},
    {"grid_too_deep", [] { go(nothing<3>, dim3(1, 1, 65536), 32, 0); }},
    {"grid_too_wide", [] { go(nothing<3>, dim3(0x80000000u), 32, 0); }},
    {"grid_high", [] { go(nothing<3>, dim3(1, 65535), 1, 0); }},
    {"dynamic_too_large", [] { go(nothing<3>, 1, 32, 227 * 1024 + 1); }},
    {"free_twice",
     [] {
       void* p = device_malloc(4);
       device_free(p);
       device_free(p);
     }},
    {"copy_too_much",
     [] {
       Array<int> x(4);
       int y[5];
       copy_to_host(y, x.data(), sizeof y);
     }},
};

std::string outcome(const std::function<void()>& run_case) {
  try {
    run_case();
    return "ok";
  } catch (const std::exception& e) {
    std::string text;
    for (const char* c = e.what(); *c != '\0'; ++c) text += *c == '\n' ? " | " : std::string(1, *c);
    return text;
  }
}

}  // namespace

int main(int argc, char** argv) {
  simt::set_schedule(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 0);
  const std::vector<std::string> wanted(argv + std::min(argc, 2), argv + argc);
  for (const auto& [name, run_case] : cases) {
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), name) == wanted.end()) continue;
    std::printf("%s: %s\n", name.c_str(), outcome(run_case).c_str());
    std::fflush(stdout);
  }
}
