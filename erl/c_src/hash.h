// The match hash of ei_codec/match_hash.h over a living term: at most 64 nodes, the whole term, before anything is cut.
// What cannot be hashed as the other two implementations do has no hash: never a wrong one.
#pragma once

#include <erl_nif.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "ei_codec/wire/siphash.h"

namespace scope::tracer {

using codec::SipHash;

// The texts of the atoms that a thread hashed last. REQUIRES zeroed memory at first.
class AtomTexts {
 public:
  struct Text {
    std::uint32_t id_plus_1 = 0;
    std::uint16_t size = 0;
    char utf8[58] = {};
  };
  // nullptr: not to be had without allocating much, or not Latin-1 where the VM gives only that.
  const Text* of(ErlNifEnv* env, ERL_NIF_TERM atom);

 private:
  Text texts_[256];
};

struct MatchHash {
  std::uint64_t value;
  bool known, bounded;
};

MatchHash match_hash(ErlNifEnv* env, ERL_NIF_TERM term, const std::array<std::byte, 16>& key,
                     AtomTexts& texts);

// The atom's UTF-8 in `out` (1024 bytes); its size, 0 if there is none (the empty atom's too), -1 if it cannot be had.
int atom_utf8(ErlNifEnv* env, ERL_NIF_TERM atom, char* out);

}  // namespace scope::tracer
