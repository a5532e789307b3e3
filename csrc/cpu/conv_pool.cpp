// y = max_pool(act(conv(x, w) + b)), dw, db     x (n, h, w, c)  y, index (n, poh, pow, f)
// The image between convolution and pooling never reaches memory: a thread makes a few lines of it
// in its L1 cache and pools them, or, where an output has few terms and windows are 2 x 2, pools the
// sums in registers. Its gradient is dy at the places in index and 0 elsewhere, so dw needs only the
// windows of x there: 1 / (pool h w) of the convolution's FLOPs.
// Split: y by images and bands of rows; dw and db by lines of dy and blocks of filters into fixed
// partial gradients, added in order. x, y, dy and index pass memory once.
#include "../ops/conv_pool.h"

#include <utility>

#include "conv.h"
#include "parallel.h"
#include "pool.h"

namespace tilegrad {
namespace {

// Lines are made until they fill about this much: half of L1 for a direct convolution; a product of
// many channels wants more rows, and L2.
constexpr int64_t direct_floats = 6 * 1024, product_floats = 32 * 1024;
constexpr int64_t direct_depth = 64;

int64_t wanted_floats(const Conv2dShape& c) {
  return c.kh * c.kw * c.c <= direct_depth ? direct_floats : product_floats;
}

// Rows of windows in a band.
int64_t band_rows(const ConvPool2dShape& s) {
  return std::clamp<int64_t>(wanted_floats(s.conv) / (s.pool.kh * s.conv.ow * s.conv.f), 1,
                             s.pool.oh);
}

// ---- dw: the windows of x behind each dy ----

constexpr int64_t filter_block = 64, window_block = 64;  // bounds of the copies on the stack
constexpr int tile_vectors_of_x = 3;

constexpr int most_permuted = 8;  // numbers of a line of the window

// Filters of a tile: enough independent sums to hide the latency of additions.
constexpr int filters_of(int vectors) { return vectors == 1 ? 8 : 4; }

// What the convolution's outputs of some lines of pooled windows see of x, as a matrix: row
// (window places + place) is one output's window, padded to whole vectors. Or, in_register, a row is
// all that one pooled window sees: so little that a register holds the part behind any one line of
// the convolution's window.
class Patches {
 public:
  bool in_register;
  int64_t places, step;    // outputs of a pooled window; numbers of a row
  int64_t line;            // in_register: numbers of a line of x in a row
  int64_t window_step;     // numbers of a pooled window
  int64_t windows, lines;  // that fit: of a line, and lines where those are all

  explicit Patches(const ConvPool2dShape& s) : c_(s.conv), p_(s.pool) {
    places = p_.kh * p_.kw;
    line = line_of(1);
    in_register = width >= 8 && places <= width && c_.kw * c_.c <= most_permuted &&
                  ((p_.kh - 1) * c_.stride_h + 1) * line <= width;
    const int64_t excess = std::max<int64_t>(4 - run_length(c_), 0);
    step = chunk_count(c_.kh * c_.kw * c_.c + excess, width) * width;
    rows_ = (p_.kh - 1) * c_.stride_h + (c_.kh - 1) * c_.dilation_h + 1;
    if (in_register) step = rows_ * line + slack;
    window_step = in_register ? step : places * step;
    const int64_t most = conv_pool_scratch / window_step;
    windows = std::min({most, window_block, p_.ow});
    while (rows_ * line_of(windows) + slack > conv_pool_scratch) windows /= 2;
    lines = windows < p_.ow ? 1 : std::min(most, window_block) / windows;
  }

