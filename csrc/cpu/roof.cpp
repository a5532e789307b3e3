// How the roofs are measured: threads of its own, each with memory of its own that it touches first,
// begin a round together; a round lasts until the last one is done, and the best round counts.
#include "roof.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "simd.h"

namespace tilegrad {
namespace {

// The compiler must have all memory up to date here, and must not know what is in it.
TILEGRAD_INLINE void forget(void* p) { asm volatile("" : : "r"(p) : "memory"); }

// ---- rounds ----

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Where threads wait for each other.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}

  // false: somebody did not start at all, nobody waits any more
  bool wait() {
    const int64_t all = (arrived_.fetch_add(1) / threads_ + 1) * threads_;
    while (arrived_.load() < all && !abandoned_.load()) std::this_thread::yield();
    return !abandoned_.load();
  }

  void abandon() { abandoned_.store(true); }

 private:
  const int64_t threads_;
  std::atomic<int64_t> arrived_{0};
  std::atomic<bool> abandoned_{false};
};

// Seconds of the best of `rounds` rounds; parts[t](), after parts[t].prepare(), is what thread t does
// in each.
template <class Part>
double best_seconds(std::vector<Part>& parts, int rounds) {
  struct Round {
    double begin, end;
  };
  const auto threads = static_cast<int>(parts.size());
  std::vector<std::vector<Round>> times(threads, std::vector<Round>(rounds));
  Barrier barrier(threads);
  const auto work = [&](int t) {
    parts[t].prepare();
    for (Round& round : times[t]) {
      if (!barrier.wait()) return;
      round.begin = now();
      parts[t]();
      round.end = now();
    }
  };

  std::vector<std::thread> others;
  const auto join = [&] {
    for (std::thread& other : others) other.join();
  };
  try {
    others.reserve(threads - 1);
    for (int t = 1; t < threads; ++t) others.emplace_back(work, t);
  } catch (const std::system_error&) {
    barrier.abandon();
    join();
    throw;
  }
  work(0);
  join();

  double best = infinity;
  for (int r = 0; r < rounds; ++r) {
    Round all = times[0][r];
    for (const auto& mine : times) {
      all = {std::min(all.begin, mine[r].begin), std::max(all.end, mine[r].end)};
    }
    best = std::min(best, all.end - all.begin);
  }
  return best;
}

// ---- arithmetic ----

// Chains hide the latency of a multiply-add: of two units of 6 cycles with 16 registers, of four
// units of 4 cycles with 32; without FMA it is an addition's more. Of more chains the compiler would
// keep one in memory.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int chains = 24;
#elif defined(__FMA__)
constexpr int chains = 12;
#else
constexpr int chains = 14;
#endif

// One step of a chain, in the form that takes no copy of a register; the value stays near 1.
TILEGRAD_INLINE Vec multiply_add(Vec sum, Vec x, Vec y) {
#if defined(__aarch64__)
  return fma(x, y, sum);
#else
  return fma(sum, x, y);
#endif
}

struct MultiplyAdds {
  int64_t steps;
  float start[chains * width];

  void prepare() { std::fill_n(start, chains * width, 1.0f); }

  void operator()() {
    float factors[] = {1 - 0x1p-20f, 0x1p-20f};
    forget(factors);
    const Vec x = splat(factors[0]), y = splat(factors[1]);
    Vec sum[chains];
    for (int i = 0; i < chains; ++i) sum[i] = load(start + i * width);
    for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
      for (int i = 0; i < chains; ++i) sum[i] = multiply_add(sum[i], x, y);
    }
    for (int i = 0; i < chains; ++i) store(start + i * width, sum[i]);
    forget(start);
  }
};

// ---- memory ----

constexpr int group = 8;  // vectors at a time

// y is written, a and b are read; `count` floats each, a multiple of group * width
void pass(Traffic kind, float* y, const float* a, const float* b, int64_t count) {
  if (kind == Traffic::read) {
    Vec sum[group] = {};
    for (int64_t i = 0; i < count; i += group * width) {
#pragma GCC unroll 8
      for (int v = 0; v < group; ++v) sum[v] += load(a + i + v * width);
    }
    for (int v = 0; v < group; ++v) store(y + v * width, sum[v]);
  } else if (kind == Traffic::copy) {
    for (int64_t i = 0; i < count; i += group * width) {
#pragma GCC unroll 8
      for (int v = 0; v < group; ++v) store(y + i + v * width, load(a + i + v * width));
    }
  } else {
    const Vec s = splat(0.5f);
    for (int64_t i = 0; i < count; i += group * width) {
#pragma GCC unroll 8
      for (int v = 0; v < group; ++v) {
        const int64_t j = i + v * width;
        store(y + j, fma(s, load(b + j), load(a + j)));
      }
    }
  }
}

// A thread's passes; which arrays there are depends on the kind.
struct Passes {
  Traffic kind;
  int64_t passes, count;
  float *a, *b = nullptr, *y = nullptr;
  float sums[group * width] = {};

  Passes(Traffic kind, int64_t passes, float* memory, int64_t count)
      : kind(kind), passes(passes), count(count), a(memory) {
    if (kind == Traffic::copy) y = memory + count;
    if (kind == Traffic::triad) b = memory + count, y = memory + 2 * count;
    if (kind == Traffic::update) b = memory + count, y = a;
  }

  void prepare() {
    for (float* array : {a, b, y}) {
      if (array != nullptr) std::fill_n(array, count, 1.0f);
    }
  }

  void operator()() {
    for (int64_t i = 0; i < passes; ++i) {
      pass(kind, kind == Traffic::read ? sums : y, a, b, count);
      forget(this);
    }
  }
};

// Memory straight from the system, so that it goes back there; in huge pages where there are any.
class Pages {
 public:
  explicit Pages(int64_t bytes) : bytes_(static_cast<size_t>(bytes)) {
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    madvise(memory_, bytes_, MADV_HUGEPAGE);
#endif
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  ~Pages() { munmap(memory_, bytes_); }

  float* floats() const { return static_cast<float*>(memory_); }

 private:
  size_t bytes_;
  void* memory_;
};

}  // namespace

double roof_flops(int threads, int rounds, int64_t steps) {
  std::vector<MultiplyAdds> parts(threads);
  for (MultiplyAdds& part : parts) part.steps = steps;
  return 2.0 * chains * width * steps * threads / best_seconds(parts, rounds);
}

double roof_bytes(int threads, int rounds, int64_t passes, int64_t bytes, Traffic kind) {
  const int64_t accesses = kind == Traffic::read ? 1 : kind == Traffic::copy ? 2 : 3;
  const int64_t arrays = kind == Traffic::update ? 2 : accesses;
  const int64_t unit = group * width, page = 4096 / sizeof(float);
  const int64_t floats = bytes / (threads * arrays * static_cast<int64_t>(sizeof(float)));
  const int64_t count = std::max<int64_t>(floats / unit, 1) * unit;
  const int64_t share = (arrays * count + page - 1) / page * page;
  const Pages pages(threads * share * static_cast<int64_t>(sizeof(float)));
  std::vector<Passes> parts;
  for (int t = 0; t < threads; ++t) {
    parts.emplace_back(kind, passes, pages.floats() + t * share, count);
  }
  return sizeof(float) * 1.0 * accesses * count * passes * threads / best_seconds(parts, rounds);
}

}  // namespace tilegrad
