// Float vectors and their mathematics: the only file that knows the width of the registers.
//
// Vec is a GCC / clang vector: + - * / and comparisons work on it directly; a comparison gives an
// IVec mask of 0 and -1. exp, log, tanh and sigmoid are within 3 ulp over the whole range of float
// (the tail of the normal distribution within 6), right at 0, infinity, NaN and denormals. One
// source serves every ISA, so results differ between ISAs only by rounding.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define TILEGRAD_INLINE inline __attribute__((always_inline))

namespace tilegrad {

#if defined(__AVX512F__)
constexpr int width = 16;
#elif defined(__AVX2__)
constexpr int width = 8;
#else
constexpr int width = 4;
#endif

using Vec = float __attribute__((vector_size(width * 4)));
using IVec = int32_t __attribute__((vector_size(width * 4)));
using UVec = uint32_t __attribute__((vector_size(width * 4)));
using Quad = float __attribute__((vector_size(16)));  // on every ISA

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float quiet_nan = std::numeric_limits<float>::quiet_NaN();

// ---- registers and memory ----

TILEGRAD_INLINE Vec splat(float x) { return x - Vec{}; }
TILEGRAD_INLINE IVec splat_int(int32_t x) { return x - IVec{}; }

TILEGRAD_INLINE UVec bits(Vec x) { return reinterpret_cast<UVec>(x); }
TILEGRAD_INLINE Vec from_bits(UVec x) { return reinterpret_cast<Vec>(x); }
TILEGRAD_INLINE Vec to_float(IVec x) { return __builtin_convertvector(x, Vec); }

TILEGRAD_INLINE IVec lane_numbers() {
  IVec v;
  for (int i = 0; i < width; ++i) v[i] = i;
  return v;
}

// mask of the first `count` lanes
TILEGRAD_INLINE IVec first_lanes(int64_t count) {
  return lane_numbers() < splat_int(static_cast<int32_t>(count));
}

TILEGRAD_INLINE Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

TILEGRAD_INLINE void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

TILEGRAD_INLINE Quad load_quad(const float* p) {
  Quad q;
  std::memcpy(&q, p, sizeof q);
  return q;
}

TILEGRAD_INLINE void store_quad(float* p, Quad q) { std::memcpy(p, &q, sizeof q); }

// The first `count` <= width lanes; memory behind them is not touched and the other lanes are 0.
TILEGRAD_INLINE Vec load_partial(const float* p, int64_t count) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
#elif defined(__AVX2__)
  return _mm256_maskload_ps(p, reinterpret_cast<__m256i>(first_lanes(count)));
#else
  Vec v{};
  for (int64_t i = 0; i < count; ++i) v[i] = p[i];
  return v;
#endif
}

TILEGRAD_INLINE void store_partial(float* p, Vec v, int64_t count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), v);
#elif defined(__AVX2__)
  _mm256_maskstore_ps(p, reinterpret_cast<__m256i>(first_lanes(count)), v);
#else
  for (int64_t i = 0; i < count; ++i) p[i] = v[i];
#endif
}

// lane i holds x[lanes[i] mod width]
TILEGRAD_INLINE Vec permute(Vec x, IVec lanes) {
#if defined(__AVX512F__)
  return _mm512_maskz_permutexvar_ps(0xffff, reinterpret_cast<__m512i>(lanes), x);
#elif defined(__AVX2__)
  return _mm256_permutevar8x32_ps(x, reinterpret_cast<__m256i>(lanes));
#else
  Vec v;
  for (int i = 0; i < width; ++i) v[i] = x[lanes[i] & (width - 1)];
  return v;
#endif
}

// ---- bytes ----

// `count` <= width bytes as integers; memory behind them is not touched and the other lanes are 0.
TILEGRAD_INLINE IVec load_bytes(const uint8_t* p, int64_t count) {
#if defined(__AVX512F__)
  return reinterpret_cast<IVec>(_mm512_maskz_cvtepu8_epi32(
      0xffff, _mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << count) - 1), p)));
