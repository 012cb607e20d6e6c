// Times and durations, as people write and read them. Plain values, any thread; the zone is the process's ($TZ).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "ei_codec/base/result.h"
#include "ei_codec/term_builder.h"

namespace scope::node::cli {

// A time as an argument: cluster nanoseconds, now, or so long ago.
struct TimeArg {
  enum class Kind { at, now, ago };
  Kind kind = Kind::now;
  std::int64_t ns = 0;  // since 1970, or how long ago

  void encode(codec::TermBuilder& out) const;  // api.md: integer | now | {ago, N, nanosecond}
  bool operator==(const TimeArg&) const = default;
};

// "now", "-5s", "10s ago", "2024-05-01T12:00:00.25+02:00" (T or a blank; Z, an offset, or local time; a date alone is its
// midnight; a time alone is today's), or integer nanoseconds since 1970.
Result<TimeArg> parse_time(std::string_view text);
// "1.5s", "250ms", "2 h": a number and a unit (ns us ms s m h d, or the word). In nanoseconds, 0 or more.
Result<std::int64_t> parse_duration(std::string_view text);

// "2024-05-01T12:00:00.250000+02:00", microseconds, rounded down.
std::string format_time(std::int64_t cluster_ns);
// "1.25 ms", "3.0 s", "2 h 5 min": three significant digits.
std::string format_duration(std::int64_t ns);
// "±12 µs"; nullopt (unknown): "±?".
std::string format_error(std::optional<std::int64_t> ns);
std::string format_bytes(std::uint64_t bytes);  // "1.5 GB" (powers of 1024)
std::string format_count(std::uint64_t count);  // "12,345"

}  // namespace scope::node::cli
