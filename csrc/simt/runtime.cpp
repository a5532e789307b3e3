// Runs a launch: blocks one after another, a block's threads as fibers that switch at barriers and
// warp operations and nowhere else. A thread that never waits costs no switch: when it returns, the
// next one begins on the same stack.
#ifdef _FORTIFY_SOURCE
#undef _FORTIFY_SOURCE  // its longjmp takes a switch of stacks for an attack
#endif
#include <cxxabi.h>
#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <cstdarg>
#include <cstdlib>
#include <exception>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#ifdef __linux__
#include <link.h>
#endif

#include "control.h"
#include "simt.h"
#include "switch.h"

uint3 threadIdx{}, blockIdx{};
dim3 blockDim, gridDim;

namespace simt {

Running running{-1, 0, false};
unsigned char* dynamic_shared = nullptr;

namespace {

constexpr int max_threads = 1024;
constexpr int max_warps = max_threads / 32;
constexpr int nobody = -1;

constexpr uint32_t bit(int i) { return 1u << i; }
int first(uint32_t set) { return __builtin_ctz(set); }

// Lanes that have come to an operation on one mask.
struct Group {
  uint32_t mask, arrived;
  const char* name;
  Operation operation;
};

struct Warp {
  uint32_t ready;       // may go on, or begin
  uint32_t exited;      // have returned, or never were
  uint32_t at_barrier;  // wait for the block
  int groups;           // pending operations; the lanes that have come to each are disjoint
  Group group[32];
  // Of each lane that waits:
  void* arguments[32];
  const char* operation[32];
  Site site[32];
};

struct Barrier {
  int arrived = 0;
  int true_predicates = 0;
  bool mixed = false;  // threads have come to different ones
  Site site{};
  const char* name = nullptr;
};

struct Copy {
  void* destination;
  const void* source;
  int bytes, source_bytes;
  int64_t group;
};

// A thread's cp.async instructions under way, oldest first.
struct Copies {
  std::vector<Copy> pending;
  int64_t group = 0;  // the one that the next copy joins
};

struct Machine {
  std::mutex mutex;  // held by the launch that runs
  bool strict = false;
  uint64_t seed = 0;

  // The launch.
  const Launch* launch = nullptr;
  Memory memory;
  int threads = 0, warps = 0;
  bool random = false;
  uint64_t random_state = 0;
  uint3 index[max_threads];

  // The block.
  int alive = 0;  // threads that have not returned
  Barrier barrier;
  int barrier_result = 0;    // how many predicates were true at the last one
  uint32_t ready_warps = 0;  // those with ready lanes
  Warp warp[max_warps];
  Fiber* fiber[max_threads];  // null where the thread has not begun
  Copies copies[max_threads];
  bool copied = false;  // some thread has used cp.async
  std::exception_ptr error;

