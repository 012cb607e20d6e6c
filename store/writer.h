// The writer: one thread that owns all of the store's write transactions.
//
// What   Takes batches from a bounded queue, checks their sequence, decodes them into the tail, publishes, and commits in
//        groups. A commit is one transaction: raw batches to `hot`, the `agents` rows, and, when the tail holds a block's
//        worth, that block with the deletion of its hot rows, always a prefix of what was unsealed. A batch that is sealed by the
//        commit that first sees it is never written raw.
// When   The tail holds a block's worth, or 3 MB are pending; else 40 ms after the first one under load, up to 1 s when slow
//        (a commit of a few events writes 30 KB).
// Fails  A commit that fails is tried again each second; meanwhile nothing is taken from the queue. A full map is rolled.
//        What was not committed is never acknowledged.
// Thread push() and close(): any. All else: its own.
#pragma once

#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <thread>
#include <variant>

#include "store/block.h"
#include "store/maintenance.h"
#include "store/recovery.h"
#include "store/retention.h"
#include "store/view_impl.h"

namespace scope::store {

// Cluster time: the monotonic clock and an anchor that is fixed while the store is open.
struct ClusterClock {
  std::int64_t anchor_ns = 0;
  ClusterTime now() const;
};

// What the store is now; the writer sets, stats() reads. Any thread.
struct Gauges {
  std::atomic<std::uint64_t> events_stored = 0, bytes_on_disk = 0, partitions = 0, blocks = 0;
  std::atomic<std::uint64_t> tail_rows = 0;
  std::atomic<std::int64_t> commit_ns_last = 0;
};

class Writer {
 public:
  struct IncarnationRequest {
    std::string node;
    std::uint32_t creation = 0;
    std::uint64_t agent_id = 0;
    std::shared_ptr<std::promise<IncarnationInfo>> answer;
  };
  struct FlushRequest {
    std::shared_ptr<std::promise<void>> answer;
  };
  struct Cut {
    Incarnation incarnation = kNoIncarnation;
    RawTime until;
  };
  // Upkeep changes the list of partitions (open_upkeep.h).
  struct EditRequest {
    std::function<Result<Numbers>(Manifest&)> change;  // of a copy
    std::vector<std::shared_ptr<Partition>> attached;  // shown from now on, where it lists them
    bool unlink = false;  // the files of those that it lists no more go with their last view
    std::shared_ptr<std::promise<Result<Numbers>>> answer;
  };
  using Item =
      std::variant<IncomingBatch, ClockVersion, Cut, IncarnationRequest, FlushRequest, EditRequest>;

  Writer(const StoreOptions& options, StoreState state, ClusterClock clock,
         StoreListener* listener);
  ~Writer();
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  Status push(Item item, std::size_t bytes);  // busy, closed
  void close();                               // drains, commits, joins
  std::shared_ptr<const View> view() const { return publisher_.current(); }
  const Counters& counters() const { return *counters_; }
  const Gauges& gauges() const { return gauges_; }
  std::uint64_t queue_bytes() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Group;  // batches of the tail that become blocks together

  void run();
  std::vector<Item> take(Clock::time_point until);
  Clock::time_point next_event() const;
  void handle(IncomingBatch& batch);
  void handle(ClockVersion& version);
  void handle(Cut& cut);
  void handle(IncarnationRequest& request);
  void handle(FlushRequest& request);
  void handle(EditRequest& request);
  Result<Numbers> edit(EditRequest& request);

  bool commit_due(Clock::time_point now) const;
  std::chrono::nanoseconds commit_interval() const;
  void try_commit();
  Status commit();
  std::uint64_t seal_bytes() const;
  std::vector<Group> plan_groups();
  Status write_hot(lmdb::Txn& txn, std::span<const std::shared_ptr<TailBatch>> batches,
                   const Databases& db) const;
  Status write_group(lmdb::Txn& txn, Group& group);
  void committed(std::vector<Group>& groups, OpenSegment open);
  Status write_segments(lmdb::Txn& txn, std::span<Group> groups, OpenSegment& open) const;
  void end_segment();
  Status roll();
  Status fill_partition(const Partition& fresh, NameTable& names);
  Status carry_states(const Partition& fresh);
  bool roll_due() const;
  std::optional<std::int64_t> newest_offset(Incarnation n) const;
  void tell_lost();
  void tell_unreadable(Incarnation n, ClusterTime received);
  void keep_house();
  void drop_old();
  Status replace_manifest(Manifest manifest, bool unlink);
  void update_sizes();

  const StoreOptions options_;
  StoreState state_;  // its tail: the first committed_ batches are in `hot`, the others pending
  const ClusterClock clock_;
  StoreListener* const listener_;
  const std::shared_ptr<Counters> counters_;
  Gauges gauges_;
  Publisher publisher_;
  Reaper reaper_;
  BlockEncoder encoder_;

  std::map<Incarnation, std::uint64_t> received_;      // last sequence number taken
  std::map<Incarnation, std::uint64_t> out_of_order_;  // told once per break
  // When the last one came that could not be read, of agents whose clock is not known yet.
  std::map<Incarnation, ClusterTime> unreadable_;
  OpenSegment open_;            // as published
  bool save_manifest_ = false;  // after the next commit
  std::size_t committed_ = 0;
  std::size_t tail_rows_ = 0, tail_bytes_ = 0, pending_rows_ = 0, pending_bytes_ = 0;
  Clock::time_point pending_since_, retry_at_, house_at_, rate_since_;
  std::uint64_t rate_rows_ = 0;
  double rows_per_s_ = 0;
  bool commit_now_ = false, failing_ = false, fresh_partition_ = false;
  std::vector<std::shared_ptr<std::promise<void>>> flushes_;
  std::vector<std::pair<Incarnation, IncarnationRequest>> asked_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::pair<Item, std::size_t>> queue_;
  std::size_t queue_bytes_ = 0;
  bool closing_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace scope::store