  // The windows [window, window + count) of one pooled line, counted over all images.
  void fill(float* patches, const float* x, int64_t pooled, int64_t window, int64_t count) const {
    alignas(64) float image[conv_pool_scratch];
    const int64_t image_line = line_of(count);
    copy_lines(image, x, pooled, window, image_line);
    const int64_t col_step = c_.stride_w * c_.c;
    const auto copy_runs = [&](float* to, const float* from, int64_t length) {
      const int64_t from_step = p_.kw * col_step;
      const auto every = [&](auto copy) {
        for (int64_t j = 0; j < count; ++j, to += window_step, from += from_step) copy();
      };
      if (length <= 4)  // a call would cost more; the next run overwrites what is too much
        every([&] { store_quad(to, load_quad(from)); });
      else
        every([&] { std::copy_n(from, length, to); });
    };
    if (in_register) {
      for (int64_t row = 0; row < rows_; ++row) {
        copy_runs(patches + row * line, image + row * image_line, line);
      }
      return;
    }
    const int64_t length = run_length(c_);
    for (int64_t place = 0; place < places; ++place) {
      const float* const corner =
          image + place / p_.kw * c_.stride_h * image_line + place % p_.kw * col_step;
      for (int64_t row = 0; row < c_.kh * c_.kw * c_.c; row += length) {
        const int64_t tap = row / c_.c;
        copy_runs(
            patches + place * step + row,
            corner + tap / c_.kw * c_.dilation_h * image_line + tap % c_.kw * c_.dilation_w * c_.c,
            length);
      }
    }
  }

 private:
  static constexpr int64_t slack = 4;  // a short run is copied as four numbers

  // A window is runs of so many numbers that lie side by side.
  static int64_t run_length(const Conv2dShape& c) { return c.dilation_w == 1 ? c.kw * c.c : c.c; }

  // Numbers of a line of x that so many windows see.
  int64_t line_of(int64_t count) const {
    return ((count * p_.kw - 1) * c_.stride_w + (c_.kw - 1) * c_.dilation_w + 1) * c_.c;
  }

  void copy_lines(float* image, const float* x, int64_t pooled, int64_t window,
                  int64_t line) const {
    const int64_t top = (pooled % p_.oh * p_.kh - p_.pad_top) * c_.stride_h - c_.pad_top;
    const int64_t left = ((window * p_.kw - p_.pad_left) * c_.stride_w - c_.pad_left) * c_.c;
    const int64_t from = std::clamp<int64_t>(-left, 0, line);
    const int64_t to = std::clamp<int64_t>(c_.w * c_.c - left, from, line);
    for (int64_t y = top; y < top + rows_; ++y, image += line) {
      if (y < 0 || y >= c_.h) {
        std::fill_n(image, line, 0.0f);
        continue;
      }
      const float* const source = x + (pooled / p_.oh * c_.h + y) * c_.w * c_.c + left;
      std::fill_n(image, from, 0.0f);
      std::copy_n(source + from, to - from, image + from);
      std::fill_n(image + to, line - to, 0.0f);
    }
    std::fill_n(image, slack, 0.0f);
  }

