// The counters of the traced build: how many sectors and wavefronts a GPU would need for the
// accesses of a warp. A model: it knows nothing of caches, nor of accesses that nvcc merges or
// removes.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "symbols.h"

namespace simt {
namespace requests {

using symbols::Place;

enum Kind : uint8_t {
  global_load,
  global_store,
  global_atomic,
  shared_load,
  shared_store,
  shared_atomic
};
inline const char* name(Kind kind) {
  static const char* const names[] = {"global load", "global store", "global atomic",
                                      "shared load", "shared store", "shared atomic"};
  return names[kind];
}
inline bool is_shared(Kind kind) { return kind >= shared_load; }

struct Counters {
  int64_t requests = 0;  // instructions of a warp
  int64_t lanes = 0;     // that took part
  int64_t bytes = 0;     // that they asked for
  // Global memory: 32-byte sectors touched, and how many would hold the distinct bytes.
  int64_t sectors = 0, ideal_sectors = 0;
  // Shared memory: passes over the banks, and how many if no two lanes' words lay in one bank.
  int64_t wavefronts = 0, ideal_wavefronts = 0;
  // Atomics: the most lanes that met on one address, summed over requests.
  int64_t same_address = 0;

  void add(const Counters& c) {
    requests += c.requests;
    lanes += c.lanes;
    bytes += c.bytes;
    sectors += c.sectors;
    ideal_sectors += c.ideal_sectors;
    wavefronts += c.wavefronts;
    ideal_wavefronts += c.ideal_wavefronts;
    same_address += c.same_address;
  }
};

// One instruction of a warp.
struct Request {
  uint32_t lanes;
  uint32_t address[32];  // its low bits are enough to compare the lanes'
};

// Passes over the 32 banks of 4 bytes: a warp goes at once where each lane has 4 bytes or less, in
// halves where it has 8, in quarters where it has 16. Lanes that want the same word share a pass.
inline void count_wavefronts(const Request& r, unsigned bytes, Counters& c) {
  const int words = bytes <= 4 ? 1 : static_cast<int>(bytes / 4);
  const int group = 32 / words;
  for (int begin = 0; begin < 32; begin += group) {
    uint8_t used[32] = {};
    uint32_t word[32][32];
    int most = 0;
    for (int lane = begin; lane < begin + group; ++lane) {
      if ((r.lanes >> lane & 1) == 0) continue;
      for (int i = 0; i < words; ++i) {
        const uint32_t w = r.address[lane] / 4 + static_cast<uint32_t>(i);
        uint32_t* const bank = word[w % 32];
        uint8_t& n = used[w % 32];
        if (std::find(bank, bank + n, w) != bank + n) continue;
        bank[n++] = w;
        most = std::max<int>(most, n);
      }
    }
    c.wavefronts += most;
    c.ideal_wavefronts += most > 0;
  }
}

inline void count_sectors(const Request& r, unsigned bytes, Kind kind, Counters& c) {
  uint32_t address[32];
  int n = 0;
  for (uint32_t left = r.lanes; left != 0; left &= left - 1) {
    address[n++] = r.address[__builtin_ctz(left)];
  }
  if (!std::is_sorted(address, address + n)) std::sort(address, address + n);
  int64_t sectors = 0, distinct = 0;
  uint32_t next = 0;  // first sector that has not been counted
  int same = 0, most = 0;
  for (int i = 0; i < n; ++i) {
    same = i > 0 && address[i] == address[i - 1] ? same + 1 : 1;
    most = std::max(most, same);
    if (same > 1) continue;
    ++distinct;
    const uint32_t begin = address[i] / 32, end = (address[i] + bytes - 1) / 32 + 1;
    const uint32_t from = i == 0 ? begin : std::max(begin, next);
    if (end > from) sectors += end - from;
    next = std::max(end, from);
  }
  c.sectors += sectors;
  c.ideal_sectors += (distinct * bytes + 31) / 32;
  if (kind == global_atomic) c.same_address += most;
}

// The accesses of one instruction in one kernel.
struct Site {
  Place place;
  Kind kind;
  unsigned bytes;
  Counters counters;
};

// What a warp has under way at one site since its lanes were last together.
struct Pending {
  uint32_t times[32] = {};  // how often each lane has come
  size_t used = 0;
  std::vector<Request> requests;  // the i-th holds the lanes' i-th accesses
};

// The sites of one kernel. Lanes need not run in step: the i-th access of each lane at a site,
// since the last barrier or operation of the whole warp, belong to one request.
class Recorder {
 public:
  void add(int warp, int lane, Place place, Kind kind, unsigned bytes, uint32_t address) {
    const uint32_t i = site(place, kind, bytes);
    auto& mine = warps_[static_cast<size_t>(warp)];
    if (mine.pending.size() <= i) mine.pending.resize(sites_.size());
    Pending& p = mine.pending[i];
    if (p.used == 0) mine.touched.push_back(i);
    const uint32_t time = p.times[lane]++;
    if (time >= p.used) {
      p.used = time + 1;
      if (p.requests.size() < p.used) p.requests.resize(std::max<size_t>(8, 2 * p.used));
      p.requests[time].lanes = 0;
    }
    Request& request = p.requests[time];
    request.lanes |= 1u << lane;
    request.address[lane] = address;
  }

