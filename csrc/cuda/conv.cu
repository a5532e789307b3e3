// y = act(conv(x, w) + b), and dx, dw. x (n, h, w, c)  w (kh, kw, c / groups, f)  y (n, oh, ow, f).
// Outputs are overwritten; every element of dx is gathered by one thread, nothing is scattered.
// Split: implicit products as in gemm.h, one for each group: y = patches w, dx = patches of dy w^T,
// dw = patches^T dy. What is no product, as first layers (c <= 4) of y, is in conv_direct.h.
// 2 n oh ow f kh kw c / groups FLOPs each.
// V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning" (2016).
#include "../ops/conv.h"

#include "conv_direct.h"
#include "divide.h"
#include "gemm.h"

namespace tilegrad {
namespace cuda {

// A 64-bit number of one of n images' positions: the image, and `at` becomes the position in it.
__device__ __forceinline__ int64_t split_image(int64_t& at, int64_t positions) {
  const int64_t image =
      at >> 31 ? at / positions : static_cast<uint32_t>(at) / static_cast<uint32_t>(positions);
  at -= image * positions;
  return image;
}

// ---- patches ----

// The numbers that windows read, as a matrix: one row for each position (image, i, j) of the
// window, one column for each place (a, b, channel) in it, which holds
// image[i stride + a dilation - pad, j ..., channel], or 0 outside the image.
struct Patches {
  const float* image;
  int h, w, channels;  // channels of a window
  int row_step, pixel_step;
  int64_t image_step;                         // floats from one to the next
  int stride_h, stride_w, pad_top, pad_left;  // dx: padding may be negative,
  int dilation_h, dilation_w;                 // and dilation, where windows are read backwards
  int kw;
  int64_t positions;             // in one image
  FastDivide by_row, by_column;  // positions down and across
  FastDivide by_channels, by_kw;
  bool by_four;

  struct Position {
    int image, i, j;  // the window's first pixel, which may be outside the image
  };
  struct Place {
    int i, j, channel;
    int count;  // how many of the up to 4 channels from here on are part of the matrix
  };

  // `at` counts from the image's first position on and may go on to the next images
  __device__ __forceinline__ Position position(int at) const {
    int row = by_column.split(at);
    const int image_number = by_row.split(row);
    return {image_number, row * stride_h - pad_top, at * stride_w - pad_left};
  }
  __device__ __forceinline__ Place place(int at, int count) const {
    int tap = by_channels.split(at);
    const int a = by_kw.split(tap);
    return {a * dilation_h, tap * dilation_w, at, count};
  }
  __device__ __forceinline__ bool inside(int i, int j) const {
    return static_cast<unsigned>(i) < static_cast<unsigned>(h) &&
           static_cast<unsigned>(j) < static_cast<unsigned>(w);
  }
  // Four places in a row, zero beyond q.count and outside the image.
  __device__ __forceinline__ void load(float (&v)[4], const Position& p, Place q) const {
    v[0] = v[1] = v[2] = v[3] = 0.0f;
    const float* const from = image + p.image * image_step;
    if (by_four) {
      const int i = p.i + q.i, j = p.j + q.j;
      if (q.count > 0 && inside(i, j))
        read4(v, from + (int64_t{i} * row_step + (j * pixel_step + q.channel)));
      return;
    }
#pragma unroll
    for (int l = 0; l < 4; ++l) {
      const int i = p.i + q.i, j = p.j + q.j;
      if (l < q.count && inside(i, j))
        v[l] = from[int64_t{i} * row_step + (j * pixel_step + q.channel)];
      if (++q.channel == channels) {
        q.channel = 0;
        const bool last = q.j == (kw - 1) * dilation_w;
        q.j = last ? 0 : q.j + dilation_w;
        q.i = last ? q.i + dilation_h : q.i;
      }
    }
  }
};

// The matrix of patches as the left operand: rows are positions and k runs over places,
struct PositionsByPlaces : Patches {
  static constexpr bool along_k = true;
  int64_t group_step;
  int first, extent, first_k, depth;  // of a block's part

