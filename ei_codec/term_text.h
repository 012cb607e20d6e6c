// The text of single terms and characters in each syntax, with no cap: what term_print puts together. Not for others.
#pragma once

#include <string>

#include "ei_codec/term_print.h"

namespace scope::codec::text {

bool printable(std::uint32_t code_point);

// Appends a character as it stands between quotes; `next` is the character after it or 0 (Elixir escapes "#{").
void escape(std::string& out, std::uint32_t c, std::uint32_t next, char quote, Syntax syntax);

// UTF-8 text between quotes; what is not UTF-8 becomes U+FFFD.
std::string quoted(std::string_view text, char quote, Syntax syntax);

// An atom as a value, and as a key of a keyword list or of a map of atoms in Elixir ("a: ").
std::string atom(std::string_view name, Syntax syntax);
std::string elixir_key(std::string_view name);
bool elixir_alias(std::string_view name);  // Elixir.Foo.Bar

std::string real(double value);
// REQUIRES at most kDecimalBytes of magnitude for decimal; more are written in hexadecimal.
inline constexpr std::size_t kDecimalBytes = 1024;
std::string big(const BigParts& big, Syntax syntax);

// Pids, references, ports and funs, unquoted.
std::string opaque(const TermView& term, Syntax syntax);

std::string base64(Bytes bytes);

}  // namespace scope::codec::text
