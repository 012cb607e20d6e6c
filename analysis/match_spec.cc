#include "analysis/match_spec.h"

#include <algorithm>
#include <map>

#include "analysis/match_guard.h"
#include "ei_codec/term_print.h"

namespace scope::analysis {

using codec::EventType;
using codec::TermKind;
using codec::TermView;
using match::Value;
using match::Work;

namespace {

// A pattern in preorder; `next` is the place after a node and all below it.
struct Node {
  enum class Kind : std::uint8_t { any, bind, again, literal, tuple, list, map };
  Kind kind = Kind::any;
  bool tail = false;    // list: after its items comes a pattern for the tail
  std::uint32_t n = 0;  // slot; elements; items; pairs (each a literal key, then its value)
  std::uint32_t next = 0;
  TermView term;  // literal
};

std::unexpected<Error> wrong(const TermView& got, std::string hint, Code code = Code::bad_value) {
  return fail(code, std::move(hint), "match", codec::print(got, codec::Syntax::erlang, 200));
}

// Does the term hold what must be matched piece by piece: variables, or maps?
bool has_parts(const TermView& term) {
  if (term.is_atom("_") || match::variable(term) || term.map()) return true;
  auto items = term.kind() == TermKind::tuple ? term.elements() : term.list();
  if (!items || term.kind() == TermKind::string) return false;
  for (; !items->done(); items->next()) {
    if (has_parts(items->item())) return true;
  }
  const auto tail = items->tail();
  return tail && has_parts(*tail);
}

bool mentions(const TermView& term, bool (*what)(const TermView&)) {
  if (what(term)) return true;
  if (const auto map = term.map()) {
    for (auto it = *map; !it.done(); it.next()) {
      if (mentions(it.key(), what) || mentions(it.value(), what)) return true;
    }
    return false;
  }
  auto items = term.kind() == TermKind::tuple ? term.elements() : term.list();
  if (!items || term.kind() == TermKind::string) return false;
  for (; !items->done(); items->next()) {
    if (mentions(items->item(), what)) return true;
  }
  const auto tail = items->tail();
  return tail && mentions(*tail, what);
}

bool is_variable(const TermView& term) {
  return match::variable(term) || term.is_atom("$_") || term.is_atom("$$");
}

std::vector<TermView> items_of(const TermView& list) {
  std::vector<TermView> out;
  if (!list.list()) return out;
  auto it = *list.list();
  for (; !it.done(); it.next()) out.push_back(it.item());
  if (it.tail()) out.clear();
  return out;
}

// {Pattern, [Guard, ...]}; also one whose guards are wrong, if they mention the pattern's variables.
bool is_pair_clause(const TermView& term) {
  if (term.arity() != 2u) return false;
  const auto guards = items_of(term.element(1));
  if (guards.empty()) return false;
  if (std::ranges::all_of(guards, match::is_guard_call)) return true;
  const bool calls = std::ranges::all_of(guards, [](const TermView& g) {
    return g.arity().value_or(0) >= 2 && g.element(0).atom() && !is_variable(g.element(0));
  });
  return calls && mentions(term.element(0), is_variable) &&
         std::ranges::any_of(guards, [](const TermView& g) { return mentions(g, is_variable); });
}

// {Pattern, Guards, Body}, as in a list for ets or dbg.
bool is_full_clause(const TermView& term) {
  if (term.arity() != 3u || items_of(term.element(2)).empty()) return false;
  const auto guards = term.element(1);
  return guards.kind() == TermKind::nil || !items_of(guards).empty();
}

}  // namespace

struct MatchSpec::Clause {
  std::vector<Node> nodes;
  std::uint32_t slots = 0;
  std::vector<match::Expr> guards;

  using Vars = std::map<std::uint32_t, std::uint32_t>;
  Status compile(const TermView& pattern, const TermView* given, std::size_t& left);
  Status add(const TermView& term, std::size_t depth, Vars& vars, std::size_t& left);
  Verdict run(const Value& subject, Work& work) const;
};

namespace {

// One clause held against one term.
class Matcher {
 public:
  Matcher(std::span<const Node> nodes, std::vector<Value>& slots, Work& work)
      : nodes_(nodes), slots_(slots), work_(work) {}

  Verdict value(std::uint32_t at, const Value& v) {
    const Node& node = nodes_[at];
    if (node.kind == Node::Kind::any) return Verdict::yes;
    if (node.kind == Node::Kind::bind) {
      slots_[node.n] = v;
      return Verdict::yes;
    }
    if (!v.decided()) return give_up(at);
    const auto term = work_.term(v);
    return term ? match(at, *term) : give_up(at);
  }

 private:
  // Nothing is known of what the pattern from here on would have bound.
  Verdict give_up(std::uint32_t from, std::uint32_t until = 0) {
    if (until == 0) until = nodes_[from].next;
    for (; from < until; ++from) {
      if (nodes_[from].kind == Node::Kind::bind) slots_[nodes_[from].n] = Value::unknown();
    }
    return Verdict::unknown;
  }

