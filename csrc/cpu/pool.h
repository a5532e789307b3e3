// Vectors of channels, and max pooling row by row: for pool.cpp and for conv_pool.cpp.
#pragma once
#include <algorithm>
#include <type_traits>

#include "../ops/pool.h"
#include "simd.h"

namespace tilegrad {

// the part [begin, end) of a window's taps that lies inside [low, high) of the axis
struct TapSpan {
  int64_t begin, end;
};

inline TapSpan clip_taps(int64_t first, int64_t k, int64_t low, int64_t high) {
  return {std::max<int64_t>(0, low - first), std::min(k, high - first)};
}

// a vector of `count` channels; count == width is the plain access
template <bool full>
TILEGRAD_INLINE Vec load_channels(const float* p, int64_t count) {
  return full ? load(p) : load_partial(p, count);
}

template <bool full>
TILEGRAD_INLINE void store_channels(float* p, Vec v, int64_t count) {
  full ? store(p, v) : store_partial(p, v, count);
}

TILEGRAD_INLINE void store_index(uint8_t* p, IVec v, int64_t count) { store_bytes(p, v, count); }
TILEGRAD_INLINE void store_index(int32_t* p, IVec v, int64_t count) {
  std::memcpy(p, &v, 4 * count);
}

TILEGRAD_INLINE IVec load_index(const uint8_t* p, int64_t count) { return load_bytes(p, count); }
TILEGRAD_INLINE IVec load_index(const int32_t* p, int64_t count) {
  IVec v{};
  std::memcpy(&v, p, 4 * count);
  return v;
}

// fn(channel, count, full) for vectors of channels, `full` a compile-time bool
template <class F>
TILEGRAD_INLINE void for_channels(int64_t c, F fn) {
  int64_t k = 0;
  for (; k + width <= c; k += width) fn(k, int64_t{width}, std::true_type{});
  if (k < c) fn(k, c - k, std::false_type{});
}

// The maximum over a window so far, and its place. A later element wins by being greater or the first
// NaN.
struct Maximum {
  Vec best;
  IVec place;

  TILEGRAD_INLINE void add(Maximum later) {
    const IVec wins = ~(later.best <= best) & (best == best);
    best = select(wins, later.best, best);
    place = select(wins, later.place, place);
  }

  // With relu: no place where nothing is above 0. NaN stays.
  TILEGRAD_INLINE void close(int32_t closed) {
    place = select(best > 0.0f, place, splat_int(closed));
    best = max(Vec{}, best);
  }
};

// Output rows [begin, end) of one image: y and index point at row `begin`, x at input row `top`.
// With `relu` y = max(0, maximum), and the index is 255 where that is not above 0.
void max_pool2d_rows(float* y, uint8_t* index, const float* x, int64_t top, const Pool2dShape& s,
                     int64_t begin, int64_t end, bool relu);

}  // namespace tilegrad
