#include "cnode/service/parse.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "ei_codec/term_print.h"

namespace scope::node {
namespace {

using codec::TermKind;
using codec::TermView;

struct Unit {
  std::string_view name;
  std::int64_t ns;
};
constexpr std::int64_t kSecond = 1'000'000'000;
constexpr Unit kUnits[] = {{"nanosecond", 1},
                           {"microsecond", 1000},
                           {"millisecond", 1'000'000},
                           {"second", kSecond},
                           {"minute", 60 * kSecond},
                           {"hour", 3600 * kSecond},
                           {"day", 86'400 * kSecond},
                           {"nanoseconds", 1},
                           {"microseconds", 1000},
                           {"milliseconds", 1'000'000},
                           {"seconds", kSecond},
                           {"minutes", 60 * kSecond},
                           {"hours", 3600 * kSecond},
                           {"days", 86'400 * kSecond},
                           {"ns", 1},
                           {"us", 1000},
                           {"ms", 1'000'000},
                           {"s", kSecond},
                           {"min", 60 * kSecond},
                           {"h", 3600 * kSecond}};

constexpr std::size_t kMaxPairs = 64;
constexpr std::size_t kMaxValues = 1000;

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, changed}));
    }
  }
  return row[b.size()];
}

std::optional<std::uint32_t> digits(std::string_view text) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

// Text, but not an atom; a charlist must be a non-empty list.
std::optional<std::string> string_of(const TermView& value) {
  const auto kind = value.kind();
  if (kind != TermKind::binary && kind != TermKind::string && kind != TermKind::list) {
    return std::nullopt;
  }
  return value.text(1024);
}

}  // namespace

std::string printed(const TermView& term) { return codec::print(term, codec::Syntax::erlang, 200); }

std::string_view nearest(std::string_view given, std::span<const std::string_view> known) {
  given = given.substr(0, 64);
  std::string_view best;
  std::size_t distance = std::max<std::size_t>(2, given.size() / 3) + 1;
  for (const auto name : known) {
    const std::size_t d = edit_distance(given, name);
    if (d < distance) best = name, distance = d;
  }
  return best;
}

std::unexpected<Error> bad_value(std::string_view field, const TermView& got, std::string hint) {
  return fail(Code::bad_value, std::move(hint), std::string(field), printed(got));
}

Error unknown_key(std::string_view key, std::span<const std::string_view> known) {
  const auto near = nearest(key, known);
  std::string all;
  for (const auto name : known) all += fmt::format("{}{}", all.empty() ? "" : ", ", name);
  return Error{Code::unknown_key,
               near.empty() ? fmt::format("known keys: {}", all)
                            : fmt::format("did you mean {}? known keys: {}", near, all),
               std::string(key),
               {}};
}

Result<std::vector<KeyValue>> read_pairs(const TermView& options) {
  std::vector<KeyValue> out;
  const auto wrong = [&](const TermView& got) {
    return fail(Code::bad_request, "options are a keyword list or a map with atoms as keys",
                "options", printed(got));
  };
  if (const auto map = options.map()) {
    if (map->left() > kMaxPairs) return fail(Code::too_large, "too many options", "options");
    for (auto it = *map; !it.done(); it.next()) {
      const auto key = it.key().atom();
      if (!key) return wrong(it.key());
      out.push_back({*key, it.value()});
    }
    return out;
  }
  const auto list = options.list();
  if (!list) return wrong(options);
  if (list->left() > kMaxPairs) return fail(Code::too_large, "too many options", "options");
  static constexpr std::byte kTrue[] = {std::byte{119}, std::byte{4},   std::byte{'t'},
                                        std::byte{'r'}, std::byte{'u'}, std::byte{'e'}};
  for (auto it = *list; !it.done(); it.next()) {
    const TermView item = it.item();
    if (const auto name = item.atom()) {
      out.push_back({*name, *codec::view(kTrue)});
      continue;
    }
    if (item.arity() != 2u || !item.element(0).atom()) return wrong(item);
    out.push_back({*item.element(0).atom(), item.element(1)});
  }
  return out;
}

Result<std::string> read_name(const TermView& value, std::string_view field) {
  if (value.kind() != TermKind::nil) {
    auto text = value.text(1024);
    if (text && !text->empty()) return *std::move(text);
  }
  return bad_value(field, value, "must be an atom or a string");
}