  __device__ void begin(int64_t group, int64_t first_row, int extent_, int64_t k_begin,
                        int depth_) {
    image += group * group_step + split_image(first_row, positions) * image_step;
    first = static_cast<int>(first_row), first_k = static_cast<int>(k_begin);
    extent = extent_, depth = depth_;
  }

  using Outer = Position;
  using Inner = Place;
  // Beyond the last row it is read again: what that gives is not kept.
  __device__ __forceinline__ Outer outer(int i, int) const {
    return position(first + min(i, extent - 1));
  }
  __device__ __forceinline__ Inner inner(int k, int) const { return place(first_k + k, depth - k); }
  __device__ __forceinline__ void advance(Outer&, int) const {}
};

// or its transpose: rows are places and k runs over positions.
struct PlacesByPositions : Patches {
  static constexpr bool along_k = false;
  int64_t group_step;
  int first, extent, first_k, depth;

  __device__ void begin(int64_t group, int64_t first_row, int extent_, int64_t k_begin,
                        int depth_) {
    image += group * group_step + split_image(k_begin, positions) * image_step;
    first = static_cast<int>(first_row), first_k = static_cast<int>(k_begin);
    extent = extent_, depth = depth_;
  }

  using Outer = Place;
  struct Inner {
    Position position;
    bool exists;
  };
  __device__ __forceinline__ Outer outer(int i, int) const { return place(first + i, extent - i); }
  __device__ __forceinline__ Inner inner(int k, int) const {
    return {position(first_k + min(k, depth - 1)), k < depth};
  }
  __device__ __forceinline__ void load(float (&v)[4], Outer o, const Inner& i) const {
    if (!i.exists) o.count = 0;
    Patches::load(v, i.position, o);
  }
  __device__ __forceinline__ void advance(Outer&, int) const {}
};

template <class B, class C>
struct ForwardProduct : Product<PositionsByPlaces, B, C> {};

template <class B, class C>
struct WeightGradientProduct : Product<PlacesByPositions, B, C> {
  static constexpr bool finishes = false;
};

using ConvForward = ForwardProduct<MatrixOperand<false>, MatrixResult>;
using ConvBackwardDw = WeightGradientProduct<MatrixOperand<false>, MatrixResult>;

// ---- the gradient of the image ----

// Pixels r, r + stride, ... of one axis are read through the same places of the window: first,
// first + place_step, ...; pixel r + i stride is read through place first + t place_step by the
// window at output i + origin - t output_step. With stride 1 there is one class, and this is the
// convolution of dy with the mirrored window.
struct PixelClass {
  int r, pixels, first, places, origin;
};

struct ClassAxis {
  int size, window, pad, stride, dilation;
  int place_step, output_step;  // stride and dilation without their common divisor
  int classes;
  FastDivide by_most_pixels, by_least_pixels, by_most_places, by_least_places;

  __device__ PixelClass of(int r) const {
    PixelClass c{r, (size - r + stride - 1) / stride, 0, 0, 0};
    int rest = (r + pad) % stride;  // of r + pad - first dilation
    const int change = dilation % stride, end = min(window, place_step);
    while (c.first < end && rest != 0) {
      rest -= change;
      if (rest < 0) rest += stride;
      ++c.first;
    }
    if (c.first < end) {
      c.places = (window - c.first + place_step - 1) / place_step;
      c.origin = (r + pad - c.first * dilation) / stride;
    }
    return c;
  }
  __device__ FastDivide by_pixels(int pixels) const {
    return pixels == static_cast<int>(by_most_pixels.divisor) ? by_most_pixels : by_least_pixels;
  }
  __device__ FastDivide by_places(int places) const {
    return places == static_cast<int>(by_most_places.divisor) ? by_most_places : by_least_places;
  }
};

struct PixelClasses {
  ClassAxis down, across;
  int groups;

