// The traced build: answers the calls that -fsanitize=thread compiles into kernels, and looks at
// each access before it happens. Is the memory there, and the kernel's to write? Has shared memory
// been written? Is the access ordered behind every other one that it conflicts with? And, on
// request, how many transactions would a GPU need?
//
// Two accesses of one word are ordered if they are one thread's; if a barrier of their block lies
// between; if a warp operation of both lanes lies between; if an earlier launch made the first; or
// if the first one's block published it, by __threadfence and an atomic that this block then used.
#include "trace.h"

#ifdef TILEGRAD_SIM_TRACE

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <unordered_map>
#include <vector>

#include "../core/text.h"
#include "control.h"
#include "device_memory.h"
#include "requests.h"
#include "simt.h"
#include "symbols.h"

namespace simt {
namespace {

using requests::Counters;
using requests::Kind;
using requests::Recorder;
using symbols::Place;

// --- what is remembered of memory ----------------------------------------------------------------

// An access. Epochs are counted on and on: a new one begins with each launch, block and barrier, so
// that the epoch tells which block it was. 0 is no access.
struct Stamp {
  Place place;
  uint32_t epoch;
  uint32_t who;  // which bytes of the word, whether a cp.async still under way, thread, clock
};

constexpr uint32_t byte_bits = 0xf;
constexpr uint32_t async_bit = 1u << 4;
constexpr int thread_shift = 5;
constexpr uint32_t thread_bits = 1023u << thread_shift;
constexpr int clock_shift = 15;
constexpr uint32_t last_clock = (1u << 17) - 1;

int thread_of(const Stamp& s) { return static_cast<int>((s.who & thread_bits) >> thread_shift); }
uint32_t clock_of(const Stamp& s) { return s.who >> clock_shift; }

// Of each word that was touched. Writes are kept apart from atomics: a later atomic of the same
// thread must not hide a plain write.
struct Cell {
  Stamp writer, atomic, reader[2];
};

// Cells by address, made as they are needed and kept: what earlier launches left is out of date.
class Shadow {
 public:
  Cell& cell(uintptr_t address) {
    Page**& leaf = root_[address >> 30 & (fan_out - 1)];
    if (leaf == nullptr) leaf = static_cast<Page**>(map(fan_out * sizeof(Page*)));
    Page*& page = leaf[address >> 12 & (fan_out - 1)];
    if (page == nullptr) page = new_page();
    return page->cell[address >> 2 & 1023];
  }

  // Forgets everything, if it has become much.
  void trim(bool always) {
    constexpr size_t much = size_t{1} << 30;
    if (!always && chunks_.size() * chunk_bytes < much) return;
    for (Page**& leaf : root_) {
      if (leaf != nullptr) munmap(leaf, fan_out * sizeof(Page*));
      leaf = nullptr;
    }
    for (void* chunk : chunks_) munmap(chunk, chunk_bytes);
    chunks_.clear();
    left_ = 0;
  }

 private:
  struct Page {
    Cell cell[1024];  // of 4 KiB
  };
  static constexpr size_t fan_out = size_t{1} << 18;
  static constexpr size_t chunk_pages = 256;
  static constexpr size_t chunk_bytes = chunk_pages * sizeof(Page);

  static void* map(size_t bytes) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    return p;
  }

  Page* new_page() {
    if (left_ == 0) {
      chunks_.push_back(map(chunk_bytes));
      left_ = chunk_pages;
    }
    return static_cast<Page*>(chunks_.back()) + --left_;
  }

  Page** root_[fan_out] = {};
  std::vector<void*> chunks_;
  size_t left_ = 0;
};

// --- reports -------------------------------------------------------------------------------------

struct Access {
  Place place;
  bool write, atomic, async;
  int bytes;
  unsigned block[3];
  std::string thread;  // "(x, y, z)"
};

struct Report {
  const char* kind;
  std::string detail;
  std::vector<Access> accesses;  // the one that was found out, and the one it conflicts with
};

std::string access_word(const Access& a) {
  if (a.async) return "cp.async";
  if (a.atomic) return "atomic";
  return a.write ? "write" : "read";
}

std::string block_text(const unsigned (&block)[3]) {
  return "(" + std::to_string(block[0]) + ", " + std::to_string(block[1]) + ", " +
         std::to_string(block[2]) + ")";
}

std::string report_text(const Report& r) {
  std::string text = std::string(r.kind) + ": " + r.detail;
  for (const Access& a : r.accesses) {
    std::string word = access_word(a);
    word.resize(8, ' ');
    const symbols::Line& line = symbols::line_of(a.place);
    text += "\n    " + word + " " + symbols::to_string(line) + ", block " + block_text(a.block) +
            ", thread " + a.thread;
  }
  return text;
}

// --- the launch that runs ------------------------------------------------------------------------

// How far the lanes of a warp know of each other. A lane's clock goes on with each operation of the
// warp that it takes part in.
struct WarpClocks {
  uint32_t clock[32];
  uint32_t base;          // all lanes know what has a clock up to this
  bool partial;           // `seen` is in use: there was an operation of some lanes only
  uint32_t seen[32][32];  // [i][j]: lane i knows what lane j did up to this clock

