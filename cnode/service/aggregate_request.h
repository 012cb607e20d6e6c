// {aggregate, Filter, GroupBy, Measures}: the request's terms in, the answer's map out (api.md).
//
//   GroupBy   a list of node | mfa | module | pid | edge | type | {time, N, Unit}; one of them alone; [] for all in one
//   Measures  a list of count | rate | min | max | mean | p50 | p90 | p99, and of what: duration | queue_time, or
//             {duration | queue_time, [min, p99, ...]}. Said nowhere: queue_time if the filter's types are of messages
//             only, else duration. Every answer has every measure; what was not asked for or not found is unknown.
// Thread: pure, as every request.
#pragma once

#include <chrono>
#include <optional>

#include "analysis/aggregate.h"
#include "cnode/service/requests.h"

namespace scope::node {

Status run_aggregate(const codec::TermView& request, Env& env, codec::TermBuilder& out);

// Errors: bad_value (group_by, measures), those of read_filter.
struct AggregateRequest {
  analysis::AggregateSpec spec;
  std::optional<std::chrono::milliseconds> deadline;
};
Result<AggregateRequest> read_aggregate(const codec::TermView& filter,
                                        const codec::TermView& group_by,
                                        const codec::TermView& measures);

}  // namespace scope::node
