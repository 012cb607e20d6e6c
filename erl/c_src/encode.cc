#include "erl/c_src/encode.h"

#include <algorithm>

#include "erl/c_src/layout.h"

namespace scope::tracer {

Names names;

void Encoder::dots() {
  left_ -= std::min(left_, kSlot);
  atom(names.dots);
  cut_ = true;
}

// The mark. In a map's key one without a hash could make two keys of one: the pair is left out.
void Encoder::hide(ERL_NIF_TERM term) {
  left_ += kSlot;
  --nodes_;
  const MatchHash hash = match_hash(env_, term, *secrets_.key, *secrets_.texts);
  if ((in_key_ && !hash.known) || !take(2 + kSlot + 11)) return dots();
  put8(etf::kSmallTuple);
  put8(2);
  atom(names.redacted);
  redacted_ = true;
  if (!hash.known) return atom(names.none);
  put8(etf::kSmallBig);
  const auto bytes = static_cast<std::uint8_t>((71 - __builtin_clzll(hash.value | 1)) / 8);
  put8(bytes);
  put8(0);
  std::uint64_t rest = hash.value;
  for (unsigned i = 0; i < bytes; ++i, rest >>= 8) put8(static_cast<std::uint8_t>(rest));
}

// An atom or an integer that fits into the slot that is kept for it; false: nothing is done. Most of what is written, so
// the members are read and written once: a store of bytes may be one to them, as far as the compiler knows.
inline bool Encoder::immediate(ERL_NIF_TERM term) {
  if (nodes_ <= 0) return false;
  std::uint8_t* const at = at_;
  std::size_t size = kSlot;
  std::uint32_t word;
  if (is_atom(term)) {
    at[0] = etf::kLocalAtom;
    word = atom_id(term);
  } else if (is_small(term)) {
    const std::int64_t value = small_value(term);
    if (value < INT32_MIN || value > INT32_MAX) return false;
    word = static_cast<std::uint32_t>(value);
    at[0] = etf::kInteger;
    if (word < 256) {
      at[0] = etf::kSmallInteger;
      at[1] = static_cast<std::uint8_t>(word);
      size = 2;
    }
  } else {
    return false;
  }
  if (size == kSlot) {
    word = __builtin_bswap32(word);
    __builtin_memcpy(at + 1, &word, 4);
  }
  at_ = at + size;
  left_ += kSlot - size;
  walked_ += size;
  --nodes_;
  return true;
}

void Encoder::walk(ERL_NIF_TERM term, int depth) {
  if (immediate(term)) return;
  left_ += kSlot;  // its own
  if (--nodes_ < 0) return dots();
  if (is_small(term)) return integer(small_value(term));
  if (is_local_pid(term)) {
    if (!take(18)) return dots();
    put8(etf::kNewPid);
    atom(names.node);
    put32(pid_id(term));
    put32(pid_serial(term));
    return put32(names.creation);
  }
  if (is_nil(term)) {
    (void)take(1);
    return put8(etf::kNil);
  }
  if (is_cons(term)) return depth > 0 ? list(term, depth - 1) : dots();
  if (is_local_port(term)) {
    if (!take(18)) return dots();
    put8(etf::kV4Port);
    atom(names.node);
    put64(port_id(term));
    return put32(names.creation);
  }
  boxed_term(term, depth);
}

void Encoder::boxed_term(ERL_NIF_TERM term, int depth) {
  switch (boxed_kind(term)) {
    case ERL_NIF_TERM_TYPE_TUPLE:
      return depth > 0 ? tuple(term, depth - 1) : dots();
    case ERL_NIF_TERM_TYPE_MAP:
      return depth > 0 ? map(term, depth - 1) : dots();
    case ERL_NIF_TERM_TYPE_BITSTRING:
      return binary(term);
    case ERL_NIF_TERM_TYPE_INTEGER: {
      ErlNifSInt64 value;
      if (enif_get_int64(env_, term, &value)) return integer(value);
      if (!big(term)) dots();
      return;
    }
    case ERL_NIF_TERM_TYPE_FLOAT: {
      double value;
      if (!enif_get_double(env_, term, &value) || !take(9)) return dots();
      put8(etf::kNewFloat);
      return put64(__builtin_bit_cast(std::uint64_t, value));
    }
    case ERL_NIF_TERM_TYPE_REFERENCE:
      return reference(term);
    case ERL_NIF_TERM_TYPE_PID:
    case ERL_NIF_TERM_TYPE_PORT:
      return by_vm(term);
    case ERL_NIF_TERM_TYPE_FUN:
      return fun(term);
    default:
      return dots();  // a kind of term that this library does not know
  }
}

// Of more than 32 bits.
void Encoder::integer(std::int64_t value) {
  std::uint64_t magnitude =
      value < 0 ? 0 - static_cast<std::uint64_t>(value) : static_cast<std::uint64_t>(value);
  unsigned bytes = 0;
  for (std::uint64_t m = magnitude; m; m >>= 8) ++bytes;
  if (!take(3 + bytes)) return dots();
  put8(etf::kSmallBig);
  put8(static_cast<std::uint8_t>(bytes));
  put8(value < 0);
  for (; magnitude; magnitude >>= 8) put8(static_cast<std::uint8_t>(magnitude));
}

bool Encoder::big(ERL_NIF_TERM term) {
  const std::byte* thing = boxed(term);
  const auto header = load<std::uint64_t>(thing);
  if (!layout.big_tag[0]) return false;
  const bool negative = (header & 0x3F) == layout.big_tag[1];
  if (!negative && (header & 0x3F) != layout.big_tag[0]) return false;
  std::size_t bytes = (header >> 6) * 8;
  if (bytes > kMost) return false;
  while (bytes > 1 && load<std::uint8_t>(thing + 7 + bytes) == 0) --bytes;
  const bool small = bytes < 256;
  if (!take((small ? 3 : 6) + bytes)) return false;
  put8(small ? etf::kSmallBig : etf::kLargeBig);
  small ? put8(static_cast<std::uint8_t>(bytes)) : put32(static_cast<std::uint32_t>(bytes));
  put8(negative);
  __builtin_memcpy(at_, thing + 8, bytes);
  at_ += bytes;
  return true;
}

void Encoder::reference(ERL_NIF_TERM term) {
  const std::byte* thing = boxed(term);
  const Layout::Reference* r = reference_at(thing);
  if (!r) return by_vm(term);
  if (!take(3 + kSlot + 4 + 4 * r->count)) return dots();
  put8(etf::kNewerReference);
  put16(r->count);
  atom(names.node);
  put32(names.creation);
  for (unsigned i = 0; i < r->count; ++i) put32(load<std::uint32_t>(thing + r->ids + 4 * i));
}

// A pid, port or reference: small, whatever it is.
void Encoder::by_vm(ERL_NIF_TERM term) {
  ErlNifBinary b;
  if (!enif_term_to_binary(env_, term, &b)) return dots();
  const bool fits = b.size > 1 && take(b.size - 1);
  if (fits) {
    __builtin_memcpy(at_, b.data + 1, b.size - 1);  // without the 131
    at_ += b.size - 1;
  }
  enif_release_binary(&b);
  if (!fits) dots();
}

// An environment may be anything, so a local fun is {'fun', Module, Arity} as in scope_cut, and counts as cut.
void Encoder::fun(ERL_NIF_TERM term) {
  if (!layout.funs) return dots();
  const std::byte* thing = boxed(term);
  if (is_external_fun(thing)) return by_vm(term);
  const auto entry =
      reinterpret_cast<const std::byte*>(load<std::uint64_t>(thing + layout.fun_entry));
  if (!take(2 + 2 * kSlot + 2)) return dots();
  put8(etf::kSmallTuple);
  put8(3);
  atom(names.fun);
  atom(atom_id(load<std::uint64_t>(entry + layout.entry_module)));
  put8(etf::kSmallInteger);
  put8(load<std::uint8_t>(thing + layout.fun_arity));
  cut_ = true;
}

void Encoder::binary(ERL_NIF_TERM term) {
  ErlNifBinary b;
  if (!enif_is_binary(env_, term) || !enif_inspect_binary(env_, term, &b)) {
    walked_ += 5;
    return dots();  // a bitstring
  }
  std::size_t size = std::min(b.size, kMost);
  if (5 + size > left_) {
    if (left_ < 5 + 16) {
      walked_ += b.size;
      return dots();
    }
    size = left_ - 5;
  }
  if (size < b.size) cut_ = true;
  (void)take(5 + size);
  walked_ += b.size - size;
  put8(size < b.size ? kCutBinary : std::uint8_t{etf::kBinary});
  put32(static_cast<std::uint32_t>(size));
  __builtin_memcpy(at_, b.data, size);
  at_ += size;
}

void Encoder::tuple(ERL_NIF_TERM term, int depth) {
  int arity;
  const ERL_NIF_TERM* e;
  if (!enif_get_tuple(env_, term, &arity, &e)) return dots();
  const auto n = static_cast<unsigned>(arity);
  if (n == 2 && e[0] == atom_of(names.redacted)) {
    left_ -= kSlot;
    return hide(term);
  }
  std::uint32_t of_args = 0;
  const std::uint32_t hidden = secrets_.rules ? secrets_.rules->in_tuple(env_, e, n, of_args) : 0;
  const bool small = n < 256;
  const std::size_t head = small ? 2 : 5;
  unsigned keep = std::min(n, kItems);
  unsigned slots = keep + (keep < n);  // the last is '...'
  if (head + slots * kSlot > left_) {
    const std::size_t fit = left_ > head ? (left_ - head) / kSlot : 0;
    if (fit < 2) return dots();
    slots = static_cast<unsigned>(fit);
    keep = slots - 1;
  }
  walked_ += head;
  left_ -= head + slots * kSlot;
  put8(slots < 256 ? etf::kSmallTuple : etf::kLargeTuple);
  put8(static_cast<std::uint8_t>(slots));  // never more than kItems + 1
  for (unsigned i = 0; i < keep; ++i) {
    arguments_ = i == 2 ? of_args : 0;
    hidden >> i & 1 ? hide(e[i]) : walk(e[i], depth);
  }
  arguments_ = 0;
  if (slots > keep) {
    left_ += kSlot;
    walked_ += 2ull * (n - keep);
    dots();
  }
}

void Encoder::list(ERL_NIF_TERM term, int depth) {
  const std::uint32_t hidden = arguments_;
  arguments_ = 0;
  // Cells first: ETF wants their number.
  ERL_NIF_TERM head, rest = term;
  unsigned n = 0;
  for (; n < kItems && list_cell(env_, rest, head, rest); ++n) {
  }
  // n items, then `rest`: nil, an improper tail, or what is left out.
  unsigned keep = n;
  bool all = !is_cons(rest);
  if (5 + (n + 1) * kSlot > left_) {
    const std::size_t fit = left_ > 5 ? (left_ - 5) / kSlot : 0;
    if (fit < 2) return dots();
    keep = static_cast<unsigned>(std::min<std::size_t>(n, fit - 1));
    all = all && keep == n;
  }
  walked_ += 5;
  left_ -= 5 + (keep + 1) * kSlot;
  put8(etf::kList);
  put32(keep);
  rest = term;
  for (unsigned i = 0; i < keep; ++i) {
    (void)list_cell(env_, rest, head, rest);
    if (hidden >> i & 1) {
      hide(head);
    } else if (!immediate(head)) {
      walk(head, depth);
    }
  }
  if (all) return walk(rest, depth);
  left_ += kSlot;
  walked_ += 2ull * (n - keep) + 1;
  dots();
}

void Encoder::map(ERL_NIF_TERM term, int depth) {
  std::size_t size;
  if (!enif_get_map_size(env_, term, &size) || left_ < 5 + 2 * kSlot) return dots();
  std::uint8_t* const head = at_;
  walked_ += 5;
  left_ -= 5;
  put8(etf::kMap);
  put32(0);
  std::uint32_t pairs = 0;
  ErlNifMapIterator it;
  if (!enif_map_iterator_create(env_, term, &it, ERL_NIF_MAP_ITERATOR_FIRST)) return;
  ERL_NIF_TERM key, value;
  bool all = true;
  // Two slots are kept for '...' => '...' as long as a pair is to come.
  for (; enif_map_iterator_get_pair(env_, &it, &key, &value); enif_map_iterator_next(env_, &it)) {
    const bool last = pairs + 1 == size;
    const std::size_t need = last ? 2 * kSlot : 4 * kSlot;
    if (pairs == kItems || left_ < need || nodes_ <= 0) {
      all = false;
      break;
    }
    std::uint8_t* const before = at_;
    const std::size_t left = left_;
    const bool cut = cut_, redacted = redacted_, in_key = in_key_;
    cut_ = false;
    in_key_ = true;
    left_ -= need;
    walk(key, depth);
    in_key_ = in_key;
    if (cut_ || key == atom_of(names.dots)) {  // '...' may be there once only
      at_ = before;
      left_ = left;
      redacted_ = redacted;
      all = false;
      break;
    }
    cut_ = cut;
    secrets_.rules&& secrets_.rules->is_key(env_, key) ? hide(value) : walk(value, depth);
    if (!last) left_ += 2 * kSlot;
    ++pairs;
  }
  enif_map_iterator_destroy(env_, &it);
  if (!all) {
    walked_ += 4ull * (size - pairs);
    dots();
    dots();
    ++pairs;
  }
  const std::uint32_t be = __builtin_bswap32(pairs);
  __builtin_memcpy(head + 1, &be, 4);
}

}  // namespace scope::tracer
