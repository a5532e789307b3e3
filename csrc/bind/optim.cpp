#include "../ops/optim.h"

#include <memory>
#include <string>
#include <vector>

#include "bind.h"

namespace tilegrad {
namespace {

// What a kernel takes, and the arrays behind it: another thread may change the lists they came in.
struct Parameters {
  std::vector<Parameter> each;
  std::vector<py::tuple> alive;
};

// One Parameter per entry of w and g (lists of arrays); states is a list of `state_count` such
// lists. scale and decay are (len(w)), in NumPy's memory on every device.
Parameters parameters(const Arguments& a, const py::list& w_, const py::list& g_,
                      const py::list& states_, py::handle scale_, py::handle decay_,
                      size_t state_count) {
  const py::tuple w(w_), g(g_), states(states_);
  const size_t count = w.size();
  TG_CHECK(g.size() == count, a.op, "expected ", count, " gradients, got ", g.size());
  TG_CHECK(states.size() == state_count, a.op, "expected ", state_count, " lists of states, got ",
           states.size());
  const auto scale = a.host<float>(scale_, "scale", 1);
  const auto decay = a.host<float>(decay_, "decay", 1);
  a.expect(scale, "scale", {static_cast<int64_t>(count)});
  a.expect(decay, "decay", {static_cast<int64_t>(count)});
  Parameters out{std::vector<Parameter>(count), {w, g}};
  for (size_t i = 0; i < count; ++i) {
    const auto wi = a.out<float>(w[i], "w", -1);
    const auto gi = a.in<float>(g[i], "g", -1);
    a.expect_same(gi, "g", wi);
    out.each[i] = {wi.data, gi.data, {}, wi.size, scale.data[i], decay.data[i]};
  }
  for (size_t k = 0; k < state_count; ++k) {
    const py::tuple state(states[k].cast<py::list>());
    TG_CHECK(state.size() == count, a.op, "expected ", count, " arrays per state, got ",
             state.size());
    out.alive.push_back(state);
    for (size_t i = 0; i < count; ++i) {
      const auto view = a.out<float>(state[i], "a state", -1);
      TG_CHECK(view.size == out.each[i].size, a.op, "expected a state of ", out.each[i].size,
               " elements, got ", view.size);
      out.each[i].state[k] = view.data;
    }
  }
  return out;
}

}  // namespace

// The learning rate comes first: to make a number of it may run Python code, which may do anything
// to the arrays.
void bind_optim(py::module_& m) {
  m.def("sgd_update",
        [](const py::list& w, const py::list& g, const py::list& states, py::handle scale,
           py::handle decay, py::handle lr_, float clip, float momentum, bool nesterov) {
          const Arguments a("sgd_update");
          const Number<float> lr(a, lr_, "lr");
          const auto p = parameters(a, w, g, states, scale, decay, momentum != 0 ? 1 : 0);
          run([=, each = p.each] {
            sgd_update(each.data(), each.size(), {lr(), clip}, momentum, nesterov);
          });
        });
  m.def("rmsprop_update", [](const py::list& w, const py::list& g, const py::list& states,
                             py::handle scale, py::handle decay, py::handle lr_, float clip,
                             double rho, float momentum, float epsilon, bool centered) {
    const Arguments a("rmsprop_update");
    const Number<float> lr(a, lr_, "lr");
    // The list of states is v, m, a without those that are not in use.
    auto p = parameters(a, w, g, states, scale, decay, 1 + (momentum > 0) + centered);
    if (centered && !(momentum > 0)) {
      for (Parameter& each : p.each) std::swap(each.state[1], each.state[2]);
    }
    run([=, each = p.each] {
      rmsprop_update(each.data(), each.size(), {lr(), clip}, rho, momentum, epsilon, centered);
    });
  });
  m.def("adam_update", [](const py::list& w, const py::list& g, const py::list& states,
                          py::handle scale, py::handle decay, py::handle lr_, float clip,
                          py::handle step_, double beta_1, double beta_2, float epsilon,
                          bool amsgrad) {
    const Arguments a("adam_update");
    const Number<float> lr(a, lr_, "lr");
    const auto step = a.in<int64_t>(step_, "step", -1);
    TG_CHECK(step.ndim <= 1 && step.size == 1, a.op, "expected step to be one number, got shape ",
             shape_text(step.shape, step.ndim));
    TG_CHECK(border.cuda || step.data[0] >= 0, a.op, "expected step >= 0, got ", step.data[0]);
    const auto p = parameters(a, w, g, states, scale, decay, 2 + amsgrad);
    run([=, each = p.each] {
      adam_update(each.data(), each.size(), {lr(), clip}, step.data, beta_1, beta_2, epsilon,
                  amsgrad);
    });
  });
  m.def("gradient_square_sums", [](py::handle out_, const py::list& g_) {
    const Arguments a("gradient_square_sums");
    const py::tuple g(g_);  // keeps the arrays alive
    const auto out = a.out<double>(out_, "out", 1);
    a.expect(out, "out", {static_cast<int64_t>(g.size())});
    std::vector<const float*> data;
    std::vector<int64_t> size;
    for (const py::handle each : g) {
      const auto v = a.in<float>(each, "g", -1);
      data.push_back(v.data);
      size.push_back(v.size);
    }
    run([=] { gradient_square_sums(out.data, data.data(), size.data(), size.size()); });
  });
}

}  // namespace tilegrad
