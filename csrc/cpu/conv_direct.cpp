// y = act(conv(x, w) + b), y = max_pool(act(conv(x, w) + b)) over 2 x 2, and dw, where a line of the
// window is unbroken in memory.
// x (n, h, w, c)  w (kh, kw, c, f)  y, dy (n, oh, ow, f). y and dw are written, never read.
// The kh lines of x that a line of y sees are read in place, or, where the image is padded, from a
// copy with the zeros in it: so a line has no borders, and an address is a base and a step.
// Runs on the calling thread. 2 kh kw c f FLOPs per output; copies stay in L1, weights in L2.
#include "conv.h"

#include <array>
#include <utility>

#include "activation.h"
#include "pool.h"

namespace tilegrad {
namespace {

// Accumulators, a row of weights and a broadcast fill the registers, as in blocking.h.
constexpr int direct_rows = tile_vectors == 3 ? 13 : std::max(tile_rows, 4);
constexpr int most_accumulators = tile_vectors == 3 ? 26 : tile_rows * tile_vectors;
// Lines of fewer outputs leave most of a tile empty.
constexpr int64_t few_outputs = 6;

// Outputs of a tile with this many vectors of filters.
constexpr int rows_of(int vectors) { return std::min(direct_rows, most_accumulators / vectors); }

// y[r][j] = act(bias[j] + sum over lines l and i < run of x[l][r pixel_step + i]
//               w[l][i w_step + j]) for r < outputs
struct DirectLine {
  const float *const *x, *const *w;
  int64_t lines, run, pixel_step, w_step;
  float* y;
  int64_t y_step, outputs, cols;
  const Epilogue* epilogue;
  int64_t col;  // column of the whole matrix that column 0 is
};

// R <= t.outputs at a time; the last ones may overlap those before, which are then written again.
template <int R, int V>
void direct_line(const DirectLine& t) {
  const int64_t last_lanes = t.cols - (V - 1) * width, step = t.pixel_step;
  const Epilogue& e = *t.epilogue;
  for (int64_t output = 0; output < t.outputs; output += R) {
    const int64_t first = std::min(output, t.outputs - R);
    Vec acc[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < V; ++j) acc[r][j] = Vec{};
    }
    for (int64_t l = 0; l < t.lines; ++l) {
      const float* w = t.w[l];
      const float* x[(R + 3) / 4];  // every fourth output: the rest is reached by scaled indices
#pragma GCC unroll 4
      for (int q = 0; q < (R + 3) / 4; ++q) x[q] = t.x[l] + (first + 4 * q) * step;
      for (int64_t i = 0; i < t.run; ++i, w += t.w_step) {
        add_outer_product(
            acc, [&](int r) { return splat(x[r / 4][r % 4 * step]); },
            [&](int j) { return load(w + j * width); });
#pragma GCC unroll 4
        for (int q = 0; q < (R + 3) / 4; ++q) ++x[q];
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j) {
      const bool full = j < V - 1 || last_lanes == width;
      const int64_t lanes = full ? width : last_lanes;
      const Vec bias = e.bias != nullptr ? load_partial(e.bias + t.col + j * width, lanes) : Vec{};
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        Vec sum = acc[r][j] + bias;
        if (e.act == Activation::relu) sum = activate<Activation::relu>(sum, Vec{});
        float* y = t.y + (first + r) * t.y_step + j * width;
        full ? store(y, sum) : store_partial(y, sum, lanes);
      }
    }
  }
  for (int64_t r = 0; needs_row_pass(e) && r < t.outputs; ++r) {
    activate_row(t.y + r * t.y_step, t.cols, e);
  }
}

template <int I>
constexpr auto tile_at() {
  constexpr int rows = I / tile_vectors + 1, vectors = I % tile_vectors + 1;
  return direct_line<std::min(rows, rows_of(vectors)), vectors>;
}

template <int... I>
void run_direct(int rows, int vectors, const DirectLine& t, std::integer_sequence<int, I...>) {
  static constexpr void (*table[])(const DirectLine&) = {tile_at<I>()...};
  table[(rows - 1) * tile_vectors + vectors - 1](t);
}

// ---- the lines of x ----

constexpr int64_t line_floats = int64_t{1} << 14;  // 64 KiB of the stack
constexpr int64_t most_slots = 64;
static_assert(most_slots >= segment_limit, "the lines of a window have a slot each");

// Pixels of a line of x that so many outputs see.
int64_t pixels_seen(const Conv2dShape& s, int64_t outputs) {
  return (outputs - 1) * s.stride_w + s.kw;
}

// Outputs of a line done at once, so that copies of all that they see fit, and a line of zeros;
// 0: not even one.
int64_t outputs_at_once(const Conv2dShape& s) {
  const int64_t pixels = line_floats / ((s.kh + 1) * s.c);
  return pixels < s.kw ? 0 : std::min((pixels - s.kw) / s.stride_w + 1, s.ow);
}

// What the outputs `span` of lines of y see of x: in place, or a copy with zeros at its borders.
class Sight {
 public:
  // lines: of y, in sight at once; with few, the copies stay in L1
  Sight(const float* x, const Conv2dShape& s, Span span, int64_t lines)
      : x_(x),
        s_(s),
        first_(span.begin * s.stride_w - s.pad_left),
        pixels_(pixels_seen(s, span.end - span.begin)),
        slots_(std::min({line_floats / (pixels_ * s.c) - 1, most_slots, lines * s.kh})),
        reach_(s.dilation_h == 1 ? s.kh : 0) {  // at most slots_
    std::fill_n(copy_, pixels_ * s.c, 0.0f);    // slot 0
    std::fill_n(held_, slots_, int64_t{-1});
  }

