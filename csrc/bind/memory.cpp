// Arrays of pooled memory.
#include <algorithm>

#include "bind.h"

namespace tilegrad {
namespace {

constexpr int max_axes = 32;

// An uninitialised C-contiguous array of pooled memory, which returns to the pool when NumPy lets go
// of it. NumPy's own functions, since pybind11's would first make vectors of shape and strides.
py::object pooled_array(const char* op, const py::dtype& dtype, int ndim, const int64_t* shape) {
  const char kind = dtype.kind();
  TG_CHECK(kind == 'f' || kind == 'i' || kind == 'u' || kind == 'b', op,
           "expected a dtype of plain numbers, got ", std::string(py::str(dtype)));
  int64_t bytes = dtype.itemsize();
  bool none = false;
  for (int i = 0; i < ndim; ++i) {
    TG_CHECK(shape[i] >= 0, op, "expected sizes >= 0, got ", shape[i]);
    none = none || shape[i] == 0;
    // the strides must fit too, also where there is no element
    if (__builtin_mul_overflow(bytes, std::max<int64_t>(shape[i], 1), &bytes)) {
      throw std::bad_alloc();
    }
  }
  using Api = py::detail::npy_api;
  Api& numpy = Api::get();
  void* const block = pool_take(none ? 0 : static_cast<size_t>(bytes));
  PyObject* const owner = PyCapsule_New(
      block, nullptr, [](PyObject* capsule) { pool_give(PyCapsule_GetPointer(capsule, nullptr)); });
  if (owner == nullptr) {
    pool_give(block);
    throw py::error_already_set();
  }
  constexpr int flags =
      Api::NPY_ARRAY_C_CONTIGUOUS_ | Api::NPY_ARRAY_ALIGNED_ | Api::NPY_ARRAY_WRITEABLE_;
  static_assert(sizeof(Py_intptr_t) == sizeof(int64_t), "64-bit platforms only");
  auto array = py::reinterpret_steal<py::object>(numpy.PyArray_NewFromDescr_(
      numpy.PyArray_Type_, dtype.inc_ref().ptr(), ndim, reinterpret_cast<const Py_intptr_t*>(shape),
      nullptr, block, flags, nullptr));
  if (!array) {
    Py_DECREF(owner);
    throw py::error_already_set();
  }
  if (numpy.PyArray_SetBaseObject_(array.ptr(), owner) < 0) throw py::error_already_set();
  return array;
}

py::object empty(const py::handle& shape_, const py::object& dtype_) {
  const py::dtype dtype = py::isinstance<py::dtype>(dtype_)
                              ? py::reinterpret_borrow<py::dtype>(dtype_)
                              : py::dtype::from_args(dtype_);
  const auto sizes = py::reinterpret_steal<py::tuple>(PySequence_Tuple(shape_.ptr()));
  if (!sizes) throw py::error_already_set();
  TG_CHECK(sizes.size() <= max_axes, "empty", "expected at most 32 axes, got ", sizes.size());
  int64_t shape[max_axes];
  int ndim = 0;
  for (const py::handle size : sizes) shape[ndim++] = to_integer(size);
  return pooled_array("empty", dtype, ndim, shape);
}

py::object empty_like(const py::array& array) {
  int64_t shape[max_axes];
  const int ndim = static_cast<int>(array.ndim());
  TG_CHECK(ndim <= max_axes, "empty_like", "expected at most 32 axes, got ", ndim);
  std::copy_n(array.shape(), ndim, shape);
  return pooled_array("empty_like", array.dtype(), ndim, shape);
}

}  // namespace

void bind_memory(py::module_& m) {
  m.def("empty", empty);
  m.def("empty_like", empty_like, "An array of the shape and dtype of another");
  m.def("pool_trim", pool_trim);
  m.def(
      "pool_bytes",
      [] {
        const PoolBytes bytes = pool_bytes();
        return py::make_tuple(bytes.held, bytes.in_use, bytes.peak);
      },
      "Bytes of the pool's blocks: all, in use, and the most in use since this was last called");
}

}  // namespace tilegrad
