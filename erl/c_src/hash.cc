#include "erl/c_src/hash.h"

#include <algorithm>

#include "erl/c_src/encode.h"
#include "erl/c_src/layout.h"

namespace scope::tracer {

int atom_utf8(ErlNifEnv* env, ERL_NIF_TERM atom, char* out) {
  char latin1[256];
  const int n = enif_get_atom(env, atom, latin1, sizeof latin1, ERL_NIF_LATIN1);
  if (n > 0) {
    int size = 0;
    for (int i = 0; i < n - 1; ++i) {
      const auto c = static_cast<unsigned char>(latin1[i]);
      if (c < 0x80) {
        out[size++] = static_cast<char>(c);
      } else {
        out[size++] = static_cast<char>(0xC0 | c >> 6);
        out[size++] = static_cast<char>(0x80 | (c & 0x3F));
      }
    }
    return size;
  }
  ErlNifBinary b;
  if (!enif_term_to_binary(env, atom, &b)) return -1;
  int size = -1;
  if (b.size > 3 && (b.data[1] == 119 || b.data[1] == 118)) {
    const std::size_t head = b.data[1] == 119 ? 3 : 4;
    size = static_cast<int>(std::min<std::size_t>(b.size - head, 1024));
    __builtin_memcpy(out, b.data + head, static_cast<std::size_t>(size));
  }
  enif_release_binary(&b);
  return size;
}

const AtomTexts::Text* AtomTexts::of(ErlNifEnv* env, ERL_NIF_TERM atom) {
  const std::uint32_t id = atom_id(atom);
  Text& t = texts_[(id * 2654435761u) >> 24];
  if (t.id_plus_1 == id + 1) return &t;
  char text[1024];
  const int size = atom_utf8(env, atom, text);
  if (size < 0 || static_cast<std::size_t>(size) > sizeof t.utf8) return nullptr;
  t.id_plus_1 = id + 1;
  t.size = static_cast<std::uint16_t>(size);
  __builtin_memcpy(t.utf8, text, static_cast<std::size_t>(size));
  return &t;
}

namespace {

constexpr std::uint32_t kSmallMap = 32;
constexpr std::size_t kEnd = 64;

enum class End { whole, bounded, unknown };

class Walk {
 public:
  Walk(ErlNifEnv* env, const std::array<std::byte, 16>& key, AtomTexts& texts)
      : env_(env), key_(key), texts_(texts) {}

  End term(SipHash& out, ERL_NIF_TERM t) {
    if (budget_ == 0) return End::bounded;
    --budget_;
    if (is_atom(t)) return atom(out, 'a', t);
    if (is_small(t)) return integer(out, small_value(t));
    if (is_nil(t)) return tag(out, 'n');
    if (is_local_pid(t)) {
      if (atom(out, 'p', atom_of(names.node)) != End::whole) return End::unknown;
      out.put(names.creation, 4);
      out.put(pid_id(t), 4);
      out.put(pid_serial(t), 4);
      return End::whole;
    }
    if (is_cons(t)) return list(out, t);
    if (is_local_port(t)) {
      if (atom(out, 'o', atom_of(names.node)) != End::whole) return End::unknown;
      out.put(names.creation, 4);
      out.put(port_id(t), 8);
      return End::whole;
    }
    return boxed_term(out, t);
  }

 private:
  static End tag(SipHash& out, char c) {
    out.put(static_cast<std::uint8_t>(c), 1);
    return End::whole;
  }
  static void tagged(SipHash& out, char c, std::uint32_t value) {
    out.put(static_cast<std::uint8_t>(c) | std::uint64_t{value} << 8, 5);
  }
  static End integer(SipHash& out, std::int64_t value) {
    tag(out, 'i');
    out.put(static_cast<std::uint64_t>(value), 8);
    return End::whole;
  }
  static void text(SipHash& out, char c, const char* utf8, std::size_t size) {
    tagged(out, c, static_cast<std::uint32_t>(size));
    out.put(reinterpret_cast<const std::byte*>(utf8), size);
  }
  End atom(SipHash& out, char c, ERL_NIF_TERM t) {
    if (const auto* cached = texts_.of(env_, t)) {
      text(out, c, cached->utf8, cached->size);
      return End::whole;
    }
    char utf8[1024];
    const int size = atom_utf8(env_, t, utf8);
    if (size < 0) return End::unknown;
    text(out, c, utf8, static_cast<std::size_t>(size));
    return End::whole;
  }

