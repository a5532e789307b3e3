// y = act(conv(x, w) + b), dx, dw     x (n, h, w, c)  w (kh, kw, c / groups, f)  y (n, oh, ow, f)
// Implicit GEMM on tables of addresses (Dukhan, Indirect Convolution Algorithm, arXiv:1907.02129):
// patches are never copied, outside the image is a row of zeros. y, dx, dw are written, never read.
// Split: y and dx by pixels and filters; dw by pixels into fixed partial gradients, added in order.
// 2 n oh ow kh kw (c / groups) f FLOPs each; the images pass memory once, weights stay in cache.
#include "conv.h"

#include <cstdio>
#include <numeric>
#include <type_traits>

#include "parallel.h"

namespace tilegrad {
namespace {

constexpr int64_t tiles_of_block = row_block / tile_rows;

alignas(64) const float zeros[depth_block] = {};

constexpr int64_t bytes(int64_t floats) { return floats * static_cast<int64_t>(sizeof(float)); }

bool is_matrix_product(const Conv2dShape& s) {
  return s.kh == 1 && s.kw == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_top == 0 &&
         s.pad_left == 0 && s.oh == s.h && s.ow == s.w && s.groups == 1;
}

bool is_depthwise(const Conv2dShape& s) { return s.groups == s.c && s.groups > 1; }

// ---- y and dx: sums over addresses ----

// Along one axis, tap t of written position i reads position i step + first + t tap_step of the
// other image.
struct Axis {
  int64_t size;   // of the image that is read
  int64_t count;  // positions written
  int64_t step, first;
  int64_t taps, tap_step;
  int64_t written_step,
      written_first;  // position i is written_first + i written_step of the written image
  int64_t weight_step, weight_first;  // tap t is tap weight_first + t weight_step of w
};

// Forward: output i reads input i stride - pad + t dilation.
Axis forward_axis(int64_t in, int64_t out, int64_t taps, int64_t stride, int64_t pad,
                  int64_t dilation) {
  return {in, out, stride, -pad, taps, dilation, 1, 0, 1, 0};
}

// Backward, for the inputs i stride + remainder: tap t met output (input + pad - t dilation) /
// stride, where that is whole. Those taps are weight_first + u weight_step, and each step moves the
// output by a whole number.
Axis backward_dx_axis(int64_t in, int64_t out, int64_t taps, int64_t stride, int64_t pad,
                      int64_t dilation, int64_t remainder) {
  const int64_t weight_step = stride / std::gcd(stride, dilation);
  int64_t t = 0;
  while (t < std::min(weight_step, taps) && (remainder + pad - t * dilation) % stride != 0) ++t;
  const bool any = t < std::min(weight_step, taps);
  return {out,
          chunk_count(in - remainder, stride),
          1,
          any ? (remainder + pad - t * dilation) / stride : 0,
          any ? chunk_count(taps - t, weight_step) : 0,
          -(weight_step * dilation / stride),
          stride,
          remainder,
          weight_step,
          t};
}

struct Gather {
  Axis v, h;
  const float* read;  // channel 0 of the group, pixel 0
  int64_t read_pixel, channels;
  float* written;
  int64_t written_pixel, written_h, written_w;
  const float* weights;  // row (tap channels + channel) of the group's matrix, column 0
  int64_t weight_ld;
  bool packed;               // weights are in panels
  int64_t depth;             // rows of that matrix, all taps of w
  int64_t kernel_w;          // taps of w along a row
  int64_t written_from = 0;  // the pixel that `written` points at
};

// Where a row of the product reads and writes.
struct Place {
  const float* image;
  int64_t y, x;
  float* out;
};

Place place_of(const Gather& g, int64_t row) {
  const int64_t j = row % g.h.count, rest = row / g.h.count;
  const int64_t i = rest % g.v.count, image = rest / g.v.count;
  const int64_t out_y = g.v.written_first + i * g.v.written_step;
  const int64_t out_x = g.h.written_first + j * g.h.written_step;
  return {g.read + image * g.v.size * g.h.size * g.read_pixel, i * g.v.step + g.v.first,
          j * g.h.step + g.h.first,
          g.written + ((image * g.written_h + out_y) * g.written_w + out_x - g.written_from) *
                          g.written_pixel};
}

const float* address(const Gather& g, const Place& place, int64_t y_offset, int64_t x_offset) {
  const int64_t y = place.y + y_offset, x = place.x + x_offset;
  const bool inside = y >= 0 && y < g.v.size && x >= 0 && x < g.h.size;
  return inside ? place.image + (y * g.h.size + x) * g.read_pixel : nullptr;
}

// Taps of one window row lie side by side in memory: c kw numbers that one segment covers.
bool has_joined_taps(const Gather& g) {
  return g.h.tap_step == 1 && g.h.weight_step == 1 && g.read_pixel == g.channels &&
         g.h.taps <= segment_limit && g.h.taps * g.channels <= depth_block;
}

// out[rows, panels] on the calling thread; at most row_block rows.
void multiply_gathered(const Gather& g, const Panels& panels, int64_t row_begin, int64_t row_end,
                       int64_t panel_begin, int64_t panel_end, const Epilogue& epilogue) {
  const EvenCut row_cut(row_end - row_begin, tile_rows);
  Place places[row_block];
  for (int64_t i = row_begin; i < row_end; ++i) places[i - row_begin] = place_of(g, i);

  const bool joined = has_joined_taps(g);
  const int64_t taps = g.v.taps * g.h.taps;
  int64_t block = std::clamp<int64_t>(depth_block / g.channels, 1, segment_limit);
  if (joined) block = block / g.h.taps * g.h.taps;
  const EvenCut channel_cut(g.channels, depth_block);

  struct Strip {
    int64_t segments, depth;
    const float* a[segment_limit * tile_rows];
    int64_t weight_row[segment_limit];
  } strips[tiles_of_block];

  for (int64_t tap = 0; tap == 0 || tap < taps; tap += block) {
    const int64_t tap_end = std::min(tap + block, taps);
    for (int64_t piece = 0; piece < channel_cut.pieces; ++piece) {
      const int64_t channel = channel_cut(piece), depth = channel_cut(piece + 1) - channel;
      const bool first = tap == 0 && piece == 0;
      const bool last = tap_end == taps && piece + 1 == channel_cut.pieces;

      for (int64_t t = 0; t < row_cut.pieces; ++t) {
        const Place* place = places + row_cut(t);
        const int64_t rows = row_cut(t + 1) - row_cut(t);
        bool join = joined;
        for (int64_t r = 0; r < rows; ++r) {
          join = join && place[r].x >= 0 && place[r].x + g.h.taps <= g.h.size;
        }
        Strip& strip = strips[t];
        const int64_t stride = join ? g.h.taps : 1;
        strip.segments = 0;
        strip.depth = depth * stride;
        for (int64_t q = tap; q < tap_end; q += stride) {
          const int64_t i = q / g.h.taps, j = q % g.h.taps;
          const float** a = strip.a + strip.segments * rows;
          bool any = false;
          for (int64_t r = 0; r < rows; ++r) {
            const float* found = address(g, place[r], i * g.v.tap_step, j * g.h.tap_step);
            any = any || found != nullptr;
            a[r] = found != nullptr ? found + channel : zeros;
          }
          if (!any) continue;
          const int64_t weight_tap = (g.v.weight_first + i * g.v.weight_step) * g.kernel_w +
                                     g.h.weight_first + j * g.h.weight_step;
          strip.weight_row[strip.segments++] = weight_tap * g.channels + channel;
        }
      }

      for (int64_t q = panel_begin; q < panel_end; ++q) {
        const int vectors = static_cast<int>(panels.vectors_of(q));
        const int64_t col = panels.begin(q);
        const int64_t b_step = g.packed ? vectors * width : g.weight_ld;
        const float* b = g.packed ? g.weights + col * g.depth : g.weights + col;
        const float* table[segment_limit * (tile_rows + 1)];
        float* out[tile_rows];
        for (int64_t t = 0; t < row_cut.pieces; ++t) {
          const Strip& strip = strips[t];
          const int rows = static_cast<int>(row_cut(t + 1) - row_cut(t));
          const float** entry = table;
          for (int64_t k = 0; k < strip.segments; ++k) {
            *entry++ = b + strip.weight_row[k] * b_step;
            for (int r = 0; r < rows; ++r) *entry++ = strip.a[k * rows + r];
          }
          for (int r = 0; r < rows; ++r) out[r] = places[row_cut(t) + r].out + col;
          run_tile(rows, vectors,
                   {table, strip.segments, strip.depth, 1, b_step, out, panels.cols_of(q), !first,
                    last ? &epilogue : nullptr, col});
        }
      }
    }
  }
}

// Rows of a chunk: whole blocks where there are many.
int64_t chunk_rows(int64_t rows, int64_t panels) {
  int64_t size = row_block;
  while (size > 2 * tile_rows && chunk_count(rows, size) * panels < wanted_chunks) size /= 2;
  return size;
}

void multiply_gathered_parallel(const Gather& g, int64_t images, int64_t cols,
                                const Epilogue& epilogue) {
  const Panels panels(cols);
  const int64_t rows = images * g.v.count * g.h.count;
  if (rows == 0) return;
  const int64_t size = chunk_rows(rows, panels.count());
  const int64_t row_chunks = chunk_count(rows, size);
  // Few pixels: panels go to different threads too.
  const int64_t groups = row_chunks < wanted_chunks ? panels.count() : 1;
  const int64_t work = size * g.v.taps * g.h.taps * g.channels * cols / groups + 1;
  parallel_for(row_chunks * groups, std::max<int64_t>(small_work / work, 1),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t row = i / groups * size, group = i % groups;
                   multiply_gathered(g, panels, row, std::min(row + size, rows),
                                     group * panels.count() / groups,
                                     (group + 1) * panels.count() / groups, epilogue);
                 }
               });
}

