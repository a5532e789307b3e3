// y = act(conv(x, w) + b) and dw where windows are small: the first layer of most networks.
// x (n, h, w, c)  w (kh, kw, c, f)  y, dy (n, oh, ow, f). y and dw are written, never read.
// The kh lines of x that a line of y sees are read in place, or, where the image is padded, from a
// copy with the zeros in it: so a line has no borders, and an address is a base and a step.
// Runs on the calling thread. 2 kh kw c f FLOPs per output; the weights and the copies stay in L1.
#include "conv.h"

#include <utility>

#include "activation.h"

namespace tilegrad {
namespace {

// Accumulators, a row of weights and a broadcast fill the registers, as in blocking.h.
constexpr int direct_rows = tile_vectors == 3 ? 13 : tile_rows;
constexpr int most_accumulators = tile_vectors == 3 ? 26 : tile_rows * tile_vectors;

// Outputs of a tile with this many vectors of filters.
constexpr int rows_of(int vectors) { return std::min(direct_rows, most_accumulators / vectors); }

// y[r][j] = act(bias[j] + sum over lines l and i < run of x[l][begin + r pixel_step + i]
//               w[l w_line + i w_step + j])
struct DirectTile {
  const float* const* x;
  int64_t lines, begin, run, pixel_step;
  const float* w;
  int64_t w_line, w_step;
  float* y;
  int64_t y_step, cols;
  const Epilogue* epilogue;
  int64_t col;  // column of the whole matrix that column 0 of the tile is
};

template <int R, int V>
void direct_tile(const DirectTile& t) {
  const int64_t last_lanes = t.cols - (V - 1) * width;
  const Epilogue& e = *t.epilogue;
  Vec acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) acc[r][j] = Vec{};
  }
  const int64_t step = t.pixel_step;
  for (int64_t l = 0; l < t.lines; ++l) {
    const float* w = t.w + l * t.w_line;
    const float* x[(R + 3) / 4];  // every fourth output: the rest is reached by scaled indices
#pragma GCC unroll 4
    for (int q = 0; q < (R + 3) / 4; ++q) x[q] = t.x[l] + t.begin + 4 * q * step;
    for (int64_t i = 0; i < t.run; ++i, w += t.w_step) {
      Vec row[V];
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) row[j] = load(w + j * width);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vec pixel = splat(x[r / 4][r % 4 * step]);
#pragma GCC unroll 4
        for (int j = 0; j < V; ++j) acc[r][j] = fma(pixel, row[j], acc[r][j]);
      }
#pragma GCC unroll 4
      for (int q = 0; q < (R + 3) / 4; ++q) ++x[q];
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < V; ++j) {
    const bool full = j < V - 1 || last_lanes == width;
    const int64_t lanes = full ? width : last_lanes;
    const Vec bias = e.bias != nullptr ? load_partial(e.bias + t.col + j * width, lanes) : Vec{};
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      Vec sum = acc[r][j] + bias;
      if (e.act == Activation::relu) sum = activate<Activation::relu>(sum, Vec{});
      float* y = t.y + r * t.y_step + j * width;
      full ? store(y, sum) : store_partial(y, sum, lanes);
    }
  }
  if (needs_row_pass(e)) {
    for (int r = 0; r < R; ++r) activate_row(t.y + r * t.y_step, t.cols, e);
  }
}

template <int I>
constexpr auto tile_at() {
  constexpr int rows = I / tile_vectors + 1, vectors = I % tile_vectors + 1;
  return direct_tile<std::min(rows, rows_of(vectors)), vectors>;
}

template <int... I>
void run_direct(int rows, int vectors, const DirectTile& t, std::integer_sequence<int, I...>) {
  static constexpr void (*table[])(const DirectTile&) = {tile_at<I>()...};
  table[(rows - 1) * tile_vectors + vectors - 1](t);
}

// ---- the lines of x ----

