// y = max_pool(act(conv(x, w) + b)), dw, db     x (n, h, w, c)  y, index (n, poh, pow, f)
// First layers (c <= 4): the image between convolution and pooling never reaches memory. A block
// does a tile of windows and 32 filters, what they see of x in shared memory. dz is dy at the places
// in index and 0 elsewhere, so dw needs only the windows of x there, 1 / (pool h w) of the
// convolution's FLOPs; partial sums of blocks are added in order. Bound by arithmetic.
// Wider layers: the kernels of conv.cu and pool.cu, as many images at a time as L2 holds.
#include "../ops/conv_pool.h"

#include <algorithm>

#include "../ops/dense.h"
#include "device.h"
#include "pool.h"

namespace tilegrad {
namespace cuda {

constexpr int tile_threads = 256, tile_warps = tile_threads / warp_size;
constexpr int block_filters = 32;

// ---- tiles ----

// ConvPool2dShape in the integers of the kernels, cut into tiles of windows.
struct ConvPoolTiles {
  int h, w, c, f, kh, kw;
  int stride_h, stride_w, dilation_h, dilation_w;
  int64_t pad_top, pad_left;
  int image_h, image_w;  // between convolution and pooling
  int oh, ow, pool_h, pool_w, pool_top, pool_left;
  int tile_h, tile_w, tiles_h, tiles_w;  // windows of a tile, tiles of an image
  int patch_h, span, pitch;              // what a tile sees of x: lines, floats of one, apart

  __host__ __device__ int taps() const { return kh * kw * c; }
  __host__ __device__ int64_t tiles_of_image() const { return int64_t{tiles_h} * tiles_w; }
};

// Windows [row, row + tile_h) x [column, column + tile_w) of an image.
struct Tile {
  int64_t image;
  int row, column;

