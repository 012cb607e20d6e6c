#include "ei_codec/term_text.h"

#include <algorithm>
#include <array>
#include <vector>

#include "ei_codec/term_tags.h"
#include "fmt/format.h"

namespace scope::codec::text {
namespace {

bool lower(char c) { return c >= 'a' && c <= 'z'; }
bool upper(char c) { return c >= 'A' && c <= 'Z'; }
bool word(char c) { return lower(c) || upper(c) || (c >= '0' && c <= '9') || c == '_'; }

constexpr std::array<std::string_view, 29> kErlangReserved = {
    "after", "and",   "andalso", "band",    "begin", "bnot", "bor",  "bsl", "bsr",   "bxor",
    "case",  "catch", "cond",    "div",     "end",   "fun",  "if",   "let", "maybe", "not",
    "of",    "or",    "orelse",  "receive", "rem",   "try",  "when", "xor", "else"};

bool erlang_plain(std::string_view name) {
  return !name.empty() && lower(name[0]) &&
         std::ranges::all_of(name, [](char c) { return word(c) || c == '@'; }) &&
         std::ranges::find(kErlangReserved, name) == kErlangReserved.end();
}

bool elixir_plain(std::string_view name) {
  if (!name.empty() && (name.back() == '?' || name.back() == '!')) name.remove_suffix(1);
  return !name.empty() && (lower(name[0]) || upper(name[0]) || name[0] == '_') &&
         std::ranges::all_of(name, [](char c) { return word(c) || c == '@'; });
}

constexpr std::string_view kElixir = "Elixir.";

// A node's name inside <..>: as it is where that is plain, else quoted.
std::string node_name(std::string_view name) {
  const bool plain =
      std::ranges::all_of(name, [](char c) { return word(c) || c == '@' || c == '.' || c == '-'; });
  return plain ? std::string(name) : quoted(name, '\'', Syntax::erlang);
}

std::string elixir_module(std::string_view name) { return atom(name, Syntax::elixir); }

}  // namespace

bool printable(std::uint32_t c) {
  return (c >= 32 && c <= 126) || (c >= 8 && c <= 13) || c == 27 || (c >= 0xA0 && c <= 0xD7FF) ||
         (c >= 0xE000 && c <= 0xFFFD) || (c >= 0x10000 && c <= 0x10FFFF);
}

void escape(std::string& out, std::uint32_t c, std::uint32_t next, char quote, Syntax syntax) {
  const auto pair = [&out](char second) {
    out += '\\';
    out += second;
  };
  const bool json = syntax == Syntax::json;
  switch (c) {
    case '\n':
      return pair('n');
    case '\r':
      return pair('r');
    case '\t':
      return pair('t');
    case '\b':
      return pair('b');
    case '\f':
      return pair('f');
    case '\\':
      return pair('\\');
    default:
      break;
  }
  if (c == static_cast<unsigned char>(quote)) return pair(quote);
  if (!json && c == '\v') return pair('v');
  if (!json && c == 27) return pair('e');
  if (syntax == Syntax::elixir && c == '#' && next == '{') return pair('#');
  const bool control = c < 32 || (c >= 127 && c < 0xA0);  // a terminal would obey them
  if (control || (!json && !printable(c))) {
    switch (syntax) {
      case Syntax::erlang:
        fmt::format_to(std::back_inserter(out), "\\x{{{:X}}}", c);
        return;
      case Syntax::elixir:  // there \xNN is a byte
        out += c < 128 ? fmt::format("\\x{:02X}", c) : fmt::format("\\u{{{:X}}}", c);
        return;
      case Syntax::json:
        fmt::format_to(std::back_inserter(out), "\\u{:04x}", c);
        return;
    }
  }
  etf::append_utf8(out, c);
}

std::string quoted(std::string_view text, char quote, Syntax syntax) {
  std::string out(1, quote);
  while (!text.empty()) {
    const etf::CodePoint c = etf::decode_utf8(text);
    text.remove_prefix(std::max(1u, c.length));
    const std::uint32_t next = text.empty() ? 0 : static_cast<unsigned char>(text[0]);
    escape(out, c.length ? c.value : 0xFFFD, next, quote, syntax);
  }
  out += quote;
  return out;
}

bool elixir_alias(std::string_view name) {
  if (!name.starts_with(kElixir)) return false;
  name.remove_prefix(kElixir.size());
  bool start = true;
  for (const char c : name) {
    if (start ? !upper(c) : !(word(c) || c == '.')) return false;
    start = c == '.';
  }
  return !start;
}

std::string atom(std::string_view name, Syntax syntax) {
  switch (syntax) {
    case Syntax::erlang:
      return erlang_plain(name) ? std::string(name) : quoted(name, '\'', syntax);
    case Syntax::elixir:
      if (name == "nil" || name == "true" || name == "false") return std::string(name);
      if (elixir_alias(name)) return std::string(name.substr(kElixir.size()));
      return ":" + (elixir_plain(name) ? std::string(name) : quoted(name, '"', syntax));
    case Syntax::json:
      if (name == "true" || name == "false") return std::string(name);
      if (name == "nil" || name == "null") return "null";
      return quoted(name, '"', syntax);
  }
  return {};
}

std::string elixir_key(std::string_view name) {
  return (elixir_plain(name) ? std::string(name) : quoted(name, '"', Syntax::elixir)) + ": ";
}

std::string real(double value) {
  std::string out = fmt::format("{}", value);
  std::erase(out, '+');
  const std::size_t exponent = out.find('e');
  if (out.find('.') == std::string::npos) {
    out.insert(exponent == std::string::npos ? out.size() : exponent, ".0");
  }
  return out;
}

std::string big(const BigParts& big, Syntax syntax) {
  std::string digits;  // from the last to the first
  const Bytes magnitude = big.magnitude;
  std::string_view prefix;
  if (magnitude.size() > kDecimalBytes) {
    constexpr std::string_view kHex = "0123456789ABCDEF";
    prefix = syntax == Syntax::erlang ? "16#" : "0x";
    for (const std::byte byte : magnitude) {
      digits += kHex[static_cast<unsigned>(byte) & 15];
      digits += kHex[static_cast<unsigned>(byte) >> 4];
    }
    while (digits.back() == '0') digits.pop_back();
  } else {
    std::vector<std::uint32_t> words((magnitude.size() + 3) / 4);
    for (std::size_t i = 0; i < magnitude.size(); ++i) {
      words[i / 4] |= static_cast<std::uint32_t>(magnitude[i]) << (i % 4 * 8);
    }
    constexpr std::uint64_t kBillion = 1'000'000'000;
    while (!words.empty()) {
      std::uint64_t rest = 0;
      for (std::size_t i = words.size(); i-- > 0;) {
        const std::uint64_t value = rest << 32 | words[i];
        words[i] = static_cast<std::uint32_t>(value / kBillion);
        rest = value % kBillion;
      }
      while (!words.empty() && words.back() == 0) words.pop_back();
      for (int i = 0; i < 9 && (rest != 0 || !words.empty()); ++i, rest /= 10) {
        digits += static_cast<char>('0' + rest % 10);
      }
    }
    if (digits.empty()) digits = "0";
  }
  std::string out(big.negative && digits != "0" ? "-" : "");
  out += prefix;
  out.append(digits.rbegin(), digits.rend());
  return out;
}

std::string opaque(const TermView& term, Syntax syntax) {
  const bool elixir = syntax == Syntax::elixir;
  if (const auto pid = term.pid()) {
    return fmt::format("{}<{}.{}.{}>", syntax == Syntax::erlang ? "" : "#PID", node_name(pid->node),
                       pid->id, pid->serial);
  }
  if (const auto ref = term.reference()) {
    std::string out = (elixir ? "#Reference<" : "#Ref<") + node_name(ref->node);
    for (std::uint32_t i = ref->count; i-- > 0;) out += fmt::format(".{}", ref->ids[i]);
    return out + ">";
  }
  if (const auto port = term.port()) {
    return fmt::format("#Port<{}.{}>", node_name(port->node), port->id);
  }
  if (const auto fun = term.export_fun()) {
    if (elixir) {
      const std::string name = elixir_plain(fun->function)
                                   ? std::string(fun->function)
                                   : quoted(fun->function, '"', Syntax::elixir);
      return fmt::format("&{}.{}/{}", elixir_module(fun->module), name, fun->arity);
    }
    return fmt::format("fun {}:{}/{}", atom(fun->module, Syntax::erlang),
                       atom(fun->function, Syntax::erlang), fun->arity);
  }
  const auto fun = *term.fun();
  if (elixir) {
    return fmt::format("#Function<{}.{}/{} in {}>", fun.index, fun.old_uniq, fun.arity,
                       elixir_module(fun.module));
  }
  return fmt::format("#Fun<{}.{}.{}>", atom(fun.module, Syntax::erlang), fun.index, fun.old_uniq);
}

std::string base64(Bytes bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t n = std::min<std::size_t>(3, bytes.size() - i);
    std::uint32_t value = 0;
    for (std::size_t j = 0; j < 3; ++j) {
      value = value << 8 | (j < n ? static_cast<std::uint32_t>(bytes[i + j]) : 0u);
    }
    for (std::size_t j = 0; j < 4; ++j) {
      out += j <= n ? kDigits[value >> (18 - 6 * j) & 63] : '=';
    }
  }
  return out;
}

}  // namespace scope::codec::text
