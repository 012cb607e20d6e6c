// Secrets in texts: found in the drain pass, off the tracee's path, in the bounded terms of records.
//
// A text   a binary; and a list of bytes, characters, binaries and such lists (iodata), looked at as the bytes it is
//          when there are at most kMostText of them, else not. A character beyond Latin-1 counts as 255. The list of a
//          call's arguments is none. Of a card number its check digit (Luhn) must be right, and it must stand in one binary or
//          one list of characters.
// What     a text in which a pattern is found is hidden as a whole (redact.h), a list with all in it. So is one that was
// is hidden  cut off where a match may be under way; its hash is `none`: the rest of it is not here.
// Not      integers, atoms, and what a binary's own bytes do not say: encoded, compressed, in parts that are not in one list.
//
// The automata are made by the daemon (cnode/text_patterns.h) for both tracers; scope_text.erl does the same with them.
#pragma once

#include <erl_nif.h>

#include <cstddef>
#include <cstdint>

namespace scope::tracer {

inline constexpr std::size_t kMostText = 4096;

class TextPatterns {
 public:
  // none | {_, [{Classes, Columns, Next}]}. REQUIRES zeroed memory, and that nobody looks.
  bool build(ErlNifEnv* env, ERL_NIF_TERM term);
  bool any() const { return n_ != 0; }

  // `pieces`: it was put together of several; no card numbers then.
  bool secret(const std::uint8_t* text, std::size_t size, bool cut, bool pieces) const;

 private:
  static constexpr std::uint16_t kSecret = 0x8000, kCard = 0x4000, kOpen = 0x2000, kState = 0x0FFF;
  static constexpr std::size_t kMostEntries = 1u << 18, kMost = 8;

  struct Automaton {
    std::uint32_t begin;
    std::uint8_t class_of[256];
  };
  bool add(ErlNifEnv* env, ERL_NIF_TERM term);
  bool secret(const Automaton& of, const std::uint8_t* text, std::size_t size, bool cut,
              bool pieces) const;

  unsigned n_;
  std::size_t used_;  // of next_
  Automaton all_[kMost];
  // The row of the next state << 8, and what is known (its highest 3 bits).
  std::uint32_t next_[kMostEntries];
};

}  // namespace scope::tracer