#else
  uint64_t packed = 0;  // in a general register: on the stack it would wait for the store before it
  if (count == width)
    std::memcpy(&packed, p, width);
  else
    for (int64_t i = 0; i < count; ++i) packed |= uint64_t{p[i]} << (8 * i);
#if defined(__SSE2__)
  const __m128i b = _mm_cvtsi64_si128(static_cast<long long>(packed));
#if defined(__AVX2__)
  return reinterpret_cast<IVec>(_mm256_cvtepu8_epi32(b));
#else
  const __m128i zero{};  // interleaved with zeros twice, little-endian
  return reinterpret_cast<IVec>(_mm_unpacklo_epi16(_mm_unpacklo_epi8(b, zero), zero));
#endif
#else
  IVec v;
  for (int i = 0; i < width; ++i) v[i] = static_cast<int32_t>(packed >> (8 * i) & 0xff);
  return v;
#endif
#endif
}

// The first `count` <= width lanes, 0 to 255 each.
TILEGRAD_INLINE void store_bytes(uint8_t* p, IVec v, int64_t count) {
#if defined(__AVX512F__)
  _mm_mask_storeu_epi8(p, static_cast<__mmask16>((1u << count) - 1),
                       _mm512_maskz_cvtepi32_epi8(0xffff, reinterpret_cast<__m512i>(v)));
#else
#if defined(__SSE2__)
  __m128i half[2];  // the second is used with 8 lanes
  std::memcpy(half, &v, sizeof v);
  const __m128i words = _mm_packs_epi32(half[0], half[width / 8]);
  const auto packed = static_cast<uint64_t>(_mm_cvtsi128_si64(_mm_packus_epi16(words, words)));
#else
  uint64_t packed = 0;
  for (int i = 0; i < width; ++i) packed |= uint64_t{static_cast<uint8_t>(v[i])} << (8 * i);
#endif
  if (count == width)
    std::memcpy(p, &packed, width);
  else
    for (int64_t i = 0; i < count; ++i) p[i] = static_cast<uint8_t>(packed >> (8 * i));
#endif
}

// While one is alive, its thread takes denormal numbers for 0 and makes none.
class FlushDenormals {
 public:
#if defined(__SSE2__)
  FlushDenormals() { _mm_setcsr(saved_ | 0x8040); }  // flush to zero, denormals are zero
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  const unsigned saved_ = _mm_getcsr();
#elif defined(__aarch64__)
  FlushDenormals() { set(saved_ | uint64_t{1} << 24); }
  ~FlushDenormals() { set(saved_); }

 private:
  static uint64_t get() {
    uint64_t fpcr;
    asm volatile("mrs %0, fpcr" : "=r"(fpcr));
    return fpcr;
  }
  static void set(uint64_t fpcr) { asm volatile("msr fpcr, %0" : : "r"(fpcr) : "memory"); }
  const uint64_t saved_ = get();
#endif
};

// ---- arithmetic ----

TILEGRAD_INLINE Vec select(IVec mask, Vec a, Vec b) { return mask ? a : b; }
TILEGRAD_INLINE IVec select(IVec mask, IVec a, IVec b) { return mask ? a : b; }

// a b + c, rounded once where the machine can
TILEGRAD_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

