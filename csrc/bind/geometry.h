// The shapes of convolution and pooling, checked, for the bindings of both and of their fusion.
#pragma once
#include "../ops/conv.h"
#include "../ops/pool.h"
#include "bind.h"

namespace tilegrad {

struct ConvGeometry {
  int64_t stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
};

// x (n, h, w, c), w (kh, kw, c / groups, f), y (n, oh, ow, f), whichever of them are gradients.
template <class X, class W, class Y>
Conv2dShape conv2d_shape(const Arguments& a, const X& x, const W& w, const Y& y,
                         const ConvGeometry& g) {
  constexpr int64_t most = INT32_MAX;
  check_range(a.op, "stride_h", g.stride_h, 1, most);
  check_range(a.op, "stride_w", g.stride_w, 1, most);
  check_range(a.op, "dilation_h", g.dilation_h, 1, most);
  check_range(a.op, "dilation_w", g.dilation_w, 1, most);
  check_range(a.op, "pad_top", g.pad_top, 0, most);
  check_range(a.op, "pad_left", g.pad_left, 0, most);
  check_range(a.op, "groups", g.groups, 1, most);
  TG_CHECK(w.size > 0, a.op, "expected w without an empty axis, got ", shape_text(w.shape, 4));
  TG_CHECK(x[3] % g.groups == 0 && w[2] == x[3] / g.groups && w[3] % g.groups == 0, a.op,
           "expected w of shape (kh, kw, ", x[3], " / ", g.groups, ", a multiple of ", g.groups,
           "), got ", shape_text(w.shape, 4));
  TG_CHECK(y[0] == x[0] && y[3] == w[3], a.op, "expected y of shape (", x[0], ", oh, ow, ", w[3],
           "), got ", shape_text(y.shape, 4));
  for (int axis = 0; axis < 4; ++axis) {
    TG_CHECK(x[axis] <= most && w[axis] <= most && y[axis] <= most, a.op, "an axis is longer than ",
             most);
  }
  return {x[0],       x[1],         x[2],         x[3],       w[3],       w[0],
          w[1],       y[1],         y[2],         g.stride_h, g.stride_w, g.pad_top,
          g.pad_left, g.dilation_h, g.dilation_w, g.groups};
}

struct PoolGeometry {
  int64_t kh, kw, stride_h, stride_w, pad_top, pad_left;
};

// x (n, h, w, c), y (n, oh, ow, c), whichever of them are gradients. Every window must touch the
// image.
template <class X, class Y>
Pool2dShape pool2d_shape(const Arguments& a, const X& x, const Y& y, const PoolGeometry& p) {
  constexpr int64_t most = INT32_MAX;
  check_range(a.op, "kh", p.kh, 1, most);
  check_range(a.op, "kw", p.kw, 1, most);
  check_range(a.op, "kh * kw", p.kh * p.kw, 1, most);
  check_range(a.op, "stride_h", p.stride_h, 1, most);
  check_range(a.op, "stride_w", p.stride_w, 1, most);
  check_range(a.op, "pad_top", p.pad_top, 0, p.kh - 1);
  check_range(a.op, "pad_left", p.pad_left, 0, p.kw - 1);
  TG_CHECK(y[0] == x[0] && y[3] == x[3], a.op, "expected y of shape (", x[0], ", oh, ow, ", x[3],
           "), got ", shape_text(y.shape, 4));
  for (int axis = 0; axis < 4; ++axis) {
    TG_CHECK(x[axis] <= most && y[axis] <= most, a.op, "an axis is longer than ", most);
  }
  TG_CHECK(y[1] == 0 || (x[1] > 0 && (y[1] - 1) * p.stride_h - p.pad_top < x[1]), a.op,
           "oh = ", y[1], " puts the last window below the image of height ", x[1]);
  TG_CHECK(y[2] == 0 || (x[2] > 0 && (y[2] - 1) * p.stride_w - p.pad_left < x[2]), a.op,
           "ow = ", y[2], " puts the last window right of the image of width ", x[2]);
  return {x[0], x[1], x[2],       x[3],       y[1],      y[2],
          p.kh, p.kw, p.stride_h, p.stride_w, p.pad_top, p.pad_left};
}

}  // namespace tilegrad
