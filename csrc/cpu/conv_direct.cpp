// y = act(conv(x, w) + b) where windows are small: the first layer of most networks.
// x (n, h, w, c)  w (kh, kw, c, f)  y (n, oh, ow, f). y is written, never read.
// A register tile is up to 13 neighbouring outputs of a line x a panel of filters; output r reads
// pixel_step floats behind output 0, so an address is a base and a step. Runs on the calling thread.
// 2 kh kw c f FLOPs per output; x, y pass memory once, the weights stay in L1.
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

// y[r][j] = act(bias[j] + sum over lines l and i < run of x[l line_step + r pixel_step + i]
//               w[l w_line + i w_step + j])
struct DirectTile {
  const float* x;
  int64_t lines, line_step, run, pixel_step;
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
    for (int q = 0; q < (R + 3) / 4; ++q) x[q] = t.x + l * t.line_step + 4 * q * step;
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

// Outputs of a line whose whole window is inside the image.
Span interior_of(const Conv2dShape& s) {
  const Span left = valid_outputs(-s.pad_left, s.w, s.stride_w, {0, s.ow});
  return valid_outputs((s.kw - 1) * s.dilation_w - s.pad_left, s.w, s.stride_w, left);
}

}  // namespace

void direct_lines(float* y, const float* x, const float* weights, const Conv2dShape& s, bool packed,
                  const Epilogue& epilogue, int64_t begin, int64_t end) {
  const Panels panels(s.f);
  const Span interior = interior_of(s);
  const int64_t depth = s.kh * s.kw * s.c;
  for (int64_t q = 0; q < panels.count(); ++q) {
    const int vectors = static_cast<int>(panels.vectors_of(q));
    const int64_t col = panels.begin(q), w_step = packed ? vectors * width : s.f;
    const float* const w = weights + col * (packed ? depth : 1);
    const EvenCut cut(interior.end - interior.begin, rows_of(vectors));
    for (int64_t line = begin; line < end; ++line) {
      const int64_t top = line % s.oh * s.stride_h - s.pad_top;
      const Span down = valid_taps(top, s.kh, s.dilation_h, s.h);
      // `rows` outputs from ox on, with the taps `across` of each line of the window
      const auto run = [&](int64_t ox, int64_t rows, Span across) {
        const bool any = down.begin < down.end && across.begin < across.end;
        const int64_t row = line / s.oh * s.h + top + down.begin * s.dilation_h;
        const int64_t first = ox * s.stride_w - s.pad_left + across.begin;
        const DirectTile tile{any ? x + (row * s.w + first) * s.c : x,
                              any ? down.end - down.begin : 0,
                              s.dilation_h * s.w * s.c,
                              (across.end - across.begin) * s.c,
                              s.stride_w * s.c,
                              any ? w + (down.begin * s.kw + across.begin) * s.c * w_step : w,
                              s.kw * s.c * w_step,
                              w_step,
                              y + ((line - begin) * s.ow + ox) * s.f + col,
                              s.f,
                              panels.cols_of(q),
                              &epilogue,
                              col};
        using All = std::make_integer_sequence<int, direct_rows * tile_vectors>;
        run_direct(static_cast<int>(rows), vectors, tile, All{});
      };
      const auto run_border = [&](int64_t ox) {
        run(ox, 1, valid_taps(ox * s.stride_w - s.pad_left, s.kw, 1, s.w));
      };
      for (int64_t ox = 0; ox < interior.begin; ++ox) run_border(ox);
      for (int64_t t = 0; t < cut.pieces; ++t) {
        run(interior.begin + cut(t), cut(t + 1) - cut(t), {0, s.kw});
      }
      for (int64_t ox = interior.end; ox < s.ow; ++ox) run_border(ox);
    }
  }
}

}  // namespace tilegrad
