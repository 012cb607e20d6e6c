// EdgeBuilder: derives the edges of messages slice by slice (edge_slices.h) and keeps them (store/edge_store.h).
//
// What   step() takes the oldest slice that is not kept, or whose blocks are others than when it was derived, reads the rows
//        of its window through a MessageMatcher and writes what that finds. It does so up to a watermark: the cluster time
//        up to which every node that was heard of within kWatchedNs has delivered all it recorded; a node that says nothing
//        holds it back by kBehindNs at most, what it brings later makes its slices stale. A slice with rows that are in no
//        block yet waits until they are. Slices that no block reaches any more are dropped.
// State  absent -> kept -> stale (a late block, retention, an archive, damage) -> absent -> ...
//        A crash anywhere leaves a slice either kept or absent: its state is written last.
// Bounds Rows: those of the units open at one time (row_stream.h), and EdgeLimits. What is pushed out early marks the slice `crowded`; who asks does not use such a one.
//        `pace` is called every kPaceRows rows: it may sleep.
// Errors those of EdgeStore. too_large (the file is full): the oldest slices make room, and are not derived again.
// Life   The store outlives it. Thread: one at a time.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "analysis/edge_slices.h"

namespace scope::analysis {

struct EdgeStep {
  bool derived = false;         // a slice; else there was nothing to do
  std::uint32_t partition = 0;  // where its newest block is
  std::uint64_t rows = 0, edges = 0, bytes = 0;
};

struct EdgeProgress {
  std::optional<ClusterTime> until;  // all before is kept; nullopt: there is nothing
  std::uint64_t kept = 0;            // slices
  std::uint64_t ready = 0;           // slices that are to be derived and could be now
  std::uint64_t waiting = 0;         // those whose rows are not complete, or not in blocks, yet
};

struct EdgeLimits {
  std::size_t part_edges = store::kPartEdges;  // at most that
  std::size_t max_open = 40'000;               // of the matcher
  // Takings whose fetch is not matched yet; fetches whose taking may come.
  std::size_t max_takes = 30'000;
  bool alone = false;  // no daemon records: nothing is waited for, the tail is on disk
};

class EdgeBuilder {
 public:
  static constexpr std::int64_t kWatchedNs = 60'000'000'000, kBehindNs = 60'000'000'000;
  static constexpr std::size_t kPaceRows = 512;

  explicit EdgeBuilder(store::EdgeStore& kept, std::function<void()> pace = {},
                       EdgeLimits limits = {});

  // At most one slice. The context's budget may end it, too; then nothing was derived.
  Result<EdgeStep> step(const Context& context);
  // As of the last step.
  const EdgeProgress& progress() const { return progress_; }
  // Everything is derived again.
  Status clear();

 private:
  Status load();
  Status forget(std::int64_t slice);
  Result<std::optional<std::int64_t>> choose(const Context& context, const ClockModel& clock);
  std::vector<store::SliceCut> cuts(const Context& context, const ClockModel& clock,
                                    std::int64_t slice) const;
  Result<EdgeStep> derive(const Context& context, const ClockModel& clock, std::int64_t slice);

  store::EdgeStore& kept_;
  const std::function<void()> pace_;
  const EdgeLimits limits_;
  bool loaded_ = false;
  std::map<std::int64_t, store::SliceState> states_;
  std::int64_t floor_;  // older slices had to make room
  EdgeProgress progress_;
};

// Up to when all that the nodes recorded which are there is in the view, but at most EdgeBuilder::kBehindNs ago; now, if none is.
ClusterTime settled_until(const Context& context, const ClockModel& clock);

}  // namespace scope::analysis
