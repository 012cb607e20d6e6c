// What the settings say is to be redacted (redact, redact_defaults, redact_key, redact_record, redact_call,
// redact_pattern), checked and
// told to agents. What they do with it: erl/c_src/redact.h.
//
//   redact_key     a word, or *part of one*; several words: card_number
//   redact_record  NAME/SIZE:2,3      elements of such tuples, the name is element 1
//   redact_call    MODULE:FUNCTION/ARITY:1,result     arguments and results; FUNCTION and ARITY may be _
//   redact_pattern a regular expression of secrets in texts (text_patterns.h)
// Thread Any.
#pragma once

#include <string_view>

#include "cnode/config.h"
#include "ei_codec/term_builder.h"

namespace scope::node {

// Is `text` a value of this setting? Settings of others are.
Status check_redaction(std::string_view key, std::string_view text);

// The patterns of texts, which may be too much together though each of them is none.
Status check_text_patterns(const Config& config);

// As scope_redact:rules/1 takes it: off, or a map.
void write_redaction(codec::TermBuilder& out, const Config& config);

}  // namespace scope::node
