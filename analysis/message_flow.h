// The messages between two processes, both ways: each send with its fetch and its taking (model.md: a message has three
// times). From kept edges where these are what the view would give (kept_edges.h); the rest, as a rule the youngest, is matched
// within a window around it, all who sent the same to either are looked at (message_match.h). Where tokens of seq_trace are near,
// all of the page is, and they have the first word (token_match.h). A sending that only its token tells is shown by that row.
// Thread: pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/message_match.h"
#include "analysis/query.h"
#include "analysis/resolve.h"

namespace scope::analysis {

struct FlowPoint {
  Corrected at;
  EventId id;
};

struct FlowMessage {
  bool a_to_b = true;
  Event send;
  std::optional<FlowPoint> fetch, take;
  std::optional<std::int64_t> latency_ns, queue_ns;  // fetched - sent; taken - sent
  std::optional<std::int64_t> error_ns;  // of both; 0 on one node, whose clock cancels out
  Matched matched = Matched::unknown;
  std::uint32_t candidates = 0;  // sends or fetches in question, whichever are more
};

struct MessageFlow {
  Process a, b;
  std::vector<FlowMessage> messages;  // by time of sending, in the filter's order
  Owners owners;
  std::string next;
  Completeness completeness;
};

// Of the filter: since, until (of the sending), limit, order and cursor. Errors: those of resolve(), bad_cursor, bad_value.
Result<MessageFlow> message_flow(const Context& context, const ProcessSpec& a, const ProcessSpec& b,
                                 const Filter& filter);

}  // namespace scope::analysis
