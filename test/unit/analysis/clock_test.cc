// The clock model and its estimator against a clock whose true offset is known.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "analysis/clock_estimator.h"
#include "analysis/clock_model.h"
#include "test/unit/analysis/clock_world.h"

namespace scope::analysis {
namespace {

struct Session {
  std::vector<store::ClockVersion> versions;
  std::vector<std::int64_t> pinged;  // raw times
};

Session run(const TrueClock& clock, std::int64_t seconds, std::mt19937_64& random,
            double mean_delay_ns = 80'000) {
  Session out;
  ClockEstimator estimator(1);
  std::exponential_distribution<double> delay(1.0 / mean_delay_ns);  // each way, on top of 20 us
  for (std::int64_t raw = kSecond; raw < seconds * kSecond; raw += kSecond) {
    const std::int64_t at = clock.cluster(raw);
    Ping ping;
    ping.raw = RawTime{raw};
    ping.sent = ClusterTime{at - 20'000 - static_cast<std::int64_t>(delay(random))};
    ping.received = ClusterTime{at + 20'000 + static_cast<std::int64_t>(delay(random))};
    ping.system_ns = at;
    out.pinged.push_back(raw);
    for (auto& v : estimator.add(ping)) {
      v.version = static_cast<std::uint32_t>(out.versions.size() + 1);
      out.versions.push_back(v);
    }
  }
  return out;
}

TEST(ClockEstimator, TrueOffsetLiesWithinTheBoundUnderRandomDelaysAndDrift) {
  std::mt19937_64 random(4711);
  for (int round = 0; round < 30; ++round) {
    const double ppm = std::uniform_real_distribution<>(-200, 200)(random);
    const TrueClock clock{static_cast<std::int64_t>(random() % 1'000'000) * kSecond, {{0, ppm}}};
    const auto session = run(clock, 300, random);
    const Clocks view(session.versions);
    const ClockModel model(view);
    std::vector<std::int64_t> errors;
    for (std::int64_t raw = kSecond; raw < 300 * kSecond; raw += 37'000'000) {
      const auto got = model.cluster(1, RawTime{raw});
      ASSERT_LE(std::abs(got.time.ns - clock.cluster(raw)), got.error_ns)
          << "round " << round << " at " << raw << " drift " << ppm;
      errors.push_back(got.error_ns);
      const auto back = model.raw(1, got.time);
      ASSERT_LE(std::abs(back.time.ns - raw), 100) << raw;
    }
    std::nth_element(errors.begin(), errors.begin() + 4000, errors.end());
    EXPECT_LT(errors[4000], 500'000) << "the median bound is useless";
  }
}

TEST(ClockEstimator, FollowsTheRateCorrectionsOfErts) {
  std::mt19937_64 random(42);
  for (const double delay : {80'000.0, 1000.0}) {
    for (const double ppm : {9766.0, -9766.0, 488.0, -488.0}) {
      // erts turns its correction on at 100.7 s and off at 160.2 s.
      const TrueClock clock{
          50 * kSecond,
          {{0, 20}, {100'700 * kSecond / 1000, 20 + ppm}, {160'200 * kSecond / 1000, 20}}};
      const auto session = run(clock, 300, random, delay);
      const Clocks view(session.versions);
      const ClockModel model(view);
      std::int64_t late = 0;
      for (std::int64_t raw = kSecond; raw < 299 * kSecond; raw += 17'000'000) {
        const auto got = model.cluster(1, RawTime{raw});
        const auto off = std::abs(got.time.ns - clock.cluster(raw)) - got.error_ns;
        late = std::max(late, off);
      }
      EXPECT_LE(late, 0) << ppm << " ppm, delay " << delay;
    }
  }
}

TEST(ClockEstimator, StoresAboutOneVersionInTenSeconds) {
  std::mt19937_64 random(1);
  const auto session = run({0, {{0, 35}}}, 1000, random);
  EXPECT_LE(session.versions.size(), 150u);
  EXPECT_GE(session.versions.size(), 90u);
  EXPECT_EQ(session.versions.front().drift_bound_ppb, kWideDriftPpb);
  EXPECT_LT(session.versions.back().drift_bound_ppb, 200'000);
  EXPECT_NEAR(session.versions.back().drift_ppb, 35'000, 30'000);
}

// 20 ms there, 60 ms back, asked twice a second: what the newest version leaves open just before the next answer.
TEST(ClockEstimator, AFarClockIsKnownToItsRoundTrip) {
  constexpr std::int64_t kRtt = 80'000'000;
  const TrueClock clock{0, {{0, 40}}};
  ClockEstimator estimator(1);
  std::vector<store::ClockVersion> versions;
  std::size_t wide = 0, asked = 0;
  for (std::int64_t at = kSecond; at < 200 * kSecond; at += kSecond / 2) {
    const ClusterTime received{at + 60'000'000};
    if (versions.size() > 3) {
      const Clocks view(versions);
      const ClockModel model(view);
      wide += 2 * model.cluster(1, RawTime{clock.raw(received.ns - 1)}).error_ns > kRtt * 12 / 10;
      ++asked;
    }
    for (auto& v :
         estimator.add({ClusterTime{at - 20'000'000}, received, RawTime{clock.raw(at)}, at})) {
      v.version = static_cast<std::uint32_t>(versions.size() + 1);
      versions.push_back(v);
    }
  }
  EXPECT_GT(asked, 300u);
  EXPECT_EQ(wide, 0u);
  EXPECT_LE(versions.size(), 300u);
}

TEST(ClockEstimator, AStepIsFollowedAtOnceAndTheModelStaysHonest) {
  ClockEstimator estimator(1);
  std::vector<store::ClockVersion> versions;
  for (std::int64_t i = 1; i <= 60; ++i) {
    const std::int64_t offset = i <= 40 ? 0 : 3 * kSecond;  // the virtual machine was suspended
    Ping ping{ClusterTime{i * kSecond + offset - 50'000},
              ClusterTime{i * kSecond + offset + 50'000}, RawTime{i * kSecond}, 0};
    const auto out = estimator.add(ping);
    EXPECT_TRUE(i != 41 || out.size() >= 2) << out.size();
    versions.insert(versions.end(), out.begin(), out.end());
  }
  const Clocks view(versions);
  const ClockModel model(view);
  EXPECT_LE(std::abs(model.cluster(1, RawTime{39 * kSecond}).time.ns - 39 * kSecond), 1'000'000);
  EXPECT_LE(std::abs(model.cluster(1, RawTime{42 * kSecond}).time.ns - 45 * kSecond), 1'000'000);
  const auto between = model.cluster(1, RawTime{40 * kSecond + kSecond / 2});
  EXPECT_GE(between.error_ns, kSecond) << "nobody knows when in that second it stepped";
}

TEST(ClockEstimator, IgnoresPingsThatCannotBe) {
  ClockEstimator estimator(1);
  EXPECT_TRUE(estimator.add({ClusterTime{100}, ClusterTime{50}, RawTime{10}, 0}).empty());
  EXPECT_EQ(estimator.add({ClusterTime{100}, ClusterTime{200}, RawTime{10}, 0}).size(), 1u);
  EXPECT_TRUE(estimator.add({ClusterTime{300}, ClusterTime{400}, RawTime{10}, 0}).empty());
}

TEST(ClockModel, APinnedVersionGivesTheSameCorrectionForEver) {
  std::mt19937_64 random(7);
  // With a change of rate, and revisions after it.
  const auto session = run({123 * kSecond, {{0, 80}, {100 * kSecond, 9000}}}, 200, random);
  const Clocks after(session.versions);
  const ClockModel fresh(after);
  std::size_t differ = 0, revised = 0;
  for (std::size_t i = 0; i + 1 < session.versions.size(); ++i) {
    const auto& last = session.versions[i];
    revised += session.versions[i + 1].raw_at < last.raw_at;
    const std::vector<store::ClockVersion> early(
        session.versions.begin(), session.versions.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    const Clocks before(early);
    const ClockModel old(before);
    const ClockModel pinned(after, old.version());
    ASSERT_EQ(old.version(), last.measured_at.ns);
    EXPECT_GT(fresh.version(), old.version());
    for (std::int64_t raw = 0; raw < 250 * kSecond; raw += 333'000'000) {
      const auto a = pinned.cluster(1, RawTime{raw}), b = old.cluster(1, RawTime{raw});
      ASSERT_EQ(a.time, b.time);
      ASSERT_EQ(a.error_ns, b.error_ns);
      differ += fresh.cluster(1, RawTime{raw}).time != b.time;
    }
  }
  EXPECT_GT(differ, 0u);
  EXPECT_GT(revised, 3u);
}

TEST(ClockModel, KeepsTheOrderOfRawTime) {
  std::mt19937_64 random(8);
  const auto session = run({0, {{0, 200}, {50 * kSecond, -9766}, {80 * kSecond, 0}}}, 120, random);
  const Clocks view(session.versions);
  const ClockModel model(view);
  std::int64_t last = INT64_MIN;
  for (std::int64_t raw = 0; raw < 130 * kSecond; raw += 1'000'003) {
    const auto at = model.cluster(1, RawTime{raw}).time.ns;
    ASSERT_GT(at, last) << raw;
    last = at;
  }
}

TEST(ClockModel, AnUnmeasuredClockHasAnUnknownError) {
  const Clocks view({});
  const ClockModel model(view);
  EXPECT_EQ(model.cluster(1, RawTime{5}).error_ns, kUnknownError);
  EXPECT_EQ(model.cluster(99, RawTime{5}).error_ns, kUnknownError);
  EXPECT_FALSE(model.from_system(1, 0));
}

}  // namespace
}  // namespace scope::analysis
