// MessageClocks: what matched messages add to the clock model: no corrected fetch stands before its send.
//
// Data   A sure pair says that  raw_send + offset_a(raw_send) <= raw_fetch + offset_b(raw_fetch).  Of each direction of two
//        incarnations, and each kSliceNs of the sender's raw time, only the corners of the lower hull of
//        (raw_send, raw_fetch - raw_send) are kept: where offsets are straight lines they imply all the others (Duda).
//        Where a point lies in a slice they do not: the newest kMaxRecent pairs are looked at once more when the points have
//        moved, and what does not hold becomes a corner that stays.
//        The points are the clock model's versions of the last kRefinedNs.
// Bounds By pairs that an identity proves (`exact`), and only these, each as sent when it can have been at the earliest
//        (clock_pairs.cc): the offset at a fetch is at least what the sender's lowest allows, the offset at a send at most what
//        the receiver's highest allows; carried to the points on both sides by what the clock can drift meanwhile (clock_cone.h), from neighbour to neighbour in kBoundPasses passes. Bounds never
//        widen, but when a ping contradicts what was stored of any clock: then other clocks' bounds were narrowed by what was
//        wrong, and all begins again by the pings. A pair that would leave no room contradicts (a step, a wrong match): it is
//        dropped and counted.
// Steps  Between two points that no drift joins (clock_cone.h, stepped) the raw clock stepped, and pings do not say when. Pairs
//        do: one that holds only by the old offset was before the step, one that holds only by the new one after it. The last
//        of the former and the first of the latter become points, each bounded from its own side if the pairs are exact;
//        between these both offsets are allowed. Where other sure pairs lie between, they become points `within` the step:
//        the corrected time follows them, the bound does not. From the last before to the first after it a straight line
//        breaks no pair. That each point comes before the next, as the rows of their node do, is a pair, too.
// Offsets By all sure pairs: each point moves within its bounds by the least that lets every pair hold, the less certain
//        end more (projection onto the constraints, one after the other, kOffsetPasses times). So two nodes' times are right
//        to each other even where messages are quicker than the pings that bound either. Where no straight lines between the
//        points do (the rate changed there), points are added, as near to others as it takes (kApartNs). A pair that still does not hold is counted (`unresolved`).
//        Those that contradict each other (a send whose row is late, clock_pairs.cc) move no others.
// Out    Revisions of these points (clock_model.h), source 2. A point at the edge of what is still revised stays, and so does
//        an incarnation whose points would put two of its rows out of order.
// Bounds of it  kMaxRecent pairs, kMaxCorners altogether; beyond, pairs are left out and counted.
// Thread One.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <tuple>
#include <vector>

#include "analysis/clock_model.h"

namespace scope::analysis {

struct RefineStats {
  std::uint64_t pairs = 0;       // of two nodes, sure
  std::uint64_t left_out = 0;    // no room for them
  std::uint64_t contradict = 0;  // against the bounds
  std::uint64_t unresolved = 0;  // at the last refine(): corrected fetch before its send
};

class MessageClocks {
 public:
  // What was measured before `begun` stays: not all of its messages are told.
  explicit MessageClocks(ClusterTime begun = {INT64_MIN}) : begun_(begun) {}

  static constexpr std::int64_t kSliceNs = 200'000'000;
  static constexpr std::int64_t kRefinedNs = 45'000'000'000;
  static_assert(kRefinedNs < kRevisedNs);
  static constexpr std::size_t kMaxCorners = 100'000;
  static constexpr std::size_t kMaxRecent = 60'000;

  // `proven`: this pair is one, and was not sent before that. REQUIRES of such that since both ends a ping came that agrees with
  // what is stored of their clocks; either may have stepped after the newest.
  void add(const EventId& send, const EventId& arrival, std::optional<RawTime> proven);

  // The revisions worth storing; measured_at and version are for the caller and the store to set. `clocks`: View::clocks().
  std::vector<store::ClockVersion> refine(std::span<const store::ClockVersion> clocks);

  const RefineStats& stats() const { return stats_; }

 private:
  struct Corner {
    std::int64_t sent = 0, fetched = 0;  // raw times
    bool dropped = false;                // in this pass
    bool counted = false;                // as one that contradicts
    bool stays = false;
  };
  using Direction = std::tuple<Incarnation, Incarnation, bool>;  // from, to, exact
  using Slices = std::map<std::int64_t, std::vector<Corner>>;    // by sent / kSliceNs
  struct Recent {
    Direction direction;
    Corner pair;
  };
  struct Track;
  struct Side;
  struct Pair;

  static void hull(std::vector<Corner>& corners);
  void keep(const Direction& direction, const Corner& corner);
  std::map<Incarnation, Track> tracks(std::span<const store::ClockVersion> clocks);
  void forget(const std::map<Incarnation, Track>& tracks);
  std::vector<Pair> pairs(std::map<Incarnation, Track>& tracks);
  static void find_steps(std::span<const Pair> pairs);
  void tighten(std::span<Pair> pairs);
  void project(std::span<Pair> pairs);
  void settle(std::map<Incarnation, Track>& tracks, std::vector<Pair> known);
  bool look_again(std::map<Incarnation, Track>& tracks);
  static bool add_points(std::map<Incarnation, Track>& tracks, std::span<const Pair> pairs,
                         std::int64_t apart);

  ClusterTime begun_;
  std::map<Direction, Slices> corners_;
  std::size_t count_ = 0;
  std::deque<Recent> recent_;
  std::map<Incarnation, std::uint32_t> judged_;  // the newest from pings, at the last refine()
  RefineStats stats_;
};

// Matches the messages of a range and adds the sure pairs of two nodes. The next range begins before this one ends, for messages
// that were under way: by kOverlapNs, or by a quarter of the rows read, where there were more than it was to read or had time for.
struct PairRange {
  ClusterTime since, until;
  std::size_t max_rows = 50'000;
};
struct PairsRead {
  ClusterTime until, next;  // up to where they were read, where the next range begins
  std::size_t rows = 0;
};
inline constexpr std::int64_t kOverlapNs = 1'000'000'000;
PairsRead read_pairs(const Context& context, const PairRange& range, MessageClocks& out);

// Up to when all that the incarnations whose clocks were measured within the last `fresh_ns` recorded is in the view.
// nullopt: fewer than two of them, or one does not say.
std::optional<ClusterTime> all_complete_until(const Context& context, std::int64_t fresh_ns);

}  // namespace scope::analysis