  void reset() {
    std::fill_n(clock, 32, 1u);
    base = 0;
    partial = false;
  }
  bool knows(int lane, int other, uint32_t when) const {
    return when <= base || (partial && seen[lane][other] >= when);
  }
  void meet_all() {
    base = *std::max_element(clock, clock + 32);
    std::fill_n(clock, 32, std::min(base + 1, last_clock));
    partial = false;
  }
  void meet(uint32_t lanes) {
    if (!partial) std::memset(seen, 0, sizeof seen);
    partial = true;
    uint32_t joined[32] = {};
    for (uint32_t left = lanes; left != 0; left &= left - 1) {
      const int lane = __builtin_ctz(left);
      for (int i = 0; i < 32; ++i) joined[i] = std::max(joined[i], seen[lane][i]);
      joined[lane] = std::max(joined[lane], clock[lane]);
    }
    for (uint32_t left = lanes; left != 0; left &= left - 1) {
      const int lane = __builtin_ctz(left);
      std::copy_n(joined, 32, seen[lane]);
      clock[lane] = std::min(clock[lane] + 1, last_clock);
    }
  }
};

// A moment in a thread's life.
struct Moment {
  uint32_t epoch = 0, clock = 0;
};
bool up_to(const Stamp& s, Moment m) {
  return s.epoch < m.epoch || (s.epoch == m.epoch && clock_of(s) <= m.clock);
}

// What a block published by an atomic: all it had done before an epoch, and what its threads had
// done when each last executed __threadfence.
struct Published {
  uint32_t block_epoch;  // the block's first
  uint32_t before;
  std::vector<Moment> thread;
};

// An atomic on an address where blocks had published, `count` of them.
struct Acquired {
  const std::vector<Published>* from;
  size_t count;
  int thread;
  Moment when;
};

struct Kernel {
  int64_t launches = 0, blocks = 0, threads = 0, barriers = 0, warp_operations = 0;
  unsigned grid[3] = {}, block[3] = {};  // of the latest launch
  size_t dynamic_shared = 0;
  Recorder recorder;
};

// Of a finished launch.
struct Finding {
  std::string kernel, kind;
  std::vector<Access> accesses;
  std::string message;
  int64_t launches;
};

// Which bytes of a word of shared memory have been written, and in which block. The bit behind
// those of the bytes says that the word belongs to no variable.
struct Written {
  uint32_t epoch;
  uint32_t bytes;
};
constexpr uint32_t unowned_bit = byte_bits + 1;

struct SharedRange {
  uintptr_t begin = 0;
  size_t bytes = 0;
  std::vector<Written> written;  // by words

  void set(const Range& range) {
    begin = reinterpret_cast<uintptr_t>(range.begin);
    bytes = range.size();
    if (written.size() < bytes / 4 + 2) written.resize(bytes / 4 + 2, Written{0, 0});
  }
  size_t word(uintptr_t address) const { return (address - (begin & ~uintptr_t{3})) / 4; }

  // Nothing is known where the symbols were stripped.
  void find_variables() {
    const auto& variables = symbols::shared_variables();
    for (Written& w : written) w = {0, variables.empty() ? 0 : unowned_bit};
    for (const auto& v : variables) {
      for (size_t i = v.begin; i < std::min(v.begin + v.bytes, bytes); ++i) {
        written[word(begin + i)].bytes = 0;
      }
    }
  }
};

struct Tracer {
  uintptr_t variables = 0;  // of the image
  size_t variables_bytes = 0;
  SharedRange static_shared, dynamic_shared;
  uintptr_t parameters = 0;
  size_t parameters_bytes = 0;

  uint32_t epoch = 0, launch_epoch = 0, block_epoch = 0;
  WarpClocks warp[32];
  int threads = 0, warps = 0;
  uint32_t last_warp_lanes = 0;

  Shadow shadow;
  DeviceMemory memory;

  // Of the launch.
  std::vector<std::pair<uint32_t, int64_t>> blocks;  // first epoch and number of those that ran
  std::unordered_map<uintptr_t, std::vector<Published>> published;
  std::vector<Report> reports;
  std::set<std::tuple<const char*, Place, Place>> reported;

  // Of the block.
  bool fenced = false;         // a thread has executed __threadfence
  std::vector<Moment> fences;  // of each thread the last
  std::vector<Acquired> acquired;

