#include "../ops/conv.h"

#include "bind.h"

namespace tilegrad {
namespace {

struct Geometry {
  int64_t stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
};

// x (n, h, w, c), w (kh, kw, c / groups, f), y (n, oh, ow, f), whichever of them are gradients.
template <class X, class W, class Y>
Conv2dShape conv2d_shape(const Arguments& a, const X& x, const W& w, const Y& y,
                         const Geometry& g) {
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

}  // namespace

void bind_conv(py::module_& m) {
  m.def("conv2d_forward",
        [](py::handle y_, py::handle x_, py::handle w_, py::handle b_, int64_t stride_h,
           int64_t stride_w, int64_t pad_top, int64_t pad_left, int64_t dilation_h,
           int64_t dilation_w, int64_t groups, int64_t activation, float alpha) {
          const Arguments a("conv2d_forward");
          const auto y = a.out<float>(y_, "y", 4);
          const auto x = a.in<float>(x_, "x", 4);
          const auto w = a.in<float>(w_, "w", 4);
          const auto b = a.optional<float>(b_, "b", 1);
          const auto s = conv2d_shape(
              a, x, w, y, {stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups});
          if (b.data) a.expect(b, "b", {s.f});
          const auto act = activation_kind(a.op, activation, Activation::elu);
          void* ws = workspace(conv2d_forward_workspace(s));
          run([&] { conv2d_forward(y.data, x.data, w.data, b.data, s, act, alpha, ws); });
        });
  m.def("conv2d_plan", [](py::handle y_, py::handle x_, py::handle w_, int64_t stride_h,
                          int64_t stride_w, int64_t pad_top, int64_t pad_left, int64_t dilation_h,
                          int64_t dilation_w, int64_t groups) {
    const Arguments a("conv2d_plan");
    const auto y = a.in<float>(y_, "y", 4);
    const auto x = a.in<float>(x_, "x", 4);
    const auto w = a.in<float>(w_, "w", 4);
    char text[256] = "";
    conv2d_plan(
        text, sizeof text,
        conv2d_shape(a, x, w, y,
                     {stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups}));
    return std::string(text);
  });
  m.def("conv2d_backward_dx", [](py::handle dx_, py::handle dy_, py::handle w_, int64_t stride_h,
                                 int64_t stride_w, int64_t pad_top, int64_t pad_left,
                                 int64_t dilation_h, int64_t dilation_w, int64_t groups) {
    const Arguments a("conv2d_backward_dx");
    const auto dx = a.out<float>(dx_, "dx", 4);
    const auto dy = a.in<float>(dy_, "dy", 4);
    const auto w = a.in<float>(w_, "w", 4);
    const auto s = conv2d_shape(
        a, dx, w, dy, {stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups});
    void* ws = workspace(conv2d_backward_dx_workspace(s));
    run([&] { conv2d_backward_dx(dx.data, dy.data, w.data, s, ws); });
  });
  m.def("conv2d_backward_dw", [](py::handle dw_, py::handle x_, py::handle dy_, int64_t stride_h,
                                 int64_t stride_w, int64_t pad_top, int64_t pad_left,
                                 int64_t dilation_h, int64_t dilation_w, int64_t groups) {
    const Arguments a("conv2d_backward_dw");
    const auto dw = a.out<float>(dw_, "dw", 4);
    const auto x = a.in<float>(x_, "x", 4);
    const auto dy = a.in<float>(dy_, "dy", 4);
    const auto s = conv2d_shape(
        a, x, dw, dy, {stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups});
    void* ws = workspace(conv2d_backward_dw_workspace(s));
    run([&] { conv2d_backward_dw(dw.data, x.data, dy.data, s, ws); });
  });
}

}  // namespace tilegrad
