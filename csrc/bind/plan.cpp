// Captured steps: tilegrad.capture records and replays them.
#include "../core/plan.h"

#include <type_traits>
#include <utility>

#include "bind.h"

namespace tilegrad {
namespace {

// Labels that do not fit become -1, which is no label either.
template <class To, class From>
To converted(From x) {
  if constexpr (std::is_same_v<To, int32_t> && sizeof(From) >= sizeof(int32_t)) {
    if (static_cast<From>(static_cast<int32_t>(x)) != x) return -1;
    if (std::is_unsigned_v<From> && x > From{INT32_MAX}) return -1;
  }
  return static_cast<To>(x);
}

// Adds y = x, element by element, if x holds numbers of type From.
template <class From, class To>
bool add_conversion(Plan& plan, const Arguments& a, const View<To>& y, py::handle x_) {
  if (!py::isinstance<py::array_t<From>>(x_)) return false;
  const auto x = a.in<From>(x_, "x", -1);
  a.expect_same(y, "y", x);
  plan.add([=] {
    for (int64_t i = 0; i < y.size; ++i) y.data[i] = converted<To>(x.data[i]);
  });
  return true;
}

template <class To>
bool add_integers(Plan& plan, const Arguments& a, py::handle y_, py::handle x) {
  const auto y = a.out<To>(y_, "y", -1);
  return add_conversion<bool>(plan, a, y, x) || add_conversion<int8_t>(plan, a, y, x) ||
         add_conversion<uint8_t>(plan, a, y, x) || add_conversion<int16_t>(plan, a, y, x) ||
         add_conversion<uint16_t>(plan, a, y, x) || add_conversion<int32_t>(plan, a, y, x) ||
         add_conversion<uint32_t>(plan, a, y, x) || add_conversion<int64_t>(plan, a, y, x) ||
         add_conversion<uint64_t>(plan, a, y, x);
}

}  // namespace

void bind_plan(py::module_& m) {
  py::class_<Plan>(m, "Plan", py::module_local(),
                   "Kernel calls that were recorded, to be run again")
      .def(py::init<>())
      .def("begin", &Plan::begin, "Record what this thread's kernels do from now on")
      .def("end", &Plan::end)
      .def(
          "count",
          [](Plan& plan, py::handle number_) {
            const Arguments a("count");
            const auto number = a.out<int64_t>(number_, "number", 0);
            TG_CHECK(recording() == &plan, a.op, "expected a plan that is being recorded");
            plan.count(number.data);
          },
          "At this point of each replay, add 1 to an array of one int64")
      .def(
          "stop_if_nan",
          [](Plan& plan, py::handle number_) {
            const Arguments a("stop_if_nan");
            const auto number = a.in<float>(number_, "number", -1);
            a.expect(number, "number", {1});
            TG_CHECK(recording() == &plan, a.op, "expected a plan that is being recorded");
            plan.stop_if_nan(number.data);
          },
          "At this point of each replay, stop it if an array of one float32 holds a NaN")
      .def(
          "convert",
          [](Plan& plan, py::handle y, py::handle x) {
            const Arguments a("convert");
            TG_CHECK(recording() == &plan, a.op, "expected a plan that is being recorded");
            const bool done =
                py::isinstance<py::array_t<int32_t>>(y)
                    ? add_integers<int32_t>(plan, a, y, x)
                    : add_integers<float>(plan, a, y, x) ||
                          add_conversion<double>(plan, a, a.out<float>(y, "y", -1), x);
            TG_CHECK(done, a.op, "expected x to hold integers, or float64 for y of float32");
          },
          "At this point of each replay, y = x: y of int32 or float32, x of another type")
      .def(
          "replay",
          [](const Plan& plan) {
            TG_CHECK(plan.complete(), "replay", "expected a plan whose recording has ended");
            const Unlocked unlocked;
            return plan.replay();
          },
          "Run all that was recorded on the same memory; whether no step stopped it")
      .def(
          "replay",
          [](const Plan& plan, py::handle taken_) {
            const Arguments a("replay");
            TG_CHECK(plan.complete(), a.op, "expected a plan whose recording has ended");
            const auto taken = a.out<int64_t>(taken_, "taken", 1);
            a.expect(taken, "taken", {static_cast<int64_t>(plan.size())});
            const Unlocked unlocked;
            return plan.replay(taken.data);
          },
          "The same; taken[i], of int64, becomes the nanoseconds of step i")
      .def("__len__", &Plan::size);
  m.def(
      "time_kernels", [](bool on) { Stopwatch::on = on; }, "Whether kernels are timed from now on");
  m.def(
      "kernel_nanoseconds", [] { return std::exchange(Stopwatch::taken, 0); },
      "What this thread's kernels took since it last asked, without their bindings");
}

}  // namespace tilegrad
