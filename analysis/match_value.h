// What matching and guards compute with: terms that may be known only in part. For match_*.cc.
//
// A row that was cut (TraceRecord::kTruncated) shows the atom '...' where something was left out: an element, the tail of a
// list, a key and value of a map, the end of a tuple; a fun is {'fun', M, A}. Binaries are cut without a mark: at 256 bytes,
// or by the native tracer where its room ends, but never to fewer than kCutBinary bytes (erl/agent/scope_cut.erl,
// erl/c_src/encode.cc). What was redacted (kRedacted) is the tuple {'$scope_redacted', Hash}. Compared with any of these, the answer is unknown unless another part decides.
#pragma once

#include <optional>
#include <vector>

#include "analysis/match_spec.h"
#include "ei_codec/term_builder.h"
#include "ei_codec/term_view.h"

namespace scope::analysis::match {

using codec::TermView;

inline constexpr std::size_t kCutBinary = 16;
inline constexpr std::size_t kMaxScratch = 1u << 20;  // bytes that guards may build for one row

bool left_out(const TermView& term);          // is it a mark, or what may be a fun?
bool open_tuple(const TermView& tuple);       // its end may have been left out
bool maybe_cut_binary(const TermView& term);  // may be a prefix only
bool uncertain(const TermView& term);         // anything of these inside

enum class Relation : std::uint8_t { less, equal, greater, different, unknown };
// Erlang's order; `different`: not equal, but which is less is not known here (pids, funs, maps). `exact`: =:=, else ==.
Relation compare(const TermView& a, const TermView& b, bool exact, bool cut);

// =:=, as far as it is known.
Verdict same(const TermView& a, const TermView& b, bool cut);

struct Value {
  enum class Kind : std::uint8_t { failed, unknown, term, integer, real, boolean, rest };
  Kind kind = Kind::unknown;
  bool truth = false;
  std::int64_t integer = 0;
  double real = 0;
  TermView term{};         // of term; of numbers and booleans, too, if they are in one
  codec::ListView rest{};  // the tail of a list, of at least one item

  static Value failed() { return {.kind = Kind::failed}; }
  static Value unknown() { return {}; }
  static Value of(bool b) { return {.kind = Kind::boolean, .truth = b}; }
  static Value of(std::int64_t i) { return {.kind = Kind::integer, .integer = i}; }
  static Value of(double d) { return {.kind = Kind::real, .real = d}; }
  static Value tail(codec::ListView list) { return {.kind = Kind::rest, .rest = list}; }
  // Numbers and booleans as such. `cut`: the mark is unknown.
  static Value of(const TermView& term, bool cut);

  bool decided() const { return kind != Kind::failed && kind != Kind::unknown; }
  bool number() const { return kind == Kind::integer || kind == Kind::real; }
};

// Memory for terms that are made on the way; and the steps left.
class Work {
 public:
  explicit Work(bool is_cut) : cut(is_cut) {}
  const bool cut;

  bool step(std::size_t n = 1) { return n > steps_ ? (steps_ = 0, false) : (steps_ -= n, true); }
  bool exhausted() const { return steps_ == 0; }
  // The value as a term. REQUIRES decided(). nullopt: too large.
  std::optional<TermView> term(const Value& value);
  std::optional<TermView> keep(codec::TermBuilder built);

 private:
  std::vector<codec::TermBuilder> built_;
  std::size_t bytes_ = 0, steps_ = MatchSpec::kMaxSteps;
};

TermView nil();
void write(codec::TermBuilder& out, const Value& value);  // REQUIRES decided()

}  // namespace scope::analysis::match
