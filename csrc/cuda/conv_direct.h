// Convolutions that are no products: first layers (c <= 4), depthwise windows, and any geometry.
// Included by conv.cu, which has the layouts. Outputs are overwritten.
// Split: a block to a tile of outputs (first layers), a thread to 4 or fewer neighbouring numbers
// (depthwise), or a thread to one; the depthwise dw adds up chunks of positions in order.
// 2 n oh ow f kh kw c / groups FLOPs each; depthwise is bound by memory.
#pragma once
#include "../ops/conv.h"
#include "divide.h"
#include "gemm.h"

namespace tilegrad {
namespace cuda {

inline dim3 blocks_of_256(int64_t threads) {
  return dim3(static_cast<unsigned>(std::min<int64_t>(ceil_div(threads, 256), INT32_MAX)));
}

// ---- first layers ----

// A block computes 32 columns of `lanes_down` output rows, for 4 `lanes_f` filters: the part of the
// image below them and the filters wait in shared memory. A thread owns 8 columns, 4 apart, of one
// output row, and 4 filters next to each other.
struct FirstLayer {
  int h, w, f, kh, kw, oh, ow;
  int stride_h, pad_top, pad_left, dilation_h, dilation_w;
  int lanes_f, lanes_down;
  int patch_rows, patch_pitch;  // pitch in floats
  int tiles_f, tiles_down, tiles_across;
  bool by_four;
};

constexpr int first_layer_cols = 32, first_layer_threads = 256;

template <int c, int stride_w>
__global__ void __launch_bounds__(first_layer_threads)
    conv2d_forward_first_layer(float* y, const float* x, const float* w, FirstLayer g,
                               Finish finish) {
  constexpr int columns = first_layer_cols / 4;
  float* const patch = dyn_smem<float>();
  float* const filters = patch + g.patch_rows * g.patch_pitch;
  uint32_t block = blockIdx.x;
  const int tile_f = block % g.tiles_f;
  block /= g.tiles_f;
  const int tile_across = block % g.tiles_across;
  block /= g.tiles_across;
  const int tile_down = block % g.tiles_down;
  const int64_t image = block / g.tiles_down;

  // A row of the image is w c numbers next to each other, whatever c is.
  const int top = tile_down * g.lanes_down * g.stride_h - g.pad_top;
  const int left = (tile_across * first_layer_cols * stride_w - g.pad_left) * c;
  const int thread = threadIdx.x;
  for (int r = thread / warp_size; r < g.patch_rows; r += first_layer_threads / warp_size) {
    const float* const row = x + (image * g.h + top + r) * g.w * c;
    for (int j = thread % warp_size; j < g.patch_pitch; j += warp_size) {
      const bool inside = static_cast<unsigned>(top + r) < static_cast<unsigned>(g.h) &&
                          static_cast<unsigned>(left + j) < static_cast<unsigned>(g.w * c);
      patch[r * g.patch_pitch + j] = inside ? row[left + j] : 0.0f;
    }
  }
  const int tile_filters = 4 * g.lanes_f, first_f = tile_f * tile_filters;
  for (int i = thread; i < g.kh * g.kw * c * tile_filters; i += first_layer_threads) {
    const int place = i / tile_filters, j = first_f + i % tile_filters;
    filters[i] = j < g.f ? w[int64_t{place} * g.f + j] : 0.0f;
  }
  __syncthreads();

  const int lane_f = thread % g.lanes_f, position = thread / g.lanes_f;
  const int column = position % 4, row = position / 4;
  float sum[columns][4] = {};
  for (int a = 0; a < g.kh; ++a) {
    const float* pixel =
        patch + (row * g.stride_h + a * g.dilation_h) * g.patch_pitch + column * stride_w * c;
    const float* filter = filters + a * g.kw * c * tile_filters + 4 * lane_f;
    for (int b = 0; b < g.kw; ++b, pixel += g.dilation_w * c) {
#pragma unroll
      for (int channel = 0; channel < c; ++channel, filter += tile_filters) {
        float v[4];
        read4(v, filter);
#pragma unroll
        for (int p = 0; p < columns; ++p) {
          const float value = pixel[p * 4 * stride_w * c + channel];
#pragma unroll
          for (int l = 0; l < 4; ++l) sum[p][l] += value * v[l];
        }
      }
    }
  }

  const int i = tile_down * g.lanes_down + row, j = first_f + 4 * lane_f;
  if (finish.bias) {
    float bias[4] = {};
    finish.read_bias(bias, j, g.f, g.by_four);
#pragma unroll
    for (int p = 0; p < columns; ++p) {
#pragma unroll
      for (int l = 0; l < 4; ++l) sum[p][l] += bias[l];
    }
  }
  float* const out = y + (image * g.oh + i) * g.ow * g.f + j;
  write_activated(sum, finish.act, finish.alpha, [&](int p) {
    const int out_column = tile_across * first_layer_cols + p * 4 + column;
    return Four{out + int64_t{out_column} * g.f, i < g.oh && out_column < g.ow ? g.f - j : 0,
                g.by_four};
  });
}

// Strides, dilations and the window are small: conv.cu sees to it.
inline FirstLayer first_layer(const Conv2dShape& s) {
  FirstLayer g{};
  g.h = static_cast<int>(s.h), g.w = static_cast<int>(s.w), g.f = static_cast<int>(s.f);
  g.kh = static_cast<int>(s.kh), g.kw = static_cast<int>(s.kw);
  g.oh = static_cast<int>(s.oh), g.ow = static_cast<int>(s.ow);
  g.stride_h = static_cast<int>(s.stride_h);
  g.pad_top = static_cast<int>(s.pad_top), g.pad_left = static_cast<int>(s.pad_left);
  g.dilation_h = static_cast<int>(s.dilation_h), g.dilation_w = static_cast<int>(s.dilation_w);
  g.lanes_f = 1;
  while (g.lanes_f < 16 && 4 * g.lanes_f < s.f) g.lanes_f *= 2;
  g.lanes_down = first_layer_threads / 4 / g.lanes_f;
  g.patch_rows = static_cast<int>((g.lanes_down - 1) * s.stride_h + (s.kh - 1) * s.dilation_h + 1);
  const int64_t cols = (first_layer_cols - 1) * s.stride_w + (s.kw - 1) * s.dilation_w + 1;
  g.patch_pitch = static_cast<int>(ceil_div(cols * s.c, 4) * 4);  // the filters stay aligned
  g.tiles_f = static_cast<int>(ceil_div(s.f, 4 * g.lanes_f));
  g.tiles_down = static_cast<int>(ceil_div(s.oh, g.lanes_down));
  g.tiles_across = static_cast<int>(ceil_div(s.ow, first_layer_cols));
  return g;
}

// Bytes of shared memory.
inline int64_t first_layer_memory(const Conv2dShape& s) {
  const FirstLayer g = first_layer(s);
  return 4 * (int64_t{g.patch_rows} * g.patch_pitch + s.kh * s.kw * s.c * 4 * g.lanes_f);
}

inline void forward_first_layer(float* y, const float* x, const float* w, const Conv2dShape& s,
                                Finish finish) {
  FirstLayer g = first_layer(s);
  g.by_four = moves_by_four(y, s.f);
  const auto with_stride = [&](auto channels) {
    constexpr int c = decltype(channels)::value;
    const auto kernel = s.stride_w == 1   ? conv2d_forward_first_layer<c, 1>
                        : s.stride_w == 2 ? conv2d_forward_first_layer<c, 2>
                                          : conv2d_forward_first_layer<c, 4>;
    const int64_t blocks = s.n * g.tiles_down * g.tiles_across * g.tiles_f;
    launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(first_layer_threads),
           static_cast<size_t>(first_layer_memory(s)), current_stream(), y, x, w, g, finish);
  };
  if (s.c == 1) with_stride(std::integral_constant<int, 1>{});
  if (s.c == 2) with_stride(std::integral_constant<int, 2>{});
  if (s.c == 3) with_stride(std::integral_constant<int, 3>{});
  if (s.c == 4) with_stride(std::integral_constant<int, 4>{});
}

// ---- depthwise ----

// Windows of one channel each: filter j reads channel j alone. `by` channels next to each other
// make one vector.
struct Depthwise {
  int h, w, c, kh, kw, oh, ow;
  int stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
  int64_t threads;
  FastDivide by_vectors, by_rows, by_columns;  // split a thread's number
  FastDivide by_stride_h, by_stride_w;
};

constexpr int depthwise_columns = 4;  // of one thread, so that each weight is loaded once for four

template <int by>
__global__ void __launch_bounds__(256)
    conv2d_forward_depthwise(float* y, const float* x, const float* w, Depthwise g, Finish finish) {
  const int64_t number = global_thread();
  if (number >= g.threads) return;
  int channel = static_cast<int>(number);
  int first = g.by_vectors.split(channel);
  int i = g.by_columns.split(first);
  const int64_t image = g.by_rows.split(i);
  channel *= by, first *= depthwise_columns;

  float sum[depthwise_columns][by] = {};
  for (int a = 0; a < g.kh; ++a) {
    const int row = i * g.stride_h + a * g.dilation_h - g.pad_top;
    if (row < 0 || row >= g.h) continue;
    const float* const line = x + (image * g.h + row) * g.w * g.c + channel;
    for (int b = 0; b < g.kw; ++b) {
      float weight[by];
      read_vector(weight, w + int64_t{a * g.kw + b} * g.c + channel);
#pragma unroll
      for (int p = 0; p < depthwise_columns; ++p) {
        const int column = (first + p) * g.stride_w + b * g.dilation_w - g.pad_left;
        if (static_cast<unsigned>(column) >= static_cast<unsigned>(g.w)) continue;
        float v[by];
        read_vector(v, line + int64_t{column} * g.c);
#pragma unroll
        for (int l = 0; l < by; ++l) sum[p][l] += v[l] * weight[l];
      }
    }
  }
  if (finish.bias) {
    float bias[4] = {};
    finish.read_bias(bias, channel, by == 4 ? g.c : channel + 1, by == 4);
#pragma unroll
    for (int p = 0; p < depthwise_columns; ++p) {
#pragma unroll
      for (int l = 0; l < by; ++l) sum[p][l] += bias[l];
    }
  }
#pragma unroll
  for (int p = 0; p < depthwise_columns; ++p) {
    if (first + p >= g.ow) continue;
    activate_all(sum[p], finish.act, finish.alpha);
    write_vector(y + ((image * g.oh + i) * g.ow + first + p) * g.c + channel, sum[p]);
  }
}

template <int by>
__global__ void __launch_bounds__(256)
    conv2d_backward_dx_depthwise(float* dx, const float* dy, const float* w, Depthwise g) {
  const int64_t number = global_thread();
  if (number >= g.threads) return;
  int channel = static_cast<int>(number);
  int j = g.by_vectors.split(channel);
  int i = g.by_columns.split(j);
  const int64_t image = g.by_rows.split(i);
  channel *= by;

  float sum[by] = {};
  for (int a = 0; a < g.kh; ++a) {
    int row_rest = i + g.pad_top - a * g.dilation_h;
    if (row_rest < 0) break;
    const int row = g.by_stride_h.split(row_rest);
    if (row_rest != 0 || row >= g.oh) continue;
    const float* const line = dy + (image * g.oh + row) * g.ow * g.c + channel;
    for (int b = 0; b < g.kw; ++b) {
      int column_rest = j + g.pad_left - b * g.dilation_w;
      if (column_rest < 0) break;
      const int column = g.by_stride_w.split(column_rest);
      if (column_rest != 0 || column >= g.ow) continue;
      float v[by], weight[by];
      read_vector(v, line + int64_t{column} * g.c);
      read_vector(weight, w + int64_t{a * g.kw + b} * g.c + channel);
#pragma unroll
      for (int l = 0; l < by; ++l) sum[l] += v[l] * weight[l];
    }
  }
  write_vector(dx + ((image * g.h + i) * g.w + j) * g.c + channel, sum);
}

constexpr int depthwise_places = 9;  // sums of one thread: a 3 x 3 window reads dy once

// partial[chunk, place, channel] = sum over the chunk's output positions. A warp stands along 32
// channels; a block's 8 warps take turns with the positions, and their sums are added in order.
__global__ void __launch_bounds__(256)
    conv2d_backward_dw_depthwise(float* partial, const float* x, const float* dy, Depthwise g,
                                 int64_t positions, int64_t chunk_positions, int channel_blocks,
                                 int place_blocks) {
  __shared__ float shared[depthwise_places][8][warp_size];
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const int channel = blockIdx.x % channel_blocks * warp_size + lane;
  const int first_place = blockIdx.x / channel_blocks % place_blocks * depthwise_places;
  const int64_t chunk = blockIdx.x / channel_blocks / place_blocks;
  const int64_t end = min(positions, (chunk + 1) * chunk_positions);

  int down[depthwise_places], across[depthwise_places];
#pragma unroll
  for (int p = 0; p < depthwise_places; ++p) {
    const int place = first_place + p;
    down[p] = place / g.kw * g.dilation_h - g.pad_top;
    across[p] = place % g.kw * g.dilation_w - g.pad_left;
  }
  float sum[depthwise_places] = {};
  if (channel < g.c) {
    for (int64_t at = chunk * chunk_positions + warp; at < end; at += 8) {
      int column = static_cast<int>(at);
      int row = g.by_columns.split(column);
      const int64_t image = g.by_rows.split(row);
      const float gradient = dy[at * g.c + channel];
      row *= g.stride_h, column *= g.stride_w;
#pragma unroll
      for (int p = 0; p < depthwise_places; ++p) {
        const int i = row + down[p], j = column + across[p];
        if (static_cast<unsigned>(i) < static_cast<unsigned>(g.h) &&
            static_cast<unsigned>(j) < static_cast<unsigned>(g.w)) {
          sum[p] += x[((image * g.h + i) * g.w + j) * g.c + channel] * gradient;
        }
      }
    }
  }
#pragma unroll
  for (int p = 0; p < depthwise_places; ++p) shared[p][warp][lane] = sum[p];
  __syncthreads();
  for (int p = warp; p < depthwise_places; p += 8) {
    if (channel >= g.c || first_place + p >= g.kh * g.kw) continue;
    float all = 0.0f;
#pragma unroll
    for (int r = 0; r < 8; ++r) all += shared[p][r][lane];
    partial[(chunk * g.kh * g.kw + first_place + p) * g.c + channel] = all;
  }
}

inline Depthwise depthwise(const Conv2dShape& s, int64_t rows, int64_t columns, int by) {
  Depthwise g{};
  g.h = static_cast<int>(s.h), g.w = static_cast<int>(s.w), g.c = static_cast<int>(s.c);
  g.kh = static_cast<int>(s.kh), g.kw = static_cast<int>(s.kw);
  g.oh = static_cast<int>(s.oh), g.ow = static_cast<int>(s.ow);
  g.stride_h = static_cast<int>(s.stride_h), g.stride_w = static_cast<int>(s.stride_w);
  g.pad_top = static_cast<int>(s.pad_top), g.pad_left = static_cast<int>(s.pad_left);
  g.dilation_h = static_cast<int>(s.dilation_h), g.dilation_w = static_cast<int>(s.dilation_w);
  g.threads = s.n * rows * columns * (s.c / by);
  g.by_vectors = FastDivide(s.c / by), g.by_rows = FastDivide(rows),
  g.by_columns = FastDivide(columns);
  g.by_stride_h = FastDivide(s.stride_h), g.by_stride_w = FastDivide(s.stride_w);
  return g;
}

// Chunks of output positions for the depthwise dw: as many as keep the GPU busy, of 64 at least.
inline int64_t depthwise_chunks(const Conv2dShape& s) {
  const int64_t blocks_each = ceil_div(s.c, warp_size) * ceil_div(s.kh * s.kw, depthwise_places);
  const int64_t positions = s.n * s.oh * s.ow;
  return std::clamp<int64_t>(ceil_div(positions, 64), 1,
                             std::max<int64_t>(4 * target_blocks / blocks_each, 1));
}

inline void backward_dw_depthwise(float* dw, const float* x, const float* dy, const Conv2dShape& s,
                                  void* workspace) {
  const int64_t positions = s.n * s.oh * s.ow, chunks = depthwise_chunks(s),
                size = s.kh * s.kw * s.c;
  const int64_t channel_blocks = ceil_div(s.c, warp_size),
                place_blocks = ceil_div(s.kh * s.kw, depthwise_places);
  float* const partial = chunks > 1 ? static_cast<float*>(workspace) : dw;
  launch(conv2d_backward_dw_depthwise,
         dim3(static_cast<unsigned>(chunks * channel_blocks * place_blocks)), dim3(256), 0,
         current_stream(), partial, x, dy, depthwise(s, s.oh, s.ow, 1), positions,
         ceil_div(positions, chunks), static_cast<int>(channel_blocks),
         static_cast<int>(place_blocks));
  if (chunks > 1) add_parts(dw, partial, chunks, size, s.c, unfinished);
}

// ---- any geometry ----

// Strides, dilations and paddings up to 2^31 and images of any size: one thread for each result, in
// 64-bit numbers. Slow; only for what the other kernels cannot number with 32 bits.
__global__ void __launch_bounds__(256)
    conv2d_forward_any(float* y, const float* x, const float* w, Conv2dShape s, Finish finish) {
  const int64_t channels = s.c / s.groups, filters = s.f / s.groups;
  for (int64_t at = global_thread(); at < s.n * s.oh * s.ow * s.f; at += all_threads()) {
    const int64_t j = at % s.f, column = at / s.f % s.ow, row = at / s.f / s.ow % s.oh;
    const float* const image =
        x + at / s.f / s.ow / s.oh * s.h * s.w * s.c + j / filters * channels;
    float sum[1] = {};
    for (int64_t a = 0; a < s.kh; ++a) {
      const int64_t in_row = row * s.stride_h + a * s.dilation_h - s.pad_top;
      if (in_row < 0 || in_row >= s.h) continue;
      for (int64_t b = 0; b < s.kw; ++b) {
        const int64_t in_column = column * s.stride_w + b * s.dilation_w - s.pad_left;
        if (in_column < 0 || in_column >= s.w) continue;
        for (int64_t c = 0; c < channels; ++c) {
          sum[0] += image[(in_row * s.w + in_column) * s.c + c] *
                    w[((a * s.kw + b) * channels + c) * s.f + j];
        }
      }
    }
    if (finish.bias) sum[0] += finish.bias[j];
    activate_all(sum, finish.act, finish.alpha);
    y[at] = sum[0];
  }
}

__global__ void __launch_bounds__(256)
    conv2d_backward_dx_any(float* dx, const float* dy, const float* w, Conv2dShape s) {
  const int64_t channels = s.c / s.groups, filters = s.f / s.groups;
  for (int64_t at = global_thread(); at < s.n * s.h * s.w * s.c; at += all_threads()) {
    const int64_t channel = at % s.c, column = at / s.c % s.w, row = at / s.c / s.w % s.h;
    const int64_t group = channel / channels, c = channel % channels;
    const float* const image = dy + at / s.c / s.w / s.h * s.oh * s.ow * s.f + group * filters;
    float sum = 0.0f;
    for (int64_t a = 0; a < s.kh; ++a) {
      const int64_t down = row + s.pad_top - a * s.dilation_h;
      if (down < 0 || down % s.stride_h != 0 || down / s.stride_h >= s.oh) continue;
      for (int64_t b = 0; b < s.kw; ++b) {
        const int64_t across = column + s.pad_left - b * s.dilation_w;
        if (across < 0 || across % s.stride_w != 0 || across / s.stride_w >= s.ow) continue;
        const float* const gradient =
            image + (down / s.stride_h * s.ow + across / s.stride_w) * s.f;
        const float* const weight = w + ((a * s.kw + b) * channels + c) * s.f + group * filters;
        for (int64_t j = 0; j < filters; ++j) sum += gradient[j] * weight[j];
      }
    }
    dx[at] = sum;
  }
}

__global__ void __launch_bounds__(256)
    conv2d_backward_dw_any(float* dw, const float* x, const float* dy, Conv2dShape s) {
  const int64_t channels = s.c / s.groups, filters = s.f / s.groups;
  for (int64_t at = global_thread(); at < s.kh * s.kw * channels * s.f; at += all_threads()) {
    const int64_t j = at % s.f, channel = at / s.f % channels + j / filters * channels;
    const int64_t b = at / s.f / channels % s.kw, a = at / s.f / channels / s.kw;
    float sum = 0.0f;
    for (int64_t row = 0; row < s.n * s.oh; ++row) {
      const int64_t in_row = row % s.oh * s.stride_h + a * s.dilation_h - s.pad_top;
      if (in_row < 0 || in_row >= s.h) continue;
      const float* const line = x + (row / s.oh * s.h + in_row) * s.w * s.c + channel;
      for (int64_t column = 0; column < s.ow; ++column) {
        const int64_t in_column = column * s.stride_w + b * s.dilation_w - s.pad_left;
        if (in_column < 0 || in_column >= s.w) continue;
        sum += line[in_column * s.c] * dy[(row * s.ow + column) * s.f + j];
      }
    }
    dw[at] = sum;
  }
}

}  // namespace cuda
}  // namespace tilegrad
