// What the store counts; the writer and readers add, stats() reads. Any thread.
#pragma once

#include <atomic>
#include <cstdint>

namespace scope::store {

using Counter = std::atomic<std::uint64_t>;

struct Counters {
  Counter batches = 0, duplicates = 0, out_of_order = 0;
  Counter events = 0, malformed = 0, gaps = 0;
  Counter events_stored = 0, bytes_on_disk = 0;
  Counter partitions = 0, blocks = 0, tail_rows = 0;
  Counter commits = 0, commit_failures = 0, corrupt_blocks = 0, corrupt_indexes = 0;
  std::atomic<std::int64_t> commit_ns_last = 0;
};

}  // namespace scope::store