  // Of the trace.
  std::mutex mutex;  // held while a launch runs
  bool counting = false, raising = true;
  std::map<std::string, Kernel> kernels;
  Kernel* kernel = nullptr;
  std::vector<Finding> findings;
};

// The threads' stacks. Every access looks at them first, even before variables are initialised.
uintptr_t stacks = 0;
size_t stacks_bytes = 0;  // 0 while no launch runs

// Never destroyed: kernels may run until the process ends.
Tracer& t = *new Tracer;

Access describe(Place place, int bytes, bool write, bool atomic, bool async, int64_t block,
                int thread) {
  const auto row = block / gridDim.x;
  return {place,
          write,
          atomic,
          async,
          bytes,
          {static_cast<unsigned>(block % gridDim.x), static_cast<unsigned>(row % gridDim.y),
           static_cast<unsigned>(row / gridDim.y)},
          thread_text(thread)};
}

constexpr const char* race = "race";
constexpr const char* uninitialised = "uninitialised shared read";

// Each kind is reported once for each pair of places.
bool is_known(const char* kind, Place place, Place other = 0) {
  return t.reported.count({kind, place, other}) != 0;
}

void report(const char* kind, const std::string& detail, const Access& access,
            const Access* other = nullptr) {
  if (!t.reported.insert({kind, access.place, other != nullptr ? other->place : 0}).second) return;
  std::vector<Access> accesses{access};
  if (other != nullptr) accesses.push_back(*other);
  t.reports.push_back({kind, detail, accesses});
}

// "tile[33] (shared memory, 4224 bytes)": what lies at an address, in elements of `bytes`.
std::string memory_text(uintptr_t address, int bytes) {
  auto text = [&](const std::string& name, uintptr_t begin, size_t size, const char* what) {
    const uintptr_t offset = address - begin;
    const auto element = static_cast<uintptr_t>(bytes);
    return name +
           (offset % element == 0 ? "[" + std::to_string(offset / element) + "]"
                                  : " at byte " + std::to_string(offset)) +
           " (" + what + std::to_string(size) + " bytes)";
  };
  const auto& s = t.static_shared;
  const auto& d = t.dynamic_shared;
  if (address - s.begin < s.bytes) {
    const size_t offset = address - s.begin;
    const auto* variable = symbols::variable_at(offset);
    if (variable != nullptr && offset < variable->begin + variable->bytes) {
      return text(variable->name, s.begin + variable->begin, variable->bytes, "shared memory, ");
    }
    return text("static shared memory", s.begin, s.bytes, "");
  }
  if (address - d.begin < d.bytes) return text("dynamic shared memory", d.begin, d.bytes, "");
  if (const Segment* segment = t.memory.find(address)) {
    const Array& a = *segment->array;
    return text(a.name, a.begin, a.end - a.begin, "");
  }
  return "a variable";
}

// --- order ---------------------------------------------------------------------------------------

Moment now(int thread) { return {t.epoch, t.warp[thread / 32].clock[thread % 32]}; }

// Whether what `thread` did by then is known to the running thread; same block.
bool reached(int thread, Moment when) {
  if (thread == running.thread || when.epoch < t.epoch) return true;
  return thread / 32 == warp() && t.warp[warp()].knows(lane(), thread % 32, when.clock);
}

bool was_published(const Stamp& s) {
  if (t.acquired.empty()) return false;
  const auto next = std::upper_bound(t.blocks.begin(), t.blocks.end(), s.epoch,
                                     [](uint32_t e, const auto& block) { return e < block.first; });
  if (next == t.blocks.begin()) return false;
  const uint32_t block_epoch = std::prev(next)->first;
  for (const Acquired& a : t.acquired) {
    if (!reached(a.thread, a.when)) continue;
    for (size_t i = 0; i < a.count; ++i) {
      const Published& p = (*a.from)[i];
      if (p.block_epoch != block_epoch) continue;
      if (s.epoch < p.before || up_to(s, p.thread[static_cast<size_t>(thread_of(s))])) return true;
    }
  }
  return false;
}

// Whether the access of `s`, which touches these bytes too, is ordered before the running thread's
// next one. What was before epoch `first` does not count.
inline bool ordered(const Stamp& s, uint32_t bytes, uint32_t first) {
  if (s.epoch < first || (s.who & bytes) == 0) return true;
  if ((s.who & async_bit) != 0) return false;
  if (s.epoch < t.block_epoch) return was_published(s);
  return reached(thread_of(s), {s.epoch, clock_of(s)});
}

void publish(uintptr_t address) {
  const int me = running.thread;
  auto& all = t.published[address];
  if (all.empty() || all.back().block_epoch != t.block_epoch) {
    all.push_back({t.block_epoch, 0, std::vector<Moment>(static_cast<size_t>(t.threads))});
  }
  Published& p = all.back();
  for (int i = 0; i < t.threads; ++i) {
    const Moment fence = t.fences[static_cast<size_t>(i)];
    if (fence.epoch != 0 && reached(i, {fence.epoch, fence.clock})) {
      p.thread[static_cast<size_t>(i)] = fence;
    }
  }
  p.before = std::max(p.before, t.fences[static_cast<size_t>(me)].epoch);
}

void acquire(uintptr_t address) {
  const auto found = t.published.find(address);
  if (found == t.published.end()) return;
  const Moment when = now(running.thread);
  const auto* from = &found->second;
  for (Acquired& a : t.acquired) {
    if (a.from == from && a.thread == running.thread) {
      a = {from, from->size(), a.thread, when};
      return;
    }
  }
  t.acquired.push_back({from, from->size(), running.thread, when});
}

void report_race(uintptr_t address, const Access& mine, const Stamp& s, bool other_write,
                 bool other_atomic) {
  const bool same_block = s.epoch >= t.block_epoch;
  const bool pending = (s.who & async_bit) != 0;
  int64_t block = running.block;
  if (!same_block) {
    const auto next =
        std::upper_bound(t.blocks.begin(), t.blocks.end(), s.epoch,
                         [](uint32_t e, const auto& block) { return e < block.first; });
    block = std::prev(next)->second;
  }
  const Access other =
      describe(s.place, mine.bytes, other_write, other_atomic, pending, block, thread_of(s));
  std::string detail = memory_text(address, std::min(mine.bytes, 4));
  if (pending) {
    detail += ": cp.async has not been waited for";
  } else if (!same_block) {
    detail += ": nothing orders two blocks of a launch";
  } else if (thread_of(s) / 32 == warp()) {
    detail += ": no barrier and no operation of these lanes between";
  } else {
    detail += ": no barrier between";
  }
  report(race, detail, mine, &other);
}

// --- an access -----------------------------------------------------------------------------------

enum class Alignment { natural, none };

struct Event {
  uintptr_t address;
  int bytes;
  bool write, atomic, async;
  Place place;
};

[[gnu::cold]] Access describe(const Event& e) {
  return describe(e.place, e.bytes, e.write, e.atomic, e.async, running.block, running.thread);
}

std::string access_text(const Event& e) {
  const char* word = e.async ? "cp.async" : e.atomic ? "atomic" : e.write ? "write" : "read";
  return std::string(word) + " of " + std::to_string(e.bytes) + " bytes";
}

// The access must not happen: the launch ends here, and launch_failed finds the report.
[[noreturn, gnu::cold, gnu::noinline]] void refuse(const Event& e, const char* kind,
                                                   const std::string& detail) {
  report(kind, access_text(e) + ", " + detail, describe(e));
  leave(kind);
}

// Behind the end of some memory; `distance` from it to the access's end.
[[noreturn]] void refuse_beyond(const Event& e, uintptr_t distance, const std::string& memory) {
  const auto bytes = static_cast<uintptr_t>(e.bytes);
  const std::string where = distance < bytes ? "of which " + std::to_string(distance) + " lie"
                                             : std::to_string(distance - bytes) + " bytes";
  refuse(e, "out of bounds", where + " past the end of " + memory);
}

// Code of the simulator or the standard library that a kernel's file brings along, such as what
// puts an error's message together: the host's memory is its own business.
[[gnu::cold, gnu::noinline]] bool is_simulator(Place place) {
  static auto& known = *new std::map<Place, bool>;
  const auto [found, is_new] = known.insert({place, false});
  if (is_new) {
    const symbols::Line& line = symbols::line_of(place);
    found->second = symbols::is_foreign(line.file) || line.function.compare(0, 5, "std::") == 0 ||
                    line.function.compare(0, 6, "simt::") == 0;
  }
  return found->second;
}

[[noreturn, gnu::cold, gnu::noinline]] void refuse_address(const Event& e) {
  const auto miss = t.memory.explain(e.address);
  const uintptr_t end = e.address + static_cast<uintptr_t>(e.bytes);
  auto check = [&](const SharedRange& range, const char* what) {
    constexpr uintptr_t near = 4096;
    const uintptr_t distance = end - (range.begin + range.bytes);
    if (range.begin == 0 || distance - 1 >= std::min(near, miss.distance)) return;
    refuse_beyond(e, distance, "the block's " + std::to_string(range.bytes) + " bytes of " + what);
  };
  check(t.dynamic_shared, "dynamic shared memory");
  check(t.static_shared, "static shared memory");
  refuse(e, miss.kind, miss.detail);
}

[[noreturn, gnu::cold, gnu::noinline]] void refuse_unowned(const Event& e, uintptr_t address) {
  const auto* v = symbols::variable_at(address - t.static_shared.begin);
  if (v == nullptr) refuse(e, "out of bounds", "before the beginning of static shared memory");
  const uintptr_t end = t.static_shared.begin + v->begin + v->bytes;
  refuse_beyond(e, e.address + static_cast<uintptr_t>(e.bytes) - end,
                v->name + " (shared memory, " + std::to_string(v->bytes) + " bytes)");
}

[[gnu::cold, gnu::noinline]] void report_conflict(const Event& e, uintptr_t word, uint32_t bytes,
                                                  const Cell& c, uint32_t first) {
  auto check = [&](const Stamp& s, bool write, bool atomic) {
    if (ordered(s, bytes, first) || is_known(race, e.place, s.place)) return;
    report_race(std::max(word, e.address), describe(e), s, write, atomic);
  };
  check(c.writer, true, false);
  if (!e.atomic) check(c.atomic, true, true);
  if (e.write) {
    for (const Stamp& s : c.reader) check(s, false, false);
  }
}

// Which bytes of the word at `word` the access touches.
inline uint32_t bytes_of_word(const Event& e, uintptr_t word) {
  const uintptr_t end = e.address + static_cast<uintptr_t>(e.bytes);
  uint32_t bytes = byte_bits;
  if (word < e.address) bytes &= byte_bits << (e.address - word);
  if (word + 4 > end) bytes &= byte_bits >> (word + 4 - end);
  return bytes;
}

// Checks one access against the stamps of its words, and leaves its own.
void order(const Event& e, uint32_t first) {
  const int lane = simt::lane();
  const uint32_t who = t.warp[warp()].clock[lane] << clock_shift |
                       static_cast<uint32_t>(running.thread) << thread_shift |
                       (e.async ? async_bit : 0);
  const uintptr_t end = e.address + static_cast<uintptr_t>(e.bytes);
  for (uintptr_t word = e.address & ~uintptr_t{3}; word < end; word += 4) {
    const uint32_t bytes = bytes_of_word(e, word);
    Cell& c = t.shadow.cell(word);
    Stamp mine{e.place, t.epoch, who | bytes};
    bool fine = ordered(c.writer, bytes, first);
    if (!e.atomic) fine &= ordered(c.atomic, bytes, first);
    if (e.write) fine &= ordered(c.reader[0], bytes, first) && ordered(c.reader[1], bytes, first);
    if (__builtin_expect(!fine, 0)) report_conflict(e, word, bytes, c, first);
    Stamp* place = &c.writer;
    if (e.atomic) {
      place = &c.atomic;
    } else if (!e.write) {  // takes its own thread's place, or the older one
      const bool first_is_mine = ((c.reader[0].who ^ who) & thread_bits) == 0;
      place = &c.reader[!first_is_mine && c.reader[1].epoch <= c.reader[0].epoch];
    }
    if (place->epoch == t.epoch && ((place->who ^ who) & thread_bits) == 0) {
      mine.who |= place->who & byte_bits;
    }
    *place = mine;
  }
}

void on_shared(const Event& e, SharedRange& range, uintptr_t offset) {
  if (static_cast<size_t>(e.bytes) > range.bytes - offset) refuse_address(e);
  const uintptr_t end = e.address + static_cast<uintptr_t>(e.bytes);
  for (uintptr_t word = e.address & ~uintptr_t{3}; word < end; word += 4) {
    const uint32_t bytes = bytes_of_word(e, word);
    Written& w = range.written[range.word(word)];
    if (w.epoch != t.block_epoch) {
      if (w.bytes == unowned_bit) refuse_unowned(e, std::max(word, e.address));
      w = {t.block_epoch, 0};
    }
    const bool reads = !e.write || e.atomic;
    if (reads && (bytes & ~w.bytes) != 0 && !is_known(uninitialised, e.place)) {
      report(uninitialised,
             access_text(e) + " of " +
                 memory_text(std::max(word, e.address), std::min(e.bytes, 4)) +
                 ", which no thread of the block has written",
             describe(e));
    }
    if (e.write) w.bytes |= bytes;
  }
  order(e, t.block_epoch);
}

void count(const Event& e, bool shared, uint32_t address) {
  const int kind = (shared ? requests::shared_load : requests::global_load) + (e.atomic  ? 2
                                                                               : e.write ? 1
                                                                                         : 0);
  t.kernel->recorder.add(warp(), lane(), e.place, static_cast<Kind>(kind),
                         static_cast<unsigned>(e.bytes), address);
}

void observe(const Event& e, Alignment alignment) {
  if (e.address - stacks < stacks_bytes) return;            // locals
  if (e.address - t.variables < t.variables_bytes) return;  // threadIdx and constants
  if (alignment == Alignment::natural && (e.address & static_cast<uintptr_t>(e.bytes - 1)) != 0) {
    refuse(e, "misaligned access",
           "at an address that is not a multiple of " + std::to_string(e.bytes) + ": " +
               memory_text(e.address, e.bytes));
  }
  auto* range = &t.static_shared;
  if (e.address - range->begin >= range->bytes) range = &t.dynamic_shared;
  if (e.address - range->begin < range->bytes) {
    on_shared(e, *range, e.address - range->begin);
    if (t.counting) count(e, true, static_cast<uint32_t>(e.address));
    return;
  }
  if (e.address - t.parameters < t.parameters_bytes && !e.write) return;
  const Segment* segment = t.memory.find(e.address);
  if (segment == nullptr) {
    if (is_simulator(e.place)) return;
    refuse_address(e);
  }
  const uintptr_t end = e.address + static_cast<uintptr_t>(e.bytes);
  for (uintptr_t next = segment->end; next < end;) {  // rarely: it ends in a later segment
    const Segment* s = t.memory.find(next);
    if (s == nullptr) {
      refuse(e, "out of bounds", t.memory.explain(next).detail + " at its last bytes");
    }
    next = s->end;
  }
  if (e.write && !segment->writable) {
    report("write to read-only array", access_text(e) + " to " + memory_text(e.address, e.bytes),
           describe(e));
  }
  if (e.atomic) acquire(e.address);
  order(e, t.launch_epoch);
  if (e.atomic && t.fenced) publish(e.address);
  if (t.counting) {
    count(e, false, segment->model + static_cast<uint32_t>(e.address - segment->begin));
  }
}

// Hooks also come from host code of the same file, perhaps in another OS thread: only what runs on
// a fiber's stack is a kernel.
inline bool from_kernel() {
  return running.kernel_code &&
         reinterpret_cast<uintptr_t>(__builtin_frame_address(0)) - stacks < stacks_bytes;
}

inline void hook(const void* address, int bytes, bool write, bool atomic, const void* pc,
                 Alignment alignment) {
  if (!from_kernel()) return;
  running.kernel_code = false;  // the standard library's functions may have hooks of their own
  observe({reinterpret_cast<uintptr_t>(address), bytes, write, atomic, false, symbols::place(pc)},
          alignment);
  running.kernel_code = true;
}

// Structs that are moved as a whole.
void hook_range(const void* address, size_t bytes, bool write, const void* pc) {
  const auto* p = static_cast<const char*>(address);
  for (size_t i = 0; i < bytes;) {
    const bool word = (reinterpret_cast<uintptr_t>(p + i) & 3) == 0 && bytes - i >= 4;
    hook(p + i, word ? 4 : 1, write, false, pc, Alignment::natural);
    i += word ? 4 : 1;
  }
}

// --- the launch's end ----------------------------------------------------------------------------

constexpr size_t shown_reports = 5;

std::string count_text(const std::string& kernel) {
  const size_t n = t.reports.size();
  return "kernel " + kernel + ": " + std::to_string(n) + (n == 1 ? " error" : " errors");
}

std::string reports_text() {
  std::vector<Place> places;
  for (const Report& r : t.reports) {
    for (const Access& a : r.accesses) places.push_back(a.place);
  }
  symbols::resolve(places);
  std::string text;
  for (size_t i = 0; i < std::min(t.reports.size(), shown_reports); ++i) {
    text += (i > 0 ? "\n  " : "  ") + report_text(t.reports[i]);
  }
  if (t.reports.size() > shown_reports) {
    text += "\n  and " + std::to_string(t.reports.size() - shown_reports) + " more";
  }
  return text;
}

// The same lines in several launches are one finding.
void keep_finding(const Finding& finding) {
  auto same = [&](const Finding& f) {
    auto same_place = [](const Access& a, const Access& b) { return a.place == b.place; };
    return f.kernel == finding.kernel && f.kind == finding.kind &&
           std::equal(f.accesses.begin(), f.accesses.end(), finding.accesses.begin(),
                      finding.accesses.end(), same_place) &&
           (!f.accesses.empty() || f.message == finding.message);
  };
  const auto found = std::find_if(t.findings.begin(), t.findings.end(), same);
  if (found == t.findings.end()) {
    t.findings.push_back(finding);
  } else {
    ++found->launches;
  }
}

void keep_reports(const std::string& kernel) {
  for (const Report& r : t.reports) {
    keep_finding({kernel, r.kind, r.accesses, report_text(r), 1});
  }
}

using tilegrad::Text;

// --- JSON ----------------------------------------------------------------------------------------

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else if (static_cast<unsigned char>(c) < 32) {
      out += ' ';
    } else {
      out += c;
    }
  }
  return out + '"';
}