// w as panels per group: forward[group][panel][tap, channel][filter], backward[group][panel][tap,
// filter][channel]; `last_first`: the last tap first
void pack_weights(float* packed, const float* w, const Conv2dShape& s, bool transposed,
                  bool last_first = false) {
  const int64_t taps = s.kh * s.kw, cg = s.c / s.groups, fg = s.f / s.groups;
  const Panels panels(transposed ? cg : fg);
  const int64_t depth = transposed ? fg : cg;
  parallel_for(
      s.groups * panels.count() * taps, std::max<int64_t>(small_work / (depth * tile_cols), 1),
      [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t tap = i % taps, q = i / taps % panels.count();
          const int64_t group = i / taps / panels.count();
          const int64_t j = panels.begin(q), step = panels.vectors_of(q) * width;
          const float* source = w + tap * cg * s.f + group * fg + (transposed ? j * s.f : j);
          float* target = packed + (group * panels.padded() + j) * taps * depth;
          pack_panel(target + (last_first ? taps - 1 - tap : tap) * depth * step, step, source, s.f,
                     transposed, depth, panels.cols_of(q));
        }
      });
}

// The product of one group, with the weights that conv2d_arrange_weights gave.
Gather forward_gather(float* y, const float* x, const float* arranged, const Conv2dShape& s,
                      int64_t group) {
  const int64_t cg = s.c / s.groups, fg = s.f / s.groups, depth = s.kh * s.kw * cg;
  const bool packs = forward_packs(s);
  return {forward_axis(s.h, s.oh, s.kh, s.stride_h, s.pad_top, s.dilation_h),
          forward_axis(s.w, s.ow, s.kw, s.stride_w, s.pad_left, s.dilation_w),
          x + group * cg,
          s.c,
          cg,
          y + group * fg,
          s.f,
          s.oh,
          s.ow,
          arranged + group * (packs ? Panels(fg).padded() * depth : fg),
          s.f,
          packs,
          depth,
          s.kw};
}

