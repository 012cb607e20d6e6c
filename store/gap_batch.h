// A batch of the store's own that tells of a gap, number 0, so that a gap goes the way of all events.
#pragma once

#include "store/trace_store.h"

namespace scope::store {

Result<IncomingBatch> gap_batch(Incarnation incarnation, std::string_view reason, RawTime from,
                                RawTime until);

}  // namespace scope::store
