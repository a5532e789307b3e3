// y = a op b with broadcasting, y = f(x), sum and max over an axis, strided copies, dropout.
// Outputs are overwritten. Flat arrays split into fixed chunks of elements; reductions into rows or
// blocks of columns and, where those are few, into fixed segments of the reduced axis whose partial
// results are combined in order. All but exp, log, power and dropout is bound by memory.
// Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#include "../ops/elementwise.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "../core/dispatch.h"
#include "parallel.h"
#include "simd.h"

namespace tilegrad {

namespace {

constexpr int64_t chunk = 16384;  // elements of one chunk of a flat array

Vec power(Vec a, Vec b) {
  for (int i = 0; i < width; ++i) a[i] = std::pow(a[i], b[i]);
  return a;
}

template <Binary K>
TILEGRAD_INLINE Vec apply(Vec a, Vec b) {
  if constexpr (K == Binary::add) return a + b;
  if constexpr (K == Binary::subtract) return a - b;
  if constexpr (K == Binary::multiply) return a * b;
  if constexpr (K == Binary::divide) return a / b;
  if constexpr (K == Binary::power) return power(a, b);
  if constexpr (K == Binary::maximum) return maximum(a, b);
  if constexpr (K == Binary::minimum) return minimum(a, b);
}

// dy if a wins, half of it at a tie
TILEGRAD_INLINE Vec winner_share(Vec dy, IVec a_wins, IVec tie) {
  return select(a_wins, dy, select(tie, 0.5f * dy, Vec{}));
}

template <Binary K>
TILEGRAD_INLINE Vec apply_da(Vec dy, [[maybe_unused]] Vec a, [[maybe_unused]] Vec b) {
  if constexpr (K == Binary::add || K == Binary::subtract) return dy;
  if constexpr (K == Binary::multiply) return dy * b;
  if constexpr (K == Binary::divide) return dy / b;
  if constexpr (K == Binary::power) return select(b == 0.0f, Vec{}, dy * b * power(a, b - 1.0f));
  if constexpr (K == Binary::maximum) return winner_share(dy, a > b, a == b);
  if constexpr (K == Binary::minimum) return winner_share(dy, a < b, a == b);
}

template <Binary K>
TILEGRAD_INLINE Vec apply_db(Vec dy, [[maybe_unused]] Vec a, [[maybe_unused]] Vec b) {
  if constexpr (K == Binary::add) return dy;
  if constexpr (K == Binary::subtract) return -dy;
  if constexpr (K == Binary::multiply) return dy * a;
  if constexpr (K == Binary::divide) return -(dy / b) * (a / b);  // b^2 could overflow
  if constexpr (K == Binary::power)
    return select((a == 0.0f) & (b >= 0.0f), Vec{}, dy * power(a, b) * log(a));
  if constexpr (K == Binary::maximum) return winner_share(dy, b > a, a == b);
  if constexpr (K == Binary::minimum) return winner_share(dy, b < a, a == b);
}

template <Unary K>
TILEGRAD_INLINE Vec apply(Vec x) {
  if constexpr (K == Unary::negative) return -x;
  if constexpr (K == Unary::exp) return exp(x);
  if constexpr (K == Unary::log) return log(x);
  if constexpr (K == Unary::sqrt) return sqrt(x);
  if constexpr (K == Unary::absolute) return abs(x);
  if constexpr (K == Unary::square) return x * x;
}

template <Unary K>
TILEGRAD_INLINE Vec apply_dx(Vec dy, [[maybe_unused]] Vec x) {
  if constexpr (K == Unary::negative) return -dy;
  if constexpr (K == Unary::exp) return dy * exp(x);
  if constexpr (K == Unary::log) return dy / x;
  if constexpr (K == Unary::sqrt) return 0.5f * dy / sqrt(x);
  if constexpr (K == Unary::absolute)
    return select(x > 0.0f, dy, select(x < 0.0f, -dy, 0.0f * x));  // 0 at 0, NaN at NaN
  if constexpr (K == Unary::square) return 2.0f * dy * x;
}

// y[i] = f(x[0][i], ...) for a flat array, in parallel
template <class F, class... P>
void parallel_map(float* y, int64_t count, F f, const P*... x) {
  parallel_for(count, chunk,
               [&](int64_t begin, int64_t end) { map(y + begin, end - begin, f, (x + begin)...); });
}

// ---- broadcasting ----

constexpr int64_t run_length = 256;

// One row of an operand, as contiguous runs: itself, or run_length copies of the number it repeats.
class Operand {
 public:
  Operand(const float* data, int64_t stride, int64_t count) : data_(data), repeats_(stride == 0) {
    if (repeats_) std::fill_n(buffer_, std::min(run_length, count), *data);
  }
  bool repeats() const { return repeats_; }
  const float* run(int64_t begin) const { return repeats_ ? buffer_ : data_ + begin; }