  bool in_place() const { return first_ >= 0 && first_ + pixels_ <= s_.w; }

  const float* zeros() const { return copy_; }

  // Copies kept; those in sight at once must not be more.
  int64_t slots() const { return slots_; }

  // lines[i] is what line `line` of y, counted over all images, sees through row i of its window:
  // zeros() outside the image.
  void see(const float** lines, int64_t line, Span rows) {
    const int64_t image = line / s_.oh, top = line % s_.oh * s_.stride_h - s_.pad_top;
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const int64_t y = top + i * s_.dilation_h;
      if (y < 0 || y >= s_.h) {
        lines[i] = copy_;
      } else if (in_place()) {
        lines[i] = x_ + ((image * s_.h + y) * s_.w + first_) * s_.c;
      } else {
        lines[i] = held_copy(image * s_.h + y);
      }
    }
  }

 private:
  // The line before saw mostly the same, in the last copies made: what is found there stays, since
  // one window makes fewer copies than there are slots behind it.
  const float* held_copy(int64_t line) {
    const int64_t size = pixels_ * s_.c;
    for (int64_t back = 1; back <= reach_; ++back) {
      const int64_t slot = (next_ - back + slots_) % slots_;
      if (held_[slot] == line) return copy_ + (slot + 1) * size;
    }
    float* const copy = copy_ + (next_ + 1) * size;
    held_[next_] = line;
    next_ = (next_ + 1) % slots_;
    const int64_t from = std::clamp<int64_t>(-first_, 0, pixels_);
    const int64_t to = std::clamp<int64_t>(s_.w - first_, from, pixels_);
    std::fill_n(copy, from * s_.c, 0.0f);
    std::copy_n(x_ + (line * s_.w + first_ + from) * s_.c, (to - from) * s_.c, copy + from * s_.c);
    std::fill_n(copy + to * s_.c, (pixels_ - to) * s_.c, 0.0f);
    return copy;
  }

  alignas(64) float copy_[line_floats];
  int64_t held_[most_slots];
  const float* x_;
  const Conv2dShape& s_;
  int64_t first_, pixels_, slots_, reach_, next_ = 0;
};

}  // namespace

