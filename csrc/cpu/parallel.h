// Fork-join over fixed chunks. Which thread runs a chunk varies, what a chunk computes never does:
// a kernel that writes its partial results per chunk and combines them in chunk order gives the
// same bits for any thread count.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace tilegrad {

// Threads a parallel_for may use, the caller included. Default: TILEGRAD_THREADS, else the usable
// cores.
int num_threads();
void set_num_threads(int count);

namespace detail {

using ChunkFn = void (*)(void* context, int64_t begin, int64_t end);
void run_chunks(int64_t n, int64_t grain, ChunkFn fn, void* context);

// Not inlined, so that a kernel's body is compiled once for both of parallel_for's calls.
template <class F>
[[gnu::noinline]] void call_chunk(void* fn, int64_t begin, int64_t end) {
  (*static_cast<F*>(fn))(begin, end);
}

}  // namespace detail

// fn(begin, end) once for every chunk [i grain, min(n, (i + 1) grain)), in any order, on any
// thread. Nested calls, and calls while another thread holds the pool, run serially on the caller.
// fn must not throw.
template <class F>
void parallel_for(int64_t n, int64_t grain, F&& fn) {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  const auto call = detail::call_chunk<std::remove_reference_t<F>>;
  void* const context = const_cast<void*>(static_cast<const void*>(&fn));
  if (n <= grain) return call(context, 0, n);
  detail::run_chunks(n, grain, call, context);
}

inline int64_t chunk_count(int64_t n, int64_t grain) { return (n + grain - 1) / grain; }

}  // namespace tilegrad
