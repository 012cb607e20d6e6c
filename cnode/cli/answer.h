// Answers of the daemon (api.md) as text for people: tables, and beneath each in words what it lacks.
//
// Tolerant: a key that is missing or of another type than expected is shown as "?" or left out, never an error: a later
// daemon may say more. Pure functions of the term; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cnode/cli/screen.h"
#include "ei_codec/map_fields.h"
#include "ei_codec/term_view.h"

namespace scope::node::cli {

// {ok, Value}, or what the {error, ...} says; a reply of any other shape is an error, too.
std::expected<codec::TermView, Trouble> unwrap(const codec::TermView& reply);

// Reading maps.
using codec::get;
using codec::get_flag;
using codec::get_integer;
using codec::get_list;
std::string get_text(const codec::TermView& map,
                     std::string_view key);  // atoms and strings; "" otherwise

// "2024-05-01T12:00:00.250000+02:00 ±12 µs", "?" when unknown. `error_key` may be empty.
std::string when(const codec::TermView& map, std::string_view key, std::string_view error_key);

// "complete", or one line for each thing that is missing.
std::vector<std::string> completeness(const codec::TermView& map);
std::string completeness_text(const codec::TermView& answer, const Screen& screen);
// What stands beneath a page of an answer: that it is empty, completeness, the cursor, how it was found.
std::string footer(const codec::TermView& value, std::size_t rows, std::string_view what,
                   const Screen& screen);
// How it was found, if that was asked for; else nothing.
std::string explain_text(const codec::TermView& answer, const Screen& screen);

// What happened, in a line, without process and time.
std::string describe(const codec::TermView& event, const Screen& screen);

std::string render_status(const codec::TermView& value, const Screen& screen);
// What an agent predicts of a start, as cells of a table: events a second, its cost of the budget, how well it is known.
struct PredictionText {
  std::string events_per_s, cost, known;
};
PredictionText prediction_text(const codec::TermView& said, const Screen& screen);
std::string render_started(const codec::TermView& value, const Screen& screen);
std::string render_stopped(const codec::TermView& value, const Screen& screen);
// Only the table of `events`.
std::string event_rows(const codec::TermView& value, const Screen& screen, bool titles);
std::string render_events(const codec::TermView& value, const Screen& screen, bool titles = true);
std::string render_state(const codec::TermView& value, const Screen& screen);
std::string render_history(const codec::TermView& value, const Screen& screen);
std::string render_flow(const codec::TermView& value, const Screen& screen);
// The same as a sequence diagram, by time of sending, whatever the answer's order: as text, and as Mermaid's source.
std::string render_flow_diagram(const codec::TermView& value, const Screen& screen);
std::string render_flow_mermaid(const codec::TermView& value, const Screen& screen);
std::string render_traces(const codec::TermView& value, const Screen& screen);
std::string render_trace(const codec::TermView& value, const Screen& screen);
std::string render_order(const codec::TermView& value, const Screen& screen);
std::string render_clocks(const codec::TermView& value, const Screen& screen);
std::string render_stats(const codec::TermView& value, const Screen& screen);

// `next` of an answer as text for --cursor, and back. Empty: there is no more.
std::string cursor_text(const codec::TermView& value);
// The same of any opaque binary, such as an event's id.
std::string id_text(const codec::TermView& map, std::string_view key);
std::optional<std::string> cursor_bytes(std::string_view text);

}  // namespace scope::node::cli
