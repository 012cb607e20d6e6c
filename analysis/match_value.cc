#include "analysis/match_value.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace scope::analysis::match {
namespace {

using codec::ListView;
using codec::TermBuilder;
using codec::TermKind;

constexpr std::byte kNil[] = {std::byte{106}};

bool is_integer(TermKind kind) { return kind == TermKind::integer || kind == TermKind::big; }
bool is_number(TermKind kind) { return is_integer(kind) || kind == TermKind::real; }

// number < atom < reference < fun < port < pid < tuple < map < nil < list < bitstring
int rank(TermKind kind) {
  switch (kind) {
    case TermKind::integer:
    case TermKind::big:
    case TermKind::real:
      return 0;
    case TermKind::atom:
      return 1;
    case TermKind::reference:
      return 2;
    case TermKind::fun:
    case TermKind::export_fun:
      return 3;
    case TermKind::port:
      return 4;
    case TermKind::pid:
      return 5;
    case TermKind::tuple:
      return 6;
    case TermKind::map:
      return 7;
    case TermKind::nil:
      return 8;
    case TermKind::list:
    case TermKind::string:
      return 9;
    case TermKind::binary:
    case TermKind::bitstring:
      return 10;
    case TermKind::record:
      return 11;
  }
  return 12;
}

template <typename T>
Relation relation(const T& a, const T& b) {
  return a < b ? Relation::less : b < a ? Relation::greater : Relation::equal;
}

Relation opposite(Relation r) {
  return r == Relation::less ? Relation::greater : r == Relation::greater ? Relation::less : r;
}

Relation compare_big(const TermView& a, const TermView& b) {
  const auto i = a.integer(), j = b.integer();
  if (i && j) return relation(*i, *j);
  const auto p = a.big(), q = b.big();
  // Only one beyond 64 bits: its sign decides.
  if (i) return q->negative ? Relation::greater : Relation::less;
  if (j) return p->negative ? Relation::less : Relation::greater;
  if (p->negative != q->negative) return p->negative ? Relation::less : Relation::greater;
  Relation size = relation(p->magnitude.size(), q->magnitude.size());
  for (std::size_t k = p->magnitude.size(); size == Relation::equal && k-- > 0;) {
    size = relation(p->magnitude[k], q->magnitude[k]);
  }
  return p->negative ? opposite(size) : size;
}

Relation compare_integer_real(const TermView& a, double b) {
  if (const auto i = a.integer()) {
    return relation(static_cast<long double>(*i), static_cast<long double>(b));
  }
  const auto big = *a.big();
  if (std::abs(b) < 0x1p63) return big.negative ? Relation::less : Relation::greater;
  // By magnitude: exponents first; what would need the exact digits is left open.
  const int exponent = std::ilogb(b);
  const auto top = std::to_integer<unsigned>(big.magnitude.back());
  const int bits = static_cast<int>(big.magnitude.size() * 8) - 1 - (__builtin_clz(top) - 24);
  if (big.negative != (b < 0)) return big.negative ? Relation::less : Relation::greater;
  if (bits == exponent) return Relation::unknown;
  return (bits < exponent) != big.negative ? Relation::less : Relation::greater;
}

Relation compare_numbers(const TermView& a, const TermView& b, bool exact) {
  const bool x = is_integer(a.kind()), y = is_integer(b.kind());
  if (x && y) return compare_big(a, b);
  Relation r;
  if (x) {
    r = compare_integer_real(a, *b.real());
  } else if (y) {
    r = opposite(compare_integer_real(b, *a.real()));
  } else {
    const double p = *a.real(), q = *b.real();
    if (exact && std::bit_cast<std::uint64_t>(p) == std::bit_cast<std::uint64_t>(q)) {
      return Relation::equal;
    }
    r = relation(p, q);
    return exact && r == Relation::equal ? Relation::different : r;
  }
  // 1 == 1.0, but not exactly.
  return exact && (r == Relation::equal || r == Relation::unknown) ? Relation::different : r;
}

Relation compare_bits(const TermView& a, const TermView& b, bool cut) {
  const auto p = *a.bitstring(), q = *b.bitstring();
  const bool open_a = cut && maybe_cut_binary(a), open_b = cut && maybe_cut_binary(b);
  const std::uint64_t common = std::min(p.bits, q.bits);
  const auto whole = static_cast<std::size_t>(common / 8);
  if (const int c = whole == 0 ? 0 : std::memcmp(p.bytes.data(), q.bytes.data(), whole); c != 0) {
    return c < 0 ? Relation::less : Relation::greater;
  }
  if (const auto left = static_cast<unsigned>(common % 8); left != 0) {
    const auto x = std::to_integer<unsigned>(p.bytes[whole]) >> (8 - left);
    const auto y = std::to_integer<unsigned>(q.bytes[whole]) >> (8 - left);
    if (x != y) return relation(x, y);
  }
  if ((open_a && p.bits <= q.bits) || (open_b && q.bits <= p.bits)) return Relation::unknown;
  return relation(p.bits, q.bits);
}

// Several parts in order: the first difference decides; after one that is not known, only `different` can be said.
class Parts {
 public:
  // False: no further part can change it.
  bool add(Relation r) {
    if (r == Relation::equal) return true;
    if (r == Relation::unknown) {
      open_ = true;
      return true;
    }
    result_ = open_ ? Relation::different : r;
    return false;
  }
  void open() { open_ = true; }
  Relation result() const {
    return result_ == Relation::equal && open_ ? Relation::unknown : result_;
  }

