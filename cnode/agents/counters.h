// What happened between agents and the store, counted. One table: name, severity, help.
// Thread: the io_context's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace scope::node {

#define SCOPE_AGENT_COUNTERS(X)                                                                  \
  X(batches_refused, data_loss, "batches that came outside a session or beyond the credit")      \
  X(clock_not_stored, data_loss, "versions of the clock model that the store did not take")      \
  X(gaps_not_stored, data_loss, "gaps between two agents of a node that the store did not take") \
  X(sessions_lost, error, "sessions with agents that ended without being asked to")              \
  X(resumes, error, "sessions resumed because a batch came out of order")                        \
  X(unexpected_messages, error, "messages from agents that fit no form")                         \
  X(store_full, info, "batches that waited because the store's queue was full")

enum class AgentCounter : std::size_t {
#define SCOPE_ENUM(name, severity, help) name,
  SCOPE_AGENT_COUNTERS(SCOPE_ENUM)
#undef SCOPE_ENUM
      count_
};

struct AgentCounterInfo {
  std::string_view name, severity, help;
};
inline constexpr std::array kAgentCounterInfo = {
#define SCOPE_ROW(name, severity, help) AgentCounterInfo{#name, #severity, help},
    SCOPE_AGENT_COUNTERS(SCOPE_ROW)
#undef SCOPE_ROW
};

using AgentCounters = std::array<std::uint64_t, static_cast<std::size_t>(AgentCounter::count_)>;

}  // namespace scope::node
