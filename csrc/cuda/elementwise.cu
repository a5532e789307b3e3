// y = a op b with broadcasting, y = f(x), sum and max over an axis, strided copies, dropout.
// Outputs are overwritten. Flat arrays: four neighbours to a thread where they are aligned.
// Reductions: a group of lanes, a warp or a block to a row where inner == 1, else a thread or block
// to a few columns, chosen by the shape; a block combines its threads' partial results as a tree.
// All but exp, log, power and dropout is bound by memory. Philox4x32-10: Salmon et al., "Parallel
// random numbers: as easy as 1, 2, 3", SC 2011.
#include "../ops/elementwise.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <type_traits>
#include <utility>

#include "../core/dispatch.h"
#include "divide.h"
#include "map.h"
#include "reduce.h"

namespace tilegrad {
namespace cuda {

// NaN wins, as in NumPy
__device__ __forceinline__ float maximum(float a, float b) { return a > b || isnan(a) ? a : b; }
__device__ __forceinline__ float minimum(float a, float b) { return a < b || isnan(a) ? a : b; }

template <Binary K>
struct BinaryForward {
  static constexpr bool reads_dy = false;
  __device__ float operator()(float a, float b, float) const {
    if constexpr (K == Binary::add) return a + b;
    if constexpr (K == Binary::subtract) return a - b;
    if constexpr (K == Binary::multiply) return a * b;
    if constexpr (K == Binary::divide) return a / b;
    if constexpr (K == Binary::power) return powf(a, b);
    if constexpr (K == Binary::maximum) return maximum(a, b);
    if constexpr (K == Binary::minimum) return minimum(a, b);
  }
};

// dy if a wins, half of it at a tie
__device__ __forceinline__ float winner_share(float dy, bool a_wins, bool tie) {
  return a_wins ? dy : tie ? 0.5f * dy : 0.0f;
}

template <Binary K>
struct BinaryDa {
  static constexpr bool reads_dy = true;
  __device__ float operator()([[maybe_unused]] float a, [[maybe_unused]] float b, float dy) const {
    if constexpr (K == Binary::add || K == Binary::subtract) return dy;
    if constexpr (K == Binary::multiply) return dy * b;
    if constexpr (K == Binary::divide) return dy / b;
    if constexpr (K == Binary::power) return b == 0.0f ? 0.0f : dy * b * powf(a, b - 1.0f);
    if constexpr (K == Binary::maximum) return winner_share(dy, a > b, a == b);
    if constexpr (K == Binary::minimum) return winner_share(dy, a < b, a == b);
  }
};

template <Binary K>
struct BinaryDb {
  static constexpr bool reads_dy = true;
  __device__ float operator()([[maybe_unused]] float a, [[maybe_unused]] float b, float dy) const {
    if constexpr (K == Binary::add) return dy;
    if constexpr (K == Binary::subtract) return -dy;
    if constexpr (K == Binary::multiply) return dy * a;
    if constexpr (K == Binary::divide) return -(dy / b) * (a / b);  // b^2 could overflow
    if constexpr (K == Binary::power)
      return a == 0.0f && b >= 0.0f ? 0.0f : dy * powf(a, b) * logf(a);
    if constexpr (K == Binary::maximum) return winner_share(dy, b > a, a == b);
    if constexpr (K == Binary::minimum) return winner_share(dy, b < a, a == b);
  }
};

template <Unary K>
struct UnaryForward {
  __device__ float operator()(float x) const {
    if constexpr (K == Unary::negative) return -x;
    if constexpr (K == Unary::exp) return expf(x);
    if constexpr (K == Unary::log) return logf(x);
    if constexpr (K == Unary::sqrt) return sqrtf(x);
    if constexpr (K == Unary::absolute) return fabsf(x);
    if constexpr (K == Unary::square) return x * x;
  }
};

template <Unary K>
struct UnaryBackward {
  __device__ float operator()(float dy, [[maybe_unused]] float x) const {
    if constexpr (K == Unary::negative) return -dy;
    if constexpr (K == Unary::exp) return dy * expf(x);
    if constexpr (K == Unary::log) return dy / x;
    if constexpr (K == Unary::sqrt) return 0.5f * dy / sqrtf(x);
    if constexpr (K == Unary::absolute)
      return x > 0.0f ? dy : x < 0.0f ? -dy : 0.0f * x;  // 0 at 0, NaN at NaN
    if constexpr (K == Unary::square) return 2.0f * dy * x;
  }
};

struct ClipForward {
  float low, high;
  __device__ float operator()(float x) const { return clamp(x, low, high); }
};

struct ClipBackward {
  float low, high;
  __device__ float operator()(float dy, float x) const { return x >= low && x <= high ? dy : 0.0f; }
};

struct Zero {
  __device__ float operator()() const { return 0.0f; }
};

// ---- indices ----

template <class Index>
using Divide = std::conditional_t<std::is_same_v<Index, uint32_t>, FastDivide, WideDivide>;

// Axes, the last the fastest, and two arrays' strides along them.
template <class Index>
struct Axes {
  int ndim = 0;
  Divide<Index> size[max_ndim];
  int64_t stride[2][max_ndim];