 private:
  const float* data_;
  bool repeats_;
  float buffer_[run_length];
};

// y[i] = f(a[i], b[i]), with dy[i] in a gradient, for contiguous runs
using RunKernel = void (*)(float* y, const float* a, const float* b, const float* dy,
                           int64_t count);

// y = f(a, b, dy) over the broadcast shape; dy has y's shape, or is null
void broadcast(float* y, const float* a, const float* b, const float* dy, const BroadcastShape& s,
               RunKernel kernel) {
  const int last = s.ndim - 1;
  int64_t total = 1;
  for (int d = 0; d < s.ndim; ++d) total *= s.size[d];
  const int64_t cols = s.size[last], a_step = s.a_stride[last], b_step = s.b_stride[last];
  parallel_for(total, chunk, [&](int64_t begin, int64_t end) {
    int64_t index[max_ndim] = {};
    int64_t a_row = 0, b_row = 0, row = begin / cols;
    for (int d = last - 1; d >= 0; --d) {
      index[d] = row % s.size[d];
      row /= s.size[d];
      a_row += index[d] * s.a_stride[d];
      b_row += index[d] * s.b_stride[d];
    }
    for (int64_t col = begin % cols; begin < end; col = 0) {
      const int64_t count = std::min(cols - col, end - begin);
      const Operand first(a + a_row + col * a_step, a_step, count);
      const Operand second(b + b_row + col * b_step, b_step, count);
      const int64_t step = first.repeats() || second.repeats() ? run_length : count;
      for (int64_t i = 0; i < count; i += step) {
        const int64_t part = std::min(step, count - i);
        kernel(y + begin + i, first.run(i), second.run(i), dy != nullptr ? dy + begin + i : nullptr,
               part);
      }
      begin += count;
      for (int d = last - 1; d >= 0; --d) {  // the next row, with carry
        a_row += s.a_stride[d];
        b_row += s.b_stride[d];
        if (++index[d] < s.size[d]) break;
        a_row -= s.size[d] * s.a_stride[d];
        b_row -= s.size[d] * s.b_stride[d];
        index[d] = 0;
      }
    }
  });
}

template <Binary K>
void forward_run(float* y, const float* a, const float* b, const float*, int64_t count) {
  map(y, count, [](Vec va, Vec vb) { return apply<K>(va, vb); }, a, b);
}

template <Binary K>
void da_run(float* da, const float* a, const float* b, const float* dy, int64_t count) {
  map(da, count, [](Vec g, Vec va, Vec vb) { return apply_da<K>(g, va, vb); }, dy, a, b);
}

template <Binary K>
void db_run(float* db, const float* a, const float* b, const float* dy, int64_t count) {
  map(db, count, [](Vec g, Vec va, Vec vb) { return apply_db<K>(g, va, vb); }, dy, a, b);
}

// ---- reductions ----

constexpr int64_t max_segments = 64;     // partial results of one reduction, on the stack
constexpr int64_t segment_size = 32768;  // elements below which an axis is not cut
constexpr int64_t block_rows = 32;       // rows added before they join the total

struct Sum {
  static constexpr float identity = 0.0f;
  static Vec combine(Vec a, Vec b) { return a + b; }
  static double combine(double a, double b) { return a + b; }
  static double reduce(const float* x, int64_t count) {
    return sum(count, [](Vec v) { return v; }, x);
  }
};

struct Max {
  static constexpr float identity = -infinity;
  static Vec combine(Vec a, Vec b) { return maximum(a, b); }
  static float combine(float a, float b) { return a > b || a != a ? a : b; }
  static float reduce(const float* x, int64_t count) {
    Vec m[2] = {splat(identity), splat(identity)};
    int64_t i = 0;
    for (; i + 2 * width <= count; i += 2 * width)
      for (int u = 0; u < 2; ++u) m[u] = maximum(m[u], load(x + i + u * width));
    for (; i < count; i += width) {
      const int64_t part = std::min<int64_t>(width, count - i);
      const Vec v = load_partial(x + i, part);
      m[0] = maximum(m[0], select(first_lanes(part), v, splat(identity)));
    }
    return hmax(maximum(m[0], m[1]));
  }
};

// length of the fixed segments into which an axis of r entries, each `entry` elements, is cut
int64_t segment_length(int64_t r, int64_t entry) {
  const int64_t small = std::max<int64_t>(1, segment_size / std::max<int64_t>(1, entry));
  return std::max(small, (r + max_segments - 1) / max_segments);
}

// items of r entries each: few long ones run in turn, so that their segments run in parallel
int64_t item_grain(int64_t items, int64_t r, int64_t entry) {
  if (items < 16 && r > segment_length(r, entry)) return items;
  return std::max<int64_t>(1, chunk / std::max<int64_t>(1, r * entry));
}

// part(begin, end) over the segments of [0, r), in parallel, combined in order
template <class Part, class Combine>
[[gnu::noinline]] auto over_many_segments(int64_t r, int64_t segment, const Part& part,
                                          Combine combine) {
  decltype(part(r, r)) partial[max_segments] = {};
  parallel_for(r, segment,
               [&](int64_t begin, int64_t end) { partial[begin / segment] = part(begin, end); });
  for (int64_t p = 1; p < chunk_count(r, segment); ++p)
    partial[0] = combine(partial[0], partial[p]);
  return partial[0];
}

// The same; short items, of one segment, do without the frame that many segments need.
template <class Part, class Combine>
TILEGRAD_INLINE auto over_segments(int64_t r, int64_t segment, Part part, Combine combine) {
  return r <= segment ? part(int64_t{0}, r) : over_many_segments(r, segment, part, combine);
}

template <class Op>
void reduce_rows(float* y, const float* x, int64_t outer, int64_t r, float scale) {
  const int64_t segment = segment_length(r, 1);
  parallel_for(outer, item_grain(outer, r, 1), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const auto total = over_segments(
          r, segment,
          [&](int64_t begin, int64_t end) { return Op::reduce(x + i * r + begin, end - begin); },
          [](auto a, auto b) { return Op::combine(a, b); });
      y[i] = static_cast<float>(scale * total);
    }
  });
}