// "a": 1, "b": 2, ... for what is written between braces.
class Object {
 public:
  explicit Object(Text& out) : out_(out) { out_ << '{'; }
  ~Object() { out_ << '}'; }
  Text& key(const char* name) {
    out_ << (first_ ? "" : ", ") << '"' << name << "\": ";
    first_ = false;
    return out_;
  }

 private:
  Text& out_;
  bool first_ = true;
};

template <class List, class F>
void write_list(Text& out, const List& list, F write) {
  out << '[';
  bool first = true;
  for (const auto& item : list) {
    out << (first ? "\n  " : ",\n  ");
    first = false;
    write(item);
  }
  out << ']';
}

void write_triple(Text& out, const unsigned (&v)[3]) {
  out << '[' << v[0] << ", " << v[1] << ", " << v[2] << ']';
}

void write_line(Object& object, const symbols::Line& line) {
  object.key("file") << quoted(line.file);
  object.key("line") << line.line;
  object.key("function") << quoted(line.function);
}

// From the line outwards: where its function is inlined.
void write_callers(Text& out, const symbols::Line& line) {
  write_list(out, line.callers, [&](const symbols::Line& caller) {
    Object object(out);
    write_line(object, caller);
  });
}

// The accesses of one source line, of one kind and width, in one kernel.
struct RowKey {
  std::string kernel;
  symbols::Line line;
  Kind kind;
  unsigned bytes;

