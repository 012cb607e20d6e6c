// Any bytes as a term: validate, print, copy, hash, compare, diff.
#include <cstdlib>

#include "ei_codec/match_hash.h"
#include "ei_codec/term_builder.h"
#include "ei_codec/term_diff.h"
#include "ei_codec/term_print.h"

using namespace scope::codec;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  if (size > 1) {  // the quick way and the thorough one, term_validate.cc
    const auto quick = validate(bytes), thorough = validate(bytes, {.max_nodes = size - 1});
    const bool counted = !thorough && thorough.error().code == scope::Code::too_large;
    if (!counted && (quick.has_value() != thorough.has_value() || (quick && *quick != *thorough)))
      std::abort();
  }
  const auto term = view(bytes);
  if (!term) return 0;
  for (const Syntax syntax : {Syntax::erlang, Syntax::elixir, Syntax::json}) {
    for (const std::size_t cap : {std::size_t{50}, std::size_t{100'000}}) {
      if (print(*term, syntax, cap).size() > cap) std::abort();
    }
  }
  TermBuilder out;
  out.term(*term);
  const auto copy = view(out.bytes());
  if (!copy || !equal(*term, *copy) || structural_hash(*term) != structural_hash(*copy))
    std::abort();
  if (match_hash(*term, {}).value != match_hash(*copy, {}).value) std::abort();
  TermBuilder difference;  // not `out`: the diff points into it
  write_diff(diff(*term, *copy), difference);
  if (!validate(difference.bytes())) std::abort();
  return 0;
}
