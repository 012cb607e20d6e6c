// The states of a process one after the other, each with what caused it and what changed. Thread: pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/query.h"
#include "analysis/resolve.h"
#include "analysis/state_at.h"
#include "ei_codec/term_diff.h"

namespace scope::analysis {

struct Transition {
  Event state;  // type state_change
  std::optional<Event>
      cause;  // the message_take between the state before and this one; the last, if several
  std::optional<Process>
      sender;  // of the cause: from the message itself (a call), or the only sender whose send has
               // the same content; its `ids` are empty if its VM was never heard of
  std::string callback;  // handle_call, handle_cast, handle_info, terminate; empty: unknown
  std::optional<codec::TermDiff>
      diff;  // against the state before; empty where there is none, or either is truncated
  Certainty certainty = Certainty::proven;
};

struct StateHistory {
  std::vector<Transition> transitions;  // in the filter's order
  Owners owners;                        // what the views of events and diffs point to
  Process process;
  std::string next;
  Completeness completeness;
};

// Of the filter: since, until, limit, order and cursor; any other key is bad_value. Errors as state_at().
Result<StateHistory> state_history(const Context& context, const ProcessSpec& process,
                                   const Filter& filter);

// bad_value naming the key if the filter says more than a range, a page and an order.
Status check_only_range(const Filter& filter);

}  // namespace scope::analysis
