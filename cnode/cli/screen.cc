#include "cnode/cli/screen.h"

#include <fmt/format.h>

#include <cstdio>

#include "ei_codec/term_builder.h"

namespace scope::node::cli {

using codec::Syntax;
using codec::TermView;

std::string Screen::term(const TermView& term, std::size_t max_bytes) const {
  return printable(codec::print(term, syntax, max_bytes));
}

std::string Screen::mfa(const TermView& mfa) const {
  if (mfa.arity() != 3u || !mfa.element(0).atom() || !mfa.element(1).atom()) return term(mfa);
  const auto function = printable(codec::print(mfa.element(1), Syntax::erlang));
  std::string arity = "/_";
  if (const auto n = mfa.element(2).integer()) arity = fmt::format("/{}", *n);
  if (const auto args = mfa.element(2).list()) arity = fmt::format("/{}", args->left());
  return fmt::format("{}{}{}{}", term(mfa.element(0)), syntax == Syntax::elixir ? "." : ":",
                     function, arity);
}

void Screen::print(std::string_view text) const {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

void Screen::print_json(const TermView& term) const {
  constexpr std::size_t kWhole = std::size_t{1} << 40;
  print(codec::print(term, Syntax::json, kWhole) + "\n");
}

void Screen::remark(std::string_view text) const {
  const auto line = paint(Paint::dim, wrap(text, err.width), err) + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

Trouble Trouble::of(const Error& error) {
  return {std::string(code_name(error.code)), error.message, error.field, error.got, {}};
}

void show(const Screen& screen, std::string_view command, const Trouble& t) {
  if (screen.json) {
    codec::TermBuilder b;
    b.map(1).atom("error").map(5);
    const auto member = [&](std::string_view key, const std::string& value) {
      b.atom(key);
      if (value.empty()) {
        b.atom("nil");
      } else {
        b.binary(std::string_view(value));
      }
    };
    member("code", t.code);
    member("message", t.message);
    member("field", t.field);
    member("got", t.got);
    member("next", t.next);
    if (const auto view = codec::view(b.bytes())) screen.print_json(*view);
    return;
  }
  std::string text = paint(Paint::red, fmt::format("{}: ", command), screen.err);
  std::string what = printable(t.message.empty() ? t.code : t.message);
  if (!t.field.empty()) what += fmt::format(" (field {})", printable(t.field));
  if (!t.got.empty()) what += fmt::format(" (got {})", printable(t.got));
  text += what;
  if (!t.next.empty()) text += "\n  " + paint(Paint::dim, printable(t.next), screen.err);
  text += '\n';
  std::fwrite(text.data(), 1, text.size(), stderr);
}

}  // namespace scope::node::cli