// Four vectors of columns at a time. A row's vectors behind column `cols` are not touched.
constexpr int column_vectors = 4;
constexpr int64_t column_block = column_vectors * width;

struct Columns {
  Vec v[column_vectors];
};

TILEGRAD_INLINE Columns load_columns(const float* p, int64_t cols) {
  Columns c;
  for (int u = 0; u < column_vectors; ++u) {
    const int64_t rest = cols - u * width;
    c.v[u] = rest >= width ? load(p + u * width)
             : rest > 0    ? load_partial(p + u * width, rest)
                           : Vec{};
  }
  return c;
}

TILEGRAD_INLINE void store_columns(float* p, const Columns& c, int64_t cols) {
  for (int u = 0; u < column_vectors; ++u) {
    const int64_t rest = cols - u * width;
    if (rest >= width)
      store(p + u * width, c.v[u]);
    else if (rest > 0)
      store_partial(p + u * width, c.v[u], rest);
  }
}

template <class Op>
TILEGRAD_INLINE Columns combine_columns(Columns a, const Columns& b) {
  for (int u = 0; u < column_vectors; ++u) a.v[u] = Op::combine(a.v[u], b.v[u]);
  return a;
}

template <class Op>
Columns identity_columns() {
  Columns c;
  for (Vec& v : c.v) v = splat(Op::identity);
  return c;
}

