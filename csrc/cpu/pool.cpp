// y = max or mean over windows of x; dx sends dy to the maximum, or dy / count to the whole window.
// Layout (n, h, w, c), vectors run over c. Outputs are overwritten; no workspace.
// Forward splits over output rows. Backward splits over bands of dx rows, and every window that
// touches a band adds its part in order: no atomics where windows overlap, always the same bits.
// One pass over x (kh kw / stride^2 passes where windows overlap): bound by memory.
#include "pool.h"

#include "../ops/conv_pool.h"
#include "../ops/elementwise.h"
#include "parallel.h"

namespace tilegrad {

namespace {

constexpr int64_t chunk_elements = 4096;    // of y, or of a band of dx: a few microseconds
constexpr int64_t min_vector_channels = 4;  // below, scalars beat almost empty vectors

// fn(image, i, j, rows, cols) for every window of the output rows [begin, end), flat over images;
// rows and cols are its taps inside the image
template <class F>
TILEGRAD_INLINE void for_windows(int64_t begin, int64_t end, const Pool2dShape& s, F fn) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t image = row / s.oh, i = row % s.oh;
    const TapSpan rows = clip_taps(i * s.stride_h - s.pad_top, s.kh, 0, s.h);
    for (int64_t j = 0; j < s.ow; ++j)
      fn(image, i, j, rows, clip_taps(j * s.stride_w - s.pad_left, s.kw, 0, s.w));
  }
}

template <class F>
void parallel_output_rows(const Pool2dShape& s, F fn) {
  const int64_t per_row = s.ow * s.c;
  if (per_row == 0) return;  // however many such rows there are
  parallel_for(s.n * s.oh, std::max<int64_t>(1, chunk_elements / per_row), fn);
}

// element (image, first row of window i, first column of window j, 0) of x; may lie in the padding
int64_t window_offset(int64_t image, int64_t i, int64_t j, const Pool2dShape& s) {
  const int64_t row = i * s.stride_h - s.pad_top, col = j * s.stride_w - s.pad_left;
  return ((image * s.h + row) * s.w + col) * s.c;
}

// a where the mask is all ones, b where it is 0
TILEGRAD_INLINE float blend(uint32_t mask, float a, float b) {
  uint32_t p, q;
  std::memcpy(&p, &a, sizeof p);
  std::memcpy(&q, &b, sizeof q);
  p = (p & mask) | (q & ~mask);
  std::memcpy(&a, &p, sizeof p);
  return a;
}

// Maximum over the taps of one window. A later element wins by being greater or the first NaN.
template <bool relu, class Index>
TILEGRAD_INLINE void max_window(float* y, Index* index, const float* x, int64_t first, TapSpan rows,
                                TapSpan cols, int64_t kw, int64_t row_step, int64_t c) {
  if (c < min_vector_channels) {
    for (int64_t k = 0; k < c; ++k) {
      int64_t at = rows.begin * kw + cols.begin;
      float best = x[first + rows.begin * row_step + cols.begin * c + k];
      for (int64_t a = rows.begin; a < rows.end; ++a)
        for (int64_t b = cols.begin; b < cols.end; ++b) {
          const float v = x[first + a * row_step + b * c + k];
          // by masks: the winner is random, so a branch would be mispredicted every other time
          const int64_t wins = -static_cast<int64_t>(!(v <= best) & (best == best));
          best = blend(static_cast<uint32_t>(wins), v, best);
          at = ((a * kw + b) & wins) | (at & ~wins);
        }
      const bool closed = relu && !(best > 0.0f);
      y[k] = closed && best == best ? 0.0f : best;
      index[k] = static_cast<Index>(closed ? closed_window : at);
    }
    return;
  }
  for_channels(c, [&](int64_t k, int64_t count, auto full) {
    Maximum m{
        load_channels<full.value>(x + first + rows.begin * row_step + cols.begin * c + k, count),
        splat_int(static_cast<int32_t>(rows.begin * kw + cols.begin))};
    for (int64_t a = rows.begin; a < rows.end; ++a)
      for (int64_t b = cols.begin; b < cols.end; ++b) {
        m.add({load_channels<full.value>(x + first + a * row_step + b * c + k, count),
               splat_int(static_cast<int32_t>(a * kw + b))});
      }
    if (relu) m.close(closed_window);
    store_channels<full.value>(y + k, m.best, count);
    store_index(index + k, m.place, count);
  });
}

// Output rows [begin, end), flat over images; y and index point at row `begin`, x at element `from`
// of the images.
template <bool relu, class Index>
void max_rows(float* y, Index* index, const float* x, int64_t from, const Pool2dShape& s,
              int64_t begin, int64_t end) {
  const bool plain_2x2 = s.kh == 2 && s.kw == 2 && s.pad_top == 0 && s.pad_left == 0 &&
                         (s.oh - 1) * s.stride_h + 2 <= s.h && (s.ow - 1) * s.stride_w + 2 <= s.w;
  for_windows(begin, end, s, [&](int64_t image, int64_t i, int64_t j, TapSpan rows, TapSpan cols) {
    const int64_t at = window_offset(image, i, j, s) - from;
    if (plain_2x2)  // constant bounds: the taps unroll
      max_window<relu>(y, index, x, at, TapSpan{0, 2}, TapSpan{0, 2}, 2, s.w * s.c, s.c);
    else
      max_window<relu>(y, index, x, at, rows, cols, s.kw, s.w * s.c, s.c);
    y += s.c;
    index += s.c;
  });
}

