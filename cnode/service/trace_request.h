// {get_traces, Filter}, {get_trace, Id}: causal traces (analysis/causal_trace.h) in the shapes of api.md; and
// {get_order, Id, Id}: which event came first (analysis/event_order.h). Thread: any.
#pragma once

#include "cnode/service/requests.h"

namespace scope::node {

// Of the filter: pid node module mfa text min_duration errors since until limit order cursor deadline.
Status run_get_traces(const codec::TermView& request, Env& env, codec::TermBuilder& out);
// Id: 24 bytes, of a trace, a span or an event of one.
Status run_get_trace(const codec::TermView& request, Env& env, codec::TermBuilder& out);
// Ids: of events, 24 bytes each.
Status run_get_order(const codec::TermView& request, Env& env, codec::TermBuilder& out);

}  // namespace scope::node