void direct_parallel(float* y, const float* x, const float* weights, const Conv2dShape& s,
                     bool packed, const Epilogue& epilogue) {
  const int64_t lines = s.n * s.oh, panels = Panels(s.f).count();
  // Few lines: panels go to different threads too.
  const int64_t groups = lines < wanted_chunks ? panels : 1;
  const int64_t work = s.ow * s.kh * s.kw * s.c * Panels(s.f).padded() / groups + 1;
  parallel_for(lines * groups, std::max<int64_t>(4 * small_work / work, 1),
               [&](int64_t begin, int64_t end) {
                 for (int64_t stop; begin < end; begin = stop) {
                   const int64_t group = begin / lines, line = begin % lines;
                   stop = std::min(end, (group + 1) * lines);
                   direct_lines(y + line * s.ow * s.f, x, weights, s, packed, epilogue, line,
                                line + stop - begin,
                                {group * panels / groups, (group + 1) * panels / groups});
                 }
               });
}

// Of stride 1, dx is this convolution of dy, with the mirrored window.
Conv2dShape mirrored(const Conv2dShape& s) {
  return {s.n,
          s.oh,
          s.ow,
          s.f,
          s.c,
          s.kh,
          s.kw,
          s.h,
          s.w,
          1,
          1,
          (s.kh - 1) * s.dilation_h - s.pad_top,
          (s.kw - 1) * s.dilation_w - s.pad_left,
          s.dilation_h,
          s.dilation_w,
          s.groups};
}

// ---- dw: sums over pixels ----

}  // namespace

DwPlan plan_dw(const Conv2dShape& s) {
  const int64_t rows = s.kh * s.kw * (s.c / s.groups), lines = s.n * s.oh;
  const int64_t row_chunks = chunk_count(rows, row_block);
  const int64_t work = lines * s.ow * rows * (s.f / s.groups);
  int64_t splits = chunk_count(wanted_chunks, row_chunks * s.groups);
  splits = std::min(splits, std::max<int64_t>(work / row_chunks / (4 * small_work), 1));
  // a partial gradient must be worth its memory traffic
  splits = std::min({splits, lines, std::max<int64_t>(lines * s.ow / 256, 1)});
  return {row_chunks, std::max<int64_t>(splits, 1)};
}

namespace {

// Where a row (tap, channel) of dw meets x: line oy of dy reads line oy stride_h + y, pixel ox reads
// ox stride_w + x, which is inside the image for the pixels `inside`.
struct DwRow {
  int64_t y, x, offset;  // offset: of the element read for output 0, 0
  Span inside;
};

// Lines of dy, or a part of one.
struct DwBlock {
  Span part;
  int64_t lines;
  const float* image[segment_limit];  // of x, by line
  int64_t y[segment_limit];           // oy stride_h
  const float* b;                     // pixel part.begin of the first line
  const float* tail;                  // copy of the last panel, where that has a part of a vector
};

// Some rows of dw. They walk along x with a step of one pixel's stride, so x is not copied.
void multiply_dw_tile(float* dw, const DwRow* row, int rows, const DwBlock& block,
                      const Panels& panels, const Conv2dShape& s, bool accumulate) {
  Span common = block.part, some{block.part.end, block.part.begin};
  for (int r = 0; r < rows; ++r) {
    const Span valid{std::clamp(row[r].inside.begin, block.part.begin, block.part.end),
                     std::clamp(row[r].inside.end, block.part.begin, block.part.end)};
    common = {std::max(common.begin, valid.begin), std::min(common.end, valid.end)};
    if (valid.begin < valid.end) {
      some = {std::min(some.begin, valid.begin), std::max(some.end, valid.end)};
    }
  }
  if (common.begin >= common.end) common = {some.end, some.end};

  const float* table[segment_limit * (tile_rows + 1)];
  int64_t pixel[segment_limit];
  int64_t count = 0;
  const auto flush = [&](int64_t depth) {
    if (count == 0 && accumulate) return;
    float* out[tile_rows];
    for (int64_t q = 0; q < panels.count(); ++q) {
      const int vectors = static_cast<int>(panels.vectors_of(q));
      const int64_t col = panels.begin(q);
      const bool copied = block.tail != nullptr && q + 1 == panels.count();
      const int64_t b_step = copied ? vectors * width : s.f;
      const float* b = copied ? block.tail : block.b + col;
      for (int64_t k = 0; k < count; ++k) table[k * (rows + 1)] = b + pixel[k] * b_step;
      for (int r = 0; r < rows; ++r) out[r] = dw + r * s.f + col;
      run_tile(rows, vectors,
               {table, count, depth, s.stride_w * s.c, b_step, out, panels.cols_of(q), accumulate,
                nullptr, col});
    }
    accumulate = true;
    count = 0;
  };
  const auto is_inside = [&](int64_t line, int r) {
    const int64_t y = block.y[line] + row[r].y;
    return y >= 0 && y < s.h;
  };
  // One segment: the pixels from `ox` on, or at the border one with zeros where a tap is outside.
  const auto add = [&](int64_t line, int64_t ox, bool border) {
    const float** entry = table + count * (rows + 1) + 1;
    const float* from = block.image[line];
    const int64_t at = (block.y[line] * s.w + ox * s.stride_w) * s.c;
    for (int r = 0; r < rows; ++r) {
      const int64_t in_x = ox * s.stride_w + row[r].x;
      const bool inside = !border || (is_inside(line, r) && in_x >= 0 && in_x < s.w);
      entry[r] = inside ? from + (at + row[r].offset) : zeros;
    }
    pixel[count++] = line * (block.part.end - block.part.begin) + ox - block.part.begin;
  };

  int inside[segment_limit];  // rows of the tile that a line of dy meets
  const bool one_tap = row[0].y == row[rows - 1].y;
  for (int64_t line = 0; line < block.lines; ++line) {
    inside[line] = is_inside(line, 0) ? rows : 0;
    if (!one_tap) {
      inside[line] = 0;
      for (int r = 0; r < rows; ++r) inside[line] += is_inside(line, r);
    }
    if (inside[line] == rows && common.begin < common.end) add(line, common.begin, false);
  }
  flush(common.end - common.begin);
  // Pixels at the border, where only some rows of the tile are inside: one by one.
  for (int64_t line = 0; line < block.lines; ++line) {
    if (inside[line] == 0) continue;
    for (int64_t ox = some.begin; ox < some.end; ++ox) {
      if (inside[line] == rows && ox == common.begin && common.begin < common.end) {
        ox = common.end - 1;
        continue;
      }
      add(line, ox, true);
      if (count == segment_limit) flush(1);
    }
  }
  flush(1);
}

}  // namespace

