// Patterns of secrets in texts, compiled to automata that agents run over bytes: a step a byte, whatever they say. One is
// for the defaults, and the user's own share others as far as they are small: in one, all would have the product of states.
//
//   pattern = branch ('|' branch)*          regular expressions as everybody knows them, without what would need memory of
//   branch  = (atom times?)*                the text: no anchors, no look-around, no back references, nothing lazy
//   atom    = byte | '.' | '\' escape | '[' '^'? class ']' | '(' '?:'? pattern ')'
//   times   = '*' | '+' | '?' | '{' n (',' m?)? '}'
//   escape  = d D w W s S (ASCII) | n r t | any other character but letters and digits, for itself
// Letters match without regard to case. '.' is any byte but newline. A text is looked at with a newline in front of it and
// one behind it, so [^a-z0-9] can stand for its ends, too. What a pattern matches has at least kShortest bytes.
//
// The automaton  {Classes :: <<_:256/unit:8>>, Columns, Next :: <<_:16/little ..>>}: bytes fall into classes below Columns;
//                Next at State * Columns + Class is the next state in its lowest 12 bits, and what is known then: 0x8000 a
//                secret (no need to go on), 0x4000 perhaps a card number (to be proven by its check digit), 0x2000 a match
//                may be under way that has kOpenBytes: a text that was cut off there is hidden, too. State 0 begins.
// How agents use it: erl/c_src/text.h. Thread Any.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ei_codec/base/result.h"

namespace scope::node {

struct TextPatterns {
  static constexpr std::uint16_t kSecret = 0x8000, kCard = 0x4000, kOpen = 0x2000, kState = 0x0FFF;
  static constexpr unsigned kShortest = 4, kOpenBytes = 6;
  static constexpr std::size_t kMost = 8;  // automata at once

  std::string classes;  // 256 bytes
  unsigned columns = 0;
  std::vector<std::uint16_t> next;
};

// `defaults`: with those for cards, bearer and basic credentials, JWTs, PASSWORD=.. and the like, URLs with a password in
// them, and private keys. Errors: bad_value, with the pattern as its detail.
Result<std::vector<TextPatterns>> compile_text_patterns(bool defaults,
                                                        std::span<const std::string> patterns);

}  // namespace scope::node
