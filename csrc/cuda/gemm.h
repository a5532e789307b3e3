// c = a b on tiles, for dense, matmul and (by reading patches of images) convolution.
// A block computes one tile of c, slab by slab of 8 or 16 numbers of k: operands pass through
// registers to one of two slabs in shared memory while the warps multiply the other; one barrier.
// Long sums of few tiles are split: parts go to the workspace, add_partials adds them in order.
// 2 m n k FLOPs; a is read n / tile columns times, b m / tile rows times, through the caches.
// S. Boehm, "How to optimize a CUDA matmul kernel for cuBLAS-like performance" (2022).
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "activation.h"
#include "device.h"

namespace tilegrad {
namespace cuda {

__device__ __forceinline__ void read4(float (&v)[4], const float* p) {
  const float4 quad = *reinterpret_cast<const float4*>(p);
  v[0] = quad.x, v[1] = quad.y, v[2] = quad.z, v[3] = quad.w;
}

__device__ __forceinline__ void write4(float* p, const float (&v)[4]) {
  *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
}

// The same for `by` = 1 or 4 numbers.
template <int by>
__device__ __forceinline__ void read_vector(float (&v)[by], const float* p) {
  if constexpr (by == 4) {
    read4(v, p);
  } else {
    v[0] = p[0];
  }
}

template <int by>
__device__ __forceinline__ void write_vector(float* p, const float (&v)[by]) {
  if constexpr (by == 4) {
    write4(p, v);
  } else {
    p[0] = v[0];
  }
}

// Whether four numbers may be moved at once from p and from every multiple of these steps on.
template <class... Steps>
bool moves_by_four(const void* p, Steps... steps) {
  return aligned_16(p) && ((steps % 4 == 0) && ...);
}

// ---- tiles ----

// A warp's lanes stand in a grid of 4 x 8. Each owns ThreadRows x ThreadCols sums, in pieces of
// 4 x 4 that are 16 rows and 32 columns apart, so that the warp reads neighbours from a slab.
template <int ThreadRows, int ThreadCols, int WarpsDown, int WarpsAcross, int SlabDepth,
          int Resident>
struct GemmTile {
  static constexpr int thread_rows = ThreadRows, thread_cols = ThreadCols;
  static constexpr int warp_rows = 4 * ThreadRows, warp_cols = 8 * ThreadCols;
  static constexpr int warps = WarpsDown * WarpsAcross, warps_across = WarpsAcross;
  static constexpr int rows = warp_rows * WarpsDown, cols = warp_cols * WarpsAcross;
  static constexpr int threads = warp_size * warps, fours = ThreadRows * ThreadCols / 4;
  static constexpr int slab_depth = SlabDepth;  // numbers of k
  static constexpr int resident = Resident;     // blocks that share a multiprocessor, at least
};

using Tile128x128 = GemmTile<8, 8, 4, 2, 8, 2>;
using Tile128x64 = GemmTile<8, 8, 4, 1, 8, 3>;
using Tile128x32 = GemmTile<8, 4, 4, 1, 16, 4>;
using Tile64x64 = GemmTile<8, 4, 2, 2, 16, 4>;
using Tile32x32 = GemmTile<4, 4, 2, 1, 16, 8>;
using Tile16x64 = GemmTile<4, 4, 1, 2, 16, 8>;

constexpr int tile_count = 6;

template <class T>
struct TileTag {
  using Tile = T;
};

// fn(TileTag<...>{}) for the tile of this number, from large to small; none before `first`
template <int first = 0, class F>
void with_tile(int tile, F&& fn) {
  if constexpr (first == 0) {
    if (tile == 0) return fn(TileTag<Tile128x128>{});
  }
  switch (tile) {
    case 1:
      return fn(TileTag<Tile128x64>{});
    case 2:
      return fn(TileTag<Tile128x32>{});
    case 3:
      return fn(TileTag<Tile64x64>{});
    case 4:
      return fn(TileTag<Tile32x32>{});
    default:
      return fn(TileTag<Tile16x64>{});
  }
}

// ---- slabs in shared memory ----

// One operand's part of a slab, element (k, i) at index(k, i), i < Extent. An operand whose memory
// runs along k arrives as 4 numbers of one i for each lane, Depth / 4 lanes to an i: the pitch and
// the flipped bit put the 32 numbers that a warp writes at once into 32 banks, and keep fours of i
// together.
template <int Extent, int Depth, bool along_k>
struct Slab {
  static constexpr int pitch = Extent + (along_k ? 4 : 0);
  static constexpr int size = Depth * pitch;
  __device__ static __forceinline__ int index(int k, int i) {
    return k * pitch + (along_k ? i ^ (k & 8) : i);
  }
};

// How a block's threads bring an operand's part of a slab from global to shared memory.
template <class Operand, int Extent, int Depth, int threads>
class SlabLoader {
 public:
  using Shape = Slab<Extent, Depth, Operand::along_k>;

