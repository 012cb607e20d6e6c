#include "cnode/cli/times.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>

namespace scope::node::cli {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kMay = 1714557600 * kSecond;  // 2024-05-01T10:00:00Z

class Times : public testing::Test {
 protected:
  static void zone(const char* name) {
    setenv("TZ", name, 1);
    tzset();
  }
  void SetUp() override { zone("UTC"); }
};

std::int64_t at(std::string_view text) {
  const auto t = parse_time(text);
  EXPECT_TRUE(t) << text << ": " << (t ? "" : t.error().message);
  if (!t) return 0;
  EXPECT_EQ(t->kind, TimeArg::Kind::at) << text;
  return t->ns;
}

TEST_F(Times, IsoTexts) {
  EXPECT_EQ(at("2024-05-01T10:00:00Z"), kMay);
  EXPECT_EQ(at("2024-05-01T12:00:00+02:00"), kMay);
  EXPECT_EQ(at("2024-05-01T05:30:00-0430"), kMay);
  EXPECT_EQ(at("2024-05-01 10:00Z"), kMay);
  EXPECT_EQ(at("2024-05-01T10:00:00.25Z"), kMay + kSecond / 4);
  EXPECT_EQ(at("2024-05-01T10:00:00.1234567899Z"), kMay + 123456789);
  EXPECT_EQ(at("2024-05-01"), kMay - 10 * 3600 * kSecond);
  EXPECT_EQ(at("1714557600000000000"), kMay);
}

TEST_F(Times, WithoutAZoneTheyAreLocal) {
  zone("Europe/Berlin");
  EXPECT_EQ(at("2024-05-01T12:00:00"), kMay);
  EXPECT_EQ(at("2024-01-01T00:00:00"), (1704067200 - 3600) * kSecond);  // winter
  EXPECT_EQ(format_time(kMay + 123456789), "2024-05-01T12:00:00.123456+02:00");
  EXPECT_EQ(at(format_time(kMay)), kMay);
}

TEST_F(Times, ATimeAloneIsTodays) {
  const auto noon = at("12:34:56.5");
  const auto now = std::time(nullptr) * kSecond;
  EXPECT_LT(std::abs(noon - now), 24 * 3600 * kSecond);
  EXPECT_TRUE(format_time(noon).ends_with("T12:34:56.500000Z")) << format_time(noon);
}

TEST_F(Times, Relative) {
  const TimeArg ago{TimeArg::Kind::ago, 10 * kSecond};
  for (const auto* text :
       {"10s ago", "-10s", "10 s ago", "10 seconds ago", "-10000ms", " 10sec ago"}) {
    const auto t = parse_time(text);
    ASSERT_TRUE(t) << text;
    EXPECT_EQ(*t, ago) << text;
  }
  EXPECT_EQ(parse_time("now")->kind, TimeArg::Kind::now);
  EXPECT_EQ(parse_time("-1.5m")->ns, 90 * kSecond);
}

TEST_F(Times, NonsenseIsRefusedAndSaysWhy) {
  for (const auto* text : {"",
                           "yesterday",
                           "-",
                           "ago",
                           "-5",
                           "5 ago",
                           "-5x",
                           "2024-13-01",
                           "2024-02-30T00:00:00Z",
                           "2024-05-01T24:00",
                           "2024-05-01T10:60",
                           "2024-05-01T10:00:61Z",
                           "2024-05-01T10:00:00+10:60",
                           "2024-05-01T10:00:00+",
                           "2024-05-01T10:00:00.Z",
                           "2024-05-01T10:00:00Zx",
                           "1e300s ago",
                           "--5s",
                           "1714557600",
                           "-nan s",
                           "99:00",
                           "2024-05-01T10",
                           "0001-01-01",
                           "9999-01-01"}) {
    const auto t = parse_time(text);
    EXPECT_FALSE(t) << text;
    EXPECT_TRUE(t || !t.error().message.empty());
  }
}

TEST_F(Times, EveryPrefixOfAGoodTextIsReadOrRefused) {
  const std::string whole = "2024-05-01T12:00:00.123456789+02:00";
  for (std::size_t n = 0; n <= whole.size(); ++n) (void)parse_time(whole.substr(0, n));
}

TEST_F(Times, Durations) {
  EXPECT_EQ(parse_duration("250ms"), 250'000'000);
  EXPECT_EQ(parse_duration("1.5s"), 1'500'000'000);
  EXPECT_EQ(parse_duration("2 h"), 7200 * kSecond);
  EXPECT_EQ(parse_duration("1d"), 86400 * kSecond);
  EXPECT_EQ(parse_duration("0s"), 0);
  EXPECT_EQ(parse_duration("5us"), 5000);
  EXPECT_EQ(parse_duration("5µs"), 5000);
  for (const auto* text : {"", "5", "s", "-1s", "5 fortnights", "inf s", "1e18d"})
    EXPECT_FALSE(parse_duration(text)) << text;
}

TEST_F(Times, DurationsForPeople) {
  EXPECT_EQ(format_duration(0), "0 ns");
  EXPECT_EQ(format_duration(999), "999 ns");
  EXPECT_EQ(format_duration(1000), "1.00 µs");
  EXPECT_EQ(format_duration(12'345), "12.3 µs");
  EXPECT_EQ(format_duration(999'499), "999 µs");
  EXPECT_EQ(format_duration(999'999), "1.00 ms");
  EXPECT_EQ(format_duration(250'000'000), "250 ms");
  EXPECT_EQ(format_duration(1'500'000'000), "1.50 s");
  EXPECT_EQ(format_duration(59'700'000'000), "1 min 0 s");
  EXPECT_EQ(format_duration(3660 * kSecond), "1 h 1 min");
  EXPECT_EQ(format_duration(90'000 * kSecond), "1 d 1 h");
  EXPECT_EQ(format_duration(-1000), "-1.00 µs");
  EXPECT_FALSE(format_duration(INT64_MIN).empty());
  EXPECT_EQ(format_error(std::nullopt), "±?");
  EXPECT_EQ(format_error(12'000), "±12.0 µs");
}

TEST_F(Times, TimesBeforeTheEpochAndFarAway) {
  EXPECT_EQ(format_time(0), "1970-01-01T00:00:00.000000Z");
  EXPECT_EQ(format_time(-1), "1969-12-31T23:59:59.999999Z");
  EXPECT_FALSE(format_time(INT64_MIN).empty());
  EXPECT_FALSE(format_time(INT64_MAX).empty());
}

TEST_F(Times, CountsAndBytes) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1000), "1,000");
  EXPECT_EQ(format_count(12345678), "12,345,678");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(2097152), "2.00 MB");
}

}  // namespace
}  // namespace scope::node::cli