  __device__ __forceinline__ Tile(unsigned number, const ConvPoolTiles& s) {
    const unsigned line = number / s.tiles_w, at = line / s.tiles_h;
    image = at;
    row = static_cast<int>(line - at * s.tiles_h) * s.tile_h;
    column = static_cast<int>(number - line * s.tiles_w) * s.tile_w;
  }
};

// min(max(v, 0), high)
__device__ __forceinline__ int clip(int64_t v, int high) {
  return static_cast<int>(v < 0 ? 0 : v > high ? high : v);
}

// Everything that the tile's windows see of x, zero outside the image; a warp copies a line.
__device__ __forceinline__ void load_patch(float* patch, const float* x, const Tile& tile,
                                           const ConvPoolTiles& s) {
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const int64_t line = int64_t{s.w} * s.c;
  const int64_t top = (int64_t{tile.row} * s.pool_h - s.pool_top) * s.stride_h - s.pad_top;
  const int64_t left =
      ((int64_t{tile.column} * s.pool_w - s.pool_left) * s.stride_w - s.pad_left) * s.c;
  const int row_begin = clip(-top, s.patch_h), row_end = clip(s.h - top, s.patch_h);
  const int begin = clip(-left, s.span), end = clip(line - left, s.span);
  const float* from = x + (tile.image * s.h + top + warp) * line + left;
  for (int r = warp; r < s.patch_h; r += tile_warps, from += tile_warps * line) {
    const bool row_inside = r >= row_begin && r < row_end;
    for (int q = lane; q < s.span; q += warp_size) {
      const bool inside = row_inside && q >= begin && q < end;
      patch[r * s.pitch + q] = inside ? from[q] : 0.0f;
    }
  }
}

// Whether place (a, b) of window (i, j) lies in the image between convolution and pooling.
__device__ __forceinline__ bool inside_image(int i, int j, int a, int b, const ConvPoolTiles& s) {
  const int row = i * s.pool_h - s.pool_top + a, column = j * s.pool_w - s.pool_left + b;
  return row >= 0 && row < s.image_h && column >= 0 && column < s.image_w;
}

// ---- forward ----

// A thread does 4 filters of 2 windows, 4 places of each at a time: 32 sums. Neighbouring threads
// have neighbouring filters.
constexpr int thread_filters = 4, thread_windows = 2, places_at_once = 4;
constexpr int filter_groups = block_filters / thread_filters;
constexpr int window_slots = tile_threads / filter_groups;

// y, index (n, oh, ow, f)  x (n, h, w, c)  w (kh, kw, c, f)  b (f) or null
// KH, KW, C: the window, with stride and dilation 1 and 2 x 2 pooling that needs no clipping; 0 is
// any. packs: y and index may be written four filters at a time.
template <int KH, int KW, int C, bool packs>
__global__ void __launch_bounds__(tile_threads, 2)
    conv_pool_forward_tiles(float* y, uint8_t* index, const float* x, const float* w,
                            const float* b, ConvPoolTiles s, int filter_blocks, bool relu) {
  constexpr bool fixed = KH > 0;
  if constexpr (fixed) {
    s.kh = KH, s.kw = KW, s.c = C;
    s.stride_h = s.stride_w = s.dilation_h = s.dilation_w = 1;
    s.pool_h = s.pool_w = 2;
  }
  float* const weights = dyn_smem<float>();  // (taps + 1, block_filters), the last row b
  float* const patch = weights + (s.taps() + 1) * block_filters;
  const int first_filter = static_cast<int>(blockIdx.x % filter_blocks) * block_filters;
  const Tile tile(blockIdx.x / filter_blocks, s);
  for (int i = threadIdx.x; i < (s.taps() + 1) * block_filters; i += tile_threads) {
    const int tap = i / block_filters, filter = first_filter + i % block_filters;
    float weight = 0.0f;
    if (filter < s.f && tap < s.taps()) weight = w[int64_t{tap} * s.f + filter];
    if (filter < s.f && tap == s.taps() && b != nullptr) weight = b[filter];
    weights[i] = weight;
  }
  load_patch(patch, x, tile, s);
  __syncthreads();

  const int group = threadIdx.x % filter_groups, slot = threadIdx.x / filter_groups;
  const int filter = first_filter + group * thread_filters;
  const float4* const group_weights = reinterpret_cast<const float4*>(weights) + group;
  const float4 bias4 = group_weights[s.taps() * filter_groups];
  const float bias[thread_filters] = {bias4.x, bias4.y, bias4.z, bias4.w};
  const int windows = s.tile_h * s.tile_w, places = s.pool_h * s.pool_w;
  for (int first = slot; first < windows; first += thread_windows * window_slots) {
    int i[thread_windows], j[thread_windows];
    bool present[thread_windows];
    const float* corner[thread_windows];
#pragma unroll
    for (int v = 0; v < thread_windows; ++v) {
      const int window = first + v * window_slots;
      const int row = static_cast<unsigned>(window) / s.tile_w, column = window - row * s.tile_w;
      i[v] = tile.row + row, j[v] = tile.column + column;
      present[v] = window < windows && i[v] < s.oh && j[v] < s.ow;
      corner[v] = patch;  // where there is no window: anything
      if (present[v]) {
        corner[v] += row * s.pool_h * s.stride_h * s.pitch + column * s.pool_w * s.stride_w * s.c;
      }
    }
    float best[thread_windows][thread_filters] = {};
    int place[thread_windows][thread_filters];
#pragma unroll
    for (int v = 0; v < thread_windows; ++v) {
#pragma unroll
      for (int k = 0; k < thread_filters; ++k) place[v][k] = -1;
    }
    for (int begin = 0; begin < places; begin += places_at_once) {
      int offset[places_at_once];
      bool inside[thread_windows][places_at_once];
#pragma unroll
      for (int p = 0; p < places_at_once; ++p) {
        const int at = min(begin + p, places - 1), a = at / s.pool_w, b_ = at - a * s.pool_w;
        offset[p] = a * s.stride_h * s.pitch + b_ * s.stride_w * s.c;
#pragma unroll
        for (int v = 0; v < thread_windows; ++v) {
          inside[v][p] = fixed || (begin + p < places && inside_image(i[v], j[v], a, b_, s));
        }
      }
      float sum[thread_windows][places_at_once][thread_filters] = {};
      const float4* next = group_weights;
      const auto add_tap = [&](int from) {
        const float4 weight = *next;
        next += filter_groups;
        const float of_tap[thread_filters] = {weight.x, weight.y, weight.z, weight.w};
#pragma unroll
        for (int v = 0; v < thread_windows; ++v) {
#pragma unroll
          for (int p = 0; p < places_at_once; ++p) {
            const float number = corner[v][offset[p] + from];
#pragma unroll
            for (int k = 0; k < thread_filters; ++k) sum[v][p][k] += number * of_tap[k];
          }
        }
      };
      // the order of the convolution's own sums: (a, b, channel)
      if constexpr (fixed) {
        // more lines of the window at once would not fit into registers
        [[maybe_unused]] constexpr int rows_at_once = KH * KW * C <= 9 ? KH : 1;
#pragma unroll(rows_at_once)
        for (int a = 0; a < KH; ++a) {
#pragma unroll
          for (int q = 0; q < KW * C; ++q) add_tap(a * s.pitch + q);
        }
      } else {
        for (int a = 0; a < s.kh; ++a) {
          for (int b_ = 0; b_ < s.kw; ++b_) {
            const int from = a * s.dilation_h * s.pitch + b_ * s.dilation_w * s.c;
            for (int channel = 0; channel < s.c; ++channel) add_tap(from + channel);
          }
        }
      }
#pragma unroll
      for (int v = 0; v < thread_windows; ++v) {
#pragma unroll
        for (int p = 0; p < places_at_once; ++p) {
          if (!inside[v][p]) continue;
#pragma unroll
          for (int k = 0; k < thread_filters; ++k) {
            const float z = sum[v][p][k] + bias[k];
            // A later place wins by being greater or the first NaN. & and |: a branch would be as
            // long as what it skips.
            const bool first_place = fixed ? p == 0 : place[v][k] < 0;
            const bool wins = first_place | (!(z <= best[v][k]) & !isnan(best[v][k]));
            best[v][k] = wins ? z : best[v][k];
            place[v][k] = wins ? begin + p : place[v][k];
          }
        }
      }
    }
#pragma unroll
    for (int v = 0; v < thread_windows; ++v) {
      if (!present[v] || filter >= s.f) continue;
      // a relu is the same, and cheaper, after the maximum
#pragma unroll
      for (int k = 0; k < thread_filters; ++k) {
        place[v][k] = relu & !(best[v][k] > 0.0f) ? closed_window : place[v][k];
        best[v][k] = relu & (best[v][k] < 0.0f) ? 0.0f : best[v][k];  // NaN stays NaN
      }
      const int64_t to = ((tile.image * s.oh + i[v]) * s.ow + j[v]) * s.f + filter;
      if constexpr (packs) {
        reinterpret_cast<float4*>(y)[to / 4] =
            make_float4(best[v][0], best[v][1], best[v][2], best[v][3]);
        reinterpret_cast<uint32_t*>(index)[to / 4] =
            place[v][0] | place[v][1] << 8 | place[v][2] << 16 | place[v][3] << 24;
      } else {
#pragma unroll
        for (int k = 0; k < thread_filters; ++k) {
          if (filter + k >= s.f) continue;
          y[to + k] = best[v][k];
          index[to + k] = static_cast<uint8_t>(place[v][k]);
        }
      }
    }
  }
}

// ---- backward ----

// What a block adds up: the filters and taps of its place in the grid, over the tiles of its part.
struct DwSplit {
  int parts, filter_blocks, tap_blocks;
  int block_taps;  // at most
  int tiles;       // of all images
};

constexpr int windows_at_once = 4;  // of a warp: their loads are on their way together

// Partial gradients parts (parts, taps + 1, f), the last row that of db
// x (n, h, w, c)  dy, index (n, oh, ow, f)
// A lane sums one filter's taps, a warp every eighth window.
// T: at least block_taps; if run > 1, all taps, which lie side by side in x in runs of so many.
// clips: windows reach beyond the image, and an index from elsewhere may name places there.
template <int T, int run, bool clips>
__global__ void __launch_bounds__(tile_threads, 2)
    conv_pool_backward_dw_tiles(float* parts, const float* x, const float* dy, const uint8_t* index,
                                ConvPoolTiles s, DwSplit split) {
  float* const patch = dyn_smem<float>();
  __shared__ int offset_of[256];  // by index: where the place's window of x begins, or -1
  __shared__ float sums[T + 1][warp_size];
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const int filter_block = static_cast<int>(blockIdx.x % split.filter_blocks);
  const int tap_block = static_cast<int>(blockIdx.x / split.filter_blocks % split.tap_blocks);
  const int part = static_cast<int>(blockIdx.x / (split.filter_blocks * split.tap_blocks));
  const int filter = filter_block * block_filters + lane;
  const int first_tap = tap_block * split.block_taps;
  const int block_taps = min(split.block_taps, s.taps() - first_tap);

  for (int i = threadIdx.x; i < 256; i += tile_threads) {
    const int a = i / s.pool_w, b = i - a * s.pool_w;
    offset_of[i] = i < s.pool_h * s.pool_w ? a * s.stride_h * s.pitch + b * s.stride_w * s.c : -1;
  }
  int run_offset[T / run];
  float acc[T], db = 0.0f;
#pragma unroll
  for (int t = 0; t < T; ++t) {
    acc[t] = 0.0f;
    if (t % run != 0) continue;
    const int tap = min(first_tap + t, s.taps() - 1), pixel = tap / s.c, a = pixel / s.kw;
    run_offset[t / run] =
        a * s.dilation_h * s.pitch + (pixel - a * s.kw) * s.dilation_w * s.c + tap - pixel * s.c;
  }

  const int first_row = warp / s.tile_w, first_column = warp - first_row * s.tile_w;
  const int step_row = tile_warps / s.tile_w, step_column = tile_warps - step_row * s.tile_w;
  const int each = split.tiles / split.parts, more = split.tiles - each * split.parts;
  const int begin = part * each + min(part, more), end = begin + each + (part < more);
  for (int number = begin; number < end; ++number) {
    const Tile tile(number, s);
    __syncthreads();  // everybody is through with the patch before
    load_patch(patch, x, tile, s);
    __syncthreads();
    const int rows = min(s.tile_h, s.oh - tile.row);
    const int columns = filter < s.f ? min(s.tile_w, s.ow - tile.column) : 0;
    const int64_t corner = ((tile.image * s.oh + tile.row) * s.ow + tile.column) * s.f + filter;
    int row = first_row, column = first_column;
    while (row < rows) {
      float dz[windows_at_once] = {};
      int from[windows_at_once];  // in the patch; -1: no gradient
#pragma unroll
      for (int u = 0; u < windows_at_once; ++u) {
        from[u] = -1;
        if (row < rows && column < columns) {
          const int64_t at = corner + int64_t{row * s.ow + column} * s.f;
          const int place = index[at];
          dz[u] = dy[at];
          int offset = offset_of[place];
          if constexpr (clips) {
            const int a = place / s.pool_w, b = place - a * s.pool_w;
            if (!inside_image(tile.row + row, tile.column + column, a, b, s)) offset = -1;
          }
          if (offset >= 0) {
            from[u] = offset + row * s.pool_h * s.stride_h * s.pitch +
                      column * s.pool_w * s.stride_w * s.c;
          }
        }
        row += step_row;
        column += step_column;
        if (column >= s.tile_w) column -= s.tile_w, ++row;
      }
#pragma unroll
      for (int u = 0; u < windows_at_once; ++u) {
        if (from[u] < 0) continue;
        db += dz[u];
#pragma unroll
        for (int t = 0; t < T; ++t) {
          acc[t] += dz[u] * patch[from[u] + run_offset[t / run] + t % run];
        }
      }
    }
  }

  for (int turn = 0; turn < tile_warps; ++turn) {  // in order, so that the bits do not vary
    if (warp == turn) {
#pragma unroll
      for (int t = 0; t < T; ++t) sums[t][lane] = turn == 0 ? acc[t] : sums[t][lane] + acc[t];
      sums[T][lane] = turn == 0 ? db : sums[T][lane] + db;
    }
    __syncthreads();
  }
  if (filter >= s.f) return;
  float* const to = parts + int64_t{part} * (s.taps() + 1) * s.f + filter;
  for (int t = warp; t < block_taps; t += tile_warps) {
    to[int64_t{first_tap + t} * s.f] = sums[t][lane];
  }
  if (tap_block == 0 && warp == 0) to[int64_t{s.taps()} * s.f] = sums[T][lane];
}

constexpr int part_lanes = 32;  // that share the parts of one sum

// dw, db = the sums over parts (parts, size + f), in order     dw (size)  db (f) or null
__global__ void __launch_bounds__(part_lanes* warp_size)
    conv_pool_combine_parts(float* dw, float* db, const float* parts, int count, int64_t size,
                            int64_t f) {
  __shared__ float sums[part_lanes][warp_size];
  const int lane = threadIdx.x % warp_size, share = threadIdx.x / warp_size;
  const int64_t at = int64_t{blockIdx.x} * warp_size + lane, step = size + f;
  float sum = 0.0f;
  if (at < step) {
    for (int part = share; part < count; part += part_lanes) sum += parts[part * step + at];
  }
  sums[share][lane] = sum;
  __syncthreads();
  if (share > 0 || at >= step) return;
  for (int i = 1; i < part_lanes; ++i) sum += sums[i][lane];
  if (at < size) {
    dw[at] = sum;
  } else if (db != nullptr) {
    db[at - size] = sum;
  }
}

// ---- tiles of the host ----

constexpr int64_t shared_floats = 48 * 1024 / sizeof(float);  // of a block, on any GPU

int to_int(int64_t size) { return static_cast<int>(size); }

// Whether the direct kernels do a shape, and how. A block does `slots` windows at once, and wants
// `floats` of shared memory besides the patch; each tile is done by `blocks` of them. The lanes of
// a warp read neighbouring windows, or with by_place the places of one: neither in the same bank.
bool cut_tiles(ConvPoolTiles& tiles, const ConvPool2dShape& s, int64_t slots, int64_t floats,
               int64_t blocks, bool by_place) {
  const Conv2dShape& c = s.conv;
  const Pool2dShape& p = s.pool;
  constexpr int64_t most_channels = 4;
  if (c.c > most_channels || p.n * p.oh * p.ow == 0) return false;
  const int64_t step_h = p.kh * c.stride_h, step_w = p.kw * c.stride_w * c.c;
  double lowest = INFINITY;
  for (const int64_t wanted_h : {1, 2, 3, 4, 6, 8, 12, 16}) {
    const int64_t tile_h = std::min(wanted_h, p.oh);
    const int64_t patch_h = tile_h * step_h - c.stride_h + (c.kh - 1) * c.dilation_h + 1;
    for (const int64_t wanted_w :
         {p.ow, ceil_div(p.ow, 2), ceil_div(p.ow, 3), int64_t{32}, int64_t{8}, int64_t{1}}) {
      const int64_t tile_w = std::min(wanted_w, p.ow);
      const int64_t span = tile_w * step_w - (c.stride_w - (c.kw - 1) * c.dilation_w - 1) * c.c;
      if (patch_h > shared_floats || span > shared_floats) continue;
      const auto in_own_banks = [&](int64_t pitch) {
        const int64_t place_step = c.stride_h * pitch % 32;
        if (by_place) return place_step >= 8 && place_step <= 24;
        // windows of the next line go on in the banks where those of the last one ended
        return (step_h * pitch - tile_w * step_w) % 32 == 0;
      };
      int64_t pitch = span;
      while (pitch < span + 32 && !in_own_banks(pitch)) ++pitch;
      if (patch_h * pitch + floats > shared_floats) continue;
      const int64_t tiles_h = ceil_div(p.oh, tile_h), tiles_w = ceil_div(p.ow, tile_w);
      // rounds of the fullest multiprocessor, where loading a patch costs about one
      const double rounds = static_cast<double>(ceil_div(tile_h * tile_w, slots) + 1);
      const double count =
          static_cast<double>(p.n) * static_cast<double>(tiles_h * tiles_w * blocks);
      const double cost = rounds * std::max(count / target_blocks, 1.0);
      if (count > INT32_MAX || cost >= lowest) continue;
      lowest = cost;
      tiles = {to_int(c.h),          to_int(c.w),          to_int(c.c),        to_int(c.f),
               to_int(c.kh),         to_int(c.kw),         to_int(c.stride_h), to_int(c.stride_w),
               to_int(c.dilation_h), to_int(c.dilation_w), c.pad_top,          c.pad_left,
               to_int(p.h),          to_int(p.w),          to_int(p.oh),       to_int(p.ow),
               to_int(p.kh),         to_int(p.kw),         to_int(p.pad_top),  to_int(p.pad_left),
               to_int(tile_h),       to_int(tile_w),       to_int(tiles_h),    to_int(tiles_w),
               to_int(patch_h),      to_int(span),         to_int(pitch)};
    }
  }
  return lowest < INFINITY;
}

int64_t filter_blocks_of(const ConvPool2dShape& s) { return ceil_div(s.conv.f, block_filters); }

// Whether windows reach beyond the image.
bool clips(const Pool2dShape& p) {
  return p.pad_top > 0 || p.pad_left > 0 || p.oh * p.kh > p.h || p.ow * p.kw > p.w;
}

bool cut_forward(ConvPoolTiles& tiles, const ConvPool2dShape& s) {
  const int64_t taps = s.conv.kh * s.conv.kw * s.conv.c;
  if (taps >= shared_floats / block_filters) return false;
  return cut_tiles(tiles, s, thread_windows * window_slots, (taps + 1) * block_filters,
                   filter_blocks_of(s), false);
}

constexpr int most_taps = 27;  // that a thread sums

bool cut_backward(ConvPoolTiles& tiles, DwSplit& split, const ConvPool2dShape& s) {
  const int64_t taps = s.conv.kh * s.conv.kw * s.conv.c, tap_blocks = ceil_div(taps, most_taps);
  const int64_t blocks = filter_blocks_of(s) * tap_blocks;
  constexpr int64_t fixed = 256 + (most_taps + 1) * warp_size;  // offset_of and sums
  if (!cut_tiles(tiles, s, tile_warps * windows_at_once, fixed, blocks, true)) return false;
  const int64_t wanted = ceil_div(2 * target_blocks, blocks);
  const int64_t count = s.conv.n * tiles.tiles_of_image();
  split = {to_int(std::min(wanted, count)), to_int(filter_blocks_of(s)), to_int(tap_blocks),
           to_int(ceil_div(taps, tap_blocks)), to_int(count)};
  return true;
}

// ---- wider layers: two kernels, a few images at a time ----

constexpr int64_t resident_floats = int64_t{1} << 23;  // 32 MiB of images that L2 still holds

struct Chunks {
  int64_t images, count;

