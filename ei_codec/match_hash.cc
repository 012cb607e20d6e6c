// The walk of match_hash.h. The stack is bounded by the node budget; structural_hash, which has none, by kMaxDepth.
#include "ei_codec/match_hash.h"

#include <algorithm>
#include <limits>

#include "ei_codec/term_tags.h"
#include "ei_codec/wire/siphash.h"

namespace scope::codec {
namespace {

using namespace etf;

constexpr std::uint32_t kSmallMap = 32;
constexpr std::size_t kEnd = 64;  // so much of each end of a long binary

class Walk {
 public:
  Walk(const HashKey& key, bool whole, const StringTable* strings)
      : key_(key),
        whole_(whole),
        budget_(whole ? std::numeric_limits<std::size_t>::max() : kHashNodes),
        strings_(strings) {}

  // Feeds the term at `at` and gives its end; nullptr when the budget ended.
  const std::byte* term(SipHash& out, const std::byte* at);

 private:
  bool spend() { return budget_ != 0 && budget_-- != 0; }
  void tag(SipHash& out, char c) { out.put(static_cast<std::uint8_t>(c), 1); }
  // A tag and a 32-bit value in one step.
  void tagged(SipHash& out, char c, std::uint32_t value) {
    out.put(static_cast<std::uint8_t>(c) | std::uint64_t{value} << 8, 5);
  }
  void text(SipHash& out, char c, std::string_view text) {
    tagged(out, c, static_cast<std::uint32_t>(text.size()));
    out.put(reinterpret_cast<const std::byte*>(text.data()), text.size());
  }
  void integer(SipHash& out, std::int64_t value) {
    tag(out, 'i');
    out.put(static_cast<std::uint64_t>(value), 8);
  }
  void long_bytes(SipHash& out, char c, std::uint64_t size, Bytes bytes, std::uint8_t last_mask);
  const std::byte* map(SipHash& out, const std::byte* at);
  const std::byte* list(SipHash& out, const std::byte* at);
  const std::byte* record(SipHash& out, const std::byte* at);
  void other(SipHash& out, const TermView& term);

