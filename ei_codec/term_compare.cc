// equal(): terms compared by meaning. Maps of different order are matched through an index of structural hashes, so the
// cost stays about linear whatever a peer sends. Recursion is bounded by kMaxDepth.
#include <algorithm>
#include <bit>
#include <cstring>

#include "ei_codec/map_index.h"

namespace scope::codec {
namespace {

bool same_integer(const TermView& a, const TermView& b) {
  const auto x = a.integer(), y = b.integer();
  if (x || y) return x == y;
  const auto p = a.big(), q = b.big();
  return p && q && p->negative == q->negative && std::ranges::equal(p->magnitude, q->magnitude);
}

bool same_map(MapView a, MapView b) {
  if (a.left() != b.left()) return false;
  // As a rule both are in the same order.
  for (; !a.done() && equal(a.key(), b.key()); a.next(), b.next()) {
    if (!equal(a.value(), b.value())) return false;
  }
  if (a.done()) return true;
  const MapIndex index(b);
  for (; !a.done(); a.next()) {
    const auto other = index.find(a.key());
    if (!other || !equal(a.value(), *other)) return false;
  }
  return true;
}

bool same_items(ListView a, ListView b) {
  for (; !a.done() && !b.done(); a.next(), b.next()) {
    if (!equal(a.item(), b.item())) return false;
  }
  if (a.done() != b.done()) return false;
  const auto x = a.tail(), y = b.tail();
  return x && y ? equal(*x, *y) : !x && !y;
}

bool same_reference(const RefParts& a, const RefParts& b) {
  return a.node == b.node && a.creation == b.creation && a.count == b.count &&
         std::equal(a.ids, a.ids + a.count, b.ids);
}

bool same_bits(const TermView::BitParts& a, const TermView::BitParts& b) {
  if (a.bits != b.bits) return false;
  if (a.bytes.empty()) return true;
  const std::size_t whole = a.bytes.size() - 1;
  const unsigned unused = static_cast<unsigned>(a.bytes.size() * 8 - a.bits);
  return std::memcmp(a.bytes.data(), b.bytes.data(), whole) == 0 &&
         static_cast<unsigned>(a.bytes[whole]) >> unused ==
             static_cast<unsigned>(b.bytes[whole]) >> unused;
}

bool same_fun(const TermView& a, const TermView& b) {
  const auto x = *a.fun(), y = *b.fun();
  if (x.module != y.module || x.index != y.index || x.arity != y.arity ||
      x.old_uniq != y.old_uniq || !std::ranges::equal(x.uniq, y.uniq)) {
    return false;
  }
  auto p = a.fun_environment(), q = b.fun_environment();
  return same_items(p, q);
}

bool same_record(const RecordParts& a, const RecordParts& b) {
  return a.module == b.module && a.name == b.name && same_items(a.names, b.names) &&
         same_items(a.values, b.values);
}

bool is_integer(TermKind kind) { return kind == TermKind::integer || kind == TermKind::big; }
bool is_list(TermKind kind) { return kind == TermKind::list || kind == TermKind::string; }

}  // namespace

bool equal(const TermView& a, const TermView& b) {
  if (a.start() == b.start() && a.strings() == b.strings()) return true;
  const TermKind kind = a.kind();
  if (is_integer(kind)) return is_integer(b.kind()) && same_integer(a, b);
  if (is_list(kind)) return is_list(b.kind()) && same_items(*a.list(), *b.list());
  if (kind != b.kind()) return false;
  switch (kind) {
    case TermKind::atom:
      return a.atom() == b.atom();
    case TermKind::real:
      return std::bit_cast<std::uint64_t>(*a.real()) == std::bit_cast<std::uint64_t>(*b.real());
    case TermKind::pid:
      return a.pid() == b.pid();
    case TermKind::port:
      return a.port() == b.port();
    case TermKind::reference:
      return same_reference(*a.reference(), *b.reference());
    case TermKind::tuple:
      return a.arity() == b.arity() && same_items(*a.elements(), *b.elements());
    case TermKind::binary:
    case TermKind::bitstring:
      return same_bits(*a.bitstring(), *b.bitstring());
    case TermKind::map:
      return same_map(*a.map(), *b.map());
    case TermKind::fun:
      return same_fun(a, b);
    case TermKind::export_fun:
      return a.export_fun() == b.export_fun();
    case TermKind::record:
      return same_record(*a.record(), *b.record());
    default:
      return true;  // nil
  }
}

}  // namespace scope::codec