  __device__ __forceinline__ SlabLoader(const Operand& operand, int thread) : operand(operand) {
    const int first_i = along_k ? thread / (Depth / 4) : thread % (Extent / 4) * 4;
    first_k = along_k ? thread % (Depth / 4) * 4 : thread / (Extent / 4);
    first = Shape::index(first_k, first_i);
#pragma unroll
    for (int p = 0; p < (along_k ? passes : 1); ++p) {
      outer[p] = operand.outer(first_i + p * step, first_k);
    }
  }

  // Slabs are loaded in order, from k = 0 on.
  __device__ __forceinline__ void load(int k) {
    if constexpr (along_k) {
      const auto inner = operand.inner(k + first_k, 0);
#pragma unroll
      for (int p = 0; p < passes; ++p) {
        operand.load(staged[p], outer[p], inner);
        operand.advance(outer[p], Depth);
      }
    } else {
#pragma unroll
      for (int p = 0; p < passes; ++p) {
        operand.load(staged[p], outer[0], operand.inner(k + first_k + p * step, p * step));
      }
      operand.advance(outer[0], Depth);
    }
  }

  __device__ __forceinline__ void store(float* slab) const {
#pragma unroll
    for (int p = 0; p < passes; ++p) {
      if constexpr (along_k) {
#pragma unroll
        for (int j = 0; j < 4; ++j) slab[first + p * step + j * Shape::pitch] = staged[p][j];
      } else {
        write4(slab + first + p * step * Shape::pitch, staged[p]);
      }
    }
  }

 private:
  static constexpr bool along_k = Operand::along_k;
  static constexpr int passes = Extent * Depth / 4 / threads;
  static constexpr int step = along_k ? threads / (Depth / 4) : threads / (Extent / 4);
  static_assert(passes * threads * 4 == Extent * Depth, "every thread loads equally often");
  static_assert(!along_k || step % 16 == 0, "a step leaves the flipped bit alone");

  const Operand& operand;
  int first_k, first;
  typename Operand::Outer outer[along_k ? passes : 1];
  float staged[passes][4];
};

// ---- operands and results ----

// Rows of numbers that lie `step` apart, as an operand of a product: element (i, k) at
// data[i step + k] if along_k, else at data[k step + i].
template <bool runs_along_k>
struct MatrixOperand {
  static constexpr bool along_k = runs_along_k;
  const float* data;
  int64_t step;
  int64_t batch_step;  // from one product's operand to the next
  bool by_four;        // aligned: moves_by_four
  int extent, depth;   // of a block's part

  // To element (first, k_begin) of one product: from there on i < extent, k < depth.
  __device__ void begin(int64_t batch, int64_t first, int extent_, int64_t k_begin, int depth_) {
    data += batch * batch_step + (along_k ? first * step + k_begin : k_begin * step + first);
    extent = extent_;
    depth = depth_;
  }

  struct Outer {
    const float* at;
    int count;  // how many of four numbers along i exist
  };
  struct Inner {
    int64_t offset;
    int count;  // how many of four numbers along k exist
  };

  // Beyond the last i the last ones are read again: what they give is not kept.
  __device__ __forceinline__ Outer outer(int i, int first_k) const {
    if (along_k) return {data + min(i, extent - 1) * step + first_k, 4};
    const int from = min(i, extent - (by_four ? 4 : 1));
    return {data + first_k * step + from, min(4, extent - from)};
  }
  __device__ __forceinline__ void advance(Outer& o, int count) const {
    o.at += along_k ? count : count * step;
  }
  // k, which is `ahead` of where advance has led
  __device__ __forceinline__ Inner inner(int k, int ahead) const {
    return {along_k ? 0 : ahead * step, along_k ? depth - k : (k < depth ? 4 : 0)};
  }
  __device__ __forceinline__ void load(float (&v)[4], const Outer& o, const Inner& i) const {
    v[0] = v[1] = v[2] = v[3] = 0.0f;
    if (by_four) {
      if (i.count > 0) read4(v, o.at + i.offset);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (j < (along_k ? i.count : min(i.count, o.count))) v[j] = o.at[i.offset + j];
      }
    }
  }
};

// What becomes of a finished sum: act(sum + bias[column]).
struct Finish {
  const float* bias;  // or null
  Activation act;
  float alpha;