  explicit Chunks(const ConvPool2dShape& s) {
    const int64_t image = s.pool.h * s.pool.w * s.pool.c;
    const int64_t most = std::max<int64_t>(resident_floats / image, 1);
    images = ceil_div(s.conv.n, ceil_div(s.conv.n, most));  // chunks of one size
    count = ceil_div(s.conv.n, images);
  }
};

// The same with n images, from image `first` on where there are so many.
ConvPool2dShape images_of(ConvPool2dShape s, int64_t first, int64_t images) {
  s.conv.n = s.pool.n = std::min(images, s.conv.n - first);
  return s;
}

int64_t aligned_bytes(int64_t floats) { return ceil_div(floats * 4, 256) * 256; }

int64_t image_bytes(const ConvPool2dShape& s) {
  return aligned_bytes(Chunks(s).images * s.pool.h * s.pool.w * s.pool.c);
}

// The most that bytes(shape) asks for over the chunks, of which only the last is smaller.
template <class F>
int64_t most_bytes(const ConvPool2dShape& s, F bytes) {
  const Chunks chunks(s);
  return std::max(bytes(images_of(s, 0, chunks.images)),
                  bytes(images_of(s, (chunks.count - 1) * chunks.images, chunks.images)));
}

void forward_of_two(float* y, uint8_t* index, const float* x, const float* w, const float* b,
                    const ConvPool2dShape& s, bool relu, void* workspace) {
  float* const z = static_cast<float*>(workspace);
  void* const rest = static_cast<char*>(workspace) + image_bytes(s);
  const int64_t images = Chunks(s).images;
  for (int64_t first = 0; first < s.conv.n; first += images) {
    const ConvPool2dShape part = images_of(s, first, images);
    const int64_t to = first * s.pool.oh * s.pool.ow * s.pool.c;
    conv2d_forward(z, x + first * s.conv.h * s.conv.w * s.conv.c, w, b, part.conv,
                   Activation::linear, 0.0f, rest);
    max_pool2d(y + to, index + to, z, part.pool, relu);
  }
}

int64_t dw_parts_bytes(const ConvPool2dShape& s, int64_t parts) {
  return aligned_bytes(parts * (s.conv.kh * s.conv.kw * s.conv.c + 1) * s.conv.f);
}

int64_t dw_rest_bytes(const ConvPool2dShape& s) {
  return most_bytes(s, [](const ConvPool2dShape& part) {
    return std::max(
        conv2d_backward_dw_workspace(part.conv),
        bias_backward_db_workspace(part.pool.n * part.pool.h * part.pool.w, part.pool.c));
  });
}

void combine_parts(float* dw, float* db, const float* parts, int64_t count,
                   const ConvPool2dShape& s) {
  const int64_t size = s.conv.kh * s.conv.kw * s.conv.c * s.conv.f;
  launch(conv_pool_combine_parts, dim3(static_cast<unsigned>(ceil_div(size + s.conv.f, warp_size))),
         dim3(part_lanes * warp_size), 0, current_stream(), dw, db, parts, count, size, s.conv.f);
}

void backward_of_two(float* dw, float* db, const float* x, const float* dy, const uint8_t* index,
                     const ConvPool2dShape& s, void* workspace) {
  const Chunks chunks(s);
  char* const memory = static_cast<char*>(workspace);
  float* const dz = reinterpret_cast<float*>(memory);
  float* const parts = reinterpret_cast<float*>(memory + image_bytes(s));
  void* const rest = memory + image_bytes(s) + dw_parts_bytes(s, chunks.count);
  const int64_t size = s.conv.kh * s.conv.kw * s.conv.c * s.conv.f;
  for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    const int64_t first = chunk * chunks.images;
    const ConvPool2dShape part = images_of(s, first, chunks.images);
    const int64_t from = first * s.pool.oh * s.pool.ow * s.pool.c;
    float* const to = parts + chunk * (size + s.conv.f);
    max_pool2d_backward_dx(dz, dy + from, index + from, part.pool);
    conv2d_backward_dw(to, x + first * s.conv.h * s.conv.w * s.conv.c, dz, part.conv, rest);
    bias_backward_db(to + size, dz, part.pool.n * part.pool.h * part.pool.w, s.pool.c, rest);
  }
  combine_parts(dw, db, parts, chunks.count, s);
}

// ---- launches of the direct kernels ----

void launch_forward(float* y, uint8_t* index, const float* x, const float* w, const float* b,
                    const ConvPool2dShape& s, const ConvPoolTiles& tiles, bool relu) {
  const Conv2dShape& c = s.conv;
  const Pool2dShape& p = s.pool;
  const bool packs = c.f % 4 == 0 && aligned_16(y) && reinterpret_cast<uintptr_t>(index) % 4 == 0;
  const bool plain = packs && c.stride_h * c.stride_w * c.dilation_h * c.dilation_w == 1 &&
                     p.kh == 2 && p.kw == 2 && !clips(p);
  const auto is = [&](int64_t kh, int64_t kw, int64_t channels) {
    return plain && c.kh == kh && c.kw == kw && c.c == channels;
  };
  const auto kernel = is(3, 3, 1)   ? conv_pool_forward_tiles<3, 3, 1, true>
                      : is(3, 3, 3) ? conv_pool_forward_tiles<3, 3, 3, true>
                      : is(5, 5, 1) ? conv_pool_forward_tiles<5, 5, 1, true>
                      : packs       ? conv_pool_forward_tiles<0, 0, 0, true>
                                    : conv_pool_forward_tiles<0, 0, 0, false>;
  const int64_t filter_blocks = filter_blocks_of(s);
  const size_t floats = (tiles.taps() + 1) * block_filters + tiles.patch_h * tiles.pitch;
  launch(kernel, dim3(static_cast<unsigned>(c.n * tiles.tiles_of_image() * filter_blocks)),
         dim3(tile_threads), floats * sizeof(float), current_stream(), y, index, x, w, b, tiles,
         filter_blocks, relu);
}

template <bool clips>
void launch_backward(float* parts, const float* x, const float* dy, const uint8_t* index,
                     const ConvPool2dShape& s, const ConvPoolTiles& tiles, const DwSplit& split) {
  const int64_t run = s.conv.dilation_w == 1 ? s.conv.kw * s.conv.c : 1;
  const auto is = [&](int64_t kh, int64_t floats) { return s.conv.kh == kh && run == floats; };
  const auto kernel = is(3, 3)                 ? conv_pool_backward_dw_tiles<9, 3, clips>
                      : is(3, 9)               ? conv_pool_backward_dw_tiles<27, 9, clips>
                      : is(5, 5)               ? conv_pool_backward_dw_tiles<25, 5, clips>
                      : split.block_taps <= 9  ? conv_pool_backward_dw_tiles<9, 1, clips>
                      : split.block_taps <= 16 ? conv_pool_backward_dw_tiles<16, 1, clips>
                                               : conv_pool_backward_dw_tiles<most_taps, 1, clips>;
  launch(kernel, dim3(static_cast<unsigned>(split.parts * split.filter_blocks * split.tap_blocks)),
         dim3(tile_threads), sizeof(float) * tiles.patch_h * tiles.pitch, current_stream(), parts,
         x, dy, index, tiles, split);
}

}  // namespace cuda

