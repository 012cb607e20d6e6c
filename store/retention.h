// Retention: whole partitions are dropped, the oldest first, by bytes and by age; never the active one. Closing and
// unlinking take milliseconds, so a thread of its own does that, once no view shows the partition any more.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "store/manifest.h"
#include "store/partition.h"
#include "store/trace_store.h"

namespace scope::store {

// Those that are to be dropped (places in the manifest, ascending), oldest first; protected and attached ones neither count
// nor go. `bytes`: of each partition, in the manifest's order. `edge_bytes`: of the file of kept edges; it counts too, but
// leaves the partitions half of the budget at least: it never shrinks, and can be made again, which they cannot.
std::vector<std::size_t> partitions_to_drop(const StoreOptions& options, const Manifest& manifest,
                                            const std::vector<std::uint64_t>& bytes,
                                            std::uint64_t edge_bytes, ClusterTime now);

// Waits for the last view of what it is given. Any thread. What is left at the end is unlinked by its last view, or
// at the next open: it is in the manifest no more.
class Reaper {
 public:
  Reaper();
  ~Reaper();
  void bury(std::shared_ptr<Partition> partition);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::shared_ptr<Partition>> dead_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace scope::store
