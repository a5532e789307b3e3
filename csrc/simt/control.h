// How the simulator runs kernels, for Python and for tests. Holds for launches that start later.
#pragma once
#include <cstdint>

#include "runtime.h"

namespace simt {

// Which thread goes on when one has to wait: 0, the first that can; otherwise a random one, which a
// seed reproduces. Blocks then also run in another order. A correct kernel's results do not differ.
SIMT_EXPORT void set_schedule(uint64_t seed);

// Rejects what CUDA allows, or tends to forgive: a mask that names lanes which have exited or never
// were, and a barrier after some threads have left.
SIMT_EXPORT void set_strict(bool strict);

}  // namespace simt
