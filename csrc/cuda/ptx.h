// PTX instructions, one function each: what C++ has no word for. Kernels call these and hold no
// assembly; in the simulator the same functions are C++ (csrc/simt/ptx_emulated.h). device.h brings in
// the one or the other.
//
// tests/ptx checks each one against the host, unchanged in the simulator and on a GPU. "Confirmed"
// says whether it has passed on a GPU; until then the emulation is only our reading of the manual
// (PTX ISA; the sections are named below).
//
// In the layouts of fragments, g = lane / 4 and t = lane % 4.
#pragma once
#include <type_traits>

namespace tilegrad {
namespace cuda {
namespace ptx {

#ifdef __CUDA_ARCH__
constexpr int compute_capability = __CUDA_ARCH__ / 10;
#else
constexpr int compute_capability = 0;  // the host's pass, which never runs what follows
#endif

// Whether this code is for sm_80 or later: cp.async, and mma.sync on tf32 and bf16.
constexpr bool has_sm80 = compute_capability >= 80;

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// --- asynchronous copies to shared memory --------------------------------------------------------

// cp.async.ca, for 16 bytes .cg (which passes L1 by), .shared.global, `bytes` = 4, 8 or 16:
// shared[0 : source_bytes] = global, the rest up to `bytes` = 0. Both addresses are multiples of
// `bytes`; with source_bytes = 0 nothing is read. The data are there for this thread after its
// wait, for others after a barrier behind that. Before sm_80 it is an ordinary copy, done at once.
// PTX ISA: Data Movement and Conversion Instructions: cp.async. Confirmed on a GPU: no.
template <int bytes>
__device__ __forceinline__ void cp_async(void* shared, const void* global,
                                         int source_bytes = bytes) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
  if constexpr (has_sm80) {
    if constexpr (bytes == 16) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                   "l"(__cvta_generic_to_global(global)), "r"(source_bytes)
                   : "memory");
    } else {
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)),
                   "l"(__cvta_generic_to_global(global)), "n"(bytes), "r"(source_bytes)
                   : "memory");
    }
  } else if (source_bytes == bytes) {
    using Word = std::conditional_t<bytes == 16, uint4, std::conditional_t<bytes == 8, uint2, int>>;
    *static_cast<Word*>(shared) = *static_cast<const Word*>(global);
  } else {
    auto* y = static_cast<unsigned char*>(shared);
    auto* x = static_cast<const unsigned char*>(global);
    for (int i = 0; i < bytes; ++i) y[i] = i < source_bytes ? x[i] : 0;
  }
}

// cp.async.commit_group: this thread's copies since the last commit become a group.
// PTX ISA: cp.async.commit_group. Confirmed on a GPU: no.
__device__ __forceinline__ void cp_async_commit() {
  if constexpr (has_sm80) asm volatile("cp.async.commit_group;" ::: "memory");
}

// cp.async.wait_group: waits until at most `pending` of this thread's newest groups are under way.
// PTX ISA: cp.async.wait_group / cp.async.wait_all. Confirmed on a GPU: no.
template <int pending>
__device__ __forceinline__ void cp_async_wait_group() {
  if constexpr (has_sm80) asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// --- matrix fragments from shared memory ---------------------------------------------------------

// ldmatrix.sync.aligned.m8n8.x1 / .x2 / .x4.shared.b16: `count` = 1, 2 or 4 matrices of 8 rows of 8
// two-byte elements. Lane i gives the address, a multiple of 16, of row i % 8 of matrix i / 8 (and
// lanes past the last row any valid one). fragment[j] holds matrix j's elements (g, 2t) in its low
// half and (g, 2t + 1) in its high half. All lanes of the warp take part.
// PTX ISA: Warp-level Matrix Load Instruction: ldmatrix. Confirmed on a GPU: no.
template <int count>
__device__ __forceinline__ void ldmatrix(uint32_t (&fragment)[count], const void* row) {
  static_assert(count == 1 || count == 2 || count == 4, "ldmatrix loads 1, 2 or 4 matrices");
  if constexpr (count == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(fragment[0])
                 : "r"(shared_address(row))
                 : "memory");
  } else if constexpr (count == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(fragment[0]), "=r"(fragment[1])
                 : "r"(shared_address(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(shared_address(row))
                 : "memory");
  }
}

// ldmatrix with .trans: fragment[j] holds matrix j's elements (2t, g) low and (2t + 1, g) high.
// PTX ISA: Warp-level Matrix Load Instruction: ldmatrix. Confirmed on a GPU: no.
template <int count>
__device__ __forceinline__ void ldmatrix_trans(uint32_t (&fragment)[count], const void* row) {
  static_assert(count == 1 || count == 2 || count == 4, "ldmatrix loads 1, 2 or 4 matrices");
  if constexpr (count == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(fragment[0])
                 : "r"(shared_address(row))
                 : "memory");
  } else if constexpr (count == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(fragment[0]), "=r"(fragment[1])
                 : "r"(shared_address(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(shared_address(row))
                 : "memory");
  }
}

// --- tensor cores: d += a b ----------------------------------------------------------------------
// a (16, k) by rows, b (k, 8) by columns, d (16, 8) float: d[0], d[1] are (g, 2t), (g, 2t + 1) and
// d[2], d[3] the same of row g + 8. All lanes of the warp take part. The hardware orders the sums.

// mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32. Operands are floats as bits, of which the low
// 13 are ignored: round them first (cvt_rna_tf32).
// a: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)     b: (t, g), (t + 4, g)
// PTX ISA: Matrix Fragments for mma.m16n8k8. sm_80 and later. Confirmed on a GPU: no.
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2]) {
  if constexpr (has_sm80) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    __trap();
  }
}

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32. A register holds two elements that follow
// each other along k, the first one in its low half; these are the places of the first ones:
// a: (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)     b: (2t, g), (2t + 8, g)
// PTX ISA: Matrix Fragments for mma.m16n8k16 with floating point type. sm_80 and later.
// Confirmed on a GPU: no.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
  if constexpr (has_sm80) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    __trap();
  }
}

// mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32, laid out as for bf16. Before sm_80 two
// m16n8k8, each with one half of k: a[0], a[1], b[0] and a[2], a[3], b[1].
// PTX ISA: Matrix Fragments for mma.m16n8k16 with floating point type. Confirmed on a GPU: no.
__device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2]) {
  if constexpr (has_sm80) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    for (int half = 0; half < 2; ++half) {
      asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
          "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
    }
  }
}

// --- conversions ---------------------------------------------------------------------------------

// cvt.rna.tf32.f32: to 10 bits of mantissa, to nearest, ties away from zero; the low 13 bits become
// 0. Before sm_80 the same by integer arithmetic.
// PTX ISA: Data Movement and Conversion Instructions: cvt. Confirmed on a GPU: no.
__device__ __forceinline__ uint32_t cvt_rna_tf32(float x) {
  uint32_t y;
  if constexpr (has_sm80) {
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  } else {
    y = __float_as_uint(x);
    if (!isnan(x)) y = (y + 0x1000) & 0xffffe000;
  }
  return y;
}

// cvt.rn.bf16x2.f32: two floats as bf16 in one register, to nearest, ties to even; NaN stays NaN.
// Before sm_80 the same by integer arithmetic.
// PTX ISA: Data Movement and Conversion Instructions: cvt. Confirmed on a GPU: no.
__device__ __forceinline__ uint32_t cvt_rn_bf16x2(float low, float high) {
  uint32_t y;
  if constexpr (has_sm80) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  } else {
    auto rounded = [](float x) -> uint32_t {
      const uint32_t bits = __float_as_uint(x);
      return isnan(x) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    };
    y = rounded(high) << 16 | rounded(low);
  }
  return y;
}

// cvt.rn.f16x2.f32: two floats as f16 in one register, to nearest, ties to even; NaN stays NaN.
// Before sm_80 two cvt.rn.f16.f32.
// PTX ISA: Data Movement and Conversion Instructions: cvt. Confirmed on a GPU: no.
__device__ __forceinline__ uint32_t cvt_rn_f16x2(float low, float high) {
  uint32_t y;
  if constexpr (has_sm80) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  } else {
    uint16_t first, second;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(first) : "f"(low));
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(second) : "f"(high));
    y = static_cast<uint32_t>(second) << 16 | first;
  }
  return y;
}

// --- memory that is used once --------------------------------------------------------------------

// ld.global.nc.L1::no_allocate: a load of what nobody writes during this launch and nobody reads
// again soon. The vector's address is a multiple of 16.
// PTX ISA: Data Movement and Conversion Instructions: ld.global.nc. Confirmed on a GPU: no.
__device__ __forceinline__ float ld_global_nc(const float* global) {
  float x;
  asm volatile("ld.global.nc.L1::no_allocate.f32 %0, [%1];"
               : "=f"(x)
               : "l"(__cvta_generic_to_global(global)));
  return x;
}
__device__ __forceinline__ float4 ld_global_nc(const float4* global) {
  float4 x;
  asm volatile("ld.global.nc.L1::no_allocate.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "l"(__cvta_generic_to_global(global)));
  return x;
}

// st.global.cs: a store of what is not read again soon. The vector's address is a multiple of 16.
// PTX ISA: Data Movement and Conversion Instructions: st. Confirmed on a GPU: no.
__device__ __forceinline__ void st_global_cs(float* global, float x) {
  asm volatile("st.global.cs.f32 [%0], %1;" ::"l"(__cvta_generic_to_global(global)), "f"(x)
               : "memory");
}
__device__ __forceinline__ void st_global_cs(float4* global, float4 x) {
  asm volatile(
      "st.global.cs.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(global)),
      "f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w)
      : "memory");
}

}  // namespace ptx
}  // namespace cuda
}  // namespace tilegrad
