// Convolution, bias, activation and max pooling in one pass, where a network has them in a row.
#pragma once
#include "conv.h"
#include "pool.h"

namespace tilegrad {

// The convolution has one group, and its output is the pooling's image: pool.h = conv.oh and so on.
// The windows of the pooling lie side by side (stride_h = kh, stride_w = kw), no whole one is left
// out, and they have 255 taps at most.
struct ConvPool2dShape {
  Conv2dShape conv;
  Pool2dShape pool;
};

// Numbers that a thread of the CPU's kernels keeps. The image behind one row of windows (forward) or
// what one window sees of x (dw) must fit, on every backend, since Python decides by that
// (ops/conv_pool.py): see csrc/bind/conv_pool.cpp.
constexpr int64_t conv_pool_scratch = int64_t{1} << 16;  // 256 KiB of the stack

// The index of a window whose maximum a relu closed: no tap, so that no gradient passes.
constexpr uint8_t closed_window = 255;

// y = max_pool(act(conv(x, w) + b))     y, index (n, poh, pow, f)  x (n, h, w, c)
//                                       w (kh, kw, c, f)  b (f) or null; act linear or relu
// index: the maximum's place in its window as in pool.h, or closed_window
void conv2d_max_pool2d_forward(float* y, uint8_t* index, const float* x, const float* w,
                               const float* b, const ConvPool2dShape& s, Activation act,
                               void* workspace);
int64_t conv2d_max_pool2d_forward_workspace(const ConvPool2dShape& s);

// dz = dy where index says, else 0; dw = sum over the windows with x, db = sum of dz
// dw (kh, kw, c, f)  db (f) or null  x (n, h, w, c)  dy, index (n, poh, pow, f)
void conv2d_max_pool2d_backward_dw(float* dw, float* db, const float* x, const float* dy,
                                   const uint8_t* index, const ConvPool2dShape& s, void* workspace);
int64_t conv2d_max_pool2d_backward_dw_workspace(const ConvPool2dShape& s);

}  // namespace tilegrad
