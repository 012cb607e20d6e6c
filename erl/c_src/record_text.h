// What text.h says, of a record that the drainer took out of a ring.
#pragma once

#include <erl_nif.h>

#include <cstddef>

#include "erl/c_src/ring.h"
#include "erl/c_src/state.h"
#include "erl/c_src/text.h"

namespace scope::tracer {

// A record with texts hidden is at most so many times as long, and 8 more: a mark is 18 bytes, the shortest text 7.
inline constexpr std::size_t kHiddenGrowth = 3;

// Is the term at `p` a list that is a text with a secret in it?
bool list_has_secret(const TextPatterns& patterns, const std::byte* p);

// Writes the record at `record` again with its texts hidden, its flags and size adapted, and with the match hash of the
// whole if it is a message that has none yet; its new size. `terms`: where the first of its terms begins. `out` has room.
std::uint32_t hide_texts(ErlNifEnv* env, const TextPatterns& patterns, const std::byte* record,
                         const std::byte* terms, AtomTexts& texts, std::byte* out);

// The list of arguments that the record's payload is, is no text itself.
inline bool has_arguments(const RecordHead& head) {
  return head.kind == kEntry || head.kind == kSpawn;
}

}  // namespace scope::tracer