  void append(int64_t n, int64_t first, int64_t second) {
    size[ndim] = Divide<Index>(n);
    stride[0][ndim] = first;
    stride[1][ndim++] = second;
  }

  // where the i-th element lies in both arrays
  __device__ void locate(Index i, int64_t& first, int64_t& second) const {
    first = second = 0;
    for (int d = ndim - 1; d > 0; --d) {
      const Index rest = size[d].split(i);
      first += static_cast<int64_t>(i) * stride[0][d];
      second += static_cast<int64_t>(i) * stride[1][d];
      i = rest;
    }
    first += static_cast<int64_t>(i) * stride[0][0];
    second += static_cast<int64_t>(i) * stride[1][0];
  }
};

int64_t product(const int64_t* size, int ndim) {
  int64_t count = 1;
  for (int d = 0; d < ndim; ++d) count *= size[d];
  return count;
}

// fn(index) with a number of the type that counts to `count`
template <class F>
void with_index(int64_t count, F&& fn) {
  if (count < int64_t{1} << 31)
    fn(uint32_t{});
  else
    fn(int64_t{});
}

// Whether packs of four along the last axis stay aligned: the other steps are multiples of four.
bool keeps_alignment(const float* p, const int64_t* stride, int ndim) {
  bool good = aligned_16(p);
  for (int d = 0; d < ndim - 1; ++d) good = good && stride[d] % 4 == 0;
  return good;
}

// ---- broadcasting ----

// The operand's N elements from p on; where it is repeated, they are one.
template <int N>
__device__ __forceinline__ Pack<N> load_operand(const float* p, bool repeats) {
  return N > 1 && repeats ? splat<N>(*p) : load_pack<N>(p);
}

// y = f(a, b, dy)                         y, dy (size)  a, b broadcast to size, by axes of packs
template <int N, class Index, class F>
__global__ void __launch_bounds__(map_threads)
    broadcast_elements(float* y, const float* a, const float* b, const float* dy, Index packs,
                       Axes<Index> axes, bool a_repeats, bool b_repeats, int rest, F f) {
  for (Index i = static_cast<Index>(global_thread()); i < packs;
       i += static_cast<Index>(all_threads())) {
    int64_t a_at, b_at;
    axes.locate(i, a_at, b_at);
    const int64_t at = static_cast<int64_t>(i) * N;
    const Pack<N> va = load_operand<N>(a + a_at, a_repeats);
    const Pack<N> vb = load_operand<N>(b + b_at, b_repeats);
    const Pack<N> g = F::reads_dy ? load_pack<N>(dy + at) : splat<N>(0.0f);
    store_pack<N>(y + at, apply<N>(f, va, vb, g));
  }
  if (global_thread() < rest) {  // only where there is one axis
    const int64_t at = static_cast<int64_t>(packs) * N + global_thread();
    y[at] = f(a[a_repeats ? 0 : at], b[b_repeats ? 0 : at], F::reads_dy ? dy[at] : 0.0f);
  }
}

template <class F>
void broadcast(float* y, const float* a, const float* b, const float* dy, const BroadcastShape& s,
               F f) {
  const int64_t count = product(s.size, s.ndim);
  if (count == 0) return;
  const int last = s.ndim - 1;
  const bool a_repeats = s.a_stride[last] == 0, b_repeats = s.b_stride[last] == 0;
  const bool vector = aligned_16(y) && (!F::reads_dy || aligned_16(dy)) &&
                      (last == 0 || s.size[last] % 4 == 0) &&
                      (a_repeats || keeps_alignment(a, s.a_stride, s.ndim)) &&
                      (b_repeats || keeps_alignment(b, s.b_stride, s.ndim));
  const int64_t width = vector ? 4 : 1, packs = count / width;
  with_index(count, [&](auto index) {
    using Index = decltype(index);
    Axes<Index> axes;
    for (int d = 0; d < last; ++d) axes.append(s.size[d], s.a_stride[d], s.b_stride[d]);
    axes.append(std::max<int64_t>(1, s.size[last] / width), s.a_stride[last] * width,
                s.b_stride[last] * width);
    launch(vector ? broadcast_elements<4, Index, F> : broadcast_elements<1, Index, F>,
           map_blocks(packs), map_threads, 0, current_stream(), y, a, b, dy,
           static_cast<Index>(packs), axes, a_repeats, b_repeats,
           static_cast<int>(count - packs * width), f);
  });
}

struct Scale {
  static constexpr bool reads_dy = false;
  float scale;
  __device__ float operator()(float a, float, float) const { return scale * a; }
};

// ---- reductions ----

// A reduction turns elements into items, combines these, and finishes output o with the total. One
// that `rewrites` then goes over the elements again and writes as many. `key` is what it compares
// elements with, the same for all of one output.
struct SumForward {
  static constexpr bool rewrites = false;
  float* y;
  float scale;
  static constexpr float identity = 0.0f;
  __device__ float key(int64_t) const { return 0.0f; }
  __device__ float item(float x, float) const { return x; }
  __device__ float combine(float a, float b) const { return a + b; }
  __device__ void finish(int64_t o, float total) const { y[o] = scale * total; }
};

struct MaxForward {
  static constexpr bool rewrites = false;
  float* y;
  static constexpr float identity = -INFINITY;
  __device__ float key(int64_t) const { return 0.0f; }
  __device__ float item(float x, float) const { return x; }
  __device__ float combine(float a, float b) const { return maximum(a, b); }
  __device__ void finish(int64_t o, float total) const { y[o] = total; }
};

// a NaN maximum is where x is NaN
__device__ __forceinline__ bool is_maximum(float x, float y) {
  return x == y || (isnan(x) && isnan(y));
}

struct MaxBackward {
  static constexpr bool rewrites = true;
  float* dx;
  const float *dy, *y;
  static constexpr float identity = 0.0f;
  __device__ float key(int64_t o) const { return y[o]; }
  __device__ float item(float x, float key) const { return is_maximum(x, key) ? 1.0f : 0.0f; }
  __device__ float combine(float a, float b) const { return a + b; }
  __device__ float share(int64_t o, float count) const { return dy[o] / count; }
  __device__ void rewrite(int64_t at, float x, float key, float share) const {
    dx[at] = is_maximum(x, key) ? share : 0.0f;
  }
};

constexpr int fold_steps = 32;  // items that a thread adds before they join its total

// The items of load(k) for k = first, first + step, ... below count, combined in two levels, so
// that the sum of very many does not lose what is added to it.
template <int N, class Op, class Load>
__device__ __forceinline__ Pack<N> fold(const Op& op, float key, int64_t first, int64_t step,
                                        int64_t count, Load load) {
  Pack<N> total = splat<N>(Op::identity);
  for (int64_t k = first; k < count;) {
    Pack<N> part = splat<N>(Op::identity);
    const auto take = [&](const Pack<N>& x) {
#pragma unroll
      for (int i = 0; i < N; ++i) part.v[i] = op.combine(part.v[i], op.item(x.v[i], key));
    };
    const int64_t stop = count - k < fold_steps * step ? count : k + fold_steps * step;
    for (; k + 3 * step < stop; k += 4 * step) {  // four loads in flight
      const Pack<N> x[4] = {load(k), load(k + step), load(k + 2 * step), load(k + 3 * step)};
#pragma unroll
      for (int u = 0; u < 4; ++u) take(x[u]);
    }
    for (; k < stop; k += step) take(load(k));
#pragma unroll
    for (int i = 0; i < N; ++i) total.v[i] = op.combine(total.v[i], part.v[i]);
  }
  return total;
}

// The values of `lanes` neighbouring lanes, a power of two, combined; all of the warp take part.
template <class Op>
__device__ __forceinline__ float combine_lanes(const Op& op, float value, int lanes) {
  for (int s = lanes / 2; s > 0; s /= 2)
    value = op.combine(value, __shfl_xor_sync(full_warp, value, s));
  return value;
}

constexpr int reduce_threads = 256;
constexpr int most_threads = 512;  // of a few blocks; more would not leave enough registers

// Rows of few elements: `lanes` lanes to a row.   x (outer, r)
template <class Op>
__global__ void __launch_bounds__(reduce_threads)
    reduce_short_rows(Op op, const float* x, int64_t outer, int64_t r, int lanes) {
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const int64_t step = all_threads() / lanes;
  const int64_t rounds = ceil_div(outer, step);  // the same for all lanes of a warp
  int64_t o = global_thread() / lanes;
  for (int64_t round = 0; round < rounds; ++round, o += step) {
    const bool inside = o < outer;
    const float key = inside ? op.key(o) : 0.0f;
    float part = Op::identity;
    if (inside) {
      const float* row = x + o * r;
      part =
          fold<1>(op, key, lane, lanes, r, [&](int64_t k) { return load_pack<1>(row + k); }).v[0];
    }
    const float total = combine_lanes(op, part, lanes);
    if (!inside) continue;
    if constexpr (Op::rewrites) {
      const float share = op.share(o, total);
      for (int64_t k = lane; k < r; k += lanes) op.rewrite(o * r + k, x[o * r + k], key, share);
    } else if (lane == 0) {
      op.finish(o, total);
    }
  }
}

// One row by T threads, four neighbours at a time. Their order does not depend on the alignment, so
// neither do the bits of a sum.
template <int T, bool vector, class Op>
__device__ __forceinline__ float fold_row(const Op& op, float key, const float* row, int64_t r,
                                          int thread) {
  const int64_t packs = r / 4, tail = 4 * packs + thread;
  const Pack<4> p = fold<4>(op, key, thread, T, packs, [&](int64_t k) -> Pack<4> {
    const float* from = row + 4 * k;
    if constexpr (vector) return load_pack<4>(from);
    return {{from[0], from[1], from[2], from[3]}};
  });
  float total = op.combine(op.combine(p.v[0], p.v[1]), op.combine(p.v[2], p.v[3]));
  if (tail < r) total = op.combine(total, op.item(row[tail], key));
  return total;
}

// Long rows: T threads, a warp or the whole block, to a row.   x (outer, r)
template <int T, class Op>
__global__ void __launch_bounds__(T == warp_size ? reduce_threads : T, 1)
    reduce_long_rows(Op op, const float* x, int64_t outer, int64_t r) {
  const int thread = static_cast<int>(threadIdx.x) % T;
  const int64_t step = all_threads() / T;
  for (int64_t o = global_thread() / T; o < outer; o += step) {
    const float* row = x + o * r;
    const float key = op.key(o);
    float total = aligned_16(row) ? fold_row<T, true>(op, key, row, r, thread)
                                  : fold_row<T, false>(op, key, row, r, thread);
    total =
        group_reduce<T>(total, Op::identity, [&](float a, float b) { return op.combine(a, b); });
    if constexpr (Op::rewrites) {
      const float share = op.share(o, total);
      for (int64_t k = thread; k < r; k += T) op.rewrite(o * r + k, row[k], key, share);
    } else if (thread == 0) {
      op.finish(o, total);
    }
  }
}

// Short or very many columns: one thread to each.   x (outer, r, inner)
template <class Op>
__global__ void __launch_bounds__(reduce_threads)
    reduce_each_column(Op op, const float* x, int64_t outer, int64_t r, int64_t inner) {
  for (int64_t o = global_thread(); o < outer * inner; o += all_threads()) {
    const int64_t first = o / inner * r * inner + o % inner;
    const float key = op.key(o);
    const float total = fold<1>(op, key, 0, 1, r, [&](int64_t k) {
                          return load_pack<1>(x + first + k * inner);
                        }).v[0];
    if constexpr (Op::rewrites) {
      const float share = op.share(o, total);
      for (int64_t k = 0; k < r; ++k)
        op.rewrite(first + k * inner, x[first + k * inner], key, share);
    } else {
      op.finish(o, total);
    }
  }
}

// A block takes `cols` neighbouring columns, its threads every groups-th element of each.
// x (outer, r, inner), block (cols groups)
template <class Op>
__global__ void __launch_bounds__(most_threads, 1)
    reduce_column_tiles(Op op, const float* x, int64_t outer, int64_t r, int64_t inner, int cols) {
  __shared__ float partial[most_threads];
  const int thread = static_cast<int>(threadIdx.x), col = thread % cols, group = thread / cols;
  const int groups = static_cast<int>(blockDim.x) / cols;
  const int64_t across = ceil_div(inner, cols);
  for (int64_t tile = blockIdx.x; tile < outer * across; tile += gridDim.x) {
    const int64_t i = tile / across, j = tile % across * cols + col;
    const bool inside = j < inner;
    const int64_t o = i * inner + j, first = i * r * inner + j;
    const float key = inside ? op.key(o) : 0.0f;
    float part = Op::identity;
    if (inside)
      part = fold<1>(op, key, group, groups, r, [&](int64_t k) {
               return load_pack<1>(x + first + k * inner);
             }).v[0];
    partial[thread] = part;
    __syncthreads();
    for (int n = groups; n > 1;) {  // the upper half of the groups joins the lower one
      const int half = (n + 1) / 2;
      if (group + half < n)
        partial[thread] = op.combine(partial[thread], partial[thread + half * cols]);
      n = half;
      __syncthreads();
    }
    const float total = partial[col];
    if constexpr (Op::rewrites) {
      const float share = inside ? op.share(o, total) : 0.0f;
      for (int64_t k = group; inside && k < r; k += groups)
        op.rewrite(first + k * inner, x[first + k * inner], key, share);
    } else if (inside && group == 0) {
      op.finish(o, total);
    }
    __syncthreads();  // before the next tile's results come
  }
}

unsigned block_count(int64_t wanted) {
  return static_cast<unsigned>(std::min<int64_t>(wanted, 1 << 20));
}

template <class Op>
void reduce_rows(Op op, const float* x, int64_t outer, int64_t r) {
  constexpr int64_t short_row = 128, warp_row = 2048;
  if (r <= short_row) {
    int lanes = 1;
    while (lanes < r && lanes < warp_size) lanes *= 2;
    launch(reduce_short_rows<Op>, block_count(ceil_div(outer * lanes, reduce_threads)),
           reduce_threads, 0, current_stream(), op, x, outer, r, lanes);
  } else if (r <= warp_row) {
    launch(reduce_long_rows<warp_size, Op>,
           block_count(ceil_div(outer, reduce_threads / warp_size)), reduce_threads, 0,
           current_stream(), op, x, outer, r);
  } else if (outer >= target_blocks) {
    launch(reduce_long_rows<reduce_threads, Op>, block_count(outer), reduce_threads, 0,
           current_stream(), op, x, outer, r);
  } else {
    launch(reduce_long_rows<most_threads, Op>, block_count(outer), most_threads, 0,
           current_stream(), op, x, outer, r);
  }
}

template <class Op>
void reduce_columns(Op op, const float* x, int64_t outer, int64_t r, int64_t inner) {
  constexpr int64_t short_column = 16, sector = 8;  // 32 bytes, the least that memory delivers
  const int64_t outputs = outer * inner;
  if (r <= short_column || (inner >= sector && outputs >= target_blocks * reduce_threads)) {
    launch(reduce_each_column<Op>, block_count(ceil_div(outputs, reduce_threads)), reduce_threads,
           0, current_stream(), op, x, outer, r, inner);
    return;
  }
  // as many columns as a warp reads at once, or fewer where there would be too few blocks
  int64_t cols = warp_size;
  while (cols > sector && outer * ceil_div(inner, cols) < target_blocks) cols /= 2;
  if (inner <= warp_size) cols = std::min(inner, cols);
  const int64_t tiles = outer * ceil_div(inner, cols);
  const int64_t threads = tiles < target_blocks ? most_threads : reduce_threads;
  const int64_t groups = std::clamp<int64_t>(r / 8, 1, threads / cols);
  launch(reduce_column_tiles<Op>, block_count(tiles), static_cast<unsigned>(cols * groups), 0,
         current_stream(), op, x, outer, r, inner, static_cast<int>(cols));
}

template <class Op>
void reduce(Op op, const float* x, int64_t outer, int64_t r, int64_t inner) {
  if (outer == 0 || inner == 0 || r == 0) return;
  if (inner == 1)
    reduce_rows(op, x, outer, r);
  else
    reduce_columns(op, x, outer, r, inner);
}

// ---- strided copies ----

// y[i] = x[i] for packs of N along the last axis, and `rest` more elements where it is the only one
template <int N, class Index>
__global__ void __launch_bounds__(map_threads)
    strided_copy_elements(float* y, const float* x, Index packs, Axes<Index> axes, int rest) {
  for (Index i = static_cast<Index>(global_thread()); i < packs;
       i += static_cast<Index>(all_threads())) {
    int64_t y_at, x_at;
    axes.locate(i, y_at, x_at);
    store_pack<N>(y + y_at, load_pack<N>(x + x_at));
  }
  const int64_t at = static_cast<int64_t>(packs) * N + global_thread();
  if (global_thread() < rest) y[at] = x[at];
}

constexpr int tile_side = 32;

struct CopyAxis {
  int64_t size, y_stride, x_stride;
};

// Tiles of rows, along which x is contiguous, and columns, along which y is fast: both are met by
// neighbouring lanes, with a tile in shared memory in between. The last two axes count tiles.
template <class Index>
__global__ void __launch_bounds__(map_threads)
    strided_copy_transpose(float* y, const float* x, Index tiles, Axes<Index> axes, CopyAxis row,
                           CopyAxis col) {
  __shared__ float tile[tile_side][tile_side + 1];  // padded: a column meets all banks
  constexpr int step = map_threads / tile_side;
  const int lane = static_cast<int>(threadIdx.x) % tile_side;
  const int line = static_cast<int>(threadIdx.x) / tile_side;
  const Divide<Index> across = axes.size[axes.ndim - 1], down = axes.size[axes.ndim - 2];
  for (Index t = blockIdx.x; t < tiles; t += gridDim.x) {
    int64_t y_at, x_at;
    axes.locate(t, y_at, x_at);
    Index tile_across = t, tile_down = across.split(tile_across);
    down.split(tile_down);
    const int64_t cols = col.size - static_cast<int64_t>(tile_across) * tile_side;
    const int64_t rows = row.size - static_cast<int64_t>(tile_down) * tile_side;
#pragma unroll
    for (int j = line; j < tile_side; j += step)
      if (lane < rows && j < cols) tile[j][lane] = x[x_at + lane + j * col.x_stride];
    __syncthreads();
#pragma unroll
    for (int i = line; i < tile_side; i += step)
      if (i < rows && lane < cols) y[y_at + i * row.y_stride + lane * col.y_stride] = tile[lane][i];
    __syncthreads();  // before the next tile comes
  }
}

// Axes of size 1 dropped, the rest ordered by falling y stride, neighbours merged where possible.
CopyShape simplify(const CopyShape& s) {
  CopyAxis axis[max_ndim];
  int count = 0;
  for (int d = 0; d < s.ndim; ++d) {
    if (s.size[d] == 1) continue;
    int at = count++;
    for (; at > 0 && std::abs(axis[at - 1].y_stride) < std::abs(s.y_stride[d]); --at)
      axis[at] = axis[at - 1];
    axis[at] = {s.size[d], s.y_stride[d], s.x_stride[d]};
  }
  CopyShape m{};
  for (int d = 0; d < count; ++d) {
    const CopyAxis a = axis[d];
    int e = m.ndim - 1;
    if (e >= 0 && m.y_stride[e] == a.size * a.y_stride && m.x_stride[e] == a.size * a.x_stride) {
      m.size[e] *= a.size;
    } else {
      e = m.ndim++;
      m.size[e] = a.size;
    }
    m.y_stride[e] = a.y_stride;
    m.x_stride[e] = a.x_stride;
  }
  if (m.ndim == 0) {
    m.ndim = 1;
    m.size[0] = 1;
  }
  return m;
}

// ---- dropout ----

// The four words of Philox4x32-10 for one counter, as 24 bits in [0, 1).
__device__ __forceinline__ Pack<4> philox(uint64_t counter, uint64_t seed) {
  auto c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
  uint32_t c2 = 0, c3 = 0;
  auto k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round, k0 += 0x9e3779b9u, k1 += 0xbb67ae85u) {
    const uint32_t high0 = __umulhi(c0, 0xd2511f53u), low0 = c0 * 0xd2511f53u;
    const uint32_t high1 = __umulhi(c2, 0xcd9e8d57u), low1 = c2 * 0xcd9e8d57u;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
  }
  const auto uniform = [](uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; };
  return {{uniform(c0), uniform(c1), uniform(c2), uniform(c3)}};
}

// y[i] = keep(i) ? x[i] / (1 - rate) : 0   y, x (count); each thread a counter, four elements
template <bool vector>
__global__ void __launch_bounds__(map_threads)
    dropout_elements(float* y, const float* x, int64_t count, float rate, uint64_t seed) {
  const float kept = 1.0f - rate;
  for (int64_t c = global_thread(); 4 * c < count; c += all_threads()) {
    const Pack<4> u = philox(static_cast<uint64_t>(c), seed);
    const auto f = [&](float value, float uniform) {
      return uniform >= rate ? value / kept : 0.0f;
    };
    if (vector && 4 * c + 4 <= count) {
      store_pack<4>(y + 4 * c, apply<4>(f, load_pack<4>(x + 4 * c), u));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (4 * c + i < count) y[4 * c + i] = f(x[4 * c + i], u.v[i]);
    }
  }
}

void dropout(float* y, const float* x, int64_t count, float rate, uint64_t seed) {
  if (count == 0) return;
  launch(aligned_16(y) && aligned_16(x) ? dropout_elements<true> : dropout_elements<false>,
         map_blocks(ceil_div(count, 4)), map_threads, 0, current_stream(), y, x, count, rate, seed);
}

}  // namespace cuda

