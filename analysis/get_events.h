// get_events: the rows that match a filter, by page. Thread: pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/query.h"
#include "analysis/resolve.h"

namespace scope::analysis {

struct EventsPage {
  std::vector<Event> events;
  Owners owners;
  std::string next;            // cursor; empty: that was all
  Completeness completeness;   // of the range that this page covers
  std::optional<Process> pid;  // what the filter's pid was taken to mean
};

// Errors: those of resolve() and resolve_time(), bad_cursor, bad_value.
Result<EventsPage> get_events(const Context& context, const Filter& filter);

bool matches(const MfaSpec& spec, const codec::Mfa& mfa);

}  // namespace scope::analysis
