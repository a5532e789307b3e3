// The instructions of csrc/cuda/ptx.h, which says what each one does, as C++ for the simulator. A
// register of a fragment is an element of an array; the last lane to come computes for the warp.
#pragma once
#include "simt.h"

namespace tilegrad {
namespace cuda {
namespace ptx {

constexpr int compute_capability = 80;
constexpr bool has_sm80 = true;

namespace emulated {

constexpr uint32_t all_lanes = 0xffffffffu;

// A GPU faults, or reads something else, where a copy's address is not a multiple of its size.
SIMT_EMULATED void require_aligned(const void* p, int bytes, const char* name, simt::Site site) {
  if (reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(bytes) != 0) {
    simt::fail_format(site, "%s: the address is not a multiple of %d bytes", name, bytes);
  }
}

SIMT_EMULATED void require_shared(const void* p, const char* name, simt::Site site) {
  const simt::Memory& memory = simt::memory();
  const bool known = memory.static_shared.size() > 0;  // it is not under AddressSanitizer
  if (known && !memory.static_shared.contains(p) && !memory.dynamic_shared.contains(p)) {
    simt::fail_format(site, "%s: the address is not in shared memory", name);
  }
}

SIMT_EMULATED void require_all(uint32_t lanes, const char* name, simt::Site site) {
  if (lanes != all_lanes) {
    simt::fail_format(site, "%s: needs all 32 lanes of the warp, and some have exited", name);
  }
}

// --- ldmatrix ------------------------------------------------------------------------------------

struct MatrixRow {
  uint32_t* fragment;  // one register for each matrix
  const uint16_t* row;
  simt::Site site;
};

// Lane i's row is row i % 8 of matrix i / 8.
template <int count, bool transposed>
SIMT_EMULATED void load_matrices(void* const* arguments, uint32_t lanes) {
  const auto* const* rows = reinterpret_cast<const MatrixRow* const*>(arguments);
  require_all(lanes, "ldmatrix", rows[__builtin_ctz(lanes)]->site);
  for (int j = 0; j < count; ++j) {
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4;
      uint32_t low, high;
      if (transposed) {
        low = rows[8 * j + 2 * t]->row[g];
        high = rows[8 * j + 2 * t + 1]->row[g];
      } else {
        low = rows[8 * j + g]->row[2 * t];
        high = rows[8 * j + g]->row[2 * t + 1];
      }
      rows[lane]->fragment[j] = high << 16 | low;
    }
  }
}

template <int count, bool transposed>
SIMT_EMULATED void ldmatrix(uint32_t* fragment, const void* row, simt::Site site,
                            const void* caller) {
  static_assert(count == 1 || count == 2 || count == 4, "ldmatrix loads 1, 2 or 4 matrices");
  require_aligned(row, 16, "ldmatrix", site);
  require_shared(row, "ldmatrix", site);
  if (simt::lane() < 8 * count) simt::trace::access(row, 16, false, false, caller);
  MatrixRow mine{fragment, static_cast<const uint16_t*>(row), site};
  simt::warp_collective(all_lanes, "ldmatrix", site, &mine, load_matrices<count, transposed>);
}

// --- mma -----------------------------------------------------------------------------------------

SIMT_EMULATED float tf32_value(uint32_t bits) { return simt::bits_as<float>(bits & 0xffffe000); }

SIMT_EMULATED float bf16_value(uint32_t bits) { return simt::bits_as<float>(bits << 16); }

SIMT_EMULATED float f16_value(uint32_t bits) {
  const uint32_t sign = (bits & 0x8000) << 16, exponent = bits >> 10 & 31, mantissa = bits & 1023;
  uint32_t magnitude = (exponent + 112) << 23 | mantissa << 13;
  if (exponent == 31) magnitude = 0x7f800000 | mantissa << 13;
  if (exponent == 0) magnitude = simt::bits_as<uint32_t>(static_cast<float>(mantissa) * 0x1p-24f);
  return simt::bits_as<float>(sign | magnitude);
}

struct Fragments {
  float* d;
  const uint32_t *a, *b;
  simt::Site site;
};

// d += a b for a (16, k), b (k, 8), k = 8 width, with `width` elements in a register. The sums are
// float, along k in order.
template <int width, float (*value)(uint32_t)>
SIMT_EMULATED void multiply(void* const* arguments, uint32_t lanes) {
  const auto* const* fragments = reinterpret_cast<const Fragments* const*>(arguments);
  require_all(lanes, "mma", fragments[__builtin_ctz(lanes)]->site);
  constexpr int k = 8 * width;
  float a[16][k], b[k][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int part = 0; part < width; ++part) {
      const int first = width * t + part;
      for (int i = 0; i < 4; ++i) {
        const uint32_t bits = fragments[lane]->a[i] >> 16 * part;
        a[g + 8 * (i % 2)][first + k / 2 * (i / 2)] = value(width == 1 ? bits : bits & 0xffff);
      }
      for (int i = 0; i < 2; ++i) {
        const uint32_t bits = fragments[lane]->b[i] >> 16 * part;
        b[first + k / 2 * i][g] = value(width == 1 ? bits : bits & 0xffff);
      }
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
      float sum = fragments[lane]->d[i];
      for (int p = 0; p < k; ++p) sum += a[row][p] * b[p][column];
      fragments[lane]->d[i] = sum;
    }
  }
}

template <int width, float (*value)(uint32_t)>
SIMT_EMULATED void mma(float* d, const uint32_t* a, const uint32_t* b, const char* name,
                       simt::Site site) {
  Fragments mine{d, a, b, site};
  simt::warp_collective(all_lanes, name, site, &mine, multiply<width, value>);
}

// --- conversions ---------------------------------------------------------------------------------

SIMT_EMULATED uint32_t bf16_bits(float x) {
  const uint32_t bits = simt::bits_as<uint32_t>(x);
  return isnan(x) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

SIMT_EMULATED uint32_t f16_bits(float x) {
  const uint32_t bits = simt::bits_as<uint32_t>(x);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (isnan(x)) return 0x7fff;
  if (fabsf(x) >= 65520) return sign | 0x7c00;
  if (fabsf(x) < 0x1p-14f) {  // a float's unit at 0.5 is f16's smallest number: the sum rounds
    return sign | (simt::bits_as<uint32_t>(fabsf(x) + 0.5f) - simt::bits_as<uint32_t>(0.5f));
  }
  const uint32_t rounded = (magnitude + 0xfff + (magnitude >> 13 & 1)) >> 13;
  return sign | (rounded - (112 << 10));  // the exponents' biases are 127 and 15
}

}  // namespace emulated

// --- the instructions, in the order of ptx.h -----------------------------------------------------

template <int bytes>
SIMT_EMULATED void cp_async(void* shared, const void* global, int source_bytes = bytes,
                            simt::Site site = simt::here()) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
  emulated::require_aligned(shared, bytes, "cp.async", site);
  emulated::require_shared(shared, "cp.async", site);
  if (source_bytes > 0) emulated::require_aligned(global, bytes, "cp.async", site);
  if (source_bytes < 0 || source_bytes > bytes) {
    simt::fail_format(site, "cp.async: reads 0 to %d bytes, not %d", bytes, source_bytes);
  }
  simt::async_copy(shared, global, bytes, source_bytes, SIMT_CALLER);
}

SIMT_EMULATED void cp_async_commit() { simt::async_commit(); }

template <int pending>
SIMT_EMULATED void cp_async_wait_group() {
  simt::async_wait(pending);
}

template <int count>
SIMT_EMULATED void ldmatrix(uint32_t (&fragment)[count], const void* row,
                            simt::Site site = simt::here()) {
  emulated::ldmatrix<count, false>(fragment, row, site, SIMT_CALLER);
}

template <int count>
SIMT_EMULATED void ldmatrix_trans(uint32_t (&fragment)[count], const void* row,
                                  simt::Site site = simt::here()) {
  emulated::ldmatrix<count, true>(fragment, row, site, SIMT_CALLER);
}

SIMT_EMULATED void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                    simt::Site site = simt::here()) {
  emulated::mma<1, emulated::tf32_value>(d, a, b, "mma.m16n8k8.tf32", site);
}

