// Upkeep: what is done to a store's files: look, check, move partitions out, take them in. Of a folder that no daemon has
// (StoreFolder), or of a store that is open (TraceStore::upkeep).
//
// What   A folder's manifest is replaced after the files it names are safe on disk, and before those that it names no more
//        are removed, so that a crash at any point leaves each partition in one place at least.
//        An archive is a folder with partitions and a manifest of its own; it can be attached to the store that it came
//        from (numbers of incarnations mean nothing to another one), beside live data, from where it lies. Neither
//        attached nor protected partitions count for retention or are dropped by it.
// Life   A StoreFolder holds the folder's lock.
// Thread A StoreFolder: one. An open store's: any but the writer's; verify and archive may take minutes, and never hold a
//        read transaction on the active partition for longer than a block or an index takes; the others at most
//        3 s (timeout: commits fail, or the disk is slow; it may still be done then).
// Errors owned_by: a daemon has the store open; corrupt, io, disk_full, bad_value, timeout; closed: `stop` was set.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
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
  struct Database {
    std::string_view name;  // of key_format.h
    std::uint64_t entries = 0, bytes = 0;
  };
  std::vector<Database> databases;
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

// How long work is followed and ended. `number`: the partition that is being read or copied.
struct Progress {
  std::function<void(std::uint32_t number)> each = {};
  const std::atomic<bool>* stop = nullptr;
  bool stopped() const { return stop != nullptr && *stop; }
  void at(std::uint32_t number) const {
    if (each) each(number);
  }
};

using Numbers = std::vector<std::uint32_t>;  // of partitions

class Upkeep {
 public:
  virtual ~Upkeep() = default;

  virtual Result<Manifest> manifest() const = 0;
  virtual Result<std::vector<PartitionReport>> info() const = 0;
  virtual std::vector<IncarnationInfo> agents() const = 0;  // those that were recorded
  // Reads every block with its payloads, every index and every batch of the hot log.
  virtual Result<VerifyReport> verify(const Progress& progress = {}) const = 0;

  // Moves the partitions that were closed at or before this cluster time into folder `to`. Answers their numbers.
  virtual Result<Numbers> archive(ClusterTime until, const std::string& to,
                                  const Progress& progress = {}) = 0;
  virtual Result<Numbers> attach(const std::string& archive) = 0;
  virtual Result<Numbers> detach(const std::string& archive) = 0;
  // Marks the partitions with rows received in this time, or takes the mark away. too_large: with them, more than `budget`
  // bytes would be protected.
  virtual Result<Numbers> protect(ClusterTime from, ClusterTime until, bool keep,
                                  std::uint64_t budget = kProtectBudget) = 0;
};

class StoreFolder final : public Upkeep {
 public:
  static Result<StoreFolder> open(const std::string& path);

  Result<Manifest> manifest() const override { return manifest_; }
  Result<std::vector<PartitionReport>> info() const override;
  std::vector<IncarnationInfo> agents() const override;
  Result<VerifyReport> verify(const Progress& progress = {}) const override;
  Result<Numbers> archive(ClusterTime until, const std::string& to,
                          const Progress& progress = {}) override;
  Result<Numbers> attach(const std::string& archive) override;
  Result<Numbers> detach(const std::string& archive) override;
  Result<Numbers> protect(ClusterTime from, ClusterTime until, bool keep,
                          std::uint64_t budget = kProtectBudget) override;

 private:
  std::string folder_of(const Manifest::Partition& p) const {
    return p.folder.empty() ? path_ : p.folder;
  }
  std::string path_;
  FolderLock lock_;
  Manifest manifest_;
};

// ---- what both do ----------------------------------------------------------------------------------------------------

class Partition;
struct PartitionOptions;
struct PartitionTxn;

std::vector<PartitionReport::Database> databases_of(const PartitionTxn& here);

// Checks one partition: the blocks of `units`, and all indexes and batches.
Status check_partition(const Partition& partition, std::span<const Unit> units,
                       const Progress& progress, VerifyReport& report);
// Copies what archive() is to move, and lists it there. Nothing is changed in `path`.
Result<Numbers> copy_out(const std::string& path, const Manifest& from, ClusterTime until,
                         const std::string& to, const Progress& progress);
// Partitions of an archive that `here` does not list yet, as it is to list them.
Result<std::vector<Manifest::Partition>> attachable(const Manifest& here,
                                                    const std::string& archive);
Result<std::shared_ptr<Partition>> open_attached(const std::string& folder, std::uint32_t number,
                                                 const PartitionOptions& options);
void take_in(Manifest& here, const Manifest::Partition& partition);
Result<Numbers> forget_attached(Manifest& here, const std::string& archive);
Result<Numbers> mark_protected(Manifest& here, const std::string& path, ClusterTime from,
                               ClusterTime until, bool keep, std::uint64_t budget);

}  // namespace scope::store
