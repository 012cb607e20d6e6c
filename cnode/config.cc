#include "cnode/config.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "cnode/redaction.h"
#include "ei_codec/base/nearest.h"

namespace scope::node {
namespace {

using enum Option::Unit;
constexpr std::uint64_t kKiB = 1ull << 10, kMiB = 1ull << 20, kGiB = 1ull << 30;
constexpr std::size_t kMostInList = 64;
constexpr std::uint64_t kSecond = 1000, kDay = 24ull * 3600 * 1000;

// key, field, unit, min, max, live, secret, help
const Option kOptions[] = {
    {"name", &Config::name, none, 0, 255, false, false,
     "this node's name, name@host (default scope@localhost, or scope@<fqdn> with --longnames)"},
    {"cookie", &Config::cookie, none, 0, 255, false, true,
     "the cluster's cookie; prefer --cookie-file, which other users cannot see in the process "
     "list"},
    {"cookie_file", &Config::cookie_file, none, 0, ~0ull, false, false,
     "a file that holds the cookie (default ~/.erlang.cookie)"},
    {"cookie_for", &Config::cookies, none, 0, ~0ull, false, false,
     "another cookie for one node: name@host=FILE; may be given several times"},
    {"tls_cert", &Config::tls_cert, none, 0, ~0ull, false, false,
     "the cluster's distribution is over TLS (-proto_dist inet_tls): our certificate, PEM; read "
     "again at SIGHUP"},
    {"tls_key", &Config::tls_key, none, 0, ~0ull, false, false,
     "its key, PEM (default: in the file of --tls-cert)"},
    {"tls_ca", &Config::tls_ca, none, 0, ~0ull, false, false,
     "whose certificates are believed, PEM"},
    {"tls_verify", &Config::tls_verify, none, 0, ~0ull, false, false,
     "peer: of a node that is connected to, its certificate must name its host, one that connects "
     "must have one; none: nobody's is looked at"},
    {"ssl_dist_optfile", &Config::ssl_dist_optfile, none, 0, ~0ull, false, false,
     "a file as erl -ssl_dist_optfile takes it, in place of the --tls options"},
    {"longnames", &Config::longnames, none, 0, 1, false, false,
     "the cluster uses long names (-name)"},
    {"node", &Config::nodes, none, 0, ~0ull, false, false,
     "a node to join, name@host, or name@host:port where no epmd knows it; may be given several "
     "times; the rest of the cluster is found from it"},
    {"db", &Config::db, none, 1, ~0ull, false, false, "the folder of the store; made if absent"},
    {"listen", &Config::listen, none, 0, ~0ull, false, false, "the address to accept peers on"},
    {"port", &Config::port, none, 0, 65535, false, false,
     "the port to accept peers on (0: any free one)"},
    {"port_max", &Config::port_max, none, 0, 65535, false, false,
     "the first free port from --port up to this one is taken"},
    {"no_epmd", &Config::no_epmd, none, 0, 1, false, false,
     "do not register with epmd: only nodes that this one joins, or that know its port, see it"},
    {"max_packet_bytes", &Config::max_packet_bytes, bytes, 64 * kKiB, 2 * kGiB, false, false,
     "a peer that announces a larger packet loses its link"},
    {"link_queue_bytes", &Config::link_queue_bytes, bytes, kMiB, kGiB, false, false,
     "bytes that may wait to be sent to one peer, of replies up to 64 KB and of larger ones (one "
     "of any size may wait alone); beyond, replies to it are dropped and counted"},
    {"credit_bytes", &Config::credit_bytes, bytes, 256 * kKiB, 64 * kMiB, true, false,
     "bytes that an agent may have sent and not yet seen acknowledged"},
    {"hold_bytes", &Config::hold_bytes, bytes, kMiB, kGiB, false, false,
     "bytes that an agent keeps on its node while this daemon is away"},
    {"grace_ms", &Config::grace_ms, milliseconds, kSecond, kDay, false, false,
     "an agent without a daemon for so long removes itself"},
    {"profiles", &Config::profiles, none, 0, ~0ull, false, false,
     "a TOML file with trace profiles of your own, [profiles.NAME]"},
    {"budget_percent", &Config::budget_percent, none, 0, ~0ull, false, false,
     "per cent of a node's schedulers that tracing may take there; beyond, it steps down"},
    {"budget_memory", &Config::budget_memory, bytes, kMiB, 64 * kGiB, false, false,
     "bytes that an agent may take on its node, with what it holds"},
    {"budget_events", &Config::budget_events, none, 1, ~0ull, false, false,
     "events a second that a node may send"},
    {"budget_bytes", &Config::budget_bytes, bytes, 1024, ~0ull, false, false,
     "bytes of events a second that a node may send"},
    {"lease_ms", &Config::lease_ms, milliseconds, 500, 60 * kSecond, false, false,
     "a daemon that an agent has not heard of for so long no longer owns it: another may attach"},
    {"forget_ms", &Config::forget_ms, milliseconds, kSecond, 30 * kDay, true, false,
     "a node that was found, not given, and that is gone for so long is listed no more"},
    {"ping_ms", &Config::ping_ms, milliseconds, 50, 10 * kSecond, true, false,
     "time between pings to each agent (lease and clock)"},
    {"partition_bytes", &Config::partition_bytes, bytes, 4 * kMiB, 3 * kGiB, false, false,
     "size at which the store starts a new partition"},
    {"retain_bytes", &Config::retain_bytes, bytes, 0, ~0ull, false, false,
     "oldest partitions are dropped beyond so many bytes, kept edges included (0: never)"},
    {"retain_ms", &Config::retain_ms, milliseconds, 0, ~0ull, false, false,
     "partitions older than this are dropped (0: never)"},
    {"store_queue_bytes", &Config::store_queue_bytes, bytes, kMiB, kGiB, false, false,
     "bytes of batches that may wait for the writer; beyond, agents get no credit"},
    {"query_threads", &Config::query_threads, none, 1, 64, false, false,
     "threads that answer questions"},
    {"query_deadline_ms", &Config::query_deadline_ms, milliseconds, 100, 60 * kSecond, false, false,
     "a question is answered, in part if need be, within this time"},
    {"capture", &Config::capture, none, 0, ~0ull, false, false,
     "native: agents load a tracer library, and fall back to Erlang where they cannot; erlang: "
     "they "
     "never do"},
    {"redact", &Config::redact, none, 0, ~0ull, true, false,
     "on: passwords, tokens, cookies and the like are hidden on the nodes, before they are "
     "recorded; off: everything is recorded as it is"},
    {"redact_defaults", &Config::redact_defaults, none, 0, 1, true, false,
     "the keys that are known to stand beside secrets, and the patterns of secrets in texts, "
     "besides "
     "those of redact_key and redact_pattern"},
    {"redact_key", &Config::redact_keys, none, 0, ~0ull, true, false,
     "a word of keys whose values are hidden, or *part of one*; may be given several times"},
    {"redact_record", &Config::redact_records, none, 0, ~0ull, true, false,
     "NAME/SIZE:2,3: elements of such tuples are hidden; may be given several times"},
    {"redact_call", &Config::redact_calls, none, 0, ~0ull, true, false,
     "MODULE:FUNCTION/ARITY:1,result: arguments and results are hidden (FUNCTION and ARITY may be "
     "_); may be given several times"},
    {"redact_pattern", &Config::redact_patterns, none, 0, ~0ull, true, false,
     "a regular expression: a text that it matches is hidden, as those of card numbers, tokens and "
     "passwords are (redact_defaults); may be given several times"},
    {"log_level", &Config::log_level, none, 0, ~0ull, true, false, "debug, info, warn or error"},
};

Status check_enum(std::string_view key, std::string_view text) {
  auto one_of = [&](std::initializer_list<std::string_view> allowed) -> Status {
    for (auto a : allowed) {
      if (a == text) return {};
    }
    return fail(Code::bad_value, fmt::format("{} must be one of {}", key, fmt::join(allowed, ", ")),
                std::string(key), std::string(text));
  };
  if (key == "capture") return one_of({"native", "erlang"});
  if (key == "tls_verify") return one_of({"peer", "none"});
  RETURN_IF_ERROR(check_redaction(key, text));
  if (key == "log_level") return one_of({"debug", "info", "warn", "error"});
  if (key == "budget_percent") {
    double percent = 0;
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), percent);
    if (ec != std::errc{} || end != text.data() + text.size() || !(percent > 0 && percent <= 100)) {
      return fail(Code::bad_value, "expected per cent, over 0 and at most 100", std::string(key),
                  std::string(text));
    }
  }
  return {};
}

}  // namespace

