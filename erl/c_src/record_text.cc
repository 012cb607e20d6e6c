#include "erl/c_src/record_text.h"

#include <algorithm>
#include <cstring>

#include "erl/c_src/hash.h"
#include "erl/c_src/wire_term.h"

namespace scope::tracer {
namespace {

const std::uint8_t* bytes(const std::byte* p) { return reinterpret_cast<const std::uint8_t*>(p); }

struct Flat {
  std::uint8_t text[kMostText];
  std::size_t size = 0;
  bool cut = false, pieces = false;

  bool put(const std::uint8_t* from, std::size_t n) {
    if (n > kMostText - size) return false;
    std::memcpy(text + size, from, n);
    size += n;
    return true;
  }

  // The list's bytes; false if it is no text. A binary that was cut has nothing known behind it.
  bool list(const std::byte*& p, int depth) {
    const WireItem head = wire_item(p);
    p = head.next;
    for (std::uint32_t i = 0; i < head.children; ++i) {
      const WireItem item = wire_item(p);
      const bool tail = i + 1 == head.children;
      switch (item.tag) {
        case etf::kSmallInteger:
          if (tail || !put(bytes(item.body), 1)) return false;
          break;
        case etf::kInteger: {
          const auto beyond = std::uint8_t{0xFF};
          if (tail || be32(item.body) > 0x10FFFF || !put(&beyond, 1)) return false;
          break;
        }
        case etf::kBinary:
          pieces = true;
          if (!put(bytes(item.body), static_cast<std::size_t>(item.next - item.body))) return false;
          break;
        case etf::kList:
          pieces = true;
          if (depth == 0 || !list(p, depth - 1)) return false;
          continue;
        case etf::kNil:
          break;
        case etf::kLocalAtom:
          if (!tail || be32(item.body) != names.dots) return false;
          cut = true;
          break;
        default:
          return false;
      }
      if (cut && !tail) return false;
      p = item.next;
    }
    return true;
  }
};

bool binary_has_secret(const TextPatterns& patterns, const WireItem& item) {
  return (item.tag == etf::kBinary || item.tag == kCutBinary) &&
         patterns.secret(bytes(item.body), static_cast<std::size_t>(item.next - item.body),
                         item.tag == kCutBinary, false);
}

// The term itself; 0 if it cannot be made.
class Reader {
 public:
  explicit Reader(ErlNifEnv* env) : env_(env) {}

  ERL_NIF_TERM term(const std::byte*& p, int depth = 12) {
    constexpr unsigned kMost = 72;
    const WireItem item = wire_item(p);
    const std::byte* const begin = p;
    p = item.next;
    switch (item.tag) {
      case etf::kLocalAtom:
        return atom_of(be32(item.body));
      case etf::kSmallInteger:
        return enif_make_uint(env_, std::to_integer<unsigned>(*item.body));
      case etf::kInteger:
        return enif_make_int(env_, static_cast<std::int32_t>(be32(item.body)));
      case etf::kNil:
        return enif_make_list(env_, 0);
      case etf::kBinary: {
        ERL_NIF_TERM made;
        const auto size = static_cast<std::size_t>(item.next - item.body);
        if (auto* to = enif_make_new_binary(env_, size, &made)) std::memcpy(to, item.body, size);
        return made;
      }
      case etf::kSmallTuple:
      case etf::kLargeTuple:
      case etf::kList:
      case etf::kMap: {
        ERL_NIF_TERM terms[kMost];
        if (depth == 0 || item.children > kMost) return 0;
        for (unsigned i = 0; i < item.children; ++i) {
          terms[i] = term(p, depth - 1);
          if (terms[i] == 0) return 0;
        }
        return container(item, terms);
      }
      default:
        return item.tag && item.tag != kCutBinary ? by_vm(begin, item) : 0;
    }
  }

 private:
  ERL_NIF_TERM container(const WireItem& item, const ERL_NIF_TERM* terms) {
    if (item.tag == etf::kList) {
      ERL_NIF_TERM list = terms[item.children - 1];
      for (unsigned i = item.children - 1; i > 0; --i)
        list = enif_make_list_cell(env_, terms[i - 1], list);
      return list;
    }
    if (item.tag != etf::kMap) return enif_make_tuple_from_array(env_, terms, item.children);
    ERL_NIF_TERM map = enif_make_new_map(env_);
    for (unsigned i = 0; i < item.children; i += 2) {
      if (!enif_make_map_put(env_, map, terms[i], terms[i + 1], &map)) return 0;
    }
    return map;
  }