  // Fibers, kept from launch to launch.
  Stacks stacks{max_threads};
  Fiber pool[max_threads];
  int pool_size = 0;           // how many of them have a stack
  Fiber* unused[max_threads];  // those whose thread has returned; they will run the next one
  int unused_count = 0;
  Fiber home;  // the caller of launch
  Fiber* current = nullptr;
};

// Never destroyed: kernels may run until the process ends.
Machine& machine() {
  static Machine& m = *new Machine;
  return m;
}
Machine& m = machine();

// A forked child has one thread, and its copy of everything must be whole: no launch may be halfway.
[[maybe_unused]] const int fork_handlers =
    pthread_atfork([] { m.mutex.lock(); }, [] { m.mutex.unlock(); }, [] { m.mutex.unlock(); });

// What a kernel calls begins with one of these.
class RuntimeCode {
 public:
  RuntimeCode() { running.kernel_code = false; }
  RuntimeCode(const RuntimeCode&) = delete;
  RuntimeCode& operator=(const RuntimeCode&) = delete;
  ~RuntimeCode() { running.kernel_code = true; }
};

// --- words for reports -----------------------------------------------------------------------------

std::string text(unsigned x, unsigned y, unsigned z) {
  return "(" + std::to_string(x) + ", " + std::to_string(y) + ", " + std::to_string(z) + ")";
}

bool same_text(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }

bool same_place(Site a, Site b) {
  return a.line == b.line && a.column == b.column && same_text(a.file, b.file);
}

std::string lanes_text(uint32_t lanes) {
  char digits[16];
  std::snprintf(digits, sizeof digits, "%08x", lanes);
  return digits;
}

// The kernel's name without its result and its parameters. One whose template arguments are lambdas
// has no symbol; their types say where they were written.
std::string name_of(const Launch& launch) {
  Dl_info info;
  if (dladdr(launch.kernel, &info) == 0 || info.dli_sname == nullptr ||
      info.dli_saddr != launch.kernel) {
    const char* types = std::strstr(launch.signature, "[with Parameters = ");
    return std::string("(no symbol) ") + (types != nullptr ? types : launch.signature);
  }
  char* demangled = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, nullptr);
  std::string name = demangled != nullptr ? demangled : info.dli_sname;
  std::free(demangled);
  return short_name(name);
}

// Every lane that waits, grouped by warp, operation and place.
std::string waiting_text() {
  std::string all;
  int lines = 0;
  for (int w = 0; w < m.warps; ++w) {
    const Warp& warp = m.warp[w];
    struct Line {
      uint32_t lanes, mask;
      int lane;
    };
    std::vector<Line> found;
    auto add = [&](uint32_t lanes, uint32_t mask) {
      for (; lanes != 0; lanes &= lanes - 1) {
        const int i = first(lanes);
        auto same = [&](const Line& line) {
          return line.mask == mask && warp.operation[line.lane] == warp.operation[i] &&
                 same_place(warp.site[line.lane], warp.site[i]);
        };
        const auto line = std::find_if(found.begin(), found.end(), same);
        if (line == found.end()) {
          found.push_back({bit(i), mask, i});
        } else {
          line->lanes |= bit(i);
        }
      }
    };
    add(warp.at_barrier, 0);
    for (int g = 0; g < warp.groups; ++g) add(warp.group[g].arrived, warp.group[g].mask);
    for (const Line& line : found) {
      if (++lines > 12) return all + "\n  ...";
      all += "\n  warp " + std::to_string(w) + " lanes " + lanes_text(line.lanes) + " wait at " +
             warp.operation[line.lane] + " " + to_string(warp.site[line.lane]);
      if (line.mask != 0) all += " for lanes " + lanes_text(line.mask);
    }
  }
  return all;
}

// --- who runs --------------------------------------------------------------------------------------

uint64_t random_number() {
  m.random_state ^= m.random_state << 13;
  m.random_state ^= m.random_state >> 7;
  m.random_state ^= m.random_state << 17;
  return m.random_state >> 8;
}

// A member of the set: the first one at or after a random place.
int random_member(uint32_t set) {
  const int shift = static_cast<int>(random_number() & 31);
  const uint32_t rotated = shift == 0 ? set : set >> shift | set << (32 - shift);
  return (first(rotated) + shift) & 31;
}

void make_ready(int warp, uint32_t lanes) {
  m.warp[warp].ready |= lanes;
  m.ready_warps |= bit(warp);
}

// Takes a thread out of those that are ready.
int pick() {
  if (m.ready_warps == 0) return nobody;
  const int w = m.random ? random_member(m.ready_warps) : first(m.ready_warps);
  Warp& warp = m.warp[w];
  const int lane = m.random ? random_member(warp.ready) : first(warp.ready);
  warp.ready &= ~bit(lane);
  if (warp.ready == 0) m.ready_warps &= ~bit(w);
  return 32 * w + lane;
}

void set_running(int thread) {
  running.thread = thread;
  threadIdx = m.index[thread];
}

void fiber_main();

Fiber* unused_fiber() {
  if (m.unused_count > 0) return m.unused[--m.unused_count];
  Fiber& fiber = m.pool[m.pool_size];
  m.stacks.give(fiber, static_cast<size_t>(m.pool_size));
  prepare(fiber, fiber_main);
  ++m.pool_size;
  return &fiber;
}

void switch_to(Fiber* to) {
  Fiber* from = m.current;
  m.current = to;
  switch_fiber(*from, *to);
}

// Goes on with a thread that was picked, and returns when the present one is picked again.
void resume(int thread) {
  if (thread == running.thread) return;
  if (m.fiber[thread] == nullptr) m.fiber[thread] = unused_fiber();
  set_running(thread);
  switch_to(m.fiber[thread]);
}

[[noreturn]] void report_deadlock() {
  throw Error("deadlock: no thread of the block can go on" + waiting_text() +
              whereabouts(running.thread));
}

// The running thread cannot go on until someone makes it ready.
void wait() {
  const int next = pick();
  if (next == nobody) report_deadlock();
  resume(next);
}

// --- barrier of the block --------------------------------------------------------------------------

void complete_barrier() {
  if (m.barrier.mixed) {
    throw Error("divergent barrier: the block's threads wait at different barriers" +
                waiting_text() + whereabouts(running.thread));
  }
  if (m.strict && m.alive < m.threads) {
    throw Error(to_string(m.barrier.site) + ": " + m.barrier.name + ": " +
                std::to_string(m.threads - m.alive) +
                " threads of the block have returned before it (strict)" +
                whereabouts(running.thread));
  }
  m.barrier_result = m.barrier.true_predicates;
  m.barrier = Barrier{};
  for (int w = 0; w < m.warps; ++w) {
    Warp& warp = m.warp[w];
    if (warp.at_barrier != 0) make_ready(w, warp.at_barrier);
    warp.at_barrier = 0;
  }
  trace::barrier();
}

// Returns how many threads came with a true predicate.
int block_barrier(const char* name, Site site, bool predicate) {
  const RuntimeCode guard;
  if (!in_kernel()) throw Error(to_string(site) + ": " + name + " outside of a kernel");
  Warp& warp = m.warp[simt::warp()];
  const int lane = simt::lane();
  warp.at_barrier |= bit(lane);
  warp.operation[lane] = name;
  warp.site[lane] = site;
  Barrier& barrier = m.barrier;
  if (barrier.arrived == 0) {
    barrier.site = site;
    barrier.name = name;
  } else if (barrier.name != name || !same_place(barrier.site, site)) {
    barrier.mixed = true;
  }
  barrier.true_predicates += predicate;
  if (++barrier.arrived == m.alive) {
    complete_barrier();  // all are ready, this one too
    resume(pick());
  } else {
    wait();
  }
  return m.barrier_result;
}

// --- operations of a warp --------------------------------------------------------------------------

[[noreturn]] void refuse_exited(const char* name, Site site, uint32_t mask, uint32_t exited) {
  fail(site, std::string(name) + " for lanes " + lanes_text(mask) + ", of which " +
                 lanes_text(mask & exited) + " have returned or never were (strict)");
}

// If all have come, runs the group's operation and makes its lanes ready.
bool try_complete(int w, int g) {
  Warp& warp = m.warp[w];
  const Group group = warp.group[g];
  if (group.arrived != (group.mask & ~warp.exited)) return false;
  if (m.strict && group.arrived != group.mask) {
    refuse_exited(group.name, warp.site[first(group.arrived)], group.mask, warp.exited);
  }
  group.operation(warp.arguments, group.arrived);
  warp.group[g] = warp.group[--warp.groups];
  make_ready(w, group.arrived);
  trace::warp_sync(w, group.arrived);
  return true;
}

}  // namespace