void multiply_dw(float* dw, const float* x, const float* dy, const Conv2dShape& s, int64_t group,
                 int64_t row_begin, int64_t row_end, int64_t line_begin, int64_t line_end,
                 bool accumulate) {
  if (is_direct_dw(s)) {
    return direct_dw(dw, x, dy, s, row_begin, row_end, line_begin, line_end, accumulate);
  }
  alignas(64) float scratch[depth_block * tile_cols];
  const int64_t cg = s.c / s.groups, fg = s.f / s.groups;
  const Panels panels(fg);
  const int64_t tail = panels.count() - 1;
  const EvenCut x_cut(s.ow, depth_block);
  const int64_t lines = std::clamp<int64_t>(depth_block / s.ow, 1, segment_limit);

  DwRow rows[row_block];
  for (int64_t i = row_begin; i < row_end; ++i) {
    const int64_t tap = i / cg, at_y = tap / s.kw * s.dilation_h - s.pad_top;
    const int64_t at_x = tap % s.kw * s.dilation_w - s.pad_left;
    rows[i - row_begin] = {at_y, at_x, (at_y * s.w + at_x) * s.c + group * cg + i % cg,
                           valid_outputs(at_x, s.w, s.stride_w, {0, s.ow})};
  }

  DwBlock block;
  for (int64_t line = line_begin; line < line_end; line += block.lines) {
    block.lines = std::min(lines, line_end - line);
    for (int64_t i = 0; i < block.lines; ++i) {
      block.image[i] = x + (line + i) / s.oh * s.h * s.w * s.c;
      block.y[i] = (line + i) % s.oh * s.stride_h;
    }
    for (int64_t piece = 0; piece < x_cut.pieces; ++piece) {
      block.part = {x_cut(piece), x_cut(piece + 1)};
      block.b = dy + ((line - line_begin) * s.ow + block.part.begin) * s.f + group * fg;
      block.tail = nullptr;
      if (panels.cols_of(tail) % width != 0) {
        // several lines are whole ones: their pixels are unbroken
        const int64_t pixels = block.lines * (block.part.end - block.part.begin);
        pack_panel(scratch, panels.vectors_of(tail) * width, block.b + panels.begin(tail), s.f,
                   false, pixels, panels.cols_of(tail));
        block.tail = scratch;
      }
      const bool first = line == line_begin && piece == 0 && !accumulate;
      for (int64_t row = row_begin; row < row_end;) {
        // tiles of one tap, where it has the channels, meet the border together
        const int64_t stop = cg < tile_rows ? row_end : std::min(row_end, (row / cg + 1) * cg);
        const EvenCut cut(stop - row, tile_rows);
        for (int64_t t = 0; t < cut.pieces; ++t) {
          const int64_t i = row + cut(t);
          multiply_dw_tile(dw + i * s.f + group * fg, rows + (i - row_begin),
                           static_cast<int>(cut(t + 1) - cut(t)), block, panels, s, !first);
        }
        row = stop;
      }
    }
  }
}