void direct_lines(float* y, const float* x, const float* weights, const Conv2dShape& s, bool packed,
                  const Epilogue& epilogue, int64_t begin, int64_t end, Span group) {
  const float *seen[segment_limit], *x_lines[segment_limit], *w_lines[segment_limit];
  const Panels panels(s.f);
  const EvenCut pieces(s.ow, outputs_at_once(s));
  const int64_t run = s.kw * s.c;
  using All = std::make_integer_sequence<int, direct_rows * tile_vectors>;
  for (int64_t piece = 0; piece < pieces.pieces; ++piece) {
    const Span outputs{pieces(piece), pieces(piece + 1)};
    const int64_t count = outputs.end - outputs.begin;
    Sight sight(x, s, outputs, 1);
    for (int64_t line = begin; line < end; ++line) {
      sight.see(seen, line, {0, s.kh});
      float* const out = y + ((line - begin) * s.ow + outputs.begin) * s.f;
      for (int64_t q = group.begin; q < group.end; ++q) {
        const int vectors = static_cast<int>(panels.vectors_of(q));
        const int64_t col = panels.begin(q), w_step = packed ? vectors * width : s.f;
        const float* const w = weights + col * (packed ? s.kh * run : 1);
        int64_t lines = 0;
        for (int64_t i = 0; i < s.kh; ++i) {
          if (seen[i] == sight.zeros()) continue;
          x_lines[lines] = seen[i];
          w_lines[lines++] = w + i * run * w_step;
        }
        const int64_t rows = chunk_count(count, chunk_count(count, rows_of(vectors)));
        run_direct(static_cast<int>(rows), vectors,
                   {x_lines, w_lines, lines, run, s.stride_w * s.c, w_step, out + col, s.f, count,
                    panels.cols_of(q), &epilogue, col},
                   All{});
      }
    }
  }
}

// ---- max pooling in registers ----

namespace {

// Windows of a tile with this many vectors of filters: 2 x 2 sums of each stay in registers.
constexpr int pooled_vectors = tile_vectors == 3 ? 3 : 2;
constexpr int windows_of(int vectors) { return std::max(most_accumulators / 4 / vectors, 1); }

// As DirectLine, for two lines of the convolution: x[a kh + l] is what line a sees.
struct PooledLine {
  const float *const *x, *const *w;
  int64_t kh, run, pixel_step, w_step;
  float* y;
  uint8_t* index;
  int64_t y_step, lanes;  // of the last vector of filters
  const float* bias;      // or null
};

// W windows at a time, from `begin` to `end`.
template <int W, int V, bool relu>
void pooled_line(const PooledLine& t, int64_t begin, int64_t end) {
  const int64_t step = t.pixel_step;
  for (int64_t window = begin; window < end; window += W) {
    Vec acc[4 * W][V];  // line by line
#pragma GCC unroll 32
    for (int r = 0; r < 4 * W; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) acc[r][j] = Vec{};
    }
    for (int64_t l = 0; l < t.kh; ++l) {
      const float* w = t.w[l];
      const float *above = t.x[l] + 2 * window * step, *below = t.x[t.kh + l] + 2 * window * step;
      for (int64_t i = 0; i < t.run; ++i, w += t.w_step, ++above, ++below) {
        add_outer_product(
            acc,
            [&](int r) { return splat(r < 2 * W ? above[r * step] : below[(r - 2 * W) * step]); },
            [&](int j) { return load(w + j * width); });
      }
    }
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) {
      const int64_t lanes = j < V - 1 ? width : t.lanes;
      const Vec bias = t.bias != nullptr ? load_partial(t.bias + j * width, lanes) : Vec{};
#pragma GCC unroll 8
      for (int i = 0; i < W; ++i) {
        const auto sum = [&](int r) { return acc[2 * i + r][j] + bias; };
        Maximum m{sum(0), IVec{}}, below{sum(2 * W), splat_int(2)};
        m.add({sum(1), splat_int(1)});
        below.add({sum(2 * W + 1), splat_int(3)});
        m.add(below);
        if (relu) m.close(closed_window);
        const int64_t to = (window + i) * t.y_step + j * width;
        lanes == width ? store(t.y + to, m.best) : store_partial(t.y + to, m.best, lanes);
        store_index(t.index + to, m.place, lanes);
      }
    }
  }
}