  bool operator<(const RowKey& other) const {
    return std::tie(kernel, line, kind, bytes) <
           std::tie(other.kernel, other.line, other.kind, other.bytes);
  }
};

void write_row(Text& out, const RowKey& key, const Counters& c) {
  Object row(out);
  row.key("kernel") << quoted(key.kernel);
  write_line(row, key.line);
  write_callers(row.key("callers"), key.line);
  row.key("kind") << quoted(requests::name(key.kind));
  row.key("bytes_each") << key.bytes;
  row.key("requests") << c.requests;
  row.key("lanes") << c.lanes;
  row.key("bytes") << c.bytes;
  row.key("sectors") << c.sectors;
  row.key("ideal_sectors") << c.ideal_sectors;
  row.key("wavefronts") << c.wavefronts;
  row.key("ideal_wavefronts") << c.ideal_wavefronts;
  row.key("same_address") << c.same_address;
}

void write_kernel(Text& out, const std::string& name, const Kernel& k) {
  Object object(out);
  object.key("name") << quoted(name);
  object.key("launches") << k.launches;
  object.key("blocks") << k.blocks;
  object.key("threads") << k.threads;
  write_triple(object.key("grid"), k.grid);
  write_triple(object.key("block"), k.block);
  object.key("dynamic_shared_bytes") << k.dynamic_shared;
  object.key("barriers") << k.barriers;
  object.key("warp_operations") << k.warp_operations;
}

