// Every function of csrc/cuda/ptx.h against the host: one warp each, input to output. The same
// program runs in the simulator and on a GPU; where both pass, the emulation is no mere reading of
// the manual. Prints a line per check and returns how many failed.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../csrc/cuda/device.h"

namespace tilegrad {
namespace cuda {

// --- kernels -------------------------------------------------------------------------------------

__global__ void report_features(int* y) {
  if (threadIdx.x == 0) y[0] = ptx::has_sm80;
}

// y[lane] = what a copy of source_bytes[lane] leaves in shared memory     y, x (32, bytes)
template <int bytes>
__global__ void copy_async(unsigned char* y, const unsigned char* x, const int* source_bytes) {
  __shared__ __align__(16) unsigned char tile[32 * bytes];
  const int lane = threadIdx.x;
  for (int i = 0; i < bytes; ++i) tile[bytes * lane + i] = 0xee;
  __syncwarp();
  ptx::cp_async<bytes>(tile + bytes * lane, x + bytes * lane, source_bytes[lane]);
  ptx::cp_async_commit();
  ptx::cp_async_wait_group<0>();
  __syncwarp();
  const int other = lane ^ 1;  // data that another thread copied
  for (int i = 0; i < bytes; ++i) y[bytes * other + i] = tile[bytes * other + i];
}

// Three groups under way, taken one by one                                y, x (3, 32)
__global__ void copy_in_groups(float* y, const float* x) {
  __shared__ float tile[3][32];
  const int lane = threadIdx.x, other = 31 - lane;
  for (int stage = 0; stage < 3; ++stage) {
    ptx::cp_async<4>(&tile[stage][lane], x + 32 * stage + lane);
    ptx::cp_async_commit();
  }
  ptx::cp_async_wait_group<2>();
  __syncwarp();
  y[lane] = tile[0][other];
  ptx::cp_async_wait_group<1>();
  __syncwarp();
  y[32 + lane] = tile[1][other];
  ptx::cp_async_wait_group<0>();
  __syncwarp();
  y[64 + lane] = tile[2][other];
}

// Row i of matrix j lies in row (5 (8 j + i)) % 32 of shared memory       y (count, 32)  x (32, 8)
template <int count, bool transposed>
__global__ void load_matrices(uint32_t* y, const uint16_t* x) {
  __shared__ __align__(16) uint16_t tile[32][8];
  const int lane = threadIdx.x;
  for (int i = 0; i < 8; ++i) tile[lane][i] = x[8 * lane + i];
  __syncwarp();
  uint32_t fragment[count];
  if constexpr (transposed) {
    ptx::ldmatrix_trans<count>(fragment, tile[5 * lane % 32]);
  } else {
    ptx::ldmatrix<count>(fragment, tile[5 * lane % 32]);
  }
  for (int j = 0; j < count; ++j) y[32 * j + lane] = fragment[j];
}

// d (16, 8) = a (16, 8) b (8, 8) + c (16, 8)
__global__ void multiply_tf32(float* d, const float* a, const float* b, const float* c) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  const float* corner = a + 8 * g + t;
  const uint32_t x[4] = {ptx::cvt_rna_tf32(corner[0]), ptx::cvt_rna_tf32(corner[64]),
                         ptx::cvt_rna_tf32(corner[4]), ptx::cvt_rna_tf32(corner[68])};
  const uint32_t w[2] = {ptx::cvt_rna_tf32(b[8 * t + g]), ptx::cvt_rna_tf32(b[8 * (t + 4) + g])};
  const int first = 8 * g + 2 * t, second = first + 64;
  float sums[4] = {c[first], c[first + 1], c[second], c[second + 1]};
  ptx::mma_m16n8k8_tf32(sums, x, w);
  d[first] = sums[0];
  d[first + 1] = sums[1];
  d[second] = sums[2];
  d[second + 1] = sums[3];
}

enum class Half { bf16, f16 };

template <Half type>
__device__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (type == Half::bf16) {
    ptx::mma_m16n8k16_bf16(d, a, b);
  } else {
    ptx::mma_m16n8k16_f16(d, a, b);
  }
}

__device__ uint32_t pair(uint16_t low, uint16_t high) {
  return static_cast<uint32_t>(high) << 16 | low;
}