template <class Op>
Columns reduce_columns(const float* x, int64_t rows, int64_t row_step, int64_t cols) {
  Columns total = identity_columns<Op>();
  for (int64_t begin = 0; begin < rows; begin += block_rows) {
    Columns part = identity_columns<Op>();
    const int64_t end = std::min(rows, begin + block_rows);
    if (cols == column_block)
      for (int64_t i = begin; i < end; ++i)
        part = combine_columns<Op>(part, load_columns(x + i * row_step, column_block));
    else
      for (int64_t i = begin; i < end; ++i)
        part = combine_columns<Op>(part, load_columns(x + i * row_step, cols));
    total = combine_columns<Op>(total, part);
  }
  return total;
}

// fn(i, j, cols): columns [j, j + cols) of outer index i
template <class F>
void for_column_blocks(int64_t outer, int64_t r, int64_t inner, F fn) {
  const int64_t blocks = chunk_count(inner, column_block);
  const int64_t grain = item_grain(outer * blocks, r, std::min(inner, column_block));
  parallel_for(outer * blocks, grain, [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; ++item) {
      const int64_t j = item % blocks * column_block;
      fn(item / blocks, j, std::min(column_block, inner - j));
    }
  });
}

template <class Op>
void reduce_middle(float* y, const float* x, int64_t outer, int64_t r, int64_t inner, float scale) {
  for_column_blocks(outer, r, inner, [&](int64_t i, int64_t j, int64_t cols) {
    Columns total = over_segments(
        r, segment_length(r, cols),
        [&](int64_t begin, int64_t end) {
          return reduce_columns<Op>(x + (i * r + begin) * inner + j, end - begin, inner, cols);
        },
        combine_columns<Op>);
    for (Vec& v : total.v) v *= scale;
    store_columns(y + i * inner + j, total, cols);
  });
}

template <class Op>
void reduce(float* y, const float* x, int64_t outer, int64_t r, int64_t inner, float scale) {
  if (r == 0) return static_cast<void>(std::fill_n(y, outer * inner, 0.0f));
  if (inner == 1)
    reduce_rows<Op>(y, x, outer, r, scale);
  else
    reduce_middle<Op>(y, x, outer, r, inner, scale);
}

// a NaN maximum is where x is NaN
TILEGRAD_INLINE IVec is_maximum(Vec x, Vec y) { return (x == y) | ((x != x) & (y != y)); }

TILEGRAD_INLINE Vec count_maximum(Vec x, Vec y) {
  return select(is_maximum(x, y), splat(1.0f), Vec{});
}

// ---- strided copies ----

// Axes of size 1 dropped, the rest ordered by falling y stride, neighbours merged where possible.
CopyShape simplify(const CopyShape& s) {
  CopyShape t{};
  for (int d = 0; d < s.ndim; ++d) {
    if (s.size[d] == 1) continue;
    int at = t.ndim++;
    for (; at > 0 && t.y_stride[at - 1] < s.y_stride[d]; --at) {
      t.size[at] = t.size[at - 1];
      t.y_stride[at] = t.y_stride[at - 1];
      t.x_stride[at] = t.x_stride[at - 1];
    }
    t.size[at] = s.size[d];
    t.y_stride[at] = s.y_stride[d];
    t.x_stride[at] = s.x_stride[d];
  }
  CopyShape m{};
  for (int d = 0; d < t.ndim; ++d) {
    const int e = m.ndim - 1;
    if (e >= 0 && m.y_stride[e] == t.size[d] * t.y_stride[d] &&
        m.x_stride[e] == t.size[d] * t.x_stride[d]) {
      m.size[e] *= t.size[d];
      m.y_stride[e] = t.y_stride[d];
      m.x_stride[e] = t.x_stride[d];
    } else {
      m.size[m.ndim] = t.size[d];
      m.y_stride[m.ndim] = t.y_stride[d];
      m.x_stride[m.ndim++] = t.x_stride[d];
    }
  }
  return m;
}

