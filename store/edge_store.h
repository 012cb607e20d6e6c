// EdgeStore: kept edges (edge_part.h) on disk, beside the partitions: an LMDB file of its own, so that the writer of events
// never waits for it and all of it can be made again.
//
//   file `edges.mdb`, database `edges`:
//     'm'                     version:1 (1) store:8 rules:8       whose and by which rules; others are not read
//     's' Slice:8             state                               that slice is kept, all its parts are there
//     'p' Slice:8 Part:4      edge_part.h
//   state = version:1 (1) xxh3:8 (of what follows) clock:8 units:8, varints: rows edges parts corrupt crowded cuts
//           (incarnation:4 from:8 until:8)*                       by incarnation
//
// What   Time is cut into slices (analysis/edge_slices.h says how and what the numbers mean). A slice's parts are written
//        first, its state last: what has no state is not there, whatever parts a crash left. A state goes before its parts.
// Damage A value that cannot be read counts as `corrupt_edges` and makes its slice absent; report() remembers it until it was
//        derived again. A file that LMDB cannot open, or that is shorter than LMDB says, is removed and begun anew. (Bytes
//        changed inside LMDB's own pages are not looked for, here as little as in a partition.)
// Thread drop, put, finish, clear: one at a time, any thread. The others: any. A Reading belongs to one thread and is short.
// Errors disk_full, io, corrupt; too_large: the file has kEdgeMapBytes.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "ei_codec/base/counters.h"
#include "store/edge_part.h"
#include "store/lmdb.h"

namespace scope::store {

inline constexpr std::uint64_t kEdgeMapBytes = 16ull << 30;  // of address space

struct SliceCut {  // the raw times of an incarnation that are in the slice: from <= t < until
  Incarnation incarnation = kNoIncarnation;
  RawTime from, until;
  bool operator==(const SliceCut&) const = default;
};

struct SliceState {
  std::int64_t slice = 0;
  std::int64_t clock = 0;   // the version of the clock model that it was derived by
  std::uint64_t units = 0;  // a sum over the blocks that were looked at
  std::uint64_t rows = 0, edges = 0;
  std::uint32_t parts = 0;
  std::uint32_t corrupt = 0;  // blocks that could not be read
  bool crowded = false;       // more rows waited for their other end than may
  std::vector<SliceCut> cuts;
  bool operator==(const SliceState&) const = default;

  const SliceCut* cut(Incarnation incarnation) const;
};

struct EdgeReport {
  std::uint64_t slices = 0, parts = 0, edges = 0, bytes = 0, damaged = 0;
  std::int64_t first = 0, last = 0;  // slices
};

class EdgeStore {
 public:
  static std::string path_of(const std::string& folder) { return folder + "/edges.mdb"; }
  // `counters` may be null.
  static Result<std::unique_ptr<EdgeStore>> open(const std::string& folder, std::uint64_t store_id,
                                                 std::uint64_t rules, bool sync,
                                                 std::shared_ptr<Counters> counters);

  Status drop(std::int64_t slice);
  Status put(std::int64_t slice, std::uint32_t part, Bytes bytes);
  Status finish(const SliceState& state);
  Status clear();

  Result<std::vector<SliceState>> states() const;  // ascending; without those that are damaged
  Result<EdgeReport> check() const;                // reads everything
  std::uint64_t bytes() const { return env_.used_bytes(); }

  class Reading {
   public:
    // nullopt: not kept, or damaged.
    Result<std::optional<SliceState>> state(std::int64_t slice) const;
    // Lives as long as the Reading. Errors: corrupt.
    Result<EdgePart> part(std::int64_t slice, std::uint32_t number) const;

   private:
    friend class EdgeStore;
    Reading(const EdgeStore& store, lmdb::Txn txn) : store_(store), txn_(std::move(txn)) {}
    const EdgeStore& store_;
    lmdb::Txn txn_;
  };
  Result<Reading> read() const;

  void report(std::int64_t slice) const;      // it is damaged
  std::vector<std::int64_t> damaged() const;  // reported, and not dropped since

 private:
  EdgeStore(lmdb::Env env, lmdb::Dbi db, std::shared_ptr<Counters> counters)
      : env_(std::move(env)), db_(db), counters_(std::move(counters)) {}
  Status remove(std::int64_t slice, bool all);

  lmdb::Env env_;
  const lmdb::Dbi db_;
  const std::shared_ptr<Counters> counters_;
  std::mutex writing_;
  mutable std::mutex mutex_;
  mutable std::set<std::int64_t> damaged_;
};

}  // namespace scope::store
