// An Erlang term as text, as one types it: for --match. Atoms ('$1', '_', ok), numbers, "charlists", <<"binaries">>, tuples,
// lists with a tail, maps. No pids, references or funs: they have no text. Pure.
#pragma once

#include <string_view>

#include "ei_codec/base/result.h"
#include "ei_codec/term_builder.h"

namespace scope::node::cli {

// Errors: bad_value, with what was expected where.
Result<codec::TermBuilder> parse_term(std::string_view text);

}  // namespace scope::node::cli