template <bool relu, int... I>
constexpr auto pooled_table(std::integer_sequence<int, I...>) {
  using Kernel = void (*)(const PooledLine&, int64_t, int64_t);
  return std::array<Kernel, sizeof...(I)>{
      pooled_line<std::min(I / pooled_vectors + 1, windows_of(I % pooled_vectors + 1)),
                  I % pooled_vectors + 1, relu>...};
}

template <bool relu>
void run_pooled(int64_t windows, int64_t vectors, const PooledLine& t, int64_t begin, int64_t end) {
  using All = std::make_integer_sequence<int, windows_of(1) * pooled_vectors>;
  static constexpr auto table = pooled_table<relu>(All{});
  table[(windows - 1) * pooled_vectors + vectors - 1](t, begin, end);
}

// Windows of a line done at once, so that copies of all that their two lines see fit.
int64_t windows_at_once(const ConvPool2dShape& s) {
  const Conv2dShape& c = s.conv;
  const int64_t pixels = line_floats / ((2 * c.kh + 1) * c.c);
  return std::min((pixels - c.kw + c.stride_w) / (2 * c.stride_w), s.pool.ow);
}

}  // namespace

bool pools_in_registers(const ConvPool2dShape& s) {
  const Conv2dShape& c = s.conv;
  const Pool2dShape& p = s.pool;
  return is_direct(c) && 2 * c.kh <= segment_limit && p.kh == 2 && p.kw == 2 && p.pad_top == 0 &&
         p.pad_left == 0 && 2 * p.oh <= p.h && 2 * p.ow <= p.w && windows_at_once(s) > 0;
}

Span rows_inside(const ConvPool2dShape& s) {
  const Conv2dShape& c = s.conv;
  const int64_t step = 2 * c.stride_h, seen = c.stride_h + (c.kh - 1) * c.dilation_h + 1;
  const int64_t end = c.h + c.pad_top - seen + step;
  const int64_t begin = std::min(chunk_count(c.pad_top, step), s.pool.oh);
  return {begin, std::clamp(end < 0 ? 0 : end / step, begin, s.pool.oh)};
}

void direct_pooled_rows(float* y, uint8_t* index, const float* x, const float* weights,
                        const ConvPool2dShape& s, bool packed, const float* bias, bool relu,
                        int64_t image, Span rows) {
  const Conv2dShape& c = s.conv;
  const float *x_lines[segment_limit], *w_lines[segment_limit];
  const Panels panels(c.f);
  const EvenCut pieces(s.pool.ow, windows_at_once(s));
  const int64_t run = c.kw * c.c;
  for (int64_t piece = 0; piece < pieces.pieces; ++piece) {
    const Span windows{pieces(piece), pieces(piece + 1)};
    const int64_t count = windows.end - windows.begin;
    Sight sight(x, c, {2 * windows.begin, 2 * windows.end}, 2);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      for (int64_t a = 0; a < 2; ++a) {
        sight.see(x_lines + a * c.kh, image * c.oh + 2 * row + a, {0, c.kh});
      }
      const int64_t to = ((row - rows.begin) * s.pool.ow + windows.begin) * c.f;
      for (int64_t q = 0, col = 0; q < panels.count(); ++q) {
        const int64_t end = panels.begin(q) + panels.vectors_of(q) * width;
        const int64_t w_step = packed ? end - col : c.f;
        const float* w = weights + col * (packed ? c.kh * run : 1);
        for (int64_t vectors; col < end; col += vectors * width, w += vectors * width) {
          vectors = std::min<int64_t>((end - col) / width, pooled_vectors);
          for (int64_t l = 0; l < c.kh; ++l) w_lines[l] = w + l * run * w_step;
          const PooledLine line{x_lines,
                                w_lines,
                                c.kh,
                                run,
                                c.stride_w * c.c,
                                w_step,
                                y + to + col,
                                index + to + col,
                                c.f,
                                std::min<int64_t>(c.f - col - (vectors - 1) * width, width),
                                bias != nullptr ? bias + col : nullptr};
          for (int64_t window = 0, stop; window < count; window = stop) {
            const int64_t wide = std::min<int64_t>(windows_of(vectors), count - window);
            stop = count - (count - window) % wide;
            (relu ? run_pooled<true> : run_pooled<false>)(wide, vectors, line, window, stop);
          }
        }
      }
    }
  }
}

