// The thread pool behind parallel_for.
// Each thread owns a contiguous range of chunks, so that repeated passes over one array meet the
// same L2 cache; a thread whose range is empty takes chunks from the far end of another's, so that
// a late or preempted worker delays nobody. A range is one 64-bit word (next, end): a successful
// compare-exchange is a claim on the job that is running now, whichever that is, so workers need no
// lock and may arrive late.
#include "parallel.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

namespace tilegrad {
namespace {

constexpr int max_threads = 256;
// Longer than Python needs between two kernels, much shorter than a time slice.
constexpr std::chrono::microseconds spin_time{80};

int usable_cores() {
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int default_threads() {
  if (const char* text = std::getenv("TILEGRAD_THREADS")) {
    char* rest = nullptr;
    const long count = std::strtol(text, &rest, 10);
    if (rest != text && *rest == '\0' && count > 0) {
      return static_cast<int>(std::min<long>(count, max_threads));
    }
  }
  return std::min(usable_cores(), max_threads);
}

std::atomic<int>& thread_setting() {
  static std::atomic<int> count{default_threads()};
  return count;
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int this_core() {
#ifdef __linux__
  return sched_getcpu();
#else
  return -1;
#endif
}

// Moves this thread to another core if it runs on `core`. Linux likes to wake a thread where its
// waker runs, and may leave it there, waiting for its turn, while another core idles.
void leave(int core) {
#ifdef __linux__
  cpu_set_t all;
  if (core < 0 || this_core() != core || sched_getaffinity(0, sizeof all, &all) != 0) return;
  cpu_set_t others = all;
  CPU_CLR(core, &others);
  if (CPU_COUNT(&others) == 0) return;
  sched_setaffinity(0, sizeof others, &others);  // moves it at once
  sched_setaffinity(0, sizeof all, &all);
#else
  (void)core;
#endif
}

// Spins until done() or until spin_time is over; says whether done() came true.
template <class Done>
bool spin_until(bool may_spin, Done done) {
  if (done()) return true;
  if (!may_spin) return false;
  const auto deadline = std::chrono::steady_clock::now() + spin_time;
  do {
    for (int i = 0; i < 32; ++i) {
      pause();
      if (done()) return true;
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

// Worker threads get no signals: Python's handlers belong to its own threads.
class BlockSignals {
 public:
  BlockSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &saved_);
  }
  ~BlockSignals() { pthread_sigmask(SIG_SETMASK, &saved_, nullptr); }

 private:
  sigset_t saved_;
};

class Pool {
 public:
  void run(int threads, int64_t n, int64_t grain, detail::ChunkFn fn, void* context) {
    const auto chunks = static_cast<uint32_t>(chunk_count(n, grain));
    threads = std::min(grow(threads), static_cast<int>(std::min<uint32_t>(chunks, max_threads)));
    job_ = {n, grain, fn, context};
    remaining_.store(chunks, std::memory_order_relaxed);
    active_.store(threads, std::memory_order_relaxed);
    for (int t = 0; t < threads; ++t) {
      const auto next = static_cast<uint32_t>(uint64_t{chunks} * t / threads);
      const auto end = static_cast<uint32_t>(uint64_t{chunks} * (t + 1) / threads);
      ranges_[t].word.store(pack(next, end), std::memory_order_release);
    }
    epoch_.fetch_add(1);
    if (sleepers_.load() > 0) {
      caller_core_.store(this_core(), std::memory_order_relaxed);
      {
        std::lock_guard<std::mutex> lock(mutex_);
      }
      wake_.notify_all();
    }
    work(0, threads);
    const auto finished = [&] { return remaining_.load(std::memory_order_acquire) == 0; };
    if (!spin_until(may_spin_.load(std::memory_order_relaxed), finished)) {
      std::unique_lock<std::mutex> lock(mutex_);
      caller_waits_.store(true);
      done_.wait(lock, [&] { return remaining_.load() == 0; });
      caller_waits_.store(false);
    }
  }

 private:
  struct Job {
    int64_t n, grain;
    detail::ChunkFn fn;
    void* context;
  };
  struct alignas(64) Range {
    std::atomic<uint64_t> word{0};
  };

  static uint64_t pack(uint32_t next, uint32_t end) { return uint64_t{next} << 32 | end; }

  // Starts missing workers; says how many threads there are, which is fewer where the system
  // refuses.
  int grow(int threads) {
    may_spin_.store(threads <= cores_, std::memory_order_relaxed);
    while (workers_ + 1 < threads) {
      try {
        BlockSignals guard;
        std::thread(&Pool::worker, this, workers_ + 1, epoch_.load()).detach();
      } catch (const std::system_error&) {
        return workers_ + 1;
      }
      ++workers_;
    }
    return threads;
  }

  void worker(int self, uint32_t seen) {
    for (;;) {
      const auto woken = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
      if (!spin_until(may_spin_.load(std::memory_order_relaxed), woken)) {
        {
          std::unique_lock<std::mutex> lock(mutex_);
          sleepers_.fetch_add(1);
          wake_.wait(lock, [&] { return epoch_.load() != seen; });
          sleepers_.fetch_sub(1);
        }
        if (may_spin_.load(std::memory_order_relaxed)) {
          leave(caller_core_.load(std::memory_order_relaxed));
        }
      }
      seen = epoch_.load(std::memory_order_acquire);
      const int threads = active_.load(std::memory_order_relaxed);
      if (self < threads) work(self, threads);
    }
  }

  // Runs chunks of thread `self`, then chunks others have not begun.
  void work(int self, int threads) {
    uint32_t done = 0, chunk;
    while (claim_front(ranges_[self].word, chunk)) run_chunk(chunk), ++done;
    for (int i = 1; i < threads; ++i) {
      while (claim_back(ranges_[(self + i) % threads].word, chunk)) run_chunk(chunk), ++done;
    }
    // Until this subtraction the job stays alive; after it nothing of the job may be touched.
    if (done > 0 && remaining_.fetch_sub(done) == done && caller_waits_.load()) {
      {
        std::lock_guard<std::mutex> lock(mutex_);
      }
      done_.notify_one();
    }
  }

  void run_chunk(uint32_t chunk) {
    const int64_t begin = chunk * job_.grain;
    job_.fn(job_.context, begin, std::min(begin + job_.grain, job_.n));
  }

  static bool claim_front(std::atomic<uint64_t>& word, uint32_t& chunk) {
    uint64_t seen = word.load(std::memory_order_acquire);
    for (;;) {
      const auto next = static_cast<uint32_t>(seen >> 32), end = static_cast<uint32_t>(seen);
      if (next >= end) return false;
      chunk = next;
      if (word.compare_exchange_weak(seen, pack(next + 1, end), std::memory_order_acq_rel))
        return true;
    }
  }

  static bool claim_back(std::atomic<uint64_t>& word, uint32_t& chunk) {
    uint64_t seen = word.load(std::memory_order_acquire);
    for (;;) {
      const auto next = static_cast<uint32_t>(seen >> 32), end = static_cast<uint32_t>(seen);
      if (next >= end) return false;
      chunk = end - 1;
      if (word.compare_exchange_weak(seen, pack(next, end - 1), std::memory_order_acq_rel))
        return true;
    }
  }

  Range ranges_[max_threads];
  alignas(64) std::atomic<uint32_t> epoch_{0};
  std::atomic<int> active_{0};
  std::atomic<bool> may_spin_{false};
  std::atomic<int> caller_core_{-1};
  Job job_{};
  alignas(64) std::atomic<uint32_t> remaining_{0};
  alignas(64) std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> caller_waits_{false};
  int workers_ = 0;
  const int cores_ = usable_cores();
};

// Never destroyed: workers may outlive main. Replaced in a forked child, where the old one's
// threads are gone.
std::atomic<Pool*> pool{nullptr};
std::atomic<bool> pool_busy{false};

void forget_pool_in_child() {
  pool.store(nullptr);
  pool_busy.store(false);
}

// The pool for the holder of pool_busy; null where none can be had.
Pool* acquire_pool() {
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool_in_child);
  if (registered != 0) return nullptr;
  Pool* current = pool.load();
  if (current == nullptr) {
    current = new (std::nothrow) Pool;
    pool.store(current);
  }
  return current;
}

void run_serially(int64_t n, int64_t grain, detail::ChunkFn fn, void* context) {
  for (int64_t begin = 0; begin < n; begin += grain) fn(context, begin, std::min(begin + grain, n));
}

}  // namespace

int num_threads() { return thread_setting().load(std::memory_order_relaxed); }

void set_num_threads(int count) { thread_setting().store(std::clamp(count, 1, max_threads)); }

void detail::run_chunks(int64_t n, int64_t grain, ChunkFn fn, void* context) {
  const int threads = num_threads();
  const bool fits = chunk_count(n, grain) <= UINT32_MAX;
  if (threads == 1 || !fits || pool_busy.exchange(true, std::memory_order_acquire)) {
    run_serially(n, grain, fn, context);
    return;
  }
  if (Pool* current = acquire_pool()) {
    current->run(threads, n, grain, fn, context);
  } else {
    run_serially(n, grain, fn, context);
  }
  pool_busy.store(false, std::memory_order_release);
}

}  // namespace tilegrad
