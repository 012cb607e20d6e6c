#include "cnode/cli/times.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <ctime>

namespace scope::node::cli {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::string_view kTimeForms =
    "a time is now, 10s ago (or -10s), 2024-05-01T12:00:00[.123][Z|+02:00], 12:00:00, or "
    "nanoseconds since 1970";

std::unexpected<Error> bad_time(std::string_view text, std::string_view why = kTimeForms) {
  return fail(Code::bad_value, std::string(why), "time", std::string(text));
}

// Reads what a time of day or a date is made of; every step says whether it worked.
class Reader {
 public:
  explicit Reader(std::string_view text) : left_(text) {}

  bool number(std::size_t digits, int& out) {
    if (left_.size() < digits) return false;
    const auto [end, ec] = std::from_chars(left_.data(), left_.data() + digits, out);
    if (ec != std::errc{} || end != left_.data() + digits || left_[0] == '-') return false;
    left_.remove_prefix(digits);
    return true;
  }
  bool skip(std::string_view any_of) {
    if (left_.empty() || any_of.find(left_[0]) == std::string_view::npos) return false;
    taken_ = left_[0];
    left_.remove_prefix(1);
    return true;
  }
  // Digits after a point as nanoseconds; those beyond the ninth are dropped.
  bool fraction(std::int64_t& ns) {
    std::int64_t unit = kSecond;
    bool any = false;
    for (ns = 0; !left_.empty() && left_[0] >= '0' && left_[0] <= '9'; left_.remove_prefix(1)) {
      unit /= 10;
      ns += (left_[0] - '0') * unit;
      any = true;
    }
    return any;
  }
  char taken() const { return taken_; }
  bool done() const { return left_.empty(); }

 private:
  std::string_view left_;
  char taken_ = 0;
};

bool clock_time(Reader& r, tm& t, std::int64_t& ns) {
  if (!r.number(2, t.tm_hour) || !r.skip(":") || !r.number(2, t.tm_min)) return false;
  if (r.skip(":")) {
    if (!r.number(2, t.tm_sec)) return false;
    if (r.skip(".,") && !r.fraction(ns)) return false;
  }
  return t.tm_hour < 24 && t.tm_min < 60 && t.tm_sec < 61;
}

// Seconds east of Greenwich; nullopt: none is written.
bool zone(Reader& r, std::optional<int>& east) {
  if (r.done()) return true;
  if (r.skip("Zz")) {
    east = 0;
    return true;
  }
  if (!r.skip("+-")) return false;
  const int sign = r.taken() == '-' ? -1 : 1;
  int hours = 0, minutes = 0;
  if (!r.number(2, hours)) return false;
  r.skip(":");
  if (!r.done() && !r.number(2, minutes)) return false;
  east = sign * (hours * 3600 + minutes * 60);
  return hours < 24 && minutes < 60;
}

Result<TimeArg> parse_iso(std::string_view text) {
  const time_t now = std::time(nullptr);
  tm t{};
  localtime_r(&now, &t);
  t.tm_hour = t.tm_min = t.tm_sec = 0;
  t.tm_isdst = -1;
  std::int64_t ns = 0;
  std::optional<int> east;
  Reader r(text);
  if (text.size() > 2 && text[2] == ':') {
    if (!clock_time(r, t, ns)) return bad_time(text);
  } else {
    if (!r.number(4, t.tm_year) || !r.skip("-") || !r.number(2, t.tm_mon) || !r.skip("-") ||
        !r.number(2, t.tm_mday)) {
      return bad_time(text);
    }
    using namespace std::chrono;
    const year_month_day day{year(t.tm_year), month(static_cast<unsigned>(t.tm_mon)),
                             std::chrono::day(static_cast<unsigned>(t.tm_mday))};
    if (!day.ok()) return bad_time(text, "there is no such day");
    if (t.tm_year < 1970 || t.tm_year > 2261) return bad_time(text, "only years from 1970 to 2261");
    t.tm_year -= 1900;
    t.tm_mon -= 1;
    if (r.skip("Tt ") && (!clock_time(r, t, ns) || !zone(r, east))) return bad_time(text);
  }
  if (!r.done()) return bad_time(text);
  const time_t seconds = east ? timegm(&t) - *east : mktime(&t);
  return TimeArg{TimeArg::Kind::at, std::int64_t{seconds} * kSecond + ns};
}

std::string_view trim(std::string_view s) {
  while (!s.empty() && s.front() == ' ') s.remove_prefix(1);
  while (!s.empty() && s.back() == ' ') s.remove_suffix(1);
  return s;
}

std::string digits3(double value, std::string_view unit) {
  return fmt::format("{:.{}f} {}", value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0, unit);
}

}  // namespace

void TimeArg::encode(codec::TermBuilder& out) const {
  switch (kind) {
    case Kind::at:
      out.integer(ns);
      break;
    case Kind::now:
      out.atom("now");
      break;
    case Kind::ago:
      out.tuple(3).atom("ago").integer(ns).atom("nanosecond");
      break;
  }
}