  End list(SipHash& out, ERL_NIF_TERM t) {
    ERL_NIF_TERM head, tail;
    while (list_cell(env_, t, head, tail)) {
      tag(out, 'l');
      if (const End e = term(out, head); e != End::whole) return e;
      if (!is_cons(tail)) return term(out, tail);
      if (budget_ == 0) return End::bounded;
      --budget_;
      t = tail;
    }
    return End::unknown;
  }

  End boxed_term(SipHash& out, ERL_NIF_TERM t) {
    switch (boxed_kind(t)) {
      case ERL_NIF_TERM_TYPE_TUPLE: {
        int arity;
        const ERL_NIF_TERM* e;
        if (!enif_get_tuple(env_, t, &arity, &e)) return End::unknown;
        tagged(out, 't', static_cast<std::uint32_t>(arity));
        for (int i = 0; i < arity; ++i) {
          if (const End end = term(out, e[i]); end != End::whole) return end;
        }
        return End::whole;
      }
      case ERL_NIF_TERM_TYPE_MAP:
        return map(out, t);
      case ERL_NIF_TERM_TYPE_BITSTRING: {
        ErlNifBinary b;
        if (!enif_is_binary(env_, t) || !enif_inspect_binary(env_, t, &b)) return End::unknown;
        tag(out, 'b');
        out.put(b.size, 8);
        const auto* bytes = reinterpret_cast<const std::byte*>(b.data);
        if (b.size <= 2 * kEnd) {
          out.put(bytes, b.size);
        } else {
          out.put(bytes, kEnd);
          out.put(bytes + b.size - kEnd, kEnd);
        }
        return End::whole;
      }
      case ERL_NIF_TERM_TYPE_INTEGER: {
        ErlNifSInt64 value;
        if (enif_get_int64(env_, t, &value)) return integer(out, value);
        return big(out, t);
      }
      case ERL_NIF_TERM_TYPE_FLOAT: {
        double value;
        if (!enif_get_double(env_, t, &value)) return End::unknown;
        tag(out, 'f');
        out.put(__builtin_bit_cast(std::uint64_t, value), 8);
        return End::whole;
      }
      case ERL_NIF_TERM_TYPE_REFERENCE: {
        const std::byte* thing = boxed(t);
        const Layout::Reference* r = reference_at(thing);
        if (!r) return by_vm(out, t);
        if (atom(out, 'r', atom_of(names.node)) != End::whole) return End::unknown;
        out.put(names.creation, 4);
        out.put(r->count, 1);
        for (unsigned i = 0; i < r->count; ++i) {
          out.put(load<std::uint32_t>(thing + r->ids + 4 * i), 4);
        }
        return End::whole;
      }
      case ERL_NIF_TERM_TYPE_PID:
      case ERL_NIF_TERM_TYPE_PORT:
        return by_vm(out, t);
      case ERL_NIF_TERM_TYPE_FUN:
        return fun(out, t);
      default:
        return End::unknown;
    }
  }

  End big(SipHash& out, ERL_NIF_TERM t) {
    const std::byte* thing = boxed(t);
    const auto header = load<std::uint64_t>(thing);
    const bool negative = (header & 0x3F) == layout.big_tag[1];
    if (!layout.big_tag[0] || (!negative && (header & 0x3F) != layout.big_tag[0]))
      return End::unknown;
    std::size_t bytes = (header >> 6) * 8;
    while (bytes > 1 && load<std::uint8_t>(thing + 7 + bytes) == 0) --bytes;
    if (bytes > 4096) return End::unknown;
    tag(out, 'I');
    out.put(negative ? 1 : 0, 1);
    out.put(static_cast<std::uint32_t>(bytes), 4);
    out.put(thing + 8, bytes);
    return End::whole;
  }

  End map(SipHash& out, ERL_NIF_TERM t) {
    std::size_t size;
    if (!enif_get_map_size(env_, t, &size)) return End::unknown;
    if (size > kSmallMap) {
      tagged(out, 'M', static_cast<std::uint32_t>(size));
      return End::whole;
    }
    tagged(out, 'm', static_cast<std::uint32_t>(size));
    ErlNifMapIterator it;
    if (!enif_map_iterator_create(env_, t, &it, ERL_NIF_MAP_ITERATOR_FIRST)) return End::unknown;
    ERL_NIF_TERM key, value;
    std::uint64_t sum = 0;
    End end = End::whole;
    for (; end == End::whole && enif_map_iterator_get_pair(env_, &it, &key, &value);
         enif_map_iterator_next(env_, &it)) {
      SipHash pair(key_);
      end = term(pair, key);
      if (end == End::whole) end = term(pair, value);
      sum += pair.finish();
    }
    enif_map_iterator_destroy(env_, &it);
    if (end == End::whole) out.put(sum, 8);
    return end;
  }

