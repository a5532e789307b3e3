#include "../ops/softmax.h"

#include "bind.h"

namespace tilegrad {
namespace {

using RowsForward = void (*)(float*, const float*, int64_t, int64_t);
using RowsBackward = void (*)(float*, const float*, const float*, int64_t, int64_t);

// y, x (rows, cols), cols >= 1
void rows_forward(const char* op, RowsForward kernel, py::handle y_, py::handle x_) {
  const Arguments a(op);
  const auto y = a.out<float>(y_, "y", 2);
  const auto x = a.in<float>(x_, "x", 2);
  TG_CHECK(x[1] > 0, op, "expected at least one column, got shape ", shape_text(x.shape, 2));
  a.expect_same(y, "y", x);
  run([=] { kernel(y.data, x.data, x[0], x[1]); });
}

// dx, dy, y (rows, cols)
void rows_backward(const char* op, RowsBackward kernel, py::handle dx_, py::handle dy_,
                   py::handle y_) {
  const Arguments a(op);
  const auto dx = a.out<float>(dx_, "dx", 2);
  const auto dy = a.in<float>(dy_, "dy", 2);
  const auto y = a.in<float>(y_, "y", 2);
  TG_CHECK(y[1] > 0, op, "expected at least one column, got shape ", shape_text(y.shape, 2));
  a.expect_same(dx, "dx", y);
  a.expect_same(dy, "dy", y);
  run([=] { kernel(dx.data, dy.data, y.data, y[0], y[1]); });
}

// Target is int32_t for labels (rows) and float for distributions (rows, cols).
template <class Target>
View<const Target> targets(const Arguments& a, py::handle t_, const View<const float>& like) {
  constexpr bool sparse = std::is_same_v<Target, int32_t>;
  const auto t = a.in<Target>(t_, sparse ? "labels" : "t", sparse ? 1 : 2);
  if (sparse) {
    a.expect(t, "labels", {like[0]});
  } else {
    a.expect_same(t, "t", like);
  }
  return t;
}

template <class Target, class Kernel>
void cross_entropy_forward(const char* op, Kernel kernel, py::handle loss_, py::handle losses_,
                           py::handle p_, py::handle x_, py::handle t_, py::handle weight_,
                           float scale) {
  const Arguments a(op);
  const auto loss = a.out<float>(loss_, "loss", 1);
  const auto losses = a.out<float>(losses_, "losses", 1);
  const auto p = a.out<float>(p_, "p", 2);
  const auto x = a.in<float>(x_, "x", 2);
  const auto t = targets<Target>(a, t_, x);
  const auto weight = a.optional<float>(weight_, "weight", 1);
  TG_CHECK(x[1] > 0, op, "expected at least one class, got shape ", shape_text(x.shape, 2));
  a.expect(loss, "loss", {1});
  a.expect(losses, "losses", {x[0]});
  a.expect_same(p, "p", x);
  if (!weight_.is_none()) a.expect(weight, "weight", {x[0]});
  run([=] {
    kernel(loss.data, losses.data, p.data, x.data, t.data, weight.data, x[0], x[1], scale);
  });
}

template <class Target, class Kernel>
void cross_entropy_backward(const char* op, Kernel kernel, py::handle dx_, py::handle dlosses_,
                            py::handle p_, py::handle t_) {
  const Arguments a(op);
  const auto dx = a.out<float>(dx_, "dx", 2);
  const auto dlosses = a.in<float>(dlosses_, "dlosses", 1);
  const auto p = a.in<float>(p_, "p", 2);
  const auto t = targets<Target>(a, t_, p);
  TG_CHECK(p[1] > 0, op, "expected at least one class, got shape ", shape_text(p.shape, 2));
  a.expect_same(dx, "dx", p);
  a.expect(dlosses, "dlosses", {p[0]});
  run([=] { kernel(dx.data, dlosses.data, p.data, t.data, p[0], p[1]); });
}

}  // namespace

void bind_softmax(py::module_& m) {
  m.def("softmax_forward",
        [](py::handle y, py::handle x) { rows_forward("softmax_forward", softmax_forward, y, x); });
  m.def("log_softmax_forward", [](py::handle y, py::handle x) {
    rows_forward("log_softmax_forward", log_softmax_forward, y, x);
  });
  m.def("softmax_backward_dx", [](py::handle dx, py::handle dy, py::handle y) {
    rows_backward("softmax_backward_dx", softmax_backward_dx, dx, dy, y);
  });
  m.def("log_softmax_backward_dx", [](py::handle dx, py::handle dy, py::handle y) {
    rows_backward("log_softmax_backward_dx", log_softmax_backward_dx, dx, dy, y);
  });
  m.def("softmax_cross_entropy_sparse_forward",
        [](py::handle loss, py::handle losses, py::handle p, py::handle x, py::handle labels,
           py::handle weight, float scale) {
          cross_entropy_forward<int32_t>("softmax_cross_entropy_sparse_forward",
                                         softmax_cross_entropy_sparse_forward, loss, losses, p, x,
                                         labels, weight, scale);
        });
  m.def("softmax_cross_entropy_dense_forward",
        [](py::handle loss, py::handle losses, py::handle p, py::handle x, py::handle t,
           py::handle weight, float scale) {
          cross_entropy_forward<float>("softmax_cross_entropy_dense_forward",
                                       softmax_cross_entropy_dense_forward, loss, losses, p, x, t,
                                       weight, scale);
        });
  m.def("softmax_cross_entropy_sparse_backward_dx",
        [](py::handle dx, py::handle dlosses, py::handle p, py::handle labels) {
          cross_entropy_backward<int32_t>("softmax_cross_entropy_sparse_backward_dx",
                                          softmax_cross_entropy_sparse_backward_dx, dx, dlosses, p,
                                          labels);
        });
  m.def("softmax_cross_entropy_dense_backward_dx",
        [](py::handle dx, py::handle dlosses, py::handle p, py::handle t) {
          cross_entropy_backward<float>("softmax_cross_entropy_dense_backward_dx",
                                        softmax_cross_entropy_dense_backward_dx, dx, dlosses, p, t);
        });
}

}  // namespace tilegrad
