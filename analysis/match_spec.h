// MatchSpec: the filter's `match`, a match specification over the term of an event (model: ets, dbg), applied to the encoded
// term without building it.
//
//   Match   = Pattern | Clause | [Clause, ...]
//   Clause  = {Pattern, [Guard, ...]}              at least one guard
//           | {Pattern, [Guard...], Body}          only in a list, as ets has it; the body is not looked at
//   A value that is not of these shapes is a pattern as a whole. To match a term that has such a shape, write the whole
//   form: [{Pattern, [], ['$_']}]. A pair whose list mentions a variable of its pattern is a clause for certain, so a
//   wrong guard in it is an error.
//   Pattern: '_' anything, '$N' a variable (the same again: equal), tuples and lists element by element, maps by the keys
//   that the pattern has (others may be there; as ets has it, also inside literals), all else =:=.
//   Guards: the table in match_guard.cc; an exception in a guard means that the clause does not match.
//
// Subject  What the pattern is held against: arguments (a list), result, the exception's reason, message, state, exit
//          reason, name, initial arguments, ...: the payload of the row. Types that have none never match.
// Unknown  Where the answer depends on what was not captured (the row is truncated, arguments were left out), or on
//          arithmetic beyond 64 bits, the order of pids, or more than kMaxSteps: `unknown`, never no.
// Bounds   A pattern has at most kMaxNodes terms, kMaxPatternDepth deep. Matching recurses along the pattern, never along
//          the row's term, and takes time about linear in both.
// Life     Owns its terms. Thread: immutable; any number of threads match at once.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ei_codec/base/result.h"
#include "ei_codec/term_view.h"
#include "ei_codec/trace_event.h"

namespace scope::analysis {

enum class Verdict : std::uint8_t { no, yes, unknown };

class MatchSpec {
 public:
  static constexpr std::size_t kMaxNodes = 2000, kMaxPatternDepth = 64, kMaxBytes = 64u << 10;
  static constexpr std::size_t kMaxSteps = 200'000;

  // Errors: bad_value (field match), too_large.
  static Result<std::shared_ptr<const MatchSpec>> compile(const codec::TermView& match);
  ~MatchSpec();

  Verdict matches(const codec::TraceRecord& record) const;
  // `cut`: the term is the bounded form of a larger one.
  Verdict matches(const codec::TermView& term, bool cut) const;

  std::string_view bytes() const { return bytes_; }  // as it was given; for the filter's hash

 private:
  struct Clause;
  MatchSpec();

  std::string bytes_;
  std::vector<Clause> clauses_;
};

// The term that match and text look at. nullopt: the type has none, or it was not captured (has_subject tells which).
bool has_subject(codec::EventType type);
std::optional<codec::TermView> subject(const codec::TraceRecord& record);

}  // namespace scope::analysis
