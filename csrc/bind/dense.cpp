#include "../ops/dense.h"

#include <algorithm>

#include "bind.h"

namespace tilegrad {
namespace {

// The batch of a matmul: a and b hold one matrix per entry, or one for all.
MatmulShape matmul_shape(const Arguments& a, int64_t batch, int64_t a_batch, int64_t b_batch,
                         int64_t m, int64_t k, int64_t n) {
  for (const int64_t given : {a_batch, b_batch}) {
    TG_CHECK(given == batch || given == 1, a.op, "expected operands of 1 or ", batch,
             " matrices, got ", given);
  }
  return {batch, m, k, n, a_batch == 1 ? 0 : m * k, b_batch == 1 ? 0 : k * n};
}

// Matrices (batch, rows, columns); one alone, of rank 2, is a batch of one.
template <class T>
View<T> matrices(const Arguments& a, View<T> v, const char* name) {
  TG_CHECK(v.ndim == 2 || v.ndim == 3, a.op, "expected ", name, " of rank 2 or 3, got shape ",
           shape_text(v.shape, v.ndim));
  if (v.ndim == 2) return {v.data, 3, {1, v[0], v[1]}, v.size};
  return v;
}

// How many rows an array (..., f) has: all its axes but the last are one.
int64_t row_count(const Arguments& a, const View<const float>& v, const char* name) {
  TG_CHECK(v.ndim > 0, a.op, "expected ", name, " of shape (..., f), got a number");
  int64_t rows = 1;
  for (int i = 0; i < v.ndim - 1; ++i) rows *= v.shape[i];
  return rows;
}

}  // namespace

void bind_dense(py::module_& m) {
  m.def("dense_forward", [](py::handle y_, py::handle x_, py::handle w_, py::handle b_,
                            int64_t activation, float alpha) {
    const Arguments a("dense_forward");
    const auto y = a.out<float>(y_, "y", 2);
    const auto x = a.in<float>(x_, "x", 2);
    const auto w = a.in<float>(w_, "w", 2);
    const auto b = a.optional<float>(b_, "b", 1);
    const DenseShape s{x[0], x[1], w[1]};
    a.expect(w, "w", {s.c, s.f});
    a.expect(y, "y", {s.n, s.f});
    if (!b_.is_none()) a.expect(b, "b", {s.f});
    const auto act = activation_kind(a.op, activation, Activation::elu);
    run(dense_forward_workspace(s),
        [=](void* ws) { dense_forward(y.data, x.data, w.data, b.data, s, act, alpha, ws); });
  });
  m.def("dense_plan", [](int64_t n, int64_t c, int64_t f) {
    constexpr int64_t most =
        1 << 20;  // beyond it the plan does not change, and products stay below 2^63
    for (int64_t* size : {&n, &c, &f}) *size = std::clamp<int64_t>(*size, 0, most);
    char text[256] = "";
    dense_plan(text, sizeof text, {n, c, f});
    return std::string(text);
  });
  m.def("dense_backward_dx", [](py::handle dx_, py::handle dy_, py::handle w_) {
    const Arguments a("dense_backward_dx");
    const auto dx = a.out<float>(dx_, "dx", 2);
    const auto dy = a.in<float>(dy_, "dy", 2);
    const auto w = a.in<float>(w_, "w", 2);
    const DenseShape s{dy[0], w[0], w[1]};
    a.expect(dy, "dy", {s.n, s.f});
    a.expect(dx, "dx", {s.n, s.c});
    run(dense_backward_dx_workspace(s),
        [=](void* ws) { dense_backward_dx(dx.data, dy.data, w.data, s, ws); });
  });
  m.def("dense_backward_dw", [](py::handle dw_, py::handle x_, py::handle dy_) {
    const Arguments a("dense_backward_dw");
    const auto dw = a.out<float>(dw_, "dw", 2);
    const auto x = a.in<float>(x_, "x", 2);
    const auto dy = a.in<float>(dy_, "dy", 2);
    const DenseShape s{x[0], x[1], dy[1]};
    a.expect(dy, "dy", {s.n, s.f});
    a.expect(dw, "dw", {s.c, s.f});
    run(dense_backward_dw_workspace(s),
        [=](void* ws) { dense_backward_dw(dw.data, x.data, dy.data, s, ws); });
  });
  m.def("bias_backward_db", [](py::handle db_, py::handle dy_) {
    const Arguments a("bias_backward_db");
    const auto db = a.out<float>(db_, "db", 1);
    const auto dy = a.in<float>(dy_, "dy", -1);
    const int64_t rows = row_count(a, dy, "dy"), f = dy[dy.ndim - 1];
    a.expect(db, "db", {f});
    run(bias_backward_db_workspace(rows, f),
        [=](void* ws) { bias_backward_db(db.data, dy.data, rows, f, ws); });
  });
  m.def("bias_activation_backward_dz", [](py::handle dz_, py::handle db_, py::handle dy_,
                                          py::handle y_, int64_t activation, float alpha) {
    const Arguments a("bias_activation_backward_dz");
    const auto dz = a.out<float>(dz_, "dz", -1);
    const auto db = a.out<float>(db_, "db", 1);
    const auto dy = a.in<float>(dy_, "dy", -1);
    const auto y = a.in<float>(y_, "y", -1);
    const int64_t rows = row_count(a, dy, "dy"), f = dy[dy.ndim - 1];
    a.expect_same(dz, "dz", dy);
    a.expect_same(y, "y", dy);
    a.expect(db, "db", {f});
    const auto act = activation_kind(a.op, activation, Activation::elu);
    run(bias_backward_db_workspace(rows, f), [=](void* ws) {
      bias_activation_backward_dz(dz.data, db.data, dy.data, y.data, rows, f, act, alpha, ws);
    });
  });

  m.def("matmul_forward", [](py::handle y_, py::handle a_, py::handle b_) {
    const Arguments g("matmul_forward");
    const auto y = matrices(g, g.out<float>(y_, "y", -1), "y");
    const auto a = matrices(g, g.in<float>(a_, "a", -1), "a");
    const auto b = matrices(g, g.in<float>(b_, "b", -1), "b");
    const auto s = matmul_shape(g, y[0], a[0], b[0], a[1], a[2], b[2]);
    g.expect(b, "b", {b[0], s.k, s.n});
    g.expect(y, "y", {s.batch, s.m, s.n});
    run(matmul_forward_workspace(s),
        [=](void* ws) { matmul_forward(y.data, a.data, b.data, s, ws); });
  });
  m.def("matmul_backward_da", [](py::handle da_, py::handle dy_, py::handle b_) {
    const Arguments g("matmul_backward_da");
    const auto da = matrices(g, g.out<float>(da_, "da", -1), "da");
    const auto dy = matrices(g, g.in<float>(dy_, "dy", -1), "dy");
    const auto b = matrices(g, g.in<float>(b_, "b", -1), "b");
    const auto s = matmul_shape(g, dy[0], dy[0], b[0], dy[1], b[1], b[2]);
    g.expect(dy, "dy", {s.batch, s.m, s.n});
    g.expect(da, "da", {s.batch, s.m, s.k});
    run(matmul_backward_da_workspace(s),
        [=](void* ws) { matmul_backward_da(da.data, dy.data, b.data, s, ws); });
  });
  m.def("matmul_backward_db", [](py::handle db_, py::handle a_, py::handle dy_) {
    const Arguments g("matmul_backward_db");
    const auto db = matrices(g, g.out<float>(db_, "db", -1), "db");
    const auto a = matrices(g, g.in<float>(a_, "a", -1), "a");
    const auto dy = matrices(g, g.in<float>(dy_, "dy", -1), "dy");
    const auto s = matmul_shape(g, dy[0], a[0], dy[0], a[1], a[2], dy[2]);
    g.expect(dy, "dy", {s.batch, s.m, s.n});
    g.expect(db, "db", {s.batch, s.k, s.n});
    run(matmul_backward_db_workspace(s),
        [=](void* ws) { matmul_backward_db(db.data, a.data, dy.data, s, ws); });
  });
}

}  // namespace tilegrad
