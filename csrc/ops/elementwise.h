// Elementwise arithmetic with broadcasting, reductions, strided copies, dropout.
#pragma once
#include "glossary.h"

namespace tilegrad {

enum class Binary : int {
  add = 0,
  subtract = 1,
  multiply = 2,
  divide = 3,
  power = 4,
  maximum = 5,
  minimum = 6
};
enum class Unary : int { negative = 0, exp = 1, log = 2, sqrt = 3, absolute = 4, square = 5 };

constexpr int max_ndim = 8;

// y's axes, at least one, after merging what can be merged. A stride of 0 repeats the operand along
// that axis; along the last one it is 0 or 1.
struct BroadcastShape {
  int ndim;
  int64_t size[max_ndim], a_stride[max_ndim], b_stride[max_ndim];
};

// y = a op b                              y (size)  a, b broadcast to size
void binary_forward(float* y, const float* a, const float* b, const BroadcastShape& s, Binary kind);

// da = dy dy/da, db = dy dy/db            da, db, dy (size), not yet summed over the repeated axes
// multiply: dy b, dy a.  divide: dy / b, -dy a / b^2.  maximum, minimum: a tie gives each half.
// power: dy b a^(b - 1) (0 where b is 0), dy a^b log a (0 where a is 0 and b >= 0).
void binary_backward_da(float* da, const float* dy, const float* a, const float* b,
                        const BroadcastShape& s, Binary kind);
void binary_backward_db(float* db, const float* dy, const float* a, const float* b,
                        const BroadcastShape& s, Binary kind);

// y[i] = f(x[i])                          y, x (count)
void unary_forward(float* y, const float* x, int64_t count, Unary kind);

// dx[i] = dy[i] f'(x[i])                  dx, dy, x (count); absolute has slope 0 at 0
void unary_backward_dx(float* dx, const float* dy, const float* x, int64_t count, Unary kind);

// y[i] = min(max(x[i], low), high), NaN stays NaN       y, x (count)
void clip_forward(float* y, const float* x, int64_t count, float low, float high);

// dx[i] = low <= x[i] <= high ? dy[i] : 0               dx, dy, x (count)
void clip_backward_dx(float* dx, const float* dy, const float* x, int64_t count, float low,
                      float high);

// y[i, j] = scale sum_r x[i, r, j]        y (outer, inner)  x (outer, r, inner); 1 / r: mean
void reduce_sum_forward(float* y, const float* x, int64_t outer, int64_t r, int64_t inner,
                        float scale);

// dx[i, r, j] = scale dy[i, j]            dx (outer, r, inner)  dy (outer, inner)
void reduce_sum_backward_dx(float* dx, const float* dy, int64_t outer, int64_t r, int64_t inner,
                            float scale);

// y[i, j] = max_r x[i, r, j], NaN wins    y (outer, inner)  x (outer, r, inner), r >= 1
void reduce_max_forward(float* y, const float* x, int64_t outer, int64_t r, int64_t inner);

// dx = dy shared evenly by the maxima     dx, x (outer, r, inner)  dy, y (outer, inner)
void reduce_max_backward_dx(float* dx, const float* dy, const float* x, const float* y,
                            int64_t outer, int64_t r, int64_t inner);

// y[y_stride . i] = x[x_stride . i] for every index i of size: transpose, slice, concatenate and
// their gradients
struct CopyShape {
  int ndim;
  int64_t size[max_ndim], y_stride[max_ndim], x_stride[max_ndim];
};
void strided_copy(float* y, const float* x, const CopyShape& s);

// y[i] = keep(i) ? x[i] / (1 - rate) : 0  y, x (count), 0 <= rate < 1
// keep(i): word i % 4 of Philox4x32-10 (Salmon et al., SC 2011) with key (seed low, high 32 bits)
// and counter (i / 4 low, high, 0, 0), read as (word >> 8) 2^-24, is >= rate.
void dropout_forward(float* y, const float* x, int64_t count, float rate, uint64_t seed);

// dx[i] = keep(i) ? dy[i] / (1 - rate) : 0              dx, dy (count)
void dropout_backward_dx(float* dx, const float* dy, int64_t count, float rate, uint64_t seed);

}  // namespace tilegrad
