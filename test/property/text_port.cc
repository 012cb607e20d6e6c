// Patterns of texts as an Erlang port: reads a pattern in frames of {packet, 4}, answers its automaton as agents get it, or
// error. text_prop.erl compares with the BEAM's own regular expressions.
#include <vector>

#include "cnode/config.h"
#include "cnode/redaction.h"
#include "ei_codec/term_builder.h"
#include "test/property/port_io.h"

namespace scope::node {
namespace {

int run() {
  auto out = codec::TermBuilder::with_version();
  Config config;
  config.redact_defaults = false;
  std::string pattern;
  for (std::uint32_t size = 0; test::read_all(&size, 4);) {
    pattern.resize(__builtin_bswap32(size));
    if (!test::read_all(pattern.data(), pattern.size())) return 1;
    config.redact_patterns = {pattern};
    out.clear();
    check_text_patterns(config) ? write_redaction(out, config) : void(out.atom("error"));
    size = __builtin_bswap32(static_cast<std::uint32_t>(out.size()));
    if (!test::write_all(&size, 4) || !test::write_all(out.bytes().data(), out.size())) return 1;
  }
  return 0;
}

}  // namespace
}  // namespace scope::node

int main() { return scope::node::run(); }
