// The agent's start request (erl/agent/scope_agent.erl, SPEC) made from a TraceSpec, and what agents say of traces read
// back. With each start goes `meta`, which the agent keeps and gives back: who asked, until when, and the options as
// they were asked, so that a restarted daemon knows what goes on. Plain functions, any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cnode/service/service.h"
#include "cnode/service/trace_spec.h"
#include "ei_codec/base/ids.h"

namespace scope::node {

struct TraceMeta {
  std::string by;
  std::optional<ClusterTime> expires;
};

// {start, Id, Spec} for one node; pids and names of other nodes are left out.
std::vector<std::byte> encode_start(std::uint64_t id, const TraceSpec& spec, std::string_view node,
                                    const TraceMeta& meta, ClusterTime now);

struct FoundTrace {
  std::uint64_t id = 0;
  TraceSpec spec;
  TraceMeta meta;
};
// From the answer to `status`: {ok, #{tracing => #{Id => Spec}}}; what has no readable meta is left out.
std::vector<FoundTrace> read_traces(const codec::TermView& status);

// Takes arguments, results or everybody's messages along: needs an end.
bool is_deep(const TraceSpec& spec);

// {probe, Spec}: what a start of this would cost, without starting it.
std::vector<std::byte> encode_probe(const TraceSpec& spec, std::string_view node);

// The agent's answer to `status`: #{...}.
Spending read_spending(const codec::TermView& status);

// {error, Reason} of an agent as an Error.
Error refusal_of(const codec::TermView& reply);

// The agent's groups of events for these types; empty bits: the default for that kind of trace.
std::vector<std::string_view> agent_events(const TraceSpec& spec);
// What comes of it, as bits 1 << EventType; and all that a trace can ask for.
std::uint32_t traced_types(const TraceSpec& spec);
std::uint32_t traceable_types();

}  // namespace scope::node
