#include "../ops/conv_pool.h"

#include "geometry.h"

namespace tilegrad {
namespace {

// What stands between the arrays and the hyperparameters in both calls.
struct Sizes {
  int64_t conv_h, conv_w;
  ConvGeometry conv;
  PoolGeometry pool;
};

// x (n, h, w, c), w (kh, kw, c, f), y (n, poh, pow, f), whichever of them are gradients.
template <class X, class W, class Y>
ConvPool2dShape conv_pool_shape(const Arguments& a, const X& x, const W& w, const Y& y,
                                const Sizes& g) {
  constexpr int64_t most = INT32_MAX;
  check_range(a.op, "conv_h", g.conv_h, 0, most);
  check_range(a.op, "conv_w", g.conv_w, 0, most);
  const View<const float> image{nullptr, 4, {x[0], g.conv_h, g.conv_w, w[3]}, 0};
  const ConvPool2dShape s{conv2d_shape(a, x, w, image, g.conv), pool2d_shape(a, image, y, g.pool)};
  const Pool2dShape& p = s.pool;
  TG_CHECK(p.kh * p.kw <= 255, a.op, "expected windows of at most 255 pixels, got ", p.kh, " x ",
           p.kw);
  TG_CHECK(p.h + p.pad_top < (p.oh + 1) * p.kh && p.w + p.pad_left < (p.ow + 1) * p.kw, a.op,
           "expected y with all windows that fit into ", p.h, " x ", p.w, ", got ",
           shape_text(y.shape, 4));
  return s;
}

// Whether a thread's scratch holds the image behind one row of windows.
bool conv_pool_fits(const ConvPool2dShape& s) {
  return s.pool.kh * s.conv.ow * s.conv.f <= conv_pool_scratch;
}

// Whether it holds what one window of the pooling sees of x.
bool conv_pool_dw_fits(const ConvPool2dShape& s) {
  const Conv2dShape& c = s.conv;
  const int64_t rows = (s.pool.kh - 1) * c.stride_h + (c.kh - 1) * c.dilation_h + 1;
  const int64_t pixels = (s.pool.kw - 1) * c.stride_w + (c.kw - 1) * c.dilation_w + 1;
  return s.pool.kh * s.pool.kw * (c.kh * c.kw * c.c + 32) <= conv_pool_scratch &&
         (rows * pixels + 1) * c.c + 32 <= conv_pool_scratch;
}

}  // namespace

void bind_conv_pool(py::module_& m) {
  m.def("conv2d_max_pool2d_forward",
        [](py::handle y_, py::handle index_, py::handle x_, py::handle w_, py::handle b_,
           Integer conv_h, Integer conv_w, Integer stride_h, Integer stride_w, Integer pad_top,
           Integer pad_left, Integer dilation_h, Integer dilation_w, Integer pool_h, Integer pool_w,
           Integer pool_pad_top, Integer pool_pad_left, Integer activation) {
          const Arguments a("conv2d_max_pool2d_forward");
          const auto y = a.out<float>(y_, "y", 4);
          const auto index = a.out<uint8_t>(index_, "index", 4);
          const auto x = a.in<float>(x_, "x", 4);
          const auto w = a.in<float>(w_, "w", 4);
          const auto b = a.optional<float>(b_, "b", 1);
          const auto s =
              conv_pool_shape(a, x, w, y,
                              {conv_h,
                               conv_w,
                               {stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, 1},
                               {pool_h, pool_w, pool_h, pool_w, pool_pad_top, pool_pad_left}});
          TG_CHECK(conv_pool_fits(s), a.op, "expected ", s.pool.kh, " lines of ", s.pool.w, " x ",
                   s.pool.c, " to fit into a thread's scratch");
          a.expect_same(index, "index", y);
          if (!b_.is_none()) a.expect(b, "b", {s.conv.f});
          const auto act = activation_kind(a.op, activation, Activation::relu);
          run(conv2d_max_pool2d_forward_workspace(s), [=](void* ws) {
            conv2d_max_pool2d_forward(y.data, index.data, x.data, w.data, b.data, s, act, ws);
          });
        });
  m.def("conv2d_max_pool2d_backward_dw",
        [](py::handle dw_, py::handle db_, py::handle x_, py::handle dy_, py::handle index_,
           Integer conv_h, Integer conv_w, Integer stride_h, Integer stride_w, Integer pad_top,
           Integer pad_left, Integer dilation_h, Integer dilation_w, Integer pool_h, Integer pool_w,
           Integer pool_pad_top, Integer pool_pad_left) {
          const Arguments a("conv2d_max_pool2d_backward_dw");
          const auto dw = a.out<float>(dw_, "dw", 4);
          const auto db = db_.is_none() ? View<float>{} : a.out<float>(db_, "db", 1);
          const auto x = a.in<float>(x_, "x", 4);
          const auto dy = a.in<float>(dy_, "dy", 4);
          const auto index = a.in<uint8_t>(index_, "index", 4);
          const auto s =
              conv_pool_shape(a, x, dw, dy,
                              {conv_h,
                               conv_w,
                               {stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, 1},
                               {pool_h, pool_w, pool_h, pool_w, pool_pad_top, pool_pad_left}});
          TG_CHECK(conv_pool_dw_fits(s), a.op, "expected what a window of ", s.pool.kh, " x ",
                   s.pool.kw, " sees of x to fit into a thread's scratch");
          a.expect_same(index, "index", dy);
          if (!db_.is_none()) a.expect(db, "db", {s.conv.f});
          run(conv2d_max_pool2d_backward_dw_workspace(s), [=](void* ws) {
            conv2d_max_pool2d_backward_dw(dw.data, db.data, x.data, dy.data, index.data, s, ws);
          });
        });
}

}  // namespace tilegrad