std::span<const Option> options() { return kOptions; }

const Option* find_option(std::string_view key) {
  auto it = std::ranges::find(kOptions, key, &Option::key);
  return it == std::end(kOptions) ? nullptr : it;
}

std::string_view nearest_option(std::string_view key) {
  std::vector<std::string_view> keys;
  for (const auto& o : kOptions) keys.push_back(o.key);
  return nearest(key, keys);
}

Result<std::uint64_t> parse_quantity(std::string_view text, Option::Unit unit) {
  double number = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string_view suffix(end, static_cast<std::size_t>(text.data() + text.size() - end));
  auto bad = [&](std::string_view want) {
    return fail(Code::bad_value, fmt::format("expected {}", want), {}, std::string(text));
  };
  if (ec != std::errc{} || number < 0 || !std::isfinite(number)) return bad("a number, 0 or more");
  double factor = 1;
  if (unit == bytes) {
    if (suffix == "K" || suffix == "KB" || suffix == "KiB")
      factor = double(kKiB);
    else if (suffix == "M" || suffix == "MB" || suffix == "MiB")
      factor = double(kMiB);
    else if (suffix == "G" || suffix == "GB" || suffix == "GiB")
      factor = double(kGiB);
    else if (!suffix.empty() && suffix != "B")
      return bad("bytes, such as 4096, 16M or 1.5G");
  } else if (unit == milliseconds) {
    if (suffix == "s")
      factor = 1000;
    else if (suffix == "m")
      factor = 60e3;
    else if (suffix == "h")
      factor = 3600e3;
    else if (suffix == "d")
      factor = double(kDay);
    else if (!suffix.empty() && suffix != "ms")
      return bad("a time, such as 500ms, 2s, 10m or 7d");
  } else if (!suffix.empty()) {
    return bad("a whole number");
  }
  double value = number * factor;
  if (value > 9e18) return bad("a smaller number");
  return static_cast<std::uint64_t>(value);
}