  // Products are numbered (class down, class across, group).
  __device__ int group(uint32_t batch) const { return static_cast<int>(batch % groups); }
  __device__ int r_down(uint32_t batch) const {
    return static_cast<int>(batch / groups / across.classes);
  }
  __device__ int r_across(uint32_t batch) const {
    return static_cast<int>(batch / groups % across.classes);
  }
};

// dy as the left operand: rows are the class's pixels, k runs over (place down, across, filter).
struct GradientPatches : PositionsByPlaces {
  __device__ void begin(int64_t, int64_t first_row, int extent_, int64_t k_begin, int depth_) {
    PositionsByPlaces::begin(0, first_row, extent_, k_begin, depth_);
  }
};

// w as the right operand: columns are channels, k as above.
struct ClassWeights {
  static constexpr bool along_k = true;
  const float* data;
  int64_t channel_step, place_step_down, place_step_across;  // floats
  int filters, places_across;                                // of a group, of the class
  FastDivide by_filters, by_places;
  bool by_four;
  int extent, first_k, depth;

  __device__ void begin(int64_t, int64_t first_channel, int extent_, int64_t k_begin, int depth_) {
    data += first_channel * channel_step;
    extent = extent_, first_k = static_cast<int>(k_begin), depth = depth_;
  }

  struct Outer {
    const float* at;
  };
  struct Inner {
    int down, across, filter, count;
  };
  __device__ __forceinline__ Outer outer(int i, int) const {
    return {data + min(i, extent - 1) * channel_step};
  }
  __device__ __forceinline__ Inner inner(int k, int) const {
    int filter = first_k + k;
    int across = by_filters.split(filter);
    const int down = by_places.split(across);
    return {down, across, filter, depth - k};
  }
  __device__ __forceinline__ int64_t offset(const Inner& i) const {
    return i.down * place_step_down + i.across * place_step_across + i.filter;
  }
  __device__ __forceinline__ void load(float (&v)[4], const Outer& o, Inner i) const {
    v[0] = v[1] = v[2] = v[3] = 0.0f;
    if (by_four) {
      if (i.count > 0) read4(v, o.at + offset(i));
      return;
    }
#pragma unroll
    for (int l = 0; l < 4; ++l) {
      if (l < i.count) v[l] = o.at[offset(i)];
      if (++i.filter == filters) {
        i.filter = 0;
        if (++i.across == places_across) i.across = 0, ++i.down;
      }
    }
  }
  __device__ __forceinline__ void advance(Outer&, int) const {}
};

// dx, one class's pixels as rows.
struct ClassPixels {
  float* data;
  int64_t image_step, row_step, pixel_step, group_step, split_step;
  bool by_four;
  Finish finish;
  PixelClasses classes;
  FastDivide by_row, by_column;
  int first, r_down, r_across;

  void move_to(float* partial, int64_t size) {
    data = partial, split_step = size;
    by_four = moves_by_four(partial, pixel_step, group_step, size);
  }
  template <class Tile>
  __device__ void begin(uint32_t batch, int64_t split, int64_t tile_down, int64_t tile_across) {
    r_down = classes.r_down(batch), r_across = classes.r_across(batch);
    const int pixels_down =
        (classes.down.size - r_down + classes.down.stride - 1) / classes.down.stride;
    const int pixels_across =
        (classes.across.size - r_across + classes.across.stride - 1) / classes.across.stride;
    by_row = classes.down.by_pixels(pixels_down);
    by_column = classes.across.by_pixels(pixels_across);
    int64_t first_row = tile_down * Tile::rows;
    const int64_t image = split_image(first_row, int64_t{pixels_down} * pixels_across);
    first = static_cast<int>(first_row);
    data += split * split_step + classes.group(batch) * group_step + image * image_step +
            tile_across * Tile::cols;
  }
  __device__ __forceinline__ float* row(int i) const {
    int at = first + i;
    int down = by_column.split(at);
    const int image = by_row.split(down);
    return data + image * image_step + (down * classes.down.stride + r_down) * row_step +
           (at * classes.across.stride + r_across) * pixel_step;
  }
};

struct ConvBackwardDx : Product<GradientPatches, ClassWeights, ClassPixels> {
  static constexpr bool finishes = false;
  static constexpr int first_tile = 1, fewer_blocks = 1;
  int64_t images, group_step;                // group_step: of dy and w
  int64_t window_row_step, window_col_step;  // floats of w from a place to its neighbours