  const HashKey& key_;
  const bool whole_;  // nothing abbreviated
  std::size_t budget_;
  const StringTable* strings_;
};

const std::byte* Walk::term(SipHash& out, const std::byte* at) {
  if (!spend()) return nullptr;
  switch (u8(at)) {
    case kSmallInteger:
      integer(out, u8(at + 1));
      return at + 2;
    case kInteger:
      integer(out, static_cast<std::int32_t>(be32(at + 1)));
      return at + 5;
    case kSmallTuple:
    case kLargeTuple: {
      const bool small = u8(at) == kSmallTuple;
      const std::uint32_t arity = small ? u8(at + 1) : be32(at + 1);
      tagged(out, 't', arity);
      at += small ? 2 : 5;
      for (std::uint32_t i = 0; i < arity && at; ++i) at = term(out, at);
      return at;
    }
    case kNil:
      tag(out, 'n');
      return at + 1;
    case kString:
    case kList:
      return list(out, at);
    case kMap:
      return map(out, at);
    case kBinary: {
      const std::size_t size = be32(at + 1);
      long_bytes(out, 'b', size, Bytes(at + 5, size), 0xFF);
      return at + 5 + size;
    }
    case kNewPid:
    case kPid: {
      PidParts pid;
      at = read_pid(at, strings_, pid);
      text(out, 'p', pid.node);
      out.put(pid.creation, 4);
      out.put(pid.id, 4);
      out.put(pid.serial, 4);
      return at;
    }
    case kRecord:
      return record(out, at);
    default: {
      std::string_view name;
      if (const std::byte* end = read_atom(at, strings_, name)) {
        text(out, 'a', name);
        return end;
      }
      other(out, TermView::unchecked(at, strings_));
      return at + term_length(at);
    }
  }
}

void Walk::long_bytes(SipHash& out, char c, std::uint64_t size, Bytes bytes,
                      std::uint8_t last_mask) {
  tag(out, c);
  out.put(size, 8);
  if (bytes.empty()) return;
  const Bytes whole = bytes.first(bytes.size() - 1);  // the last byte is put apart, for its mask
  if (whole_ || bytes.size() <= 2 * kEnd) {
    out.put(whole.data(), whole.size());
  } else {
    out.put(bytes.data(), kEnd);
    out.put(bytes.data() + bytes.size() - kEnd, kEnd - 1);
  }
  out.put(static_cast<std::uint8_t>(u8(&bytes.back()) & last_mask), 1);
}

// Here `at`'s own node has been counted, as the first cons cell. A tail that is one more list goes on in the loop:
// tails are no depth, so they must not recurse.
const std::byte* Walk::list(SipHash& out, const std::byte* at) {
  while (true) {
    const bool string = u8(at) == kString;
    const std::uint32_t length = string ? be16(at + 1) : be32(at + 1);
    at += string ? 3 : 5;
    if (length == 0) {
      tag(out, 'n');
      return at;
    }
    for (std::uint32_t i = 0; i < length; ++i) {
      if (i > 0 && !spend()) return nullptr;
      tag(out, 'l');
      if (string) {
        if (!spend()) return nullptr;
        integer(out, u8(at++));
      } else if (at = term(out, at); !at) {
        return nullptr;
      }
    }
    if (string) {
      if (!spend()) return nullptr;
      tag(out, 'n');
      return at;
    }
    if (u8(at) != kList && u8(at) != kString) return term(out, at);
    if (!spend()) return nullptr;
  }
}

const std::byte* Walk::map(SipHash& out, const std::byte* at) {
  const std::uint32_t size = be32(at + 1);
  if (size > kSmallMap && !whole_) {
    tagged(out, 'M', size);
    return at + term_length(at);
  }
  tagged(out, 'm', size);
  at += 5;
  std::uint64_t sum = 0;
  for (std::uint32_t i = 0; i < size; ++i) {
    SipHash pair(key_);
    at = term(pair, at);
    if (at) at = term(pair, at);
    if (!at) return nullptr;  // what pairs came first is chance: nothing of them may show
    sum += pair.finish();
  }
  out.put(sum, 8);
  return at;
}

const std::byte* Walk::record(SipHash& out, const std::byte* at) {
  if (!whole_) return nullptr;
  const RecordParts record = *TermView::unchecked(at, strings_).record();
  tagged(out, 'R', record.names.left());
  text(out, 'a', record.module);
  text(out, 'a', record.name);
  for (ListView names = record.names; !names.done(); names.next()) {
    text(out, 'a', *names.item().atom());
  }
  at += term_length(at);
  for (ListView values = record.values; !values.done(); values.next()) {
    term(out, values.item().start());
  }
  return at;
}

void Walk::other(SipHash& out, const TermView& term) {
  switch (term.kind()) {
    case TermKind::real:
      tag(out, 'f');
      out.put(std::bit_cast<std::uint64_t>(*term.real()), 8);
      return;
    case TermKind::big: {
      if (const auto value = term.integer()) return integer(out, *value);
      const BigParts big = *term.big();
      tag(out, 'I');
      out.put(big.negative ? 1 : 0, 1);
      out.put(static_cast<std::uint32_t>(big.magnitude.size()), 4);
      out.put(big.magnitude.data(), big.magnitude.size());
      return;
    }
    case TermKind::reference: {
      const RefParts ref = *term.reference();
      text(out, 'r', ref.node);
      out.put(ref.creation, 4);
      out.put(ref.count, 1);
      for (std::uint32_t i = 0; i < ref.count; ++i) out.put(ref.ids[i], 4);
      return;
    }
    case TermKind::port: {
      const PortParts port = *term.port();
      text(out, 'o', port.node);
      out.put(port.creation, 4);
      out.put(port.id, 8);
      return;
    }
    case TermKind::binary:  // one encoded as a bitstring
      return long_bytes(out, 'b', term.binary()->size(), *term.binary(), 0xFF);
    case TermKind::bitstring: {
      const auto bits = *term.bitstring();
      const unsigned unused = static_cast<unsigned>(bits.bytes.size() * 8 - bits.bits);
      return long_bytes(out, 'B', bits.bits, bits.bytes, static_cast<std::uint8_t>(0xFF << unused));
    }
    case TermKind::fun: {
      const auto fun = *term.fun();
      text(out, 'F', fun.module);
      out.put(fun.index, 4);
      out.put(fun.uniq.data(), fun.uniq.size());
      return;
    }
    case TermKind::export_fun: {
      const auto fun = *term.export_fun();
      tag(out, 'e');
      text(out, 'a', fun.module);
      text(out, 'a', fun.function);
      out.put(fun.arity, 4);
      return;
    }
    default:
      return;  // walked in term()
  }
}

}  // namespace

MatchHash match_hash(const TermView& term, const HashKey& key) {
  SipHash out(key);
  Walk walk(key, false, term.strings());
  const bool bounded = walk.term(out, term.start()) == nullptr;
  if (bounded) out.put('z', 1);
  return {out.finish(), bounded};
}

std::uint64_t structural_hash(const TermView& term) {
  static constexpr HashKey kKey{};
  SipHash out(kKey);
  Walk walk(kKey, true, term.strings());
  walk.term(out, term.start());
  return out.finish();
}

}  // namespace scope::codec
