// get_traces, get_trace: causal traces (causality.h) by filter and by id.
//
// Id     The event that began the root span, so it is the same after restarts and whatever range was looked at.
// Range  A list is made of windows, the first as long as a page may need, then longer ones, at most as much time as
//        kMaxRows hold; with kLookBackNs before, so that what was under way is known, and as much after as the traces
//        take to end: until nothing in them waits any more for an answer or an arrival, at most kLookAheadNs. A trace
//        is read from its root on, until it has ended and kQuiet of the time read passed without it, or for kMaxTraceNs; for
//        arrivals alone, which may be untraced, for kLookAheadNs. What began earlier than the look back appears as a root.
// Thread Pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/causality.h"
#include "analysis/query.h"

namespace scope::analysis {

inline constexpr std::size_t kMaxRows = 400'000;
inline constexpr std::int64_t kLookBackNs = 1'000'000'000;
inline constexpr std::int64_t kLookAheadNs = 5'000'000'000;
inline constexpr std::int64_t kMaxTraceNs = 60'000'000'000;
inline constexpr std::size_t kMaxSpans = 10'000;
inline constexpr std::uint32_t kMaxDepth = 200;

struct TraceSummary {
  Span root;
  std::optional<std::int64_t> duration_ns;  // to the last stop that is known
  std::uint32_t spans = 0, errors = 0;
  std::uint32_t tokens = 0, differs = 0;  // spans that a token names; of these, not where inferred
  std::vector<std::string> nodes;
  EdgeCertainty certainty = EdgeCertainty::exact;  // the least of its edges
};

struct TraceList {
  std::vector<TraceSummary> traces;  // by the root's start, in the filter's order
  std::string next;
  Completeness completeness;
};

// Of the filter: pid (a span of it), nodes (a span there), modules and mfa (a span's), text (in a span's name, module or
// error), trace_id (in a message that began a span; read is what the index of ids names, and kLookAheadNs before, so that
// a trace that began longer before appears from there on), min_duration, since, until, limit, order, cursor. errors: only
// traces with (without) an error.
// Errors: those of resolve() and resolve_time(), bad_cursor, bad_value, deadline (not even the first window was read).
Result<TraceList> get_traces(const Context& context, const Filter& filter,
                             std::optional<bool> errors);

// Why a trace is not whole.
enum class TraceCut : std::uint8_t { time, spans, depth, rows };
std::string_view name(TraceCut cut);

struct TraceSpan {
  Span span;              // `parent` is a place in Trace::spans
  bool critical = false;  // on the path that decided how long it took
  std::uint32_t depth = 0;
  std::optional<std::int64_t> service_ns;
};

struct Trace {
  std::vector<TraceSpan> spans;  // the root first, then by depth-first order of start
  std::vector<SpanLink> links;   // places in `spans`
  std::vector<TraceCut> cut;
  bool outward = false;  // worked out of the rows of those that took part
  Completeness completeness;
};

// Both give the same trace: `outward` reads what trace_outward.h says, and all where that does not tell.
enum class TraceReading : std::uint8_t { outward, all };

// The trace that an event belongs to: the root's id, or that of any event that began a span or sent a message in it.
// Errors: not_recorded.
Result<Trace> get_trace(const Context& context, const EventId& id,
                        TraceReading reading = TraceReading::outward);

}  // namespace scope::analysis
