#include "cnode/otp/measure.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace scope::node {
namespace {

// "Rss:      1234 kB"
std::uint64_t kilobytes(std::string_view line) {
  const auto at = line.find_first_of("0123456789");
  std::uint64_t value = 0;
  if (at != line.npos) std::from_chars(line.data() + at, line.data() + line.size(), value);
  return value * 1024;
}

bool is_mapping(std::string_view line) { return !line.empty() && (line[0] < 'A' || line[0] > 'Z'); }

}  // namespace

MemoryUse measure_memory() {
  MemoryUse use;
  std::ifstream maps("/proc/self/smaps");
  std::string line;
  std::uint64_t* kind = &use.memory;
  while (std::getline(maps, line)) {
    if (is_mapping(line)) {  // address perms offset device inode path
      const auto path = line.find('/');
      const bool code = path != line.npos && line.find(".mdb") == line.npos &&
                        !line.substr(path).starts_with("/memfd");
      kind = path == line.npos ? &use.memory : code ? &use.code : &use.store;
    } else if (line.starts_with("Rss:")) {
      *kind += kilobytes(line);
    }
  }
  use.total = use.code + use.store + use.memory;
  const auto heap = ::mallinfo2();
  use.heap_used = heap.uordblks;
  use.heap_held = heap.arena;
  use.mapped_used = use.mapped_held = heap.hblkhd;
  return use;
}

std::vector<ThreadUse> measure_threads() {
  std::vector<ThreadUse> all;
  std::error_code ec;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task", ec)) {
    const auto& folder = entry.path();
    ThreadUse use;
    const auto id = folder.filename().string();
    std::from_chars(id.data(), id.data() + id.size(), use.id);
    std::ifstream(folder / "comm") >> use.name;
    if (std::ifstream times(folder / "schedstat"); !(times >> use.cpu_ns)) {
      // Without the kernel's statistics: ticks, fields 14 and 15, after the name in brackets.
      std::string stat;
      std::ifstream in(folder / "stat");
      std::getline(in, stat);
      std::istringstream fields(stat.substr(std::min(stat.size(), stat.rfind(')') + 2)));
      std::string skip;
      for (int i = 0; i < 11; ++i) fields >> skip;
      std::uint64_t user = 0, system = 0;
      fields >> user >> system;
      use.cpu_ns =
          (user + system) *
          (1'000'000'000 / static_cast<std::uint64_t>(std::max(1L, ::sysconf(_SC_CLK_TCK))));
    }
    all.push_back(std::move(use));
  }
  std::ranges::sort(all, {}, &ThreadUse::id);
  return all;
}

}  // namespace scope::node
