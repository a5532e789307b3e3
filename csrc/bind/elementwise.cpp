#include "../ops/elementwise.h"

#include "bind.h"

namespace tilegrad {
namespace {

Binary binary_kind(const char* op, int64_t kind) {
  check_range(op, "a binary kind", kind, 0, static_cast<int64_t>(Binary::minimum));
  return static_cast<Binary>(kind);
}

Unary unary_kind(const char* op, int64_t kind) {
  check_range(op, "a unary kind", kind, 0, static_cast<int64_t>(Unary::square));
  return static_cast<Unary>(kind);
}

// Row-major strides of v inside an array of shape like, 0 where v is repeated.
template <class T, class U>
void broadcast_strides(const Arguments& a, int64_t* strides, const View<T>& v, const char* name,
                       const View<U>& like) {
  const int lead = like.ndim - v.ndim;
  bool fits = lead >= 0;
  int64_t step = 1;
  for (int i = like.ndim - 1; i >= 0 && fits; --i) {
    const int64_t size = i >= lead ? v.shape[i - lead] : 1;
    fits = size == 1 || size == like.shape[i];
    strides[i] = size == 1 ? 0 : step;
    step *= size;
  }
  TG_CHECK(fits, a.op, "expected ", name, " to broadcast to ", shape_text(like.shape, like.ndim),
           ", got ", shape_text(v.shape, v.ndim));
}

// Drops axes of size 1 and merges neighbours that both operands walk evenly.
template <class Y>
BroadcastShape broadcast_shape(const Arguments& a, const Y& y, const View<const float>& p,
                               const View<const float>& q) {
  int64_t p_stride[max_ndim], q_stride[max_ndim];
  broadcast_strides(a, p_stride, p, "a", y);
  broadcast_strides(a, q_stride, q, "b", y);
  BroadcastShape s{};
  for (int i = 0; i < y.ndim; ++i) {
    const int64_t size = y.shape[i];
    if (size == 1) continue;
    const int last = s.ndim - 1;
    if (last >= 0 && s.a_stride[last] == p_stride[i] * size &&
        s.b_stride[last] == q_stride[i] * size) {
      s.size[last] *= size;
      s.a_stride[last] = p_stride[i];
      s.b_stride[last] = q_stride[i];
    } else {
      s.size[s.ndim] = size;
      s.a_stride[s.ndim] = p_stride[i];
      s.b_stride[s.ndim] = q_stride[i];
      ++s.ndim;
    }
  }
  if (s.ndim == 0) {
    s.ndim = 1;
    s.size[0] = 1;
  }
  return s;
}

using BinaryBackward = void (*)(float*, const float*, const float*, const float*,
                                const BroadcastShape&, Binary);

// out, dy of the broadcast shape
void binary_backward(const char* op, BinaryBackward kernel, const char* name, py::handle out_,
                     py::handle dy_, py::handle a_, py::handle b_, int64_t kind) {
  const Arguments g(op);
  const auto out = g.out<float>(out_, name, -1);
  const auto dy = g.in<float>(dy_, "dy", -1);
  const auto a = g.in<float>(a_, "a", -1);
  const auto b = g.in<float>(b_, "b", -1);
  g.expect_same(out, name, dy);
  const auto s = broadcast_shape(g, dy, a, b);
  const auto k = binary_kind(op, kind);
  run([=] { kernel(out.data, dy.data, a.data, b.data, s, k); });
}

// One number per axis: a tuple or list of at most max_ndim.
struct Axes {
  int count = 0;
  int64_t value[max_ndim] = {};