  // The biases of four columns, or of those before column `cols`; by_four: cols is a multiple of 4.
  __device__ __forceinline__ void read_bias(float (&v)[4], int col, int cols, bool by_four) const {
    if (by_four && aligned_16(bias)) {
      if (col < cols) read4(v, bias + col);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (col + j < cols) v[j] = bias[col + j];
      }
    }
  }
};

constexpr Finish unfinished{nullptr, Activation::linear, 0.0f};

// The rows of c, `step` apart.
struct MatrixResult {
  float* data;
  int64_t step;
  int64_t batch_step, split_step;  // from one product, one part of a sum, to the next
  bool by_four;
  Finish finish;
  int64_t bias_step;  // of a batch

  // Parts of sums, `size` numbers each, instead of the result.
  void move_to(float* partial, int64_t size) {
    data = partial, split_step = size;
    by_four = moves_by_four(partial, step, batch_step, size);
  }
  // To one tile.
  template <class Tile>
  __device__ void begin(int64_t batch, int64_t split, int64_t tile_down, int64_t tile_across) {
    const int64_t tile_row = step * Tile::rows;
    data +=
        batch * batch_step + split * split_step + tile_down * tile_row + tile_across * Tile::cols;
    if (finish.bias) finish.bias += batch * bias_step + tile_across * Tile::cols;
  }
  __device__ __forceinline__ float* row(int i) const { return data + i * step; }
};

// c (m, n) = a (m, k) b (k, n), `batch` of them
template <class A, class B, class C>
struct Product {
  static constexpr bool finishes = true;  // bias and activation are asked for
  // Where the operands need many registers, the largest tile has none left for its sums, and fewer
  // blocks of the others fit.
  static constexpr int first_tile = 0, fewer_blocks = 0;
  A a;
  B b;
  C c;
  int64_t m, n, k;

  // Makes this one product of the batch.
  __device__ void select(int64_t) {}
};

// ---- the kernel ----

// Blocks along x are tiles of one product, along y parts of its sum, along z products.
struct GemmGrid {
  uint32_t tiles_down, tiles_across, first_batch;
  int64_t split_depth;
};

// Adds a slab's products to a thread's sums.
template <class Tile, class ShapeA, class ShapeB>
__device__ __forceinline__ void multiply_slab(float (&sum)[Tile::fours][4], const float* a,
                                              const float* b, int row, int col) {
  constexpr int pieces = Tile::thread_cols / 4;
#pragma unroll
  for (int k = 0; k < Tile::slab_depth; ++k) {
    float x[Tile::thread_rows / 4][4], w[Tile::thread_cols / 4][4];
#pragma unroll
    for (int i = 0; i < Tile::thread_rows / 4; ++i) read4(x[i], a + ShapeA::index(k, row + 16 * i));
#pragma unroll
    for (int j = 0; j < Tile::thread_cols / 4; ++j) read4(w[j], b + ShapeB::index(k, col + 32 * j));
#pragma unroll
    for (int i = 0; i < Tile::thread_rows; ++i) {
#pragma unroll
      for (int j = 0; j < Tile::thread_cols; ++j) {
        sum[i * pieces + j / 4][j % 4] += x[i / 4][i % 4] * w[j / 4][j % 4];
      }
    }
  }
}

// Where up to four results next to each other go.
struct Four {
  float* at;
  int count;    // how many there are, 0 or less for none
  bool as_one;  // all or none, aligned

  __device__ __forceinline__ void read(float (&v)[4]) const {
    if (as_one) {
      if (count > 0) read4(v, at);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (j < count) v[j] = at[j];
      }
    }
  }
  __device__ __forceinline__ void write(const float (&v)[4]) const {
    if (as_one) {
      if (count > 0) write4(at, v);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (j < count) at[j] = v[j];
      }
    }
  }
};

// Writes act(v[i]) to place(i). The long activations would be most of the program if each sum had
// its own copy: they take a second look at what is still in the cache.
template <int N, class Place>
__device__ __forceinline__ void write_activated(float (&v)[N][4], Activation act, float alpha,
                                                Place place) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (act == Activation::relu) activate_all<Activation::relu>(v[i], alpha);
    if (act == Activation::leaky_relu) activate_all<Activation::leaky_relu>(v[i], alpha);
    place(i).write(v[i]);
  }
  if (act <= Activation::leaky_relu) return;
