#include "geometry.h"

namespace tilegrad {
namespace {

// Calls body with the index array as uint8 where the window allows, else as int32.
template <class Body>
void with_index(const PoolGeometry& p, Body&& body) {
  if (p.kh * p.kw <= 256) {
    body(uint8_t{});
  } else {
    body(int32_t{});
  }
}

}  // namespace

void bind_pool(py::module_& m) {
  m.def("max_pool2d_forward",
        [](py::handle y_, py::handle index_, py::handle x_, Integer kh, Integer kw,
           Integer stride_h, Integer stride_w, Integer pad_top, Integer pad_left) {
          const Arguments a("max_pool2d_forward");
          const PoolGeometry p{kh, kw, stride_h, stride_w, pad_top, pad_left};
          const auto y = a.out<float>(y_, "y", 4);
          const auto x = a.in<float>(x_, "x", 4);
          const auto s = pool2d_shape(a, x, y, p);
          with_index(p, [&](auto type) {
            const auto index = a.out<decltype(type)>(index_, "index", 4);
            a.expect_same(index, "index", y);
            run([=] { max_pool2d_forward(y.data, index.data, x.data, s); });
          });
        });
  m.def("max_pool2d_backward_dx",
        [](py::handle dx_, py::handle dy_, py::handle index_, Integer kh, Integer kw,
           Integer stride_h, Integer stride_w, Integer pad_top, Integer pad_left) {
          const Arguments a("max_pool2d_backward_dx");
          const PoolGeometry p{kh, kw, stride_h, stride_w, pad_top, pad_left};
          const auto dx = a.out<float>(dx_, "dx", 4);
          const auto dy = a.in<float>(dy_, "dy", 4);
          const auto s = pool2d_shape(a, dx, dy, p);
          with_index(p, [&](auto type) {
            const auto index = a.in<decltype(type)>(index_, "index", 4);
            a.expect_same(index, "index", dy);
            run([=] { max_pool2d_backward_dx(dx.data, dy.data, index.data, s); });
          });
        });
  m.def("avg_pool2d_forward",
        [](py::handle y_, py::handle x_, Integer kh, Integer kw, Integer stride_h, Integer stride_w,
           Integer pad_top, Integer pad_left) {
          const Arguments a("avg_pool2d_forward");
          const auto y = a.out<float>(y_, "y", 4);
          const auto x = a.in<float>(x_, "x", 4);
          const auto s = pool2d_shape(a, x, y, {kh, kw, stride_h, stride_w, pad_top, pad_left});
          run([=] { avg_pool2d_forward(y.data, x.data, s); });
        });
  m.def("avg_pool2d_backward_dx",
        [](py::handle dx_, py::handle dy_, Integer kh, Integer kw, Integer stride_h,
           Integer stride_w, Integer pad_top, Integer pad_left) {
          const Arguments a("avg_pool2d_backward_dx");
          const auto dx = a.out<float>(dx_, "dx", 4);
          const auto dy = a.in<float>(dy_, "dy", 4);
          const auto s = pool2d_shape(a, dx, dy, {kh, kw, stride_h, stride_w, pad_top, pad_left});
          run([=] { avg_pool2d_backward_dx(dx.data, dy.data, s); });
        });
  m.def("global_avg_pool2d_forward", [](py::handle y_, py::handle x_) {
    const Arguments a("global_avg_pool2d_forward");
    const auto y = a.out<float>(y_, "y", 2);
    const auto x = a.in<float>(x_, "x", 3);
    TG_CHECK(x[1] > 0, a.op, "expected at least one row to average, got shape ",
             shape_text(x.shape, 3));
    a.expect(y, "y", {x[0], x[2]});
    run([=] { global_avg_pool2d_forward(y.data, x.data, x[0], x[1], x[2]); });
  });
  m.def("global_avg_pool2d_backward_dx", [](py::handle dx_, py::handle dy_) {
    const Arguments a("global_avg_pool2d_backward_dx");
    const auto dx = a.out<float>(dx_, "dx", 3);
    const auto dy = a.in<float>(dy_, "dy", 2);
    a.expect(dy, "dy", {dx[0], dx[2]});
    run([=] { global_avg_pool2d_backward_dx(dx.data, dy.data, dx[0], dx[1], dx[2]); });
  });
}

}  // namespace tilegrad
