// The state of a process at a time: the newest captured state at or before it, and how sure that is. Thread: pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/query.h"
#include "analysis/resolve.h"

namespace scope::analysis {

enum class Certainty : std::uint8_t {
  proven,     // captured whole, and nothing that could hide a later state up to the time asked
  inferred,   // captured, but `why` says what may hide a later one
  truncated,  // the newest state, but captured only in part
};

// Why a state is not proven. Names are sent as atoms.
enum class Doubt : std::uint8_t {
  gap,    // something was dropped or not captured on that node between the state and the time asked
  clock,  // a state change lies nearer to the time asked than the clocks can tell
  not_final,  // what the node recorded up to the time asked has not all arrived: `final_until` says how far
  checkpoint,  // asked of the process (sys:get_state), not captured at a change
  sampled,     // the node is traced by samples
  corrupt,     // a block could not be read
  deadline,    // the search was cut
};
std::string_view name(Doubt doubt);
std::string_view name(Certainty certainty);

struct StateAt {
  Event state;  // type state_change; payload is the state
  Owners owners;
  Process process;
  ClusterTime asked;
  Certainty certainty = Certainty::proven;
  std::vector<Doubt> why;  // empty when proven
  // Everything that the node recorded before that time has arrived; nullopt: not known.
  std::optional<ClusterTime> final_until;
  Completeness completeness;  // between the state and the time asked
};

// Errors: those of resolve() and resolve_time(); time_in_future (beyond kFutureSlackNs; nearer means now); not_recorded
// (no state was captured before that time, or the process had exited: the message says when); deadline.
Result<StateAt> state_at(const Context& context, const ProcessSpec& process, const TimeSpec& time);

// A caller's own clock may be ahead of the cluster's: up to here a time is taken as now.
inline constexpr std::int64_t kFutureSlackNs = 1'000'000'000;

}  // namespace scope::analysis
