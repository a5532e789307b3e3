// What the binding files share: one bind_<stem> per op family, linked into every backend module.
// Only module_<device>.cpp differs.
#pragma once
#include "../core/memory.h"
#include "../core/plan.h"
#include "../core/stopwatch.h"
#include "../core/view.h"
#include "../ops/activation.h"

namespace tilegrad {

void bind_kernels(py::module_& m);  // all that follow
void bind_activation(py::module_& m);
void bind_dense(py::module_& m);
void bind_conv(py::module_& m);
void bind_pool(py::module_& m);
void bind_conv_pool(py::module_& m);
void bind_softmax(py::module_& m);
void bind_elementwise(py::module_& m);
void bind_optim(py::module_& m);
void bind_plan(py::module_& m);

void bind_memory(py::module_& m);  // for devices whose memory is the host's

// While one is alive, its thread does without the interpreter's lock. pybind11's own looks up more.
class Unlocked {
 public:
  Unlocked() = default;
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;
  ~Unlocked() { PyEval_RestoreThread(state_); }

 private:
  PyThreadState* const state_ = PyEval_SaveThread();
};

// Runs a kernel without the interpreter's lock. A plan that is being recorded keeps a copy, so the
// kernel must hold by value what it needs; pointers into arrays stay valid, see Arguments.
template <class Kernel>
void run(const Kernel& kernel) {
  if (Plan* plan = recording()) plan->add(kernel);
  const Unlocked unlocked;
  const Stopwatch stopwatch;
  kernel();
}

// The same for a kernel that takes `bytes` of scratch.
template <class Kernel>
void run(int64_t bytes, const Kernel& kernel) {
  run([=] { kernel(workspace(bytes)); });
}

// An integer argument of an op that takes many: what is an int in Python comes in faster than by
// pybind11's caster, which does the rest.
struct Integer {
  int64_t value = 0;
  operator int64_t() const { return value; }
};

// A number, or an array of no axes that is read when the kernel runs: what changes from one replay
// of a plan to the next comes in an array.
template <class T>
class Number {
 public:
  Number(const Arguments& a, py::handle h, const char* name) {
    if (py::isinstance<py::array>(h)) {
      from_ = a.in<T>(h, name, 0).data;
      return;
    }
    py::detail::make_caster<T> caster;
    if (!caster.load(h, true)) {
      throw py::type_error(std::string(a.op) + ": expected " + name + " to be a number, got " +
                           py::cast<std::string>(py::repr(h)));
    }
    value_ = py::detail::cast_op<T>(caster);
  }

  T operator()() const { return from_ ? *from_ : value_; }

 private:
  T value_ = 0;
  const T* from_ = nullptr;
};

// An integer, or whatever has __index__; raises TypeError or OverflowError.
inline int64_t to_integer(py::handle h) {
  const py::ssize_t value = PyNumber_AsSsize_t(h.ptr(), PyExc_OverflowError);
  if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

inline Activation activation_kind(const char* op, int64_t kind, Activation last) {
  check_range(op, "an activation kind", kind, 0, static_cast<int64_t>(last));
  return static_cast<Activation>(kind);
}

}  // namespace tilegrad

namespace pybind11::detail {

template <>
struct type_caster<tilegrad::Integer> {
  PYBIND11_TYPE_CASTER(tilegrad::Integer, const_name("int"));

  bool load(handle h, bool convert) {
    if (PyLong_CheckExact(h.ptr())) {
      int overflow;
      value.value = PyLong_AsLongLongAndOverflow(h.ptr(), &overflow);
      return overflow == 0;
    }
    make_caster<int64_t> slow;
    if (!slow.load(h, convert)) return false;
    value.value = cast_op<int64_t>(slow);
    return true;
  }
};

}  // namespace pybind11::detail
