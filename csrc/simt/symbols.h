// What the traced build reads from the library (or program) that holds the kernels: source lines of
// code addresses, by one call of addr2line for many, and the names of __shared__ variables.
#pragma once
#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "../core/text.h"
#include "runtime.h"

namespace simt {
namespace symbols {

// A code address, as its distance from a function here; 0 where it is not near.
using Place = int32_t;

using tilegrad::hex;

inline void origin() {}

inline Place place(const void* pc) {
  const intptr_t distance = static_cast<const char*>(pc) - reinterpret_cast<const char*>(&origin);
  return distance == static_cast<Place>(distance) ? static_cast<Place>(distance) : 0;
}

struct Line {
  std::string file;  // empty where nothing is known; then `function` says symbol+offset
  int line = 0;
  std::string function;
  std::vector<Line> callers;  // where the function is inlined, from the inside out

  bool operator<(const Line& other) const {
    return std::tie(file, line, function, callers) <
           std::tie(other.file, other.line, other.function, other.callers);
  }
};

// `name`, or what it was before the compiler mangled it.
inline std::string demangle(const char* name) {
  char* text = abi::__cxa_demangle(name, nullptr, nullptr, nullptr);
  std::string result = text != nullptr ? text : name;
  std::free(text);
  return result;
}

// The file that holds the kernels, where it was loaded, and its variables and code.
struct Image {
  std::string file;
  uintptr_t base = 0;
  Range range;
};

inline const Image& image() {
  static const Image& found = *[] {
    auto* image = new Image;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
          auto& image = *static_cast<Image*>(data);
          Range range;
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& header = info->dlpi_phdr[i];
            if (header.p_type != PT_LOAD) continue;
            const auto* begin = reinterpret_cast<const char*>(info->dlpi_addr + header.p_vaddr);
            const char* end = begin + header.p_memsz;
            if (range.begin == nullptr || begin < range.begin) range.begin = begin;
            range.end = std::max(range.end, end);
          }
          if (!range.contains(reinterpret_cast<const void*>(&origin))) return 0;
          image = {info->dlpi_name, info->dlpi_addr, range};
          return 1;
        },
        image);
    if (image->file.empty()) {  // the program itself
      char path[4096];
      const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
      if (length > 0) image->file.assign(path, static_cast<size_t>(length));
    }
    return image;
  }();
  return found;
}

// --- source lines --------------------------------------------------------------------------------

// Not a kernel's own: the emulation of an instruction, or the standard library, inlined into it.
inline bool is_foreign(const std::string& file) {
  const size_t slash = file.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : file.substr(0, slash);
  const bool simulator = folder.size() >= 4 && folder.compare(folder.size() - 4, 4, "simt") == 0 &&
                         file.compare(file.size() - 2, 2, ".h") == 0;
  return simulator || file.compare(0, 5, "/usr/") == 0 || file.compare(0, 2, "??") == 0;
}

inline Line symbol_and_offset(uintptr_t pc) {
  Dl_info info;
  std::string text = hex(pc - image().base);
  if (dladdr(reinterpret_cast<void*>(pc), &info) != 0 && info.dli_sname != nullptr) {
    text = short_name(demangle(info.dli_sname)) + "+" +
           hex(pc - reinterpret_cast<uintptr_t>(info.dli_saddr));
  }
  return {"", 0, text, {}};
}

// All that can be read from `file`, which may be null.
inline std::string contents(std::FILE* file) {
  std::string bytes;
  char buffer[4096];
  for (size_t n; file != nullptr && (n = std::fread(buffer, 1, sizeof buffer, file)) > 0;) {
    bytes.append(buffer, n);
  }
  return bytes;
}

