#include "erl/c_src/redact.h"

#include <algorithm>
#include <cstring>

#include "erl/c_src/hash.h"
#include "erl/c_src/layout.h"

namespace scope::tracer {
namespace {

constexpr unsigned kSpace = 26, kOther = 27;

enum class Class : std::uint8_t { lower, upper, other, gap };
Class class_of(unsigned char c) {
  if (c >= 'a' && c <= 'z') return Class::lower;
  if (c >= 'A' && c <= 'Z') return Class::upper;
  return c >= 0x80 ? Class::other : Class::gap;
}

// Each element of a list; false if it is none, or `each` says so.
template <typename F>
bool for_each(ErlNifEnv* env, ERL_NIF_TERM list, F each) {
  ERL_NIF_TERM head;
  while (enif_get_list_cell(env, list, &head, &list)) {
    if (!each(head)) return false;
  }
  return is_nil(list);
}

bool tuple_of(ErlNifEnv* env, ERL_NIF_TERM term, int arity, const ERL_NIF_TERM*& e) {
  int n;
  return enif_get_tuple(env, term, &n, &e) && n == arity;
}

}  // namespace

void KeyWords::clear() {
  std::memset(next_[0], 0, sizeof next_[0]);
  std::memset(back_, 0, sizeof back_);
  std::memset(final_, 0, sizeof final_);
  states_ = 1;
}

bool KeyWords::add(const unsigned char* text, std::size_t size) {
  unsigned s = 0;
  for (std::size_t i = 0; i < size; ++i) {
    if (text[i] != ' ' && class_of(text[i]) != Class::lower) return false;
    const unsigned symbol = text[i] == ' ' ? kSpace : text[i] - 'a';
    if (next_[s][symbol] == 0) {
      if (states_ == kStates) return false;
      std::memset(next_[states_], 0, sizeof next_[states_]);
      next_[s][symbol] = static_cast<std::uint16_t>(states_++);
    }
    s = next_[s][symbol];
  }
  final_[s] |= s != 0;
  return s != 0;
}

// Breadth first: where a state falls back to is nearer to the root, and done.
void KeyWords::finish() {
  static std::uint16_t queue[kStates];  // one builds at a time: the drainer's process
  unsigned head = 0, tail = 0;
  for (unsigned c = 0; c < kSymbols; ++c) {
    if (next_[0][c]) queue[tail++] = next_[0][c];
  }
  while (head < tail) {
    const unsigned s = queue[head++];
    for (unsigned c = 0; c < kSymbols; ++c) {
      const unsigned child = next_[s][c], fallback = next_[back_[s]][c];
      if (child) {
        back_[child] = static_cast<std::uint16_t>(fallback);
        final_[child] |= final_[fallback];
        queue[tail++] = static_cast<std::uint16_t>(child);
      } else {
        next_[s][c] = static_cast<std::uint16_t>(fallback);
      }
    }
  }
}

bool KeyWords::in(const unsigned char* text, std::size_t size) const {
  unsigned s = next_[0][kSpace];
  Class before = Class::gap;
  for (std::size_t i = 0; i < size; ++i) {
    const unsigned char c = text[i];
    const Class now = class_of(c);
    const bool starts =
        now == Class::upper && (before == Class::lower || (before == Class::upper && i + 1 < size &&
                                                           class_of(text[i + 1]) == Class::lower));
    if (starts || (now == Class::gap && before != Class::gap)) {
      s = next_[s][kSpace];
      if (final_[s]) return true;
    }
    if (now != Class::gap) {
      const unsigned symbol = now == Class::lower   ? c - 'a'
                              : now == Class::upper ? c - 'A'
                                                    : kOther;
      s = next_[s][symbol];
      if (final_[s]) return true;
    }
    before = now;
  }
  return before != Class::gap && final_[next_[s][kSpace]];
}

void Rules::preset(std::uint32_t id, std::uint8_t bit) {
  if (id < kMemo) memo_[id].fetch_or(bit, std::memory_order_relaxed);
}

const char* Rules::build(ErlNifEnv* env, ERL_NIF_TERM term) {
  const ERL_NIF_TERM* all;
  if (!tuple_of(env, term, 4, all)) return "rules";
  if (!texts_.build(env, all[3])) return "text";
  words_.clear();
  if (!for_each(env, all[0], [&](ERL_NIF_TERM word) {
        ErlNifBinary b;
        return enif_inspect_binary(env, word, &b) && words_.add(b.data, b.size);
      })) {
    return "keys";
  }
  words_.finish();
  n_records_ = n_calls_ = 0;
  if (!for_each(env, all[1], [&](ERL_NIF_TERM item) {
        const ERL_NIF_TERM* e;
        unsigned arity, mask;
        if (n_records_ == kMost || !tuple_of(env, item, 3, e) || !is_atom(e[0]) ||
            !enif_get_uint(env, e[1], &arity) || arity > 255 || !enif_get_uint(env, e[2], &mask)) {
          return false;
        }
        records_[n_records_++] = {atom_id(e[0]), mask, static_cast<std::uint16_t>(arity)};
        preset(atom_id(e[0]), kRecord);
        return true;
      })) {
    return "records";
  }
  const ERL_NIF_TERM any = enif_make_atom(env, "_");
  if (!for_each(env, all[2], [&](ERL_NIF_TERM item) {
        const ERL_NIF_TERM* e;
        unsigned arity = kAnyArity, mask, result;
        if (n_calls_ == kMost || !tuple_of(env, item, 5, e) || !is_atom(e[0]) || !is_atom(e[1]) ||
            (e[2] != any && (!enif_get_uint(env, e[2], &arity) || arity > 255)) ||
            !enif_get_uint(env, e[3], &mask) || !enif_get_uint(env, e[4], &result)) {
          return false;
        }
        calls_[n_calls_++] = {atom_id(e[0]), atom_id(e[1]), mask, static_cast<std::uint16_t>(arity),
                              e[1] == any,   result != 0};
        preset(atom_id(e[0]), kModule);
        return true;
      })) {
    return "calls";
  }
  return nullptr;
}

std::uint8_t Rules::learn(ErlNifEnv* env, ERL_NIF_TERM atom) const {
  char text[1024];
  int size = enif_get_atom(env, atom, text, 256, ERL_NIF_LATIN1) - 1;
  if (size < 0) size = std::max(0, atom_utf8(env, atom, text));
  const bool key =
      words_.in(reinterpret_cast<const unsigned char*>(text), static_cast<std::size_t>(size));
  const std::uint8_t known = key ? kKnown | kKey : kKnown;
  const std::uint32_t id = atom_id(atom);
  if (id < kMemo)
    return static_cast<std::uint8_t>(memo_[id].fetch_or(known, std::memory_order_relaxed) | known);
  // Beyond the table: rare enough to look at all rules.
  std::uint8_t bits = known;
  for (unsigned i = 0; i < n_records_; ++i) bits |= records_[i].name == id ? kRecord : 0;
  for (unsigned i = 0; i < n_calls_; ++i) bits |= calls_[i].module == id ? kModule : 0;
  return bits;
}

bool Rules::is_key(ErlNifEnv* env, ERL_NIF_TERM term) const {
  if (is_atom(term)) return about(env, term) & kKey;
  if (is_boxed(term)) {
    ErlNifBinary b;
    return enif_is_binary(env, term) && enif_inspect_binary(env, term, &b) && b.size <= kKeyBytes &&
           words_.in(b.data, b.size);
  }
  if (!is_cons(term)) return false;
  unsigned char text[kKeyBytes];
  std::size_t n = 0;
  ERL_NIF_TERM head;
  while (n < kKeyBytes && list_cell(env, term, head, term)) {
    if (!is_small(head) || small_value(head) < 1 || small_value(head) > 0x10FFFF) return false;
    text[n++] = static_cast<unsigned char>(std::min<std::int64_t>(small_value(head), 0xFF));
  }
  return is_nil(term) && words_.in(text, n);
}

const Rules::Call* Rules::call(ErlNifEnv* env, ERL_NIF_TERM module, ERL_NIF_TERM function,
                               unsigned arity, const Call* after) const {
  if (n_calls_ == 0 || !(about(env, module) & kModule)) return nullptr;
  for (const Call* c = after ? after + 1 : calls_; c != calls_ + n_calls_; ++c) {
    if (c->module == atom_id(module) && (c->any_function || c->function == atom_id(function)) &&
        (c->arity == kAnyArity || c->arity == arity)) {
      return c;
    }
  }
  return nullptr;
}

std::uint32_t Rules::of_args(ErlNifEnv* env, ERL_NIF_TERM module, ERL_NIF_TERM function,
                             unsigned arity) const {
  std::uint32_t mask = 0;
  for (const Call* c = nullptr; (c = call(env, module, function, arity, c));) mask |= c->mask;
  return mask;
}

bool Rules::hides_result(ErlNifEnv* env, ERL_NIF_TERM module, ERL_NIF_TERM function,
                         unsigned arity) const {
  for (const Call* c = nullptr; (c = call(env, module, function, arity, c));) {
    if (c->result) return true;
  }
  return false;
}

std::uint32_t Rules::in_tuple(ErlNifEnv* env, const ERL_NIF_TERM* e, unsigned arity,
                              std::uint32_t& of_arguments) const {
  if (arity == 0) return 0;
  if (!is_atom(e[0])) return arity == 2 && is_key(env, e[0]) ? 2 : 0;
  const std::uint8_t what = about(env, e[0]);
  std::uint32_t mask = arity == 2 && (what & kKey) ? 2 : 0;
  if (what & kRecord) {
    for (unsigned i = 0; i < n_records_; ++i) {
      if (records_[i].name == atom_id(e[0]) && records_[i].arity == arity) mask |= records_[i].mask;
    }
  }
  if ((what & kModule) && (arity == 3 || arity == 4) && is_atom(e[1]) && is_cons(e[2])) {
    unsigned n;
    if (enif_get_list_length(env, e[2], &n)) of_arguments = of_args(env, e[0], e[1], n);
  }
  return mask;
}

}  // namespace scope::tracer
