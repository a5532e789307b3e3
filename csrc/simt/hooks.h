// The functions that -fsanitize=thread makes kernels call, and that libtsan would supply: a part of
// trace.cpp, which defines simt::hook.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#define SIMT_HOOK(name, bytes, write, alignment)                                 \
  extern "C" SIMT_LOCAL void __tsan_##name##bytes(void* p) {                     \
    simt::hook(p, bytes, write, false, SIMT_CALLER, simt::Alignment::alignment); \
  }
#define SIMT_HOOK_READ_WRITE(name, bytes, alignment)                             \
  extern "C" SIMT_LOCAL void __tsan_##name##bytes(void* p) {                     \
    simt::hook(p, bytes, false, false, SIMT_CALLER, simt::Alignment::alignment); \
    simt::hook(p, bytes, true, false, SIMT_CALLER, simt::Alignment::alignment);  \
  }
#define SIMT_ALIGNED_HOOKS(bytes)                 \
  SIMT_HOOK(read, bytes, false, natural)          \
  SIMT_HOOK(write, bytes, true, natural)          \
  SIMT_HOOK(volatile_read, bytes, false, natural) \
  SIMT_HOOK(volatile_write, bytes, true, natural) \
  SIMT_HOOK_READ_WRITE(read_write, bytes, natural)
#define SIMT_UNALIGNED_HOOKS(bytes)                      \
  SIMT_HOOK(unaligned_read, bytes, false, none)          \
  SIMT_HOOK(unaligned_write, bytes, true, none)          \
  SIMT_HOOK(unaligned_volatile_read, bytes, false, none) \
  SIMT_HOOK(unaligned_volatile_write, bytes, true, none) \
  SIMT_HOOK_READ_WRITE(unaligned_read_write, bytes, none)

SIMT_ALIGNED_HOOKS(1)
SIMT_ALIGNED_HOOKS(2)
SIMT_ALIGNED_HOOKS(4)
SIMT_ALIGNED_HOOKS(8)
SIMT_ALIGNED_HOOKS(16)
SIMT_UNALIGNED_HOOKS(2)
SIMT_UNALIGNED_HOOKS(4)
SIMT_UNALIGNED_HOOKS(8)
SIMT_UNALIGNED_HOOKS(16)

extern "C" {

SIMT_LOCAL void __tsan_init() {}
SIMT_LOCAL void __tsan_func_entry(void*) {}
SIMT_LOCAL void __tsan_func_exit() {}
SIMT_LOCAL void __tsan_vptr_update(void**, void*) {}
SIMT_LOCAL void __tsan_vptr_read(void**) {}

SIMT_LOCAL void __tsan_read_range(void* p, size_t bytes) {
  simt::hook_range(p, bytes, false, SIMT_CALLER);
}
SIMT_LOCAL void __tsan_write_range(void* p, size_t bytes) {
  simt::hook_range(p, bytes, true, SIMT_CALLER);
}

// clang's
SIMT_LOCAL void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  simt::hook_range(from, bytes, false, SIMT_CALLER);
  simt::hook_range(to, bytes, true, SIMT_CALLER);
  return std::memcpy(to, from, bytes);
}
SIMT_LOCAL void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  simt::hook_range(from, bytes, false, SIMT_CALLER);
  simt::hook_range(to, bytes, true, SIMT_CALLER);
  return std::memmove(to, from, bytes);
}
SIMT_LOCAL void* __tsan_memset(void* to, int value, size_t bytes) {
  simt::hook_range(to, bytes, true, SIMT_CALLER);
  return std::memset(to, value, bytes);
}

SIMT_LOCAL void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
SIMT_LOCAL void __tsan_atomic_signal_fence(int) {}

}  // extern "C"

// C++'s atomics, which kernels do not have, but host code of the same file may: static variables of
// functions, shared pointers.
#define SIMT_ATOMIC_ACCESS(write)                                                             \
  simt::hook(const_cast<const void*>(static_cast<volatile void*>(p)), sizeof *p, write, true, \
             SIMT_CALLER, simt::Alignment::natural)
#define SIMT_ATOMIC_UPDATE(bits, T, name)                                             \
  extern "C" SIMT_LOCAL T __tsan_atomic##bits##_##name(volatile T* p, T value, int) { \
    SIMT_ATOMIC_ACCESS(true);                                                         \
    return __atomic_##name(p, value, __ATOMIC_SEQ_CST);                               \
  }
#define SIMT_ATOMIC_EXCHANGE_IF(bits, T, name, weak)                               \
  extern "C" SIMT_LOCAL int __tsan_atomic##bits##_compare_exchange_##name(         \
      volatile T* p, T* expected, T value, int, int) {                             \
    SIMT_ATOMIC_ACCESS(true);                                                      \
    return __atomic_compare_exchange_n(p, expected, value, weak, __ATOMIC_SEQ_CST, \
                                       __ATOMIC_SEQ_CST);                          \
  }
#define SIMT_ATOMIC_HOOKS(bits, T)                                                      \
  extern "C" SIMT_LOCAL T __tsan_atomic##bits##_load(const volatile T* q, int) {        \
    auto* p = const_cast<volatile T*>(q);                                               \
    SIMT_ATOMIC_ACCESS(false);                                                          \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                        \
  }                                                                                     \
  extern "C" SIMT_LOCAL void __tsan_atomic##bits##_store(volatile T* p, T value, int) { \
    SIMT_ATOMIC_ACCESS(true);                                                           \
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);                                       \
  }                                                                                     \
  extern "C" SIMT_LOCAL T __tsan_atomic##bits##_exchange(volatile T* p, T value, int) { \
    SIMT_ATOMIC_ACCESS(true);                                                           \
    return __atomic_exchange_n(p, value, __ATOMIC_SEQ_CST);                             \
  }                                                                                     \
  SIMT_ATOMIC_UPDATE(bits, T, fetch_add)                                                \
  SIMT_ATOMIC_UPDATE(bits, T, fetch_sub)                                                \
  SIMT_ATOMIC_UPDATE(bits, T, fetch_and)                                                \
  SIMT_ATOMIC_UPDATE(bits, T, fetch_or)                                                 \
  SIMT_ATOMIC_UPDATE(bits, T, fetch_xor)                                                \
  SIMT_ATOMIC_UPDATE(bits, T, fetch_nand)                                               \
  SIMT_ATOMIC_EXCHANGE_IF(bits, T, strong, false)                                       \
  SIMT_ATOMIC_EXCHANGE_IF(bits, T, weak, true)

SIMT_ATOMIC_HOOKS(8, uint8_t)
SIMT_ATOMIC_HOOKS(16, uint16_t)
SIMT_ATOMIC_HOOKS(32, uint32_t)
SIMT_ATOMIC_HOOKS(64, uint64_t)