  const Conv2dShape& c_;
  const Pool2dShape& p_;
  int64_t rows_;
};

// sums[q] += over windows j of dz[j][q] (row of patches of window j and its place in the index)
struct Windows {
  const float* patches;
  int64_t windows, window_step;
  const int64_t* place;  // by index: where its row begins
  const float* dz;
  const uint8_t* index;
  int64_t index_step;
};

template <int V>
void add_windows(float* sums, int64_t sums_step, int filters, const Windows& in) {
  constexpr int Q = filters_of(V);
  const auto add = [&](auto whole) {
    const int count = whole.value ? Q : filters;
    Vec acc[Q][V];
    for (int q = 0; q < count; ++q) {
      for (int v = 0; v < V; ++v) acc[q][v] = load(sums + q * sums_step + v * width);
    }
    const float *dz = in.dz, *patch = in.patches;
    const uint8_t* index = in.index;
    for (int64_t j = 0; j < in.windows; ++j) {
      for (int q = 0; q < count; ++q) {
        const float* const row = patch + in.place[index[q]];
        const Vec g = splat(dz[q]);
        for (int v = 0; v < V; ++v) acc[q][v] = fma(g, load(row + v * width), acc[q][v]);
      }
      dz += filter_block;
      index += in.index_step;
      patch += in.window_step;
    }
    for (int q = 0; q < count; ++q) {
      for (int v = 0; v < V; ++v) store(sums + q * sums_step + v * width, acc[q][v]);
    }
  };
  if (filters == Q) return add(std::true_type{});
  add(std::false_type{});
}

// dz[j][k] = dy where the index is a place, else 0, for `count` filters; db += their sum;
// lane[j][k] = lane_of[index], unless null
void open_windows(float* dz, float* db, int32_t* lane, const float* dy, int64_t dy_step,
                  const uint8_t* index, int64_t index_step, int64_t windows, int64_t count,
                  int64_t places, Vec lane_of) {
  for_channels(count, [&](int64_t k, int64_t lanes, auto full) {
    Vec total = load_channels<full.value>(db + k, lanes);
    for (int64_t j = 0; j < windows; ++j) {
      const IVec at = load_index(index + j * index_step + k, lanes);
      const Vec open = select(at < splat_int(static_cast<int32_t>(places)),
                              load_channels<full.value>(dy + j * dy_step + k, lanes), Vec{});
      store(dz + j * filter_block + k, open);
      if (lane != nullptr) {
        const Vec found = permute(lane_of, at);
        std::memcpy(lane + j * filter_block + k, &found, sizeof found);
      }
      total += open;
    }
    store_channels<full.value>(db + k, total, lanes);
  });
}

// Along one line of the window, for vectors of filters: sums[e] += over windows j of
// dz[j] (number `lane[j] + offset[e]` of the register at patches + j step)
template <int E>
void add_permuted(float* sums, int64_t f, int64_t count, const float* patches, int64_t step,
                  const int64_t* offset, const float* dz, const int32_t* lane, int64_t windows) {
  for_channels(count, [&](int64_t k, int64_t lanes, auto full) {
    Vec acc[E];
    for (int e = 0; e < E; ++e) acc[e] = load_channels<full.value>(sums + e * f + k, lanes);
    for (int64_t j = 0; j < windows; ++j) {
      const Vec x = load(patches + j * step), g = load(dz + j * filter_block + k);
      IVec at;
      std::memcpy(&at, lane + j * filter_block + k, sizeof at);
      for (int e = 0; e < E; ++e) {
        const IVec number = at + splat_int(static_cast<int32_t>(offset[e]));
        acc[e] = fma(g, permute(x, number), acc[e]);
      }
    }
    for (int e = 0; e < E; ++e) store_channels<full.value>(sums + e * f + k, acc[e], lanes);
  });
}

template <int... I>
void run_permuted(int64_t numbers, float* sums, int64_t f, int64_t count, const float* patches,
                  int64_t step, const int64_t* offset, const float* dz, const int32_t* lane,
                  int64_t windows, std::integer_sequence<int, I...>) {
  static constexpr void (*table[])(float*, int64_t, int64_t, const float*, int64_t, const int64_t*,
                                   const float*, const int32_t*,
                                   int64_t) = {add_permuted<I + 1>...};
  table[numbers - 1](sums, f, count, patches, step, offset, dz, lane, windows);
}

// Whether windows reach beyond the image.
bool clips(const Pool2dShape& p) {
  return p.pad_top > 0 || p.pad_left > 0 || p.oh * p.kh > p.h || p.ow * p.kw > p.w;
}

// The index of `windows` windows from `first` on, counted over all lines, for `count` filters, with
// places outside the image closed: an index from elsewhere may name them.
void close_outside(uint8_t* closed, const uint8_t* index, const Pool2dShape& p, int64_t first,
                   int64_t windows, int64_t count) {
  for (int64_t j = 0; j < windows; ++j) {
    const int64_t i = (first + j) / p.ow % p.oh;
    const TapSpan rows = clip_taps(i * p.kh - p.pad_top, p.kh, 0, p.h);
    const TapSpan cols = clip_taps((first + j) % p.ow * p.kw - p.pad_left, p.kw, 0, p.w);
    for (int64_t k = 0; k < count; ++k) {
      const uint8_t place = index[j * p.c + k];
      const int64_t a = place / p.kw, b = place % p.kw;
      const bool inside = a >= rows.begin && a < rows.end && b >= cols.begin && b < cols.end;
      closed[j * filter_block + k] = inside ? place : closed_window;
    }
  }
}

struct DwSplit {
  int64_t blocks, parts;  // of filters, of pooled lines
  explicit DwSplit(const ConvPool2dShape& s) {
    blocks = chunk_count(s.pool.c, filter_block);
    const int64_t lines = s.pool.n * s.pool.oh;
    // a partial gradient must be worth its memory traffic
    const int64_t worth = std::max<int64_t>(lines * s.pool.ow / 64, 1);
    parts = std::min({chunk_count(wanted_chunks, blocks), lines, worth});
  }
};

// The sums of filters [begin, end) over the pooled lines [line, line_end): [filter][step], or in
// register [tap, channel][f].
void add_lines(float* sums, float* db, const Patches& patches, const float* x, const float* dy,
               const uint8_t* index, const ConvPool2dShape& s, int64_t begin, int64_t end,
               int64_t line, int64_t line_end) {
  alignas(64) float scratch[conv_pool_scratch + width], dz[window_block * filter_block];
  alignas(64) int32_t lane[window_block * filter_block];
  uint8_t closed[window_block * filter_block];
  const Conv2dShape& c = s.conv;
  int64_t place[256] = {}, offset[most_permuted];
  for (int64_t i = 0; i < patches.places; ++i) place[i] = i * patches.step;
  IVec lane_of{};
  if (patches.in_register) {
    for (int i = 0; i < patches.places; ++i) {
      lane_of[i] = static_cast<int32_t>(i / s.pool.kw * c.stride_h * patches.line +
                                        i % s.pool.kw * c.stride_w * c.c);
    }
    for (int64_t e = 0; e < c.kw * c.c; ++e) offset[e] = e / c.c * c.dilation_w * c.c + e % c.c;
  }
  const int64_t f = s.pool.c, window_step = patches.window_step;
  std::fill_n(scratch, patches.lines * patches.windows * window_step + width, 0.0f);
  const EvenCut pieces(s.pool.ow, patches.windows);
  const EvenCut vector_cut(patches.step / width, tile_vectors_of_x);
  for (int64_t lines; line < line_end; line += lines) {
    lines = std::min(patches.lines, line_end - line);
    for (int64_t piece = 0; piece < pieces.pieces; ++piece) {
      const int64_t window = pieces(piece), count = pieces(piece + 1) - window;
      for (int64_t l = 0; l < lines; ++l) {
        patches.fill(scratch + l * count * window_step, x, line + l, window, count);
      }
      const int64_t first = line * s.pool.ow + window, from = first * f + begin;
      const uint8_t* places = index + from;
      int64_t places_step = f;
      if (clips(s.pool)) {
        close_outside(closed, places, s.pool, first, lines * count, end - begin);
        places = closed;
        places_step = filter_block;
      }
      open_windows(dz, db, patches.in_register ? lane : nullptr, dy + from, f, places, places_step,
                   lines * count, end - begin, patches.places, reinterpret_cast<Vec>(lane_of));
      if (patches.in_register) {
        const int64_t numbers = c.kw * c.c;
        for (int64_t t = 0; t < c.kh; ++t) {
          run_permuted(numbers, sums + t * numbers * f, f, end - begin,
                       scratch + t * c.dilation_h * patches.line, window_step, offset, dz, lane,
                       lines * count, std::make_integer_sequence<int, most_permuted>{});
        }
        continue;
      }
      for (int64_t t = 0; t < vector_cut.pieces; ++t) {
        const int64_t at = vector_cut(t) * width;
        const int vectors = static_cast<int>(vector_cut(t + 1) - vector_cut(t));
        for (int64_t q = begin; q < end; q += filters_of(vectors)) {
          static constexpr void (*table[])(float*, int64_t, int, const Windows&) = {
              add_windows<1>, add_windows<2>, add_windows<3>};
          table[vectors - 1](sums + (q - begin) * patches.step + at, patches.step,
                             static_cast<int>(std::min<int64_t>(filters_of(vectors), end - q)),
                             {scratch + at, lines * count, window_step, place, dz + q - begin,
                              places + q - begin, places_step});
        }
      }
    }
  }
}

}  // namespace

void conv2d_max_pool2d_forward(float* y, uint8_t* index, const float* x, const float* w,
                               const float* b, const ConvPool2dShape& s, Activation act,
                               void* workspace) {
  const Pool2dShape& p = s.pool;
  if (p.n * p.oh * p.ow == 0) return;
  const float* const arranged = conv2d_arrange_weights(w, s.conv, workspace);
  const Epilogue epilogue{b};  // a relu is cheaper, and the same, after the maximum
  const int64_t rows = band_rows(s), bands = chunk_count(p.oh, rows);
  const int64_t work = rows * p.kh * p.w * s.conv.kh * s.conv.kw * s.conv.c * p.c;
  const bool in_registers =
      s.conv.kh * s.conv.kw * s.conv.c <= direct_depth && pools_in_registers(s);
  const Span inside = in_registers ? rows_inside(s) : Span{0, 0};
  const bool relu = act == Activation::relu;
  const auto via_scratch = [&](int64_t image, Span band) {
    alignas(64) float scratch[conv_pool_scratch];
    const int64_t top = std::max<int64_t>(band.begin * p.kh - p.pad_top, 0);
    const int64_t bottom = std::min(band.end * p.kh - p.pad_top, p.h);
    conv2d_lines(scratch, x, arranged, s.conv, epilogue, image * p.h + top, image * p.h + bottom);
    const int64_t to = (image * p.oh + band.begin) * p.ow * p.c;
    max_pool2d_rows(y + to, index + to, scratch, top, p, band.begin, band.end, relu);
  };
  parallel_for(p.n * bands, std::max<int64_t>(4 * small_work / work, 1),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t image = i / bands, first = i % bands * rows;
                   const Span band{first, std::min(first + rows, p.oh)};
                   const Span middle{std::clamp(inside.begin, band.begin, band.end),
                                     std::clamp(inside.end, band.begin, band.end)};
                   if (band.begin < middle.begin) via_scratch(image, {band.begin, middle.begin});
                   if (middle.begin < middle.end) {
                     const int64_t to = (image * p.oh + middle.begin) * p.ow * p.c;
                     direct_pooled_rows(y + to, index + to, x, arranged, s, forward_packs(s.conv),
                                        b, relu, image, middle);
                   }
                   if (middle.end < band.end) via_scratch(image, {middle.end, band.end});
                 }
               });
}

