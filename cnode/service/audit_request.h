// {audit, Filter}: who had tracing started, stopped or a setting changed, the newest first (cnode/audit.h says what an entry
// holds). Filter: since until limit (100; at most 1,000) cursor. Thread: any.
//
//   #{entries => [#{number, time, ..}], next => Cursor | none, dropped => N}     dropped: older ones that are gone
#pragma once

#include "cnode/service/requests.h"

namespace scope::node {

Status run_audit(const codec::TermView& request, Env& env, codec::TermBuilder& out);

}  // namespace scope::node
