// The clock model refined by messages, against clocks whose true offsets are known.
#include "analysis/clock_messages.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <random>

#include "analysis/clock_estimator.h"
#include "test/unit/analysis/clock_world.h"

namespace scope::analysis {
namespace {

struct Sent {
  EventId send, arrival;
  std::optional<RawTime> proven;  // when its process did something before it
  bool late = false;              // it was sent before the time of its row
};

EventId event(Incarnation of, std::int64_t raw) { return {{of, 1, 1}, RawTime{raw}, 0}; }

// Three nodes that ping and message each other; what the daemon would store.
class Nodes {
 public:
  Nodes(std::vector<TrueClock> clocks, std::uint64_t seed, double ping_delay_ns = 150'000)
      : clocks_(std::move(clocks)), random_(seed), ping_delay_(1 / ping_delay_ns) {
    for (Incarnation n = 1; n <= clocks_.size(); ++n) estimators_.emplace_back(n);
  }

  // By cluster time; a refinement every two seconds, if asked for, `phase` before the even ones.
  void run(std::int64_t until, bool refine) {
    for (; now_ < until; now_ += kSecond / 50) {
      const bool pings = now_ < kFrom + kSecond / 3 || now_ % (kSecond / 2) == 0;
      for (Incarnation n = 1; pings && n <= clocks_.size(); ++n) ping(n);
      if (pings) tell(true);
      for (int i = 0; i < rate; ++i) message();
      if (refine && (now_ + phase) % (2 * kSecond) == 0) this->refine();
    }
  }

  // Another daemon, which reads the last two seconds again.
  void restart() {
    finish();
    for (auto& e : estimators_)
      e = ClockEstimator(static_cast<Incarnation>(&e - &estimators_[0] + 1));
    messages = MessageClocks(ClusterTime{now_ + 1});
    while (told_ > 0 && clocks_[sent[told_ - 1].send.process.incarnation - 1].cluster(
                            sent[told_ - 1].send.time.ns) > now_ - 2 * kSecond) {
      --told_;
    }
  }
  // All that was sent: also what no ping came after.
  void finish() {
    tell(false);
    refine();
  }
  void refine() {
    const Clocks view(versions);
    for (auto v : messages.refine(view.clocks())) {
      v.measured_at = ClusterTime{now_};
      store(v);
    }
  }

  std::int64_t raw(Incarnation n, std::int64_t at) const { return clocks_[n - 1].raw(at); }
  bool stands_still(Incarnation n, std::int64_t at) const {
    return clocks_[n - 1].stands_still(at);
  }

  std::int64_t begun() const { return kFrom; }
  int rate = 4;  // messages in 20 ms
  int late = 0;  // one in so many is traced late
  std::int64_t phase = 0;
  std::vector<store::ClockVersion> versions;
  std::vector<Sent> sent;
  MessageClocks messages;

 private:
  void store(store::ClockVersion v) {
    v.version = static_cast<std::uint32_t>(versions.size() + 1);
    versions.push_back(v);
  }
  std::int64_t delay(double quickest) {
    return static_cast<std::int64_t>(quickest + ping_delay_(random_));
  }
  void ping(Incarnation n) {
    if (stands_still(n, now_)) return;
    const Ping p{ClusterTime{now_ - delay(20'000)}, ClusterTime{now_ + delay(20'000)},
                 RawTime{raw(n, now_)}, now_};
    for (const auto& v : estimators_[n - 1].add(p)) store(v);
  }
  void message() {
    const Incarnation a = 1 + static_cast<Incarnation>(random_() % clocks_.size());
    const Incarnation b = 1 + static_cast<Incarnation>(random_() % clocks_.size());
    if (a == b) return;
    const std::int64_t at = now_ + static_cast<std::int64_t>(random_() % (kSecond / 60));
    const std::int64_t took =
        5'000 + static_cast<std::int64_t>(std::exponential_distribution<>(1 / 50'000.0)(random_));
    if (stands_still(a, at) || stands_still(b, at + took)) return;
    const bool proves = random_() % 2 == 0;
    const auto some = [&](std::int64_t ns) {
      return static_cast<std::int64_t>(beside_() % static_cast<std::uint64_t>(ns));
    };
    const bool is_late = late != 0 && some(late) == 0;
    Sent m{event(a, raw(a, at + (is_late ? some(200'000) : 0))),
           event(b, raw(b, at + took)),
           {},
           is_late};
    if (proves) m.proven = RawTime{raw(a, at - some(20'000))};
    sent.push_back(m);
  }
  // What was fetched before now; the rest, too, but not as exact.
  void tell(bool pinged) {
    for (; told_ < sent.size(); ++told_) {
      const auto& m = sent[told_];
      const auto to = m.arrival.process.incarnation;
      if (pinged && clocks_[to - 1].cluster(m.arrival.time.ns) >= now_) return;
      messages.add(m.send, m.arrival, pinged ? m.proven : std::nullopt);
    }
  }

  std::vector<TrueClock> clocks_;
  std::mt19937_64 random_;
  std::mt19937_64 beside_{7};
  std::exponential_distribution<double> ping_delay_;
  std::vector<ClockEstimator> estimators_;
  static constexpr std::int64_t kFrom = 1000 * kSecond;
  std::int64_t now_ = kFrom;
  std::size_t told_ = 0;  // of sent
};

std::size_t violated(const Nodes& nodes) {
  const Clocks view(nodes.versions);
  const ClockModel model(view);
  return static_cast<std::size_t>(std::ranges::count_if(nodes.sent, [&](const Sent& m) {
    return !m.late && model.cluster(m.arrival.process.incarnation, m.arrival.time).time <
                          model.cluster(m.send.process.incarnation, m.send.time).time;
  }));
}

// The mean error; every offset within its bound, each clock's rows in order.
double check(const Nodes& nodes, std::size_t clocks, std::int64_t until,
             std::int64_t every = 7'000'003) {
  const Clocks view(nodes.versions);
  const ClockModel model(view);
  double sum = 0;
  std::size_t count = 0;
  for (Incarnation n = 1; n <= clocks; ++n) {
    std::int64_t last = INT64_MIN;
    for (auto at = nodes.begun(); at < until; at += every) {
      if (nodes.stands_still(n, at)) continue;
      const auto got = model.cluster(n, RawTime{nodes.raw(n, at)});
      EXPECT_LE(std::abs(got.time.ns - at), got.error_ns + 100) << n << " " << at;
      EXPECT_GT(got.time.ns, last);
      last = got.time.ns;
      sum += static_cast<double>(got.error_ns);
      ++count;
    }
  }
  return sum / static_cast<double>(count);
}

std::vector<TrueClock> skewed(std::mt19937_64& random) {
  std::vector<TrueClock> out;
  for (int n = 0; n < 3; ++n) {
    const double ppm = std::uniform_real_distribution<>(-100, 100)(random);
    out.push_back({static_cast<std::int64_t>(random() % 900) * kSecond, {{0, ppm}}});
  }
  return out;
}

TEST(MessageClocks, NoFetchStandsBeforeItsSendAndTheTruthStaysWithinTheBounds) {
  std::size_t before = 0;
  for (std::uint64_t round = 1; round <= 12; ++round) {
    std::mt19937_64 random(round);
    const auto clocks = skewed(random);
    Nodes with(clocks, round), without(clocks, round);
    with.run(with.begun() + 30 * kSecond, true);
    with.finish();
    without.run(without.begun() + 30 * kSecond, false);
    ASSERT_GT(with.sent.size(), 1000u);
    EXPECT_EQ(violated(with), 0u) << "round " << round;
    EXPECT_EQ(with.messages.stats().unresolved, 0u);
    EXPECT_EQ(with.messages.stats().contradict, 0u);
    before += violated(without);
    check(with, 3, with.begun() + 30 * kSecond);
  }
  EXPECT_GT(before, 50u) << "the messages had nothing to mend";
}

// The VM reads the time of a message to another node once it is on its way: some are fetched before.
TEST(MessageClocks, ASendThatIsTracedLateNarrowsNothing) {
  std::size_t early = 0;  // of the others: what cannot hold moves what is near it
  for (std::uint64_t round = 1; round <= 12; ++round) {
    std::mt19937_64 random(round);
    const auto clocks = skewed(random);
    Nodes nodes(clocks, round);
    nodes.late = 50;
    nodes.run(nodes.begun() + 20 * kSecond, true);
    nodes.finish();
    early += violated(nodes);
    EXPECT_EQ(nodes.messages.stats().contradict, 0u);
    SCOPED_TRACE(testing::Message() << "round " << round);
    check(nodes, 3, nodes.begun() + 20 * kSecond);
  }
  EXPECT_LE(early, 3u);
}

TEST(MessageClocks, WhatAnEarlierDaemonRefinedStays) {
  for (std::uint64_t round = 1; round <= 12; ++round) {
    std::mt19937_64 random(round);
    Nodes nodes(skewed(random), round);
    nodes.run(nodes.begun() + 8 * kSecond, true);
    nodes.restart();
    EXPECT_EQ(violated(nodes), 0u) << "round " << round;
    std::map<Incarnation, RawTime> last;  // beyond it, times were guessed
    for (const auto& v : nodes.versions)
      last[v.incarnation] = std::max(last[v.incarnation], v.raw_at);
    nodes.run(nodes.begun() + 16 * kSecond, true);
    nodes.finish();
    std::erase_if(nodes.sent, [&](const Sent& m) {
      return m.send.time > last[m.send.process.incarnation] ||
             m.arrival.time > last[m.arrival.process.incarnation];
    });
    ASSERT_GT(nodes.sent.size(), 500u);
    EXPECT_EQ(violated(nodes), 0u) << "round " << round;
    check(nodes, 3, nodes.begun() + 16 * kSecond);
  }
}

TEST(MessageClocks, FollowsRateCorrectionsOfErts) {
  for (const double ppm : {9766.0, -9766.0, 488.0}) {
    // From 8.7 s to 21.3 s of the session; its raw clock began 900 s before that.
    Nodes nodes({{100 * kSecond,
                  {{0, 10}, {908'700 * kSecond / 1000, 10 + ppm}, {921'300 * kSecond / 1000, 10}}},
                 {0, {{0, -20}}},
                 {500 * kSecond, {{0, 40}}}},
                77);
    nodes.run(nodes.begun() + 30 * kSecond, true);
    nodes.finish();
    check(nodes, 3, nodes.begun() + 30 * kSecond - kSecond);
    EXPECT_EQ(violated(nodes), 0u) << ppm;
  }
}

// By pings alone nobody knows when in half a second; messages do, to the next one.
TEST(MessageClocks, AStepIsFoundBetweenTwoPings) {
  for (const std::int64_t step : {kSecond / 2, kSecond / 20, -kSecond / 2, 20 * kSecond}) {
    std::mt19937_64 random(17);
    auto clocks = skewed(random);
    clocks[1] = {100 * kSecond, {{0, 30}}, 909'200 * kSecond / 1000, step};  // 9.2 s from the begin
    Nodes with(clocks, 23), without(clocks, 23);
    with.run(with.begun() + 20 * kSecond, true);
    with.finish();
    without.run(without.begun() + 20 * kSecond, false);
    EXPECT_EQ(violated(with), 0u) << step;
    EXPECT_GT(violated(without), 20u) << step;
    EXPECT_EQ(with.messages.stats().contradict, 0u) << step;
    check(with, 3, with.begun() + 19 * kSecond, 2'000'003);
    const Clocks view(with.versions);
    const ClockModel model(view);
    std::int64_t unsure = 0;
    for (auto at = with.begun(); at < with.begun() + 19 * kSecond; at += kSecond / 1000) {
      if (with.stands_still(2, at)) continue;
      const auto got = model.cluster(2, RawTime{with.raw(2, at)});
      unsure += got.error_ns > 20'000'000;
      const auto back = model.cluster(2, model.raw(2, got.time).time);
      EXPECT_LE(std::abs(back.time.ns - got.time.ns), 100) << step << " at " << at;
    }
    EXPECT_LT(unsure, 200) << step;
  }
}

// In a young session or an old one, with the step of another node near to it, and wherever between them a pass comes.
// SCOPE_SEEDS=n takes n times as many draws.
TEST(MessageClocks, WhereverARateChanges) {
  const char* more = std::getenv("SCOPE_SEEDS");
  const std::uint64_t rounds = more == nullptr ? 1 : std::strtoull(more, nullptr, 10);
  // 1000 * round + seed: seeds give the kind of change. These were wrong once.
  std::vector<std::uint64_t> draws = {1'025, 3'027, 15'031, 18'005, 18'028};
  for (std::uint64_t i = 0; i < 48 * rounds; ++i) draws.push_back(i / 48 * 1000 + i % 48);
  for (const auto draw : draws) {
    const auto seed = draw % 1000;
    std::mt19937_64 random(draw);
    auto clocks = skewed(random);
    const std::int64_t begin = seed % 2 == 0 ? 4'000 : 12'000;  // ms of the session
    const auto within = [&](std::int64_t ms) {
      return begin + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(ms));
    };
    constexpr std::int64_t kSteps[] = {0, kSecond / 2, -kSecond / 2, kSecond / 20};
    if (const auto step = kSteps[seed / 2 % 4]; step != 0) {
      clocks[1] = {100 * kSecond, {{0, 30}}, (900'000 + within(4'000)) * kSecond / 1000, step};
    }
    constexpr double kPpm[] = {9776, -9776, 2000, 488};
    clocks[2] = {0, {{0, 10}, {(1'000'000 + within(2'000)) * kSecond / 1000, kPpm[seed / 8 % 4]}}};
    Nodes nodes(clocks, draw);
    nodes.rate = 30;
    nodes.phase = static_cast<std::int64_t>(seed % 10) * 9 * kSecond / 50;
    const auto end = nodes.begun() + (begin / 1000 + 8) * kSecond;
    nodes.run(end, true);
    nodes.finish();
    EXPECT_EQ(violated(nodes), 0u) << "draw " << draw;
    SCOPED_TRACE(testing::Message() << "draw " << draw);
    check(nodes, 3, end - kSecond, 4'000'003);
  }
}

TEST(MessageClocks, ANodeThatIsFarFromTheDaemonIsBoundedByItsNeighbours) {
  const std::vector<TrueClock> clocks = {
      {0, {{0, 20}}}, {7 * kSecond, {{0, -30}}}, {9 * kSecond, {{0, 5}}}};
  Nodes nodes(clocks, 5);
  nodes.run(nodes.begun() + 10 * kSecond, false);
  // What the daemon alone knows of node 3: 20 ms.
  for (auto& v : nodes.versions) {
    if (v.incarnation != 3) continue;
    v.lower_ns -= 20'000'000;
    v.upper_ns += 20'000'000;
    v.offset_ns += 15'000'000;
  }
  const auto before = check(nodes, 3, nodes.begun() + 10 * kSecond);
  EXPECT_GT(violated(nodes), 100u);
  nodes.finish();
  EXPECT_EQ(violated(nodes), 0u);
  EXPECT_LT(check(nodes, 3, nodes.begun() + 10 * kSecond), before / 10);
}

TEST(MessageClocks, APairThatContradictsTheBoundsIsDroppedAndCounted) {
  Nodes nodes({{0, {{0, 0}}}, {kSecond, {{0, 0}}}, {0, {{0, 0}}}}, 9);
  nodes.run(nodes.begun() + 5 * kSecond, false);
  const auto at = nodes.begun() + 2 * kSecond;
  // Fetched 50 ms before it was sent.
  nodes.messages.add(event(1, nodes.raw(1, at)), event(2, nodes.raw(2, at - kSecond / 20)),
                     RawTime{nodes.raw(1, at)});
  nodes.refine();
  EXPECT_EQ(nodes.messages.stats().contradict, 1u);
  check(nodes, 3, nodes.begun() + 5 * kSecond);
}

// A request whose row is late by so much was answered at once, as the rows say, or before it was sent. In the one case there is
// one offset, nearly, in the other none: but those of other messages near it.
TEST(MessageClocks, ARequestThatIsTracedLateLeavesLittleRoomOrNone) {
  for (std::uint64_t round = 1; round <= 24; ++round) {
    std::mt19937_64 random(round);
    Nodes nodes(skewed(random), round);
    nodes.run(nodes.begun() + 5 * kSecond, false);
    nodes.sent.clear();
    const auto at = nodes.begun() + 2 * kSecond;
    const auto tell = [&](Incarnation from, std::int64_t sent, Incarnation to, std::int64_t came,
                          bool late) {
      const auto a = event(from, nodes.raw(from, sent)), b = event(to, nodes.raw(to, came));
      nodes.sent.push_back({a, b, {}, late});
      nodes.messages.add(a, b, {});
    };
    const bool none = round % 2 == 0;
    tell(1, at + (none ? 6'000 : 0), 2, at + 60, none);
    tell(2, at + 5'060, 1, at + (none ? 8'000 : 5'120), none);
    for (std::int64_t near : {-20'000, 20'000}) {
      tell(1, at + near, 3, at + near + 200, false);
      tell(3, at + near + 200, 1, at + near + 400, false);
    }
    nodes.refine();
    EXPECT_EQ(violated(nodes), 0u) << "round " << round;
    EXPECT_EQ(nodes.messages.stats().unresolved > 0, none);
  }
}

TEST(MessageClocks, WhatIsSettledIsNotRevisedAgain) {
  std::mt19937_64 random(3);
  Nodes nodes(skewed(random), 3);
  nodes.run(nodes.begun() + 20 * kSecond, true);
  nodes.refine();
  const auto stored = nodes.versions.size();
  nodes.refine();
  nodes.refine();
  EXPECT_EQ(nodes.versions.size(), stored);
}

TEST(MessageClocks, MemoryIsBounded) {
  MessageClocks clocks;
  constexpr std::int64_t kPairs = 150'000;
  for (std::int64_t i = 0; i < kPairs; ++i) {
    // Every pair is two corners, as its row says and as it is proven: each in a slice of its own.
    const std::int64_t at = i * MessageClocks::kSliceNs;
    clocks.add(event(1, at), event(2, at + 50'000), RawTime{at});
  }
  EXPECT_EQ(clocks.stats().left_out, kPairs - MessageClocks::kMaxCorners / 2);
}

}  // namespace
}  // namespace scope::analysis
