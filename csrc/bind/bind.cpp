#include "bind.h"

namespace tilegrad {

Border border;

void bind_kernels(py::module_& m) {
  bind_activation(m);
  bind_dense(m);
  bind_conv(m);
  bind_pool(m);
  bind_conv_pool(m);
  bind_softmax(m);
  bind_elementwise(m);
  bind_optim(m);
}

}  // namespace tilegrad
