// What the binding files share: one bind_<stem> per op family, linked into every backend module.
// Only module_<device>.cpp differs.
#pragma once
#include "../core/memory.h"
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

void bind_memory(py::module_& m);  // for devices whose memory is the host's

// Runs a kernel without the interpreter's lock.
template <class Kernel>
void run(Kernel&& kernel) {
  py::gil_scoped_release unlocked;
  kernel();
}

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
