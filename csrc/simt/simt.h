// CUDA's language and host functions as C++: what a .cu file sees without nvcc. The threads of a
// block run as fibers on the calling thread (runtime.cpp), one block after another.
//
// Emulated instructions (ptx.h) are made of simt::warp_collective and simt::async_copy, runtime.h.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>  // before __noinline__ becomes a macro
#include <tuple>
#include <type_traits>
#include <utility>

#include "runtime.h"
#include "trace.h"

// --- keywords ------------------------------------------------------------------------------------

// Default visibility puts a kernel's name into the symbol table, for reports. (It also makes shared
// arrays of templates unique in the process, two libraries' in one: compile with -fno-gnu-unique.)
#define __global__ __attribute__((visibility("default")))
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__

// Thread-local storage can be found and poisoned as a whole, but AddressSanitizer does not guard it.
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

// --- vector types --------------------------------------------------------------------------------

namespace simt {

#ifdef TILEGRAD_SIM_TRACE
// The compiler takes vectors apart; a GPU moves one by a single instruction. Here their own copy
// functions report one access. (Shared arrays of them would have guards, if they did not begin with
// constants.)
SIMT_LOCAL void copy_vector(void* to, const void* from, int bytes, const void* caller);
#define SIMT_VECTOR_COPY(Vector)                                                          \
  SIMT_EMULATED Vector(const Vector& v) { copy_vector(this, &v, sizeof v, SIMT_CALLER); } \
  SIMT_EMULATED Vector& operator=(const Vector& v) {                                      \
    copy_vector(this, &v, sizeof v, SIMT_CALLER);                                         \
    return *this;                                                                         \
  }
#endif

template <class T>
struct alignas(2 * sizeof(T)) Vector2 {
  T x, y;
#ifdef TILEGRAD_SIM_TRACE
  constexpr Vector2() : x(), y() {}
  constexpr Vector2(T x, T y) : x(x), y(y) {}
  SIMT_VECTOR_COPY(Vector2)
#endif
};

template <class T>
struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) Vector4 {
  T x, y, z, w;
#ifdef TILEGRAD_SIM_TRACE
  constexpr Vector4() : x(), y(), z(), w() {}
  constexpr Vector4(T x, T y, T z, T w) : x(x), y(y), z(z), w(w) {}
  SIMT_VECTOR_COPY(Vector4)
#endif
};

}  // namespace simt

using int2 = simt::Vector2<int>;
using uint2 = simt::Vector2<unsigned>;
using float2 = simt::Vector2<float>;
using double2 = simt::Vector2<double>;
using longlong2 = simt::Vector2<long long>;
using ulonglong2 = simt::Vector2<unsigned long long>;
using char4 = simt::Vector4<signed char>;
using uchar4 = simt::Vector4<unsigned char>;
using int4 = simt::Vector4<int>;
using uint4 = simt::Vector4<unsigned>;
using float4 = simt::Vector4<float>;

inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline longlong2 make_longlong2(long long x, long long y) { return {x, y}; }
inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) { return {x, y}; }
inline char4 make_char4(signed char x, signed char y, signed char z, signed char w) {
  return {x, y, z, w};
}
inline uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w) {
  return {x, y, z, w};
}
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct int3 {
  int x, y, z;
};
struct uint3 {
  unsigned x, y, z;
};
struct float3 {
  float x, y, z;
};
inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};

// Of the thread that runs. Plain variables: the runtime sets them whenever another one goes on.
extern SIMT_LOCAL uint3 threadIdx, blockIdx;
extern SIMT_LOCAL dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// --- barriers and warp operations ----------------------------------------------------------------

// __activemask is left out: its value depends on the machine.

SIMT_LOCAL void __syncthreads(simt::Site site = simt::here());
SIMT_LOCAL int __syncthreads_or(int predicate, simt::Site site = simt::here());
SIMT_LOCAL int __syncthreads_and(int predicate, simt::Site site = simt::here());
SIMT_LOCAL int __syncthreads_count(int predicate, simt::Site site = simt::here());
SIMT_LOCAL void __syncwarp(unsigned mask = 0xffffffffu, simt::Site site = simt::here());
SIMT_LOCAL unsigned __ballot_sync(unsigned mask, int predicate, simt::Site site = simt::here());
SIMT_LOCAL int __any_sync(unsigned mask, int predicate, simt::Site site = simt::here());
SIMT_LOCAL int __all_sync(unsigned mask, int predicate, simt::Site site = simt::here());

