// get_events: the rows that match a filter, by page. Thread: pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/explain.h"
#include "analysis/query.h"
#include "analysis/resolve.h"

namespace scope::analysis {

struct EventsPage {
  std::vector<Event> events;
  Owners owners;
  std::string next;            // cursor; empty: that was all
  Completeness completeness;   // of the range that this page covers
  std::optional<Process> pid;  // what the filter's pid was taken to mean
  std::optional<Explain> explain;
};

// Errors: those of resolve() and resolve_time(), bad_cursor, bad_value.
Result<EventsPage> get_events(const Context& context, const Filter& filter);

}  // namespace scope::analysis
