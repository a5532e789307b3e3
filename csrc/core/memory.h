// Memory that outlives a call: a caching pool for arrays and per-thread scratch, so that a steady
// state allocates nothing and causes no page faults.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tilegrad {

// A 64-byte aligned block of at least `bytes`; reuses a block of the same size class if one is
// free. Throws std::bad_alloc. Classes are an eighth of a power of two apart, so at most 12.5 % is
// wasted.
void* pool_take(size_t bytes);

// Gives back a block of pool_take; it is kept for the next taker. Any thread.
void pool_give(void* block) noexcept;

// Frees the blocks that nobody uses; returns how many bytes that was.
size_t pool_trim() noexcept;

// Bytes of the pool: of all its blocks, of those in use (plans' blocks always are), and the most in
// use since pool_bytes was last called.
struct PoolBytes {
  size_t held;
  size_t in_use;
  size_t peak;
};
PoolBytes pool_bytes() noexcept;

// Blocks set apart for a recorded plan (plan.h), which writes to them again at every replay: those
// that are given back go to the arena's next taker, and to the pool when the arena is gone.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena();

  // Between the two this thread's pool_take serves from here.
  void enter() noexcept;
  void leave() noexcept;

  bool owns(const void* p) const;  // whether p lies in one of its blocks

 private:
  friend void* pool_take(size_t bytes);
  std::vector<void*> blocks_;
};

// 64-byte aligned scratch of this thread in the memory of the module's kernels, valid until its next
// call; grows, never shrinks.
void* workspace(int64_t bytes);

}  // namespace tilegrad
