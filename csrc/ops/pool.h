// 2-D pooling over any window, stride and padding, overlapping or not.
#pragma once
#include "glossary.h"

namespace tilegrad {

// Window (i, j) covers input rows i stride_h - pad_top + [0, kh), clipped to the image; pad < k, so
// none is empty.
struct Pool2dShape {
  int64_t n, h, w, c;
  int64_t oh, ow, kh, kw;
  int64_t stride_h, stride_w, pad_top, pad_left;
};

// y = max over the window, NaN wins       y, index (n, oh, ow, c)  x (n, h, w, c)
// index = a kw + b, the first maximum's place in its window: uint8 where kh kw <= 256, else int32
void max_pool2d_forward(float* y, uint8_t* index, const float* x, const Pool2dShape& s);
void max_pool2d_forward(float* y, int32_t* index, const float* x, const Pool2dShape& s);

// dx = dy where index says, summed        dx (n, h, w, c)  dy, index (n, oh, ow, c)
void max_pool2d_backward_dx(float* dx, const float* dy, const uint8_t* index, const Pool2dShape& s);
void max_pool2d_backward_dx(float* dx, const float* dy, const int32_t* index, const Pool2dShape& s);

// y = mean over the window's part inside the image      y (n, oh, ow, c)  x (n, h, w, c)
void avg_pool2d_forward(float* y, const float* x, const Pool2dShape& s);

// dx = dy / count, summed over the windows that read x  dx (n, h, w, c)  dy (n, oh, ow, c)
void avg_pool2d_backward_dx(float* dx, const float* dy, const Pool2dShape& s);

// y = mean over all rows                  y (n, c)  x (n, rows, c), rows = h w
void global_avg_pool2d_forward(float* y, const float* x, int64_t n, int64_t rows, int64_t c);

// dx[i, r] = dy[i] / rows                 dx (n, rows, c)  dy (n, c)
void global_avg_pool2d_backward_dx(float* dx, const float* dy, int64_t n, int64_t rows, int64_t c);

}  // namespace tilegrad