void warp_collective(uint32_t mask, const char* name, Site site, void* my_arguments,
                     Operation operation) {
  const RuntimeCode guard;
  if (!in_kernel()) throw Error(to_string(site) + ": " + name + " outside of a kernel");
  const int w = warp();
  const int lane = simt::lane();
  Warp& warp = m.warp[w];
  if ((mask & bit(lane)) == 0) {
    fail(site, std::string(name) + " for lanes " + lanes_text(mask) + ", called by lane " +
                   std::to_string(lane) + ", which is not one of them");
  }
  if (m.strict && (mask & warp.exited) != 0) refuse_exited(name, site, mask, warp.exited);
  int g = 0;
  while (g < warp.groups && warp.group[g].mask != mask) ++g;
  if (g == warp.groups) {
    warp.group[g] = {mask, 0, name, operation};
    ++warp.groups;
  }
  Group& group = warp.group[g];
  if (group.operation != operation || !same_text(group.name, name)) {
    const int other = first(group.arrived);
    fail(site, std::string(name) + " for lanes " + lanes_text(mask) + ", where lane " +
                   std::to_string(other) + " has come to " + warp.operation[other] + " " +
                   to_string(warp.site[other]) + " for the same lanes");
  }
  group.arrived |= bit(lane);
  warp.arguments[lane] = my_arguments;
  warp.operation[lane] = name;
  warp.site[lane] = site;
  if (try_complete(w, g)) {
    if (m.random) return resume(pick());
    warp.ready &= ~bit(lane);  // goes on at once
    if (warp.ready == 0) m.ready_warps &= ~bit(w);
  } else {
    wait();
  }
}

namespace {

// --- threads and blocks ----------------------------------------------------------------------------

// The running thread has returned: others may have waited for that. Returns who goes on.
int finish_thread() {
  const int w = warp();
  Warp& warp = m.warp[w];
  warp.exited |= bit(lane());
  --m.alive;
  for (int g = warp.groups - 1; g >= 0; --g) {
    if ((warp.group[g].mask & bit(lane())) != 0) try_complete(w, g);
  }
  if (m.alive > 0 && m.barrier.arrived == m.alive) complete_barrier();
  const int next = pick();
  if (next == nobody && m.alive > 0) report_deadlock();
  return next;
}

// Runs threads that have not begun, until one that has is to go on; then this fiber is unused, and
// whoever takes it sets the running thread.
void fiber_main() {
  begin_fiber();
  for (;;) {
    int next = nobody;
    running.kernel_code = true;
    try {
      m.launch->call(m.launch->parameters);
      running.kernel_code = false;
      next = finish_thread();
    } catch (const std::exception&) {
      running.kernel_code = false;
      m.error = std::current_exception();
    } catch (...) {
      running.kernel_code = false;
      m.error = std::make_exception_ptr(
          Error("an exception that is not a std::exception" + whereabouts(running.thread)));
    }
    if (next != nobody && m.fiber[next] == nullptr) {
      m.fiber[next] = m.current;
      set_running(next);
      continue;
    }
    m.unused[m.unused_count++] = m.current;
    if (next == nobody) {
      switch_to(&m.home);
    } else {
      set_running(next);
      switch_to(m.fiber[next]);
    }
  }
}

// After an error threads stay where they were; their fibers begin anew.
void abandon_threads() {
  m.unused_count = 0;
  for (int i = m.pool_size - 1; i >= 0; --i) {
    forget_frames(m.pool[i]);
    prepare(m.pool[i], fiber_main);
    m.unused[m.unused_count++] = &m.pool[i];
  }
}

void run_block() {
  m.alive = m.threads;
  m.barrier = Barrier{};
  m.ready_warps = 0;
  for (int w = 0; w < m.warps; ++w) {
    const int lanes = std::min(32, m.threads - 32 * w);
    Warp& warp = m.warp[w];
    warp.exited = lanes == 32 ? 0 : ~(bit(lanes) - 1);
    warp.at_barrier = 0;
    warp.groups = 0;
    warp.ready = 0;  // an error may have left some behind
    make_ready(w, ~warp.exited);
  }
  std::fill_n(m.fiber, m.threads, nullptr);
  if (m.copied) {
    for (Copies& copies : m.copies) copies = Copies{};
    m.copied = false;
  }
  const int start = pick();
  m.fiber[start] = unused_fiber();
  set_running(start);
  m.current = &m.home;
  switch_to(m.fiber[start]);
  running.kernel_code = false;
  running.thread = nobody;
}

// --- shared memory ---------------------------------------------------------------------------------

// The kernels' __shared__ variables are the thread-local storage of this library (or program), where
// nothing else may be. A block finds all of it full of 0xff, which is NaN.
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)

