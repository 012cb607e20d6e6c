#include "cnode/cli/arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace scope::node::cli {
namespace {

bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
bool is_lower(char c) { return (c >= 'a' && c <= 'z') || c == '_'; }

std::unexpected<Error> bad(std::string_view field, std::string why, std::string_view text) {
  return fail(Code::bad_value, std::move(why), std::string(field), std::string(text));
}

// "0.123.0" or "shop@host.123.0", with or without <> and #PID; nullopt: it is no pid.
struct PidText {
  std::string_view owner;  // "0", or the node; another number means nothing here
  std::uint32_t id = 0, serial = 0;
};
std::optional<PidText> pid_text(std::string_view s) {
  if (s.starts_with("#PID")) s.remove_prefix(4);
  if (s.starts_with('<') != s.ends_with('>') || s.empty()) return std::nullopt;
  const bool bracketed = s.starts_with('<');
  if (bracketed) s = s.substr(1, s.size() - 2);
  auto last_number = [&s](std::uint32_t& out) {
    const auto dot = s.rfind('.');
    if (dot == std::string_view::npos || dot + 1 == s.size()) return false;
    const auto [end, ec] = std::from_chars(s.data() + dot + 1, s.data() + s.size(), out);
    if (ec != std::errc{} || end != s.data() + s.size()) return false;
    s = s.substr(0, dot);
    return true;
  };
  PidText pid;
  if (!last_number(pid.serial) || !last_number(pid.id) || s.empty()) return std::nullopt;
  // Without brackets stock@a@10.0.0.1 would look like a pid, too.
  const bool node = bracketed && std::ranges::count(s, '@') == 1;
  if (!node && s.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
  pid.owner = s;
  return pid;
}

std::string_view trim(std::string_view s) {
  while (!s.empty() && s.front() == ' ') s.remove_prefix(1);
  while (!s.empty() && s.back() == ' ') s.remove_suffix(1);
  return s;
}

Result<std::uint8_t> parse_arity(std::string_view text, std::string_view whole) {
  std::uint8_t arity = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), arity);
  if (text.empty() || ec != std::errc{} || end != text.data() + text.size()) {
    return bad("mfa", "an arity is a number from 0 to 255", whole);
  }
  return arity;
}

}  // namespace

Result<std::string> parse_atom(std::string_view text) {
  std::string_view s = trim(text);
  const bool elixir = s.starts_with(':');
  if (elixir) s.remove_prefix(1);
  std::string atom;
  if (s.size() >= 2 && (s.front() == '\'' || s.front() == '"') && s.back() == s.front()) {
    atom = s.substr(1, s.size() - 2);
  } else {
    const bool whole = s == "Elixir" || s.starts_with("Elixir.");
    if (!elixir && !whole && !s.empty() && is_upper(s.front())) atom = "Elixir.";
    atom += s;
  }
  if (atom.empty()) return bad("name", "an empty name", text);
  std::size_t characters = 0;
  for (char c : atom) characters += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
  if (characters > 255)
    return bad("name", "an atom has at most 255 characters", text.substr(0, 40));
  return atom;
}

Result<std::string> parse_node(std::string_view text) {
  ASSIGN_OR_RETURN(std::string node,
                   parse_atom(trim(text).starts_with(':') || trim(text).starts_with('\'')
                                  ? std::string(text)
                                  : fmt::format("'{}'", trim(text))));
  const auto at = node.find('@');
  if (at == 0 || at == std::string::npos || at + 1 == node.size() ||
      node.find('@', at + 1) != std::string::npos ||
      node.find_first_of(" \t\n/") != std::string::npos) {
    return bad("node", "a node is called name@host", text);
  }
  return node;
}