  Verdict match(std::uint32_t at, const TermView& term) {
    const Node& node = nodes_[at];
    if (!work_.step()) return give_up(at);
    switch (node.kind) {
      case Node::Kind::any:
        return Verdict::yes;
      case Node::Kind::bind:
        slots_[node.n] = Value::of(term, work_.cut);
        return Verdict::yes;
      case Node::Kind::again: {
        const Value& bound = slots_[node.n];
        if (!bound.decided()) return Verdict::unknown;
        const auto other = work_.term(bound);
        return other ? match::same(term, *other, work_.cut) : Verdict::unknown;
      }
      case Node::Kind::literal:
        return match::same(term, node.term, work_.cut);
      default:
        break;
    }
    if (work_.cut && match::left_out(term)) return give_up(at);
    if (node.kind == Node::Kind::tuple) return tuple(at, term);
    if (node.kind == Node::Kind::list) return list(at, term);
    return map(at, term);
  }

  Verdict tuple(std::uint32_t at, const TermView& term) {
    const Node& node = nodes_[at];
    const auto arity = term.arity();
    if (!arity) return Verdict::no;
    const bool open = work_.cut && *arity > 0 && match::open_tuple(term);
    if (open ? node.n < *arity : node.n != *arity) return Verdict::no;
    Verdict all = Verdict::yes;
    std::uint32_t child = at + 1;
    std::uint32_t left = open ? *arity - 1 : *arity;
    for (auto it = *term.elements(); left > 0; it.next(), --left) {
      const Verdict v = match(child, it.item());
      if (v == Verdict::no) return v;
      if (v == Verdict::unknown) all = v;
      child = nodes_[child].next;
    }
    return open ? give_up(child, node.next) : all;
  }

  Verdict list(std::uint32_t at, const TermView& term) {
    const Node& node = nodes_[at];
    auto it = term.list();
    if (!it) return Verdict::no;
    Verdict all = Verdict::yes;
    std::uint32_t child = at + 1;
    const auto more_left_out = [&] {
      const auto tail = it->tail();
      return work_.cut && tail && match::left_out(*tail);
    };
    for (std::uint32_t i = 0; i < node.n; ++i) {
      if (it->done()) return more_left_out() ? give_up(child, node.next) : Verdict::no;
      const Verdict v = match(child, it->item());
      if (v == Verdict::no) return v;
      if (v == Verdict::unknown) all = v;
      child = nodes_[child].next;
      it->next();
    }
    if (!node.tail) {
      if (!it->done()) return Verdict::no;
      if (more_left_out()) return Verdict::unknown;
      return it->tail() ? Verdict::no : all;
    }
    const auto tail = it->done() ? it->tail() : std::nullopt;
    const Verdict v = value(child, !it->done() ? Value::tail(*it)
                                   : tail      ? Value::of(*tail, work_.cut)
                                               : Value::of(match::nil(), false));
    return v == Verdict::yes ? all : v;
  }

  Verdict map(std::uint32_t at, const TermView& term) {
    const Node& node = nodes_[at];
    const auto pairs = term.map();
    if (!pairs) return Verdict::no;
    Verdict all = Verdict::yes;
    std::uint32_t key = at + 1;
    for (std::uint32_t i = 0; i < node.n; ++i) {
      const std::uint32_t child = key + 1;
      auto it = *pairs;
      for (; !it.done(); it.next()) {
        if (!work_.step()) return give_up(child, node.next);
        if (match::same(it.key(), nodes_[key].term, work_.cut) == Verdict::yes) break;
      }
      if (it.done()) {
        if (!work_.cut || !match::uncertain(term)) return Verdict::no;
        all = give_up(child);
      } else {
        const Verdict v = match(child, it.value());
        if (v == Verdict::no) return v;
        if (v == Verdict::unknown) all = v;
      }
      key = nodes_[child].next;
    }
    return all;
  }