  // Pids, ports and references of other nodes, and external funs, from what the VM makes of them.
  End by_vm(SipHash& out, ERL_NIF_TERM t) {
    ErlNifBinary b;
    if (!enif_term_to_binary(env_, t, &b)) return End::unknown;
    const End end = b.size > 4 ? encoded(out, b.data + 1, b.data + b.size) : End::unknown;
    enif_release_binary(&b);
    return end;
  }
  static std::uint32_t be(const unsigned char* p, int n) {
    std::uint32_t v = 0;
    for (int i = 0; i < n; ++i) v = v << 8 | p[i];
    return v;
  }
  // Reads an encoded atom whose text is ASCII or UTF-8; nullptr if it is neither.
  static const unsigned char* text_at(const unsigned char* p, const unsigned char* end,
                                      const char*& utf8, std::size_t& size) {
    if (end - p < 3) return nullptr;
    const bool tiny = p[0] == 119 || p[0] == 115;
    if (!tiny && p[0] != 118 && p[0] != 100) return nullptr;
    size = tiny ? p[1] : be(p + 1, 2);
    const unsigned char* from = p + (tiny ? 2 : 3);
    if (static_cast<std::size_t>(end - from) < size) return nullptr;
    if (p[0] == 100 || p[0] == 115) {
      for (std::size_t i = 0; i < size; ++i) {
        if (from[i] > 127) return nullptr;
      }
    }
    utf8 = reinterpret_cast<const char*>(from);
    return from + size;
  }
  static End encoded(SipHash& out, const unsigned char* p, const unsigned char* end) {
    const char* utf8;
    std::size_t size;
    const unsigned char kind = p[0];
    unsigned ids = 0;
    if (kind == 90) {
      ids = be(p + 1, 2);
      if (ids > 5) return End::unknown;
      p += 2;
    }
    p = text_at(p + 1, end, utf8, size);
    if (!p) return End::unknown;
    const auto left = static_cast<std::size_t>(end - p);
    if (kind == 88 && left == 12) {
      text(out, 'p', utf8, size);
      out.put(be(p + 8, 4), 4);
      out.put(be(p, 4), 4);
      out.put(be(p + 4, 4), 4);
      return End::whole;
    }
    if (kind == 90 && left == 4 + 4 * ids) {
      text(out, 'r', utf8, size);
      out.put(be(p, 4), 4);
      out.put(ids, 1);
      for (unsigned i = 0; i < ids; ++i) out.put(be(p + 4 + 4 * i, 4), 4);
      return End::whole;
    }
    if ((kind == 120 && left == 12) || (kind == 89 && left == 8)) {
      text(out, 'o', utf8, size);
      const int wide = kind == 120 ? 8 : 4;
      out.put(be(p + wide, 4), 4);
      out.put(kind == 120 ? std::uint64_t{be(p, 4)} << 32 | be(p + 4, 4) : be(p, 4), 8);
      return End::whole;
    }
    if (kind == 113) {  // module was read; then function and arity
      const char* function;
      std::size_t function_size;
      p = text_at(p, end, function, function_size);
      if (!p || end - p != 2 || p[0] != 97) return End::unknown;
      tag(out, 'e');
      text(out, 'a', utf8, size);
      text(out, 'a', function, function_size);
      out.put(p[1], 4);
      return End::whole;
    }
    return End::unknown;
  }

  End fun(SipHash& out, ERL_NIF_TERM t) {
    if (!layout.funs) return End::unknown;
    const std::byte* thing = boxed(t);
    if (is_external_fun(thing)) return by_vm(out, t);
    const auto entry =
        reinterpret_cast<const std::byte*>(load<std::uint64_t>(thing + layout.fun_entry));
    if (atom(out, 'F', load<std::uint64_t>(entry + layout.entry_module)) != End::whole)
      return End::unknown;
    out.put(load<std::uint32_t>(entry + layout.entry_index), 4);
    out.put(entry + layout.entry_uniq, 16);
    return End::whole;
  }

  ErlNifEnv* env_;
  const std::array<std::byte, 16>& key_;
  AtomTexts& texts_;
  unsigned budget_ = 64;
};

}  // namespace

MatchHash match_hash(ErlNifEnv* env, ERL_NIF_TERM term, const std::array<std::byte, 16>& key,
                     AtomTexts& texts) {
  SipHash out(key);
  Walk walk(env, key, texts);
  const End end = walk.term(out, term);
  if (end == End::bounded) out.put('z', 1);
  return {out.finish(), end != End::unknown, end == End::bounded};
}

}  // namespace scope::tracer
