// y = max_pool(act(conv(x, w) + b)), dw, db     x (n, h, w, c)  y, index (n, poh, pow, f)
// The image between convolution and pooling, and its gradient dz, never reach memory: a thread makes
// a few lines of them in its L1 cache and uses them up. Of dz only the places in index are not 0.
// Split: y by images and bands of rows; dw and db by lines of dz into fixed partial gradients, added
// in order. FLOPs of the convolution; x, y, dy and index pass memory once.
#include "../ops/conv_pool.h"

#include "conv.h"
#include "parallel.h"
#include "pool.h"

namespace tilegrad {
namespace {

constexpr int64_t scratch_floats = int64_t{1} << 16;  // 256 KiB of the stack
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

// Lines of dz in a block.
int64_t block_lines(const Conv2dShape& c) {
  const int64_t line = c.ow * c.f;
  return std::clamp<int64_t>(wanted_floats(c) / line, 1, std::max<int64_t>(256 / c.ow, 1));
}

// dz of one line of the convolution, counted over all images; its sum is added to db.
void spread_line(float* dz, float* db, const float* dy, const uint8_t* index,
                 const ConvPool2dShape& s, int64_t line) {
  const Pool2dShape& p = s.pool;
  const int64_t image = line / p.h, row = line % p.h;
  const int64_t i = (row + p.pad_top) / p.kh, a = (row + p.pad_top) % p.kh;
  if (i >= p.oh || p.ow * p.kw - p.pad_left < p.w) std::fill_n(dz, p.w * p.c, 0.0f);
  if (i >= p.oh) return;  // below the last whole window
  const bool two_inside = p.kw == 2 && p.pad_left == 0 && p.ow * 2 <= p.w;
  const int64_t from = (image * p.oh + i) * p.ow * p.c;
  for_channels(p.c, [&](int64_t k, int64_t count, auto full) {
    Vec total{};
    for (int64_t j = 0; j < p.ow; ++j) {
      const int64_t at = from + j * p.c + k;
      const Vec g = load_channels<full.value>(dy + at, count);
      const IVec place = load_index(index + at, count);
      const auto write = [&](TapSpan cols) {
        for (int64_t b = cols.begin; b < cols.end; ++b) {
          const Vec part = select(place == splat_int(a * p.kw + b), g, Vec{});
          store_channels<full.value>(dz + (j * p.kw - p.pad_left + b) * p.c + k, part, count);
          total += part;
        }
      };
      if (two_inside)  // constant bounds: the taps unroll
        write({0, 2});
      else
        write(clip_taps(j * p.kw - p.pad_left, p.kw, 0, p.w));
    }
    if (db != nullptr) {
      store_channels<full.value>(db + k, load_channels<full.value>(db + k, count) + total, count);
    }
  });
}

}  // namespace

bool conv_pool_fits(const ConvPool2dShape& s) {
  return s.pool.kh * s.conv.ow * s.conv.f <= scratch_floats;
}

void conv2d_max_pool2d_forward(float* y, uint8_t* index, const float* x, const float* w,
                               const float* b, const ConvPool2dShape& s, Activation act,
                               void* workspace) {
  const Pool2dShape& p = s.pool;
  if (p.n * p.oh * p.ow == 0) return;
  const float* const arranged = conv2d_arrange_weights(w, s.conv, workspace);
  const Epilogue epilogue{b};  // a relu is cheaper, and the same, after the maximum
  const int64_t rows = band_rows(s), bands = chunk_count(p.oh, rows);
  const int64_t work = rows * p.kh * p.w * s.conv.kh * s.conv.kw * s.conv.c * p.c;
  parallel_for(p.n * bands, std::max<int64_t>(4 * small_work / work, 1),
               [&](int64_t begin, int64_t end) {
                 alignas(64) float scratch[scratch_floats];
                 for (int64_t band = begin; band < end; ++band) {
                   const int64_t image = band / bands, first = band % bands * rows;
                   const int64_t last = std::min(first + rows, p.oh);
                   const int64_t top = std::max<int64_t>(first * p.kh - p.pad_top, 0);
                   const int64_t bottom = std::min(last * p.kh - p.pad_top, p.h);
                   conv2d_lines(scratch, x, arranged, s.conv, epilogue, image * p.h + top,
                                image * p.h + bottom);
                   const int64_t to = (image * p.oh + first) * p.ow * p.c;
                   max_pool2d_rows(y + to, index + to, scratch, top, p, first, last,
                                   act == Activation::relu);
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
  const int64_t lines = c.n * c.oh, rows = c.kh * c.kw * c.c, size = rows * c.f;
  if (s.pool.n * s.pool.oh * s.pool.ow == 0) {
    std::fill_n(dw, size, 0.0f);
    if (db != nullptr) std::fill_n(db, c.f, 0.0f);
    return;
  }
  const DwPlan plan = plan_dw(c);
  const bool split = plan.splits > 1;
  float* const dw_parts = split ? static_cast<float*>(workspace) : dw;
  float* const db_parts = split && db != nullptr ? dw_parts + plan.splits * size : db;
  const int64_t block = block_lines(c);
  parallel_for(plan.splits * plan.row_chunks, 1, [&](int64_t begin, int64_t end) {
    alignas(64) float scratch[scratch_floats];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r = i % plan.row_chunks, part = i / plan.row_chunks;
      const int64_t from = lines * part / plan.splits, to = lines * (part + 1) / plan.splits;
      float* const sums = db != nullptr && r == 0 ? db_parts + part * c.f : nullptr;
      if (sums != nullptr) std::fill_n(sums, c.f, 0.0f);
      for (int64_t line = from; line < to; line += block) {
        const int64_t stop = std::min(line + block, to);
        for (int64_t l = line; l < stop; ++l) {
          spread_line(scratch + (l - line) * c.ow * c.f, sums, dy, index, s, l);
        }
        multiply_dw(dw_parts + part * size, x, scratch, c, 0, rows * r / plan.row_chunks,
                    rows * (r + 1) / plan.row_chunks, line, stop, line > from);
      }
    }
  });
  if (!split) return;
  combine_partials(dw, dw_parts, plan.splits, size, c.f, {});
  if (db != nullptr) combine_partials(db, db_parts, plan.splits, c.f, c.f, {});
}

int64_t conv2d_max_pool2d_backward_dw_workspace(const ConvPool2dShape& s) {
  const Conv2dShape& c = s.conv;
  if (s.pool.n * s.pool.oh * s.pool.ow == 0) return 0;
  const int64_t splits = plan_dw(c).splits;
  const int64_t floats = splits * (c.kh * c.kw * c.c * c.f + c.f);
  return splits > 1 ? floats * static_cast<int64_t>(sizeof(float)) : 0;
}

}  // namespace tilegrad