void write_finding(Text& out, const Finding& f) {
  Object object(out);
  object.key("kind") << quoted(f.kind);
  object.key("kernel") << quoted(f.kernel);
  object.key("launches") << f.launches;
  object.key("message") << quoted(f.message);
  write_list(object.key("accesses"), f.accesses, [&](const Access& a) {
    Object access(out);
    access.key("access") << quoted(access_word(a));
    write_line(access, symbols::line_of(a.place));
    write_callers(access.key("callers"), symbols::line_of(a.place));
    write_triple(access.key("block"), a.block);
    access.key("thread") << quoted(a.thread);
  });
}

std::string trace_json() {
  std::vector<Place> places;
  for (const auto& [name, kernel] : t.kernels) {
    for (const requests::Site& site : kernel.recorder.sites()) places.push_back(site.place);
  }
  for (const Finding& f : t.findings) {
    for (const Access& a : f.accesses) places.push_back(a.place);
  }
  symbols::resolve(places);
  std::map<RowKey, Counters> rows;
  for (const auto& [name, kernel] : t.kernels) {
    for (const requests::Site& site : kernel.recorder.sites()) {
      const RowKey key{name, symbols::line_of(site.place), site.kind, site.bytes};
      if (site.counters.requests > 0) rows[key].add(site.counters);
    }
  }
  Text out;
  {
    Object report(out);
    write_list(report.key("kernels"), t.kernels,
               [&](const auto& item) { write_kernel(out, item.first, item.second); });
    write_list(report.key("rows"), rows,
               [&](const auto& row) { write_row(out, row.first, row.second); });
    write_list(report.key("errors"), t.findings, [&](const Finding& f) { write_finding(out, f); });
  }
  return out.str();
}

}  // namespace

