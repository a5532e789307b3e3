// The thread pool and the memory pool under load, for the sanitizers (`make test-tsan`): several
// callers at once, nested calls, numbers of threads that change in between, forks.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "core/memory.h"
#include "cpu/parallel.h"

using namespace tilegrad;

namespace {

std::atomic<int64_t> jobs{0};

void require(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "failed: %s\n", what);
  std::abort();
}

// Each element must be visited once, and what the chunks wrote must be seen by the caller.
void one_job(int64_t n, int64_t grain, bool nested) {
  auto* const seen = static_cast<int32_t*>(pool_take(sizeof(int32_t) * n));
  std::memset(seen, 0, sizeof(int32_t) * n);
  parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    if (nested) {
      parallel_for(end - begin, 3, [&](int64_t b, int64_t e) {
        for (int64_t i = begin + b; i < begin + e; ++i) ++seen[i];
      });
    } else {
      for (int64_t i = begin; i < end; ++i) ++seen[i];
    }
  });
  auto* const sums = static_cast<int64_t*>(workspace(chunk_count(n, grain) * 8));
  parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    int64_t sum = 0;
    for (int64_t i = begin; i < end; ++i) sum += i * seen[i];
    sums[begin / grain] = sum;
  });
  int64_t total = 0;
  for (int64_t i = 0; i < chunk_count(n, grain); ++i) total += sums[i];
  require(total == n * (n - 1) / 2, "each element once");
  pool_give(seen);
  jobs += 2;
}

void caller(int seed, int rounds) {
  std::mt19937 random(seed);
  const auto below = [&](int most) { return static_cast<int64_t>(random() % most); };
  std::vector<void*> kept;
  for (int i = 0; i < rounds; ++i) {
    const int64_t n = 1 + below(random() % 4 == 0 ? 20000 : 300);
    one_job(n, 1 + below(40), random() % 5 == 0);
    kept.push_back(pool_take(below(5000)));
    if (kept.size() > 8) {
      for (void* block : kept) pool_give(block);
      kept.clear();
    }
    if (random() % 50 == 0) set_num_threads(1 + static_cast<int>(below(9)));
    if (random() % 80 == 0) pool_trim();
    if (random() % 100 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
  }
  for (void* block : kept) pool_give(block);
}

// A child has no workers and no other caller, and must find every lock free.
void fork_and_compute() {
  const pid_t child = fork();
  require(child >= 0, "fork");
  if (child == 0) {
#ifdef __SANITIZE_THREAD__
    set_num_threads(1);  // ThreadSanitizer knows no threads after such a fork
#else
    set_num_threads(3);
#endif
    for (int i = 0; i < 20; ++i) one_job(1000 + i, 7, i % 2);
    _exit(0);
  }
  int status = 0;
  require(waitpid(child, &status, 0) == child && status == 0, "the child of a fork");
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 2000;
  set_num_threads(4);
  caller(0, rounds);
  std::vector<std::thread> callers;
  for (int i = 1; i <= 4; ++i) callers.emplace_back(caller, i, rounds);
  for (int i = 0; i < 10; ++i) fork_and_compute();  // while the others compute
  for (std::thread& each : callers) each.join();
  set_num_threads(8);
  caller(5, rounds);
  std::printf("%lld parallel_for calls, all right\n", static_cast<long long>(jobs.load()));
}
