// Which instruction sets this processor has and this operating system saves on a context switch.
#pragma once
#include <string>

namespace tilegrad {

// "" if code built for `isa` (base, avx2, avx512) can run here, else the reason why not.
std::string cannot_run(const std::string& isa);

}  // namespace tilegrad