  // The warp's lanes are together: its requests are complete.
  void flush(int warp) {
    auto& mine = warps_[static_cast<size_t>(warp)];
    for (uint32_t i : mine.touched) {
      Pending& p = mine.pending[i];
      Site& site = sites_[i];
      for (size_t k = 0; k < p.used; ++k) count(p.requests[k], site);
      p.used = 0;
      std::fill_n(p.times, 32, 0u);
      constexpr size_t keep = 4096;
      if (p.requests.size() > keep) std::vector<Request>().swap(p.requests);
    }
    mine.touched.clear();
  }

  // After a launch that failed: what was under way is dropped.
  void drop() {
    for (auto& warp : warps_) warp = {};
  }

  const std::vector<Site>& sites() const { return sites_; }

 private:
  struct Warp {
    std::vector<Pending> pending;   // by site
    std::vector<uint32_t> touched;  // sites with requests
  };

  uint32_t site(Place place, Kind kind, unsigned bytes) {
    const uint32_t hash = (static_cast<uint32_t>(place) * 8 + kind) * 0x9e3779b1u;
    for (size_t slot = hash & (table_.size() - 1);; slot = (slot + 1) & (table_.size() - 1)) {
      const uint32_t i = table_[slot];
      if (i == none) {
        if (2 * (sites_.size() + 1) > table_.size()) {
          grow();
          return site(place, kind, bytes);
        }
        table_[slot] = static_cast<uint32_t>(sites_.size());
        sites_.push_back({place, kind, bytes, {}});
        return table_[slot];
      }
      if (sites_[i].place == place && sites_[i].kind == kind) return i;
    }
  }

  void grow() {
    table_.assign(2 * table_.size(), none);
    for (uint32_t i = 0; i < sites_.size(); ++i) {
      const Site& s = sites_[i];
      size_t slot = (static_cast<uint32_t>(s.place) * 8 + s.kind) * 0x9e3779b1u;
      while (table_[slot & (table_.size() - 1)] != none) ++slot;
      table_[slot & (table_.size() - 1)] = i;
    }
  }

  static void count(const Request& r, Site& site) {
    Counters& c = site.counters;
    const int lanes = __builtin_popcount(r.lanes);
    ++c.requests;
    c.lanes += lanes;
    c.bytes += lanes * static_cast<int64_t>(site.bytes);
    if (is_shared(site.kind)) {
      count_wavefronts(r, site.bytes, c);
    } else {
      count_sectors(r, site.bytes, site.kind, c);
    }
  }

  static constexpr uint32_t none = ~0u;
  std::vector<Site> sites_;
  std::vector<uint32_t> table_ = std::vector<uint32_t>(256, none);  // open addressing
  std::array<Warp, 32> warps_;
};

}  // namespace requests
}  // namespace simt