int64_t conv2d_max_pool2d_forward_workspace(const ConvPool2dShape& s) {
  return conv2d_arranged_bytes(s.conv);
}

void conv2d_max_pool2d_backward_dw(float* dw, float* db, const float* x, const float* dy,
                                   const uint8_t* index, const ConvPool2dShape& s,
                                   void* workspace) {
  const Conv2dShape& c = s.conv;
  const int64_t size = c.kh * c.kw * c.c * c.f, lines = s.pool.n * s.pool.oh;
  if (lines * s.pool.ow == 0) {
    std::fill_n(dw, size, 0.0f);
    if (db != nullptr) std::fill_n(db, c.f, 0.0f);
    return;
  }
  const Patches patches(s);
  const DwSplit split(s);
  const int64_t step = patches.step;
  // [part][filter][step], or in register [part][tap, channel][filter]
  float* const parts = static_cast<float*>(workspace);
  float* const db_parts = parts + split.parts * c.f * step;  // [part][filter]
  parallel_for(split.parts * split.blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t part = i / split.blocks, block = i % split.blocks;
      const int64_t from = block * filter_block, to = std::min(from + filter_block, c.f);
      float* const db_sums = db_parts + part * c.f + from;
      float* sums = parts + (part * c.f + from) * step;
      if (patches.in_register) {
        sums = parts + part * size + from;
        for (int64_t row = 0; row < size / c.f; ++row) {
          std::fill_n(sums + row * c.f, to - from, 0.0f);
        }
      } else {
        std::fill_n(sums, (to - from) * step, 0.0f);
      }
      std::fill_n(db_sums, to - from, 0.0f);
      add_lines(sums, db_sums, patches, x, dy, index, s, from, to, lines * part / split.parts,
                lines * (part + 1) / split.parts);
    }
  });
  if (db != nullptr) combine_partials(db, db_parts, split.parts, c.f, c.f, {});
  if (patches.in_register) return combine_partials(dw, parts, split.parts, size, c.f, {});
  combine_partials(parts, parts, split.parts, c.f * step, step, {});
  for (int64_t row = 0; row < size / c.f; ++row) {
    for (int64_t filter = 0; filter < c.f; ++filter) {
      dw[row * c.f + filter] = parts[filter * step + row];
    }
  }
}

int64_t conv2d_max_pool2d_backward_dw_workspace(const ConvPool2dShape& s) {
  if (s.pool.n * s.pool.oh * s.pool.ow == 0) return 0;
  return DwSplit(s).parts * s.conv.f * (Patches(s).step + 1) * static_cast<int64_t>(sizeof(float));
}

}  // namespace tilegrad
