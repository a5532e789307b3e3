// What Python hands over: NumPy arrays, or CUDA's, seen as a typed pointer and a shape once they are
// proved safe to touch.
#pragma once
#include <pybind11/numpy.h>

#include "border.h"
#include "cuda_array.h"
#include "plan.h"

namespace tilegrad {

template <class T>
struct View {
  T* data = nullptr;
  int ndim = 0;
  int64_t shape[max_rank] = {};  // a copy: another thread may reshape the array during the call
  int64_t size = 0;

  int64_t operator[](int axis) const { return shape[axis]; }
};

// The arguments of one call of `op`. Every accessor raises TypeError or ValueError unless the
// argument is an array of this module's memory (border.h) of exactly dtype T, native byte order,
// C-contiguous and aligned, of rank `ndim` (-1: any up to max_rank).
class Arguments {
 public:
  explicit Arguments(const char* op) : op(op) {
    if (border.observer) border.observer->begin(op);
  }

  template <class T>
  View<const T> in(py::handle h, const char* name, int ndim) const {
    return view<const T>(h, name, ndim);
  }

  template <class T>
  View<const T> optional(py::handle h, const char* name, int ndim) const {
    return h.is_none() ? View<const T>{} : view<const T>(h, name, ndim);
  }

  // Also refuses read-only memory.
  template <class T>
  View<T> out(py::handle h, const char* name, int ndim) const {
    return view<T>(h, name, ndim);
  }

  // A NumPy array, whatever this module's memory: numbers that are read before the kernel runs.
  template <class T>
  View<const T> host(py::handle h, const char* name, int ndim) const {
    return numpy_view<const T>(h, name, ndim);
  }

  template <class T>
  void expect(const View<T>& v, const char* name, std::initializer_list<int64_t> shape) const {
    bool same = v.ndim == static_cast<int>(shape.size());
    for (int i = 0; same && i < v.ndim; ++i) same = v.shape[i] == shape.begin()[i];
    TG_CHECK(same, op, "expected ", name, " of shape ",
             shape_text(shape.begin(), static_cast<int>(shape.size())), ", got ",
             shape_text(v.shape, v.ndim));
  }

  template <class T, class U>
  void expect_same(const View<T>& v, const char* name, const View<U>& like) const {
    bool same = v.ndim == like.ndim;
    for (int i = 0; same && i < v.ndim; ++i) same = v.shape[i] == like.shape[i];
    TG_CHECK(same, op, "expected ", name, " of shape ", shape_text(like.shape, like.ndim), ", got ",
             shape_text(v.shape, v.ndim));
  }

  const char* op;

 private:
  template <class T>
  View<T> view(py::handle h, const char* name, int ndim) const {
    const View<T> v = border.numpy && (!border.cuda || py::isinstance<py::array>(h))
                          ? numpy_view<T>(h, name, ndim)
                          : cuda_view<T>(h, name, ndim);
    if (Plan* plan = recording()) plan->keep(h, v.data);
    if (border.observer) {
      border.observer->array(v.data, v.size * static_cast<int64_t>(sizeof(T)), name,
                             !std::is_const_v<T>);
    }
    return v;
  }

  template <class T>
  View<T> numpy_view(py::handle h, const char* name, int ndim) const {
    using Element = std::remove_const_t<T>;
    if (!py::isinstance<py::array>(h)) {
      throw py::type_error(std::string(op) + ": expected " + name + " to be a NumPy array, got " +
                           py::cast<std::string>(py::type::of(h).attr("__name__")));
    }
    const auto* array = py::detail::array_proxy(h.ptr());
    static PyObject* const expected =
        py::dtype::of<Element>().release().ptr();  // lives as long as NumPy
    if (array->descr != expected && !py::reinterpret_borrow<py::dtype>(array->descr)
                                         .equal(py::reinterpret_borrow<py::dtype>(expected))) {
      throw py::type_error(std::string(op) + ": expected " + name + " of dtype " +
                           py::cast<std::string>(py::str(py::handle(expected))) + ", got " +
                           py::cast<std::string>(py::str(py::handle(array->descr))));
    }
    constexpr int needed =
        py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    TG_CHECK((array->flags & needed) == needed, op, "expected ", name,
             " to be C-contiguous and aligned; make a copy with numpy.ascontiguousarray");
    static_assert(sizeof(py::ssize_t) == sizeof(int64_t), "64-bit platforms only");
    const auto* shape = reinterpret_cast<const int64_t*>(array->dimensions);
    return shaped(reinterpret_cast<T*>(array->data), array->nd, shape,
                  array->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_, name, ndim);
  }

  template <class T>
  View<T> cuda_view(py::handle h, const char* name, int ndim) const {
    using Element = std::remove_const_t<T>;
    constexpr char kind = std::is_floating_point_v<Element> ? 'f'
                          : std::is_signed_v<Element>       ? 'i'
                                                            : 'u';
    constexpr char typestr[] = {sizeof(T) == 1 ? '|' : '<', kind, '0' + sizeof(T), 0};
    const CudaArray array = read_cuda_array(op, name, h, typestr);
    return shaped(static_cast<T*>(array.data), array.ndim, array.shape, array.writable, name, ndim);
  }

  template <class T>
  View<T> shaped(T* data, int found, const int64_t* shape, bool writable, const char* name,
                 int ndim) const {
    if (ndim >= 0) {
      TG_CHECK(found == ndim, op, "expected ", name, " of rank ", ndim, ", got shape ",
               shape_text(shape, found));
    } else {
      TG_CHECK(found <= max_rank, op, "expected ", name, " of rank ", max_rank,
               " or less, got rank ", found);
    }
    if (!std::is_const_v<T>) {
      TG_CHECK(writable, op, "expected a writable ", name, ", got a read-only array");
    }
    View<T> v{data, found, {}, 1};
    for (int i = 0; i < v.ndim; ++i) v.size *= v.shape[i] = shape[i];
    return v;
  }
};

}  // namespace tilegrad