// d (16, 8) = a (16, 16) b (16, 8) + c (16, 8); each lane gathers its fragments by itself
template <Half type>
__global__ void multiply_halves(float* d, const uint16_t* a, const uint16_t* b, const float* c) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  uint32_t x[4], w[2];
  for (int i = 0; i < 4; ++i) {
    const uint16_t* p = a + 16 * (g + 8 * (i % 2)) + 2 * t + 8 * (i / 2);
    x[i] = pair(p[0], p[1]);
  }
  for (int i = 0; i < 2; ++i) {
    const uint16_t* p = b + 8 * (2 * t + 8 * i) + g;
    w[i] = pair(p[0], p[8]);
  }
  const int first = 8 * g + 2 * t, second = first + 64;
  float sums[4] = {c[first], c[first + 1], c[second], c[second + 1]};
  multiply<type>(sums, x, w);
  d[first] = sums[0];
  d[first + 1] = sums[1];
  d[second] = sums[2];
  d[second + 1] = sums[3];
}

// The same with fragments by ldmatrix, from row-major tiles: the way of a real kernel
template <Half type>
__global__ void multiply_tiles(float* d, const uint16_t* a, const uint16_t* b, const float* c) {
  __shared__ __align__(16) uint16_t left[16][16], right[16][8];
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  for (int i = lane; i < 256; i += 32) left[i / 16][i % 16] = a[i];
  for (int i = lane; i < 128; i += 32) right[i / 8][i % 8] = b[i];
  __syncwarp();
  uint32_t x[4], w[2];
  ptx::ldmatrix<4>(x, &left[lane % 16][8 * (lane / 16)]);
  ptx::ldmatrix_trans<2>(w, right[lane % 16]);
  const int first = 8 * g + 2 * t, second = first + 64;
  float sums[4] = {c[first], c[first + 1], c[second], c[second + 1]};
  multiply<type>(sums, x, w);
  d[first] = sums[0];
  d[first + 1] = sums[1];
  d[second] = sums[2];
  d[second + 1] = sums[3];
}

__global__ void round_to_tf32(uint32_t* y, const float* x) {
  y[threadIdx.x] = ptx::cvt_rna_tf32(x[threadIdx.x]);
}

// y[i] holds x[i] low and x[31 - i] high
template <Half type>
__global__ void round_to_halves(uint32_t* y, const float* x) {
  const int lane = threadIdx.x;
  if constexpr (type == Half::bf16) {
    y[lane] = ptx::cvt_rn_bf16x2(x[lane], x[31 - lane]);
  } else {
    y[lane] = ptx::cvt_rn_f16x2(x[lane], x[31 - lane]);
  }
}

template <class T>
__global__ void copy_once(T* y, const T* x) {
  ptx::st_global_cs(y + threadIdx.x, ptx::ld_global_nc(x + threadIdx.x));
}

}  // namespace cuda

// --- the host's side -----------------------------------------------------------------------------

namespace {

using namespace cuda;

// A device copy of a vector, for one launch
template <class T>
class Array {
 public:
  explicit Array(const std::vector<T>& host)
      : count_(host.size()), data_(static_cast<T*>(device_malloc(count_ * sizeof(T)))) {
    copy_to_device(data_, host.data(), count_ * sizeof(T));
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { device_free(data_); }

  template <class U = T>
  U* as() const {
    return reinterpret_cast<U*>(data_);
  }
  std::vector<T> host() const {
    std::vector<T> result(count_);
    copy_to_host(result.data(), data_, count_ * sizeof(T));
    return result;
  }

 private:
  size_t count_;
  T* data_;
};

template <class... Parameters, class... Args>
void run_warp(void (*kernel)(Parameters...), Args... args) {
  launch(kernel, dim3(1), dim3(warp_size), 0, Stream{}, args...);
  synchronize();
}

// Empty if every element of `got` is right, else what the first wrong one is
using Verdict = std::string;

Verdict differs(size_t i, double got, double expected) {
  char text[128];
  std::snprintf(text, sizeof text, "element %zu: expected %.9g, got %.9g", i, expected, got);
  return text;
}

template <class T>
Verdict equal(const std::vector<T>& got, const std::vector<T>& expected) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (got[i] != expected[i]) {
      return differs(i, static_cast<double>(got[i]), static_cast<double>(expected[i]));
    }
  }
  return {};
}