// a > b ? a : b and a < b ? a : b; with a NaN in either operand the result is b. x86 has an
// instruction for that, which GCC does not find by itself.
TILEGRAD_INLINE Vec max(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(0xffff, a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#elif defined(__SSE2__)
  return _mm_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

TILEGRAD_INLINE Vec min(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_maskz_min_ps(0xffff, a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#elif defined(__SSE2__)
  return _mm_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

// NaN wins, as in NumPy
TILEGRAD_INLINE Vec maximum(Vec a, Vec b) { return select(a != a, a, max(a, b)); }
TILEGRAD_INLINE Vec minimum(Vec a, Vec b) { return select(a != a, a, min(a, b)); }

TILEGRAD_INLINE Vec sqrt(Vec x) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_ps(0xffff, x);  // the unmasked form makes GCC 12 warn
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#elif defined(__SSE2__)
  return _mm_sqrt_ps(x);
#elif defined(__aarch64__)
  return vsqrtq_f32(x);
#else
  for (int i = 0; i < width; ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

// the two halves of the 64-bit products a[i] b
struct WideProduct {
  UVec low, high;
};

TILEGRAD_INLINE WideProduct multiply_wide(UVec a, uint32_t b) {
#if defined(__SSE2__)
  // the machine multiplies the even lanes; the odd ones are moved there and back
  using Wide = uint64_t __attribute__((vector_size(width * 4)));
  const auto even_lanes = [](UVec x, uint32_t y) {
    const UVec z = y - UVec{};
#if defined(__AVX512F__)
    return reinterpret_cast<Wide>(
        _mm512_maskz_mul_epu32(0xff, reinterpret_cast<__m512i>(x), reinterpret_cast<__m512i>(z)));
#elif defined(__AVX2__)
    return reinterpret_cast<Wide>(
        _mm256_mul_epu32(reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(z)));
#else
    return reinterpret_cast<Wide>(
        _mm_mul_epu32(reinterpret_cast<__m128i>(x), reinterpret_cast<__m128i>(z)));
#endif
  };
  const Wide even = even_lanes(a, b);
  const Wide odd = even_lanes(reinterpret_cast<UVec>(reinterpret_cast<Wide>(a) >> 32), b);
  const uint64_t low_half = 0xffffffffu;
  return {reinterpret_cast<UVec>((even & low_half) | (odd << 32)),
          reinterpret_cast<UVec>((even >> 32) | (odd & ~low_half))};
#else
  WideProduct p;
  for (int i = 0; i < width; ++i) {
    const uint64_t product = uint64_t{a[i]} * b;
    p.low[i] = static_cast<uint32_t>(product);
    p.high[i] = static_cast<uint32_t>(product >> 32);
  }
  return p;
#endif
}

TILEGRAD_INLINE Vec abs(Vec x) { return from_bits(bits(x) & 0x7fffffffu); }

TILEGRAD_INLINE Vec copysign(Vec magnitude, Vec sign) {
  return from_bits((bits(magnitude) & 0x7fffffffu) | (bits(sign) & 0x80000000u));
}

// Horizontal reductions: a fixed tree, lane i with lane i + s for s = width / 2, ..., 1.
template <class F>
TILEGRAD_INLINE float reduce_lanes(Vec v, F op) {
  Quad part[width / 4];
  std::memcpy(part, &v, sizeof v);
  for (int s = width / 8; s > 0; s /= 2)
    for (int i = 0; i < s; ++i)
      for (int j = 0; j < 4; ++j) part[i][j] = op(part[i][j], part[i + s][j]);
  return op(op(part[0][0], part[0][2]), op(part[0][1], part[0][3]));
}

TILEGRAD_INLINE float hsum(Vec v) {
  return reduce_lanes(v, [](float a, float b) { return a + b; });
}

// NaN wins
TILEGRAD_INLINE float hmax(Vec v) {
  return reduce_lanes(v, [](float a, float b) { return a > b || a != a ? a : b; });
}

// ---- transposition, in quads of floats: the unit that shuffles move within on every ISA ----

using Lanes = std::make_integer_sequence<int, width>;

// Of each quad of a and b: a0 b0 a1 b1 (Half = 0) or a2 b2 a3 b3 (Half = 2).
template <int Half, int... I>
TILEGRAD_INLINE Vec interleave(Vec a, Vec b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (I / 4 * 4 + Half + I % 4 / 2 + I % 2 * width)...);
}

// Of each quad of a and b: a0 a1 b0 b1 (Half = 0) or a2 a3 b2 b3 (Half = 2).
template <int Half, int... I>
TILEGRAD_INLINE Vec join_halves(Vec a, Vec b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (I / 4 * 4 + Half + I % 2 + I % 4 / 2 * width)...);
}

// Quad q of the result comes from p + 4 q ld.
TILEGRAD_INLINE Vec load_quads(const float* p, int64_t ld) {
#if defined(__AVX512F__) || defined(__AVX2__)
  const auto low =
      __builtin_shufflevector(load_quad(p), load_quad(p + 4 * ld), 0, 1, 2, 3, 4, 5, 6, 7);
#endif
#if defined(__AVX512F__)
  const auto high = __builtin_shufflevector(load_quad(p + 8 * ld), load_quad(p + 12 * ld), 0, 1, 2,
                                            3, 4, 5, 6, 7);
  return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#elif defined(__AVX2__)
  (void)ld;
  return low;
#else
  (void)ld;
  return load_quad(p);
#endif
}

// Within each quad number q: lane i of r[k] becomes lane k of r[i].
TILEGRAD_INLINE void transpose_quads(Vec (&r)[4]) {
  const Vec s0 = interleave<0>(r[0], r[1], Lanes{}), s1 = interleave<0>(r[2], r[3], Lanes{});
  const Vec s2 = interleave<2>(r[0], r[1], Lanes{}), s3 = interleave<2>(r[2], r[3], Lanes{});
  r[0] = join_halves<0>(s0, s1, Lanes{});
  r[1] = join_halves<2>(s0, s1, Lanes{});
  r[2] = join_halves<0>(s2, s3, Lanes{});
  r[3] = join_halves<2>(s2, s3, Lanes{});
}

// dst[p step + j] = b[j ld + p] for p < 4, j < width
TILEGRAD_INLINE void transpose_block(float* dst, int64_t step, const float* b, int64_t ld) {
  Vec r[4];
  for (int i = 0; i < 4; ++i) r[i] = load_quads(b + i * ld, ld);
  transpose_quads(r);
  for (int p = 0; p < 4; ++p) store(dst + p * step, r[p]);
}

// The quads of a and then of b whose numbers are even (Odd = 0) or odd (Odd = 1).
template <int Odd, int... I>
TILEGRAD_INLINE Vec every_other_quad(Vec a, Vec b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (I / 4 * 8 + 4 * Odd + I % 4)...);
}

// dst[p step + j] = b[j ld + p] for p, j < width; reads each line of b once.
TILEGRAD_INLINE void transpose_square(float* dst, int64_t step, const float* b, int64_t ld) {
  constexpr int quads = width / 4;
  Vec r[quads][4];  // quad q of r[g][k] has column p = 4 q + k of the rows from j = 4 g on
  for (int g = 0; g < quads; ++g) {
    for (int i = 0; i < 4; ++i) r[g][i] = load(b + (4 * g + i) * ld);
    transpose_quads(r[g]);
  }
  for (int k = 0; k < 4; ++k) {
    float* const to = dst + k * step;
    if constexpr (quads == 1) store(to, r[0][k]);
    if constexpr (quads == 2) {
      store(to, every_other_quad<0>(r[0][k], r[1][k], Lanes{}));
      store(to + 4 * step, every_other_quad<1>(r[0][k], r[1][k], Lanes{}));
    }
    if constexpr (quads == 4) {
      const Vec e0 = every_other_quad<0>(r[0][k], r[1][k], Lanes{});
      const Vec e1 = every_other_quad<0>(r[2][k], r[3][k], Lanes{});
      const Vec o0 = every_other_quad<1>(r[0][k], r[1][k], Lanes{});
      const Vec o1 = every_other_quad<1>(r[2][k], r[3][k], Lanes{});
      store(to, every_other_quad<0>(e0, e1, Lanes{}));
      store(to + 4 * step, every_other_quad<0>(o0, o1, Lanes{}));
      store(to + 8 * step, every_other_quad<1>(e0, e1, Lanes{}));
      store(to + 12 * step, every_other_quad<1>(o0, o1, Lanes{}));
    }
  }
}

// ---- loops ----

// y[i] = f(x[0][i], x[1][i], ...) for i < count, vector by vector
template <class F, class... P>
TILEGRAD_INLINE void map(float* y, int64_t count, F f, const P*... x) {
  int64_t i = 0;
  for (; i + width <= count; i += width) store(y + i, f(load(x + i)...));
  if (i < count) store_partial(y + i, f(load_partial(x + i, count - i)...), count - i);
}

// The same, and sum_i y[i]: float lanes within blocks of some thousand, double across.
template <class F, class... P>
TILEGRAD_INLINE double map_sum(float* y, int64_t count, F f, const P*... x) {
  constexpr int64_t block = 256 * width;
  constexpr int64_t ahead = 1024;  // a page: the machine's own prefetching ends with it
  double total = 0.0;
  for (int64_t begin = 0; begin < count; begin += block) {
    const int64_t end = count - begin < block ? count : begin + block;
    const auto at = [&](int64_t i) {
      const Vec v = f(load(x + i)...);
      if (y != nullptr) store(y + i, v);
      return v;
    };
    Vec s[4] = {};  // four chains hide the latency of the addition
    int64_t i = begin;
    for (; i + 4 * width <= end; i += 4 * width)
      for (int u = 0; u < 4; ++u) {
        (__builtin_prefetch(x + i + u * width + ahead), ...);
        s[u] += at(i + u * width);
      }
    for (; i + width <= end; i += width) s[0] += at(i);
    if (i < end) {
      const Vec v = f(load_partial(x + i, end - i)...);
      if (y != nullptr) store_partial(y + i, v, end - i);
      s[1] += select(first_lanes(end - i), v, Vec{});
    }
    total += hsum((s[0] + s[1]) + (s[2] + s[3]));
  }
  return total;
}

// sum_i f(x[0][i], x[1][i], ...)
template <class F, class... P>
TILEGRAD_INLINE double sum(int64_t count, F f, const P*... x) {
  return map_sum(nullptr, count, f, x...);
}

// ---- polynomials ----

// c[0] + c[1] x + ... by Horner's rule
template <int N>
TILEGRAD_INLINE Vec polynomial(Vec x, const float (&c)[N]) {
  Vec y = splat(c[N - 1]);
  for (int i = N - 2; i >= 0; --i) y = fma(y, x, splat(c[i]));
  return y;
}

// to the nearest integer, |x| < 2^22: adding 1.5 2^23 leaves no bits behind the point
TILEGRAD_INLINE Vec round(Vec x) {
  const Vec magic = splat(12582912.0f);
  return (x + magic) - magic;
}

// 2^n for an integer -126 <= n <= 127: the sum's low bits are n + 127, the exponent field
TILEGRAD_INLINE Vec power_of_two(Vec n) { return from_bits(bits(n + 12583039.0f) << 23); }

// x 2^n, also where 2^n alone would overflow or the result is denormal: one rounding
TILEGRAD_INLINE Vec scale_by_power(Vec x, Vec n) {
#if defined(__AVX512F__)
  return _mm512_maskz_scalef_ps(0xffff, x, n);
#else
  const Vec half = round(0.5f * n);
  return x * power_of_two(half) * power_of_two(n - half);
#endif
}

// ---- functions ----

// exp(x) - 1 = 2^n (1 + e) - 1 with n = round(x / log 2), r = x - n log 2 and e = exp(r) - 1
struct ExpParts {
  Vec n, e;
};

TILEGRAD_INLINE ExpParts split_exp(Vec x) {
  static constexpr float c[] = {0.5f, 0.166665129f, 4.16661873e-2f, 8.36959841e-3f, 1.39517173e-3f};
  const Vec n = round(x * 1.44269504f);
  // log 2 in two pieces; the first has so few bits that its product with n is exact
  const Vec r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), x));
  return {n, fma(r * r, polynomial(r, c), r)};
}