namespace {

// ---- depthwise: vectors of channels ----

// Lane i holds p[i step]. Unit: one filter per channel, so that every step is 1.
template <bool Unit>
TILEGRAD_INLINE Vec load_every(const float* p, int64_t step, int64_t lanes) {
  if (Unit || step == 1) return lanes == width ? load(p) : load_partial(p, lanes);
  Vec v{};
  for (int64_t i = 0; i < lanes; ++i) v[i] = p[i * step];
  return v;
}

template <bool Unit>
TILEGRAD_INLINE void store_every(float* p, int64_t step, Vec v, int64_t lanes) {
  if (Unit || step == 1) {
    if (lanes == width) return store(p, v);
    return store_partial(p, v, lanes);
  }
  for (int64_t i = 0; i < lanes; ++i) p[i * step] = v[i];
}

int64_t line_grain(const Conv2dShape& s, int64_t line_pixels) {
  return std::max<int64_t>(2 * small_work / std::max<int64_t>(line_pixels * s.f * s.kh * s.kw, 1),
                           1);
}

// Both directions of a depthwise product over the same axes as `Gather`. Forward takes filter m of
// each channel at a time; backward adds up the `filters` of a channel, each `multiplier` apart in
// dy and w.
struct Depthwise {
  Axis v, h;
  const float* read;
  int64_t read_pixel, read_step;
  float* written;
  int64_t written_pixel, written_step, written_h, written_w;
  const float* w;
  int64_t weight_tap, weight_step, kernel_w;
  int64_t filters;
  const float* bias;  // steps like w; or null
  bool relu;
};

constexpr int depthwise_pixels = 4;  // share the loads of w

// sum[p] over the taps [rows] x [cols] for P written positions side by side; `read` is where the
// first of those taps lies for the first position.
template <int P, bool Unit>
TILEGRAD_INLINE void depthwise_window(Vec (&sum)[P], const Depthwise& d, const float* read,
                                      const float* w, Span rows, Span cols, int64_t lanes) {
  for (int p = 0; p < P; ++p) sum[p] = Vec{};
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    const int64_t weight_row =
        (d.v.weight_first + i * d.v.weight_step) * d.kernel_w + d.h.weight_first;
    for (int64_t j = cols.begin; j < cols.end; ++j) {
      const int64_t down = (i - rows.begin) * d.v.tap_step;
      const int64_t right = (j - cols.begin) * d.h.tap_step;
      const float* in = read + (down * d.h.size + right) * d.read_pixel;
      const float* weight = w + (weight_row + j * d.h.weight_step) * d.weight_tap;
      for (int64_t m = 0; m < d.filters; ++m) {
        const Vec factor = load_every<Unit>(weight + m, d.weight_step, lanes);
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
          const float* pixel = in + p * d.h.step * d.read_pixel + m;
          sum[p] = fma(load_every<Unit>(pixel, d.read_step, lanes), factor, sum[p]);
        }
      }
    }
  }
}

// Positions of an axis i whose tap t, at i step + first + t tap_step, is inside: the range of t.
// tap_step may be negative (backward), so count from whichever end comes first.
Span axis_taps(const Axis& axis, int64_t i) {
  const int64_t start = i * axis.step + axis.first;
  if (axis.taps == 0) return {0, 0};
  if (axis.tap_step > 0) return valid_taps(start, axis.taps, axis.tap_step, axis.size);
  const Span mirrored =
      valid_taps(start + (axis.taps - 1) * axis.tap_step, axis.taps, -axis.tap_step, axis.size);
  return {axis.taps - mirrored.end, axis.taps - mirrored.begin};
}

// Positions whose window is inside from its first to its last tap: an unbroken range.
Span whole_windows(const Axis& axis) {
  const auto whole = [&](int64_t i) {
    const Span taps = axis_taps(axis, i);
    return taps.end - taps.begin == axis.taps;
  };
  Span span{0, axis.count};
  while (span.begin < span.end && !whole(span.begin)) ++span.begin;
  while (span.begin < span.end && !whole(span.end - 1)) --span.end;
  return span;
}

template <bool Unit>
void depthwise_lines(const Depthwise& d, int64_t channels, int64_t begin, int64_t end) {
  const Span interior = whole_windows(d.h), all{0, d.h.taps};
  for (int64_t line = begin; line < end; ++line) {
    const int64_t i = line % d.v.count, image = line / d.v.count;
    const Span rows = axis_taps(d.v, i);
    const int64_t top = i * d.v.step + d.v.first + rows.begin * d.v.tap_step;
    float* out = d.written + (image * d.written_h + d.v.written_first + i * d.v.written_step) *
                                 d.written_w * d.written_pixel;
    for (int64_t channel = 0; channel < channels; channel += width) {
      const int64_t lanes = std::min<int64_t>(width, channels - channel);
      const float* w = d.w + channel * d.weight_step;
      Vec bias{};
      if (d.bias != nullptr) {
        bias = load_every<Unit>(d.bias + channel * d.weight_step, d.weight_step, lanes);
      }
      const auto run = [&](auto pixels, int64_t j, Span cols) {
        constexpr int P = decltype(pixels)::value;
        const float* read = d.read;  // outside the image nothing is read, and nothing has a place
        if (rows.begin < rows.end && cols.begin < cols.end) {
          const int64_t left = j * d.h.step + d.h.first + cols.begin * d.h.tap_step;
          read += ((image * d.v.size + top) * d.h.size + left) * d.read_pixel;
          read += channel * d.read_step;
        }
        Vec sum[P];
        depthwise_window<P, Unit>(sum, d, read, w, rows, cols, lanes);
        for (int p = 0; p < P; ++p) {
          float* pixel = out + (d.h.written_first + (j + p) * d.h.written_step) * d.written_pixel;
          Vec y = sum[p] + bias;
          if (d.relu) y = max(Vec{}, y);  // in this order NaN stays NaN
          store_every<Unit>(pixel + channel * d.written_step, d.written_step, y, lanes);
        }
      };
      const std::integral_constant<int, 1> one;
      const std::integral_constant<int, depthwise_pixels> several;
      for (int64_t j = 0; j < d.h.count;) {
        if (j >= interior.begin && j + depthwise_pixels <= interior.end) {
          run(several, j, all);
          j += depthwise_pixels;
        } else {
          run(one, j, axis_taps(d.h, j));
          ++j;
        }
      }
    }
  }
}

