#include "store/retention.h"

#include <chrono>
#include <numeric>

namespace scope::store {

std::size_t partitions_to_drop(const StoreOptions& options, const Manifest& manifest,
                               const std::vector<std::uint64_t>& bytes, ClusterTime now) {
  std::uint64_t total = std::accumulate(bytes.begin(), bytes.end(), std::uint64_t{0});
  std::size_t drop = 0;
  for (; drop + 1 < manifest.partitions.size(); ++drop) {
    const auto& oldest = manifest.partitions[drop];
    const bool too_many = options.retain_bytes != 0 && total > options.retain_bytes;
    const bool too_old =
        options.retain_age_ns != 0 && oldest.closed_ns < now.ns - options.retain_age_ns;
    if (!too_many && !too_old) break;
    total -= bytes[drop];
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