void conv2d_max_pool2d_forward(float* y, uint8_t* index, const float* x, const float* w,
                               const float* b, const ConvPool2dShape& s, Activation act,
                               void* workspace) {
  using namespace cuda;
  if (s.pool.n * s.pool.oh * s.pool.ow == 0) return;
  const bool relu = act == Activation::relu;
  ConvPoolTiles tiles;
  if (!cut_forward(tiles, s)) return forward_of_two(y, index, x, w, b, s, relu, workspace);
  launch_forward(y, index, x, w, b, s, tiles, relu);
}

int64_t conv2d_max_pool2d_forward_workspace(const ConvPool2dShape& s) {
  using namespace cuda;
  ConvPoolTiles tiles;
  if (s.pool.n * s.pool.oh * s.pool.ow == 0 || cut_forward(tiles, s)) return 0;
  return image_bytes(s) + most_bytes(s, [](const ConvPool2dShape& part) {
           return conv2d_forward_workspace(part.conv);
         });
}

void conv2d_max_pool2d_backward_dw(float* dw, float* db, const float* x, const float* dy,
                                   const uint8_t* index, const ConvPool2dShape& s,
                                   void* workspace) {
  using namespace cuda;
  const Pool2dShape& p = s.pool;
  if (p.n * p.oh * p.ow == 0) return combine_parts(dw, db, nullptr, 0, s);  // zeros
  ConvPoolTiles tiles;
  DwSplit split;
  if (!cut_backward(tiles, split, s)) return backward_of_two(dw, db, x, dy, index, s, workspace);
  float* const parts = static_cast<float*>(workspace);
  const auto kernel = clips(p) ? launch_backward<true> : launch_backward<false>;
  kernel(parts, x, dy, index, s, tiles, split);
  combine_parts(dw, db, parts, split.parts, s);
}

int64_t conv2d_max_pool2d_backward_dw_workspace(const ConvPool2dShape& s) {
  using namespace cuda;
  if (s.pool.n * s.pool.oh * s.pool.ow == 0) return 0;
  ConvPoolTiles tiles;
  DwSplit split;
  if (cut_backward(tiles, split, s)) return dw_parts_bytes(s, split.parts);
  return image_bytes(s) + dw_parts_bytes(s, Chunks(s).count) + dw_rest_bytes(s);
}

}  // namespace tilegrad