void binary_forward(float* y, const float* a, const float* b, const BroadcastShape& s,
                    Binary kind) {
  with_binary(kind, [&](auto op) {
    cuda::broadcast(y, a, b, nullptr, s, cuda::BinaryForward<decltype(op)::value>{});
  });
}

void binary_backward_da(float* da, const float* dy, const float* a, const float* b,
                        const BroadcastShape& s, Binary kind) {
  with_binary(kind, [&](auto op) {
    cuda::broadcast(da, a, b, dy, s, cuda::BinaryDa<decltype(op)::value>{});
  });
}

void binary_backward_db(float* db, const float* dy, const float* a, const float* b,
                        const BroadcastShape& s, Binary kind) {
  with_binary(kind, [&](auto op) {
    cuda::broadcast(db, a, b, dy, s, cuda::BinaryDb<decltype(op)::value>{});
  });
}

void unary_forward(float* y, const float* x, int64_t count, Unary kind) {
  with_unary(kind,
             [&](auto op) { cuda::map(y, count, cuda::UnaryForward<decltype(op)::value>{}, x); });
}

void unary_backward_dx(float* dx, const float* dy, const float* x, int64_t count, Unary kind) {
  with_unary(kind, [&](auto op) {
    cuda::map(dx, count, cuda::UnaryBackward<decltype(op)::value>{}, dy, x);
  });
}

