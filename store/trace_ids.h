// Trace ids that others put into what is recorded: found in the bytes of a payload, wherever in its term they stand.
//
//   traceparent = two hex digits, "-", 32 hex digits (the id), "-", 16 hex digits, "-", two hex digits     (W3C Trace Context)
//   plain       = a binary or a string of 32 hex digits and nothing else
//
// A list of characters is found where it is encoded as a string (the Erlang tracer's payloads; the native tracer writes lists whole).
// Letters in either case; an id of zeros only is none. A byte in 32 is looked at: a run of 32 digits cannot pass between.
// An MD5 in hex is a plain one, too: that costs its entry in the index and nothing else.
// Thread Pure.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "ei_codec/term_view.h"

namespace scope::store {

using codec::Bytes;
using TraceId = std::array<std::uint8_t, 16>;

// Of its 32 hex digits, or of a whole traceparent.
std::optional<TraceId> read_trace_id(std::string_view text);
// What the index knows it by.
std::uint64_t trace_key(const TraceId& id);

// A traceparent's: the trace, and the span that sent it.
struct TraceContext {
  TraceId trace;
  std::array<std::uint8_t, 8> span;
  bool operator==(const TraceContext&) const = default;
};
std::optional<TraceContext> first_traceparent(Bytes payload);

// Adds the keys of all ids in `payload`, as often as they occur.
void add_trace_keys(Bytes payload, std::vector<std::uint64_t>& out);
bool has_trace_id(Bytes payload, const TraceId& id);

}  // namespace scope::store