// exp(x) for |x| < 125
TILEGRAD_INLINE Vec exp_within(Vec x) {
  const ExpParts p = split_exp(x);
  return scale_by_power(1.0f + p.e, p.n);
}

// Beyond these bounds the result is 0 or infinity; min and max in this order let NaN through.
TILEGRAD_INLINE Vec exp(Vec x) { return exp_within(min(splat(89.0f), max(splat(-105.0f), x))); }
TILEGRAD_INLINE Vec exp_nonpositive(Vec x) { return exp_within(max(splat(-105.0f), x)); }

// exp(x) - 1 for x <= 0, without cancellation
TILEGRAD_INLINE Vec expm1_nonpositive(Vec x) {
  const ExpParts p = split_exp(max(splat(-30.0f), x));
  const Vec s = power_of_two(p.n);
  return fma(s, p.e, s - 1.0f);
}

TILEGRAD_INLINE Vec log(Vec x) {
  static constexpr float c[] = {0.333333317f, -0.250008268f, 0.200012357f, -0.166231436f,
                                0.142013732f, -0.131620169f, 0.12765401f,  -7.63432072e-2f};
  const IVec denormal = x < std::numeric_limits<float>::min();
  const Vec z = select(denormal, x * 8388608.0f, x);
  // z = 2^k (1 + f), sqrt(1/2) <= 1 + f < sqrt(2)
  const IVec k = reinterpret_cast<IVec>(bits(z) - 0x3f3504f3u) >> 23;
  const Vec f = from_bits(bits(z) - (reinterpret_cast<UVec>(k) << 23)) - 1.0f;
  const Vec n = to_float(k) - select(denormal, splat(23.0f), Vec{});
  const Vec f2 = f * f;
  Vec y = fma(f2 * f, polynomial(f, c), n * -2.12194440e-4f);
  y = fma(n, splat(0.693359375f), fma(f2, splat(-0.5f), y) + f);
  y = select(x < infinity, y, x);
  y = select(x < 0.0f, splat(quiet_nan), y);
  return select(x == 0.0f, splat(-infinity), y);
}