  int64_t operator[](int i) const { return value[i]; }
};

Axes axes(const Arguments& a, const char* name, const py::sequence& given) {
  const size_t count = given.size();
  TG_CHECK(count <= max_ndim, a.op, "expected at most ", max_ndim, " axes in ", name, ", got ",
           count);
  Axes result;
  for (; result.count < static_cast<int>(count); ++result.count) {
    result.value[result.count] = to_integer(given[result.count]);
  }
  return result;
}

// Raises unless every element offset + sum of index stride lies in [0, count).
void check_reach(const Arguments& a, const char* name, int64_t count, int64_t offset,
                 const Axes& size, const Axes& strides) {
  int64_t low = offset, high = offset;
  bool fits = true;
  for (int i = 0; i < size.count; ++i) {
    int64_t reach;
    fits = fits && !__builtin_mul_overflow(size[i] - 1, strides[i], &reach) &&
           !__builtin_add_overflow(reach < 0 ? low : high, reach, reach < 0 ? &low : &high);
  }
  TG_CHECK(fits && low >= 0 && high < count, a.op, "the strided part reaches outside ", name,
           " of ", count, " elements");
}

CopyShape copy_shape(const Arguments& a, int64_t y_count, int64_t x_count, const Axes& size,
                     int64_t y_offset, const Axes& y_strides, int64_t x_offset,
                     const Axes& x_strides) {
  TG_CHECK(y_strides.count == size.count && x_strides.count == size.count, a.op,
           "expected size, y_strides and x_strides of one length, got ", size.count, ", ",
           y_strides.count, ", ", x_strides.count);
  CopyShape s{};
  s.ndim = size.count;
  bool empty = false, fits = true;
  int64_t count = 1;
  for (int i = 0; i < s.ndim; ++i) {
    TG_CHECK(size[i] >= 0, a.op, "expected sizes >= 0, got ", size[i]);
    fits = fits && !__builtin_mul_overflow(count, size[i], &count);
    empty = empty || size[i] == 0;
    s.size[i] = size[i];
    s.y_stride[i] = y_strides[i];
    s.x_stride[i] = x_strides[i];
  }
  if (empty) {
    s.ndim = 1;
    s.size[0] = 0;
    return s;
  }
  TG_CHECK(fits && count <= y_count, a.op, "expected at most ", y_count,
           " elements, as many as y has");
  check_reach(a, "y", y_count, y_offset, size, y_strides);
  check_reach(a, "x", x_count, x_offset, size, x_strides);
  if (s.ndim == 0) {
    s.ndim = 1;
    s.size[0] = 1;
  }
  return s;
}

}  // namespace

void bind_elementwise(py::module_& m) {
  m.def("binary_forward", [](py::handle y_, py::handle a_, py::handle b_, int64_t kind) {
    const Arguments g("binary_forward");
    const auto y = g.out<float>(y_, "y", -1);
    const auto a = g.in<float>(a_, "a", -1);
    const auto b = g.in<float>(b_, "b", -1);
    const auto s = broadcast_shape(g, y, a, b);
    const auto k = binary_kind(g.op, kind);
    run([=] { binary_forward(y.data, a.data, b.data, s, k); });
  });
  m.def("binary_backward_da",
        [](py::handle da, py::handle dy, py::handle a, py::handle b, int64_t kind) {
          binary_backward("binary_backward_da", binary_backward_da, "da", da, dy, a, b, kind);
        });
  m.def("binary_backward_db",
        [](py::handle db, py::handle dy, py::handle a, py::handle b, int64_t kind) {
          binary_backward("binary_backward_db", binary_backward_db, "db", db, dy, a, b, kind);
        });
  m.def("unary_forward", [](py::handle y_, py::handle x_, int64_t kind) {
    const Arguments a("unary_forward");
    const auto y = a.out<float>(y_, "y", -1);
    const auto x = a.in<float>(x_, "x", -1);
    a.expect_same(y, "y", x);
    const auto k = unary_kind(a.op, kind);
    run([=] { unary_forward(y.data, x.data, x.size, k); });
  });
  m.def("unary_backward_dx", [](py::handle dx_, py::handle dy_, py::handle x_, int64_t kind) {
    const Arguments a("unary_backward_dx");
    const auto dx = a.out<float>(dx_, "dx", -1);
    const auto dy = a.in<float>(dy_, "dy", -1);
    const auto x = a.in<float>(x_, "x", -1);
    a.expect_same(dx, "dx", x);
    a.expect_same(dy, "dy", x);
    const auto k = unary_kind(a.op, kind);
    run([=] { unary_backward_dx(dx.data, dy.data, x.data, x.size, k); });
  });
  m.def("clip_forward", [](py::handle y_, py::handle x_, float low, float high) {
    const Arguments a("clip_forward");
    const auto y = a.out<float>(y_, "y", -1);
    const auto x = a.in<float>(x_, "x", -1);
    a.expect_same(y, "y", x);
    run([=] { clip_forward(y.data, x.data, x.size, low, high); });
  });
  m.def("clip_backward_dx",
        [](py::handle dx_, py::handle dy_, py::handle x_, float low, float high) {
          const Arguments a("clip_backward_dx");
          const auto dx = a.out<float>(dx_, "dx", -1);
          const auto dy = a.in<float>(dy_, "dy", -1);
          const auto x = a.in<float>(x_, "x", -1);
          a.expect_same(dx, "dx", x);
          a.expect_same(dy, "dy", x);
          run([=] { clip_backward_dx(dx.data, dy.data, x.data, x.size, low, high); });
        });

  m.def("reduce_sum_forward", [](py::handle y_, py::handle x_, float scale) {
    const Arguments a("reduce_sum_forward");
    const auto y = a.out<float>(y_, "y", 2);
    const auto x = a.in<float>(x_, "x", 3);
    a.expect(y, "y", {x[0], x[2]});
    run([=] { reduce_sum_forward(y.data, x.data, x[0], x[1], x[2], scale); });
  });
  m.def("reduce_sum_backward_dx", [](py::handle dx_, py::handle dy_, float scale) {
    const Arguments a("reduce_sum_backward_dx");
    const auto dx = a.out<float>(dx_, "dx", 3);
    const auto dy = a.in<float>(dy_, "dy", 2);
    a.expect(dy, "dy", {dx[0], dx[2]});
    run([=] { reduce_sum_backward_dx(dx.data, dy.data, dx[0], dx[1], dx[2], scale); });
  });
  m.def("reduce_max_forward", [](py::handle y_, py::handle x_) {
    const Arguments a("reduce_max_forward");
    const auto y = a.out<float>(y_, "y", 2);
    const auto x = a.in<float>(x_, "x", 3);
    TG_CHECK(x[1] > 0, a.op, "expected at least one element to reduce, got shape ",
             shape_text(x.shape, 3));
    a.expect(y, "y", {x[0], x[2]});
    run([=] { reduce_max_forward(y.data, x.data, x[0], x[1], x[2]); });
  });
  m.def("reduce_max_backward_dx", [](py::handle dx_, py::handle dy_, py::handle x_, py::handle y_) {
    const Arguments a("reduce_max_backward_dx");
    const auto dx = a.out<float>(dx_, "dx", 3);
    const auto dy = a.in<float>(dy_, "dy", 2);
    const auto x = a.in<float>(x_, "x", 3);
    const auto y = a.in<float>(y_, "y", 2);
    a.expect_same(dx, "dx", x);
    a.expect(dy, "dy", {x[0], x[2]});
    a.expect(y, "y", {x[0], x[2]});
    run([=] { reduce_max_backward_dx(dx.data, dy.data, x.data, y.data, x[0], x[1], x[2]); });
  });

  m.def("strided_copy", [](py::handle y_, py::handle x_, const py::sequence& size_,
                           int64_t y_offset, const py::sequence& y_strides_, int64_t x_offset,
                           const py::sequence& x_strides_) {
    const Arguments a("strided_copy");
    // the sequences come first: their items may run Python code, which may do anything to y and x
    const Axes size = axes(a, "size", size_), y_strides = axes(a, "y_strides", y_strides_);
    const Axes x_strides = axes(a, "x_strides", x_strides_);
    const auto y = a.out<float>(y_, "y", -1);
    const auto x = a.in<float>(x_, "x", -1);
    const auto s = copy_shape(a, y.size, x.size, size, y_offset, y_strides, x_offset, x_strides);
    if (s.size[0] == 0 && s.ndim == 1) return;
    run([=] { strided_copy(y.data + y_offset, x.data + x_offset, s); });
  });

  m.def("dropout_forward", [](py::handle y_, py::handle x_, float rate, py::handle seed_) {
    const Arguments a("dropout_forward");
    const Number<uint64_t> seed(a, seed_, "seed");
    const auto y = a.out<float>(y_, "y", -1);
    const auto x = a.in<float>(x_, "x", -1);
    a.expect_same(y, "y", x);
    TG_CHECK(rate >= 0 && rate < 1, a.op, "expected 0 <= rate < 1, got ", rate);
    run([=] { dropout_forward(y.data, x.data, x.size, rate, seed()); });
  });
  m.def("dropout_backward_dx", [](py::handle dx_, py::handle dy_, float rate, py::handle seed_) {
    const Arguments a("dropout_backward_dx");
    const Number<uint64_t> seed(a, seed_, "seed");
    const auto dx = a.out<float>(dx_, "dx", -1);
    const auto dy = a.in<float>(dy_, "dy", -1);
    a.expect_same(dx, "dx", dy);
    TG_CHECK(rate >= 0 && rate < 1, a.op, "expected 0 <= rate < 1, got ", rate);
    run([=] { dropout_backward_dx(dx.data, dy.data, dy.size, rate, seed()); });
  });
}

}  // namespace tilegrad