std::mt19937 random_bits(0);

float random_float() { return std::uniform_real_distribution<float>(-2, 2)(random_bits); }

std::vector<float> random_floats(size_t count) {
  std::vector<float> x(count);
  for (float& value : x) value = random_float();
  return x;
}

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// --- 16-bit formats and tf32, by arithmetic on doubles -------------------------------------------

// x as the nearest number with `mantissa` bits behind the leading one and exponents from `least`
// up; ties to even, or away from zero.
double nearest(double x, int mantissa, int least, bool ties_to_even) {
  if (x == 0 || !std::isfinite(x)) return x;
  const int exponent = std::max(std::ilogb(x), least);
  const double scaled = std::ldexp(x, mantissa - exponent);  // a whole number is representable
  const double rounded = ties_to_even ? std::nearbyint(scaled) : std::round(scaled);
  return std::ldexp(rounded, exponent - mantissa);
}

double tf32(double x) { return nearest(x, 10, -126, false); }

// The value of a bf16 or f16, from its bits
double value_of(Half type, uint16_t bits) {
  if (type == Half::bf16) return float_of(static_cast<uint32_t>(bits) << 16);
  const double sign = bits & 0x8000 ? -1 : 1;
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  if (exponent == 31) return mantissa ? std::nan("") : sign * HUGE_VAL;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

// x rounded to that format, as a double
double rounded_to(Half type, double x) {
  const bool bf16 = type == Half::bf16;
  const double y = nearest(x, bf16 ? 7 : 10, bf16 ? -126 : -14, true);
  const double largest = bf16 ? std::ldexp(255, 120) : 65504;
  return std::fabs(y) > largest ? std::copysign(HUGE_VAL, y) : y;
}

// Random finite numbers of moderate size, as bits
std::vector<uint16_t> random_halves(Half type, size_t count) {
  std::vector<uint16_t> x(count);
  for (uint16_t& bits : x) {
    do {
      bits = static_cast<uint16_t>(random_bits());
    } while (!(std::fabs(value_of(type, bits)) < 4) || std::fabs(value_of(type, bits)) < 0.01);
  }
  return x;
}

// d = a b + c, each element within rounding of the exact one: a (16, k)  b (k, 8)  c, d (16, 8)
Verdict product(const std::vector<float>& d, const std::vector<double>& a,
                const std::vector<double>& b, const std::vector<float>& c) {
  const size_t k = b.size() / 8;
  for (size_t i = 0; i < 16; ++i) {
    for (size_t j = 0; j < 8; ++j) {
      double sum = c[8 * i + j], size = std::fabs(sum);
      for (size_t p = 0; p < k; ++p) {
        sum += a[k * i + p] * b[8 * p + j];
        size += std::fabs(a[k * i + p] * b[8 * p + j]);
      }
      const double got = d[8 * i + j];
      // tensor cores align the terms before they add, and cut what falls off below
      if (!(std::fabs(got - sum) <= 1e-6 * size)) return differs(8 * i + j, got, sum);
    }
  }
  return {};
}

// --- checks --------------------------------------------------------------------------------------

template <int bytes>
Verdict check_cp_async() {
  std::vector<unsigned char> x(32 * bytes), expected(32 * bytes, 0);
  std::vector<int> source_bytes(32);
  for (auto& value : x) value = static_cast<unsigned char>(random_bits());
  for (int lane = 0; lane < 32; ++lane) {
    const int some[] = {bytes, 0, bytes / 2, bytes / 4};
    source_bytes[lane] = some[lane % 4];
    std::copy_n(x.begin() + bytes * lane, source_bytes[lane], expected.begin() + bytes * lane);
  }
  Array<unsigned char> device_x(x), y(std::vector<unsigned char>(x.size(), 0x5a));
  Array<int> sizes(source_bytes);
  run_warp(copy_async<bytes>, y.as(), device_x.as(), sizes.as());
  return equal(y.host(), expected);
}

Verdict check_groups() {
  const std::vector<float> x = random_floats(96);
  std::vector<float> expected(96);
  for (int i = 0; i < 96; ++i) expected[i] = x[32 * (i / 32) + 31 - i % 32];
  Array<float> device_x(x), y(std::vector<float>(96, NAN));
  run_warp(copy_in_groups, y.as(), device_x.as());
  return equal(y.host(), expected);
}

template <int count, bool transposed>
Verdict check_ldmatrix() {
  std::vector<uint16_t> x(256);
  for (int i = 0; i < 256; ++i) x[i] = static_cast<uint16_t>(257 * i);
  std::vector<uint32_t> expected(32 * count);
  for (int j = 0; j < count; ++j) {
    auto element = [&](int row, int column) { return x[8 * (5 * (8 * j + row) % 32) + column]; };
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4;
      const uint16_t low = transposed ? element(2 * t, g) : element(g, 2 * t);
      const uint16_t high = transposed ? element(2 * t + 1, g) : element(g, 2 * t + 1);
      expected[32 * j + lane] = static_cast<uint32_t>(high) << 16 | low;
    }
  }
  Array<uint16_t> device_x(x);
  Array<uint32_t> y(std::vector<uint32_t>(expected.size(), 0x5a5a5a5a));
  run_warp(load_matrices<count, transposed>, y.as(), device_x.as());
  return equal(y.host(), expected);
}

