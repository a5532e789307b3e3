#include "cpu_features.h"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace tilegrad {

#if defined(__x86_64__)

namespace {

struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf) {
  Registers r;
  __get_cpuid_count(leaf, 0, &r.a, &r.b, &r.c, &r.d);
  return r;
}

// The register states that the operating system saves (XCR0); 0 without XSAVE.
uint64_t saved_states() {
  if (!(cpuid(1).c & bit_OSXSAVE)) return 0;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

}  // namespace

std::string cannot_run(const std::string& isa) {
  if (isa == "base") return "";
  constexpr uint64_t ymm = 0x6, zmm = 0xe6;  // SSE + AVX; the same + opmask + both halves of ZMM
  const Registers one = cpuid(1), seven = cpuid(7);
  const bool avx2 = (one.c & bit_FMA) && (one.c & bit_F16C) && (seven.b & bit_AVX2);
  if (!avx2) return "this CPU has no AVX2 with FMA";
  if ((saved_states() & ymm) != ymm) return "the operating system does not save AVX registers";
  if (isa == "avx2") return "";
  constexpr unsigned avx512 = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
  if ((seven.b & avx512) != avx512) return "this CPU has no AVX-512 (F, DQ, BW, VL)";
  if ((saved_states() & zmm) != zmm) return "the operating system does not save AVX-512 registers";
  return "";
}

#else

std::string cannot_run(const std::string& isa) {
  return isa == "base" ? "" : "this is not an x86-64 CPU";
}

#endif

}  // namespace tilegrad