// log(1 + x) for finite x >= 0: the logarithm of the rounded sum plus what rounding lost
TILEGRAD_INLINE Vec log1p_nonnegative(Vec x) {
  const Vec u = 1.0f + x;
  return log(u) + (x - (u - 1.0f)) / u;
}

// tanh |x| = (1 - e) / (1 + e), e = exp(-2 |x|)
TILEGRAD_INLINE Vec tanh(Vec x) {
  const Vec m = expm1_nonpositive(-2.0f * abs(x));
  return copysign(m / (2.0f + m), x);
}

// exp only of negative numbers: no overflow, and small results keep their precision
TILEGRAD_INLINE Vec sigmoid(Vec x) {
  const Vec e = exp_nonpositive(-abs(x));
  return select(x < 0.0f, e, splat(1.0f)) / (1.0f + e);
}

// ---- the normal distribution, for 0 <= a <= 15, beyond which all is 0 ----

TILEGRAD_INLINE Vec normal_argument(Vec x) { return min(splat(15.0f), abs(x)); }

// exp(-a^2 / 2); the rounding error of the square, which exp would magnify, is put back
TILEGRAD_INLINE Vec gaussian(Vec a) {
  const Vec half = -0.5f * a, power = half * a;
#if defined(__FMA__)
  const Vec lost = fma(half, a, -power);
#else
  const Vec high = from_bits(bits(a) & 0xfffff000u), low = a - high;
  const Vec lost = -0.5f * (((high * high + 2.0f * power) + 2.0f * high * low) + low * low);
#endif
  const Vec e = exp_within(power);
  return fma(lost, e, e);
}

// P(X > a), accurate relative to its size: exp(-a^2 / 2) t q(t) with t = 1 / (1 + 0.35 a), q a least
// squares fit at Chebyshev's points, off by 4e-8. `density` is gaussian(a).
TILEGRAD_INLINE Vec normal_tail(Vec a, Vec density) {
  static constexpr float q[] = {0.139619902f,  0.139890373f,    0.119609796f,
                                0.106449641f,  -2.54655834e-2f, 0.162768126f,
                                -0.258995026f, 0.145617396f,    -2.94946358e-2f};
  const Vec t = 1.0f / fma(splat(0.35f), a, splat(1.0f));
  return density * t * polynomial(t, q);
}

}  // namespace tilegrad
