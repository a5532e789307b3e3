// The CUDA kernels on a GPU: `_cuda`. Arrays are CuPy's, or of anything else with the CUDA Array
// Interface.
#include "../cuda/runtime.h"
#include "bind.h"

namespace tilegrad {
namespace {

// Gives the address of the stream that is current in Python; never destroyed, Python may be gone.
py::object& stream_getter() {
  static auto* const getter = new py::object();
  return *getter;
}

const Observer observer = {[](const char*) {
                             const py::object& getter = stream_getter();
                             set_current_stream(getter ? py::cast<uintptr_t>(getter()) : 0);
                           },
                           [](const void*, int64_t, const char*, bool) {}};

}  // namespace
}  // namespace tilegrad

PYBIND11_MODULE(_cuda, m) {
  using namespace tilegrad;
  border.numpy = false;
  border.cuda = true;
  border.observer = &observer;
  m.doc() = "tilegrad's CUDA kernels; see tilegrad.backend";
  bind_kernels(m);
  m.def(
      "set_stream_getter", [](py::object getter) { stream_getter() = std::move(getter); },
      "The function that gives the address of the stream to launch on, as an int");
  m.def(
      "device_count",
      [] {
        const DeviceCount found = device_count();
        return py::make_tuple(found.status, found.count, found.text);
      },
      "(CUDA status, number of GPUs, the status in words); 35 and 100 mean that there is none");
  m.def(
      "device_info",
      [] {
        const DeviceInfo info = device_info();
        py::dict d;
        d["name"] = info.name;
        d["compute_capability"] = py::make_tuple(info.major, info.minor);
        d["multiprocessors"] = info.multiprocessors;
        d["memory_bytes"] = info.memory_bytes;
        d["l2_bytes"] = info.l2_bytes;
        d["driver"] = info.driver;
        d["runtime"] = info.runtime;
        return d;
      },
      "What the current GPU is; RuntimeError where there is none");
}
