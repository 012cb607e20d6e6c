// What views share to judge a unit by its statistics and to count its rows: the way without an index, which is also
// the way for the tail. Any thread.
#pragma once

#include "store/view.h"

namespace scope::store {

std::int64_t second_of(RawTime time);
// Does the whole second lie inside the incarnation's range? (RollupSpec::times)
bool whole_second_inside(std::span<const TimeRange> times, Incarnation incarnation,
                         std::int64_t second);

// Can an incarnation's rows of a unit hold one that the selection wants, as far as processes and times say?
bool range_may_match(const UnitRange& range, const Selection& selection);
Candidates by_statistics(std::span<const Unit> units, const Selection& selection);

Status roll_up_rows(const View& view, const Unit& unit, const RollupSpec& spec,
                    const RollupSink& sink);
Status edges_of_rows(const View& view, const Unit& unit, std::span<const ProcessId> senders,
                     const EdgeSink& sink);

}  // namespace scope::store