  std::span<const Node> nodes_;
  std::vector<Value>& slots_;
  Work& work_;
};

}  // namespace

MatchSpec::MatchSpec() = default;
MatchSpec::~MatchSpec() = default;

Status MatchSpec::Clause::add(const TermView& term, std::size_t depth, Vars& vars,
                              std::size_t& left) {
  if (left-- == 0 || depth > kMaxPatternDepth) {
    left = 1;
    return fail(Code::too_large, "the pattern is too large or too deep", "match");
  }
  const auto at = nodes.size();
  nodes.emplace_back();
  using Kind = Node::Kind;
  const auto number = match::variable(term);
  if (term.is_atom("_")) {
    nodes[at].kind = Kind::any;
  } else if (number) {
    const auto [slot, fresh] = vars.emplace(*number, slots);
    if (fresh) ++slots;
    nodes[at].kind = fresh ? Kind::bind : Kind::again;
    nodes[at].n = slot->second;
  } else if (!has_parts(term)) {
    nodes[at].kind = Kind::literal;
    nodes[at].term = term;
  } else if (const auto pairs = term.map()) {
    nodes[at].kind = Kind::map;
    nodes[at].n = pairs->left();
    for (auto it = *pairs; !it.done(); it.next()) {
      if (it.key().is_atom("_") || match::variable(it.key())) {
        return wrong(term, "a map's keys are literal; a variable is not possible there");
      }
      if (left-- == 0) return fail(Code::too_large, "the pattern is too large", "match");
      auto& key = nodes.emplace_back();
      key.kind = Kind::literal;
      key.term = it.key();
      key.next = static_cast<std::uint32_t>(nodes.size());
      RETURN_IF_ERROR(add(it.value(), depth + 1, vars, left));
    }
  } else if (const auto arity = term.arity()) {
    nodes[at].kind = Kind::tuple;
    nodes[at].n = *arity;
    for (auto it = *term.elements(); !it.done(); it.next()) {
      RETURN_IF_ERROR(add(it.item(), depth + 1, vars, left));
    }
  } else {
    nodes[at].kind = Kind::list;
    auto it = *term.list();
    std::uint32_t items = 0;
    for (; !it.done(); it.next(), ++items) RETURN_IF_ERROR(add(it.item(), depth + 1, vars, left));
    nodes[at].n = items;
    if (const auto tail = it.tail()) {
      nodes[at].tail = true;
      RETURN_IF_ERROR(add(*tail, depth + 1, vars, left));
    }
  }
  nodes[at].next = static_cast<std::uint32_t>(nodes.size());
  return {};
}

Status MatchSpec::Clause::compile(const TermView& pattern, const TermView* given,
                                  std::size_t& left) {
  Vars vars;
  RETURN_IF_ERROR(add(pattern, 0, vars, left));
  if (given == nullptr) return {};
  for (const auto& guard : items_of(*given)) {
    match::Expr expr;
    ASSIGN_OR_RETURN(expr, match::compile_guard(guard, vars, 0, left));
    guards.push_back(std::move(expr));
  }
  return {};
}

Result<std::shared_ptr<const MatchSpec>> MatchSpec::compile(const TermView& match) {
  const auto bytes = match.bytes();
  if (bytes.size() > kMaxBytes) return wrong(match, "at most 64 KB", Code::too_large);
  const std::shared_ptr<MatchSpec> out(new MatchSpec());
  out->bytes_.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto own =
      TermView::unchecked(reinterpret_cast<const std::byte*>(out->bytes_.data()), match.strings());
  std::size_t left = kMaxNodes;
  const auto add = [&](const TermView& pattern, const TermView* guards) {
    return out->clauses_.emplace_back().compile(pattern, guards, left);
  };
  const auto clauses = items_of(own);
  const bool list = !clauses.empty() && std::ranges::all_of(clauses, [](const TermView& c) {
    return is_pair_clause(c) || is_full_clause(c);
  });
  if (list) {
    for (const auto& clause : clauses) {
      const TermView guards = clause.element(1);
      RETURN_IF_ERROR(add(clause.element(0), &guards));
    }
  } else if (is_pair_clause(own)) {
    const TermView guards = own.element(1);
    RETURN_IF_ERROR(add(own.element(0), &guards));
  } else {
    RETURN_IF_ERROR(add(own, nullptr));
  }
  return out;
}

Verdict MatchSpec::Clause::run(const Value& subject, Work& work) const {
  std::vector<Value> bound(slots);
  Verdict verdict = Matcher(nodes, bound, work).value(0, subject);
  for (const auto& guard : guards) {
    if (verdict == Verdict::no) return verdict;
    const Value value = match::evaluate(guard, {bound, subject}, work);
    if (value.kind == Value::Kind::unknown) {
      verdict = Verdict::unknown;
    } else if (value.kind != Value::Kind::boolean || !value.truth) {
      return Verdict::no;
    }
  }
  return verdict;
}

Verdict MatchSpec::matches(const TermView& term, bool cut) const {
  Work work(cut);
  Verdict best = Verdict::no;
  for (const auto& clause : clauses_) {
    const Verdict v = clause.run(Value::of(term, cut), work);
    if (v == Verdict::yes) return v;
    if (v == Verdict::unknown) best = v;
  }
  return best;
}

Verdict MatchSpec::matches(const codec::TraceRecord& record) const {
  if (!has_subject(record.type)) return Verdict::no;
  if (const auto term = subject(record)) {
    return matches(*term, record.has(codec::TraceRecord::kTruncated) ||
                              record.has(codec::TraceRecord::kRedacted));
  }
  Work work(true);
  Verdict best = Verdict::no;
  for (const auto& clause : clauses_) {
    const Verdict v = clause.run(Value::unknown(), work);
    if (v == Verdict::yes) return v;
    if (v == Verdict::unknown) best = v;
  }
  return best;
}

bool has_subject(EventType type) {
  return type != EventType::process_link && type != EventType::process_unlink &&
         type != EventType::gap;
}

std::optional<TermView> subject(const codec::TraceRecord& record) {
  if (record.payload.empty() || !has_subject(record.type)) return std::nullopt;
  const TermView term = record.term();
  if (record.type == EventType::function_exception && term.arity() == 2u) return term.element(1);
  return term;
}

}  // namespace scope::analysis