Verdict check_mma_tf32() {
  const std::vector<float> a = random_floats(128), b = random_floats(64), c = random_floats(128);
  Array<float> device_a(a), device_b(b), device_c(c), d(std::vector<float>(128, NAN));
  run_warp(multiply_tf32, d.as(), device_a.as(), device_b.as(), device_c.as());
  std::vector<double> rounded_a, rounded_b;
  for (float x : a) rounded_a.push_back(tf32(x));
  for (float x : b) rounded_b.push_back(tf32(x));
  return product(d.host(), rounded_a, rounded_b, c);
}

template <Half type>
Verdict check_mma_halves(void (*kernel)(float*, const uint16_t*, const uint16_t*, const float*)) {
  const std::vector<uint16_t> a = random_halves(type, 256), b = random_halves(type, 128);
  const std::vector<float> c = random_floats(128);
  Array<uint16_t> device_a(a), device_b(b);
  Array<float> device_c(c), d(std::vector<float>(128, NAN));
  run_warp(kernel, d.as(), device_a.as(), device_b.as(), device_c.as());
  std::vector<double> wide_a, wide_b;
  for (uint16_t bits : a) wide_a.push_back(value_of(type, bits));
  for (uint16_t bits : b) wide_b.push_back(value_of(type, bits));
  return product(d.host(), wide_a, wide_b, c);
}

// Ties, neighbours of ties, the ends of the range, and random numbers; the last one is NaN
std::vector<float> numbers_to_round(int mantissa) {
  const float unit = std::ldexp(1.0f, -mantissa), half = unit / 2;
  std::vector<float> x = {0.0f,
                          -0.0f,
                          1.0f,
                          1 + half,
                          -(1 + half),
                          1 + unit + half,
                          1 + half - 0x1p-23f,
                          1 + half + 0x1p-23f,
                          2 - half,
                          2 - 0x1p-23f,
                          std::numeric_limits<float>::max(),
                          65504.0f,
                          65519.0f,
                          65520.0f,
                          -65536.0f,
                          0x1p-14f,
                          0x1p-24f,
                          0x1.8p-24f,
                          -0x1.8p-25f,
                          INFINITY,
                          -INFINITY};
  while (x.size() < 31) x.push_back(random_float());
  x.push_back(NAN);
  return x;
}

Verdict check_cvt_tf32() {
  const std::vector<float> x = numbers_to_round(10);
  Array<float> device_x(x);
  Array<uint32_t> y(std::vector<uint32_t>(32, 0x5a5a5a5a));
  run_warp(round_to_tf32, y.as(), device_x.as());
  const std::vector<uint32_t> got = y.host();
  for (size_t i = 0; i < 32; ++i) {
    const float value = float_of(got[i]), expected = static_cast<float>(tf32(x[i]));
    const bool right = std::isnan(x[i]) ? std::isnan(value) : got[i] == bits_of(expected);
    if (!right) return differs(i, value, expected);
  }
  return {};
}

