// One CPU module, the only file compiled for each: TILEGRAD_MODULE names it, TILEGRAD_ISA says what
// it needs.
#include "../core/cpu_features.h"
#include "bind.h"

PYBIND11_MODULE(TILEGRAD_MODULE, m) {
  using namespace tilegrad;
  const std::string reason = cannot_run(TILEGRAD_ISA);
  if (!reason.empty()) throw py::import_error(std::string(TILEGRAD_ISA) + " kernels: " + reason);

  m.doc() = "tilegrad's CPU kernels for one instruction set; see tilegrad.backend";
  m.attr("isa") = TILEGRAD_ISA;
  bind_core(m);
  bind_activation(m);
  bind_dense(m);
  bind_conv(m);
  bind_pool(m);
  bind_conv_pool(m);
  bind_softmax(m);
  bind_elementwise(m);
  bind_optim(m);
}