#pragma unroll 1
  for (int i = 0; i < N; ++i) {
    const Four four = place(i);
    float u[4] = {};
    four.read(u);
    activate_all(u, act, alpha);
    four.write(u);
  }
}

// Writes a thread's sums, finished: rows from `row` on, columns from `col` on.
template <bool finishes, class Tile, class Result>
__device__ __forceinline__ void write_sums(float (&sum)[Tile::fours][4], const Result& c, int row,
                                           int col, int rows, int cols) {
  constexpr int pieces = Tile::thread_cols / 4;
  const auto place = [&](int i) {
    const int at_row = row + i / pieces / 4 * 16 + i / pieces % 4, at_col = col + i % pieces * 32;
    return Four{c.row(at_row) + at_col, at_row < rows ? cols - at_col : 0, c.by_four};
  };
  if constexpr (finishes) {
    if (c.finish.bias) {
#pragma unroll
      for (int piece = 0; piece < pieces; ++piece) {
        float bias[4] = {};
        c.finish.read_bias(bias, col + 32 * piece, cols, c.by_four);
#pragma unroll
        for (int i = piece; i < Tile::fours; i += pieces) {
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[i][j] += bias[j];
        }
      }
    }
    write_activated(sum, c.finish.act, c.finish.alpha, place);
  } else {
#pragma unroll
    for (int i = 0; i < Tile::fours; ++i) place(i).write(sum[i]);
  }
}

template <class Tile, class P>
__global__ void __launch_bounds__(Tile::threads, Tile::resident - P::fewer_blocks)
    multiply_tiles(P product, GemmGrid grid) {
  using LoaderA = SlabLoader<decltype(product.a), Tile::rows, Tile::slab_depth, Tile::threads>;
  using LoaderB = SlabLoader<decltype(product.b), Tile::cols, Tile::slab_depth, Tile::threads>;
  using ShapeA = typename LoaderA::Shape;
  using ShapeB = typename LoaderB::Shape;

  // Blocks that run at the same time share rows and columns: bands of 8 tiles, column by column.
  const uint32_t in_band = blockIdx.x % (8 * grid.tiles_across);
  const uint32_t band = blockIdx.x / (8 * grid.tiles_across);
  const uint32_t band_rows = min(8u, grid.tiles_down - 8 * band);
  const uint32_t tile_down = 8 * band + in_band % band_rows, tile_across = in_band / band_rows;

  const int64_t first_row = tile_down * int64_t{Tile::rows};
  const int64_t first_col = tile_across * int64_t{Tile::cols};
  product.select(grid.first_batch + blockIdx.z);
  if (first_row >= product.m) return;
  const int rows = static_cast<int>(min(product.m - first_row, int64_t{Tile::rows}));
  const int cols = static_cast<int>(min(product.n - first_col, int64_t{Tile::cols}));
  const int64_t k_begin = min(blockIdx.y * grid.split_depth, product.k);
  const int depth = static_cast<int>(min(grid.split_depth, product.k - k_begin));
  product.a.begin(grid.first_batch + blockIdx.z, first_row, rows, k_begin, depth);
  product.b.begin(grid.first_batch + blockIdx.z, first_col, cols, k_begin, depth);

  float* const shared = dyn_smem<float>();  // two slabs of a and of b
  constexpr int slab_size = ShapeA::size + ShapeB::size;
  const int thread = threadIdx.x, warp = thread / warp_size, lane = thread % warp_size;
  const int row = warp / Tile::warps_across * Tile::warp_rows + lane / 8 * 4;
  const int col = warp % Tile::warps_across * Tile::warp_cols + lane % 8 * 4;

  // What only the end needs waits in shared memory: the loop takes all registers there are.
  __shared__ int4 place;
  if (thread == 0) place = make_int4(tile_down, tile_across, rows, cols);
  LoaderA a(product.a, thread);
  LoaderB b(product.b, thread);
  if (depth > 0) {
    a.load(0);
    b.load(0);
    a.store(shared);
    b.store(shared + ShapeA::size);
  }
  __syncthreads();
  float sum[Tile::fours][4] = {};
  int current = 0;
#pragma unroll 1
  for (int k = Tile::slab_depth; k < depth + Tile::slab_depth; k += Tile::slab_depth) {
    if (k < depth) {
      a.load(k);
      b.load(k);
    }
    const float* const slab = shared + current;
    multiply_slab<Tile, ShapeA, ShapeB>(sum, slab, slab + ShapeA::size, row, col);
    current = slab_size - current;
    if (k < depth) {
      a.store(shared + current);
      b.store(shared + current + ShapeA::size);
    }
    __syncthreads();
  }
  const int4 tile = place;
  product.c.template begin<Tile>(grid.first_batch + blockIdx.z, blockIdx.y, tile.x, tile.y);
  write_sums<P::finishes, Tile>(sum, product.c, row, col, tile.z, tile.w);
}

