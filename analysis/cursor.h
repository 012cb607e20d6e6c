// Cursor: where a walk over an answer stands; opaque bytes to callers.
//
// It carries everything that must not change between pages: which question and filter (a hash of it), the resolved times,
// the version of the clock model, the last batch that the first page saw, and the position. So every row that was there
// at the first page comes exactly once, while data arrives; later rows come at most once.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "analysis/event_scan.h"

namespace scope::analysis {

enum class Question : std::uint8_t {
  get_events = 1,
  get_state_history = 2,
  get_message_flow = 3,
  get_traces = 4
};

struct Cursor {
  Question question{};
  std::uint64_t filter_hash = 0;
  std::int64_t clock_version = 0;
  store::Lsn upper = 0;
  std::optional<ClusterTime> since, until;
  Position position;
};

std::string encode(const Cursor& cursor);
// Errors: bad_cursor; also if it belongs to another question or filter.
Result<Cursor> decode_cursor(std::string_view bytes, Question question, std::uint64_t filter_hash);

// Of everything that chooses and orders rows: not the limit, nor the cursor, nor since and until (those it carries).
std::uint64_t hash_of(const Filter& filter, const ProcessSpec* first, const ProcessSpec* second);

// What a page of a walk works with: taken from the cursor, or fixed now.
struct Walk {
  std::optional<ClusterTime> since, until;
  std::optional<std::int64_t> clock_version;
  std::optional<Position> after;
  store::Lsn upper = 0;
  std::uint64_t filter_hash = 0;
};
Result<Walk> begin_walk(const Context& context, const Filter& filter, Question question,
                        const ProcessSpec* first = nullptr, const ProcessSpec* second = nullptr);
std::string next_cursor(const Walk& walk, Question question, std::int64_t clock_version,
                        const Position& position);

}  // namespace scope::analysis