Result<std::int64_t> parse_duration(std::string_view text) {
  constexpr std::string_view kForms = "a duration is a number and a unit: 250ms, 1.5s, 10m, 2h, 7d";
  const auto bad = [&](std::string_view why) {
    return fail(Code::bad_value, std::string(why), "duration", std::string(text));
  };
  const auto trimmed = trim(text);
  double number = 0;
  const auto* end = trimmed.data() + trimmed.size();
  const auto [at, ec] = std::from_chars(trimmed.data(), end, number);
  if (ec != std::errc{} || !std::isfinite(number)) return bad(kForms);
  if (number < 0) return bad("a duration is 0 or more");
  const auto unit = trim({at, static_cast<std::size_t>(end - at)});
  struct Unit {
    double ns;
    std::array<std::string_view, 4> names;
  };
  static constexpr Unit kUnits[] = {
      {1, {"ns", "nanosecond", "nanoseconds", "nsec"}},
      {1e3, {"us", "µs", "microsecond", "microseconds"}},
      {1e6, {"ms", "msec", "millisecond", "milliseconds"}},
      {1e9, {"s", "sec", "second", "seconds"}},
      {60e9, {"m", "min", "minute", "minutes"}},
      {3600e9, {"h", "hour", "hours", "hr"}},
      {86400e9, {"d", "day", "days", "day"}},
  };
  for (const auto& u : kUnits) {
    for (auto name : u.names) {
      if (unit != name) continue;
      if (number * u.ns > 9e18) return bad("that is longer than 285 years");
      return static_cast<std::int64_t>(std::llround(number * u.ns));
    }
  }
  return bad(kForms);
}

Result<TimeArg> parse_time(std::string_view text) {
  const auto t = trim(text);
  if (t == "now") return TimeArg{};
  if (t.starts_with('-') || t.ends_with("ago")) {
    const auto length = t.starts_with('-') ? t.substr(1) : t.substr(0, t.size() - 3);
    auto ns = parse_duration(length);
    if (!ns) return bad_time(text);
    return TimeArg{TimeArg::Kind::ago, *ns};
  }
  std::int64_t integer = 0;
  const auto [end, ec] = std::from_chars(t.data(), t.data() + t.size(), integer);
  if (ec == std::errc{} && end == t.data() + t.size()) {
    constexpr std::int64_t k1973 = 100'000'000 * kSecond;
    if (integer < k1973) {
      return bad_time(text,
                      "that lies before 1973: an integer is nanoseconds since 1970, not seconds");
    }
    return TimeArg{TimeArg::Kind::at, integer};
  }
  return parse_iso(t);
}

std::string format_time(std::int64_t cluster_ns) {
  const std::int64_t rest = cluster_ns % kSecond;  // negative before 1970
  const std::int64_t seconds = cluster_ns / kSecond - (rest < 0 ? 1 : 0);
  const std::int64_t us = (rest < 0 ? rest + kSecond : rest) / 1000;
  const time_t at = seconds;
  tm t{};
  localtime_r(&at, &t);
  std::string offset = "Z";
  if (t.tm_gmtoff != 0) {
    const long minutes = std::labs(t.tm_gmtoff) / 60;
    offset = fmt::format("{}{:02}:{:02}", t.tm_gmtoff < 0 ? '-' : '+', minutes / 60, minutes % 60);
  }
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}{}", t.tm_year + 1900, t.tm_mon + 1,
                     t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec, us, offset);
}

std::string format_duration(std::int64_t ns) {
  if (ns < 0) {
    return "-" + (ns == INT64_MIN ? format_duration(INT64_MAX) : format_duration(-ns));
  }
  const auto v = static_cast<double>(ns);
  if (ns < 1000) return fmt::format("{} ns", ns);
  if (v < 999.5e3) return digits3(v / 1e3, "µs");
  if (v < 999.5e6) return digits3(v / 1e6, "ms");
  const std::int64_t s = ns / kSecond + (ns % kSecond >= kSecond / 2 ? 1 : 0);
  if (s < 60) return digits3(v / 1e9, "s");
  if (s < 3600) return fmt::format("{} min {} s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{} h {} min", s / 3600, s % 3600 / 60);
  return fmt::format("{} d {} h", s / 86400, s % 86400 / 3600);
}

std::string format_error(std::optional<std::int64_t> ns) {
  return ns ? "±" + format_duration(*ns) : "±?";
}

std::string format_bytes(std::uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  auto v = static_cast<double>(bytes) / 1024;
  for (std::string_view unit : {"KB", "MB", "GB"}) {
    if (v < 999.5) return digits3(v, unit);
    v /= 1024;
  }
  return digits3(v, "TB");
}

std::string format_count(std::uint64_t count) {
  std::string s = std::to_string(count);
  for (std::size_t i = s.size(); i > 3;) s.insert(i -= 3, ",");
  return s;
}

}  // namespace scope::node::cli