  __device__ void select(uint32_t batch) {
    const PixelClasses& classes = c.classes;
    const PixelClass down = classes.down.of(classes.r_down(batch));
    const PixelClass across = classes.across.of(classes.r_across(batch));
    const int group = classes.group(batch);
    m = images * down.pixels * across.pixels;
    k = int64_t{down.places} * across.places * b.filters;

    a.image += group * group_step;
    a.pad_top = -down.origin, a.pad_left = -across.origin;
    a.kw = across.places;
    a.positions = int64_t{down.pixels} * across.pixels;
    a.by_row = classes.down.by_pixels(down.pixels);
    a.by_column = classes.across.by_pixels(across.pixels);
    a.by_kw = classes.across.by_places(across.places);

    b.data += group * group_step + down.first * window_row_step + across.first * window_col_step;
    b.places_across = across.places;
    b.by_places = a.by_kw;
  }
};

// ---- the choice ----

enum class Algorithm { any, first_layer, depthwise, product };

// Whether coordinates and positions of one image, and places of a window, fit 32 bits with room to
// add.
bool fits_32_bits(const Conv2dShape& s) {
  constexpr int64_t most = int64_t{1} << 29;
  const auto axis_fits = [](int64_t size, int64_t window, int64_t out, int64_t stride,
                            int64_t dilation, int64_t pad) {
    return size < most && stride < most && pad < most && dilation < most &&
           std::max<int64_t>(out - 1, 0) * stride < most && (window - 1) * dilation < most;
  };
  return axis_fits(s.h, s.kh, s.oh, s.stride_h, s.dilation_h, s.pad_top) &&
         axis_fits(s.w, s.kw, s.ow, s.stride_w, s.dilation_w, s.pad_left) && s.h * s.w < most &&
         s.oh * s.ow < most && s.kh * s.kw < most && s.kh * s.kw * s.c < most &&
         s.kh * s.kw * s.f < most && s.w * s.c < most;
}

Algorithm backward_algorithm(const Conv2dShape& s) {
  const int64_t most = INT32_MAX;
  if (!fits_32_bits(s)) return Algorithm::any;
  const bool one_each = s.groups == s.c && s.f == s.c && s.c > 1;
  const int64_t outputs = s.oh * s.ow * s.c, inputs = s.h * s.w * s.c;
  const bool numbered =
      outputs < most && inputs < most && (s.n == 0 || std::max(outputs, inputs) < most / s.n);
  return one_each && numbered ? Algorithm::depthwise : Algorithm::product;
}

Algorithm forward_algorithm(const Conv2dShape& s) {
  const Algorithm algorithm = backward_algorithm(s);
  if (algorithm != Algorithm::product || s.c > 4 || s.groups > 1) return algorithm;
  if (s.stride_w > 2 && s.stride_w != 4) return algorithm;
  constexpr int64_t most_memory = 48 * 1024, most_places = 160;
  const int64_t reach = (s.kh - 1) * s.dilation_h + (s.kw - 1) * s.dilation_w;
  if (s.kh * s.kw * s.c > most_places || reach > most_memory || s.stride_h > most_memory)
    return algorithm;
  if (first_layer_memory(s) > most_memory) return algorithm;
  const FirstLayer g = first_layer(s);
  const int64_t blocks_each = int64_t{g.tiles_f} * g.tiles_down * g.tiles_across;
  return s.n == 0 || blocks_each < INT32_MAX / s.n ? Algorithm::first_layer : algorithm;
}

// ---- launches ----

Patches patches(const float* x, const Conv2dShape& s) {
  Patches p{};
  const int64_t channels = s.c / s.groups;
  p.image = x;
  p.h = static_cast<int>(s.h), p.w = static_cast<int>(s.w), p.channels = static_cast<int>(channels);
  p.row_step = static_cast<int>(s.w * s.c), p.pixel_step = static_cast<int>(s.c),
  p.image_step = s.h * s.w * s.c;
  p.stride_h = static_cast<int>(s.stride_h), p.stride_w = static_cast<int>(s.stride_w);
  p.pad_top = static_cast<int>(s.pad_top), p.pad_left = static_cast<int>(s.pad_left);
  p.dilation_h = static_cast<int>(s.dilation_h), p.dilation_w = static_cast<int>(s.dilation_w);
  p.kw = static_cast<int>(s.kw);
  p.positions = std::max<int64_t>(s.oh * s.ow, 1);
  p.by_row = FastDivide(s.oh), p.by_column = FastDivide(s.ow);
  p.by_channels = FastDivide(channels), p.by_kw = FastDivide(s.kw);
  p.by_four = moves_by_four(x, s.c, channels);
  return p;
}

GemmPlan forward_plan(const Conv2dShape& s) {
  return plan_gemm(s.n * s.oh * s.ow, s.f / s.groups, s.kh * s.kw * (s.c / s.groups), s.groups);
}

GemmPlan dw_plan(const Conv2dShape& s) {
  return plan_gemm(s.kh * s.kw * (s.c / s.groups), s.f / s.groups, s.n * s.oh * s.ow, s.groups);
}

// One axis's classes of pixels; no places at all if there is no output.
ClassAxis class_axis(int64_t size, int64_t window, int64_t pad, int64_t stride, int64_t dilation,
                     bool outputs) {
  ClassAxis a{};
  int64_t common = stride, rest = dilation;
  while (rest != 0) std::swap(common %= rest, rest);
  const int64_t step = stride / common;
  a.size = static_cast<int>(size), a.window = outputs ? static_cast<int>(window) : 0;
  a.pad = static_cast<int>(pad), a.stride = static_cast<int>(stride),
  a.dilation = static_cast<int>(dilation);
  a.place_step = static_cast<int>(step), a.output_step = static_cast<int>(dilation / common);
  a.classes = static_cast<int>(std::min(stride, size));
  a.by_most_pixels = FastDivide(ceil_div(size, stride)),
  a.by_least_pixels = FastDivide(size / stride);
  a.by_most_places = FastDivide(ceil_div(window, step)),
  a.by_least_places = FastDivide(window / step);
  return a;
}

PixelClasses pixel_classes(const Conv2dShape& s) {
  const bool outputs = s.oh > 0 && s.ow > 0;
  return {class_axis(s.h, s.kh, s.pad_top, s.stride_h, s.dilation_h, outputs),
          class_axis(s.w, s.kw, s.pad_left, s.stride_w, s.dilation_w, outputs),
          static_cast<int>(s.groups)};
}

// Of the class with the most pixels, as if it met its share of the window's places.
GemmPlan dx_plan(const Conv2dShape& s) {
  const int64_t classes = std::min(s.stride_h, s.h) * std::min(s.stride_w, s.w);
  const int64_t share = s.stride_h * s.stride_w;
  return plan_gemm(s.n * ceil_div(s.h, s.stride_h) * ceil_div(s.w, s.stride_w), s.c / s.groups,
                   ceil_div(s.kh * s.kw, share) * (s.f / s.groups), classes * s.groups,
                   ConvBackwardDx::first_tile);
}

}  // namespace cuda

using namespace cuda;

// ---- forward ----

void conv2d_forward(float* y, const float* x, const float* w, const float* b, const Conv2dShape& s,
                    Activation act, float alpha, void* workspace) {
  const int64_t size = s.n * s.oh * s.ow * s.f;
  if (size == 0) return;
  const Finish finish{b, act, alpha};
  switch (forward_algorithm(s)) {
    case Algorithm::any:
      launch(conv2d_forward_any, blocks_of_256(size), dim3(256), 0, current_stream(), y, x, w, s,
             finish);
      return;
    case Algorithm::first_layer:
      forward_first_layer(y, x, w, s, finish);
      return;
    case Algorithm::depthwise: {
      const bool by_four = moves_by_four(x, s.c) && moves_by_four(y) && moves_by_four(w);
      const Depthwise g = depthwise(s, s.oh, ceil_div(s.ow, depthwise_columns), by_four ? 4 : 1);
      launch(by_four ? conv2d_forward_depthwise<4> : conv2d_forward_depthwise<1>,
             blocks_of_256(g.threads), dim3(256), 0, current_stream(), y, x, w, g, finish);
      return;
    }
    case Algorithm::product: {
      const int64_t channels = s.c / s.groups, filters = s.f / s.groups;
      ConvForward product;
      static_cast<Patches&>(product.a) = patches(x, s);
      product.a.group_step = channels;
      product.b = {w, s.f, filters, moves_by_four(w, s.f, filters), 0, 0};
      product.c = {y, s.f, filters, 0, moves_by_four(y, s.f, filters), finish, filters};
      product.m = s.n * s.oh * s.ow, product.n = filters, product.k = s.kh * s.kw * channels;
      run_product(product, forward_plan(s), s.groups, size, s.f, workspace);
    }
  }
}

int64_t conv2d_forward_workspace(const Conv2dShape& s) {
  if (forward_algorithm(s) != Algorithm::product) return 0;
  return split_workspace(forward_plan(s), s.n * s.oh * s.ow * s.f);
}

void conv2d_plan(char* text, int64_t capacity, const Conv2dShape& s) {
  const auto length = static_cast<size_t>(capacity);
  switch (forward_algorithm(s)) {
    case Algorithm::any:
      std::snprintf(text, length, "one thread for each output, 64-bit coordinates");
      return;
    case Algorithm::first_layer: {
      const FirstLayer g = first_layer(s);
      std::snprintf(
          text, length,
          "first layer, tile %dx%dx%d (rows, columns, filters), %lld blocks of %d threads",
          g.lanes_down, first_layer_cols, 4 * g.lanes_f,
          static_cast<long long>(s.n * g.tiles_down * g.tiles_across * g.tiles_f),
          first_layer_threads);
      return;
    }
    case Algorithm::depthwise:
      std::snprintf(text, length, "depthwise, %d columns and 1 or 4 channels for each thread",
                    depthwise_columns);
      return;
    case Algorithm::product:
      describe_plan(text, capacity, "implicit gemm", forward_plan(s), s.n * s.oh * s.ow,
                    s.f / s.groups, s.groups);
  }
}

// ---- backward ----

void conv2d_backward_dx(float* dx, const float* dy, const float* w, const Conv2dShape& s,
                        void* workspace) {
  const int64_t size = s.n * s.h * s.w * s.c;
  if (size == 0) return;
  const Algorithm algorithm = backward_algorithm(s);
  if (algorithm == Algorithm::any) {
    launch(conv2d_backward_dx_any, blocks_of_256(size), dim3(256), 0, current_stream(), dx, dy, w,
           s);
    return;
  }
  if (algorithm == Algorithm::depthwise) {
    const bool by_four = moves_by_four(dx, s.c) && moves_by_four(dy) && moves_by_four(w);
    const Depthwise g = depthwise(s, s.h, s.w, by_four ? 4 : 1);
    launch(by_four ? conv2d_backward_dx_depthwise<4> : conv2d_backward_dx_depthwise<1>,
           blocks_of_256(g.threads), dim3(256), 0, current_stream(), dx, dy, w, g);
    return;
  }
  const int64_t channels = s.c / s.groups, filters = s.f / s.groups;
  const PixelClasses classes = pixel_classes(s);
  ConvBackwardDx product;
  Patches& a = product.a;
  a = {};
  a.image = dy;
  a.h = static_cast<int>(s.oh), a.w = static_cast<int>(s.ow),
  a.channels = static_cast<int>(filters);
  a.row_step = static_cast<int>(s.ow * s.f), a.pixel_step = static_cast<int>(s.f),
  a.image_step = s.oh * s.ow * s.f;
  a.stride_h = a.stride_w = 1;
  a.dilation_h = -classes.down.output_step, a.dilation_w = -classes.across.output_step;
  a.by_channels = FastDivide(filters);
  a.by_four = moves_by_four(dy, s.f, filters);
  product.a.group_step = 0;
  product.window_col_step = channels * s.f, product.window_row_step = s.kw * channels * s.f;
  ClassWeights& b = product.b;
  b = {};
  b.data = w;
  b.channel_step = s.f;
  b.place_step_down = classes.down.place_step * product.window_row_step;
  b.place_step_across = classes.across.place_step * product.window_col_step;
  b.filters = static_cast<int>(filters);
  b.by_filters = FastDivide(filters);
  b.by_four = moves_by_four(w, s.f, filters);
  ClassPixels& c = product.c;
  c = {};
  c.data = dx;
  c.image_step = s.h * s.w * s.c, c.row_step = s.w * s.c, c.pixel_step = s.c,
  c.group_step = channels;
  c.by_four = moves_by_four(dx, s.c, channels);
  c.finish = unfinished;
  c.classes = classes;
  product.images = s.n, product.group_step = filters;
  const int64_t most_places =
      int64_t{classes.down.by_most_places.divisor} * classes.across.by_most_places.divisor;
  product.m = s.n * ceil_div(s.h, s.stride_h) * ceil_div(s.w, s.stride_w);
  product.n = channels, product.k = most_places * filters;
  run_product(product, dx_plan(s),
              int64_t{classes.down.classes} * classes.across.classes * s.groups, size, s.c,
              workspace);
}

int64_t conv2d_backward_dx_workspace(const Conv2dShape& s) {
  if (backward_algorithm(s) != Algorithm::product) return 0;
  return split_workspace(dx_plan(s), s.n * s.h * s.w * s.c);
}

void conv2d_backward_dw(float* dw, const float* x, const float* dy, const Conv2dShape& s,
                        void* workspace) {
  const int64_t channels = s.c / s.groups, filters = s.f / s.groups;
  const int64_t size = s.kh * s.kw * channels * s.f;
  if (size == 0) return;
  const Algorithm algorithm = backward_algorithm(s);
  if (algorithm == Algorithm::any) {
    launch(conv2d_backward_dw_any, blocks_of_256(size), dim3(256), 0, current_stream(), dw, x, dy,
           s);
    return;
  }
  if (algorithm == Algorithm::depthwise) {
    backward_dw_depthwise(dw, x, dy, s, workspace);
    return;
  }
  ConvBackwardDw product;
  static_cast<Patches&>(product.a) = patches(x, s);
  product.a.group_step = channels;
  product.b = {dy, s.f, filters, moves_by_four(dy, s.f, filters), 0, 0};
  product.c = {dw, s.f, filters, 0, moves_by_four(dw, s.f, filters), unfinished, 0};
  product.m = s.kh * s.kw * channels, product.n = filters, product.k = s.n * s.oh * s.ow;
  run_product(product, dw_plan(s), s.groups, size, s.f, workspace);
}

int64_t conv2d_backward_dw_workspace(const Conv2dShape& s) {
  const int64_t size = s.kh * s.kw * (s.c / s.groups) * s.f;
  const Algorithm algorithm = backward_algorithm(s);
  if (algorithm == Algorithm::depthwise) {
    const int64_t chunks = depthwise_chunks(s);
    return chunks > 1 ? chunks * size * static_cast<int64_t>(sizeof(float)) : 0;
  }
  return algorithm == Algorithm::product ? split_workspace(dw_plan(s), size) : 0;
}

}  // namespace tilegrad