Result<ProcessArg> parse_process(std::string_view text, std::string_view node) {
  ProcessArg arg;
  arg.node = node;
  std::string_view s = trim(text);
  if (s.starts_with('{') && s.ends_with('}')) {
    const auto inner = s.substr(1, s.size() - 2);
    const auto comma = inner.rfind(',');
    if (comma == std::string_view::npos) return bad("pid", "expected {name, node@host}", text);
    ASSIGN_OR_RETURN(arg.node, parse_node(inner.substr(comma + 1)));
    s = trim(inner.substr(0, comma));
  } else if (const auto at = s.find('@'); at != std::string_view::npos && !pid_text(s) &&
                                          !s.ends_with('\'') && !s.ends_with('"')) {
    ASSIGN_OR_RETURN(arg.node, parse_node(s.substr(at + 1)));
    s = s.substr(0, at);
  }
  if (const auto pid = pid_text(s)) {
    if (pid->owner.find('@') != std::string_view::npos) {
      ASSIGN_OR_RETURN(arg.node, parse_node(pid->owner));
    } else if (pid->owner != "0") {
      return bad(
          "pid",
          "a pid whose first number is not 0 names another node by a number that only the node "
          "that printed it knows; write <0.N.M>@node",
          text);
    }
    arg.id = pid->id;
    arg.serial = pid->serial;
    return arg;
  }
  if (s.empty() || s.find_first_of("<>#{}") != std::string_view::npos ||
      (s.front() >= '0' && s.front() <= '9')) {
    return bad(
        "pid",
        "a process is a pid such as 0.123.0 or <0.123.0>@node, or a registered name such as stock, "
        "stock@node or Shop.Stock@node",
        text);
  }
  ASSIGN_OR_RETURN(arg.name, parse_atom(s));
  return arg;
}

void ProcessArg::encode(codec::TermBuilder& out) const {
  if (!node.empty()) out.tuple(2);
  if (name.empty()) {
    out.binary(std::string_view(fmt::format("<0.{}.{}>", id, serial)));
  } else {
    out.atom(name);
  }
  if (!node.empty()) out.atom(node);
}

Result<MfaArg> parse_mfa(std::string_view text) {
  MfaArg mfa;
  std::string_view s = trim(text);
  std::string_view function, arity;
  const auto quoted = s.find('\'');  // 'a:b':'c.d'/1: quotes hide separators
  if (const auto slash = s.rfind('/');
      slash != std::string_view::npos && (quoted == std::string_view::npos || s.back() != '\'')) {
    arity = s.substr(slash + 1);
    s = s.substr(0, slash);
    ASSIGN_OR_RETURN(mfa.arity, parse_arity(arity, text));
  }
  auto separator = std::string_view::npos;
  bool in_quotes = false;
  for (std::size_t i = 1; i < s.size(); ++i) {
    if (s[i] == '\'' || s[i] == '"' || (i == 1 && s[0] == '\''))
      in_quotes = s[i] == '\'' || s[i] == '"' ? !in_quotes : true;
    if (in_quotes) continue;
    if (s[i] == ':') {
      separator = i;
      break;
    }
    // Shop.Stock.take and :lists.map: the last part is a function if it begins in lower case.
    if (s[i] == '.' && i + 1 < s.size() && (is_lower(s[i + 1]) || s[i + 1] == '\'') &&
        (is_upper(s[0]) || s[0] == ':')) {
      separator = i;
      break;
    }
  }
  if (separator != std::string_view::npos) {
    function = s.substr(separator + 1);
    s = s.substr(0, separator);
    if (function == "_") {
      function = {};
    } else {
      ASSIGN_OR_RETURN(mfa.function, parse_atom(is_upper(function.empty() ? 'a' : function.front())
                                                    ? fmt::format("'{}'", function)
                                                    : std::string(function)));
    }
  }
  ASSIGN_OR_RETURN(mfa.module, parse_atom(s));
  if (mfa.arity && mfa.function.empty()) {
    return bad("mfa",
               "an arity without a function; write module:function/arity or Module.function/arity",
               text);
  }
  return mfa;
}

void MfaArg::encode(codec::TermBuilder& out) const {
  if (!function.empty() && !arity) {
    out.tuple(2).atom(module).atom(function);
    return;
  }
  out.tuple(3).atom(module).atom(function.empty() ? "_" : function);
  if (arity) {
    out.integer(*arity);
  } else {
    out.atom("_");
  }
}

std::vector<std::string> split_commas(const std::vector<std::string>& given) {
  std::vector<std::string> out;
  for (std::string_view s : given) {
    while (!s.empty()) {
      const auto comma = s.find(',');
      const auto part = trim(s.substr(0, comma));
      if (!part.empty()) out.emplace_back(part);
      s.remove_prefix(comma == std::string_view::npos ? s.size() : comma + 1);
    }
  }
  return out;
}

}  // namespace scope::node::cli
