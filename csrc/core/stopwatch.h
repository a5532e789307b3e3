// How long kernels take, for the profiler: while it is on, `run` (bind.h) times what it runs.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>

namespace tilegrad {

inline int64_t nanoseconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

// Adds the time of its scope to `taken` of its thread, if it began while `on`.
class Stopwatch {
 public:
  Stopwatch() : start_(on.load(std::memory_order_relaxed) ? nanoseconds() : 0) {}
  ~Stopwatch() {
    if (start_ != 0) taken += nanoseconds() - start_;
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  inline static std::atomic<bool> on{false};
  inline static thread_local int64_t taken = 0;

 private:
  const int64_t start_;
};

}  // namespace tilegrad
