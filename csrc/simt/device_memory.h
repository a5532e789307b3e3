// What the traced build knows of device memory: which addresses belong to which array.
#pragma once
#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../core/text.h"

namespace simt {

struct Array {
  uintptr_t begin, end;
  std::string name;
  bool writable;
};

// A stretch of addresses that belongs to the same arrays.
struct Segment {
  uintptr_t begin, end;
  const Array* array;  // the smallest of them
  bool writable;       // one of them is
  uint32_t model;  // the address of `begin` on a GPU, whose allocations begin at multiples of 256
};

class DeviceMemory {
 public:
  void add(const void* p, size_t bytes, const char* name, bool writable) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto begin = reinterpret_cast<uintptr_t>(p);
    arrays_.emplace(begin,
                    std::make_shared<const Array>(Array{begin, begin + bytes, name, writable}));
    changed_ = true;
  }

  void remove(const void* p) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = arrays_.find(reinterpret_cast<uintptr_t>(p));
    if (found == arrays_.end()) return;
    freed_.push_back(found->second);
    constexpr size_t keep = 256;
    if (freed_.size() > keep) freed_.erase(freed_.begin());
    arrays_.erase(found);
    changed_ = true;
  }

  // What was added and removed holds from the next launch on.
  void settle() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!changed_) return;
    changed_ = false;
    held_.clear();
    segments_.clear();
    std::vector<uintptr_t> borders;
    for (const auto& [begin, array] : arrays_) {
      held_.push_back(array);
      borders.push_back(begin);
      borders.push_back(array->end);
    }
    std::sort(borders.begin(), borders.end());
    borders.erase(std::unique(borders.begin(), borders.end()), borders.end());
    std::vector<const Array*> open;
    size_t next = 0;
    uint32_t model = 0;
    for (size_t i = 0; i + 1 < borders.size(); ++i) {
      const uintptr_t begin = borders[i], end = borders[i + 1];
      for (; next < held_.size() && held_[next]->begin <= begin; ++next) {
        open.push_back(held_[next].get());
      }
      const Array* smallest = nullptr;
      bool writable = false;
      size_t kept = 0;
      for (const Array* array : open) {
        if (array->end <= begin) continue;
        open[kept++] = array;
        writable = writable || array->writable;
        if (smallest == nullptr || array->end - array->begin < smallest->end - smallest->begin) {
          smallest = array;
        }
      }
      open.resize(kept);
      if (smallest == nullptr) continue;
      const bool goes_on = !segments_.empty() && segments_.back().end == begin;
      // Host allocations are aligned to 16 bytes only: what goes beyond is taken for the GPU's.
      if (!goes_on) model = (model + 255) / 256 * 256 + (begin & 15);
      segments_.push_back({begin, end, smallest, writable, model});
      model += static_cast<uint32_t>(end - begin);
    }
  }

  // The segment that holds the address, or null.
  const Segment* find(uintptr_t address) {
    if (last_ < segments_.size()) {
      const Segment& s = segments_[last_];
      if (address - s.begin < s.end - s.begin) return &s;
    }
    const Segment* s = before(address);
    if (s == nullptr || address >= s->end) return nullptr;
    last_ = static_cast<size_t>(s - segments_.data());
    return s;
  }

  // Words for an address that is in no array; `distance` from the next one.
  struct Miss {
    const char* kind;
    std::string detail;
    uintptr_t distance;
  };
  Miss explain(uintptr_t address) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto i = freed_.rbegin(); i != freed_.rend(); ++i) {
      const Array& a = **i;
      if (address < a.begin || address >= a.end) continue;
      return {"use after free",
              std::to_string(address - a.begin) + " bytes into " + a.name + " (" +
                  std::to_string(a.end - a.begin) + " bytes), which has been freed",
              0};
    }
    if (address < 4096) return {"null pointer", "at address " + std::to_string(address), 0};
    constexpr uintptr_t near = 1 << 20;
    const Segment* below = before(address);
    const Segment* above = below == nullptr ? segments_.data() : below + 1;
    if (above == segments_.data() + segments_.size()) above = nullptr;
    const uintptr_t past = below != nullptr ? address - below->end : ~uintptr_t{0};
    const uintptr_t ahead = above != nullptr ? above->begin - address : ~uintptr_t{0};
    if (past <= ahead && past < near) {
      return {"out of bounds", beside(past, "past the end", below), past};
    }
    if (ahead < near) {
      return {"out of bounds", beside(ahead, "before the beginning", above), ahead};
    }
    const std::string text =
        "at address " + tilegrad::hex(address) + ", which is memory of the host";
    return {"not device memory", text, ~uintptr_t{0}};
  }

 private:
  static std::string beside(uintptr_t distance, const char* where, const Segment* s) {
    const size_t bytes = s->array->end - s->array->begin;
    return std::to_string(distance) + " bytes " + where + " of " + s->array->name + " (" +
           std::to_string(bytes) + " bytes" +
           (bytes % 4 == 0 ? ", " + std::to_string(bytes / 4) + " elements of 4" : "") + ")";
  }

  // The last segment that begins at the address or before it.
  const Segment* before(uintptr_t address) const {
    auto next = std::upper_bound(segments_.begin(), segments_.end(), address,
                                 [](uintptr_t a, const Segment& s) { return a < s.begin; });
    return next == segments_.begin() ? nullptr : &*std::prev(next);
  }

  std::mutex mutex_;  // arrays come and go in any OS thread; the rest is the launch's
  std::multimap<uintptr_t, std::shared_ptr<const Array>> arrays_;
  std::vector<std::shared_ptr<const Array>> freed_;  // the latest
  bool changed_ = false;
  std::vector<std::shared_ptr<const Array>> held_;  // by the launch, in order of addresses
  std::vector<Segment> segments_;
  size_t last_ = 0;
};

}  // namespace simt
