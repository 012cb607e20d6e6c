// What a guard's expressions come to, in three values.
#include <algorithm>
#include <cmath>

#include "analysis/match_guard.h"
#include "analysis/match_op.h"

namespace scope::analysis::match {

using codec::TermBuilder;
using codec::TermKind;
using Kind = Value::Kind;

namespace {

Value make(const Expr& expr, const Bindings& bindings, Work& work) {
  TermBuilder out;
  const auto n = static_cast<std::uint32_t>(expr.args.size());
  if (expr.kind == Expr::Kind::tuple) out.tuple(n);
  if (expr.kind == Expr::Kind::list || expr.kind == Expr::Kind::all) out.list(n - expr.tail);
  // A map's keys may come out equal; the last one counts.
  std::vector<std::pair<TermView, TermView>> pairs;
  for (std::uint32_t i = 0; i < n; ++i) {
    const Value value = evaluate(expr.args[i], bindings, work);
    if (!value.decided()) return value;
    if (expr.kind == Expr::Kind::map) {
      const auto term = work.term(value);
      if (!term) return Value::unknown();
      if (i % 2 == 0) {
        pairs.emplace_back(*term, *term);
      } else {
        pairs.back().second = *term;
        const auto same_key = [&](const auto& p) {
          return codec::equal(p.first, pairs.back().first);
        };
        const auto earlier = std::find_if(pairs.begin(), pairs.end() - 1, same_key);
        if (earlier != pairs.end() - 1) {
          earlier->second = pairs.back().second;
          pairs.pop_back();
        }
      }
    } else {
      write(out, value);
    }
    if (out.size() > kMaxScratch) return Value::unknown();
  }
  if (expr.kind == Expr::Kind::map) {
    out.map(static_cast<std::uint32_t>(pairs.size()));
    for (const auto& [key, value] : pairs) out.term(key).term(value);
  } else if (expr.kind != Expr::Kind::tuple && !expr.tail) {
    out.nil();
  }
  const auto term = work.keep(std::move(out));
  return term ? Value::of(*term, work.cut) : Value::unknown();
}

// and, or: every argument is looked at and must be boolean. andalso, orelse: only as far as needed, the last may be anything.
Value logical(const Expr& expr, const Bindings& bindings, Work& work) {
  const bool lazy = expr.op == Op::op_andalso || expr.op == Op::op_orelse;
  const bool neutral = expr.op == Op::op_and || expr.op == Op::op_andalso;
  bool result = neutral, open = false;
  for (std::size_t i = 0; i < expr.args.size(); ++i) {
    const Value value = evaluate(expr.args[i], bindings, work);
    if (value.kind == Kind::failed) return open && lazy ? Value::unknown() : value;
    if (value.kind == Kind::unknown) {
      open = true;
      continue;
    }
    if (lazy && i + 1 == expr.args.size() && !open) return value;
    if (value.kind != Kind::boolean) return open && lazy ? Value::unknown() : Value::failed();
    if (value.truth != neutral) {
      result = value.truth;
      if (lazy && !open) return value;
    }
  }
  return open ? Value::unknown() : Value::of(result);
}

Value compared(Op op, const Value& a, const Value& b, Work& work) {
  const bool exact = op == Op::same || op == Op::not_same;
  Relation r;
  if (a.kind == Kind::integer && b.kind == Kind::integer) {
    r = a.integer < b.integer   ? Relation::less
        : b.integer < a.integer ? Relation::greater
                                : Relation::equal;
  } else {
    const auto x = work.term(a), y = work.term(b);
    if (!x || !y) return Value::unknown();
    r = compare(*x, *y, exact, work.cut);
  }
  if (r == Relation::unknown) return Value::unknown();
  switch (op) {
    case Op::equal:
    case Op::same:
      return Value::of(r == Relation::equal);
    case Op::not_equal:
    case Op::not_same:
      return Value::of(r != Relation::equal);
    default:
      break;
  }
  if (r == Relation::different) return Value::unknown();
  const bool equal = r == Relation::equal, less = r == Relation::less;
  switch (op) {
    case Op::less:
      return Value::of(less);
    case Op::less_equal:
      return Value::of(less || equal);
    case Op::greater:
      return Value::of(!less && !equal);
    default:
      return Value::of(!less);
  }
}

bool big(const Value& v) { return v.kind == Kind::term && v.term.kind() == TermKind::big; }

// A result that does not fit is not known; a double that overflows is an exception.
Value arithmetic(Op op, const Value& a, const Value& b) {
  const bool known_a = a.number() || big(a), known_b = b.number() || big(b);
  if (!known_a || !known_b) return Value::failed();
  if (big(a) || big(b)) return Value::unknown();
  const bool integers = a.kind == Kind::integer && b.kind == Kind::integer;
  std::int64_t i = 0;
  const std::int64_t x = a.integer, y = b.integer;
  const auto whole = [&](bool overflow) { return overflow ? Value::unknown() : Value::of(i); };
  switch (op) {
    case Op::plus:
      if (integers) return whole(__builtin_add_overflow(x, y, &i));
      break;
    case Op::minus:
      if (integers) return whole(__builtin_sub_overflow(x, y, &i));
      break;
    case Op::times:
      if (integers) return whole(__builtin_mul_overflow(x, y, &i));
      break;
    case Op::divide:
      break;
    default: {
      if (!integers) return Value::failed();
      if (op == Op::band) return Value::of(x & y);
      if (op == Op::bor) return Value::of(x | y);
      if (op == Op::bxor) return Value::of(x ^ y);
      if (op == Op::div || op == Op::rem) {
        if (y == 0) return Value::failed();
        if (y == -1)
          return op == Op::rem ? Value::of(std::int64_t{0})
                               : whole(__builtin_sub_overflow(std::int64_t{0}, x, &i));
        return Value::of(op == Op::div ? x / y : x % y);
      }
      const std::int64_t left = op == Op::bsl ? y : (y == INT64_MIN ? INT64_MAX : -y);
      if (left <= -64) return Value::of(std::int64_t{x < 0 ? -1 : 0});
      if (left <= 0) return Value::of(x >> -left);
      if (x == 0) return Value::of(std::int64_t{0});
      if (left > 62) return Value::unknown();
      return whole(__builtin_mul_overflow(x, std::int64_t{1} << left, &i));
    }
  }
  const auto real = [](const Value& v) {
    return v.kind == Kind::real ? v.real : static_cast<double>(v.integer);
  };
  const double p = real(a), q = real(b);
  if (op == Op::divide && q == 0) return Value::failed();
  const double d = op == Op::plus    ? p + q
                   : op == Op::minus ? p - q
                   : op == Op::times ? p * q
                                     : p / q;
  return std::isfinite(d) ? Value::of(d) : Value::failed();
}

Value unary(Op op, const Value& v) {
  if (big(v)) return op == Op::plus ? v : Value::unknown();
  if (!v.number()) return Value::failed();
  const bool integer = v.kind == Kind::integer;
  switch (op) {
    case Op::plus:
      return v;
    case Op::minus:
      return integer ? arithmetic(Op::minus, Value::of(std::int64_t{0}), v) : Value::of(-v.real);
    case Op::bnot:
      return integer ? Value::of(~v.integer) : Value::failed();
    case Op::abs:
      if (!integer) return Value::of(std::abs(v.real));
      return v.integer < 0 ? arithmetic(Op::minus, Value::of(std::int64_t{0}), v) : v;
    case Op::to_float:
      return integer ? Value::of(static_cast<double>(v.integer)) : v;
    default: {  // round, trunc
      if (integer) return v;
      const double d = op == Op::round ? std::round(v.real) : std::trunc(v.real);
      return std::abs(d) < 0x1p63 ? Value::of(static_cast<std::int64_t>(d)) : Value::unknown();
    }
  }
}

std::optional<codec::ListView> list_of(const Value& v) {
  if (v.kind == Kind::rest) return v.rest;
  return v.kind == Kind::term ? v.term.list() : std::nullopt;
}

Value list_function(Op op, const Value& v, Work& work) {
  auto list = list_of(v);
  if (!list) return Value::failed();
  if (op == Op::length) {
    std::int64_t n = 0;
    for (; !list->done(); list->next()) {
      if (!work.step()) return Value::unknown();
      ++n;
    }
    const auto tail = list->tail();
    if (tail) return work.cut && left_out(*tail) ? Value::unknown() : Value::failed();
    return Value::of(n);
  }
  if (list->done()) return Value::failed();
  if (op == Op::hd) return Value::of(list->item(), work.cut);
  list->next();
  if (!list->done()) return Value::tail(*list);
  const auto tail = list->tail();
  return tail ? Value::of(*tail, work.cut) : Value::of(nil(), false);
}

Value size_of(Op op, const Value& v, bool cut) {
  if (v.kind != Kind::term) return Value::failed();
  const auto number = [](std::uint64_t n) { return Value::of(static_cast<std::int64_t>(n)); };
  if (const auto arity = v.term.arity(); arity && (op == Op::size || op == Op::tuple_size)) {
    return cut && open_tuple(v.term) ? Value::unknown() : number(*arity);
  }
  if (const auto map = v.term.map(); map && op == Op::map_size) {
    return cut && uncertain(v.term) ? Value::unknown() : number(map->left());
  }
  const auto bits = v.term.bitstring();
  if (!bits || op == Op::tuple_size || op == Op::map_size) return Value::failed();
  if (cut && maybe_cut_binary(v.term)) return Value::unknown();
  if (op == Op::bit_size) return number(bits->bits);
  return number(op == Op::size ? bits->bits / 8 : (bits->bits + 7) / 8);
}

Value element(const Value& index, const Value& tuple, bool cut) {
  const auto arity = tuple.kind == Kind::term ? tuple.term.arity() : std::nullopt;
  if (!arity || index.kind != Kind::integer || index.integer < 1) return Value::failed();
  const bool open = cut && open_tuple(tuple.term);
  if (open && index.integer >= *arity) return Value::unknown();
  if (index.integer > *arity) return Value::failed();
  return Value::of(tuple.term.element(static_cast<std::uint32_t>(index.integer - 1)), cut);
}

Value from_map(Op op, const Value& key, const Value& map, Work& work) {
  const auto pairs = map.kind == Kind::term ? map.term.map() : std::nullopt;
  if (!pairs) return Value::failed();
  const auto wanted = work.term(key);
  if (!wanted) return Value::unknown();
  for (auto it = *pairs; !it.done(); it.next()) {
    if (!work.step()) return Value::unknown();
    if (same(it.key(), *wanted, work.cut) != Verdict::yes) continue;
    return op == Op::map_get ? Value::of(it.value(), work.cut) : Value::of(true);
  }
  if (work.cut && uncertain(map.term)) return Value::unknown();
  return op == Op::map_get ? Value::failed() : Value::of(false);
}

Value node_of(const Value& v, Work& work) {
  if (v.kind != Kind::term) return Value::failed();
  std::string_view node;
  if (const auto pid = v.term.pid()) {
    node = pid->node;
  } else if (const auto ref = v.term.reference()) {
    node = ref->node;
  } else if (const auto port = v.term.port()) {
    node = port->node;
  } else {
    return Value::failed();
  }
  TermBuilder out;
  out.atom(node);
  const auto term = work.keep(std::move(out));
  return term ? Value::of(*term, false) : Value::unknown();
}

Value part(const Value& bin, const Value& start, const Value& length, Work& work) {
  const auto bytes = bin.kind == Kind::term ? bin.term.binary() : std::nullopt;
  if (!bytes || start.kind != Kind::integer || length.kind != Kind::integer) return Value::failed();
  const auto size = static_cast<std::int64_t>(bytes->size());
  std::int64_t from = start.integer, n = length.integer;
  if (n < 0 && n > -(std::int64_t{1} << 40)) from += n, n = -n;
  if (from < 0 || n < 0) return Value::failed();
  if (from > size || n > size - from) {
    return work.cut && maybe_cut_binary(bin.term) ? Value::unknown() : Value::failed();
  }
  TermBuilder out;
  out.binary(bytes->subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(n)));
  const auto term = work.keep(std::move(out));
  return term ? Value::of(*term, false) : Value::unknown();
}

Value type_test(Op op, const Value& v) {
  const auto kind = v.kind == Kind::term ? v.term.kind() : TermKind::nil;
  const bool term = v.kind == Kind::term, is_big = big(v);
  switch (op) {
    case Op::is_atom:
      return Value::of(v.kind == Kind::boolean || (term && kind == TermKind::atom));
    case Op::is_boolean:
      return Value::of(v.kind == Kind::boolean);
    case Op::is_float:
      return Value::of(v.kind == Kind::real);
    case Op::is_integer:
      return Value::of(v.kind == Kind::integer || is_big);
    case Op::is_number:
      return Value::of(v.number() || is_big);
    case Op::is_list:
      return Value::of(list_of(v).has_value());
    case Op::is_pid:
      return Value::of(term && kind == TermKind::pid);
    case Op::is_port:
      return Value::of(term && kind == TermKind::port);
    case Op::is_reference:
      return Value::of(term && kind == TermKind::reference);
    case Op::is_tuple:
      return Value::of(term && kind == TermKind::tuple);
    case Op::is_map:
      return Value::of(term && kind == TermKind::map);
    case Op::is_binary:
      return Value::of(term && kind == TermKind::binary);
    case Op::is_bitstring:
      return Value::of(term && (kind == TermKind::binary || kind == TermKind::bitstring));
    default:
      return Value::of(term && (kind == TermKind::fun || kind == TermKind::export_fun));
  }
}

Value record_test(const Value& v, const Value& tag, const Value& size, bool cut) {
  const auto arity = v.kind == Kind::term ? v.term.arity() : std::nullopt;
  if (!arity || size.kind != Kind::integer || size.integer < 1) return Value::of(false);
  if (!(tag.kind == Kind::boolean || (tag.kind == Kind::term && tag.term.atom())))
    return Value::of(false);
  const bool open = cut && open_tuple(v.term);
  if (open ? size.integer < *arity : size.integer != *arity) return Value::of(false);
  const auto text = tag.kind == Kind::boolean ? (tag.truth ? "true" : "false") : *tag.term.atom();
  if (*arity > (open ? 1 : 0)) {
    const auto first = v.term.element(0);
    if (cut && left_out(first)) return Value::unknown();
    if (!first.is_atom(text)) return Value::of(false);
  }
  return open ? Value::unknown() : Value::of(true);
}

Value call(const Expr& expr, const Bindings& bindings, Work& work) {
  Value args[3];
  for (std::size_t i = 0; i < expr.args.size() && i < 3; ++i) {
    args[i] = evaluate(expr.args[i], bindings, work);
    if (args[i].kind == Kind::failed) return args[i];
  }
  for (std::size_t i = 0; i < expr.args.size() && i < 3; ++i) {
    if (args[i].kind == Kind::unknown) return args[i];
  }
  const Op op = expr.op;
  switch (op) {
    case Op::op_xor:
      if (args[0].kind != Kind::boolean || args[1].kind != Kind::boolean) return Value::failed();
      return Value::of(args[0].truth != args[1].truth);
    case Op::op_not:
      return args[0].kind == Kind::boolean ? Value::of(!args[0].truth) : Value::failed();
    case Op::less:
    case Op::less_equal:
    case Op::greater:
    case Op::greater_equal:
    case Op::equal:
    case Op::not_equal:
    case Op::same:
    case Op::not_same:
      return compared(op, args[0], args[1], work);
    case Op::plus:
    case Op::minus:
      if (expr.args.size() == 1) return unary(op, args[0]);
      return arithmetic(op, args[0], args[1]);
    case Op::times:
    case Op::divide:
    case Op::div:
    case Op::rem:
    case Op::band:
    case Op::bor:
    case Op::bxor:
    case Op::bsl:
    case Op::bsr:
      return arithmetic(op, args[0], args[1]);
    case Op::bnot:
    case Op::abs:
    case Op::round:
    case Op::trunc:
    case Op::to_float:
      return unary(op, args[0]);
    case Op::hd:
    case Op::tl:
    case Op::length:
      return list_function(op, args[0], work);
    case Op::size:
    case Op::tuple_size:
    case Op::byte_size:
    case Op::bit_size:
    case Op::map_size:
      return size_of(op, args[0], work.cut);
    case Op::element:
      return element(args[0], args[1], work.cut);
    case Op::map_get:
    case Op::is_map_key:
      return from_map(op, args[0], args[1], work);
    case Op::node:
      return node_of(args[0], work);
    case Op::binary_part:
      return part(args[0], args[1], args[2], work);
    case Op::is_record:
      return record_test(args[0], args[1], args[2], work.cut);
    default:
      return type_test(op, args[0]);
  }
}

}  // namespace

Value evaluate(const Expr& expr, const Bindings& bindings, Work& work) {
  if (!work.step()) return Value::unknown();
  switch (expr.kind) {
    case Expr::Kind::literal:
      return Value::of(expr.term, false);
    case Expr::Kind::slot:
      return bindings.slots[expr.slot];
    case Expr::Kind::whole:
      return bindings.whole;
    case Expr::Kind::call:
      if (expr.op == Op::op_and || expr.op == Op::op_or || expr.op == Op::op_andalso ||
          expr.op == Op::op_orelse) {
        return logical(expr, bindings, work);
      }
      return call(expr, bindings, work);
    default:
      return make(expr, bindings, work);
  }
}

}  // namespace scope::analysis::match
