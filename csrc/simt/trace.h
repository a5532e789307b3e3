// What the runtime and the emulated instructions tell the traced build (trace.cpp); in the plain
// build every function here is empty. Accesses of the kernels' own code are not reported through
// this header: the compiler inserts calls for them (-fsanitize=thread), answered by trace.cpp.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

struct dim3;

// An emulated instruction is compiled without the compiler's hooks, and never inlined, so that
// SIMT_CALLER is the kernel's line that uses it; it reports its accesses with `access`.
#ifdef TILEGRAD_SIM_TRACE
#define SIMT_EMULATED inline __attribute__((noinline, no_sanitize("thread")))
#else
#define SIMT_EMULATED inline
#endif
#define SIMT_CALLER __builtin_return_address(0)

namespace simt {

#ifdef TILEGRAD_SIM_TRACE

// Counting starts anew. With raise_errors, a launch with errors throws simt::Error (as it does when
// nothing is counted); without, errors are only collected for the report.
void trace_start(bool raise_errors = true);
// Counting ends; the report as JSON (its format: docs/simulator.md).
std::string trace_stop();

#endif

namespace trace {

#ifdef TILEGRAD_SIM_TRACE

void launch_begin(const char* kernel, const dim3& grid, const dim3& block, size_t smem);
// Throws simt::Error if there were errors that are to be raised.
void launch_end();
// Instead, after a launch that an exception has ended, with its message. Throws a simt::Error that
// also says what was found before, or returns whether the exception is not to be raised.
bool launch_failed(const char* message);
// The block's shared memory must be known to runtime.h by then.
void block_begin(int64_t block);
void block_end();

// A barrier of the whole block has completed.
void barrier();
// A warp operation (shuffle, vote, __syncwarp, ...) has completed whose mask held these lanes.
void warp_sync(int warp, uint32_t mask);
// __threadfence by the running thread.
void fence();

// An access of the running thread, before it happens; an invalid one does not return.
void access(const void* address, int bytes, bool write, bool atomic, const void* pc);

// cp.async by the running thread: at its issue (source_bytes are read, the rest is filled with
// zeros), and when the wait that completes it returns.
void async_copy_issue(const void* shared, const void* global, int bytes, int source_bytes,
                      const void* pc);
void async_copy_done(const void* shared, int bytes);

// Device memory: [p, p + bytes) may be accessed from now on; after memory_remove an access is a use
// after free until another range takes its place. The same range may be added again (an array that
// is two arguments of one call): it is then removed as often, and writable if one of them is.
void memory_add(const void* p, size_t bytes, const char* name, bool writable);
void memory_remove(const void* p);

#else

inline void launch_begin(const char*, const dim3&, const dim3&, size_t) {}
inline void launch_end() {}
inline bool launch_failed(const char*) { return false; }
inline void block_begin(int64_t) {}
inline void block_end() {}
inline void barrier() {}
inline void warp_sync(int, uint32_t) {}
inline void fence() {}
inline void access(const void*, int, bool, bool, const void*) {}
inline void async_copy_issue(const void*, const void*, int, int, const void*) {}
inline void async_copy_done(const void*, int) {}
inline void memory_add(const void*, size_t, const char*, bool) {}
inline void memory_remove(const void*) {}

#endif

}  // namespace trace
}  // namespace simt