Result<bool> read_boolean(const TermView& value, std::string_view field) {
  if (value.is_atom("true")) return true;
  if (value.is_atom("false")) return false;
  return bad_value(field, value, "must be true or false");
}

Result<std::int64_t> read_integer(const TermView& value, std::string_view field, std::int64_t least,
                                  std::int64_t most) {
  const auto number = value.integer();
  if (number && *number >= least && *number <= most) return *number;
  return bad_value(field, value, fmt::format("must be an integer from {} to {}", least, most));
}

Result<double> read_number(const TermView& value, std::string_view field) {
  if (const auto real = value.real(); real && std::isfinite(*real)) return *real;
  if (const auto integer = value.integer()) return static_cast<double>(*integer);
  return bad_value(field, value, "must be a number");
}

std::vector<TermView> one_or_many(const TermView& value) {
  if (value.kind() != TermKind::list) {
    if (value.kind() == TermKind::nil) return {};
    return {value};
  }
  std::vector<TermView> out;
  for (auto it = *value.list(); !it.done() && out.size() <= kMaxValues; it.next()) {
    if (it.item().integer()) return {value};  // a charlist
    out.push_back(it.item());
  }
  return out;
}

Result<std::int64_t> read_duration(const TermView& value, std::string_view field,
                                   std::int64_t plain_ns) {
  std::int64_t factor = plain_ns;
  std::optional<std::int64_t> count = value.integer();
  if (value.arity() == 2u && value.element(1).atom()) {
    count = value.element(0).integer();
    factor = 0;
    for (const auto& unit : kUnits) {
      if (value.element(1).is_atom(unit.name)) factor = unit.ns;
    }
    if (factor == 0) {
      return bad_value(field, value,
                       "units are nanosecond, microsecond, millisecond, second, minute, hour, day");
    }
  }
  std::int64_t ns = 0;
  if (!count || *count < 0 || __builtin_mul_overflow(*count, factor, &ns)) {
    return bad_value(field, value, "must be {N, Unit}, for example {5, second}, and not negative");
  }
  return ns;
}

Result<analysis::MfaSpec> read_mfa(const TermView& value, std::string_view field) {
  analysis::MfaSpec out;
  const auto arity = value.arity();
  if (arity && *arity >= 1 && *arity <= 3 && value.element(0).atom() &&
      (*arity < 2 || value.element(1).atom())) {
    out.module = *value.element(0).atom();
    if (*arity >= 2 && !value.element(1).is_atom("_")) out.function = *value.element(1).atom();
    if (*arity < 3 || value.element(2).is_atom("_")) return out;
    if (const auto n = value.element(2).integer(); n && *n >= 0 && *n <= 255) {
      out.arity = static_cast<std::uint8_t>(*n);
      return out;
    }
  }
  return bad_value(field, value,
                   "must be {Module, Function, Arity}; Arity and Function may be '_'");
}

std::optional<std::int64_t> parse_iso8601(std::string_view text) {
  std::size_t at = 0;
  const auto number = [&](std::size_t width, int& out) {
    if (at + width > text.size()) return false;
    const auto value = digits(text.substr(at, width));
    if (!value) return false;
    out = static_cast<int>(*value);
    at += width;
    return true;
  };
  const auto literal = [&](std::string_view any) {
    if (at >= text.size() || any.find(text[at]) == any.npos) return false;
    ++at;
    return true;
  };
  int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0;
  if (!number(4, year) || !literal("-") || !number(2, month) || !literal("-") || !number(2, day)) {
    return std::nullopt;
  }
  std::int64_t fraction = 0, zone = 0;
  if (at < text.size()) {
    if (!literal("T t") || !number(2, hour) || !literal(":") || !number(2, minute)) {
      return std::nullopt;
    }
    if (literal(":")) {
      if (!number(2, second)) return std::nullopt;
      if (literal(".,")) {
        std::int64_t unit = 100'000'000;
        const std::size_t begin = at;
        for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at, unit /= 10) {
          fraction += (text[at] - '0') * unit;
        }
        if (at == begin) return std::nullopt;
      }
    }
    if (at < text.size() && !literal("Zz")) {
      const bool west = text[at] == '-';
      int hours = 0, minutes = 0;
      if (!literal("+-") || !number(2, hours)) return std::nullopt;
      literal(":");
      if (at < text.size() && !number(2, minutes)) return std::nullopt;
      zone = (hours * 3600LL + minutes * 60LL) * (west ? -1 : 1);
    }
  }
  const std::chrono::year_month_day date{std::chrono::year{year},
                                         std::chrono::month{static_cast<unsigned>(month)},
                                         std::chrono::day{static_cast<unsigned>(day)}};
  if (at != text.size() || !date.ok() || hour > 23 || minute > 59 || second > 60 || year < 1970 ||
      year > 2250) {
    return std::nullopt;
  }
  const std::int64_t days = std::chrono::sys_days{date}.time_since_epoch().count();
  return (days * 86'400 + hour * 3600LL + minute * 60LL + second - zone) * kSecond + fraction;
}

