// One CPU module, compiled for each instruction set: TILEGRAD_MODULE names it, TILEGRAD_ISA says
// what it needs.
#include "../core/cpu_features.h"
#include "../cpu/parallel.h"
#include "bind.h"

PYBIND11_MODULE(TILEGRAD_MODULE, m) {
  using namespace tilegrad;
  const std::string reason = cannot_run(TILEGRAD_ISA);
  if (!reason.empty()) throw py::import_error(std::string(TILEGRAD_ISA) + " kernels: " + reason);

  m.doc() = "tilegrad's CPU kernels for one instruction set; see tilegrad.backend";
  m.attr("isa") = TILEGRAD_ISA;
  bind_memory(m);
  bind_kernels(m);
  bind_plan(m);
  m.def("get_num_threads", num_threads);
  m.def("set_num_threads", [](int64_t count) {
    check_range("set_num_threads", "a count", count, 1, 1024);
    set_num_threads(static_cast<int>(count));
    return num_threads();
  });
  m.def("cpu_features", [] {
    py::dict reasons;  // None where the code can run
    for (const char* isa : {"base", "avx2", "avx512"}) {
      const std::string why_not = cannot_run(isa);
      reasons[isa] = why_not.empty() ? py::object(py::none()) : py::str(why_not);
    }
    return reasons;
  });
}