constexpr int64_t line_floats = int64_t{1} << 14;  // 64 KiB of the stack

// Pixels of a line that its outputs read, padding included.
int64_t padded_width(const Conv2dShape& s) { return (s.ow - 1) * s.stride_w + s.kw; }

// Lines of y whose lines of x fit into line_floats at once; 0: not even one.
int64_t lines_that_fit(const Conv2dShape& s) {
  return line_floats / (s.kh * padded_width(s) * s.c);
}

// lines[i] = pixel -pad_left of the line of x that line `line` of y sees through row i of its
// window, in place or in `copy` (kh padded lines).
void see_lines(const float** lines, float* copy, const float* x, const Conv2dShape& s,
               int64_t line) {
  const int64_t size = padded_width(s) * s.c;
  const int64_t left = std::min(s.pad_left * s.c, size);
  const int64_t inside = std::clamp<int64_t>(s.w * s.c, 0, size - left);
  for (int64_t i = 0; i < s.kh; ++i, copy += size) {
    const int64_t y = line % s.oh * s.stride_h - s.pad_top + i * s.dilation_h;
    const float* source = x + (line / s.oh * s.h + y) * s.w * s.c;
    lines[i] = copy;
    if (y < 0 || y >= s.h) {
      std::fill_n(copy, size, 0.0f);
    } else if (inside == size) {
      lines[i] = source;
    } else {
      std::fill_n(copy, left, 0.0f);
      std::copy_n(source, inside, copy + left);
      std::fill_n(copy + left + inside, size - left - inside, 0.0f);
    }
  }
}

}  // namespace

void direct_lines(float* y, const float* x, const float* weights, const Conv2dShape& s, bool packed,
                  const Epilogue& epilogue, int64_t begin, int64_t end) {
  alignas(64) float copy[line_floats];
  const float* lines[segment_limit];
  const Panels panels(s.f);
  using All = std::make_integer_sequence<int, direct_rows * tile_vectors>;
  for (int64_t line = begin; line < end; ++line) {
    see_lines(lines, copy, x, s, line);
    for (int64_t q = 0; q < panels.count(); ++q) {
      const int vectors = static_cast<int>(panels.vectors_of(q));
      const int64_t col = panels.begin(q), w_step = packed ? vectors * width : s.f;
      const float* const w = weights + col * (packed ? s.kh * s.kw * s.c : 1);
      const EvenCut cut(s.ow, rows_of(vectors));
      for (int64_t t = 0; t < cut.pieces; ++t) {
        const int64_t ox = cut(t);
        run_direct(static_cast<int>(cut(t + 1) - ox), vectors,
                   {lines, s.kh, ox * s.stride_w * s.c, s.kw * s.c, s.stride_w * s.c, w,
                    s.kw * s.c * w_step, w_step, y + ((line - begin) * s.ow + ox) * s.f + col, s.f,
                    panels.cols_of(q), &epilogue, col},
                   All{});
      }
    }
  }
}

// ---- dw ----

namespace {

// dw[r][j] (+)= sum over lines l and pixels p of x[l kh + line[r]][offset[r] + p pixel_step]
//               dy[(l pixels + p) dy_step + j]
struct DirectDwTile {
  float* dw;
  int64_t dw_step;
  const float* const* x;
  const int64_t *line, *offset;
  int64_t kh, pixel_step;
  const float* dy;
  int64_t dy_step, lines, pixels, last_lanes;
  bool accumulate;
};

template <int R, int V, bool full>
void direct_dw_tile(const DirectDwTile& t) {
  const auto load_at = [&](const float* p, int j) {
    return full || j < V - 1 ? load(p + j * width) : load_partial(p + j * width, t.last_lanes);
  };
  Vec acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) {
      acc[r][j] = t.accumulate ? load_at(t.dw + r * t.dw_step, j) : Vec{};
    }
  }
  const float* dy = t.dy;
  for (int64_t l = 0; l < t.lines; ++l) {
    const float* x[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) x[r] = t.x[l * t.kh + t.line[r]] + t.offset[r];
    for (int64_t p = 0; p != t.pixels * t.pixel_step; p += t.pixel_step, dy += t.dy_step) {
      Vec row[V];
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) row[j] = load_at(dy, j);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vec pixel = splat(x[r][p]);
#pragma GCC unroll 4
        for (int j = 0; j < V; ++j) acc[r][j] = fma(pixel, row[j], acc[r][j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    float* dw = t.dw + r * t.dw_step;
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) {
      if (full || j < V - 1) {
        store(dw + j * width, acc[r][j]);
      } else {
        store_partial(dw + j * width, acc[r][j], t.last_lanes);
      }
    }
  }
}