template <class Index>
void max_forward(float* y, Index* index, const float* x, const Pool2dShape& s) {
  parallel_output_rows(s, [&](int64_t begin, int64_t end) {
    const int64_t to = begin * s.ow * s.c;
    max_rows<false>(y + to, index + to, x, 0, s, begin, end);
  });
}

// The backward skeleton: window(target, image, i, j, rows, cols) for every window that touches a
// band of the image's dx, which begins at `target`; rows and cols are its taps inside the band.
// `clear` sets the band to 0 first.
template <class F>
void backward_bands(float* dx, const Pool2dShape& s, bool clear, F window) {
  const int64_t row_size = s.w * s.c;
  if (s.n * s.h * row_size == 0) return;
  // a multiple of the stride, so that few windows straddle two bands
  const int64_t stride = std::max<int64_t>(1, s.stride_h);
  const int64_t wanted = std::max<int64_t>(1, 2 * chunk_elements / row_size);
  const int64_t height = std::min((wanted + stride - 1) / stride * stride, s.h);
  const int64_t bands = chunk_count(s.h, height);
  parallel_for(s.n * bands, 1, [&](int64_t first, int64_t last) {
    for (int64_t band = first; band < last; ++band) {
      const int64_t image = band / bands, low = band % bands * height;
      const int64_t high = std::min(s.h, low + height);
      float* target = dx + image * s.h * row_size;
      if (clear) std::fill_n(target + low * row_size, (high - low) * row_size, 0.0f);
      // windows that reach row `low` or lie below, and begin above row `high`
      const int64_t reach = low + s.pad_top - s.kh + 1;
      const int64_t i_begin = reach <= 0 ? 0 : (reach + stride - 1) / stride;
      const int64_t i_end = std::min(s.oh, (high - 1 + s.pad_top) / stride + 1);
      for (int64_t i = i_begin; i < i_end; ++i) {
        const TapSpan rows = clip_taps(i * s.stride_h - s.pad_top, s.kh, low, high);
        for (int64_t j = 0; j < s.ow; ++j)
          window(target, image, i, j, rows, clip_taps(j * s.stride_w - s.pad_left, s.kw, 0, s.w));
      }
    }
  });
}

bool overlaps(const Pool2dShape& s) { return s.kh > s.stride_h || s.kw > s.stride_w; }

// every element of x lies in exactly one window
bool tiles(const Pool2dShape& s) {
  return s.kh == s.stride_h && s.kw == s.stride_w && s.pad_top == 0 && s.pad_left == 0 &&
         s.oh * s.kh >= s.h && s.ow * s.kw >= s.w;
}

// Writes each tap of a window in turn: dx = (index == tap) ? dy : 0, added where windows overlap.
template <bool overlap, class Index>
TILEGRAD_INLINE void spread_max(float* dx, const float* dy, const Index* index, int64_t first,
                                TapSpan rows, TapSpan cols, int64_t kw, int64_t row_step,
                                int64_t c) {
  for_channels(c, [&](int64_t k, int64_t count, auto full) {
    const Vec g = load_channels<full.value>(dy + k, count);
    const IVec at = load_index(index + k, count);
    for (int64_t a = rows.begin; a < rows.end; ++a)
      for (int64_t b = cols.begin; b < cols.end; ++b) {
        float* p = dx + first + a * row_step + b * c + k;
        const Vec part = select(at == splat_int(static_cast<int32_t>(a * kw + b)), g, Vec{});
        store_channels<full.value>(p, overlap ? load_channels<full.value>(p, count) + part : part,
                                   count);
      }
  });
}