  // With our numbers of atoms as their texts.
  ERL_NIF_TERM by_vm(const std::byte* p, const WireItem& item) {
    unsigned char out[2048 + 1024];
    unsigned char* to = out;
    const auto copy = [&](const std::byte* from, const std::byte* until) {
      std::memcpy(to, from, static_cast<std::size_t>(until - from));
      to += until - from;
    };
    if (item.next - p > 2000 || item.children > 0) return 0;
    *to++ = 131;
    if (item.atom && std::to_integer<unsigned>(*item.atom) == etf::kLocalAtom) {
      copy(p, item.atom);
      const int size =
          atom_utf8(env_, atom_of(be32(item.atom + 1)), reinterpret_cast<char*>(to) + 3);
      if (size < 0) return 0;
      *to = etf::kAtomUtf8;
      to[1] = static_cast<unsigned char>(size >> 8);
      to[2] = static_cast<unsigned char>(size);
      to += 3 + size;
      copy(item.atom + 5, item.next);
    } else {
      copy(p, item.next);
    }
    ERL_NIF_TERM made;
    return enif_binary_to_term(env_, out, static_cast<std::size_t>(to - out), &made, 0) ? made : 0;
  }

  ErlNifEnv* env_;
};

class Hider {
 public:
  Hider(ErlNifEnv* env, const TextPatterns& patterns, AtomTexts& texts, std::byte* out)
      : env_(env), patterns_(patterns), texts_(texts), out_(out) {}

  const std::byte* copy(const std::byte* p, bool arguments) {
    const WireItem item = wire_item(p);
    if (binary_has_secret(patterns_, item) ||
        (item.tag == etf::kList && !arguments && list_has_secret(patterns_, p))) {
      return mark(p);
    }
    const auto size = static_cast<std::size_t>(item.next - p);
    std::memcpy(out_, p, size);
    if (item.tag == kCutBinary) *out_ = std::byte{etf::kBinary};
    out_ += size;
    p = item.next;
    for (std::uint32_t i = 0; i < item.children; ++i) p = copy(p, false);
    return p;
  }
  std::byte* end() const { return out_; }

 private:
  const std::byte* mark(const std::byte* p) {
    const std::byte* const next = wire_skip(p);
    const auto& key = g.keyed.load(std::memory_order_acquire) ? g.key : g.own_key;
    const bool whole = !(wire_item(p).tag == etf::kList && ends_cut(p));
    const ERL_NIF_TERM term = whole ? Reader(env_).term(p) : 0;
    const MatchHash hash = term ? match_hash(env_, term, key, texts_) : MatchHash{};
    put8(etf::kSmallTuple);
    put8(2);
    atom(names.redacted);
    if (!hash.known) {
      atom(names.none);
      return next;
    }
    const auto size = static_cast<std::uint8_t>((71 - __builtin_clzll(hash.value | 1)) / 8);
    put8(etf::kSmallBig);
    put8(size);
    put8(0);
    std::uint64_t rest = hash.value;
    for (unsigned i = 0; i < size; ++i, rest >>= 8) put8(static_cast<std::uint8_t>(rest));
    return next;
  }
  static bool ends_cut(const std::byte* p) {
    Flat flat;
    return flat.list(p, 8) && flat.cut;
  }
  void put8(std::uint8_t v) { *out_++ = std::byte{v}; }
  void atom(std::uint32_t id) {
    put8(etf::kLocalAtom);
    id = __builtin_bswap32(id);
    std::memcpy(out_, &id, 4);
    out_ += 4;
  }

  ErlNifEnv* env_;
  const TextPatterns& patterns_;
  AtomTexts& texts_;
  std::byte* out_;
};

}  // namespace

bool list_has_secret(const TextPatterns& patterns, const std::byte* p) {
  Flat flat;
  return flat.list(p, 8) && patterns.secret(flat.text, flat.size, flat.cut, flat.pieces);
}

std::uint32_t hide_texts(ErlNifEnv* env, const TextPatterns& patterns, const std::byte* record,
                         const std::byte* terms, AtomTexts& texts, std::byte* out) {
  RecordHead head;
  std::memcpy(&head, record, sizeof head);
  const std::byte* const end = record + head.size;
  const std::byte* p = record;
  std::byte* to = out;
  const auto copy = [&](const std::byte* until) {
    std::memcpy(to, p, static_cast<std::size_t>(until - p));
    to += until - p;
    p = until;
  };
  const bool message = head.kind == kSend || head.kind == kFetch || head.kind == kTake;
  const bool whole = !(head.flags & (kHashed | kTruncated | kRedacted));
  copy(record + kHeader + (head.kind == kTake ? 8 : 0));
  if (message && whole && g.keyed.load(std::memory_order_acquire)) {
    const std::byte* payload = head.kind == kSend ? wire_skip(terms) : terms;
    const ERL_NIF_TERM term = Reader(env).term(payload);
    const MatchHash hash = term ? match_hash(env, term, g.key, texts) : MatchHash{};
    if (hash.known) {
      head.flags |= hash.bounded ? kHashed | kHashBounded : kHashed;
      std::memcpy(to, &hash.value, 8);
      to += 8;
    }
  }
  copy(terms);
  Hider hider(env, patterns, texts, to);
  for (bool arguments = has_arguments(head); p < end;) {
    const bool list = std::to_integer<unsigned>(*p) == etf::kList;
    p = hider.copy(p, arguments && list);
    arguments = arguments && !list;
  }
  head.flags |= kRedacted;
  head.size = static_cast<std::uint32_t>(hider.end() - out);
  std::memcpy(out, &head, sizeof head);
  return head.size;
}

}  // namespace scope::tracer