 private:
  Relation result_ = Relation::equal;
  bool open_ = false;
};

Relation compare_tuples(const TermView& a, const TermView& b, bool exact, bool cut) {
  const auto n = *a.arity(), m = *b.arity();
  const bool open_a = cut && open_tuple(a), open_b = cut && open_tuple(b);
  if (!open_a && !open_b && n != m) return relation(n, m);
  if (open_a && !open_b && m < n) return Relation::greater;
  if (open_b && !open_a && n < m) return Relation::less;
  Parts parts;
  if (open_a || open_b) parts.open();
  auto x = *a.elements(), y = *b.elements();
  for (; !x.done() && !y.done(); x.next(), y.next()) {
    if (!parts.add(compare(x.item(), y.item(), exact, cut))) break;
  }
  return parts.result();
}

Relation compare_lists(const TermView& a, const TermView& b, bool exact, bool cut) {
  Parts parts;
  auto x = *a.list(), y = *b.list();
  for (; !x.done() && !y.done(); x.next(), y.next()) {
    if (!parts.add(compare(x.item(), y.item(), exact, cut))) return parts.result();
  }
  // What is left of each: a list of items, an improper tail, or nothing.
  const auto left = [](ListView& list) -> std::pair<int, std::optional<TermView>> {
    if (!list.done()) return {9, std::nullopt};
    const auto tail = list.tail();
    return tail ? std::pair(rank(tail->kind()), tail) : std::pair(8, std::nullopt);
  };
  const auto [p, s] = left(x);
  const auto [q, t] = left(y);
  if (cut && ((s && left_out(*s)) || (t && left_out(*t)))) {
    parts.open();
  } else if (s && t) {
    parts.add(compare(*s, *t, exact, cut));
  } else {
    parts.add(relation(p, q));
  }
  return parts.result();
}

Relation compare_maps(const TermView& a, const TermView& b, bool exact, bool cut) {
  const auto x = *a.map(), y = *b.map();
  if (cut && (uncertain(a) || uncertain(b))) return Relation::unknown;
  if (x.left() != y.left()) return relation(x.left(), y.left());
  if (codec::equal(a, b)) return Relation::equal;
  if (exact) return Relation::different;
  // Keys are compared exactly, values not: #{a => 1} == #{a => 1.0}.
  for (auto i = x; !i.done(); i.next()) {
    auto j = y;
    while (!j.done() && !codec::equal(i.key(), j.key())) j.next();
    if (j.done()) return Relation::different;
    const auto r = compare(i.value(), j.value(), false, cut);
    if (r == Relation::unknown) return r;
    if (r != Relation::equal) return Relation::different;
  }
  return Relation::equal;
}

}  // namespace