// Rows of a tile: their addresses take a general register each.
constexpr int dw_rows = tile_vectors == 3 ? 9 : tile_rows;
constexpr int dw_rows_of(int vectors) { return std::min(dw_rows, most_accumulators / vectors); }

template <int I>
constexpr auto dw_tile_at() {
  constexpr int vectors = I / 2 % tile_vectors + 1;
  constexpr int rows = std::min(I / 2 / tile_vectors + 1, dw_rows_of(vectors));
  return direct_dw_tile<rows, vectors, I % 2 == 1>;
}

template <int... I>
void run_direct_dw(int rows, int vectors, bool full, const DirectDwTile& t,
                   std::integer_sequence<int, I...>) {
  static constexpr void (*table[])(const DirectDwTile&) = {dw_tile_at<I>()...};
  table[2 * ((rows - 1) * tile_vectors + vectors - 1) + full](t);
}

}  // namespace

bool is_direct(const Conv2dShape& s) {
  return s.groups == 1 && s.dilation_w == 1 && s.kh <= segment_limit &&
         s.kh * s.kw * s.c <= depth_block && lines_that_fit(s) > 0;
}

void direct_dw(float* dw, const float* x, const float* dy, const Conv2dShape& s, int64_t row_begin,
               int64_t row_end, int64_t line_begin, int64_t line_end, bool accumulate) {
  constexpr int64_t most_lines = 16;
  alignas(64) float copy[line_floats];
  const float* lines[most_lines * segment_limit];
  const Panels panels(s.f);
  const int64_t block = std::min(lines_that_fit(s), most_lines);
  using All = std::make_integer_sequence<int, 2 * dw_rows * tile_vectors>;
  for (int64_t line = line_begin; line < line_end; line += block) {
    const int64_t count = std::min(block, line_end - line);
    for (int64_t l = 0; l < count; ++l) {
      see_lines(lines + l * s.kh, copy + l * s.kh * padded_width(s) * s.c, x, s, line + l);
    }
    for (int64_t q = 0; q < panels.count(); ++q) {
      const int vectors = static_cast<int>(panels.vectors_of(q));
      const int64_t col = panels.begin(q), cols = panels.cols_of(q);
      const EvenCut cut(row_end - row_begin, dw_rows_of(vectors));
      for (int64_t t = 0; t < cut.pieces; ++t) {
        const int64_t first = row_begin + cut(t);
        const int rows = static_cast<int>(cut(t + 1) - cut(t));
        int64_t of_window[dw_rows], offset[dw_rows];
        for (int r = 0; r < rows; ++r) {
          of_window[r] = (first + r) / (s.kw * s.c);
          offset[r] = (first + r) % (s.kw * s.c);
        }
        run_direct_dw(rows, vectors, cols == vectors * width,
                      {dw + first * s.f + col, s.f, lines, of_window, offset, s.kh,
                       s.stride_w * s.c, dy + (line - line_begin) * s.ow * s.f + col, s.f, count,
                       s.ow, cols - (vectors - 1) * width, accumulate || line > line_begin},
                      All{});
      }
    }
  }
}

}  // namespace tilegrad
