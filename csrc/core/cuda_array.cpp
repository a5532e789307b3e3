#include "cuda_array.h"

namespace tilegrad {
namespace {

std::string type_name(py::handle h) {
  return py::cast<std::string>(py::type::of(h).attr("__name__"));
}

// The entries of one __cuda_array_interface__. Whoever made it may have put anything there.
class Interface {
 public:
  Interface(const char* op, const char* name, py::dict entries)
      : op_(op), name_(name), entries_(std::move(entries)) {}

  // None where there is no such entry. A new reference: what reads it may run Python code, which may
  // change the dict.
  py::object find(const char* key) const {
    const py::str text(key);
    PyObject* const found = PyDict_GetItemWithError(entries_.ptr(), text.ptr());
    if (found == nullptr && PyErr_Occurred()) throw py::error_already_set();
    return py::reinterpret_borrow<py::object>(found == nullptr ? Py_None : found);
  }

  py::tuple find_tuple(const char* key) const {
    const py::object found = find(key);
    if (!py::isinstance<py::tuple>(found)) refuse(key, "a tuple", found);
    return found;
  }

  // An int, or whatever has __index__, from `low` on.
  int64_t integer(const char* key, py::handle value, int64_t low) const {
    const py::int_ number = as_int(key, value);
    int overflow = 0;
    const long long result = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
    TG_CHECK(overflow == 0 && result >= low, op_, "expected the ", key, " of ", name_,
             " to be from ", low, " to 2^63 - 1, got ", std::string(py::str(number)));
    return result;
  }

  void* address(const char* key, py::handle value) const {
    const py::int_ number = as_int(key, value);
    const auto result = static_cast<uintptr_t>(PyLong_AsUnsignedLongLong(number.ptr()));
    if (PyErr_Occurred()) {
      PyErr_Clear();
      fail(op_, "expected the ", key, " of ", name_, " to be an address, got ",
           std::string(py::str(number)));
    }
    return reinterpret_cast<void*>(result);
  }

  [[noreturn]] void refuse(const char* key, const char* expected, py::handle got) const {
    throw py::type_error(std::string(op_) + ": expected the " + key + " of " + name_ +
                         " (__cuda_array_interface__) to be " + expected + ", got " +
                         type_name(got));
  }

 private:
  py::int_ as_int(const char* key, py::handle value) const {
    if (!PyIndex_Check(value.ptr())) refuse(key, "of integers", value);
    const auto number = py::reinterpret_steal<py::int_>(PyNumber_Index(value.ptr()));
    if (!number) throw py::error_already_set();
    return number;
  }

  const char* op_;
  const char* name_;
  py::dict entries_;
};

}  // namespace

CudaArray read_cuda_array(const char* op, const char* name, py::handle h, const char* typestr) {
  static PyObject* const attribute = PyUnicode_InternFromString("__cuda_array_interface__");
  auto found = py::reinterpret_steal<py::object>(PyObject_GetAttr(h.ptr(), attribute));
  if (!found) {
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) throw py::error_already_set();
    PyErr_Clear();
  }
  if (!found || !py::isinstance<py::dict>(found)) {
    throw py::type_error(std::string(op) + ": expected " + name +
                         " to be an array in CUDA memory, such as CuPy's, got " + type_name(h));
  }
  const Interface interface(op, name, std::move(found));

  const py::object type = interface.find("typestr");
  if (!py::isinstance<py::str>(type)) interface.refuse("typestr", "a string", type);
  if (PyUnicode_CompareWithASCIIString(type.ptr(), typestr) != 0) {
    throw py::type_error(std::string(op) + ": expected " + name + " of type " + typestr + ", got " +
                         py::cast<std::string>(py::repr(type)));
  }
  const int64_t itemsize = typestr[2] - '0';
  TG_CHECK(interface.find("mask").is_none(), op, "expected ", name, " without a mask");

  const py::tuple shape = interface.find_tuple("shape");
  TG_CHECK(shape.size() <= max_rank, op, "expected ", name, " of rank ", max_rank,
           " or less, got rank ", shape.size());
  CudaArray a{};
  a.ndim = static_cast<int>(shape.size());
  bool empty = false, fits = true;
  int64_t bytes = itemsize;
  for (int i = 0; i < a.ndim; ++i) {
    a.shape[i] = interface.integer("shape", shape[i], 0);
    empty = empty || a.shape[i] == 0;
    fits = fits && !__builtin_mul_overflow(bytes, a.shape[i], &bytes);
  }
  TG_CHECK(empty || fits, op, "expected ", name, " of less than 2^63 bytes, got shape ",
           shape_text(a.shape, a.ndim));

  const py::tuple data = interface.find_tuple("data");
  TG_CHECK(data.size() == 2, op, "expected the data of ", name,
           " to be an address and whether it is read-only, got ", data.size(), " values");
  a.data = interface.address("data", data[0]);
  TG_CHECK(a.data != nullptr || empty, op, "expected memory of ", name, ", got a null pointer");
  const py::object read_only = data[1];
  if (!py::isinstance<py::bool_>(read_only))
    interface.refuse("data", "an address and a bool", data);
  a.writable = read_only.ptr() == Py_False;

  bool contiguous = reinterpret_cast<uintptr_t>(a.data) % itemsize == 0;
  if (!interface.find("strides").is_none()) {
    const py::tuple strides = interface.find_tuple("strides");
    TG_CHECK(strides.size() == shape.size(), op, "expected ", a.ndim, " strides of ", name,
             ", got ", strides.size());
    int64_t expected = itemsize;
    for (int i = a.ndim - 1; i >= 0; --i) {
      const int64_t stride = interface.integer("strides", strides[i], INT64_MIN);
      // axes of one element, and arrays of none, may have any
      contiguous = contiguous && (stride == expected || a.shape[i] == 1 || empty);
      if (!empty) expected *= a.shape[i];
    }
  }
  TG_CHECK(contiguous, op, "expected ", name,
           " to be C-contiguous and aligned; make a copy with cupy.ascontiguousarray");
  return a;
}

}  // namespace tilegrad