struct CopyAxis {
  int64_t size = 1, y_stride = 0, x_stride = 0;
};

constexpr int64_t transposed_rows = 64, transposed_cols = 128;

// A tile whose columns are lines of x and whose rows are lines of y; the whole squares of it.
void transpose_squares(float* y, const float* x, CopyAxis row, CopyAxis col) {
  for (int64_t j = 0; j < col.size; j += width) {
    for (int64_t i = 0; i < row.size; i += width) {
      transpose_square(y + i * row.y_stride + j, row.y_stride, x + j * col.x_stride + i,
                       col.x_stride);
    }
  }
}

// The same of any size, at most transposed_rows x transposed_cols.
void transpose_tile(float* y, const float* x, CopyAxis row, CopyAxis col) {
  const CopyAxis rows{row.size - row.size % width, row.y_stride, 1};
  const CopyAxis cols{col.size - col.size % width, 1, col.x_stride};
  if (row.y_stride % 256 == 0) {  // the cache has few places for the lines of a column of y
    alignas(64) float lines[transposed_rows * transposed_cols];
    transpose_squares(lines, x, {rows.size, transposed_cols, 1}, cols);
    for (int64_t i = 0; i < rows.size; ++i) {
      std::copy_n(lines + i * transposed_cols, cols.size, y + i * row.y_stride);
    }
  } else {
    transpose_squares(y, x, rows, cols);
  }
  for (int64_t i = 0; i < row.size; ++i) {
    for (int64_t j = i < rows.size ? cols.size : 0; j < col.size; ++j) {
      y[i * row.y_stride + j] = x[j * col.x_stride + i];
    }
  }
}

// one tile: rows x cols elements
void copy_tile(float* y, const float* x, CopyAxis row, CopyAxis col) {
  if (col.y_stride == 1 && row.x_stride == 1 && col.x_stride != 1) {
    return transpose_tile(y, x, row, col);
  }
  for (int64_t i = 0; i < row.size; ++i) {
    float* to = y + i * row.y_stride;
    const float* from = x + i * row.x_stride;
    if (col.y_stride == 1 && col.x_stride == 1) {
      std::copy_n(from, col.size, to);
    } else if (col.y_stride == 1) {
      for (int64_t j = 0; j < col.size; ++j) to[j] = from[j * col.x_stride];
    } else {
      for (int64_t j = 0; j < col.size; ++j) to[j * col.y_stride] = from[j * col.x_stride];
    }
  }
}

// ---- Philox ----

constexpr int philox_block = 4 * width;  // one counter per lane, four words each

// uniform[4 l + k] = word k of counter first + l as 24 bits in [0, 1); first is a multiple of width
TILEGRAD_INLINE void philox(float* uniform, uint64_t first, uint64_t seed) {
  UVec c[4] = {reinterpret_cast<UVec>(lane_numbers()) + static_cast<uint32_t>(first),
               static_cast<uint32_t>(first >> 32) - UVec{}};
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9e3779b9u, k1 += 0xbb67ae85u) {
    const WideProduct p0 = multiply_wide(c[0], 0xd2511f53u);
    const WideProduct p1 = multiply_wide(c[2], 0xcd9e8d57u);
    c[0] = p1.high ^ c[1] ^ k0;
    c[1] = p1.low;
    c[2] = p0.high ^ c[3] ^ k1;
    c[3] = p0.low;
  }
  float word[4][width];
  for (int k = 0; k < 4; ++k)
    store(word[k], to_float(reinterpret_cast<IVec>(c[k] >> 8)) * 0x1p-24f);
  for (int l = 0; l < width; ++l)
    for (int k = 0; k < 4; ++k) uniform[4 * l + k] = word[k][l];
}

