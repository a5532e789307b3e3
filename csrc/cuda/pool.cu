// y = max or mean over windows of x; dx sends dy to the maximum, or dy / count to the whole window.
// Layout (n, h, w, c); a thread takes one or four channels. Outputs are overwritten; no workspace.
// Forward: a thread per output. Backward of max: a thread per window, which writes all of dx there,
// if windows lie side by side; else, and for means, a thread per element of dx adds up the windows
// that read it, in order: no atomics where windows overlap, always the same bits.
// One pass over x (kh kw / stride^2 passes, in cache, where windows overlap): bound by memory.
#include "pool.h"

#include "../ops/conv_pool.h"
#include "../ops/elementwise.h"
#include "map.h"

namespace tilegrad {
namespace cuda {

// ---- places ----

// Pool2dShape in the integers of the kernels: int32_t where everything fits, divisions being slow.
template <class Int>
struct PoolSizes {
  Int h, w, packs;  // packs of channels of a pixel
  Int oh, ow, kh, kw, stride_h, stride_w, pad_top, pad_left;
};

template <class Int>
struct Place {
  Int image, i, j, pack;
};

// Pack `at` of an array (n, rows, cols, packs)
template <class Int>
__device__ __forceinline__ Place<Int> place_of(Int at, Int rows, Int cols, Int packs) {
  using Unsigned = std::make_unsigned_t<Int>;  // a shorter division
  const Unsigned pixel = static_cast<Unsigned>(at) / static_cast<Unsigned>(packs);
  const Unsigned line = pixel / static_cast<Unsigned>(cols);
  const Unsigned image = line / static_cast<Unsigned>(rows);
  return {static_cast<Int>(image), static_cast<Int>(line - image * rows),
          static_cast<Int>(pixel - line * cols), static_cast<Int>(at - pixel * packs)};
}

// The part [begin, end) of a window's taps that lies inside an axis of `size` elements; the window
// begins at element `first` of it.
template <class Int>
struct TapSpan {
  Int begin, end;
  __device__ __forceinline__ TapSpan(Int first, Int k, Int size)
      : begin(first < 0 ? -first : 0), end(k < size - first ? k : size - first) {}
};

// The windows [begin, end) of an axis that hold element `at`.
template <class Int>
struct WindowSpan {
  Int begin, end;
  __device__ __forceinline__ WindowSpan(Int at, Int k, Int stride, Int pad, Int windows) {
    const Int reach = at + pad - k + 1;
    begin = reach <= 0 ? 0 : (reach + stride - 1) / stride;
    end = (at + pad) / stride + 1;
    if (end > windows) end = windows;
  }
};

// ---- the index, a pack at a time ----

template <int N>
__device__ __forceinline__ void load_index(int (&at)[N], const uint8_t* p) {
  if constexpr (N == 4) {
    const uint32_t bytes = *reinterpret_cast<const uint32_t*>(p);
#pragma unroll
    for (int e = 0; e < 4; ++e) at[e] = bytes >> 8 * e & 0xff;
  } else {
    at[0] = *p;
  }
}

template <int N>
__device__ __forceinline__ void load_index(int (&at)[N], const int32_t* p) {
  if constexpr (N == 4) {
    const int4 q = *reinterpret_cast<const int4*>(p);
    at[0] = q.x, at[1] = q.y, at[2] = q.z, at[3] = q.w;
  } else {
    at[0] = *p;
  }
}

template <int N>
__device__ __forceinline__ void store_index(uint8_t* p, const int (&at)[N]) {
  if constexpr (N == 4) {
    *reinterpret_cast<uint32_t*>(p) = at[0] | at[1] << 8 | at[2] << 16 | at[3] << 24;
  } else {
    *p = static_cast<uint8_t>(at[0]);
  }
}

template <int N>
__device__ __forceinline__ void store_index(int32_t* p, const int (&at)[N]) {
  if constexpr (N == 4) {
    *reinterpret_cast<int4*>(p) = make_int4(at[0], at[1], at[2], at[3]);
  } else {
    *p = at[0];
  }
}

// ---- forward ----

// y, index (n, oh, ow, c)  x (n, h, w, c)  count = elements of y / N; a window is `square` wide and
// high, or as s says where that is 0
template <int N, class Index, class Int, int square, bool relu>
__global__ void __launch_bounds__(map_threads)
    max_pool_forward(float* y, Index* index, const float* x, Int count, PoolSizes<Int> s) {
  const int64_t thread = global_thread();
  if (thread >= count) return;
  if (square > 0) s.kh = s.kw = square;
  const Place<Int> at = place_of(static_cast<Int>(thread), s.oh, s.ow, s.packs);
  const Int top = at.i * s.stride_h - s.pad_top, left = at.j * s.stride_w - s.pad_left;
  const TapSpan<Int> rows(top, s.kh, s.h), cols(left, s.kw, s.w);
  const int64_t line = int64_t{s.w} * s.packs, pixel = s.packs;
  const int64_t corner = (int64_t{at.image} * s.h + top) * line + left * pixel + at.pack;
  const auto load = [&](Int a, Int b) {
    return load_pack<N>(x + (corner + a * line + b * pixel) * N);
  };
  Pack<N> best = splat<N>(0.0f);
  int place[N] = {};
  bool first = true;
  const auto take = [&](const Pack<N>& v, Int tap) {
#pragma unroll
    for (int e = 0; e < N; ++e) {
      // a later element wins by being greater or the first NaN
      const bool wins = first | (!(v.v[e] <= best.v[e]) & !isnan(best.v[e]));
      best.v[e] = wins ? v.v[e] : best.v[e];
      place[e] = wins ? static_cast<int>(tap) : place[e];
    }
    first = false;
  };
  if constexpr (square > 0) {
    Pack<N> v[square * square];  // all loads are on their way before the first is looked at
    bool inside[square * square];
#pragma unroll
    for (int tap = 0; tap < square * square; ++tap) {
      const int a = tap / square, b = tap % square;
      inside[tap] = a >= rows.begin && a < rows.end && b >= cols.begin && b < cols.end;
      if (inside[tap]) v[tap] = load(a, b);
    }
#pragma unroll
    for (int tap = 0; tap < square * square; ++tap) {
      if (inside[tap]) take(v[tap], tap);
    }
  } else {
    for (Int a = rows.begin; a < rows.end; ++a) {
      for (Int b = cols.begin; b < cols.end; ++b) take(load(a, b), a * s.kw + b);
    }
  }
  if constexpr (relu) {
#pragma unroll
    for (int e = 0; e < N; ++e) {
      if (!(best.v[e] > 0.0f)) place[e] = closed_window;
      if (best.v[e] < 0.0f) best.v[e] = 0.0f;  // NaN stays NaN
    }
  }
  store_pack(y + thread * N, best);
  store_index(index + thread * N, place);
}

// 1 / elements of a window inside the image
template <class Int>
__device__ __forceinline__ float inverse_count(const TapSpan<Int>& rows, const TapSpan<Int>& cols) {
  return 1.0f / static_cast<float>((rows.end - rows.begin) * (cols.end - cols.begin));
}

// y (n, oh, ow, c)  x (n, h, w, c)  count = elements of y / N
template <int N, class Int>
__global__ void __launch_bounds__(map_threads)
    avg_pool_forward(float* y, const float* x, Int count, PoolSizes<Int> s) {
  const int64_t thread = global_thread();
  if (thread >= count) return;
  const Place<Int> at = place_of(static_cast<Int>(thread), s.oh, s.ow, s.packs);
  const Int top = at.i * s.stride_h - s.pad_top, left = at.j * s.stride_w - s.pad_left;
  const TapSpan<Int> rows(top, s.kh, s.h), cols(left, s.kw, s.w);
  const int64_t line = int64_t{s.w} * s.packs, pixel = s.packs;
  const int64_t corner = (int64_t{at.image} * s.h + top) * line + left * pixel + at.pack;
  const auto add = [](float a, float b) { return a + b; };
  Pack<N> total = splat<N>(0.0f);
  for (Int a = rows.begin; a < rows.end; ++a) {
    Pack<N> row = splat<N>(0.0f);  // row sums first: shorter chains of rounding in large windows
    for (Int b = cols.begin; b < cols.end; ++b) {
      row = apply<N>(add, row, load_pack<N>(x + (corner + a * line + b * pixel) * N));
    }
    total = apply<N>(add, total, row);
  }
  const float scale = inverse_count(rows, cols);
#pragma unroll
  for (int e = 0; e < N; ++e) total.v[e] *= scale;
  store_pack(y + thread * N, total);
}

// ---- backward ----

// Windows side by side cut the image into cells, (cells_h, cells_w) of them: a thread writes the
// cell of one window, or zeros where none fits.
// dx (n, h, w, c)  dy, index (n, oh, ow, c)  count = n cells_h cells_w c / N
template <int N, class Index, class Int>
__global__ void __launch_bounds__(map_threads)
    max_pool_backward_cells(float* dx, const float* dy, const Index* index, Int count,
                            PoolSizes<Int> s, Int cells_h, Int cells_w) {
  const int64_t thread = global_thread();
  if (thread >= count) return;
  const Place<Int> at = place_of(static_cast<Int>(thread), cells_h, cells_w, s.packs);
  Pack<N> g = splat<N>(0.0f);
  int place[N] = {};
  if (at.i < s.oh && at.j < s.ow) {
    const int64_t from = ((int64_t{at.image} * s.oh + at.i) * s.ow + at.j) * s.packs + at.pack;
    g = load_pack<N>(dy + from * N);
    load_index(place, index + from * N);
  }
  const Int top = at.i * s.kh - s.pad_top, left = at.j * s.kw - s.pad_left;
  const TapSpan<Int> rows(top, s.kh, s.h), cols(left, s.kw, s.w);
  const int64_t line = int64_t{s.w} * s.packs, pixel = s.packs;
  const int64_t corner = (int64_t{at.image} * s.h + top) * line + left * pixel + at.pack;
  for (Int a = rows.begin; a < rows.end; ++a) {
    for (Int b = cols.begin; b < cols.end; ++b) {
      Pack<N> out;
#pragma unroll
      for (int e = 0; e < N; ++e) out.v[e] = place[e] == a * s.kw + b ? g.v[e] : 0.0f;
      store_pack(dx + (corner + a * line + b * pixel) * N, out);
    }
  }
}

// A thread adds up the windows whose maximum is its element of dx.
// dx (n, h, w, c)  dy, index (n, oh, ow, c)  count = elements of dx / N
template <int N, class Index, class Int>
__global__ void __launch_bounds__(map_threads)
    max_pool_backward_elements(float* dx, const float* dy, const Index* index, Int count,
                               PoolSizes<Int> s) {
  const int64_t thread = global_thread();
  if (thread >= count) return;
  const Place<Int> at = place_of(static_cast<Int>(thread), s.h, s.w, s.packs);
  const WindowSpan<Int> rows(at.i, s.kh, s.stride_h, s.pad_top, s.oh);
  const WindowSpan<Int> cols(at.j, s.kw, s.stride_w, s.pad_left, s.ow);
  Pack<N> total = splat<N>(0.0f);
  for (Int i = rows.begin; i < rows.end; ++i) {
    const Int a = at.i + s.pad_top - i * s.stride_h;
    for (Int j = cols.begin; j < cols.end; ++j) {
      const Int tap = a * s.kw + at.j + s.pad_left - j * s.stride_w;
      const int64_t from = ((int64_t{at.image} * s.oh + i) * s.ow + j) * s.packs + at.pack;
      int place[N];
      load_index(place, index + from * N);
      bool any = false;
#pragma unroll
      for (int e = 0; e < N; ++e) any |= place[e] == tap;
      if (!any) continue;  // most windows have their maximum elsewhere
      const Pack<N> g = load_pack<N>(dy + from * N);
#pragma unroll
      for (int e = 0; e < N; ++e) {
        if (place[e] == tap) total.v[e] += g.v[e];
      }
    }
  }
  store_pack(dx + thread * N, total);
}

// dx (n, h, w, c)  dy (n, oh, ow, c)  count = elements of dx / N
template <int N, class Int>
__global__ void __launch_bounds__(map_threads)
    avg_pool_backward(float* dx, const float* dy, Int count, PoolSizes<Int> s) {
  const int64_t thread = global_thread();
  if (thread >= count) return;
  const Place<Int> at = place_of(static_cast<Int>(thread), s.h, s.w, s.packs);
  const WindowSpan<Int> rows(at.i, s.kh, s.stride_h, s.pad_top, s.oh);
  const WindowSpan<Int> cols(at.j, s.kw, s.stride_w, s.pad_left, s.ow);
  Pack<N> total = splat<N>(0.0f);
  for (Int i = rows.begin; i < rows.end; ++i) {
    const TapSpan<Int> taps_h(i * s.stride_h - s.pad_top, s.kh, s.h);
    for (Int j = cols.begin; j < cols.end; ++j) {
      const TapSpan<Int> taps_w(j * s.stride_w - s.pad_left, s.kw, s.w);
      const float scale = inverse_count(taps_h, taps_w);
      const int64_t from = ((int64_t{at.image} * s.oh + i) * s.ow + j) * s.packs + at.pack;
      const Pack<N> g = load_pack<N>(dy + from * N);
#pragma unroll
      for (int e = 0; e < N; ++e) total.v[e] += scale * g.v[e];
    }
  }
  store_pack(dx + thread * N, total);
}

// ---- launches ----

template <class Int>
PoolSizes<Int> sizes_of(const Pool2dShape& s, int64_t packs) {
  const auto narrow = [](int64_t size) { return static_cast<Int>(size); };
  return {narrow(s.h),        narrow(s.w),       narrow(packs),     narrow(s.oh),
          narrow(s.ow),       narrow(s.kh),      narrow(s.kw),      narrow(s.stride_h),
          narrow(s.stride_w), narrow(s.pad_top), narrow(s.pad_left)};
}

// Whether no number that the kernels compute from the shape passes 2^31.
bool fits_int32(const Pool2dShape& s) {
  const double most = INT32_MAX, images = static_cast<double>(s.n * s.c);
  return images * static_cast<double>(s.h * s.w) <= most &&
         images * static_cast<double>(s.oh * s.ow) <= most &&
         s.h + s.kh + s.stride_h <= INT32_MAX && s.w + s.kw + s.stride_w <= INT32_MAX;
}

// fn(sizes, channels of a pack) with both as types
template <class F>
void with_sizes(const Pool2dShape& s, bool packs_of_four, F&& fn) {
  const bool narrow = fits_int32(s);
  if (packs_of_four) {
    const auto four = std::integral_constant<int, 4>{};
    return narrow ? fn(sizes_of<int32_t>(s, s.c / 4), four)
                  : fn(sizes_of<int64_t>(s, s.c / 4), four);
  }
  const auto one = std::integral_constant<int, 1>{};
  narrow ? fn(sizes_of<int32_t>(s, s.c), one) : fn(sizes_of<int64_t>(s, s.c), one);
}

// Threads [0, count), map_threads a block.
template <class... Parameters, class... Args>
void launch_threads(void (*kernel)(Parameters...), int64_t count, Args... args) {
  launch(kernel, dim3(static_cast<unsigned>(ceil_div(count, map_threads))), dim3(map_threads), 0,
         current_stream(), args...);
}

template <class Index>
bool packs_of_4(const Pool2dShape& s, const float* a, const float* b, const Index* index) {
  return packs_of_4(s.c, {a, b}) && reinterpret_cast<uintptr_t>(index) % (4 * sizeof(Index)) == 0;
}

template <bool relu, class Index>
void max_forward(float* y, Index* index, const float* x, const Pool2dShape& s) {
  const int64_t size = s.n * s.oh * s.ow * s.c;
  if (size == 0) return;
  with_sizes(s, packs_of_4(s, y, x, index), [&](auto sizes, auto channels) {
    using Int = decltype(sizes.h);
    constexpr int N = decltype(channels)::value;
    const auto kernel = s.kh == 2 && s.kw == 2 ? max_pool_forward<N, Index, Int, 2, relu>
                                               : max_pool_forward<N, Index, Int, 0, relu>;
    launch_threads(kernel, size / N, y, index, x, size / N, sizes);
  });
}

constexpr int64_t most_cell = 16;  // elements that one thread writes

template <class Index>
void max_backward(float* dx, const float* dy, const Index* index, const Pool2dShape& s) {
  const int64_t size = s.n * s.h * s.w * s.c;
  if (size == 0) return;
  const bool side_by_side = s.stride_h == s.kh && s.stride_w == s.kw;
  with_sizes(s, packs_of_4(s, dx, dy, index), [&](auto sizes, auto channels) {
    using Int = decltype(sizes.h);
    constexpr int N = decltype(channels)::value;
    if (side_by_side && s.kh * s.kw <= most_cell) {
      const int64_t cells_h = ceil_div(s.h + s.pad_top, s.kh);
      const int64_t cells_w = ceil_div(s.w + s.pad_left, s.kw);
      const int64_t count = s.n * cells_h * cells_w * sizes.packs;
      launch_threads(max_pool_backward_cells<N, Index, Int>, count, dx, dy, index, count, sizes,
                     cells_h, cells_w);
    } else {
      launch_threads(max_pool_backward_elements<N, Index, Int>, size / N, dx, dy, index, size / N,
                     sizes);
    }
  });
}

void max_pool2d(float* y, uint8_t* index, const float* x, const Pool2dShape& s, bool relu) {
  if (relu) return max_forward<true>(y, index, x, s);
  max_forward<false>(y, index, x, s);
}

}  // namespace cuda

void max_pool2d_forward(float* y, uint8_t* index, const float* x, const Pool2dShape& s) {
  cuda::max_forward<false>(y, index, x, s);
}

void max_pool2d_forward(float* y, int32_t* index, const float* x, const Pool2dShape& s) {
  cuda::max_forward<false>(y, index, x, s);
}

void max_pool2d_backward_dx(float* dx, const float* dy, const uint8_t* index,
                            const Pool2dShape& s) {
  cuda::max_backward(dx, dy, index, s);
}

void max_pool2d_backward_dx(float* dx, const float* dy, const int32_t* index,
                            const Pool2dShape& s) {
  cuda::max_backward(dx, dy, index, s);
}

void avg_pool2d_forward(float* y, const float* x, const Pool2dShape& s) {
  const int64_t size = s.n * s.oh * s.ow * s.c;
  if (size == 0) return;
  cuda::with_sizes(s, cuda::packs_of_4(s.c, {y, x}), [&](auto sizes, auto channels) {
    constexpr int N = decltype(channels)::value;
    cuda::launch_threads(cuda::avg_pool_forward<N, decltype(sizes.h)>, size / N, y, x, size / N,
                         sizes);
  });
}

void avg_pool2d_backward_dx(float* dx, const float* dy, const Pool2dShape& s) {
  const int64_t size = s.n * s.h * s.w * s.c;
  if (size == 0) return;
  cuda::with_sizes(s, cuda::packs_of_4(s.c, {dx, dy}), [&](auto sizes, auto channels) {
    constexpr int N = decltype(channels)::value;
    cuda::launch_threads(cuda::avg_pool_backward<N, decltype(sizes.h)>, size / N, dx, dy, size / N,
                         sizes);
  });
}

void global_avg_pool2d_forward(float* y, const float* x, int64_t n, int64_t rows, int64_t c) {
  reduce_sum_forward(y, x, n, rows, c, 1.0f / static_cast<float>(rows));
}

void global_avg_pool2d_backward_dx(float* dx, const float* dy, int64_t n, int64_t rows, int64_t c) {
  reduce_sum_backward_dx(dx, dy, n, rows, c, 1.0f / static_cast<float>(rows));
}

}  // namespace tilegrad
