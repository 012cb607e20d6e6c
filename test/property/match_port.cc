// Match specifications as an Erlang port: reads {Term, Match, Cut} in frames of {packet, 4}, answers yes, no or unknown, or
// {error, Text}. match_prop.erl compares with a real BEAM.
#include <vector>

#include "analysis/match_spec.h"
#include "ei_codec/term_builder.h"
#include "test/property/port_io.h"

namespace scope::analysis {
namespace {

using test::read_all;
using test::write_all;

void answer(codec::Bytes message, codec::TermBuilder& out) {
  const auto request = codec::view_message(message);
  if (!request || request->arity() != 3u) {
    out.tuple(2).atom("error").binary("no request");
    return;
  }
  const auto spec = MatchSpec::compile(request->element(1));
  if (!spec) {
    out.tuple(2).atom("error").binary(to_string(spec.error()));
    return;
  }
  constexpr std::string_view kNames[] = {"no", "yes", "unknown"};
  const auto verdict = (*spec)->matches(request->element(0), request->element(2).is_atom("true"));
  out.atom(kNames[static_cast<unsigned>(verdict)]);
}

int run() {
  codec::TermBuilder out = codec::TermBuilder::with_version();
  std::vector<std::byte> frame;
  for (std::uint32_t size = 0; read_all(&size, 4);) {
    frame.resize(__builtin_bswap32(size));
    if (!read_all(frame.data(), frame.size())) return 1;
    out.clear();
    answer(frame, out);
    size = __builtin_bswap32(static_cast<std::uint32_t>(out.size()));
    if (!write_all(&size, 4) || !write_all(out.bytes().data(), out.size())) return 1;
  }
  return 0;
}

}  // namespace
}  // namespace scope::analysis

int main() { return scope::analysis::run(); }