// y[i] = keep(i) ? x[i] / (1 - rate) : 0
void apply_dropout(float* y, const float* x, int64_t count, float rate, uint64_t seed) {
  static_assert(chunk % philox_block == 0, "chunks start at a counter");
  parallel_for(count, chunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += philox_block) {
      float uniform[philox_block];
      philox(uniform, static_cast<uint64_t>(i) / 4, seed);
      map(
          y + i, std::min<int64_t>(philox_block, end - i),
          [&](Vec v, Vec u) { return select(u >= rate, v / (1.0f - rate), Vec{}); }, x + i,
          static_cast<const float*>(uniform));
    }
  });
}

}  // namespace

void binary_forward(float* y, const float* a, const float* b, const BroadcastShape& s,
                    Binary kind) {
  with_binary(kind, [&](auto op) { broadcast(y, a, b, nullptr, s, forward_run<op.value>); });
}

void binary_backward_da(float* da, const float* dy, const float* a, const float* b,
                        const BroadcastShape& s, Binary kind) {
  with_binary(kind, [&](auto op) { broadcast(da, a, b, dy, s, da_run<op.value>); });
}

void binary_backward_db(float* db, const float* dy, const float* a, const float* b,
                        const BroadcastShape& s, Binary kind) {
  with_binary(kind, [&](auto op) { broadcast(db, a, b, dy, s, db_run<op.value>); });
}

void unary_forward(float* y, const float* x, int64_t count, Unary kind) {
  with_unary(kind, [&](auto op) {
    parallel_map(y, count, [](Vec v) { return apply<decltype(op)::value>(v); }, x);
  });
}

void unary_backward_dx(float* dx, const float* dy, const float* x, int64_t count, Unary kind) {
  with_unary(kind, [&](auto op) {
    parallel_map(
        dx, count, [](Vec g, Vec v) { return apply_dx<decltype(op)::value>(g, v); }, dy, x);
  });
}

void clip_forward(float* y, const float* x, int64_t count, float low, float high) {
  // min and max in this order let NaN through
  parallel_map(y, count, [&](Vec v) { return min(splat(high), max(splat(low), v)); }, x);
}

void clip_backward_dx(float* dx, const float* dy, const float* x, int64_t count, float low,
                      float high) {
  parallel_map(
      dx, count, [&](Vec g, Vec v) { return select((v >= low) & (v <= high), g, Vec{}); }, dy, x);
}

void reduce_sum_forward(float* y, const float* x, int64_t outer, int64_t r, int64_t inner,
                        float scale) {
  reduce<Sum>(y, x, outer, r, inner, scale);
}

void reduce_sum_backward_dx(float* dx, const float* dy, int64_t outer, int64_t r, int64_t inner,
                            float scale) {
  if (inner == 1) {
    parallel_for(outer * r, chunk, [&](int64_t begin, int64_t end) {
      while (begin < end) {
        const int64_t i = begin / r, stop = std::min(end, (i + 1) * r);
        std::fill(dx + begin, dx + stop, scale * dy[i]);
        begin = stop;
      }
    });
    return;
  }
  if (inner == 0) return;
  const int64_t grain = std::max<int64_t>(1, chunk / inner);
  parallel_for(outer * r, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      map(dx + row * inner, inner, [&](Vec v) { return scale * v; }, dy + row / r * inner);
  });
}

void reduce_max_forward(float* y, const float* x, int64_t outer, int64_t r, int64_t inner) {
  reduce<Max>(y, x, outer, r, inner, 1.0f);
}