bool left_out(const TermView& term) {
  return term.is_atom("...") || term.is_tuple("$scope_redacted", 2) ||
         (term.is_tuple("fun", 3) && term.element(1).atom());
}

bool open_tuple(const TermView& tuple) {
  const auto arity = *tuple.arity();
  return arity > 0 && tuple.element(arity - 1).is_atom("...");
}

bool maybe_cut_binary(const TermView& term) {
  const auto bytes = term.binary();
  return bytes && bytes->size() >= kCutBinary;
}

bool uncertain(const TermView& term) {
  if (left_out(term) || maybe_cut_binary(term)) return true;
  if (const auto map = term.map()) {
    for (auto it = *map; !it.done(); it.next()) {
      if (uncertain(it.key()) || uncertain(it.value())) return true;
    }
    return false;
  }
  auto items = term.kind() == TermKind::tuple ? term.elements() : term.list();
  if (!items) return false;
  for (; !items->done(); items->next()) {
    if (uncertain(items->item())) return true;
  }
  const auto tail = items->tail();
  return tail && uncertain(*tail);
}

Relation compare(const TermView& a, const TermView& b, bool exact, bool cut) {
  if (cut && (left_out(a) || left_out(b))) return Relation::unknown;
  const TermKind x = a.kind(), y = b.kind();
  if (rank(x) != rank(y)) return relation(rank(x), rank(y));
  if (is_number(x)) return compare_numbers(a, b, exact);
  switch (x) {
    case TermKind::atom:
      return relation(*a.atom(), *b.atom());
    case TermKind::tuple:
      return compare_tuples(a, b, exact, cut);
    case TermKind::map:
      return compare_maps(a, b, exact, cut);
    case TermKind::list:
    case TermKind::string:
      return compare_lists(a, b, exact, cut);
    case TermKind::binary:
    case TermKind::bitstring:
      return compare_bits(a, b, cut);
    default:
      return codec::equal(a, b) ? Relation::equal : Relation::different;
  }
}

Verdict same(const TermView& a, const TermView& b, bool cut) {
  if (!cut) return codec::equal(a, b) ? Verdict::yes : Verdict::no;
  switch (compare(a, b, true, true)) {
    case Relation::equal:
      return Verdict::yes;
    case Relation::unknown:
      return Verdict::unknown;
    default:
      return Verdict::no;
  }
}

Value Value::of(const TermView& term, bool cut) {
  Value value;
  value.kind = Kind::term;
  value.term = term;
  switch (term.kind()) {
    case TermKind::integer:
    case TermKind::big:
      if (const auto i = term.integer()) value.kind = Kind::integer, value.integer = *i;
      break;
    case TermKind::real:
      value.kind = Kind::real;
      value.real = *term.real();
      break;
    case TermKind::atom:
      value.truth = term.is_atom("true");
      if (value.truth || term.is_atom("false")) value.kind = Kind::boolean;
      break;
    default:
      break;
  }
  return cut && left_out(term) ? unknown() : value;
}

TermView nil() { return *codec::view(kNil); }

void write(TermBuilder& out, const Value& value) {
  switch (value.kind) {
    case Value::Kind::integer:
      out.integer(value.integer);
      return;
    case Value::Kind::real:
      out.real(value.real);
      return;
    case Value::Kind::boolean:
      out.boolean(value.truth);
      return;
    case Value::Kind::term:
      out.term(value.term);
      return;
    case Value::Kind::rest: {
      ListView it = value.rest;
      for (; !it.done(); it.next()) out.list_cons().term(it.item());
      const auto tail = it.tail();
      tail ? out.term(*tail) : out.nil();
      return;
    }
    default:
      SCOPE_CHECK(false);
  }
}

std::optional<TermView> Work::keep(TermBuilder built) {
  bytes_ += built.size();
  if (bytes_ > kMaxScratch) return std::nullopt;
  const auto& kept = built_.emplace_back(std::move(built));
  return TermView::unchecked(kept.bytes().data(), nullptr);
}

std::optional<TermView> Work::term(const Value& value) {
  if (value.term.start() != nullptr) return value.term;
  TermBuilder out;
  write(out, value);
  return keep(std::move(out));
}

}  // namespace scope::analysis::match