// ---- split sums ----

// y[i] = act(sum over parts p of partial[p size + i] + bias[i % cols]). A thread's row of the block
// adds every rows-th part, in order; then the rows' sums are added, in order.
template <int by>
__global__ void __launch_bounds__(256) add_partials(float* y, const float* partial, int64_t parts,
                                                    int64_t size, int64_t cols, Finish finish) {
  __shared__ __align__(16) float shared[256 * by];
  const int rows = blockDim.y, thread = threadIdx.y * blockDim.x + threadIdx.x;
  const int64_t i = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) * by;
  float sum[by] = {};
  if (i < size) {
#pragma unroll 4
    for (int64_t p = threadIdx.y; p < parts; p += rows) {
      float v[by];
      read_vector(v, partial + p * size + i);
#pragma unroll
      for (int j = 0; j < by; ++j) sum[j] += v[j];
    }
  }
  if (rows > 1) {
#pragma unroll
    for (int j = 0; j < by; ++j) shared[j * 256 + thread] = sum[j];
    __syncthreads();
    if (threadIdx.y > 0) return;
    for (int r = 1; r < rows; ++r) {
#pragma unroll
      for (int j = 0; j < by; ++j) sum[j] += shared[j * 256 + r * blockDim.x + threadIdx.x];
    }
  }
  if (i >= size) return;
  if (finish.bias) {
    float bias[4] = {};
    const int64_t col = i % cols;
    if (by == 1 || cols % 4 == 0) {
      finish.bias += col;
      finish.read_bias(bias, 0, by, by == 4);
    } else {
#pragma unroll
      for (int j = 0; j < by; ++j) bias[j] = finish.bias[(i + j) % cols];
    }
#pragma unroll
    for (int j = 0; j < by; ++j) sum[j] += bias[j];
  }
  activate_all(sum, finish.act, finish.alpha);
  write_vector(y + i, sum);
}

// y, partial[p] (size / cols, cols); partial 16-byte aligned
inline void add_parts(float* y, const float* partial, int64_t parts, int64_t size, int64_t cols,
                      Finish finish) {
  const bool by_four = moves_by_four(y, size);
  const unsigned rows = parts > 16 ? 8 : 1;
  const dim3 block(256 / rows, rows);
  const int64_t blocks = ceil_div(size, block.x * (by_four ? 4 : 1));
  launch(by_four ? add_partials<4> : add_partials<1>, dim3(static_cast<unsigned>(blocks)), block, 0,
         current_stream(), y, partial, parts, size, cols, finish);
}

// ---- plans ----

struct GemmPlan {
  int tile;
  int64_t splits;
};

