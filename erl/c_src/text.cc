#include "erl/c_src/text.h"

#include <cstring>

namespace scope::tracer {
namespace {

bool is_digit(std::uint8_t c) { return c >= '0' && c <= '9'; }
bool is_word(std::uint8_t c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// Is there a run of 13 to 19 digits, of networks of cards, whose check digit is right?
bool has_card(const std::uint8_t* text, std::size_t size) {
  for (std::size_t start = 0; start < size; ++start) {
    if (text[start] < '2' || text[start] > '6' || (start > 0 && is_word(text[start - 1]))) continue;
    // Sums of the digits as they are and doubled, by whether there is an odd number of them before.
    unsigned sum[2] = {0, 0}, digits = 0;
    for (std::size_t i = start; i < size && digits < 19; ++i) {
      if (!is_digit(text[i])) {
        const bool between =
            (text[i] == ' ' || text[i] == '-') && i + 1 < size && is_digit(text[i + 1]);
        if (!between) break;
        continue;
      }
      const unsigned d = text[i] - '0', twice = d < 5 ? 2 * d : 2 * d - 9;
      sum[digits & 1] += d;
      sum[~digits & 1] += twice;
      ++digits;
      if (digits >= 13 && (i + 1 == size || !is_word(text[i + 1])) && sum[~digits & 1] % 10 == 0)
        return true;
    }
  }
  return false;
}

}  // namespace

bool TextPatterns::build(ErlNifEnv* env, ERL_NIF_TERM term) {
  n_ = 0;
  used_ = 0;
  int arity;
  const ERL_NIF_TERM* e;
  if (!enif_get_tuple(env, term, &arity, &e)) return enif_is_atom(env, term);
  if (arity != 2) return false;
  ERL_NIF_TERM list = e[1], head;
  while (enif_get_list_cell(env, list, &head, &list)) {
    if (!add(env, head)) return false;
  }
  return true;
}

bool TextPatterns::add(ErlNifEnv* env, ERL_NIF_TERM term) {
  int arity;
  const ERL_NIF_TERM* e;
  ErlNifBinary classes, next;
  unsigned columns;
  if (n_ == kMost || !enif_get_tuple(env, term, &arity, &e) || arity != 3 ||
      !enif_inspect_binary(env, e[0], &classes) || classes.size != 256 ||
      !enif_get_uint(env, e[1], &columns) || columns == 0 || columns > 256 ||
      !enif_inspect_binary(env, e[2], &next) || next.size % (std::size_t{2} * columns) != 0 ||
      next.size == 0 || next.size / 2 > kMostEntries - used_) {
    return false;
  }
  Automaton& to = all_[n_];
  std::memcpy(to.class_of, classes.data, 256);
  for (const std::uint8_t c : to.class_of) {
    if (c >= columns) return false;
  }
  const std::size_t states = next.size / 2 / columns;
  for (std::size_t i = 0; i < next.size / 2; ++i) {
    const unsigned value = next.data[2 * i] | unsigned{next.data[2 * i + 1]} << 8;
    if ((value & kState) >= states) return false;
    const auto row = static_cast<std::uint32_t>(used_ + std::size_t{value & kState} * columns);
    next_[used_ + i] = row << 8 | (value & ~unsigned{kState}) >> 8;
  }
  to.begin = next_[used_ + to.class_of['\n']];
  used_ += next.size / 2;
  ++n_;
  return true;
}

bool TextPatterns::secret(const std::uint8_t* text, std::size_t size, bool cut, bool pieces) const {
  for (unsigned i = 0; i < n_; ++i) {
    if (secret(all_[i], text, size, cut, pieces)) return true;
  }
  return false;
}

bool TextPatterns::secret(const Automaton& of, const std::uint8_t* text, std::size_t size, bool cut,
                          bool pieces) const {
  std::uint32_t state = of.begin, known = 0;
  for (std::size_t i = 0; i < size; ++i) {
    state = next_[(state >> 8) + of.class_of[text[i]]];
    known |= state;
    if (state & (kSecret >> 8)) return true;
  }
  if (cut) {
    if (state & (kOpen >> 8)) return true;
  } else {
    known |= next_[(state >> 8) + of.class_of['\n']];
  }
  return (known & (kSecret >> 8)) || (!pieces && (known & (kCard >> 8)) && has_card(text, size));
}

}  // namespace scope::tracer
