#include "store/retention.h"

#include <algorithm>
#include <chrono>

namespace scope::store {

std::vector<std::size_t> partitions_to_drop(const StoreOptions& options, const Manifest& manifest,
                                            const std::vector<std::uint64_t>& bytes,
                                            std::uint64_t edge_bytes, ClusterTime now) {
  const auto& all = manifest.partitions;
  std::vector<std::size_t> drop, mine;
  std::uint64_t total = std::min(edge_bytes, options.retain_bytes / 2);
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all[i].keep || !all[i].folder.empty()) continue;
    mine.push_back(i);
    total += bytes[i];
  }
  for (const auto i : mine) {
    const bool too_many = options.retain_bytes != 0 && total > options.retain_bytes;
    const bool too_old =
        options.retain_age_ns != 0 && all[i].closed_ns < now.ns - options.retain_age_ns;
    if (i + 1 == all.size() || (!too_many && !too_old)) break;
    total -= bytes[i];
    drop.push_back(i);
  }
  return drop;
}

Reaper::Reaper() : thread_([this] { run(); }) {}

Reaper::~Reaper() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Reaper::bury(std::shared_ptr<Partition> partition) {
  partition->unlink_when_closed();
  {
    const std::lock_guard lock(mutex_);
    dead_.push_back(std::move(partition));
  }
  wake_.notify_one();
}

void Reaper::run() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    // Nobody but views held it when it came here, and no new view shows it: a count of one is final.
    std::vector<std::shared_ptr<Partition>> free;
    std::erase_if(dead_, [&free](std::shared_ptr<Partition>& p) {
      if (p.use_count() > 1) return false;
      free.push_back(std::move(p));
      return true;
    });
    if (!free.empty()) {
      lock.unlock();
      free.clear();
      lock.lock();
      continue;
    }
    if (dead_.empty()) {
      wake_.wait_for(lock, std::chrono::minutes(1));
    } else {
      wake_.wait_for(lock, std::chrono::milliseconds(100));
    }
  }
}

}  // namespace scope::store