template <class Index>
void max_backward(float* dx, const float* dy, const Index* index, const Pool2dShape& s) {
  const int64_t row_step = s.w * s.c;
  const bool plain_2x2 = s.kh == 2 && s.kw == 2 && !overlaps(s);
  const bool whole = s.oh * s.kh == s.h && s.ow * s.kw == s.w;
  if (plain_2x2 && tiles(s) && whole && s.c >= min_vector_channels) {  // nothing to clip
    parallel_output_rows(s, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        for (int64_t j = 0; j < s.ow; ++j) {
          const int64_t from = (row * s.ow + j) * s.c, to = row * 2 * row_step + j * 2 * s.c;
          spread_max<false>(dx, dy + from, index + from, to, TapSpan{0, 2}, TapSpan{0, 2}, 2,
                            row_step, s.c);
        }
      }
    });
    return;
  }
  // beyond some dozen overlapping taps, finding the one that counts beats visiting all
  const bool scatter = s.c < min_vector_channels || (overlaps(s) && s.kh * s.kw > 32);
  const bool clear = scatter || !tiles(s);
  backward_bands(
      dx, s, clear,
      [&](float* target, int64_t image, int64_t i, int64_t j, TapSpan rows, TapSpan cols) {
        const int64_t from = ((image * s.oh + i) * s.ow + j) * s.c;
        const int64_t to = window_offset(0, i, j, s);
        if (scatter) {
          for (int64_t k = 0; k < s.c; ++k) {
            const int64_t at = index[from + k], a = at / s.kw, b = at - a * s.kw;
            // an index from elsewhere may be anything: it must not lead out of the band
            if (a >= rows.begin && a < rows.end && b >= cols.begin && b < cols.end)
              target[to + a * row_step + b * s.c + k] += dy[from + k];
          }
        } else if (plain_2x2 && rows.begin == 0 && rows.end == 2 && cols.begin == 0 &&
                   cols.end == 2) {
          spread_max<false>(target, dy + from, index + from, to, TapSpan{0, 2}, TapSpan{0, 2}, 2,
                            row_step, s.c);
        } else if (overlaps(s)) {
          spread_max<true>(target, dy + from, index + from, to, rows, cols, s.kw, row_step, s.c);
        } else {
          spread_max<false>(target, dy + from, index + from, to, rows, cols, s.kw, row_step, s.c);
        }
      });
}

float inverse_count(TapSpan rows, TapSpan cols) {
  return 1.0f / static_cast<float>((rows.end - rows.begin) * (cols.end - cols.begin));
}

}  // namespace

void max_pool2d_rows(float* y, uint8_t* index, const float* x, int64_t top, const Pool2dShape& s,
                     int64_t begin, int64_t end, bool relu) {
  if (relu)
    max_rows<true>(y, index, x, top * s.w * s.c, s, begin, end);
  else
    max_rows<false>(y, index, x, top * s.w * s.c, s, begin, end);
}

void max_pool2d_forward(float* y, uint8_t* index, const float* x, const Pool2dShape& s) {
  max_forward(y, index, x, s);
}

void max_pool2d_forward(float* y, int32_t* index, const float* x, const Pool2dShape& s) {
  max_forward(y, index, x, s);
}

void max_pool2d_backward_dx(float* dx, const float* dy, const uint8_t* index,
                            const Pool2dShape& s) {
  max_backward(dx, dy, index, s);
}

void max_pool2d_backward_dx(float* dx, const float* dy, const int32_t* index,
                            const Pool2dShape& s) {
  max_backward(dx, dy, index, s);
}

void avg_pool2d_forward(float* y, const float* x, const Pool2dShape& s) {
  const int64_t row_step = s.w * s.c;
  parallel_output_rows(s, [&](int64_t begin, int64_t end) {
    for_windows(
        begin, end, s, [&](int64_t image, int64_t i, int64_t j, TapSpan rows, TapSpan cols) {
          const int64_t to = ((image * s.oh + i) * s.ow + j) * s.c;
          const int64_t from = window_offset(image, i, j, s);
          const float scale = inverse_count(rows, cols);
          for_channels(s.c, [&](int64_t k, int64_t count, auto full) {
            Vec total{};  // row sums first: shorter chains of rounding in large windows
            for (int64_t a = rows.begin; a < rows.end; ++a) {
              Vec row{};
              for (int64_t b = cols.begin; b < cols.end; ++b)
                row += load_channels<full.value>(x + from + a * row_step + b * s.c + k, count);
              total += row;
            }
            store_channels<full.value>(y + to + k, scale * total, count);
          });
        });
  });
}

void avg_pool2d_backward_dx(float* dx, const float* dy, const Pool2dShape& s) {
  const int64_t row_step = s.w * s.c;
  backward_bands(
      dx, s, true,
      [&](float* target, int64_t image, int64_t i, int64_t j, TapSpan rows, TapSpan cols) {
        const int64_t from = ((image * s.oh + i) * s.ow + j) * s.c;
        const int64_t to = window_offset(0, i, j, s);
        // the count is of the whole window inside the image, not of its part in this band
        const TapSpan all_rows = clip_taps(i * s.stride_h - s.pad_top, s.kh, 0, s.h);
        const float scale = inverse_count(all_rows, cols);
        for_channels(s.c, [&](int64_t k, int64_t count, auto full) {
          const Vec g = scale * load_channels<full.value>(dy + from + k, count);
          for (int64_t a = rows.begin; a < rows.end; ++a)
            for (int64_t b = cols.begin; b < cols.end; ++b) {
              float* p = target + to + a * row_step + b * s.c + k;
              store_channels<full.value>(p, load_channels<full.value>(p, count) + g, count);
            }
        });
      });
}

void global_avg_pool2d_forward(float* y, const float* x, int64_t n, int64_t rows, int64_t c) {
  reduce_sum_forward(y, x, n, rows, c, 1.0f / static_cast<float>(rows));
}

void global_avg_pool2d_backward_dx(float* dx, const float* dy, int64_t n, int64_t rows, int64_t c) {
  reduce_sum_backward_dx(dx, dy, n, rows, c, 1.0f / static_cast<float>(rows));
}

}  // namespace tilegrad