template <bool Unit>
void depthwise_forward(float* y, const float* x, const float* w, const Conv2dShape& s,
                       const Epilogue& e) {
  const int64_t multiplier = s.f / s.c;
  const Depthwise d{forward_axis(s.h, s.oh, s.kh, s.stride_h, s.pad_top, s.dilation_h),
                    forward_axis(s.w, s.ow, s.kw, s.stride_w, s.pad_left, s.dilation_w),
                    x,
                    s.c,
                    1,
                    nullptr,
                    s.f,
                    multiplier,
                    s.oh,
                    s.ow,
                    nullptr,
                    s.f,
                    multiplier,
                    s.kw,
                    1,
                    nullptr,
                    e.act == Activation::relu};
  parallel_for(s.n * s.oh, line_grain(s, s.ow), [&](int64_t begin, int64_t end) {
    for (int64_t m = 0; m < multiplier; ++m) {
      Depthwise filter = d;
      filter.written = y + m;
      filter.w = w + m;
      if (e.bias != nullptr) filter.bias = e.bias + m;
      depthwise_lines<Unit>(filter, s.c, begin, end);
    }
    const int64_t line = s.ow * s.f;
    if (needs_row_pass(e)) activate_row(y + begin * line, (end - begin) * line, e);
  });
}

template <bool Unit>
void depthwise_backward_dx(float* dx, const float* dy, const float* w, const Conv2dShape& s) {
  const int64_t multiplier = s.f / s.c;
  for (int64_t i = 0; i < std::min(s.stride_h, s.h); ++i) {
    for (int64_t j = 0; j < std::min(s.stride_w, s.w); ++j) {
      const Depthwise d{backward_dx_axis(s.h, s.oh, s.kh, s.stride_h, s.pad_top, s.dilation_h, i),
                        backward_dx_axis(s.w, s.ow, s.kw, s.stride_w, s.pad_left, s.dilation_w, j),
                        dy,
                        s.f,
                        multiplier,
                        dx,
                        s.c,
                        1,
                        s.h,
                        s.w,
                        w,
                        s.f,
                        multiplier,
                        s.kw,
                        multiplier,
                        nullptr,
                        false};
      parallel_for(s.n * d.v.count, line_grain(s, d.h.count),
                   [&](int64_t begin, int64_t end) { depthwise_lines<Unit>(d, s.c, begin, end); });
    }
  }
}

// dw of the lines [line_begin, line_end) of dy
template <bool Unit>
void depthwise_backward_dw(float* dw, const float* x, const float* dy, const Conv2dShape& s,
                           int64_t line_begin, int64_t line_end) {
  const int64_t multiplier = s.f / s.c;
  for (int64_t tap = 0; tap < s.kh * s.kw; ++tap) {
    const int64_t i = tap / s.kw, j = tap % s.kw;
    const Span span = valid_outputs(j * s.dilation_w - s.pad_left, s.w, s.stride_w, {0, s.ow});
    for (int64_t channel = 0; channel < s.c; channel += width) {
      const int64_t lanes = std::min<int64_t>(width, s.c - channel);
      for (int64_t m = 0; m < multiplier; ++m) {
        const int64_t filter = channel * multiplier + m;
        Vec sum{};
        for (int64_t line = line_begin; line < line_end; ++line) {
          const int64_t in_y = line % s.oh * s.stride_h + i * s.dilation_h - s.pad_top;
          if (in_y < 0 || in_y >= s.h) continue;
          const float* in = x + (line / s.oh * s.h + in_y) * s.w * s.c + channel;
          const float* gradient = dy + line * s.ow * s.f + filter;
          for (int64_t ox = span.begin; ox < span.end; ++ox) {
            const int64_t in_x = ox * s.stride_w + j * s.dilation_w - s.pad_left;
            sum = fma(load_every<true>(in + in_x * s.c, 1, lanes),
                      load_every<Unit>(gradient + ox * s.f, multiplier, lanes), sum);
          }
        }
        store_every<Unit>(dw + tap * s.f + filter, multiplier, sum, lanes);
      }
    }
  }
}

// Lines of one partial gradient: at most 32 partials, so that their sum stays cheap.
int64_t depthwise_dw_lines(const Conv2dShape& s) {
  return std::max(chunk_count(s.n * s.oh, wanted_chunks), line_grain(s, s.ow));
}

// ---- dx of few channels: dot products over the filters ----

// Filters lie side by side in dy and in w, so vectors run over them; a matrix product with c
// columns would leave most lanes empty.
bool has_few_channels(const Conv2dShape& s) { return s.groups == 1 && s.c <= 4 && s.c < width; }

constexpr int few_channels_pixels = 4;  // share the loads of w

// dx of P positions side by side, from the taps [rows] x [cols]; line i of the image's dy
template <int C, int P>
TILEGRAD_INLINE void few_channels_window(float* dx, const float* dy, const float* w,
                                         const Conv2dShape& s, const Axis& v, const Axis& h,
                                         int64_t i, int64_t j, Span rows, Span cols) {
  Vec sum[P][C] = {};
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    for (int64_t u = cols.begin; u < cols.end; ++u) {
      const int64_t y = i * v.step + v.first + t * v.tap_step;
      const int64_t x = j * h.step + h.first + u * h.tap_step;
      const int64_t tap =
          (v.weight_first + t * v.weight_step) * s.kw + h.weight_first + u * h.weight_step;
      const float* gradient = dy + (y * s.ow + x) * s.f;
      const float* weight = w + tap * C * s.f;
      const auto add = [&](int64_t k, auto load_lanes) {
        Vec g[P];
        for (int p = 0; p < P; ++p) g[p] = load_lanes(gradient + p * h.step * s.f + k);
        for (int c = 0; c < C; ++c) {
          const Vec factor = load_lanes(weight + c * s.f + k);
          for (int p = 0; p < P; ++p) sum[p][c] = fma(g[p], factor, sum[p][c]);
        }
      };
      int64_t k = 0;
      for (; k + width <= s.f; k += width) add(k, load);
      if (k < s.f) add(k, [&](const float* a) { return load_partial(a, s.f - k); });
    }
  }
  for (int p = 0; p < P; ++p) {
    float* pixel = dx + (h.written_first + (j + p) * h.written_step) * C;
    for (int c = 0; c < C; ++c) pixel[c] = hsum(sum[p][c]);
  }
}