// ---- dw ----

namespace {

// dw[r][j] (+)= sum over lines l and pixels p of x[l kh + line[r]][offset[r] + p pixel_step]
//               dy[l dy_line + p dy_step + j]
struct DirectDwTile {
  float* dw;
  int64_t dw_step;
  const float *const *x, *zeros;
  const int64_t *line, *offset;
  int64_t kh, pixel_step;
  const float* dy;
  int64_t dy_line, dy_step, lines, pixels, last_lanes;
  bool accumulate;
};

// run: all rows are of one line of the window, side by side, and one address serves them.
template <int R, int V, bool run, bool full>
void direct_dw_tile(const DirectDwTile& t) {
  const auto load_at = [&](const float* p, int j) {
    return full || j < V - 1 ? load(p + j * width) : load_partial(p + j * width, t.last_lanes);
  };
  Vec acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j) {
      acc[r][j] = t.accumulate ? load_at(t.dw + r * t.dw_step, j) : Vec{};
    }
  }
  for (int64_t l = 0; l < t.lines; ++l) {
    if (run && t.x[l * t.kh + t.line[0]] == t.zeros) continue;
    const float* dy = t.dy + l * t.dy_line;
    const float* x[run ? 1 : R];
#pragma GCC unroll 16
    for (int r = 0; r < (run ? 1 : R); ++r) x[r] = t.x[l * t.kh + t.line[r]] + t.offset[r];
    for (int64_t p = 0; p != t.pixels * t.pixel_step; p += t.pixel_step, dy += t.dy_step) {
      add_outer_product(
          acc, [&](int r) { return splat(run ? x[0][p + r] : x[r][p]); },
          [&](int j) { return load_at(dy, j); });
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    float* dw = t.dw + r * t.dw_step;
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j) {
      if (full || j < V - 1) {
        store(dw + j * width, acc[r][j]);
      } else {
        store_partial(dw + j * width, acc[r][j], t.last_lanes);
      }
    }
  }
}

// Rows of a tile; without a run, their addresses take a general register each.
constexpr int scattered_rows = tile_vectors == 3 ? 9 : tile_rows;
constexpr int dw_rows_of(int vectors, bool run) {
  return run ? rows_of(vectors) : std::min(scattered_rows, rows_of(vectors));
}

template <int I>
constexpr auto dw_tile_at() {
  constexpr int vectors = I / 4 % tile_vectors + 1;
  constexpr bool run = I / 2 % 2 == 1, full = I % 2 == 1;
  constexpr int rows = std::min(I / 4 / tile_vectors + 1, dw_rows_of(vectors, run));
  return direct_dw_tile<rows, vectors, run, full>;
}

template <int... I>
void run_direct_dw(int rows, int vectors, bool run, bool full, const DirectDwTile& t,
                   std::integer_sequence<int, I...>) {
  static constexpr void (*table[])(const DirectDwTile&) = {dw_tile_at<I>()...};
  table[4 * ((rows - 1) * tile_vectors + vectors - 1) + 2 * run + full](t);
}

}  // namespace