void clip_forward(float* y, const float* x, int64_t count, float low, float high) {
  cuda::map(y, count, cuda::ClipForward{low, high}, x);
}

void clip_backward_dx(float* dx, const float* dy, const float* x, int64_t count, float low,
                      float high) {
  cuda::map(dx, count, cuda::ClipBackward{low, high}, dy, x);
}

void reduce_sum_forward(float* y, const float* x, int64_t outer, int64_t r, int64_t inner,
                        float scale) {
  if (r == 0)
    cuda::map(y, outer * inner, cuda::Zero{});
  else
    cuda::reduce(cuda::SumForward{y, scale}, x, outer, r, inner);
}

void reduce_sum_backward_dx(float* dx, const float* dy, int64_t outer, int64_t r, int64_t inner,
                            float scale) {
  BroadcastShape s{};
  s.ndim = inner == 1 ? 2 : 3;
  const int64_t size[3] = {outer, r, inner}, stride[3] = {inner, 0, 1};
  std::copy_n(size, s.ndim, s.size);
  std::copy_n(stride, s.ndim, s.a_stride);
  std::copy_n(stride, s.ndim, s.b_stride);
  cuda::broadcast(dx, dy, dy, nullptr, s, cuda::Scale{scale});
}

void reduce_max_forward(float* y, const float* x, int64_t outer, int64_t r, int64_t inner) {
  cuda::reduce(cuda::MaxForward{y}, x, outer, r, inner);
}

