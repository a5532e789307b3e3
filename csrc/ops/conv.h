// 2-D convolution (cross-correlation, as everywhere): grouped, strided, dilated, zero padded.
#pragma once
#include "activation.h"

namespace tilegrad {

// Filter j belongs to group j / (f / groups) and reads that group's c / groups channels; groups ==
// c is depthwise. Output (i, j) reads input row i stride_h + a dilation_h - pad_top for a < kh;
// outside the image is zero, so the padding below and to the right follows from oh and ow.
struct Conv2dShape {
  int64_t n, h, w, c;
  int64_t f, kh, kw;
  int64_t oh, ow;
  int64_t stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
};

// y = act(conv(x, w) + b)            y (n, oh, ow, f)  x (n, h, w, c)  w (kh, kw, c / groups, f)
//                                    b (f) or null; act up to elu
void conv2d_forward(float* y, const float* x, const float* w, const float* b, const Conv2dShape& s,
                    Activation act, float alpha, void* workspace);
int64_t conv2d_forward_workspace(const Conv2dShape& s);

// dx = sum over the windows with x   dx (n, h, w, c)  dy (n, oh, ow, f)  w (kh, kw, c / groups, f)
void conv2d_backward_dx(float* dx, const float* dy, const float* w, const Conv2dShape& s,
                        void* workspace);
int64_t conv2d_backward_dx_workspace(const Conv2dShape& s);

// dw = sum over windows              dw (kh, kw, c / groups, f)  x (n, h, w, c)  dy (n, oh, ow, f)
void conv2d_backward_dw(float* dw, const float* x, const float* dy, const Conv2dShape& s,
                        void* workspace);
int64_t conv2d_backward_dw_workspace(const Conv2dShape& s);

// How conv2d_forward does this shape, in words (algorithm, tile, blocks), for TILEGRAD_DEBUG=3.
void conv2d_plan(char* text, int64_t capacity, const Conv2dShape& s);

}  // namespace tilegrad