// dx of the written lines [begin, end) of the axes
template <int C>
void few_channels_lines(float* dx, const float* dy, const float* w, const Conv2dShape& s,
                        const Axis& v, const Axis& h, int64_t begin, int64_t end) {
  const Span interior = whole_windows(h), all{0, h.taps};
  for (int64_t line = begin; line < end; ++line) {
    const int64_t i = line % v.count, image = line / v.count;
    const Span rows = axis_taps(v, i);
    float* out = dx + (image * s.h + v.written_first + i * v.written_step) * s.w * C;
    const float* in = dy + image * s.oh * s.ow * s.f;
    for (int64_t j = 0; j < h.count;) {
      if (j >= interior.begin && j + few_channels_pixels <= interior.end) {
        few_channels_window<C, few_channels_pixels>(out, in, w, s, v, h, i, j, rows, all);
        j += few_channels_pixels;
      } else {
        few_channels_window<C, 1>(out, in, w, s, v, h, i, j, rows, axis_taps(h, j));
        ++j;
      }
    }
  }
}

void few_channels_backward_dx(float* dx, const float* dy, const float* w, const Conv2dShape& s,
                              const Axis& v, const Axis& h) {
  const int64_t work = h.count * v.taps * h.taps * s.c * s.f + 1;
  parallel_for(s.n * v.count, std::max<int64_t>(2 * small_work / work, 1),
               [&](int64_t begin, int64_t end) {
                 if (s.c == 1) return few_channels_lines<1>(dx, dy, w, s, v, h, begin, end);
                 if (s.c == 2) return few_channels_lines<2>(dx, dy, w, s, v, h, begin, end);
                 if (s.c == 3) return few_channels_lines<3>(dx, dy, w, s, v, h, begin, end);
                 few_channels_lines<4>(dx, dy, w, s, v, h, begin, end);
               });
}

}  // namespace

// ---- forward ----

bool forward_packs(const Conv2dShape& s) {
  return s.f / s.groups % width != 0 || s.n * s.oh * s.ow > 2 * row_block;
}

int64_t conv2d_arranged_bytes(const Conv2dShape& s) {
  return forward_packs(s) ? bytes(s.kh * s.kw * s.c * Panels(s.f / s.groups).padded()) : 0;
}

const float* conv2d_arrange_weights(const float* w, const Conv2dShape& s, void* workspace) {
  if (!forward_packs(s)) return w;
  pack_weights(static_cast<float*>(workspace), w, s, false);
  return static_cast<float*>(workspace);
}

void conv2d_lines(float* y, const float* x, const float* arranged, const Conv2dShape& s,
                  const Epilogue& epilogue, int64_t begin, int64_t end) {
  if (is_direct(s)) {
    return direct_lines(y, x, arranged, s, forward_packs(s), epilogue, begin, end,
                        {0, Panels(s.f).count()});
  }
  Gather gather = forward_gather(y, x, arranged, s, 0);
  gather.written_from = begin * s.ow;
  const Panels panels(s.f);
  for (int64_t row = begin * s.ow; row < end * s.ow; row += row_block) {
    multiply_gathered(gather, panels, row, std::min(row + row_block, end * s.ow), 0, panels.count(),
                      epilogue);
  }
}

void conv2d_forward(float* y, const float* x, const float* w, const float* b, const Conv2dShape& s,
                    Activation act, float alpha, void* workspace) {
  if (s.n * s.oh * s.ow == 0) return;
  if (is_matrix_product(s)) {
    gemm(GemmKind::nn, y, x, w, {s.n * s.h * s.w, s.f, s.c}, {b, act, alpha}, workspace);
    return;
  }
  if (is_depthwise(s)) {
    if (s.f == s.c) return depthwise_forward<true>(y, x, w, s, {b, act, alpha});
    return depthwise_forward<false>(y, x, w, s, {b, act, alpha});
  }
  const float* const arranged = conv2d_arrange_weights(w, s, workspace);
  if (is_direct(s)) return direct_parallel(y, x, arranged, s, forward_packs(s), {b, act, alpha});
  const int64_t fg = s.f / s.groups;
  for (int64_t group = 0; group < s.groups; ++group) {
    multiply_gathered_parallel(forward_gather(y, x, arranged, s, group), s.n, fg,
                               {b != nullptr ? b + group * fg : nullptr, act, alpha});
  }
}

int64_t conv2d_forward_workspace(const Conv2dShape& s) {
  if (is_matrix_product(s)) return gemm_workspace(GemmKind::nn, {s.n * s.h * s.w, s.f, s.c});
  if (is_depthwise(s)) return 0;
  return conv2d_arranged_bytes(s);
}

// ---- backward ----

