// Flat arrays: y[i] = f(x[0][i], x[1][i], ...), four elements at a time where they are aligned.
#pragma once
#include <algorithm>
#include <initializer_list>

#include "device.h"

namespace tilegrad {
namespace cuda {

constexpr int map_threads = 256;

// N neighbouring elements in registers
template <int N>
struct Pack {
  float v[N];
};

// Four elements at once ask for a 16-byte aligned p.
template <int N>
__device__ __forceinline__ Pack<N> load_pack(const float* p) {
  static_assert(N == 1 || N == 4);
  if constexpr (N == 4) {
    const float4 q = *reinterpret_cast<const float4*>(p);
    return {{q.x, q.y, q.z, q.w}};
  } else {
    return {{*p}};
  }
}

template <int N>
__device__ __forceinline__ void store_pack(float* p, const Pack<N>& a) {
  static_assert(N == 1 || N == 4);
  if constexpr (N == 4)
    *reinterpret_cast<float4*>(p) = make_float4(a.v[0], a.v[1], a.v[2], a.v[3]);
  else
    *p = a.v[0];
}

template <int N>
__device__ __forceinline__ Pack<N> splat(float x) {
  Pack<N> a;
#pragma unroll
  for (int i = 0; i < N; ++i) a.v[i] = x;
  return a;
}

// f of the first elements, f of the second ones, ...
template <int N, class F, class... X>
__device__ __forceinline__ Pack<N> apply(const F& f, const X&... x) {
  Pack<N> y;
#pragma unroll
  for (int i = 0; i < N; ++i) y.v[i] = f(x.v[i]...);
  return y;
}

// whether rows of so many elements, from each of these arrays, are packs of four
inline bool packs_of_4(int64_t row, std::initializer_list<const void*> arrays) {
  return row % 4 == 0 && std::all_of(arrays.begin(), arrays.end(), aligned_16);
}

// enough blocks to fill any GPU; each thread takes more than one item where there are more
inline unsigned map_blocks(int64_t items) {
  return static_cast<unsigned>(
      std::clamp<int64_t>(ceil_div(items, map_threads), 1, 8 * target_blocks));
}

// y[i] = f(x[0][i], ...)                  y, x (count); y may be one of x
template <int N, class F, class... X>
__global__ void __launch_bounds__(map_threads)
    map_elements(float* y, int64_t count, F f, const X*... x) {
  for (int64_t i = N * global_thread(); i + N <= count; i += N * all_threads())
    store_pack<N>(y + i, apply<N>(f, load_pack<N>(x + i)...));
  const int64_t rest = count / N * N + global_thread();
  if (rest < count) y[rest] = f(x[rest]...);
}

template <class F, class... X>
void map(float* y, int64_t count, F f, const X*... x) {
  if (count == 0) return;
  if ((aligned_16(y) && ... && aligned_16(x)))
    launch(map_elements<4, F, X...>, map_blocks(count / 4), map_threads, 0, current_stream(), y,
           count, f, x...);
  else
    launch(map_elements<1, F, X...>, map_blocks(count), map_threads, 0, current_stream(), y, count,
           f, x...);
}

}  // namespace cuda
}  // namespace tilegrad
