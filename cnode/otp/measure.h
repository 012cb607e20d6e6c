// What this process takes of its machine, from /proc/self and the allocator. Bytes, ns. Thread: any. A file that cannot be
// read leaves its figures 0.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace scope::node {

struct MemoryUse {
  std::uint64_t total = 0;                         // resident
  std::uint64_t code = 0;                          // resident pages of programs and libraries
  std::uint64_t store = 0;                         // resident pages of the store's files
  std::uint64_t memory = 0;                        // the others: heap and stacks
  std::uint64_t heap_used = 0, heap_held = 0;      // of malloc's arenas
  std::uint64_t mapped_used = 0, mapped_held = 0;  // of malloc's single mappings
};
MemoryUse measure_memory();

struct ThreadUse {
  pid_t id = 0;
  std::string name;
  std::uint64_t cpu_ns = 0;
};
std::vector<ThreadUse> measure_threads();

}  // namespace scope::node