void conv2d_backward_dx(float* dx, const float* dy, const float* w, const Conv2dShape& s,
                        void* workspace) {
  if (s.n * s.h * s.w == 0) return;
  if (is_matrix_product(s)) {
    gemm(GemmKind::nt, dx, dy, w, {s.n * s.h * s.w, s.c, s.f}, {}, workspace);
    return;
  }
  if (is_depthwise(s)) {
    if (s.f == s.c) return depthwise_backward_dx<true>(dx, dy, w, s);
    return depthwise_backward_dx<false>(dx, dy, w, s);
  }
  const int64_t cg = s.c / s.groups, fg = s.f / s.groups, depth = s.kh * s.kw * fg;
  float* const packed = static_cast<float*>(workspace);
  const bool few = has_few_channels(s);
  const bool direct = !few && s.stride_h == 1 && s.stride_w == 1 && is_direct(mirrored(s));
  if (!few) pack_weights(packed, w, s, true, direct);
  if (direct) return direct_parallel(dx, dy, packed, mirrored(s), true, {});
  // The inputs of one remainder by the stride met the same taps: each such class is a convolution
  // of stride 1.
  for (int64_t i = 0; i < std::min(s.stride_h, s.h); ++i) {
    for (int64_t j = 0; j < std::min(s.stride_w, s.w); ++j) {
      const Axis v = backward_dx_axis(s.h, s.oh, s.kh, s.stride_h, s.pad_top, s.dilation_h, i);
      const Axis h = backward_dx_axis(s.w, s.ow, s.kw, s.stride_w, s.pad_left, s.dilation_w, j);
      if (few) {
        few_channels_backward_dx(dx, dy, w, s, v, h);
        continue;
      }
      for (int64_t group = 0; group < s.groups; ++group) {
        const Gather gather{v,
                            h,
                            dy + group * fg,
                            s.f,
                            fg,
                            dx + group * cg,
                            s.c,
                            s.h,
                            s.w,
                            packed + group * Panels(cg).padded() * depth,
                            0,
                            true,
                            depth,
                            s.kw};
        multiply_gathered_parallel(gather, s.n, cg, {});
      }
    }
  }
}

int64_t conv2d_backward_dx_workspace(const Conv2dShape& s) {
  if (is_matrix_product(s)) return gemm_workspace(GemmKind::nt, {s.n * s.h * s.w, s.c, s.f});
  if (is_depthwise(s) || has_few_channels(s)) return 0;
  return bytes(s.kh * s.kw * s.f * Panels(s.c / s.groups).padded());
}

void conv2d_backward_dw(float* dw, const float* x, const float* dy, const Conv2dShape& s,
                        void* workspace) {
  if (is_matrix_product(s)) {
    gemm(GemmKind::tn, dw, x, dy, {s.c, s.f, s.n * s.h * s.w}, {}, workspace);
    return;
  }
  const int64_t lines = s.n * s.oh, rows = s.kh * s.kw * (s.c / s.groups), size = rows * s.f;
  if (lines * s.ow == 0) {
    std::fill(dw, dw + size, 0.0f);
    return;
  }
  float* const scratch = static_cast<float*>(workspace);
  if (is_depthwise(s)) {
    const int64_t grain = depthwise_dw_lines(s), parts = chunk_count(lines, grain);
    parallel_for(lines, grain, [&](int64_t begin, int64_t end) {
      float* target = parts > 1 ? scratch + begin / grain * size : dw;
      if (s.f == s.c) return depthwise_backward_dw<true>(target, x, dy, s, begin, end);
      depthwise_backward_dw<false>(target, x, dy, s, begin, end);
    });
    if (parts > 1) combine_partials(dw, scratch, parts, size, s.f, {});
    return;
  }
  const DwPlan plan = plan_dw(s);
  parallel_for(plan.splits * plan.row_chunks * s.groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i % s.groups, r = i / s.groups % plan.row_chunks;
      const int64_t part = i / s.groups / plan.row_chunks;
      const int64_t line_begin = lines * part / plan.splits;
      multiply_dw(plan.splits > 1 ? scratch + part * size : dw, x, dy + line_begin * s.ow * s.f, s,
                  group, rows * r / plan.row_chunks, rows * (r + 1) / plan.row_chunks, line_begin,
                  lines * (part + 1) / plan.splits, false);
    }
  });
  if (plan.splits > 1) combine_partials(dw, scratch, plan.splits, size, s.f, {});
}

int64_t conv2d_backward_dw_workspace(const Conv2dShape& s) {
  if (is_matrix_product(s)) return gemm_workspace(GemmKind::tn, {s.c, s.f, s.n * s.h * s.w});
  const int64_t lines = s.n * s.oh;
  if (lines * s.ow == 0) return 0;
  const int64_t parts =
      is_depthwise(s) ? chunk_count(lines, depthwise_dw_lines(s)) : plan_dw(s).splits;
  return parts > 1 ? bytes(parts * s.kh * s.kw * (s.c / s.groups) * s.f) : 0;
}

void conv2d_plan(char* text, int64_t capacity, const Conv2dShape& s) {
  if (is_matrix_product(s)) {
    describe_gemm(text, capacity, GemmKind::nn, {s.n * s.h * s.w, s.f, s.c});
  } else if (is_depthwise(s)) {
    std::snprintf(text, static_cast<size_t>(capacity), "depthwise, %d channels a vector", width);
  } else if (is_direct(s)) {
    std::snprintf(text, static_cast<size_t>(capacity),
                  "direct %dx%d, runs of %lld, w %s, dw split-k %lld", tile_rows, tile_cols,
                  static_cast<long long>(s.kw * s.c), forward_packs(s) ? "packed" : "in place",
                  static_cast<long long>(plan_dw(s).splits));
  } else {
    const int64_t cg = s.c / s.groups;
    const bool joined =
        s.dilation_w == 1 && s.groups == 1 && s.kw <= segment_limit && s.kw * s.c <= depth_block;
    std::snprintf(
        text, static_cast<size_t>(capacity),
        "implicit gemm %dx%d, runs of %lld, rows %lld, w %s, dw split-k %lld", tile_rows, tile_cols,
        static_cast<long long>(joined ? s.kw * s.c : std::min(cg, depth_block)),
        static_cast<long long>(chunk_rows(s.n * s.oh * s.ow, Panels(s.f / s.groups).count())),
        forward_packs(s) ? "packed" : "in place", static_cast<long long>(plan_dw(s).splits));
  }
}

}  // namespace tilegrad