namespace simt {

enum class Shuffle { index, up, down, exclusive_or };
SIMT_LOCAL uint64_t shuffle(Shuffle kind, uint32_t mask, uint64_t bits, int operand, int width,
                            Site site);

template <class T>
__attribute__((always_inline)) inline T shuffle_value(Shuffle kind, uint32_t mask, T value,
                                                      int operand, int width, Site site) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                "shuffles move numbers of 4 or 8 bytes");
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  bits = shuffle(kind, mask, bits, operand, width, site);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
T reduce_add(uint32_t mask, T value, Site site);
template <class T>
T reduce_min(uint32_t mask, T value, Site site);
template <class T>
T reduce_max(uint32_t mask, T value, Site site);

template <class T>
using Given = std::common_type_t<T>;  // an argument that says nothing about what T is

}  // namespace simt

template <class T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32,
                     simt::Site site = simt::here()) {
  return simt::shuffle_value(simt::Shuffle::index, mask, value, lane, width, site);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                        simt::Site site = simt::here()) {
  return simt::shuffle_value(simt::Shuffle::up, mask, value, static_cast<int>(delta), width, site);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                          simt::Site site = simt::here()) {
  return simt::shuffle_value(simt::Shuffle::down, mask, value, static_cast<int>(delta), width,
                             site);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                         simt::Site site = simt::here()) {
  return simt::shuffle_value(simt::Shuffle::exclusive_or, mask, value, lane_mask, width, site);
}

// int and unsigned; on a GPU from sm_80 on
template <class T>
inline T __reduce_add_sync(unsigned mask, T value, simt::Site site = simt::here()) {
  return simt::reduce_add(mask, value, site);
}
template <class T>
inline T __reduce_min_sync(unsigned mask, T value, simt::Site site = simt::here()) {
  return simt::reduce_min(mask, value, site);
}
template <class T>
inline T __reduce_max_sync(unsigned mask, T value, simt::Site site = simt::here()) {
  return simt::reduce_max(mask, value, site);
}

// --- memory --------------------------------------------------------------------------------------

SIMT_LOCAL void __threadfence();
SIMT_LOCAL void __threadfence_block();

// Each returns the old value. Defined in runtime.cpp for the types that CUDA has.
template <class T>
SIMT_LOCAL T atomicAdd(T* address, simt::Given<T> value);  // int, unsigned, unsigned long long,
                                                           // float, double
template <class T>
SIMT_LOCAL T atomicSub(T* address, simt::Given<T> value);  // int, unsigned
template <class T>
SIMT_LOCAL T atomicMin(T* address, simt::Given<T> value);  // int, unsigned, (unsigned) long long
template <class T>
SIMT_LOCAL T atomicMax(T* address, simt::Given<T> value);
template <class T>
SIMT_LOCAL T atomicExch(T* address, simt::Given<T> value);  // int, unsigned, unsigned long long,
                                                            // float
template <class T>
SIMT_LOCAL T atomicAnd(T* address, simt::Given<T> value);  // int, unsigned, unsigned long long
template <class T>
SIMT_LOCAL T atomicOr(T* address, simt::Given<T> value);
template <class T>
SIMT_LOCAL T atomicXor(T* address, simt::Given<T> value);
template <class T>
SIMT_LOCAL T atomicCAS(T* address, simt::Given<T> expected, simt::Given<T> value);

template <class T>
__forceinline__ T __ldg(const T* p) {
  return *p;
}

[[noreturn]] SIMT_LOCAL void __trap(simt::Site site = simt::here());

// --- arithmetic ----------------------------------------------------------------------------------

using std::isfinite;
using std::isinf;
using std::isnan;

__forceinline__ float rsqrtf(float x) { return 1.0f / sqrtf(x); }
__forceinline__ double rsqrt(double x) { return 1.0 / sqrt(x); }

// Operations that the compiler may not contract into others.
__forceinline__ float __fadd_rn(float a, float b) { return a + b; }
__forceinline__ float __fsub_rn(float a, float b) { return a - b; }
__forceinline__ float __fmul_rn(float a, float b) { return a * b; }
__forceinline__ float __fdiv_rn(float a, float b) { return a / b; }
__forceinline__ float __fsqrt_rn(float x) { return sqrtf(x); }
__forceinline__ float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }

__forceinline__ int min(int a, int b) { return b < a ? b : a; }
__forceinline__ int max(int a, int b) { return a < b ? b : a; }
__forceinline__ unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
__forceinline__ unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
__forceinline__ long min(long a, long b) { return b < a ? b : a; }
__forceinline__ long max(long a, long b) { return a < b ? b : a; }
__forceinline__ unsigned long min(unsigned long a, unsigned long b) { return b < a ? b : a; }
__forceinline__ unsigned long max(unsigned long a, unsigned long b) { return a < b ? b : a; }
__forceinline__ long long min(long long a, long long b) { return b < a ? b : a; }
__forceinline__ long long max(long long a, long long b) { return a < b ? b : a; }
__forceinline__ unsigned long long min(unsigned long long a, unsigned long long b) {
  return b < a ? b : a;
}
__forceinline__ unsigned long long max(unsigned long long a, unsigned long long b) {
  return a < b ? b : a;
}
// As in CUDA, a NaN loses against a number.
__forceinline__ float min(float a, float b) { return fminf(a, b); }
__forceinline__ float max(float a, float b) { return fmaxf(a, b); }
__forceinline__ double min(double a, double b) { return fmin(a, b); }
__forceinline__ double max(double a, double b) { return fmax(a, b); }

namespace simt {

template <class To, class From>
__forceinline__ To bits_as(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}

}  // namespace simt

__forceinline__ int __float_as_int(float x) { return simt::bits_as<int>(x); }
__forceinline__ float __int_as_float(int x) { return simt::bits_as<float>(x); }
__forceinline__ unsigned __float_as_uint(float x) { return simt::bits_as<unsigned>(x); }
__forceinline__ float __uint_as_float(unsigned x) { return simt::bits_as<float>(x); }
__forceinline__ long long __double_as_longlong(double x) { return simt::bits_as<long long>(x); }
__forceinline__ double __longlong_as_double(long long x) { return simt::bits_as<double>(x); }

__forceinline__ int __mulhi(int a, int b) {
  return static_cast<int>(static_cast<int64_t>(a) * b >> 32);
}
__forceinline__ unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
__extension__ using simt_uint128 = unsigned __int128;
__forceinline__ unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<simt_uint128>(a) * b >> 64);
}
__forceinline__ int __popc(unsigned x) { return __builtin_popcount(x); }
__forceinline__ int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
__forceinline__ int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
__forceinline__ int __clzll(long long x) {
  return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
__forceinline__ int __ffs(int x) { return __builtin_ffs(x); }
__forceinline__ int __ffsll(long long x) { return __builtin_ffsll(x); }

// --- launches ------------------------------------------------------------------------------------

namespace simt {

// One for all shared memory that a launch asks for; 128-byte aligned.
extern SIMT_LOCAL unsigned char* dynamic_shared;

struct Launch {
  const void* kernel;
  const char* signature;  // the text of its types, for a kernel that is not in the symbol table
  dim3 grid, block;
  size_t shared_bytes;
  void (*call)(const void* parameters);  // runs the kernel for one thread
  const void* parameters;
  size_t parameter_bytes;
};
SIMT_EXPORT void run(const Launch& launch);

template <class... Parameters>
struct Call {
  void (*kernel)(Parameters...);
  std::tuple<Parameters...> values;

  static const char* signature() { return __PRETTY_FUNCTION__; }
  // Each thread gets copies of its own. Parameters are not memory that the traced build watches.
  __attribute__((no_sanitize("thread"))) static void run(const void* parameters) {
    run(*static_cast<const Call*>(parameters), std::index_sequence_for<Parameters...>());
  }
  template <size_t... i>
  __attribute__((always_inline)) static void run(const Call& call, std::index_sequence<i...>) {
    call.kernel(std::get<i>(call.values)...);
  }
};

}  // namespace simt

namespace tilegrad {

using Stream = void*;  // there is one, and it is never behind

// Runs kernel over the grid, with `smem` bytes of dynamic shared memory. Throws simt::Error.
template <class... Parameters, class... Args>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t smem, Stream,
            Args... args) {
  const simt::Call<Parameters...> call{kernel, {static_cast<Parameters>(args)...}};
  simt::run({reinterpret_cast<const void*>(kernel), call.signature(), grid, block, smem, call.run,
             &call, sizeof call});
}

template <class T>
__forceinline__ T* dyn_smem() {
  return reinterpret_cast<T*>(simt::dynamic_shared);
}

SIMT_EXPORT void* device_malloc(size_t bytes);
SIMT_EXPORT void device_free(void* p);
SIMT_EXPORT void copy_to_device(void* device, const void* host, size_t bytes);
SIMT_EXPORT void copy_to_host(void* host, const void* device, size_t bytes);
inline void synchronize() {}

SIMT_EXPORT Stream current_stream();
SIMT_EXPORT void set_current_stream(Stream stream);

}  // namespace tilegrad
