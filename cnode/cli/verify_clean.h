// verify_node: is anything of ElixirScope, or of any tracing, left on a node? Asked from outside, by rpc to functions of
// erts, kernel and stdlib alone: nothing of ours is loaded there, and nothing is changed.
//
// How     lists:zipwith(fun erlang:trace_info/2, Mfas, Keys) and the like: functions of modules need no code to travel, so
//         every process and every function is looked at, in chunks, with one call each.
// Cost    On the node about 0.3 us a function and key and 2 us a process, in calls of a few ms; a process of 10 ms and less
//         than 1 MB of garbage for each chunk, which die with it.
//         Asking for call_time and call_memory stops all schedulers for 5 us, once per function: 500 in a call.
// Not     Seen: what another tool's trace session (OTP 27) traces; that it is there is a remark.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cnode/cli/client.h"

namespace scope::node::cli {

struct Finding {
  enum class Kind {
    modules,
    names,
    processes,
    tracing,
    patterns,
    system_monitor,
    seq_trace,
    link,
    sessions,
    monitors,
    handlers,
    files
  };
  Kind kind;
  std::string what;
  // A remark only: it is certainly somebody else's and does no harm to cleanliness.
  bool note = false;
};
std::string_view kind_name(Finding::Kind kind);

struct NodeReport {
  std::string node;
  std::uint64_t modules = 0, processes = 0, ports = 0, functions = 0;  // looked at
  std::vector<Finding> findings;
  bool clean() const;
};

// The client connects if need be. Errors: those of the calls; what was found until then is lost.
Result<NodeReport> verify_node(Client& client, const std::string& node);

// Is this a module (or a registered name, or an initial call's module) of the agent? test/unit/cli holds the list
// against erl/agent.
bool is_agent_module(std::string_view module);

}  // namespace scope::node::cli
