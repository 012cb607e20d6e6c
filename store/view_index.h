// How a view uses the segments' indexes: units that can hold rows, and sums of what they hold. The contracts are View's.
//
// Thread Any. One read transaction per partition, while its segments' values are looked at; none leaves the call.
#pragma once

#include "store/view_impl.h"

namespace scope::store {

Candidates find_candidates(const View& view, const Published& shown, const Selection& selection);
Result<RollupInfo> sum_cells(const View& view, const Published& shown, const RollupSpec& spec,
                             const RollupSink& sink);
Result<RollupInfo> sum_edges(const View& view, const Published& shown,
                             std::span<const ProcessId> senders, const EdgeSink& sink,
                             const std::function<bool()>& stop);

}  // namespace scope::store