template <Half type>
Verdict check_cvt_halves() {
  const std::vector<float> x = numbers_to_round(type == Half::bf16 ? 7 : 10);
  Array<float> device_x(x);
  Array<uint32_t> y(std::vector<uint32_t>(32, 0x5a5a5a5a));
  run_warp(round_to_halves<type>, y.as(), device_x.as());
  const std::vector<uint32_t> got = y.host();
  for (size_t i = 0; i < 32; ++i) {
    for (const bool high : {false, true}) {
      const float source = high ? x[31 - i] : x[i];
      const double value = value_of(type, static_cast<uint16_t>(high ? got[i] >> 16 : got[i]));
      const double expected = rounded_to(type, source);
      const bool right = std::isnan(source) ? std::isnan(value) : value == expected;
      if (!right || std::signbit(value) != std::signbit(expected)) {
        if (!std::isnan(source)) return differs(i, value, expected);
        if (!std::isnan(value)) return differs(i, value, expected);
      }
    }
  }
  return {};
}

template <class T>
Verdict check_memory() {
  const std::vector<float> x = random_floats(32 * sizeof(T) / sizeof(float));
  Array<float> device_x(x), y(std::vector<float>(x.size(), NAN));
  run_warp(copy_once<T>, y.as<T>(), device_x.as<const T>());
  return equal(y.host(), x);
}

struct Check {
  const char* name;
  std::function<Verdict()> run;
  bool needs_sm80;
};

const Check checks[] = {
    {"cp_async<4>", check_cp_async<4>, false},
    {"cp_async<8>", check_cp_async<8>, false},
    {"cp_async<16>", check_cp_async<16>, false},
    {"cp_async_commit, cp_async_wait_group", check_groups, false},
    {"ldmatrix<1>", check_ldmatrix<1, false>, false},
    {"ldmatrix<2>", check_ldmatrix<2, false>, false},
    {"ldmatrix<4>", check_ldmatrix<4, false>, false},
    {"ldmatrix_trans<1>", check_ldmatrix<1, true>, false},
    {"ldmatrix_trans<2>", check_ldmatrix<2, true>, false},
    {"ldmatrix_trans<4>", check_ldmatrix<4, true>, false},
    {"mma_m16n8k8_tf32", check_mma_tf32, true},
    {"mma_m16n8k16_bf16", [] { return check_mma_halves<Half::bf16>(multiply_halves<Half::bf16>); },
     true},
    {"mma_m16n8k16_bf16 after ldmatrix",
     [] { return check_mma_halves<Half::bf16>(multiply_tiles<Half::bf16>); }, true},
    {"mma_m16n8k16_f16", [] { return check_mma_halves<Half::f16>(multiply_halves<Half::f16>); },
     false},
    {"mma_m16n8k16_f16 after ldmatrix",
     [] { return check_mma_halves<Half::f16>(multiply_tiles<Half::f16>); }, false},
    {"cvt_rna_tf32", check_cvt_tf32, false},
    {"cvt_rn_bf16x2", check_cvt_halves<Half::bf16>, false},
    {"cvt_rn_f16x2", check_cvt_halves<Half::f16>, false},
    {"ld_global_nc, st_global_cs", check_memory<float>, false},
    {"ld_global_nc, st_global_cs, vectors", check_memory<float4>, false},
};

int run_all() {
  Array<int> features(std::vector<int>(1, 0));
  run_warp(report_features, features.as());
  const bool has_sm80 = features.host()[0] != 0;
  int failed = 0;
  for (const Check& check : checks) {
    if (check.needs_sm80 && !has_sm80) {
      std::printf("skip  %s: needs compute capability 8.0\n", check.name);
      continue;
    }
    const Verdict verdict = check.run();
    std::printf("%s  %s%s%s\n", verdict.empty() ? "ok  " : "FAIL", check.name,
                verdict.empty() ? "" : ": ", verdict.c_str());
    failed += !verdict.empty();
  }
  return failed;
}

}  // namespace
}  // namespace tilegrad

int main() {
  try {
    return tilegrad::run_all();
  } catch (const std::exception& error) {
    std::printf("FAIL  %s\n", error.what());
    return 1;
  }
}
