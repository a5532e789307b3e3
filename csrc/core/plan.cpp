#include "plan.h"

#include <cmath>
#include <utility>

#include "check.h"
#include "stopwatch.h"

namespace tilegrad {
namespace {

thread_local Plan* current = nullptr;

}  // namespace

Plan* recording() { return current; }

Plan::Plan() : arena_(std::make_unique<Arena>()) {}

Plan::~Plan() {
  if (current == this) end();
}

void Plan::begin() {
  TG_CHECK(current == nullptr, "Plan", "this thread records another plan");
  TG_CHECK(state_ == fresh_, "Plan", "a plan is recorded once");
  state_ = recording_;
  current = this;
  arena_->enter();
}

void Plan::end() {
  TG_CHECK(current == this, "Plan", "this thread does not record this plan");
  arena_->leave();
  current = nullptr;
  state_ = complete_;
}

void Plan::add(std::function<void()> kernel) { steps_.push_back({std::move(kernel), nullptr}); }

void Plan::keep(py::handle array, const void* data) {
  if (!arena_->owns(data)) alive_.push_back(py::reinterpret_borrow<py::object>(array));
}

void Plan::count(int64_t* number) {
  add([number] { ++*number; });
}

void Plan::stop_if_nan(const float* number) { steps_.push_back({nullptr, number}); }

bool Plan::Step::run() const {
  if (!kernel) return !std::isnan(*number);
  kernel();
  return true;
}

bool Plan::replay() const {
  for (const Step& step : steps_) {
    if (!step.run()) return false;
  }
  return true;
}

bool Plan::replay(int64_t* taken) const {
  int64_t before = nanoseconds();
  for (const Step& step : steps_) {
    if (!step.run()) return false;
    const int64_t now = nanoseconds();
    *taken++ = now - before;
    before = now;
  }
  return true;
}

}  // namespace tilegrad
