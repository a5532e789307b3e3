// Fibers: stacks of their own, and the switch from one to another within an OS thread. By hand on
// x86-64 and aarch64 Linux, by _setjmp and _longjmp elsewhere (or with SIMT_PORTABLE_SWITCH).
#pragma once
#if !defined(SIMT_PORTABLE_SWITCH) && \
    !(defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__)))
#define SIMT_PORTABLE_SWITCH
#endif

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <new>

#ifdef SIMT_PORTABLE_SWITCH
#include <setjmp.h>
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {

struct Fiber {
#ifdef SIMT_PORTABLE_SWITCH
  jmp_buf registers;
#else
  void* stack_pointer = nullptr;
#endif
  char* stack = nullptr;  // its lowest address
  size_t stack_bytes = 0;
  void* asan_stack = nullptr;
};

#ifndef SIMT_PORTABLE_SWITCH

// Pushes what a called function must preserve, stores the stack pointer in *from, and undoes that on
// the other stack. No more than that: signal masks and floating-point modes are the OS thread's.
extern "C" void simt_switch_stack(void** from, void* to);

#ifdef __x86_64__
asm(R"(
  .pushsection .text
  .globl simt_switch_stack
  .hidden simt_switch_stack
  .type simt_switch_stack, @function
  .balign 16
simt_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size simt_switch_stack, .-simt_switch_stack
  .popsection
)");
constexpr size_t saved_words = 8;  // six registers, the address of `entry`, and where that returns
constexpr size_t entry_word = 6;
#else
asm(R"(
  .pushsection .text
  .globl simt_switch_stack
  .hidden simt_switch_stack
  .type simt_switch_stack, %function
  .balign 16
simt_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
  .size simt_switch_stack, .-simt_switch_stack
  .popsection
)");
constexpr size_t saved_words = 20;
constexpr size_t entry_word = 11;  // x30
#endif

// The first switch to the fiber will call entry(), which must not return.
inline void prepare(Fiber& fiber, void (*entry)()) {
  auto* top = reinterpret_cast<uintptr_t*>(fiber.stack + fiber.stack_bytes);
  uintptr_t* frame = top - saved_words;
  for (size_t i = 0; i < saved_words; ++i) frame[i] = 0;
  frame[entry_word] = reinterpret_cast<uintptr_t>(entry);
  fiber.stack_pointer = frame;
}

inline void switch_registers(Fiber& from, Fiber& to) {
  simt_switch_stack(&from.stack_pointer, to.stack_pointer);
}

#else

inline ucontext_t* returning = nullptr;
inline Fiber* starting = nullptr;
inline void (*starting_entry)() = nullptr;

// swapcontext makes a stack's first frame, but is a system call; from then on there are jumps.
inline void start() {
  void (*entry)() = starting_entry;
  if (_setjmp(starting->registers) == 0) setcontext(returning);
  entry();
}

inline void prepare(Fiber& fiber, void (*entry)()) {
  ucontext_t here, there;
  getcontext(&there);
  there.uc_stack.ss_sp = fiber.stack;
  there.uc_stack.ss_size = fiber.stack_bytes;
  there.uc_link = nullptr;
  returning = &here;
  starting = &fiber;
  starting_entry = entry;
  makecontext(&there, start, 0);
  swapcontext(&here, &there);
}

inline void switch_registers(Fiber& from, Fiber& to) {
  if (_setjmp(from.registers) == 0) _longjmp(to.registers, 1);
}

#endif

// Goes on where `to` was left, or was prepared to begin; returns when someone switches to `from`.
inline void switch_fiber(Fiber& from, Fiber& to) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&from.asan_stack, to.stack, to.stack_bytes);
#endif
  switch_registers(from, to);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(from.asan_stack, nullptr, nullptr);
#endif
}

// What a fiber's entry does first.
inline void begin_fiber() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

// Makes a Fiber of the calling OS thread's own stack.
inline void adopt_thread([[maybe_unused]] Fiber& fiber) {
#ifdef __SANITIZE_ADDRESS__
  pthread_attr_t attributes;
  void* stack = nullptr;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &stack, &fiber.stack_bytes);
  pthread_attr_destroy(&attributes);
  fiber.stack = static_cast<char*>(stack);
#endif
}

// Address space for `count` stacks. Below each lies a page that must not be touched: a thread that
// uses more than its stack ends the process instead of writing over another's.
class Stacks {
 public:
#ifdef __SANITIZE_ADDRESS__
  static constexpr size_t stack_bytes = 256 * 1024;
#else
  static constexpr size_t stack_bytes = 64 * 1024;
#endif

  explicit Stacks(size_t count) : count_(count), page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    slot_ = page_ + stack_bytes + page_;  // guard, stack, skew
    void* p = mmap(nullptr, count_ * slot_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<char*>(p);
  }
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  ~Stacks() { munmap(base_, count_ * slot_); }

  const char* begin() const { return base_; }
  const char* end() const { return base_ + count_ * slot_; }

  // The i-th stack, for the first time.
  void give(Fiber& fiber, size_t i) const {
    char* low = base_ + i * slot_ + page_;
    if (mprotect(low, stack_bytes + page_, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    // Tops at the same place of every page would all compete for the same lines of the cache.
    const size_t skew = i * (17 * 64) % page_;
    fiber.stack = low;
    fiber.stack_bytes = stack_bytes + page_ - skew;
  }

 private:
  size_t count_, page_, slot_;
  char* base_;
};

// A stack that was left in the middle of things is to be used again.
inline void forget_frames([[maybe_unused]] Fiber& fiber) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);
#endif
}

}  // namespace simt
