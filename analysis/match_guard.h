// Guards of a match specification: the table of functions, compiled expressions, evaluation. For match_spec.cc.
#pragma once

#include <map>
#include <vector>

#include "analysis/match_value.h"

namespace scope::analysis::match {

enum class Op : std::uint8_t;

struct Expr {
  enum class Kind : std::uint8_t { literal, slot, whole, all, tuple, list, map, call };
  Kind kind = Kind::literal;
  Op op{};
  bool tail = false;  // list: the last of `args` is its tail
  std::uint32_t slot = 0;
  TermView term;           // literal
  std::vector<Expr> args;  // of a map: key, value, key, value, ...
};

// Is it {Name, Arg...} of the table, with that many arguments?
bool is_guard_call(const TermView& term);
// Variables by number -> slot. `nodes` counts down; errors: bad_value (field match), too_large.
Result<Expr> compile_guard(const TermView& term, const std::map<std::uint32_t, std::uint32_t>& vars,
                           std::size_t depth, std::size_t& nodes);

struct Bindings {
  std::vector<Value>& slots;
  const Value& whole;  // '$_'
};
Value evaluate(const Expr& expr, const Bindings& bindings, Work& work);

// '$12' -> 12
std::optional<std::uint32_t> variable(const TermView& term);

}  // namespace scope::analysis::match
