// AuditLog: who asked for what and what came of it, beside the partitions. Retention and archives never touch it.
//
//   file `audit.mdb` (LMDB), database `audit`: number:8 (big-endian, counted from 1) -> version:1 (1) at:8 term
//   at = cluster time; term = one encoded term, the caller's
//
// What   The newest kMost entries are kept; `dropped` of a page says how many went before them.
// Thread Any. append() and replace() wait for the disk, one after the other; read() never waits for them.
// Errors disk_full, io, corrupt; too_large: a term of over kMostBytes.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ei_codec/base/ids.h"
#include "ei_codec/base/result.h"
#include "store/lmdb.h"

namespace scope::store {

struct AuditEntry {
  std::uint64_t number = 0;
  ClusterTime at;
  std::vector<std::byte> term;  // whole and validated
};

struct AuditRange {
  ClusterTime since{std::numeric_limits<std::int64_t>::min()};
  ClusterTime until{std::numeric_limits<std::int64_t>::max()};
  std::uint64_t before = std::numeric_limits<std::uint64_t>::max();  // numbers below this one
  std::size_t limit = 100;
};

struct AuditPage {
  std::vector<AuditEntry> entries;  // the newest first
  std::uint64_t dropped = 0, damaged = 0;
  bool more = false;
};

class AuditLog {
 public:
  static constexpr std::uint64_t kMost = 10'000;
  static constexpr std::size_t kMostBytes = 16u << 10;

  static Result<std::unique_ptr<AuditLog>> open(const std::string& folder, bool sync);

  Result<std::uint64_t> append(ClusterTime at, Bytes term);  // its number
  Status replace(std::uint64_t number, Bytes term);          // keeps its time; fine if it is gone
  Result<AuditPage> read(const AuditRange& range) const;

 private:
  AuditLog(lmdb::Env env, lmdb::Dbi db, std::uint64_t next)
      : env_(std::move(env)), db_(db), next_(next) {}

  lmdb::Env env_;
  const lmdb::Dbi db_;
  std::mutex writing_;
  std::uint64_t next_;
};

}  // namespace scope::store