// In that storage itself, to find it by.
thread_local char anchor;

struct Search {
  const char* inside;
  Range found;
};

int find_storage(dl_phdr_info* info, size_t, void* data) {
  auto& search = *static_cast<Search*>(data);
  const char* storage = static_cast<const char*>(info->dlpi_tls_data);  // the calling thread's
  for (int i = 0; storage != nullptr && i < info->dlpi_phnum; ++i) {
    if (info->dlpi_phdr[i].p_type != PT_TLS) continue;
    const Range range{storage, storage + info->dlpi_phdr[i].p_memsz};
    if (!range.contains(search.inside)) continue;
    search.found = range;
    return 1;
  }
  return 0;
}

// Of the calling OS thread.
Range static_shared() {
  static const Search here = [] {  // its place around the anchor is the same in every OS thread
    Search search{&anchor, {&anchor, &anchor + 1}};
    dl_iterate_phdr(find_storage, &search);
    return search;
  }();
  const char* begin = &anchor - (here.inside - here.found.begin);
  return {begin, begin + here.found.size()};
}

#else

Range static_shared() { return {}; }

#endif

void poison(const Range& memory) {
  if (memory.size() > 0) std::memset(const_cast<char*>(memory.begin), 0xff, memory.size());
}

// What a kernel declares is known to nvcc only, but a block cannot have written more than that.
void check_written(const Range& shared, size_t dynamic_bytes) {
  size_t bytes = 0;
  for (const char* p = shared.begin; p < shared.end; p += 8) {
    uint64_t word = ~uint64_t{0};
    std::memcpy(&word, p, std::min<size_t>(8, static_cast<size_t>(shared.end - p)));
    if (~word != 0) bytes += 8;
  }
  if (bytes > 48 * 1024) {
    throw Error("a block has written " + std::to_string(bytes) +
                " bytes of __shared__ variables, at most 49152 can be declared" +
                whereabouts(nobody));
  }
  if (bytes + dynamic_bytes > 227 * 1024) {
    throw Error("a block has " + std::to_string(bytes) + " bytes of __shared__ variables and " +
                std::to_string(dynamic_bytes) + " of dynamic shared memory, at most 232448 in all" +
                whereabouts(nobody));
  }
}

// A launch's dynamic shared memory: exactly as much as was asked for, then bytes that must stay.
class DynamicShared {
 public:
  explicit DynamicShared(size_t bytes) : bytes_(bytes) {
    void* p = nullptr;
    if (posix_memalign(&p, 128, bytes + guard_bytes) != 0) throw std::bad_alloc();
    data_ = static_cast<unsigned char*>(p);
    std::memset(data_ + bytes_, guard_byte, guard_bytes);
  }
  DynamicShared(const DynamicShared&) = delete;
  DynamicShared& operator=(const DynamicShared&) = delete;
  ~DynamicShared() { std::free(data_); }

  unsigned char* data() const { return data_; }
  bool overrun() const {
    const auto* guard = data_ + bytes_;
    return std::any_of(guard, guard + guard_bytes, [](auto byte) { return byte != guard_byte; });
  }

 private:
#ifdef __SANITIZE_ADDRESS__
  static constexpr size_t guard_bytes = 0;  // AddressSanitizer guards it
#else
  static constexpr size_t guard_bytes = 128;
#endif
  static constexpr unsigned char guard_byte = 0xa5;
  size_t bytes_;
  unsigned char* data_;
};

// --- launches --------------------------------------------------------------------------------------

[[noreturn]] void refuse(const Launch& launch, const std::string& why) {
  throw Error("launch of " + name_of(launch) + ": " + why);
}

// As a GPU of compute capability 9.0 would.
void check_limits(const Launch& launch) {
  const dim3 g = launch.grid, b = launch.block;
  const auto* frame = static_cast<const char*>(__builtin_frame_address(0));
  if (frame >= m.stacks.begin() && frame < m.stacks.end()) {
    refuse(launch, "kernels cannot launch kernels");
  }
  if (g.x == 0 || g.y == 0 || g.z == 0) {
    refuse(launch, "expected a grid of at least one block, got " + text(g.x, g.y, g.z));
  }
  if (b.x == 0 || b.y == 0 || b.z == 0) {
    refuse(launch, "expected a block of at least one thread, got " + text(b.x, b.y, b.z));
  }
  if (g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535) {
    refuse(launch, "expected a grid of at most (2147483647, 65535, 65535) blocks, got " +
                       text(g.x, g.y, g.z));
  }
  if (b.x > 1024 || b.y > 1024 || b.z > 64) {
    refuse(launch,
           "expected a block of at most (1024, 1024, 64) threads, got " + text(b.x, b.y, b.z));
  }
  if (uint64_t{b.x} * b.y * b.z > max_threads) {
    refuse(launch, "expected a block of at most 1024 threads, got " + text(b.x, b.y, b.z));
  }
  if (launch.shared_bytes > 227 * 1024) {
    refuse(launch, "expected at most 232448 bytes of dynamic shared memory, got " +
                       std::to_string(launch.shared_bytes));
  }
}

