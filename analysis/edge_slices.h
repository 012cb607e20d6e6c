// How time is cut for kept edges, and whether what is kept of a slice is what the view would give now.
//
// Slice    kSliceNs of cluster time, counted from 1970. A slice keeps the edges whose *sending* is in it. Its edges are those
//          that a MessageMatcher finds which sees the rows of its window, and nothing else: from kEdgeBeforeNs before the
//          slice to kEdgeAfterNs behind it. So they depend on the window's rows alone, not on when these came or in which order.
// Cuts     The ends of a slice are kept as raw times of each incarnation (SliceCut), taken by the clock model when the slice is
//          derived for the first time and from its neighbours where these have them: each row is in exactly one slice,
//          whatever is learnt of clocks later. Windows are these ends moved by kEdgeBeforeNs and kEdgeAfterNs of raw time.
// Valid    A slice keeps a sum over the blocks that overlapped its window. Blocks never change, so the sum is the same as long
//          as the window's rows are. A block that came late, was dropped by retention, moved to an archive or taken in
//          from one changes it: the slice is then `stale`, not used, and derived again. Batches of the tail are summed up as
//          blocks are; a slice that has some is derived only where no daemon is (their numbers are certain once they are on
//          disk), and once more when they are in blocks.
// Thread   Pure.
#pragma once

#include <map>

#include "analysis/clock_model.h"
#include "store/edge_store.h"

namespace scope::analysis {

inline constexpr std::int64_t kSliceNs = 60'000'000'000;
inline constexpr std::int64_t kEdgeBeforeNs = 10'000'000'000, kEdgeAfterNs = 20'000'000'000;
static_assert(kEdgeAfterNs < kSliceNs, "an arrival is in its sending's slice or the next one");
// Raised when the same rows would give other edges.
inline constexpr std::uint64_t kEdgeRules = 1;

inline std::int64_t slice_of(ClusterTime t) {
  return t.ns / kSliceNs - (t.ns % kSliceNs < 0 ? 1 : 0);
}
inline ClusterTime slice_start(std::int64_t slice) { return {slice * kSliceNs}; }

inline constexpr std::uint32_t kEdgeTypes = codec::bit(codec::EventType::message_send) |
                                            codec::bit(codec::EventType::message_fetch) |
                                            codec::bit(codec::EventType::message_take);

struct Window {
  std::uint32_t blocks = 0;
  bool tail = false;
  std::uint64_t units = 0;      // the sum over both
  std::uint32_t partition = 0;  // of its last block
};

// By number; null: not derived yet, its ends are the clock model's.
using Slices = std::map<std::int64_t, const store::SliceState*>;

// What the view has in the windows of `known`, and if not `only_known` of every other slice, too. A unit of rows that lie
// over more than a day (a late batch in it, or a clock that was wrong) is added to slices that are known or that others reach.
inline constexpr std::int64_t kMostSlicesOfUnit = std::int64_t{24} * 60;
std::map<std::int64_t, Window> windows(const Context& context, const ClockModel& clock,
                                       const Slices& known, bool only_known);

// Is this raw time of that incarnation in the slice's window?
bool in_window(const store::SliceCut& cut, RawTime time);

}  // namespace scope::analysis
