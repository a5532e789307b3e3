// The machine's roofs, measured without any of the kernels: multiply-adds in registers, and passes
// over memory, both as wide as the module's instruction set allows.
#pragma once
#include <cstdint>

namespace tilegrad {

// sum of a; y = a; y = a + s b; a = a + s b
enum class Traffic { read, copy, triad, update };

// FLOP/s of `threads` threads in the best of `rounds` rounds of `steps` multiply-adds in each chain;
// one counts as two. Throws std::system_error where the system refuses threads.
double roof_flops(int threads, int rounds, int64_t steps);

// bytes/s of `threads` threads, reads and writes counted, in the best of `rounds` rounds of `passes`
// passes over a working set of `bytes` in all, which the threads share out among them. Also throws
// std::bad_alloc.
double roof_bytes(int threads, int rounds, int64_t passes, int64_t bytes, Traffic kind);

}  // namespace tilegrad