void number_threads(const dim3& block) {
  int i = 0;
  for (unsigned z = 0; z < block.z; ++z) {
    for (unsigned y = 0; y < block.y; ++y) {
      for (unsigned x = 0; x < block.x; ++x) m.index[i++] = {x, y, z};
    }
  }
  m.threads = i;
  m.warps = (i + 31) / 32;
}

// A step that meets every block once: blocks are taken as first, first + step, ... modulo count.
uint64_t random_step(uint64_t count) {
  if (count <= 2) return 1;
  for (;;) {
    const uint64_t step = 1 + random_number() % (count - 1);
    uint64_t a = count, b = step;
    while (b != 0) a = std::exchange(b, a % b);
    if (a == 1) return step;
  }
}

void set_block(uint64_t number) {
  const uint64_t row = number / gridDim.x;
  blockIdx = {static_cast<unsigned>(number % gridDim.x), static_cast<unsigned>(row % gridDim.y),
              static_cast<unsigned>(row / gridDim.y)};
  running.block = static_cast<int64_t>(number);
}

void run_blocks(const Launch& launch, DynamicShared& dynamic) {
  const uint64_t count = uint64_t{gridDim.x} * gridDim.y * gridDim.z;
  uint64_t number = m.random ? random_number() % count : 0;
  const uint64_t step = m.random ? random_step(count) : 1;
  for (uint64_t done = 0; done < count; ++done, number = (number + step) % count) {
    set_block(number);
    poison(m.memory.static_shared);
    poison(m.memory.dynamic_shared);
    trace::block_begin(running.block);
    run_block();
    if (m.error != nullptr) std::rethrow_exception(std::exchange(m.error, nullptr));
    trace::block_end();
    if (dynamic.overrun()) {
      throw Error("a block has written behind its " + std::to_string(launch.shared_bytes) +
                  " bytes of dynamic shared memory" + whereabouts(nobody));
    }
    if (done == 0) check_written(m.memory.static_shared, launch.shared_bytes);
  }
}

}  // namespace

void run(const Launch& launch) {
  check_limits(launch);
  const std::lock_guard<std::mutex> lock(m.mutex);
  DynamicShared dynamic(launch.shared_bytes);
  const auto* shared = reinterpret_cast<const char*>(dynamic.data());
  const auto* parameters = static_cast<const char*>(launch.parameters);
  m.launch = &launch;
  m.memory = {static_shared(),
              {shared, shared + launch.shared_bytes},
              {m.stacks.begin(), m.stacks.end()},
              {parameters, parameters + launch.parameter_bytes}};
  m.random = m.seed != 0;
  m.random_state = m.seed * 0x9e3779b97f4a7c15u | 1;
  for (int i = 0; i < 8; ++i) random_number();
  number_threads(launch.block);
  gridDim = launch.grid;
  blockDim = launch.block;
  dynamic_shared = dynamic.data();
  adopt_thread(m.home);
  struct Cleaner {
    ~Cleaner() {
      running.thread = nobody;
      dynamic_shared = nullptr;
      m.launch = nullptr;
      m.memory = Memory{};
    }
  } cleaner;
  trace::launch_begin(kernel_name(), launch.grid, launch.block, launch.shared_bytes);
  try {
    run_blocks(launch, dynamic);
  } catch (const std::exception& e) {
    running.thread = nobody;
    abandon_threads();
    if (trace::launch_failed(e.what())) return;
    throw;
  }
  trace::launch_end();
}

const Memory& memory() { return m.memory; }

void set_schedule(uint64_t seed) {
  const std::lock_guard<std::mutex> lock(m.mutex);
  m.seed = seed;
}

void set_strict(bool strict) {
  const std::lock_guard<std::mutex> lock(m.mutex);
  m.strict = strict;
}

// --- errors ----------------------------------------------------------------------------------------

const char* kernel_name() {
  static auto& names = *new std::map<const void*, std::string>;
  if (m.launch == nullptr) return "";
  std::string& name = names[m.launch->kernel];
  if (name.empty()) name = name_of(*m.launch);
  return name.c_str();
}

std::string to_string(Site site) {
  return std::string(site.file) + ":" + std::to_string(site.line);
}

std::string thread_text(int thread) {
  const uint3 i = m.index[thread];
  return text(i.x, i.y, i.z);
}

std::string whereabouts(int thread) {
  if (m.launch == nullptr) return "";
  std::string where = std::string("\n  in kernel ") + kernel_name() + ", block " +
                      text(blockIdx.x, blockIdx.y, blockIdx.z);
  if (thread != nobody) where += ", thread " + thread_text(thread);
  return where;
}

