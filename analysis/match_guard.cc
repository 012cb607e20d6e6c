// Compiling guards. What they come to: match_eval.cc.
#include "analysis/match_guard.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "analysis/match_op.h"
#include "ei_codec/base/nearest.h"
#include "ei_codec/term_print.h"

namespace scope::analysis::match {

using codec::TermKind;

namespace {

struct Guard {
  std::string_view name;
  std::uint32_t least, most;
};
constexpr Guard kGuards[] = {
#define SCOPE_ROW(id, name, least, most) {name, least, most},
    SCOPE_GUARDS(SCOPE_ROW)
#undef SCOPE_ROW
};

const Guard* find_guard(std::string_view name) {
  const auto it = std::ranges::find(kGuards, name, &Guard::name);
  return it == std::end(kGuards) ? nullptr : it;
}

std::unexpected<Error> wrong(const TermView& got, std::string hint) {
  return fail(Code::bad_value, std::move(hint), "match",
              codec::print(got, codec::Syntax::erlang, 200));
}

Result<Expr> compile_call(const TermView& term, const std::map<std::uint32_t, std::uint32_t>& vars,
                          std::size_t depth, std::size_t& nodes);

}  // namespace

std::optional<std::uint32_t> variable(const TermView& term) {
  const auto text = term.atom();
  if (!text || text->size() < 2 || text->size() > 9 || text->front() != '$') return std::nullopt;
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(text->data() + 1, text->data() + text->size(), number);
  if (error != std::errc{} || end != text->data() + text->size()) return std::nullopt;
  if ((*text)[1] == '0' && text->size() > 2) return std::nullopt;
  return number;
}

bool is_guard_call(const TermView& term) {
  const auto arity = term.arity();
  if (!arity || *arity < 2 || !term.element(0).atom()) return false;
  const auto* guard = find_guard(*term.element(0).atom());
  return guard != nullptr && *arity - 1 >= guard->least && *arity - 1 <= guard->most;
}

Result<Expr> compile_guard(const TermView& term, const std::map<std::uint32_t, std::uint32_t>& vars,
                           std::size_t depth, std::size_t& nodes) {
  if (nodes-- == 0 || depth > MatchSpec::kMaxPatternDepth) {
    nodes = 1;
    return fail(Code::too_large, "the guards are too many or too deep", "match");
  }
  Expr out;
  bool constant = true;  // means what it says: nothing inside is to be computed, nor {const, _}
  const auto add = [&](const TermView& item) -> Status {
    Expr arg;
    ASSIGN_OR_RETURN(arg, compile_guard(item, vars, depth + 1, nodes));
    constant = constant && arg.kind == Expr::Kind::literal && arg.term.start() == item.start();
    out.args.push_back(std::move(arg));
    return {};
  };
  switch (term.kind()) {
    case TermKind::atom:
      if (term.is_atom("$_")) {
        out.kind = Expr::Kind::whole;
      } else if (term.is_atom("$$")) {
        out.kind = Expr::Kind::all;
        for (const auto& [number, slot] : vars) {
          out.args.emplace_back().kind = Expr::Kind::slot;
          out.args.back().slot = slot;
        }
      } else if (const auto number = variable(term)) {
        const auto slot = vars.find(*number);
        if (slot == vars.end()) return wrong(term, "this variable is not in the pattern");
        out.kind = Expr::Kind::slot;
        out.slot = slot->second;
      }
      break;
    case TermKind::tuple:
      return compile_call(term, vars, depth, nodes);
    case TermKind::list: {
      out.kind = Expr::Kind::list;
      auto it = *term.list();
      for (; !it.done(); it.next()) RETURN_IF_ERROR(add(it.item()));
      if (const auto tail = it.tail()) {
        out.tail = true;
        RETURN_IF_ERROR(add(*tail));
      }
      break;
    }
    case TermKind::map:
      out.kind = Expr::Kind::map;
      for (auto it = *term.map(); !it.done(); it.next()) {
        RETURN_IF_ERROR(add(it.key()));
        RETURN_IF_ERROR(add(it.value()));
      }
      break;
    default:
      break;
  }
  if (out.kind == Expr::Kind::literal ||
      ((out.kind == Expr::Kind::list || out.kind == Expr::Kind::map) && constant)) {
    out = Expr{};
    out.term = term;
  }
  return out;
}

namespace {

Result<Expr> compile_call(const TermView& term, const std::map<std::uint32_t, std::uint32_t>& vars,
                          std::size_t depth, std::size_t& nodes) {
  Expr out;
  const auto arity = *term.arity();
  if (term.is_tuple("const", 2)) {
    out.term = term.element(1);
    return out;
  }
  codec::ListView args;
  if (arity == 1 && term.element(0).kind() == TermKind::tuple) {  // {{A, B}} makes {A, B}
    out.kind = Expr::Kind::tuple;
    args = *term.element(0).elements();
  } else {
    const auto name = arity > 0 ? term.element(0).atom() : std::nullopt;
    if (!name)
      return wrong(term, "a guard is {Function, Argument, ...}; a tuple is written {{...}}");
    const auto* guard = find_guard(*name);
    if (guard == nullptr) {
      std::vector<std::string_view> names;
      for (const auto& g : kGuards) names.push_back(g.name);
      const auto near = nearest(*name, names);
      return wrong(term, near.empty()
                             ? fmt::format("no guard function {}", *name)
                             : fmt::format("no guard function {}; did you mean {}?", *name, near));
    }
    if (arity - 1 < guard->least || arity - 1 > guard->most) {
      return wrong(
          term, guard->least == guard->most
                    ? fmt::format("{} takes {} argument(s)", *name, guard->least)
                    : fmt::format("{} takes {} to {} arguments", *name, guard->least, guard->most));
    }
    out.kind = Expr::Kind::call;
    out.op = static_cast<Op>(guard - kGuards);
    args = *term.elements();
    args.next();
  }
  for (; !args.done(); args.next()) {
    Expr arg;
    ASSIGN_OR_RETURN(arg, compile_guard(args.item(), vars, depth + 1, nodes));
    out.args.push_back(std::move(arg));
  }
  return out;
}

}  // namespace

}  // namespace scope::analysis::match
