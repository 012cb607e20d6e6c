// TraceStore: the face of the store. Batches go in, views come out.
//
// What   One LMDB environment per partition under `path`, one writer thread (store.md, section 5; key_format.h for
//        every key; the manifest lists the partitions). append() moves a batch into a bounded queue; the writer checks its
//        sequence (each batch exactly once, across reconnects and restarts of either side), decodes it into the hot
//        tail, publishes a new view, commits in groups, and then tells `on_committed`.
// Life   open() recovers what is on disk. close() (or the destructor) drains the queue, commits and joins the writer.
//        Views stay readable after it.
// Thread All methods may be called from any thread. Listener methods are called on the writer thread: they must be
//        quick and must not call back into the store other than snapshot().
// Errors open: io, disk_full, corrupt. A commit that fails (disk full) is retried every second; batches then stay
//        unacknowledged, the queue fills, append() answers busy, credit stops, and stats().commit_failures counts.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ei_codec/base/counters.h"
#include "ei_codec/base/result.h"
#include "ei_codec/capture_record.h"
#include "store/view.h"

namespace scope::store {

struct StoreOptions {
  std::shared_ptr<Counters> counters;                          // null: its own
  std::string path;                                            // a folder; made if absent
  std::uint64_t partition_bytes = 1ull << 30;                  // roll beyond this ...
  std::int64_t partition_age_ns = 6ll * 3600 * 1'000'000'000;  // ... or this
  std::uint64_t map_bytes = 4ull << 30;  // LMDB's mapsize of each partition; fixed
  std::uint64_t retain_bytes = 0;        // 0: keep all; whole partitions are dropped, oldest first
  std::int64_t retain_age_ns = 0;
  std::size_t queue_bytes = 8u << 20;  // batches between append() and the writer
  std::uint32_t block_rows = 16384;
  bool sync = true;  // fdatasync at commit; false only in benchmarks
};

// A batch on its way in. `message` is the validated {batch, ...} term inside `buffer` (capture_record.h).
struct IncomingBatch {
  Incarnation incarnation = kNoIncarnation;
  std::uint64_t seq = 0;
  std::shared_ptr<const void> buffer;
  codec::TermView message;
};

class AuditLog;
class Upkeep;

class StoreListener {
 public:
  virtual ~StoreListener() = default;
  // Everything of this incarnation up to `seq` is durable. Also called for a batch that had been stored before.
  virtual void on_committed(Incarnation incarnation, std::uint64_t seq) = 0;
  // A batch arrived out of order (a gap in its sequence): it was not taken; the agent must resume.
  virtual void on_out_of_order(Incarnation incarnation, std::uint64_t expected,
                               std::uint64_t got) = 0;
  // A new view was published (batches received or committed).
  virtual void on_published() = 0;
};

struct StoreStats {
  std::uint64_t batches = 0, duplicates = 0, out_of_order = 0;  // since open
  std::uint64_t events = 0, malformed = 0, gaps = 0;            // since open
  std::uint64_t events_stored = 0, bytes_on_disk = 0;           // of the whole store
  std::uint64_t partitions = 0, blocks = 0, tail_rows = 0;
  std::uint64_t commits = 0, commit_failures = 0, corrupt_blocks = 0, corrupt_indexes = 0;
  std::uint64_t queue_bytes = 0;
  std::int64_t commit_ns_last = 0;
  std::int64_t longest_read_ns = 0;  // that pages of the active partition were kept for a reader
};

class TraceStore {
 public:
  // `listener` may be null (readers, benchmarks); else it outlives the store.
  static Result<std::unique_ptr<TraceStore>> open(const StoreOptions& options,
                                                  StoreListener* listener);
  virtual ~TraceStore() = default;

  virtual std::uint64_t store_id() const = 0;   // random, made once with the store
  virtual codec::HashKey hash_key() const = 0;  // random, made once with the store

  // Cluster time: the daemon's monotonic clock + an anchor fixed when the store was made. A restart re-anchors (so that
  // cluster time goes on and never steps back) and records that.
  virtual ClusterTime now() const = 0;
  virtual ClusterTime at_monotonic(std::int64_t monotonic_ns) const = 0;

  // The permanent number of (node, creation, agent_id), made durable before it is answered. May wait for a commit.
  virtual Result<IncarnationInfo> incarnation(std::string_view node, std::uint32_t creation,
                                              std::uint64_t agent_id) = 0;

  // busy when the queue is full: the caller keeps the batch and withholds credit.
  virtual Status append(IncomingBatch batch) = 0;
  // A gap that no batch tells of (another store's acks, a node that died): stored as an event of that incarnation.
  virtual Status add_gap(Incarnation incarnation, std::string_view reason, RawTime from,
                         RawTime until) = 0;
  virtual Status add_clock(ClockVersion version) = 0;
  // All that this incarnation recorded before that raw time was appended before this call (View::complete_until).
  virtual Status add_cut(Incarnation incarnation, RawTime until) = 0;

  // Looking after its files while it is open (maintenance.h). Lives as long as the store.
  virtual Upkeep& upkeep() = 0;
  // Who asked for what (audit_log.h). Lives as long as the store, also when it is closed.
  virtual AuditLog& audit() = 0;

  virtual std::shared_ptr<const View> snapshot() const = 0;
  virtual StoreStats stats() const = 0;

  // Waits until everything appended so far is committed, at most `timeout_ms`.
  virtual Status flush(int timeout_ms) = 0;
  virtual void close() = 0;
};

}  // namespace scope::store
