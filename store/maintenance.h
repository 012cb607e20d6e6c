// StoreFolder: what is done to a store's files while no daemon has it: look, check, move partitions out, take them in.
//
// What   A folder's manifest is replaced after the files it names are safe on disk, and before those that it names no more
//        are removed, so that a crash at any point leaves each partition in one place at least.
//        An archive is a folder with partitions and a manifest of its own; it can be attached to the store that it came
//        from (numbers of incarnations mean nothing to another one), beside live data, from where it lies. Neither
//        attached nor protected partitions count for retention or are dropped by it.
// Life   Holds the folder's lock.
// Thread One.
// Errors owned_by: a daemon has the store open; corrupt, io, disk_full, bad_value.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "store/folder_lock.h"
#include "store/manifest.h"
#include "store/view.h"

namespace scope::store {

inline constexpr std::uint64_t kProtectBudget = 10ull << 30;

struct PartitionReport {
  Manifest::Partition listed;
  bool active = false;
  std::uint64_t bytes = 0, blocks = 0, rows = 0, hot_batches = 0;
  std::string problem;  // why it cannot be used; empty: it can
};
struct Damage {
  std::uint32_t partition = 0;
  std::string what;
};
struct VerifyReport {
  std::uint64_t partitions = 0, blocks = 0, rows = 0, hot_batches = 0, indexes = 0;
  std::uint64_t damaged = 0;
  std::vector<Damage> damages;  // the first kMostDamages
  static constexpr std::size_t kMostDamages = 1000;
};

class StoreFolder {
 public:
  static Result<StoreFolder> open(const std::string& path);

  const Manifest& manifest() const { return manifest_; }
  std::vector<PartitionReport> info() const;
  std::vector<IncarnationInfo> agents() const;  // those that were recorded

  // Reads every block with its payloads, every index and every batch of the hot log. `each` is told of a partition before
  // it is read.
  VerifyReport verify(const std::function<void(std::uint32_t number)>& each = {}) const;

  // Moves the partitions that were closed at or before this cluster time into folder `to`. Answers their numbers.
  Result<std::vector<std::uint32_t>> archive(ClusterTime until, const std::string& to);
  Result<std::vector<std::uint32_t>> attach(const std::string& archive);
  Result<std::vector<std::uint32_t>> detach(const std::string& archive);
  // Marks the partitions with rows received in this time, or takes the mark away. too_large: with them, more than `budget`
  // bytes would be protected.
  Result<std::vector<std::uint32_t>> protect(ClusterTime from, ClusterTime until, bool keep,
                                             std::uint64_t budget = kProtectBudget);

 private:
  std::string folder_of(const Manifest::Partition& p) const {
    return p.folder.empty() ? path_ : p.folder;
  }
  std::string path_;
  FolderLock lock_;
  Manifest manifest_;
};

}  // namespace scope::store
