// Which messages bound a clock, and as sent when: over a real store, two nodes whose clocks are right and known to +-0.2 ms.
#include <gtest/gtest.h>

#include "analysis/clock_messages.h"
#include "test/unit/analysis/world.h"

namespace scope::analysis {
namespace {

constexpr std::int64_t kMs = 1'000'000, kHalf = kMs / 5;
constexpr std::int64_t kUs = 1'000;

class ClockPairs : public testing::Test {
 protected:
  // The bounds of the receiver's clock by a call that was sent at `sent` us by its row, and fetched at 500 us.
  std::pair<std::int64_t, std::int64_t> bounds(std::int64_t sent) {
    const auto call = test::gen_call(a, 1, "hello");
    from.send(a, b, call, kAt + sent * kUs);
    to.fetch(b, call, kAt + 500 * kUs);
    world.append(from);
    world.append(to);
    const auto context = world.context(kAt + 1000 * kMs);
    const auto read = read_pairs(context, {ClusterTime{0}, ClusterTime{kAt + 10 * kMs}}, clocks);
    EXPECT_GE(read.rows, 2U);
    EXPECT_EQ(clocks.stats().pairs, 1U);
    std::pair<std::int64_t, std::int64_t> out{-kHalf, kHalf};
    for (const auto& v : clocks.refine(context.view->clocks()))
      if (v.incarnation == to.incarnation) out = {v.lower_ns, v.upper_ns};
    return out;
  }

  static constexpr std::int64_t kAt = 100 * kMs;
  test::World world;
  test::Node& from = world.node("a@h", 1, 0, kHalf);
  test::Node& to = world.node("b@h", 2, 0, kHalf);
  codec::PidParts a = from.own(5), b = to.own(9);
  MessageClocks clocks;
};

// By the time of its row the receiver's clock would be 0.15 ms behind at least: it was sent before that was read.
TEST_F(ClockPairs, ASendMayHaveBeenAsEarlyAsTheRowBeforeIt) {
  from.fetch(a, test::int_term(1), kAt);
  const auto [lower, upper] = bounds(850);
  EXPECT_EQ(clocks.stats().contradict, 0U);
  EXPECT_EQ(lower, -kHalf);
  EXPECT_EQ(upper, kHalf);
}

// The row before it was made 0.1 ms after the fetch, by these clocks: the receiver's is so much later than the sender's lowest.
TEST_F(ClockPairs, TheRowBeforeItBounds) {
  from.fetch(a, test::int_term(1), kAt + 600 * kUs);
  const auto [lower, upper] = bounds(650);
  EXPECT_EQ(clocks.stats().contradict, 0U);
  EXPECT_NEAR(static_cast<double>(lower), -100.0 * kUs, 10.0 * kUs);
  EXPECT_EQ(upper, kHalf);
}

TEST_F(ClockPairs, WithoutARowBeforeItItBoundsNothing) {
  const auto [lower, upper] = bounds(850);
  EXPECT_EQ(clocks.stats().contradict, 0U);
  EXPECT_EQ(lower, -kHalf);
  EXPECT_EQ(upper, kHalf);
}

// More than one pass reads, all within the time by which passes overlap: the next goes on, until every message was matched.
TEST_F(ClockPairs, PassesThatCannotReadAllGoOn) {
  constexpr std::int64_t kMessages = 20'000;
  for (std::int64_t i = 0; i < kMessages; ++i) {
    const auto at = kAt + i * 10 * kUs;
    from.send(a, b, test::int_term(i), at);
    to.fetch(b, test::int_term(i), at + 20 * kUs);
  }
  world.append(from);
  world.append(to);
  const auto context = world.context(kAt + 1000 * kMs);
  const ClusterTime end{kAt + 1000 * kMs};
  ClusterTime next{0};
  int passes = 0;
  for (PairsRead read; read.until < end && passes < 20; ++passes) {
    read = read_pairs(context, {next, end, 8'000}, clocks);
    ASSERT_LE(read.next, read.until);
    ASSERT_GE(read.next, next);
    next = read.next;
  }
  EXPECT_EQ(passes, 7);
}

}  // namespace
}  // namespace scope::analysis
