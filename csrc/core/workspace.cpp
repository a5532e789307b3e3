// The scratch of kernels whose memory is the host's.
#include <cstdlib>
#include <memory>
#include <new>

#include "asan.h"
#include "memory.h"

namespace tilegrad {

void* workspace(int64_t bytes) {
  constexpr int64_t alignment = 64;
  struct Free {
    void operator()(void* block) const { std::free(block); }
  };
  thread_local std::unique_ptr<void, Free> block;
  thread_local int64_t capacity = 0;
  if (bytes > capacity) {
    block.reset();
    capacity = 0;
    const int64_t rounded = (bytes + alignment - 1) / alignment * alignment;
    block.reset(std::aligned_alloc(alignment, static_cast<size_t>(rounded)));
    if (block == nullptr) throw std::bad_alloc();
    capacity = bytes;
  }
  ASAN_UNPOISON_MEMORY_REGION(block.get(), static_cast<size_t>(bytes));
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(block.get()) + bytes,
                            static_cast<size_t>(capacity - bytes));
  return block.get();
}

}  // namespace tilegrad
