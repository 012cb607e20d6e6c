// TraceSpec: what {start, Opts} asks for, validated and typed. The daemon encodes it for the agents and keeps it for
// nodes that join later.
//
//   profile => atom            one of profiles.h: the defaults of everything below
//   nodes => all | Node | [Node]
//   modules => M | [M]         all functions of these modules
//   mfas => MFA | [MFA]        {M, F, A} | {M, F, '_'} | {M, F}
//   pids => Pid | [Pid]        names => Name | {Name, Node} | [..]      all => boolean   every process
//   events => [type | group]   event types of api.md, or the groups of event_group()
//   sample => 0.0 < float =< 1.0        budget => percent of the node's schedulers, 0 < number =< 100
//   fan_out => 0.001 =< float =< 1.0    of messages sent and fetched only those to so large a share of the receivers
//   for => Ms | {N, Unit} | infinity    how long; then it stops by itself
//   force => boolean           even if it is predicted to cost more than the budget, or would never end
//   follow => Pid | Name | {Name, Node} | {M, F, A} | [..]     what gets a token of seq_trace (erl/agent/scope_follow.erl):
//                              processes for the next messages that they take (they count among pids and names), functions
//                              for the next calls, by whomever      shots => 1..1000    how many (default 1)
//   args => boolean            arguments of calls        caps => Bytes | #{args | message | state | result => Bytes}
//
// Plain data, any thread. An empty field means "not said": the profile decides.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/query.h"
#include "cnode/service/profiles.h"
#include "ei_codec/base/result.h"
#include "ei_codec/term_builder.h"
#include "ei_codec/term_view.h"

namespace scope::node {

inline constexpr double kLeastFanOut = 0.001;

struct CaptureCaps {  // bytes; nullopt: the profile's
  std::optional<std::uint32_t> args, message, state, result;
};

// What is followed by seq_trace's tokens.
struct FollowSpec {
  std::vector<analysis::PidSpec> pids;
  std::vector<analysis::NameSpec> names;  // node empty: on every node
  std::vector<analysis::MfaSpec> mfas;
  std::uint32_t shots = 1;
  bool empty() const { return pids.empty() && names.empty() && mfas.empty(); }
};

struct TraceSpec {
  std::string profile;             // "": none; what is not said is the agent's default
  std::vector<std::string> nodes;  // empty: every node, also those that join later
  std::vector<std::string> modules;
  std::vector<analysis::MfaSpec> mfas;
  std::vector<analysis::PidSpec> pids;
  std::vector<analysis::NameSpec> names;  // node empty: on every node
  std::uint32_t events = 0;               // bits 1 << EventType; 0: the profile's
  std::optional<double> sample, fan_out;
  std::optional<double> budget_percent;
  std::optional<std::int64_t> for_ms;  // nullopt: not said
  bool forever = false;                // for => infinity
  std::optional<bool> args;
  CaptureCaps caps;
  FollowSpec follow;
  bool all = false;
  bool force = false;
  bool continuous = false;  // the profile's: without an end unless one is said
};

// A keyword list or map; what the profile says is filled in. Nothing said is lightweight_production. Errors: unknown_key,
// bad_value, each with its field and a hint.
Result<TraceSpec> parse_trace_spec(const codec::TermView& options,
                                   const std::vector<Profile>& profiles = builtin_profiles());
// What encode() wrote, as it is.
Result<TraceSpec> read_trace_spec(const codec::TermView& options);

// The map of what was asked, as `status` shows it: only what was said.
void encode(codec::TermBuilder& out, const TraceSpec& spec);

// The event types of a group (calls, messages, state, lifecycle, links, names), as bits; 0: no such group.
std::uint32_t event_group(std::string_view name);

}  // namespace scope::node
