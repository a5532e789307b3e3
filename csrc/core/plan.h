// A recorded sequence of kernel calls: while a plan records, it keeps what `run` (bind.h) executes,
// and a replay does that again on the same memory, without Python.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "memory.h"

namespace tilegrad {

namespace py = pybind11;

class Plan {
 public:
  Plan();
  ~Plan();

  // From begin to end this thread's kernel calls are recorded, and its arrays of pooled memory are
  // set apart. Throws ValueError if the thread records already, or this plan was begun before.
  void begin();
  void end();

  void add(std::function<void()> kernel);
  void keep(py::handle array, const void* data);  // holds on to an argument that is not set apart

  // Two steps that are no kernels: to add 1 to a number, and to stop where one is NaN.
  void count(int64_t* number);
  void stop_if_nan(const float* number);

  // Runs all steps in order; returns whether none of them stopped it. Needs no lock.
  bool replay() const;

  // The same, and sets taken[i] to the nanoseconds of step i, of those that ran.
  bool replay(int64_t* taken) const;

  size_t size() const { return steps_.size(); }
  bool complete() const { return state_ == complete_; }

 private:
  struct Step {
    std::function<void()> kernel;
    const float* number;  // of a step without a kernel

    bool run() const;  // whether the replay goes on
  };

  enum { fresh_, recording_, complete_ } state_ = fresh_;
  std::unique_ptr<Arena> arena_;
  std::vector<Step> steps_;
  std::vector<py::object> alive_;
};

// The plan that this thread records, or null.
Plan* recording();

}  // namespace tilegrad