void fail(const std::string& message) { throw Error(message + whereabouts(running.thread)); }

void fail(Site site, const std::string& message) { fail(to_string(site) + ": " + message); }

void fail(Site site, const std::string& message, int lane) {
  throw Error(to_string(site) + ": " + message + whereabouts(32 * warp() + lane));
}

void fail_format(Site site, const char* format, ...) {
  running.kernel_code = false;
  char message[1024];
  va_list values;
  va_start(values, format);
  std::vsnprintf(message, sizeof message, format, values);
  va_end(values);
  fail(site, message);
}

void leave(const std::string& complete_message) {
  m.error = std::make_exception_ptr(Error(complete_message));
  switch_to(&m.home);
  std::abort();  // a fiber that was left is never resumed
}

// --- cp.async --------------------------------------------------------------------------------------

void async_copy(void* destination, const void* source, int bytes, int source_bytes,
                [[maybe_unused]] const void* caller) {
  const RuntimeCode guard;
  trace::async_copy_issue(destination, source, bytes, source_bytes, caller);
  std::memset(destination, 0xff, static_cast<size_t>(bytes));
  Copies& copies = m.copies[running.thread];
  copies.pending.push_back({destination, source, bytes, source_bytes, copies.group});
  m.copied = true;
}

void async_commit() {
  const RuntimeCode guard;
  ++m.copies[running.thread].group;
  m.copied = true;
}

void async_wait(int groups) {
  const RuntimeCode guard;
  Copies& copies = m.copies[running.thread];
  size_t done = 0;
  for (; done < copies.pending.size(); ++done) {
    const Copy& copy = copies.pending[done];
    if (copy.group >= copies.group - groups) break;
    auto* destination = static_cast<char*>(copy.destination);
    std::memcpy(destination, copy.source, static_cast<size_t>(copy.source_bytes));
    std::memset(destination + copy.source_bytes, 0,
                static_cast<size_t>(copy.bytes - copy.source_bytes));
    trace::async_copy_done(copy.destination, copy.bytes);
  }
  copies.pending.erase(copies.pending.begin(),
                       copies.pending.begin() + static_cast<ptrdiff_t>(done));
}

namespace {

// --- shuffles, votes, reductions -------------------------------------------------------------------

struct ShuffleArguments {
  uint64_t bits, result;
  int source;  // a lane
  uint32_t mask;
  Site site;
  const char* name;
};

void do_shuffle(void* const* arguments, uint32_t lanes) {
  for (uint32_t left = lanes; left != 0; left &= left - 1) {
    auto& mine = *static_cast<ShuffleArguments*>(arguments[first(left)]);
    if ((lanes >> mine.source & 1) == 0) {
      const bool exited = (mine.mask >> mine.source & 1) != 0;
      fail(mine.site,
           std::string(mine.name) + ": lane " + std::to_string(first(left)) + " reads lane " +
               std::to_string(mine.source) +
               (exited ? ", which has returned or never was" : ", which is not in the mask"),
           first(left));
    }
    mine.result = static_cast<const ShuffleArguments*>(arguments[mine.source])->bits;
  }
}

struct Vote {
  bool predicate;
  uint32_t result;  // the lanes whose predicate is true
};

void do_vote(void* const* arguments, uint32_t lanes) {
  uint32_t result = 0;
  for (uint32_t left = lanes; left != 0; left &= left - 1) {
    if (static_cast<const Vote*>(arguments[first(left)])->predicate) result |= bit(first(left));
  }
  for (uint32_t left = lanes; left != 0; left &= left - 1) {
    static_cast<Vote*>(arguments[first(left)])->result = result;
  }
}

uint32_t vote(const char* name, uint32_t mask, bool predicate, Site site) {
  Vote mine{predicate, 0};
  warp_collective(mask, name, site, &mine, do_vote);
  return mine.result;
}

// All lanes' arguments become what combine makes of them, in order of lanes.
template <class T, T combine(T, T)>
void do_reduce(void* const* arguments, uint32_t lanes) {
  T result = *static_cast<const T*>(arguments[first(lanes)]);
  for (uint32_t left = lanes & (lanes - 1); left != 0; left &= left - 1) {
    result = combine(result, *static_cast<const T*>(arguments[first(left)]));
  }
  for (uint32_t left = lanes; left != 0; left &= left - 1) {
    *static_cast<T*>(arguments[first(left)]) = result;
  }
}

template <class T>
T add(T a, T b) {
  return static_cast<T>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
}
template <class T>
T smaller(T a, T b) {
  return std::min(a, b);
}
template <class T>
T larger(T a, T b) {
  return std::max(a, b);
}

}  // namespace

