// Division by a number known before the launch, by a multiplication, an addition and a shift.
// T. Granlund, P. Montgomery, "Division by invariant integers using multiplication", PLDI 1994.
#pragma once
#include <algorithm>

#include "device.h"

namespace tilegrad {
namespace cuda {

// n / d and n % d for 0 <= n < 2^31; d of 0 counts as 1.
struct FastDivide {
  uint32_t divisor, multiplier, shift;

  FastDivide() = default;
  explicit FastDivide(int64_t d)
      : divisor(static_cast<uint32_t>(std::max<int64_t>(d, 1))), shift(0) {
    while ((uint64_t{1} << shift) < divisor) ++shift;
    const uint64_t above = (uint64_t{1} << shift) - divisor;
    multiplier = static_cast<uint32_t>((above << 32) / divisor + 1);
  }
  // n / d, and n becomes n % d
  template <class Int>
  __device__ __forceinline__ Int split(Int& n) const {
    const auto whole = static_cast<uint32_t>(n);
    const auto q = static_cast<Int>((__umulhi(whole, multiplier) + whole) >> shift);
    n -= q * static_cast<Int>(divisor);
    return q;
  }
};

// The same for numbers beyond, by an ordinary division.
struct WideDivide {
  int64_t divisor;

  WideDivide() = default;
  explicit WideDivide(int64_t d) : divisor(d) {}
  __device__ __forceinline__ int64_t split(int64_t& n) const {
    const int64_t q = n / divisor;
    n -= q * divisor;
    return q;
  }
};

}  // namespace cuda
}  // namespace tilegrad