// Asks addr2line, which answers each address with that address and then, from the innermost inlined
// function outwards, two lines: function and file:line. The first of the kernel's own is taken.
inline void ask(const std::vector<uintptr_t>& pcs, std::map<uintptr_t, Line>& lines) {
  std::string quoted;
  for (char c : image().file) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  std::string command = "addr2line -e '" + quoted + "' -afCi";
  for (uintptr_t pc : pcs) command += " " + hex(pc - image().base);
  std::FILE* pipe = popen((command + " 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) return;
  const std::string output = contents(pipe);
  pclose(pipe);

  std::string function;
  uintptr_t pc = 0;
  bool expect_function = false;
  for (size_t begin = 0, end; (end = output.find('\n', begin)) != output.npos; begin = end + 1) {
    const std::string text = output.substr(begin, end - begin);
    if (text.compare(0, 2, "0x") == 0) {
      pc = std::strtoull(text.c_str(), nullptr, 16) + image().base;
      expect_function = true;
    } else if (expect_function) {
      function = text;
      expect_function = false;
    } else {
      expect_function = true;
      const size_t colon = text.rfind(':');
      if (colon == std::string::npos) continue;
      const Line line{
          text.substr(0, colon), std::atoi(text.c_str() + colon + 1), short_name(function), {}};
      if (line.line == 0) continue;
      const auto [known, is_first] = lines.insert({pc, line});
      if (is_first) continue;
      if (is_foreign(known->second.file)) {
        known->second = line;
      } else if (!is_foreign(line.file)) {
        known->second.callers.push_back(line);
      }
    }
  }
}

inline std::map<Place, Line>& known_lines() {
  static auto& lines = *new std::map<Place, Line>;
  return lines;
}

// Looks up those that are not known yet. A place is where a call returns to: the call is before it.
inline void resolve(const std::vector<Place>& places) {
  std::map<uintptr_t, Line> found;
  std::vector<uintptr_t> pcs;
  auto pc_of = [](Place p) {
    return reinterpret_cast<uintptr_t>(&origin) + static_cast<uintptr_t>(intptr_t{p}) - 1;
  };
  for (Place p : places) {
    if (known_lines().count(p) == 0) pcs.push_back(pc_of(p));
  }
  constexpr size_t batch = 2000;  // a command line has its limits
  for (size_t i = 0; i < pcs.size(); i += batch) {
    ask({pcs.begin() + static_cast<ptrdiff_t>(i),
         pcs.begin() + static_cast<ptrdiff_t>(std::min(i + batch, pcs.size()))},
        found);
  }
  for (Place p : places) {
    if (known_lines().count(p) != 0) continue;
    const auto line = found.find(pc_of(p));
    known_lines()[p] = line != found.end() ? line->second : symbol_and_offset(pc_of(p));
  }
}

inline const Line& line_of(Place p) {
  resolve({p});
  return known_lines()[p];
}

inline std::string to_string(const Line& line) {
  return line.file.empty() ? line.function : line.file + ":" + std::to_string(line.line);
}

// --- __shared__ variables ------------------------------------------------------------------------

struct SharedVariable {
  size_t begin, bytes;  // within the storage
  std::string name;
};

// Those of all kernels, by where they begin; empty where the symbols were stripped.
inline const std::vector<SharedVariable>& shared_variables() {
  static const auto& found = *[] {
    auto* variables = new std::vector<SharedVariable>;
    std::FILE* file = std::fopen(image().file.c_str(), "rb");
    const std::string bytes = contents(file);
    if (file != nullptr) std::fclose(file);
    auto read = [&](auto& into, size_t at) {
      if (at > bytes.size() || sizeof into > bytes.size() - at) return false;
      std::memcpy(&into, bytes.data() + at, sizeof into);
      return true;
    };
    ElfW(Ehdr) header;
    if (!read(header, 0) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return variables;
    for (size_t i = 0; i < header.e_shnum; ++i) {
      ElfW(Shdr) section, names;
      if (!read(section, header.e_shoff + i * header.e_shentsize)) break;
      if (section.sh_type != SHT_SYMTAB) continue;
      if (!read(names, header.e_shoff + section.sh_link * header.e_shentsize)) break;
      for (size_t at = 0; at < section.sh_size; at += section.sh_entsize) {
        ElfW(Sym) symbol;
        if (!read(symbol, section.sh_offset + at)) break;
        const size_t name = names.sh_offset + symbol.st_name;
        if (ELF64_ST_TYPE(symbol.st_info) != STT_TLS || symbol.st_size == 0) continue;
        if (name >= bytes.size()) continue;
        std::string text = demangle(bytes.data() + name);
        const size_t colon = text.rfind("::");  // of "kernel(float*)::tile"
        if (colon != std::string::npos) text.erase(0, colon + 2);
        variables->push_back({symbol.st_value, symbol.st_size, text});
      }
    }
    std::sort(variables->begin(), variables->end(),
              [](const auto& a, const auto& b) { return a.begin < b.begin; });
    return variables;
  }();
  return found;
}

// The variable that holds the byte at `offset`, or the last one before it; null if there is none.
inline const SharedVariable* variable_at(size_t offset) {
  const auto& all = shared_variables();
  auto next = std::upper_bound(all.begin(), all.end(), offset,
                               [](size_t at, const auto& variable) { return at < variable.begin; });
  return next == all.begin() ? nullptr : &*std::prev(next);
}

}  // namespace symbols
}  // namespace simt