// --- control -------------------------------------------------------------------------------------

void trace_start(bool raise_errors) {
  const std::lock_guard<std::mutex> lock(t.mutex);
  t.kernels.clear();
  t.findings.clear();
  t.counting = true;
  t.raising = raise_errors;
}

std::string trace_stop() {
  const std::lock_guard<std::mutex> lock(t.mutex);
  const std::string report = trace_json();
  t.kernels.clear();
  t.findings.clear();
  t.counting = false;
  t.raising = true;
  return report;
}

// --- what the runtime tells ----------------------------------------------------------------------

namespace trace {

void memory_add(const void* p, size_t bytes, const char* name, bool writable) {
  t.memory.add(p, bytes, name, writable);
}

void memory_remove(const void* p) { t.memory.remove(p); }

void launch_begin(const char* kernel, const dim3& grid, const dim3& block, size_t smem) {
  t.mutex.lock();
  constexpr uint32_t many_epochs = 3u << 30;
  t.shadow.trim(t.epoch > many_epochs);
  if (t.epoch > many_epochs) {
    t.epoch = 0;
    t.static_shared = t.dynamic_shared = {};
  }
  t.launch_epoch = ++t.epoch;
  t.threads = static_cast<int>(block.x * block.y * block.z);
  t.warps = (t.threads + 31) / 32;
  t.last_warp_lanes = t.threads % 32 == 0 ? ~0u : (1u << t.threads % 32) - 1;
  t.blocks.clear();
  t.published.clear();
  t.memory.settle();

  const Memory& m = memory();
  const bool moved = t.static_shared.bytes != m.static_shared.size();
  t.static_shared.set(m.static_shared);
  if (moved) t.static_shared.find_variables();
  t.dynamic_shared.set(m.dynamic_shared);
  t.parameters = reinterpret_cast<uintptr_t>(m.parameters.begin);
  t.parameters_bytes = m.parameters.size();
  t.variables = reinterpret_cast<uintptr_t>(symbols::image().range.begin);
  t.variables_bytes = symbols::image().range.size();
  stacks = reinterpret_cast<uintptr_t>(m.stacks.begin);
  stacks_bytes = m.stacks.size();

  if (!t.counting) return;
  Kernel& k = t.kernels[kernel];
  const unsigned g[] = {grid.x, grid.y, grid.z}, b[] = {block.x, block.y, block.z};
  std::copy_n(g, 3, k.grid);
  std::copy_n(b, 3, k.block);
  ++k.launches;
  k.dynamic_shared = smem;
  t.kernel = &k;
}

namespace {

void end_launch() {
  stacks_bytes = 0;
  t.reports.clear();
  t.reported.clear();
  t.mutex.unlock();
}

}  // namespace

void launch_end() {
  if (t.reports.empty()) return end_launch();
  const std::string kernel = kernel_name();
  if (t.counting) keep_reports(kernel);
  if (!t.raising) return end_launch();
  const std::string text = count_text(kernel) + "\n" + reports_text();
  end_launch();
  throw Error(text);
}

bool launch_failed(const char* message) {
  const std::string kernel = kernel_name();
  if (t.counting) t.kernel->recorder.drop();
  std::string text = message;
  const bool refused = !t.reports.empty() && text == t.reports.back().kind;
  if (refused) std::rotate(t.reports.begin(), t.reports.end() - 1, t.reports.end());
  if (!t.reports.empty()) {
    text = (refused ? count_text(kernel) : text) + "\n" + reports_text();
  }
  if (t.counting) {
    keep_reports(kernel);
    // "deadlock: ...", or a file name
    const std::string kind = text.substr(0, text.find(':'));
    const bool named = kind.find_first_of("/.") == std::string::npos;
    if (!refused) keep_finding({kernel, named ? kind : "failed operation", {}, message, 1});
  }
  const bool raising = t.raising, ours = !t.reports.empty();
  end_launch();
  if (raising && ours) throw Error(text);
  return !raising;
}

void block_begin(int64_t block) {
  t.block_epoch = ++t.epoch;
  t.blocks.emplace_back(t.block_epoch, block);
  for (int w = 0; w < t.warps; ++w) t.warp[w].reset();
  t.fenced = false;
  t.acquired.clear();
}

void block_end() {
  if (!t.counting) return;
  for (int w = 0; w < t.warps; ++w) t.kernel->recorder.flush(w);
  ++t.kernel->blocks;
  t.kernel->threads += t.threads;
}

void barrier() {
  ++t.epoch;
  for (int w = 0; w < t.warps; ++w) t.warp[w].reset();
  if (!t.counting) return;
  for (int w = 0; w < t.warps; ++w) t.kernel->recorder.flush(w);
  ++t.kernel->barriers;
}

void warp_sync(int warp, uint32_t mask) {
  const uint32_t all = warp == t.warps - 1 ? t.last_warp_lanes : ~0u;
  if (t.counting) ++t.kernel->warp_operations;
  if (mask != all) {
    t.warp[warp].meet(mask);
    return;
  }
  t.warp[warp].meet_all();
  if (t.counting) t.kernel->recorder.flush(warp);
}

void fence() {
  if (!t.fenced) t.fences.assign(static_cast<size_t>(t.threads), Moment{});
  t.fenced = true;
  uint32_t& clock = t.warp[warp()].clock[lane()];
  t.fences[static_cast<size_t>(running.thread)] = {t.epoch, clock};
  clock = std::min(clock + 1, last_clock);
}

void access(const void* address, int bytes, bool write, bool atomic, const void* pc) {
  if (!in_kernel()) return;
  const bool kernel_code = std::exchange(running.kernel_code, false);
  observe({reinterpret_cast<uintptr_t>(address), bytes, write, atomic, false, symbols::place(pc)},
          Alignment::natural);
  running.kernel_code = kernel_code;
}

void async_copy_issue(const void* shared, const void* global, int bytes, int source_bytes,
                      const void* pc) {
  const Place place = symbols::place(pc);
  if (source_bytes > 0) {
    observe({reinterpret_cast<uintptr_t>(global), source_bytes, false, false, false, place},
            Alignment::none);
  }
  observe({reinterpret_cast<uintptr_t>(shared), bytes, true, false, true, place},
          Alignment::natural);
}

// From here on the copy is an ordinary write of this thread, made now.
void async_copy_done(const void* shared, int bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(shared);
  const Moment when = now(running.thread);
  for (uintptr_t word = begin; word < begin + static_cast<uintptr_t>(bytes); word += 4) {
    Stamp& s = t.shadow.cell(word).writer;
    const bool ours = (s.who & async_bit) != 0 && thread_of(s) == running.thread;
    if (!ours || s.epoch < t.block_epoch) continue;
    s.epoch = when.epoch;
    s.who = (s.who & (byte_bits | thread_bits)) | when.clock << clock_shift;
  }
}

}  // namespace trace
}  // namespace simt

#include "hooks.h"

#endif