SIMT_EMULATED void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                     simt::Site site = simt::here()) {
  emulated::mma<2, emulated::bf16_value>(d, a, b, "mma.m16n8k16.bf16", site);
}

SIMT_EMULATED void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                    simt::Site site = simt::here()) {
  emulated::mma<2, emulated::f16_value>(d, a, b, "mma.m16n8k16.f16", site);
}

SIMT_EMULATED uint32_t cvt_rna_tf32(float x) {
  const uint32_t bits = simt::bits_as<uint32_t>(x);
  return isnan(x) ? 0x7fffffff : (bits + 0x1000) & 0xffffe000;
}

SIMT_EMULATED uint32_t cvt_rn_bf16x2(float low, float high) {
  return emulated::bf16_bits(high) << 16 | emulated::bf16_bits(low);
}

SIMT_EMULATED uint32_t cvt_rn_f16x2(float low, float high) {
  return emulated::f16_bits(high) << 16 | emulated::f16_bits(low);
}

SIMT_EMULATED float ld_global_nc(const float* global) {
  simt::trace::access(global, 4, false, false, SIMT_CALLER);
  return *global;
}

SIMT_EMULATED float4 ld_global_nc(const float4* global, simt::Site site = simt::here()) {
  emulated::require_aligned(global, 16, "ld.global.nc", site);
  simt::trace::access(global, 16, false, false, SIMT_CALLER);
  float4 x;
  __builtin_memcpy(static_cast<void*>(&x), global, sizeof x);
  return x;
}

SIMT_EMULATED void st_global_cs(float* global, float x) {
  simt::trace::access(global, 4, true, false, SIMT_CALLER);
  *global = x;
}

SIMT_EMULATED void st_global_cs(float4* global, const float4& x, simt::Site site = simt::here()) {
  emulated::require_aligned(global, 16, "st.global.cs", site);
  simt::trace::access(global, 16, true, false, SIMT_CALLER);
  __builtin_memcpy(static_cast<void*>(global), &x, sizeof x);
}

}  // namespace ptx
}  // namespace cuda
}  // namespace tilegrad
