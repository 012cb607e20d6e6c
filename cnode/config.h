// Config: everything that can be set, in one table. The table makes the command line's flags and help, the keys of the
// TOML file (--config), and the paths of update_config.
//
// Life   Plain values; copied freely. Only keys marked `live` may change while the daemon runs (update_config).
// Thread None of its own.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "ei_codec/base/result.h"

namespace scope::node {

struct Config {
  std::string name;  // empty: scope@localhost, or scope@<fqdn> with longnames
  std::string cookie, cookie_file;
  std::vector<std::string> cookies;  // NODE=FILE
  std::string tls_cert, tls_key, tls_ca, tls_verify = "peer", ssl_dist_optfile;
  bool longnames = false;
  std::vector<std::string> nodes;
  std::string db = "scope.db";
  std::string listen = "0.0.0.0";
  std::uint64_t port = 0, port_max = 0;
  bool no_epmd = false;
  std::uint64_t max_packet_bytes = 72ull << 20;
  std::uint64_t link_queue_bytes = 16ull << 20;
  std::uint64_t credit_bytes = 4ull << 20;
  std::uint64_t hold_bytes = 16ull << 20;
  std::uint64_t grace_ms = 60'000;
  std::string profiles;  // a TOML file
  std::string budget_percent = "1";
  std::uint64_t budget_memory = 32ull << 20;
  std::uint64_t budget_events = 50'000;
  std::uint64_t budget_bytes = 32ull << 20;
  std::uint64_t lease_ms = 2'000;
  std::uint64_t forget_ms = 600'000;
  std::uint64_t ping_ms = 500;
  std::uint64_t partition_bytes = 1ull << 30;
  std::uint64_t retain_bytes = 20ull << 30;
  std::uint64_t retain_ms = 7ull * 24 * 3600 * 1000;
  std::uint64_t store_queue_bytes = 8ull << 20;
  std::uint64_t query_threads = 2;
  std::uint64_t query_deadline_ms = 4'000;
  std::string capture = "native";
  std::string redact = "on";
  bool redact_defaults = true;
  std::vector<std::string> redact_keys, redact_records, redact_calls,
      redact_patterns;               // redaction.h
  std::uint64_t redact_version = 1;  // counts the changes while the daemon runs; no setting
  std::string log_level = "info";
};

struct Option {
  enum class Unit { none, bytes, milliseconds };
  using Field = std::variant<std::string Config::*, std::uint64_t Config::*, bool Config::*,
                             std::vector<std::string> Config::*>;
  std::string_view key;  // TOML key and update_config path; the flag is "--" + key with '-' for '_'
  Field field;
  Unit unit = Unit::none;
  std::uint64_t min = 0, max = ~0ull;
  bool live = false;
  bool secret = false;  // never printed
  std::string_view help;
};

std::span<const Option> options();
const Option* find_option(std::string_view key);
// The nearest existing key, for "did you mean"; empty when none is near.
std::string_view nearest_option(std::string_view key);

// Sets one key from text ("16M", "60s", "true", a list element). Errors: unknown_key, bad_value (field, got, range).
Status set_option(Config& config, std::string_view key, std::string_view text);
// The value as text, "***" for secrets that are set.
std::string get_option(const Config& config, const Option& option);

// Reads a TOML file of the same keys (integers or text with units). Unknown keys are errors that name the nearest.
Status load_config_file(Config& config, const std::string& path);

// "16M", "1.5G", "4096" -> bytes; "500ms", "2s", "1m", "7d" -> milliseconds.
Result<std::uint64_t> parse_quantity(std::string_view text, Option::Unit unit);

}  // namespace scope::node
