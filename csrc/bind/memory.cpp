// Arrays of pooled memory.
#include <algorithm>

#include "bind.h"

namespace tilegrad {
namespace {

constexpr int max_axes = 32;

// An uninitialised C-contiguous array whose memory returns to the pool when NumPy lets go of it.
py::array empty(const py::handle& shape_, const py::object& dtype_) {
  const py::dtype dtype = py::isinstance<py::dtype>(dtype_)
                              ? py::reinterpret_borrow<py::dtype>(dtype_)
                              : py::dtype::from_args(dtype_);
  const char kind = dtype.kind();
  TG_CHECK(kind == 'f' || kind == 'i' || kind == 'u' || kind == 'b', "empty",
           "expected a dtype of plain numbers, got ", std::string(py::str(dtype)));
  int64_t shape[max_axes];
  int ndim = 0;
  int64_t bytes = dtype.itemsize();
  bool none = false;
  const auto sizes = py::reinterpret_steal<py::tuple>(PySequence_Tuple(shape_.ptr()));
  if (!sizes) throw py::error_already_set();
  TG_CHECK(sizes.size() <= max_axes, "empty", "expected at most 32 axes, got ", sizes.size());
  for (const py::handle size : sizes) {
    shape[ndim] = to_integer(size);
    TG_CHECK(shape[ndim] >= 0, "empty", "expected sizes >= 0, got ", shape[ndim]);
    none = none || shape[ndim] == 0;
    // the strides must fit too, also where there is no element
    if (__builtin_mul_overflow(bytes, std::max<int64_t>(shape[ndim], 1), &bytes)) {
      throw std::bad_alloc();
    }
    ++ndim;
  }
  void* block = pool_take(none ? 0 : static_cast<size_t>(bytes));
  py::capsule owner(block, [](void* p) { pool_give(p); });
  return py::array(dtype, std::vector<py::ssize_t>(shape, shape + ndim), {}, block, owner);
}

}  // namespace

void bind_memory(py::module_& m) {
  m.def("empty", empty);
  m.def("pool_trim", pool_trim);
}

}  // namespace tilegrad
