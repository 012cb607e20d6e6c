// What an answer lacks (api.md, completeness): from the gap rows of the range, and from what the daemon says of the present.
// Thread: pure.
#pragma once

#include <optional>
#include <span>

#include "analysis/clock_model.h"
#include "analysis/query.h"

namespace scope::analysis {

// The gaps of these incarnations (empty: all) that overlap [from, until] (open where empty), plus the coverage of their
// nodes. Gaps of unknown time (a clock never measured) are always listed. `types`: the kinds of events that were asked for by
// name, which must be traced for an empty answer to mean anything; all: whatever is traced.
Completeness certify(const Context& context, const ClockModel& clock,
                     std::span<const Incarnation> incarnations, std::uint32_t types,
                     std::optional<ClusterTime> from, std::optional<ClusterTime> until,
                     std::optional<store::Lsn> upper = {});

}  // namespace scope::analysis
