// One CPU module, compiled for each instruction set: TILEGRAD_MODULE names it, TILEGRAD_ISA says
// what it needs.
#include "../core/cpu_features.h"
#include "../cpu/parallel.h"
#include "../cpu/roof.h"
#include "bind.h"

namespace tilegrad {
namespace {

constexpr int64_t most_threads = 1024;

void bind_roofs(py::module_& m) {
  const auto check = [](const char* op, int64_t threads, int64_t rounds) {
    check_range(op, "threads", threads, 1, most_threads);
    check_range(op, "rounds", rounds, 1, 10000);
  };
  m.def("roof_flops", [=](int64_t threads, int64_t rounds, int64_t steps) {
    check("roof_flops", threads, rounds);
    check_range("roof_flops", "steps", steps, 1, int64_t{1} << 40);
    const Unlocked unlocked;
    return roof_flops(static_cast<int>(threads), static_cast<int>(rounds), steps);
  });
  m.def("roof_bytes",
        [=](int64_t threads, int64_t rounds, int64_t passes, int64_t bytes, int64_t kind) {
          check("roof_bytes", threads, rounds);
          check_range("roof_bytes", "passes", passes, 1, int64_t{1} << 40);
          check_range("roof_bytes", "bytes", bytes, 1, int64_t{1} << 40);
          check_range("roof_bytes", "a kind", kind, 0, static_cast<int64_t>(Traffic::update));
          const Unlocked unlocked;
          return roof_bytes(static_cast<int>(threads), static_cast<int>(rounds), passes, bytes,
                            static_cast<Traffic>(kind));
        });
}

}  // namespace
}  // namespace tilegrad

PYBIND11_MODULE(TILEGRAD_MODULE, m) {
  using namespace tilegrad;
  const std::string reason = cannot_run(TILEGRAD_ISA);
  if (!reason.empty()) throw py::import_error(std::string(TILEGRAD_ISA) + " kernels: " + reason);

  m.doc() = "tilegrad's CPU kernels for one instruction set; see tilegrad.backend";
  m.attr("isa") = TILEGRAD_ISA;
  bind_memory(m);
  bind_kernels(m);
  bind_plan(m);
  bind_roofs(m);
  m.def("get_num_threads", num_threads);
  m.def("set_num_threads", [](int64_t count) {
    check_range("set_num_threads", "a count", count, 1, most_threads);
    set_num_threads(static_cast<int>(count));
    return num_threads();
  });
  m.def("build_info", [] {
    py::dict info;
    info["compiler"] = TILEGRAD_COMPILER;
    info["flags"] = TILEGRAD_FLAGS;
    return info;
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