uint64_t shuffle(Shuffle kind, uint32_t mask, uint64_t bits, int operand, int width, Site site) {
  static const char* const names[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync",
                                      "__shfl_xor_sync"};
  const char* name = names[static_cast<int>(kind)];
  const RuntimeCode guard;
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
    fail(site, std::string(name) + ": expected a width of 1, 2, 4, 8, 16 or 32, got " +
                   std::to_string(width));
  }
  const int lane = simt::lane();
  const int begin = lane & ~(width - 1);
  int source = lane;
  switch (kind) {
    case Shuffle::index:
      source = begin + (operand & (width - 1));
      break;
    case Shuffle::up:
      source = lane - operand < begin ? lane : lane - operand;
      break;
    case Shuffle::down:
      source = lane + operand >= begin + width ? lane : lane + operand;
      break;
    case Shuffle::exclusive_or:
      // reads from earlier segments, but not from later ones
      source = (lane ^ operand) >= begin + width ? lane : lane ^ operand;
      break;
  }
  ShuffleArguments mine{bits, 0, source, mask, site, name};
  warp_collective(mask, name, site, &mine, do_shuffle);
  return mine.result;
}

template <class T>
T reduce_add(uint32_t mask, T value, Site site) {
  warp_collective(mask, "__reduce_add_sync", site, &value, do_reduce<T, add<T>>);
  return value;
}
template <class T>
T reduce_min(uint32_t mask, T value, Site site) {
  warp_collective(mask, "__reduce_min_sync", site, &value, do_reduce<T, smaller<T>>);
  return value;
}
template <class T>
T reduce_max(uint32_t mask, T value, Site site) {
  warp_collective(mask, "__reduce_max_sync", site, &value, do_reduce<T, larger<T>>);
  return value;
}

}  // namespace simt

// --- the global functions of simt.h ----------------------------------------------------------------

void __syncthreads(simt::Site site) { simt::block_barrier("__syncthreads", site, false); }

int __syncthreads_or(int predicate, simt::Site site) {
  return simt::block_barrier("__syncthreads_or", site, predicate != 0) > 0;
}

int __syncthreads_and(int predicate, simt::Site site) {
  return simt::block_barrier("__syncthreads_and", site, predicate == 0) == 0;
}

int __syncthreads_count(int predicate, simt::Site site) {
  return simt::block_barrier("__syncthreads_count", site, predicate != 0);
}

void __syncwarp(unsigned mask, simt::Site site) {
  simt::warp_collective(mask, "__syncwarp", site, nullptr, [](void* const*, uint32_t) {});
}

unsigned __ballot_sync(unsigned mask, int predicate, simt::Site site) {
  return simt::vote("__ballot_sync", mask, predicate != 0, site);
}

int __any_sync(unsigned mask, int predicate, simt::Site site) {
  return simt::vote("__any_sync", mask, predicate != 0, site) != 0;
}

int __all_sync(unsigned mask, int predicate, simt::Site site) {
  return simt::vote("__all_sync", mask, predicate == 0, site) == 0;
}

void __threadfence() { simt::trace::fence(); }

// Threads of a block see each other's writes in any case.
void __threadfence_block() {}

void __trap(simt::Site site) { simt::fail_format(site, "__trap"); }

namespace simt {
namespace {

// *address = f(*address); returns the old value. In random order others may run before it.
template <class T, class F>
T atomic(T* address, const void* caller, F f) {
  if (in_kernel()) {
    const RuntimeCode guard;
    if (m.random && (random_number() & 3) == 0) {
      make_ready(warp(), bit(lane()));
      resume(pick());
    }
    trace::access(address, sizeof(T), true, true, caller);
  }
  const T old = *address;
  *address = f(old);
  return old;
}

// Integers wrap around.
template <class T>
T sum(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    using Unsigned = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<Unsigned>(a) + static_cast<Unsigned>(b));
  } else {
    return a + b;
  }
}

}  // namespace
}  // namespace simt

template <class T>
T atomicAdd(T* address, simt::Given<T> value) {
  return simt::atomic(address, SIMT_CALLER, [=](T old) { return simt::sum<T>(old, value); });
}
template <class T>
T atomicSub(T* address, simt::Given<T> value) {
  return simt::atomic(address, SIMT_CALLER,
                      [=](T old) { return simt::sum<T>(old, simt::sum<T>(~value, 1)); });
}
template <class T>
T atomicMin(T* address, simt::Given<T> value) {
  return simt::atomic(address, SIMT_CALLER, [=](T old) { return std::min<T>(old, value); });
}
template <class T>
T atomicMax(T* address, simt::Given<T> value) {
  return simt::atomic(address, SIMT_CALLER, [=](T old) { return std::max<T>(old, value); });
}
template <class T>
T atomicExch(T* address, simt::Given<T> value) {
  return simt::atomic(address, SIMT_CALLER, [=](T) { return value; });
}
template <class T>
T atomicAnd(T* address, simt::Given<T> value) {
  return simt::atomic(address, SIMT_CALLER, [=](T old) { return old & value; });
}
template <class T>
T atomicOr(T* address, simt::Given<T> value) {
  return simt::atomic(address, SIMT_CALLER, [=](T old) { return old | value; });
}
template <class T>
T atomicXor(T* address, simt::Given<T> value) {
  return simt::atomic(address, SIMT_CALLER, [=](T old) { return old ^ value; });
}
template <class T>
T atomicCAS(T* address, simt::Given<T> expected, simt::Given<T> value) {
  return simt::atomic(address, SIMT_CALLER, [=](T old) { return old == expected ? value : old; });
}