bool is_direct(const Conv2dShape& s) {
  // with few outputs, a tile of several lines does more with each weight
  const bool fills = s.ow >= few_outputs || s.kh * s.kw * s.c <= depth_block;
  return s.groups == 1 && s.dilation_w == 1 && s.kh <= segment_limit && fills &&
         outputs_at_once(s) >= std::min(s.ow, few_outputs);
}

namespace {

// Lines of y from `line` on, before `end`, whose copies fit together.
int64_t lines_in_sight(const Sight& sight, const Conv2dShape& s, int64_t line, int64_t end) {
  if (sight.in_place()) return end - line;
  int64_t copies = s.kh, count = 1;
  for (; line + count < end; ++count) {
    const bool same_image = (line + count) % s.oh != 0;
    copies += same_image && s.dilation_h == 1 ? std::min(s.kh, s.stride_h) : s.kh;
    if (copies > sight.slots()) break;
  }
  return count;
}

}  // namespace

bool is_direct_dw(const Conv2dShape& s) {
  if (!is_direct(s)) return false;
  const int64_t outputs = outputs_at_once(s);
  const int64_t slots = line_floats / (pixels_seen(s, outputs) * s.c) - 1;
  const int64_t lines = (slots - s.kh) / std::min(s.kh, s.stride_h) + 1;
  return s.kw * s.c <= scattered_rows || lines * outputs >= depth_block / 2;
}

void direct_dw(float* dw, const float* x, const float* dy, const Conv2dShape& s, int64_t row_begin,
               int64_t row_end, int64_t line_begin, int64_t line_end, bool accumulate) {
  constexpr int64_t most_lines = 16;
  const float* lines[most_lines * segment_limit];
  const Panels panels(s.f);
  const int64_t window_line = s.kw * s.c;  // rows of dw that lie side by side in x
  const bool run = window_line > scattered_rows;
  const EvenCut pieces(s.ow, outputs_at_once(s));
  using All = std::make_integer_sequence<int, 4 * direct_rows * tile_vectors>;
  for (int64_t piece = 0; piece < pieces.pieces; ++piece) {
    const Span outputs{pieces(piece), pieces(piece + 1)};
    Sight sight(x, s, outputs, most_lines);
    int64_t count;
    for (int64_t line = line_begin; line < line_end; line += count) {
      count = lines_in_sight(sight, s, line, std::min(line_end, line + most_lines));
      for (int64_t l = 0; l < count; ++l) {
        sight.see(lines + l * s.kh, line + l,
                  {row_begin / window_line, (row_end - 1) / window_line + 1});
      }
      const float* const gradient = dy + ((line - line_begin) * s.ow + outputs.begin) * s.f;
      for (int64_t q = 0; q < panels.count(); ++q) {
        const int vectors = static_cast<int>(panels.vectors_of(q));
        const int64_t col = panels.begin(q), cols = panels.cols_of(q);
        for (int64_t row = row_begin, stop; row < row_end; row = stop) {
          stop = run ? std::min(row_end, (row / window_line + 1) * window_line) : row_end;
          const EvenCut cut(stop - row, dw_rows_of(vectors, run));
          for (int64_t t = 0; t < cut.pieces; ++t) {
            const int64_t first = row + cut(t);
            const int rows = static_cast<int>(cut(t + 1) - cut(t));
            int64_t of_window[scattered_rows], offset[scattered_rows];
            for (int r = 0; r < (run ? 1 : rows); ++r) {
              of_window[r] = (first + r) / window_line;
              offset[r] = (first + r) % window_line;
            }
            run_direct_dw(rows, vectors, run, cols == vectors * width,
                          {dw + first * s.f + col, s.f, lines, sight.zeros(), of_window, offset,
                           s.kh, s.stride_w * s.c, gradient + col, s.ow * s.f, s.f, count,
                           outputs.end - outputs.begin, cols - (vectors - 1) * width,
                           accumulate || piece > 0 || line > line_begin},
                          All{});
          }
        }
      }
    }
  }
}

}  // namespace tilegrad