void reduce_max_backward_dx(float* dx, const float* dy, const float* x, const float* y,
                            int64_t outer, int64_t r, int64_t inner) {
  if (inner == 1) {
    const int64_t segment = segment_length(r, 1);
    parallel_for(outer, item_grain(outer, r, 1), [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const float* row = x + i * r;
        const Vec top = splat(y[i]);
        const double count = over_segments(
            r, segment,
            [&](int64_t begin, int64_t end) {
              return sum(end - begin, [&](Vec v) { return count_maximum(v, top); }, row + begin);
            },
            [](double a, double b) { return a + b; });
        const Vec share = splat(static_cast<float>(dy[i] / count));
        parallel_for(r, segment, [&](int64_t begin, int64_t end) {
          map(
              dx + i * r + begin, end - begin,
              [&](Vec v) { return select(is_maximum(v, top), share, Vec{}); }, row + begin);
        });
      }
    });
    return;
  }
  for_column_blocks(outer, r, inner, [&](int64_t i, int64_t j, int64_t cols) {
    const int64_t segment = segment_length(r, cols), from = i * r * inner + j;
    const Columns top = load_columns(y + i * inner + j, cols);
    const Columns count = over_segments(
        r, segment,
        [&](int64_t begin, int64_t end) {
          Columns c{};
          for (int64_t k = begin; k < end; ++k) {
            const Columns v = load_columns(x + from + k * inner, cols);
            for (int u = 0; u < column_vectors; ++u) c.v[u] += count_maximum(v.v[u], top.v[u]);
          }
          return c;
        },
        combine_columns<Sum>);
    Columns share = load_columns(dy + i * inner + j, cols);
    for (int u = 0; u < column_vectors; ++u) share.v[u] /= count.v[u];
    parallel_for(r, segment, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        Columns v = load_columns(x + from + k * inner, cols);
        for (int u = 0; u < column_vectors; ++u)
          v.v[u] = select(is_maximum(v.v[u], top.v[u]), share.v[u], Vec{});
        store_columns(dx + from + k * inner, v, cols);
      }
    });
  });
}

void strided_copy(float* y, const float* x, const CopyShape& shape) {
  for (int d = 0; d < shape.ndim; ++d)
    if (shape.size[d] == 0) return;
  const CopyShape s = simplify(shape);
  CopyAxis axis[max_ndim + 2];  // at least two, the front ones trivial
  int ndim = 2;
  if (s.ndim > 2) ndim = s.ndim;
  for (int d = 0; d < s.ndim; ++d)
    axis[ndim - s.ndim + d] = {s.size[d], s.y_stride[d], s.x_stride[d]};
  // col runs fast through y; row is the axis that runs fast through x, if that is another one
  const CopyAxis col = axis[ndim - 1];
  if (col.x_stride != 1)
    for (int d = 0; d < ndim - 2; ++d)
      if (axis[d].x_stride == 1) std::rotate(axis + d, axis + d + 1, axis + ndim - 1);
  const CopyAxis row = axis[ndim - 2];
  const bool transposes = col.x_stride != 1 && row.x_stride == 1;
  const int64_t tile_cols = transposes ? transposed_cols : std::min(col.size, chunk);
  const int64_t tile_rows =
      transposes ? transposed_rows : std::max<int64_t>(1, std::min(row.size, chunk / tile_cols));
  const int64_t across = chunk_count(col.size, tile_cols), down = chunk_count(row.size, tile_rows);
  int64_t tiles = across * down;
  for (int d = 0; d < ndim - 2; ++d) tiles *= axis[d].size;
  const int64_t grain =
      std::max<int64_t>(1, chunk / (std::min(tile_rows, row.size) * std::min(tile_cols, col.size)));
  parallel_for(tiles, grain, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t j = tile % across * tile_cols, i = tile / across % down * tile_rows;
      int64_t rest = tile / across / down;
      float* to = y + i * row.y_stride + j * col.y_stride;
      const float* from = x + i * row.x_stride + j * col.x_stride;
      for (int d = ndim - 3; d >= 0; --d) {
        to += rest % axis[d].size * axis[d].y_stride;
        from += rest % axis[d].size * axis[d].x_stride;
        rest /= axis[d].size;
      }
      copy_tile(to, from, {std::min(tile_rows, row.size - i), row.y_stride, row.x_stride},
                {std::min(tile_cols, col.size - j), col.y_stride, col.x_stride});
    }
  });
}

void dropout_forward(float* y, const float* x, int64_t count, float rate, uint64_t seed) {
  apply_dropout(y, x, count, rate, seed);
}

void dropout_backward_dx(float* dx, const float* dy, int64_t count, float rate, uint64_t seed) {
  apply_dropout(dx, dy, count, rate, seed);
}

}  // namespace tilegrad