void reduce_max_backward_dx(float* dx, const float* dy, const float* x, const float* y,
                            int64_t outer, int64_t r, int64_t inner) {
  cuda::reduce(cuda::MaxBackward{dx, dy, y}, x, outer, r, inner);
}

void strided_copy(float* y, const float* x, const CopyShape& shape) {
  using namespace cuda;
  const int64_t count = product(shape.size, shape.ndim);
  if (count == 0) return;
  const CopyShape s = simplify(shape);
  const int last = s.ndim - 1;
  int row = last;  // the axis along which x is contiguous
  while (row > 0 && s.x_stride[row] != 1) --row;
  const bool transposes =
      row < last && s.x_stride[row] == 1 && std::min(s.size[row], s.size[last]) >= tile_side / 2;
  const bool vector =
      s.y_stride[last] == 1 && s.x_stride[last] == 1 && (last == 0 || s.size[last] % 4 == 0) &&
      keeps_alignment(y, s.y_stride, s.ndim) && keeps_alignment(x, s.x_stride, s.ndim);
  const int64_t width = vector ? 4 : 1, packs = count / width;
  with_index(count, [&](auto index) {
    using Index = decltype(index);
    Axes<Index> axes;
    for (int d = 0; d < last; ++d)
      if (!transposes || d != row) axes.append(s.size[d], s.y_stride[d], s.x_stride[d]);
    if (!transposes) {
      axes.append(std::max<int64_t>(1, s.size[last] / width), s.y_stride[last] * width,
                  s.x_stride[last] * width);
      launch(vector ? strided_copy_elements<4, Index> : strided_copy_elements<1, Index>,
             map_blocks(packs), map_threads, 0, current_stream(), y, x, static_cast<Index>(packs),
             axes, static_cast<int>(count - packs * width));
      return;
    }
    const int64_t outside = count / (s.size[row] * s.size[last]);
    const int64_t down = ceil_div(s.size[row], tile_side),
                  across = ceil_div(s.size[last], tile_side);
    axes.append(down, s.y_stride[row] * tile_side, tile_side);
    axes.append(across, s.y_stride[last] * tile_side, s.x_stride[last] * tile_side);
    launch(strided_copy_transpose<Index>, block_count(outside * down * across), map_threads, 0,
           current_stream(), y, x, static_cast<Index>(outside * down * across), axes,
           CopyAxis{s.size[row], s.y_stride[row], 1},
           CopyAxis{s.size[last], s.y_stride[last], s.x_stride[last]});
  });
}

void dropout_forward(float* y, const float* x, int64_t count, float rate, uint64_t seed) {
  cuda::dropout(y, x, count, rate, seed);
}

void dropout_backward_dx(float* dx, const float* dy, int64_t count, float rate, uint64_t seed) {
  cuda::dropout(dx, dy, count, rate, seed);
}

}  // namespace tilegrad
