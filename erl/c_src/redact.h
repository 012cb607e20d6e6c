// Redaction at the source, the native tracer's part. What is redacted, and how both tracers write it:
//
// The mark   {'$scope_redacted', Hash}: a tuple in the value's place. Hash is the match hash (ei_codec/match_hash.h) of
//            the value alone, with the session's key: equal secrets have equal marks on all nodes of one store. Others
//            differ, as far as that hash looks: 64 terms, both ends of a long binary. `none`: what cannot be hashed here. Nothing else of the value is told, not its size. A user's
//            own tuple {'$scope_redacted', _} is redacted itself, so that every such tuple in a recording is ours.
//            Whoever has the store has the key: a secret that can be guessed (a PIN) can be tried against its hash.
// The event  has the flag `redacted` (TraceRecord::kRedacted). Its match hash, if it is a message, is of the whole term
//            as it was, made in the tracee: sends and fetches are matched as before.
//
// The rules  keys: the value beside a key that has one of the rules' words: in maps (structs are maps), and in tuples of
//              two, wherever they are (keywords, proplists, headers, {set_password, P}). A key is an atom, a binary, or
//              a list of characters, of at most kKeyBytes. Its words are told apart by whatever is no letter and by camel
//              case, and compared in lower case: user_password, X-Api-Token, authToken2. A rule `*word*` need not be a whole word.
//            records: {Name, Arity, Positions}: elements of such tuples. What a field is called is not known in a node.
//            calls: {Module, Function, Arity, Positions, Result}: arguments and results; also the arguments in
//              {M, F, Args} and {M, F, Args, Info}, which stack traces, child specifications and spawns are made of.
//            texts: what patterns find in binaries and lists of characters, hidden as wholes when the drainer takes the
//              record out of its ring: text.h.
// Not        map keys of one word, atoms, names of processes, pids: what is a name is shown. (A key that is a tuple is
//            looked into.)
//
// Rules are built once, while no tracee looks at them, and then only read, but for what is known of atoms: a byte an atom,
// filled in by whoever asks first. Nothing here allocates, but the text of an atom beyond Latin-1 when it is first seen.
#pragma once

#include <erl_nif.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "erl/c_src/text.h"

namespace scope::tracer {

inline constexpr std::size_t kKeyBytes = 128;

// An automaton over words (Aho-Corasick). A rule is text of a-z and spaces; a space is a word's end.
class KeyWords {
 public:
  void clear();
  // False: it is too much, or has other characters. All rules, then finish().
  bool add(const unsigned char* text, std::size_t size);
  void finish();
  // Is one of the rules in the words of this key?
  bool in(const unsigned char* text, std::size_t size) const;

 private:
  static constexpr unsigned kSymbols = 28, kStates = 2048;  // a-z, space, other letters
  std::uint16_t next_[kStates][kSymbols];
  std::uint16_t back_[kStates];
  bool final_[kStates];
  unsigned states_;
};

class Rules {
 public:
  static constexpr unsigned kMost = 64;  // records, and calls
  static constexpr std::uint32_t kAll = 0xFFFFFFFF;

  // {Words :: [binary()], [{Name, Arity, Mask}], [{M, F | '_', A | '_', Mask, Result :: 0 | 1}], Text}; a mask's bit 0 is
  // the first, Text as text.h has it.
  // nullptr, or what is wrong. REQUIRES zeroed memory, and that nobody looks.
  const char* build(ErlNifEnv* env, ERL_NIF_TERM term);

  bool is_key(ErlNifEnv* env, ERL_NIF_TERM term) const;
  // The elements of such a tuple that are to be hidden; and, of {M, F, Args ..}, of the arguments in its third.
  std::uint32_t in_tuple(ErlNifEnv* env, const ERL_NIF_TERM* e, unsigned arity,
                         std::uint32_t& of_args) const;
  std::uint32_t of_args(ErlNifEnv* env, ERL_NIF_TERM module, ERL_NIF_TERM function,
                        unsigned arity) const;
  bool hides_result(ErlNifEnv* env, ERL_NIF_TERM module, ERL_NIF_TERM function,
                    unsigned arity) const;

  const KeyWords& words() const { return words_; }
  const TextPatterns& texts() const { return texts_; }

 private:
  enum : std::uint8_t { kKnown = 1, kKey = 2, kRecord = 4, kModule = 8 };
  static constexpr std::size_t kMemo = 1u << 21;
  static constexpr std::uint16_t kAnyArity = 256;

  struct Record {
    std::uint32_t name, mask;
    std::uint16_t arity;
  };
  struct Call {
    std::uint32_t module, function, mask;  // function 0: any
    std::uint16_t arity;
    bool any_function, result;
  };

  std::uint8_t about(ErlNifEnv* env, ERL_NIF_TERM atom) const {
    const auto id = static_cast<std::size_t>(atom >> 6);
    if (id < kMemo) {
      const std::uint8_t known = memo_[id].load(std::memory_order_relaxed);
      if (known & kKnown) return known;
    }
    return learn(env, atom);
  }
  std::uint8_t learn(ErlNifEnv* env, ERL_NIF_TERM atom) const;
  void preset(std::uint32_t id, std::uint8_t bit);
  const Call* call(ErlNifEnv* env, ERL_NIF_TERM module, ERL_NIF_TERM function, unsigned arity,
                   const Call* after) const;

  KeyWords words_;
  TextPatterns texts_;
  Record records_[kMost];
  Call calls_[kMost];
  unsigned n_records_, n_calls_;
  mutable std::atomic<std::uint8_t> memo_[kMemo];
};

}  // namespace scope::tracer