Result<analysis::TimeSpec> read_time(const TermView& value, std::string_view field) {
  if (const auto ns = value.integer()) return ClusterTime{*ns};
  if (value.is_atom("now")) return analysis::Now{};
  if (value.is_tuple("ago", 3)) {
    const auto count = value.element(1).integer();
    for (const auto& unit : kUnits) {
      std::int64_t ns = 0;
      if (value.element(2).is_atom(unit.name) && count && *count >= 0 &&
          !__builtin_mul_overflow(*count, unit.ns, &ns)) {
        return analysis::Ago{ns};
      }
    }
  }
  if (value.is_tuple("at", 3)) {
    const auto ns = value.element(2).integer();
    if (value.element(1).atom() && ns) {
      return analysis::AtNode{std::string(*value.element(1).atom()), *ns};
    }
  }
  if (const auto text = string_of(value)) {
    if (const auto ns = parse_iso8601(*text)) return ClusterTime{*ns};
  }
  return bad_value(
      field, value,
      "a time is nanoseconds since 1970, now, {ago, N, second}, {at, Node, SystemNs} or "
      "an ISO 8601 text like 2026-11-20T14:02:11.5Z");
}

std::optional<analysis::TextSpec> parse_pid_text(std::string_view text) {
  if (text.starts_with("#PID")) text.remove_prefix(4);
  if (text.size() < 7 || text.front() != '<' || text.back() != '>') return std::nullopt;
  text = text.substr(1, text.size() - 2);
  const auto last = text.rfind('.');
  if (last == text.npos || last == 0) return std::nullopt;
  const auto middle = text.rfind('.', last - 1);
  if (middle == text.npos) return std::nullopt;
  const auto id = digits(text.substr(middle + 1, last - middle - 1));
  const auto serial = digits(text.substr(last + 1));
  const auto head = text.substr(0, middle);
  if (!id || !serial || (!digits(head) && head.find('@') == head.npos)) return std::nullopt;
  return analysis::TextSpec{*id, *serial, digits(head) ? std::string() : std::string(head)};
}

Result<analysis::ProcessSpec> read_process(const TermView& value, std::string_view field,
                                           std::string_view node) {
  if (const auto pid = value.pid()) {
    return analysis::PidSpec{std::string(pid->node), pid->creation, pid->id, pid->serial};
  }
  if (value.arity() == 2u && value.element(1).atom() &&
      value.element(0).kind() != TermKind::tuple) {
    return read_process(value.element(0), field, *value.element(1).atom());
  }
  if (const auto text = string_of(value)) {
    if (auto spec = parse_pid_text(*text)) {
      if (!node.empty()) spec->node = node;
      return *std::move(spec);
    }
    if (!text->empty() && text->front() != '<') return analysis::NameSpec{*text, std::string(node)};
  }
  if (const auto name = value.atom())
    return analysis::NameSpec{std::string(*name), std::string(node)};
  return bad_value(field, value,
                   "a process is a pid, a registered name, {Name, Node}, or {\"<0.123.0>\", Node}");
}

Result<ClusterTime> read_cluster_time(const TermView& value, std::string_view field,
                                      ClusterTime now) {
  analysis::TimeSpec time;
  ASSIGN_OR_RETURN(time, read_time(value, field));
  if (const auto* at = std::get_if<ClusterTime>(&time)) return *at;
  if (const auto* ago = std::get_if<analysis::Ago>(&time)) return ClusterTime{now.ns - ago->ns};
  if (std::holds_alternative<analysis::Now>(time)) return now;
  return bad_value(field, value, "must be nanoseconds, now, {ago, N, Unit} or an ISO 8601 text");
}

}  // namespace scope::node
