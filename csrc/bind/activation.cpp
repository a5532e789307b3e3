#include "bind.h"

namespace tilegrad {

void bind_activation(py::module_& m) {
  m.def("activation_forward", [](py::handle y_, py::handle x_, int64_t kind, float alpha) {
    const Arguments a("activation_forward");
    const auto y = a.out<float>(y_, "y", -1);
    const auto x = a.in<float>(x_, "x", -1);
    a.expect_same(y, "y", x);
    const auto k = activation_kind(a.op, kind, Activation::softplus);
    run([=] { activation_forward(y.data, x.data, x.size, k, alpha); });
  });
  m.def("activation_backward_dx",
        [](py::handle dx_, py::handle dy_, py::handle saved_, int64_t kind, float alpha) {
          const Arguments a("activation_backward_dx");
          const auto dx = a.out<float>(dx_, "dx", -1);
          const auto dy = a.in<float>(dy_, "dy", -1);
          const auto saved = a.in<float>(saved_, "saved", -1);
          a.expect_same(dx, "dx", dy);
          a.expect_same(saved, "saved", dy);
          const auto k = activation_kind(a.op, kind, Activation::softplus);
          run([=] { activation_backward_dx(dx.data, dy.data, saved.data, dy.size, k, alpha); });
        });
}

}  // namespace tilegrad
