// The codec as an Erlang port: reads terms in frames of {packet, 4}, answers what the codec makes of each. codec_prop.erl
// compares. Answer: {ok, Rebuilt, Erlang, Elixir, Json, Hash, Bounded, Complaints} or {error, Text}, all texts binaries.
#include <boost/json/src.hpp>

#include "ei_codec/match_hash.h"
#include "ei_codec/term_builder.h"
#include "ei_codec/term_diff.h"
#include "ei_codec/term_print.h"
#include "ei_codec/term_view.h"
#include "fmt/format.h"
#include "test/property/port_io.h"

namespace scope::codec {
namespace {

using test::read_all;
using test::write_all;

// Makes the term anew from what the readers say, wherever the builder can.
void rebuild(const TermView& term, TermBuilder& out) {
  const auto items = [&out](ListView it) {
    for (; !it.done(); it.next()) rebuild(it.item(), out);
  };
  switch (term.kind()) {
    case TermKind::atom:
      out.atom(*term.atom());
      return;
    case TermKind::integer:
      out.integer(*term.integer());
      return;
    case TermKind::big:
      if (const auto value = term.integer()) {
        out.integer(*value);
      } else if (const auto large = term.unsigned_integer()) {
        out.unsigned_integer(*large);
      } else {
        out.term(term);
      }
      return;
    case TermKind::real:
      out.real(*term.real());
      return;
    case TermKind::pid:
      out.pid(*term.pid());
      return;
    case TermKind::port:
      out.port(*term.port());
      return;
    case TermKind::reference:
      out.reference(*term.reference());
      return;
    case TermKind::tuple:
      out.tuple(*term.arity());
      items(*term.elements());
      return;
    case TermKind::nil:
      out.nil();
      return;
    case TermKind::string: {
      std::string bytes;
      for (ListView it = *term.list(); !it.done(); it.next()) {
        bytes += static_cast<char>(*it.item().integer());
      }
      out.charlist(bytes);
      return;
    }
    case TermKind::list: {
      ListView it = *term.list();
      out.list(it.left());
      items(it);
      while (!it.done()) it.next();
      if (const auto tail = it.tail()) {
        rebuild(*tail, out);
      } else {
        out.nil();
      }
      return;
    }
    case TermKind::binary:
      out.binary(*term.binary());
      return;
    case TermKind::map: {
      MapView it = *term.map();
      out.map(it.left());
      for (; !it.done(); it.next()) {
        rebuild(it.key(), out);
        rebuild(it.value(), out);
      }
      return;
    }
    default:
      out.term(term);
  }
}

// What must hold of every term, whatever the BEAM says of it. Empty: all of it holds.
std::string complaints(const TermView& term, const TermView& rebuilt) {
  if (!equal(term, rebuilt)) return "not equal to its rebuilt form";
  if (structural_hash(term) != structural_hash(rebuilt)) return "structural hashes differ";
  if (!diff(term, rebuilt).empty()) return "a diff to its rebuilt form";
  if (term_length(term.start()) != term.size()) return "its length";
  for (const Syntax syntax : {Syntax::erlang, Syntax::elixir, Syntax::json}) {
    const std::string whole = print(term, syntax, 64u << 20);
    for (std::size_t cap = kMinPrint; cap < whole.size() + 20; cap += 1 + cap / 2) {
      const std::string text = print(term, syntax, cap);
      if (text.size() > cap)
        return fmt::format("{} bytes printed, cap {}: {}", text.size(), cap, text);
      // Marks and closing brackets are kept room for, so a text just below the cap may be cut as well.
      if (text != whole && text.find("...") == std::string::npos) {
        return fmt::format("cut without a mark at {}: {}", cap, text);
      }
      boost::system::error_code error;
      if (syntax == Syntax::json) {
        boost::json::parse(text, error, {}, {.max_depth = 600});
        if (error) return fmt::format("JSON cut at {}: {}: {}", cap, error.message(), text);
      }
    }
  }
  return {};
}

void answer(Bytes message, const HashKey& key, TermBuilder& out) {
  const auto term = view_message(message);
  if (!term) {
    out.tuple(2).atom("error").binary(to_string(term.error()));
    return;
  }
  TermBuilder again;
  rebuild(*term, again);
  const auto rebuilt = view(again.bytes());
  if (!rebuilt) {
    out.tuple(2).atom("error").binary("rebuilt: " + to_string(rebuilt.error()));
    return;
  }
  const MatchHash hash = match_hash(*term, key);
  TermBuilder encoded = TermBuilder::with_version();
  encoded.raw(again.bytes());
  constexpr std::size_t kAll = 64u << 20;
  out.tuple(8).atom("ok").binary(encoded.bytes());
  out.binary(print(*term, Syntax::erlang, kAll)).binary(print(*term, Syntax::elixir, kAll));
  out.binary(print(*term, Syntax::json, kAll));
  out.unsigned_integer(hash.value).boolean(hash.bounded).binary(complaints(*term, *rebuilt));
}

int run() {
  HashKey key;
  for (std::size_t i = 0; i < key.size(); ++i) key[i] = static_cast<std::byte>(i);
  TermBuilder out = TermBuilder::with_version();
  std::vector<std::byte> frame;
  for (std::uint32_t size = 0; read_all(&size, 4);) {
    frame.resize(__builtin_bswap32(size));
    if (!read_all(frame.data(), frame.size())) return 1;
    out.clear();
    answer(frame, key, out);
    size = __builtin_bswap32(static_cast<std::uint32_t>(out.size()));
    if (!write_all(&size, 4) || !write_all(out.bytes().data(), out.size())) return 1;
  }
  return 0;
}

}  // namespace
}  // namespace scope::codec

int main() { return scope::codec::run(); }
