// The machine's roofs, independent of tilegrad's kernels: multiply-adds in registers, and
// a = b + s c over memory of a given size. LANES floats make a register.
#include <chrono>
#include <cstddef>
#include <thread>
#include <vector>

typedef float Vector __attribute__((vector_size(4 * LANES)));

template <class Work>
static double seconds(int threads, Work work) {
  auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> team;
  for (int t = 1; t < threads; ++t) team.emplace_back(work, t);
  work(0);
  for (auto& thread : team) thread.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Independent chains hide the latency of a multiply-add: 12 cover 2 units of 4 to 6 cycles.
constexpr int CHAINS = 12;
static volatile float sink;

static void multiply_add(long steps) {
  Vector sum[CHAINS], x, y;
  for (int lane = 0; lane < LANES; ++lane) {
    x[lane] = 0.999f + sink;
    y[lane] = 0.001f + sink;
    for (int i = 0; i < CHAINS; ++i) sum[i][lane] = float(i);
  }
  for (long step = 0; step < steps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; ++i) sum[i] = sum[i] * x + y;
  }
  float total = 0;
  for (int i = 0; i < CHAINS; ++i) total += sum[i][0];
  sink = total * 0;
}

// FLOP/s of `threads` threads, a multiply-add counted as two.
extern "C" double roof_flops(int threads, long steps) {
  double taken = seconds(threads, [=](int) { multiply_add(steps); });
  return 2.0 * CHAINS * LANES * steps * threads / taken;
}

// bytes/s of `repeats` passes over arrays of `floats` floats per thread, read and written counted.
extern "C" double roof_bytes(int threads, long floats, long repeats) {
  std::vector<std::vector<float>> a(threads), b(threads), c(threads);
  seconds(threads, [&](int t) {  // whoever uses a page touches it first
    a[t].assign(floats, 0.0f);
    b[t].assign(floats, 1.0f);
    c[t].assign(floats, 2.0f);
  });
  double taken = seconds(threads, [&](int t) {
    float* __restrict y = a[t].data(), * __restrict p = b[t].data(), * __restrict q = c[t].data();
    for (long repeat = 0; repeat < repeats; ++repeat) {
      float scale = 0.5f + sink;
      for (long i = 0; i < floats; ++i) y[i] = p[i] + scale * q[i];
    }
    sink = y[floats / 2] * 0;
  });
  return 3.0 * sizeof(float) * floats * repeats * threads / taken;
}