Status set_option(Config& config, std::string_view key, std::string_view text) {
  const Option* option = find_option(key);
  if (!option) {
    auto near = nearest_option(key);
    return fail(Code::unknown_key,
                near.empty() ? "no such setting; scope start --help lists them"
                             : fmt::format("no such setting; did you mean {}?", near),
                std::string(key));
  }
  if (auto* s = std::get_if<std::string Config::*>(&option->field)) {
    RETURN_IF_ERROR(check_enum(key, text));
    config.*(*s) = std::string(text);
  } else if (auto* list = std::get_if<std::vector<std::string> Config::*>(&option->field)) {
    RETURN_IF_ERROR(check_enum(key, text));
    if ((config.*(*list)).size() == kMostInList) {
      return fail(Code::bad_value, fmt::format("at most {} of them", kMostInList), std::string(key),
                  std::string(text));
    }
    (config.*(*list)).emplace_back(text);
  } else if (auto* b = std::get_if<bool Config::*>(&option->field)) {
    if (text != "true" && text != "false") {
      return fail(Code::bad_value, "expected true or false", std::string(key), std::string(text));
    }
    config.*(*b) = text == "true";
  } else {
    auto value = parse_quantity(text, option->unit);
    if (!value) {
      return fail(Code::bad_value, value.error().message, std::string(key), std::string(text));
    }
    if (*value < option->min || *value > option->max) {
      return fail(Code::bad_value,
                  fmt::format("must lie between {} and {}", option->min, option->max),
                  std::string(key), std::string(text));
    }
    config.*std::get<std::uint64_t Config::*>(option->field) = *value;
  }
  return {};
}

std::string get_option(const Config& config, const Option& option) {
  if (auto* s = std::get_if<std::string Config::*>(&option.field)) {
    const auto& value = config.*(*s);
    return option.secret && !value.empty() ? "***" : value;
  }
  if (auto* list = std::get_if<std::vector<std::string> Config::*>(&option.field)) {
    return fmt::format("{}", fmt::join(config.*(*list), ","));
  }
  if (auto* b = std::get_if<bool Config::*>(&option.field)) return config.*(*b) ? "true" : "false";
  return std::to_string(config.*std::get<std::uint64_t Config::*>(option.field));
}

Status load_config_file(Config& config, const std::string& path) {
  toml::table table;
  try {
    table = toml::parse_file(path);
  } catch (const toml::parse_error& e) {
    return fail(Code::bad_value,
                fmt::format("{}:{}: {}", path, e.source().begin.line, e.description()), "config");
  }
  for (const auto& [key, node] : table) {
    auto set = [&](const toml::node& value) -> Status {
      std::string text;
      if (auto s = value.value<std::string>())
        text = *s;
      else if (auto i = value.value<std::int64_t>(); i && value.is_integer())
        text = std::to_string(*i);
      else if (auto b = value.value<bool>())
        text = *b ? "true" : "false";
      else
        return fail(Code::bad_value, "expected text, a whole number or true/false",
                    std::string(key.str()));
      return set_option(config, key.str(), text);
    };
    if (const auto* array = node.as_array()) {
      for (const auto& item : *array) RETURN_IF_ERROR(set(item));
    } else {
      RETURN_IF_ERROR(set(node));
    }
  }
  return {};
}

}  // namespace scope::node