#define SIMT_DEFINE_ATOMIC(name, T) template SIMT_LOCAL T name(T*, simt::Given<T>);
#define SIMT_DEFINE_ATOMICS(T)      \
  SIMT_DEFINE_ATOMIC(atomicAdd, T)  \
  SIMT_DEFINE_ATOMIC(atomicMin, T)  \
  SIMT_DEFINE_ATOMIC(atomicMax, T)  \
  SIMT_DEFINE_ATOMIC(atomicExch, T) \
  SIMT_DEFINE_ATOMIC(atomicAnd, T)  \
  SIMT_DEFINE_ATOMIC(atomicOr, T)   \
  SIMT_DEFINE_ATOMIC(atomicXor, T)  \
  template SIMT_LOCAL T atomicCAS(T*, simt::Given<T>, simt::Given<T>);

SIMT_DEFINE_ATOMICS(int)
SIMT_DEFINE_ATOMICS(unsigned)
SIMT_DEFINE_ATOMICS(unsigned long long)
SIMT_DEFINE_ATOMIC(atomicMin, long long)
SIMT_DEFINE_ATOMIC(atomicMax, long long)
SIMT_DEFINE_ATOMIC(atomicSub, int)
SIMT_DEFINE_ATOMIC(atomicSub, unsigned)
SIMT_DEFINE_ATOMIC(atomicAdd, float)
SIMT_DEFINE_ATOMIC(atomicAdd, double)
SIMT_DEFINE_ATOMIC(atomicExch, float)

namespace simt {

#define SIMT_DEFINE_REDUCTIONS(T)                      \
  template SIMT_LOCAL T reduce_add(uint32_t, T, Site); \
  template SIMT_LOCAL T reduce_min(uint32_t, T, Site); \
  template SIMT_LOCAL T reduce_max(uint32_t, T, Site);
SIMT_DEFINE_REDUCTIONS(int)
SIMT_DEFINE_REDUCTIONS(unsigned)

#ifdef TILEGRAD_SIM_TRACE

void copy_vector(void* to, const void* from, int bytes, const void* caller) {
  if (in_kernel()) {
    const RuntimeCode guard;
    trace::access(from, bytes, false, false, caller);
    trace::access(to, bytes, true, false, caller);
  }
  std::memmove(to, from, static_cast<size_t>(bytes));
}

#endif

}  // namespace simt

// --- host functions --------------------------------------------------------------------------------

namespace tilegrad {
namespace {

// Device memory that was asked for, with bytes around it that nobody may touch.
constexpr size_t gap = 256;

struct Allocation {
  size_t bytes;
  bool freed;  // only in the traced build, which keeps the memory to know an access to it
};
std::map<const char*, Allocation>& allocations = *new std::map<const char*, Allocation>;

void check_copy(const char* what, const void* device, size_t bytes) {
  const std::lock_guard<std::mutex> lock(simt::m.mutex);
  const auto* p = static_cast<const char*>(device);
  auto next = allocations.upper_bound(p);
  if (next == allocations.begin()) return;  // an array of the host's, used as device memory
  const auto& [begin, allocation] = *std::prev(next);
  const size_t offset = static_cast<size_t>(p - begin);
  if (offset >= allocation.bytes) return;
  if (allocation.freed) throw simt::Error(std::string(what) + ": device memory that was freed");
  if (bytes > allocation.bytes - offset) {
    throw simt::Error(std::string(what) + ": " + std::to_string(bytes) + " bytes at offset " +
                      std::to_string(offset) + " of " + std::to_string(allocation.bytes));
  }
}

int allocated = 0;  // how many have been, which names them

Stream stream = nullptr;

}  // namespace

void* device_malloc(size_t bytes) {
  void* block = nullptr;
  if (posix_memalign(&block, gap, gap + bytes + gap) != 0) {
    throw simt::Error("device_malloc: no memory for " + std::to_string(bytes) + " bytes");
  }
  char* p = static_cast<char*>(block) + gap;
  std::memset(p, 0xff, bytes);  // NaN, until a kernel or a copy writes it
  const std::lock_guard<std::mutex> lock(simt::m.mutex);
  allocations[p] = {bytes, false};
  simt::trace::memory_add(p, bytes, ("device_malloc " + std::to_string(++allocated)).c_str(), true);
  return p;
}

void device_free(void* p) {
  if (p == nullptr) return;
  const std::lock_guard<std::mutex> lock(simt::m.mutex);
  const auto found = allocations.find(static_cast<const char*>(p));
  if (found == allocations.end() || found->second.freed) {
    throw simt::Error("device_free: not a pointer from device_malloc, or freed before");
  }
  simt::trace::memory_remove(p);
#ifdef TILEGRAD_SIM_TRACE
  found->second.freed = true;
#else
  allocations.erase(found);
  std::free(static_cast<char*>(p) - gap);
#endif
}

void copy_to_device(void* device, const void* host, size_t bytes) {
  check_copy("copy_to_device", device, bytes);
  if (bytes > 0) std::memcpy(device, host, bytes);
}

void copy_to_host(void* host, const void* device, size_t bytes) {
  check_copy("copy_to_host", device, bytes);
  if (bytes > 0) std::memcpy(host, device, bytes);
}

Stream current_stream() { return stream; }

void set_current_stream(Stream s) { stream = s; }

}  // namespace tilegrad
