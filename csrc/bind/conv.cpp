#include "geometry.h"

namespace tilegrad {

void bind_conv(py::module_& m) {
  m.def("conv2d_forward",
        [](py::handle y_, py::handle x_, py::handle w_, py::handle b_, Integer stride_h,
           Integer stride_w, Integer pad_top, Integer pad_left, Integer dilation_h,
           Integer dilation_w, Integer groups, Integer activation, float alpha) {
          const Arguments a("conv2d_forward");
          const auto y = a.out<float>(y_, "y", 4);
          const auto x = a.in<float>(x_, "x", 4);
          const auto w = a.in<float>(w_, "w", 4);
          const auto b = a.optional<float>(b_, "b", 1);
          const auto s = conv2d_shape(
              a, x, w, y, {stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups});
          if (!b_.is_none()) a.expect(b, "b", {s.f});
          const auto act = activation_kind(a.op, activation, Activation::elu);
          run(conv2d_forward_workspace(s),
              [=](void* ws) { conv2d_forward(y.data, x.data, w.data, b.data, s, act, alpha, ws); });
        });
  m.def("conv2d_plan", [](py::handle y_, py::handle x_, py::handle w_, Integer stride_h,
                          Integer stride_w, Integer pad_top, Integer pad_left, Integer dilation_h,
                          Integer dilation_w, Integer groups) {
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
  m.def("conv2d_backward_dx", [](py::handle dx_, py::handle dy_, py::handle w_, Integer stride_h,
                                 Integer stride_w, Integer pad_top, Integer pad_left,
                                 Integer dilation_h, Integer dilation_w, Integer groups) {
    const Arguments a("conv2d_backward_dx");
    const auto dx = a.out<float>(dx_, "dx", 4);
    const auto dy = a.in<float>(dy_, "dy", 4);
    const auto w = a.in<float>(w_, "w", 4);
    const auto s = conv2d_shape(
        a, dx, w, dy, {stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups});
    run(conv2d_backward_dx_workspace(s),
        [=](void* ws) { conv2d_backward_dx(dx.data, dy.data, w.data, s, ws); });
  });
  m.def("conv2d_backward_dw", [](py::handle dw_, py::handle x_, py::handle dy_, Integer stride_h,
                                 Integer stride_w, Integer pad_top, Integer pad_left,
                                 Integer dilation_h, Integer dilation_w, Integer groups) {
    const Arguments a("conv2d_backward_dw");
    const auto dw = a.out<float>(dw_, "dw", 4);
    const auto x = a.in<float>(x_, "x", 4);
    const auto dy = a.in<float>(dy_, "dy", 4);
    const auto s = conv2d_shape(
        a, x, dw, dy, {stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups});
    run(conv2d_backward_dw_workspace(s),
        [=](void* ws) { conv2d_backward_dw(dw.data, x.data, dy.data, s, ws); });
  });
}

}  // namespace tilegrad
