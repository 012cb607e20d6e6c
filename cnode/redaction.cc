#include "cnode/redaction.h"

#include <algorithm>
#include <charconv>
#include <memory>
#include <mutex>
#include <optional>

#include "cnode/text_patterns.h"

namespace scope::node {
namespace {

using codec::TermBuilder;

constexpr std::size_t kMostPosition = 32;

struct Positions {
  std::vector<std::uint64_t> at;
  bool result = false;
};
struct Rule {
  std::string_view module, name;
  std::optional<std::uint64_t> arity;  // nullopt: any
  Positions positions;
};

std::optional<std::uint64_t> number(std::string_view text, std::uint64_t most) {
  std::uint64_t value = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (ec != std::errc{} || end != text.data() + text.size() || value > most) return std::nullopt;
  return value;
}

bool read_positions(std::string_view text, Positions& out) {
  while (true) {
    const auto comma = text.find(',');
    const auto one = text.substr(0, comma);
    const auto position = number(one, kMostPosition);
    if (one == "result") {
      out.result = true;
    } else if (position && *position > 0) {
      out.at.push_back(*position);
    } else {
      return false;
    }
    if (comma == text.npos) return true;
    text.remove_prefix(comma + 1);
  }
}

// [MODULE:]NAME/ARITY:POSITIONS. A module's name may have dots and colons before the last one in front of the slash.
std::optional<Rule> read_rule(std::string_view text, bool call) {
  const auto slash = text.rfind('/'), colon = text.rfind(':');
  if (slash == text.npos || colon == text.npos || colon < slash) return std::nullopt;
  Rule rule;
  rule.name = text.substr(0, slash);
  const auto arity = text.substr(slash + 1, colon - slash - 1);
  rule.arity = number(arity, 255);
  if (!rule.arity && !(call && arity == "_")) return std::nullopt;
  if (!read_positions(text.substr(colon + 1), rule.positions)) return std::nullopt;
  if (call) {
    const auto split = rule.name.rfind(':');
    if (split == rule.name.npos || split == 0) return std::nullopt;
    rule.module = rule.name.substr(0, split);
    rule.name.remove_prefix(split + 1);
  } else if (rule.positions.result) {
    return std::nullopt;
  }
  if (rule.name.empty() || rule.name.size() > 255 || rule.module.size() > 255) return std::nullopt;
  return rule;
}

void write_list(TermBuilder& out, const std::vector<std::uint64_t>& numbers) {
  for (const auto n : numbers) out.list_cons().unsigned_integer(n);
  out.nil();
}

void write_rules(TermBuilder& out, const std::vector<std::string>& rules, bool call) {
  for (const auto& text : rules) {
    const auto rule = read_rule(text, call);
    if (!rule) continue;  // checked when it was set
    out.list_cons().tuple(call ? 5 : 3);
    if (call) out.binary(rule->module);
    out.binary(rule->name);
    rule->arity ? out.unsigned_integer(*rule->arity) : out.atom("_");
    write_list(out, rule->positions.at);
    if (call) out.boolean(rule->positions.result);
  }
  out.nil();
}

// Made once for all agents: it takes some 70 ms.
Result<std::shared_ptr<const std::vector<TextPatterns>>> text_patterns(const Config& config) {
  static std::mutex mutex;
  static std::shared_ptr<const std::vector<TextPatterns>> last;
  static std::pair<bool, std::vector<std::string>> last_of;
  std::pair of{config.redact_defaults, config.redact_patterns};
  const std::scoped_lock lock(mutex);
  if (!last || last_of != of) {
    auto compiled = compile_text_patterns(of.first, of.second);
    if (!compiled) return std::unexpected(std::move(compiled.error()));
    last = std::make_shared<const std::vector<TextPatterns>>(std::move(*compiled));
    last_of = std::move(of);
  }
  return last;
}

void write_text(TermBuilder& out, const Config& config) {
  const auto compiled = text_patterns(config);
  // What does not compile was refused.
  if (!compiled || (config.redact_patterns.empty() && !config.redact_defaults))
    return void(out.atom("none"));
  out.tuple(2).unsigned_integer(config.redact_patterns.size());
  out.list(static_cast<std::uint32_t>((*compiled)->size()));
  for (const auto& one : **compiled) {
    std::string next;
    next.reserve(2 * one.next.size());
    for (const auto value : one.next) {
      next.push_back(static_cast<char>(value & 0xFF));
      next.push_back(static_cast<char>(value >> 8));
    }
    out.tuple(3).binary(one.classes).unsigned_integer(one.columns).binary(next);
  }
  out.nil();
}

}  // namespace

Status check_redaction(std::string_view key, std::string_view text) {
  const auto bad = [&](const char* want) -> Status {
    return fail(Code::bad_value, want, std::string(key), std::string(text));
  };
  if (key == "redact" && text != "on" && text != "off") return bad("must be one of on, off");
  if (key == "redact_record" && !read_rule(text, false))
    return bad("expected NAME/SIZE:POSITIONS, such as user/5:3,4");
  if (key == "redact_call" && !read_rule(text, true))
    return bad("expected MODULE:FUNCTION/ARITY:POSITIONS, such as my_app:login/2:2,result");
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  if (key == "redact_key" && (text.size() > 64 || std::ranges::none_of(text, letter)))
    return bad("expected a word, or *part of one*, with letters a to z");
  if (key == "redact_pattern") {
    const std::string pattern(text);
    if (auto compiled = compile_text_patterns(false, std::span(&pattern, 1)); !compiled) {
      return std::unexpected(std::move(compiled.error()));
    }
  }
  return {};
}

Status check_text_patterns(const Config& config) {
  const auto compiled = text_patterns(config);
  if (!compiled) return std::unexpected(compiled.error());
  return {};
}

void write_redaction(TermBuilder& out, const Config& config) {
  if (config.redact == "off") return void(out.atom("off"));
  out.map(6);
  out.atom("text");
  write_text(out, config);
  out.atom("version").unsigned_integer(config.redact_version);
  out.atom("defaults").boolean(config.redact_defaults);
  out.atom("keys");
  for (const auto& key : config.redact_keys) out.list_cons().binary(key);
  out.nil();
  out.atom("records");
  write_rules(out, config.redact_records, false);
  out.atom("calls");
  write_rules(out, config.redact_calls, true);
}

}  // namespace scope::node