// The tile and the split that should be quickest, from the shape alone. The model is in cycles of
// one of target_blocks / 2 multiprocessors: it issues 4 warps' multiplications a cycle at best, a
// warp one every other cycle; the operands come from L2; a block takes a while to begin and end; a
// second kernel and the traffic of the partial sums have their price.
inline GemmPlan plan_gemm(int64_t m, int64_t n, int64_t k, int64_t batch, int first_tile = 0) {
  constexpr double multiprocessors = target_blocks / 2;
  constexpr int64_t longest = 1 << 30;  // sum of one block
  constexpr double block_slabs = 4, second_kernel = 4000, floats_per_cycle = 512;
  GemmPlan best{first_tile, 1};
  double best_cycles = 0;
  for (int t = first_tile; t < tile_count; ++t) {
    with_tile(t, [&](auto tag) {
      using Tile = typename decltype(tag)::Tile;
      const double issue = Tile::thread_rows * Tile::thread_cols;
      // loads from shared memory for each multiplication are what slows small pieces down
      const double slowdown = 0.8 + 0.8 * (1.0 / Tile::thread_rows + 1.0 / Tile::thread_cols);
      const double tiles = static_cast<double>(ceil_div(m, Tile::rows)) *
                           static_cast<double>(ceil_div(n, Tile::cols)) *
                           static_cast<double>(batch);
      const int64_t slabs = ceil_div(k, Tile::slab_depth);
      for (int64_t splits = std::max<int64_t>(ceil_div(k, longest), 1); splits <= 512;
           splits += std::max<int64_t>(splits / 2, 1)) {
        if (splits > 1 && slabs < 4 * splits) break;
        const double blocks = std::ceil(tiles * static_cast<double>(splits) / multiprocessors);
        const double busy = blocks * issue * Tile::warps / 4 * slowdown;
        const double waiting = std::ceil(blocks / Tile::resident) * issue * 2;
        const double depth =
            Tile::slab_depth * (static_cast<double>(ceil_div(slabs, splits)) + block_slabs);
        const double loading =
            blocks * (Tile::rows + Tile::cols) * multiprocessors / floats_per_cycle;
        double cycles = std::max({busy, waiting, loading}) * depth;
        if (splits > 1) {
          const double size =
              static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(batch);
          cycles += second_kernel + 2 * static_cast<double>(splits) * size / floats_per_cycle;
        }
        if (best_cycles == 0 || cycles < best_cycles) {
          best_cycles = cycles;
          best = {t, splits};
        }
      }
    });
  }
  return best;
}

// The plan as text, for TILEGRAD_DEBUG=3.
inline void describe_plan(char* text, int64_t capacity, const char* algorithm, GemmPlan plan,
                          int64_t m, int64_t n, int64_t batch) {
  with_tile(plan.tile, [&](auto tag) {
    using Tile = typename decltype(tag)::Tile;
    const int64_t blocks = ceil_div(m, Tile::rows) * ceil_div(n, Tile::cols) * batch * plan.splits;
    std::snprintf(text, static_cast<size_t>(capacity),
                  "%s, tile %dx%dx%d, %lld blocks of %d threads, k in %lld", algorithm, Tile::rows,
                  Tile::cols, Tile::slab_depth, static_cast<long long>(blocks), Tile::threads,
                  static_cast<long long>(plan.splits));
  });
}

inline int64_t split_workspace(const GemmPlan& plan, int64_t size) {
  return plan.splits > 1 ? plan.splits * size * static_cast<int64_t>(sizeof(float)) : 0;
}

// Runs a product by its plan; c is contiguous, of `size` numbers in all, in rows of `cols`.
// Unless the sum is split, c.data is the result; else the workspace holds its parts first.
template <class P>
void run_product(P product, GemmPlan plan, int64_t batch, int64_t size, int64_t cols,
                 void* workspace) {
  if (size == 0) return;
  float* const y = product.c.data;
  const Finish finish = product.c.finish;
  if (plan.splits > 1) {
    product.c.move_to(static_cast<float*>(workspace), size);
    product.c.finish = unfinished;
  }
  with_tile<P::first_tile>(plan.tile, [&](auto tag) {
    using Tile = typename decltype(tag)::Tile;
    using LoaderA = SlabLoader<decltype(product.a), Tile::rows, Tile::slab_depth, Tile::threads>;
    using LoaderB = SlabLoader<decltype(product.b), Tile::cols, Tile::slab_depth, Tile::threads>;
    constexpr size_t smem = 2 * sizeof(float) * (LoaderA::Shape::size + LoaderB::Shape::size);
    const int64_t split_slabs = ceil_div(ceil_div(product.k, Tile::slab_depth), plan.splits);
    GemmGrid grid{static_cast<uint32_t>(ceil_div(product.m, Tile::rows)),
                  static_cast<uint32_t>(ceil_div(product.n, Tile::cols)), 0,
                  split_slabs * Tile::slab_depth};
    constexpr int64_t most = 65535;  // blocks along z
    for (int64_t first = 0; first < batch; first += most) {
      grid.first_batch = static_cast<uint32_t>(first);
      const dim3 blocks(grid.tiles_down * grid.tiles_across, static_cast<unsigned>(plan.splits),
                        static_cast<unsigned>(std::min(most, batch - first)));
      launch(multiply_tiles<Tile, P>, blocks, dim3(Tile::threads), smem, current_stream(), product,
             grid);
    }
  });
  if (plan.splits > 1)
    add_parts(y, static_cast<const float*>(workspace), plan.splits, size, cols, finish);
}

}  // namespace cuda
}  // namespace tilegrad
