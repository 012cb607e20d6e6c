// A partition: one LMDB environment in one file, with its databases (key_format.h) and the table of its blocks in
// memory. The active one is written by the writer; the others are read only and dropped whole.
//
//   unit_stats = version:1 (1) first:8 last:8 rows:4 types:4 bytes:4 count:varint
//                (incarnation:4 oldest:8 newest:8 rows:4)*
//
// Life   Held by views. One marked by unlink_when_closed() removes its file when the last reference goes. The table of
//        blocks stays in memory; the environment of one that is not written is opened when it is read and closed again
//        when 64 others were read since.
// Thread Writing: the writer's only. Reading: any, each with a transaction of its own.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ei_codec/base/counters.h"
#include "store/lmdb.h"
#include "store/segment.h"
#include "store/view.h"

namespace scope::store {

struct Databases {
  lmdb::Dbi hot = 0, blk = 0, seg = 0, agents = 0, clock = 0, names = 0, lives = 0;
  std::array<std::pair<std::string_view, lmdb::Dbi>, 7> all() const {
    return {{{"hot", hot},
             {"blk", blk},
             {"seg", seg},
             {"agents", agents},
             {"clock", clock},
             {"names", names},
             {"lives", lives}}};
  }
};

struct PartitionFile {
  lmdb::Env env;
  Databases db;
};

// The environments that stay open without being in use, the least recently used one goes first. Any thread.
class OpenFiles {
 public:
  explicit OpenFiles(std::size_t most = 64) : most_(most) {}
  void touch(const std::shared_ptr<const PartitionFile>& file);
  void forget(const PartitionFile* file);
  std::size_t size() const;

  // The longest that a read transaction on a partition that is being written has lasted.
  std::atomic<std::int64_t> longest_read_ns = 0;

 private:
  const std::size_t most_;
  mutable std::mutex mutex_;
  std::list<std::shared_ptr<const PartitionFile>> files_;  // the last used one first
};

struct PartitionOptions {
  std::uint64_t map_bytes = 0;
  bool writable = false;
  bool sync = true;
  std::shared_ptr<OpenFiles> files;  // null: it stays open
};

// A read transaction and what keeps its environment open. While one lasts, the writer cannot use pages again that were
// freed since it began: on the active partition it must end within 50 ms (kReadMost says when to renew).
struct PartitionTxn {
  // Tells OpenFiles how long it lasted, if the partition is being written.
  struct Watch {
    std::shared_ptr<OpenFiles> files;
    std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();
    Watch() = default;
    Watch(Watch&& other) noexcept : files(std::move(other.files)), since(other.since) {}
    Watch& operator=(Watch&& other) noexcept {
      std::swap(files, other.files);
      std::swap(since, other.since);
      return *this;
    }
    ~Watch();
  };
  std::shared_ptr<const PartitionFile> file;
  lmdb::Txn txn;
  Watch watch;
  const Databases& db() const { return file->db; }
  bool old() const { return std::chrono::steady_clock::now() - watch.since > kReadMost; }
  static constexpr std::chrono::milliseconds kReadMost{20};
};

class Partition {
 public:
  static std::string file_name(const std::string& folder, std::uint32_t number);
  // Makes the file when it is to be written and is not there.
  static Result<std::shared_ptr<Partition>> open(const std::string& folder, std::uint32_t number,
                                                 const PartitionOptions& options);
  ~Partition();
  Partition(const Partition&) = delete;
  Partition& operator=(const Partition&) = delete;

  std::uint32_t number() const { return number_; }
  // The writer's. REQUIRES that it is writable and was not ended.
  const lmdb::Env& env() const { return written_->env; }
  const Databases& db() const { return written_->db; }
  void end_writing();

  Result<PartitionTxn> read() const;
  std::uint64_t used_bytes() const;
  const std::string& path() const { return path_; }

  // Sealed blocks as they were at open(); their ranges live as long as the partition.
  const std::vector<Unit>& units_at_open() const { return units_; }
  // Keeps the ranges of a new block (the writer's).
  std::span<const UnitRange> keep(std::vector<UnitRange> ranges);

  // A value of `seg`; nullopt: the segment was never completed, or the value is damaged (counted in `bad`).
  // Lives as long as `here`.
  std::optional<SegmentValue> segment(const PartitionTxn& here, char kind, std::uint32_t segment,
                                      Counters& bad) const;

  void unlink_when_closed() { unlink_ = true; }

 private:
  Partition(std::string path, std::uint32_t number, const PartitionOptions& options)
      : path_(std::move(path)), number_(number), options_(options) {}
  Result<std::shared_ptr<const PartitionFile>> open_file(bool writable) const;
  Result<std::shared_ptr<const PartitionFile>> use(bool& written) const;
  Status load_units();

  const std::string path_;
  const std::uint32_t number_;
  const PartitionOptions options_;
  std::shared_ptr<const PartitionFile> written_;  // the writer's
  mutable std::mutex mutex_;
  mutable std::weak_ptr<const PartitionFile> file_;  // never open twice
  std::shared_ptr<const PartitionFile> kept_;        // without OpenFiles
  std::atomic<std::uint64_t> ended_bytes_ = 0;       // of one that is not written
  std::deque<std::vector<UnitRange>> ranges_;
  std::vector<Unit> units_;
  // Values that were hashed once and are not again: they never change. A bit per kind and segment.
  static constexpr std::size_t kSegmentsChecked = 1024;
  mutable std::array<std::atomic<std::uint64_t>, sizeof kSegmentKinds * kSegmentsChecked / 64>
      checked_{};
  std::atomic<bool> unlink_ = false;
};

std::vector<std::byte> encode_unit(const Unit& unit, std::span<const UnitRange> ranges,
                                   std::size_t bytes);

}  // namespace scope::store
