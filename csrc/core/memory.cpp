#include "memory.h"

#include <pthread.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>

#include "asan.h"

namespace tilegrad {
namespace {

constexpr size_t alignment = 64;

void* allocate(size_t bytes) {
  void* block = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

// Class c holds blocks of (8 + c % 8) << (c / 8) times 64 bytes.
constexpr int class_count = 8 * 40;

size_t class_bytes(int c) { return static_cast<size_t>(8 + c % 8) << (c / 8 + 6); }

int class_of(size_t bytes) {
  const size_t units = (bytes + alignment - 1) / alignment;
  if (units <= 8) return 0;
  const int shift = 60 - __builtin_clzll(units - 1);  // leaves units - 1 in [8, 16)
  const int c = 8 * shift + static_cast<int>(((units - 1) >> shift) - 8) + 1;
  return c;
}

// A free block's first bytes hold the next free block of its class.
struct FreeBlock {
  FreeBlock* next;
};

struct Pool {
  std::mutex mutex;
  FreeBlock* free[class_count] = {};
  PoolBytes bytes = {};

  void use(int c) noexcept {
    bytes.in_use += class_bytes(c);
    bytes.peak = std::max(bytes.peak, bytes.in_use);
  }
};

// Never destroyed: arrays may be freed after this library's static destructors ran. A fork waits
// until no other thread is inside, since the child would wait for that thread forever.
Pool& pool() {
  static Pool* const instance = [] {
    static Pool* const made = new Pool;
    const auto unlock = [] { made->mutex.unlock(); };
    pthread_atfork([] { made->mutex.lock(); }, unlock, unlock);
    return made;
  }();
  return *instance;
}

// Stands in front of each block, one alignment unit.
struct Header {
  int size_class;
  bool set_apart;  // in an arena
  bool in_use;     // of a block set apart
};

Header& header(void* block) {
  return *reinterpret_cast<Header*>(static_cast<char*>(block) - alignment);
}

thread_local Arena* arena = nullptr;  // that this thread takes from, if any

void give_to_pool(void* block) noexcept {
  const int c = header(block).size_class;
  FreeBlock*& first = pool().free[c];
  ASAN_UNPOISON_MEMORY_REGION(block, sizeof(FreeBlock));
  first = new (block) FreeBlock{first};
  pool().bytes.in_use -= class_bytes(c);
  ASAN_POISON_MEMORY_REGION(block, class_bytes(c));
}

// A block of class c with at least `bytes` usable, new or from the pool.
void* take_from_pool(int c, [[maybe_unused]] size_t bytes) {
  {
    std::lock_guard<std::mutex> lock(pool().mutex);
    FreeBlock*& first = pool().free[c];
    if (first != nullptr) {
      pool().use(c);
      ASAN_UNPOISON_MEMORY_REGION(first, std::max(bytes, sizeof(FreeBlock)));
      return std::exchange(first, first->next);
    }
  }
  void* block = static_cast<char*>(allocate(class_bytes(c) + alignment)) + alignment;
  header(block) = {c, false, false};
  {
    std::lock_guard<std::mutex> lock(pool().mutex);
    pool().bytes.held += class_bytes(c);
    pool().use(c);
  }
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(block) + bytes, class_bytes(c) - bytes);
  return block;
}

}  // namespace

void* pool_take(size_t bytes) {
  if (bytes > size_t{1} << 44) throw std::bad_alloc();
  const int c = class_of(bytes);
  if (arena == nullptr) return take_from_pool(c, bytes);
  {
    std::lock_guard<std::mutex> lock(pool().mutex);
    for (void* block : arena->blocks_) {
      Header& h = header(block);
      if (h.size_class == c && !h.in_use) {
        h.in_use = true;
        return block;
      }
    }
    arena->blocks_.reserve(arena->blocks_.size() + 1);
  }
  void* block = take_from_pool(c, bytes);
  // a block serves arrays of several sizes, again at each replay
  ASAN_UNPOISON_MEMORY_REGION(block, class_bytes(c));
  header(block).set_apart = header(block).in_use = true;
  arena->blocks_.push_back(block);
  return block;
}

void pool_give(void* block) noexcept {
  std::lock_guard<std::mutex> lock(pool().mutex);
  if (header(block).set_apart) {
    header(block).in_use = false;
  } else {
    give_to_pool(block);
  }
}

Arena::~Arena() {
  std::lock_guard<std::mutex> lock(pool().mutex);
  for (void* block : blocks_) {
    header(block).set_apart = false;
    if (!header(block).in_use) give_to_pool(block);
  }
}

void Arena::enter() noexcept { arena = this; }

void Arena::leave() noexcept { arena = nullptr; }

bool Arena::owns(const void* p) const {
  return std::any_of(blocks_.begin(), blocks_.end(), [p](void* block) {
    const char* begin = static_cast<const char*>(block);
    return begin <= p && p < begin + class_bytes(header(block).size_class);
  });
}

size_t pool_trim() noexcept {
  std::lock_guard<std::mutex> lock(pool().mutex);
  size_t freed = 0;
  for (int c = 0; c < class_count; ++c) {
    while (FreeBlock* block = pool().free[c]) {
      ASAN_UNPOISON_MEMORY_REGION(block, class_bytes(c));
      pool().free[c] = block->next;
      std::free(reinterpret_cast<char*>(block) - alignment);
      freed += class_bytes(c);
    }
  }
  pool().bytes.held -= freed;
  return freed;
}

PoolBytes pool_bytes() noexcept {
  std::lock_guard<std::mutex> lock(pool().mutex);
  PoolBytes& bytes = pool().bytes;
  const PoolBytes now = bytes;
  bytes.peak = bytes.in_use;
  return now;
}

}  // namespace tilegrad
