// Matching against a simulated VM that keeps the order of each pair of processes and tells which send each arrival was.
#include "analysis/message_match.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <set>

namespace scope::analysis {
namespace {

using codec::EventType;
using codec::TraceRecord;

constexpr std::int64_t kMs = 1'000'000;

struct Sink : MatchSink {
  struct Match {
    EventId arrival;
    Matched how;
    std::uint32_t candidates;
  };
  void matched(const Message& send, const Message& arrival, Matched how,
               std::uint32_t candidates) override {
    EXPECT_TRUE(by_send.emplace(send.id, Match{arrival.id, how, candidates}).second) << "twice";
    EXPECT_TRUE(arrivals.insert(arrival.id).second) << "an arrival of two sends";
  }
  void taken(const Message& fetch, const Message& take) override { takes[fetch.id] = take.id; }
  std::map<EventId, Match> by_send;
  std::set<EventId> arrivals;
  std::map<EventId, EventId> takes;
};

ProcessId process(Incarnation vm, std::uint32_t id) { return {vm, id, 0}; }

Message event(EventType type, ProcessId of, std::int64_t time, std::uint64_t hash,
              std::int64_t error = 0) {
  Message m;
  m.type = type;
  m.process = of;
  m.id = {of, RawTime{time}, 0};
  m.at = {ClusterTime{time}, error};
  m.hash = hash;
  return m;
}
Message sent(ProcessId from, ProcessId to, std::int64_t time, std::uint64_t hash,
             std::int64_t error = 0) {
  auto m = event(EventType::message_send, from, time, hash, error);
  m.to = {Destination::Kind::process, to};
  return m;
}
Message fetched(ProcessId at, std::int64_t time, std::uint64_t hash, std::int64_t error = 0) {
  return event(EventType::message_fetch, at, time, hash, error);
}

struct MatchTest : testing::Test {
  Sink sink;
  ProcessId a = process(1, 5), b = process(1, 6), c = process(1, 7);
};

TEST_F(MatchTest, NeighboursTellEqualMessagesApart) {
  MessageMatcher m(sink);
  m.add(sent(a, b, 10, 7));
  m.add(sent(a, b, 11, 99));
  m.add(sent(a, b, 12, 7));
  m.add(fetched(b, 20, 7));
  m.add(fetched(b, 21, 99));
  m.add(fetched(b, 22, 7));
  m.finish();
  EXPECT_EQ(m.stats().unique, 3u);
  EXPECT_EQ(sink.by_send.at(sent(a, b, 12, 7).id).arrival, fetched(b, 22, 7).id);
}

TEST_F(MatchTest, TwoSendersOfOneContentStayAmbiguousUnlessTheirNeighboursTell) {
  MessageMatcher m(sink);
  m.add(sent(a, b, 10, 7));
  m.add(sent(c, b, 11, 7));
  m.add(fetched(b, 20, 7));
  m.add(fetched(b, 21, 7));
  m.finish();
  EXPECT_EQ(m.stats().ambiguous, 2u);
  EXPECT_EQ(sink.by_send.begin()->second.candidates, 2u);
}

TEST_F(MatchTest, AReferenceIsExactEvenWhereTheContentWasNotHashedWhole) {
  MessageMatcher m(sink);
  auto request = sent(a, b, 10, 7);
  request.flags = TraceRecord::kHashBounded;
  request.identity = {Identity::Kind::request, {1, 2}, {}};
  auto arrived = fetched(b, 20, 7);
  arrived.identity = request.identity;
  m.add(request);
  m.add(sent(c, b, 11, 8));
  m.add(arrived);
  auto partly = fetched(b, 21, 8);
  partly.flags = TraceRecord::kHashBounded;
  m.add(partly);
  m.finish();
  EXPECT_EQ(sink.by_send.at(request.id).how, Matched::exact);
}

TEST_F(MatchTest, ForwardedRequestsBelongToTheReceiverTheyWereSentTo) {
  MessageMatcher m(sink);
  const Identity identity{Identity::Kind::request, {1, 2}, {}};
  auto first = sent(a, b, 10, 7), second = sent(b, c, 30, 7);
  auto at_b = fetched(b, 20, 7), at_c = fetched(c, 40, 7);
  for (auto* one : {&first, &at_b, &second, &at_c}) {
    one->identity = identity;
    m.add(*one);
  }
  m.finish();
  EXPECT_EQ(sink.by_send.at(first.id).arrival, at_b.id);
  EXPECT_EQ(sink.by_send.at(second.id).arrival, at_c.id);
  EXPECT_EQ(m.stats().exact, 2u);
}

TEST_F(MatchTest, AnAliasFindsItsFetchAmongThoseThatNothingElseClaims) {
  MessageMatcher m(sink);
  auto to_alias = sent(a, b, 10, 7);
  to_alias.to = {Destination::Kind::vm, {1, 0, 0}};
  m.add(to_alias);
  m.add(sent(a, b, 11, 7));  // by pid: b's fetch is its
  m.add(fetched(b, 20, 7));
  m.add(fetched(c, 21, 7));
  m.finish();
  EXPECT_EQ(sink.by_send.at(to_alias.id).arrival, fetched(c, 21, 7).id);
  EXPECT_EQ(m.stats().unique, 2u);
}

TEST_F(MatchTest, WhatNoProcessSentIsCountedAndNotPaired) {
  MessageMatcher m(sink);
  auto down = fetched(b, 20, 7);
  down.flags = TraceRecord::kSystem;
  m.add(sent(a, b, 10, 7));
  m.add(down);
  m.finish();
  EXPECT_TRUE(sink.by_send.empty());
  EXPECT_EQ(m.stats().system, 1u);
  EXPECT_EQ(m.stats().unmatched_sends, 1u);
}

TEST_F(MatchTest, MemoryIsBoundedAndWhatFellOutIsCounted) {
  MatchLimits limits;
  limits.max_open = 100;
  MessageMatcher m(sink, limits);
  for (int i = 0; i < 10'000; ++i) m.add(sent(a, b, i, 1000 + static_cast<std::uint64_t>(i)));
  m.finish();
  EXPECT_EQ(m.stats().unmatched_sends, 10'000u);
  EXPECT_GT(m.stats().fell_out, 9'000u);
}

TEST_F(MatchTest, AfterTheWindowASendWaitsNoLonger) {
  MatchLimits limits;
  limits.window_ns = 1000 * kMs;
  MessageMatcher m(sink, limits);
  m.add(sent(a, b, 0, 7));
  m.advance(ClusterTime{5000 * kMs});
  EXPECT_EQ(m.stats().fell_out, 1u);
  m.add(sent(a, b, 5000 * kMs, 7));
  m.add(fetched(b, 5001 * kMs, 7));
  m.finish();
  EXPECT_EQ(m.stats().unique, 1u) << "the one that fell out is in nobody's way";
}

// Random traffic of a few processes on two VMs. `contents`: how many different messages there are.
struct Load {
  int messages = 3000, processes = 6, contents = 1'000'000;
  double lost_sends = 0, lost_fetches = 0;
  std::int64_t error = 0;
  std::int64_t step_ns = kMs / 10;  // between sends
  bool streaming = false;
};
struct Score {
  std::size_t pairs = 0, right = 0, wrong = 0, wrong_sure = 0, ambiguous = 0;
};

Score simulate(const Load& load, unsigned seed) {
  std::mt19937 random(seed);
  const auto pick = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  const auto chance = [&](double p) { return std::uniform_real_distribution<>(0, 1)(random) < p; };
  std::vector<Message> events;
  std::map<EventId, EventId> truth;  // send -> fetch, where both were recorded
  std::map<std::pair<int, int>, std::int64_t> pair_time;
  struct Arriving {
    Message send;
    bool recorded;
  };
  std::vector<std::multimap<std::int64_t, Arriving>> inbox(
      static_cast<std::size_t>(load.processes));
  const auto who = [](int p) {
    return process(static_cast<Incarnation>(1 + p % 2), static_cast<std::uint32_t>(10 + p));
  };
  std::int64_t now = kMs;
  for (int i = 0; i < load.messages; ++i) {
    now += 1 + pick(static_cast<int>(load.step_ns) * 2);
    const int from = pick(load.processes), to = pick(load.processes);
    auto& last = pair_time[{from, to}];
    last = std::max(last + 1, now + 1000 + pick(3 * static_cast<int>(kMs)));  // in the pair's order
    auto send = sent(who(from), who(to), now, 1 + static_cast<std::uint64_t>(pick(load.contents)),
                     load.error);
    const bool recorded = !chance(load.lost_sends);
    if (recorded) events.push_back(send);
    inbox[static_cast<std::size_t>(to)].emplace(last, Arriving{send, recorded});
  }
  for (int p = 0; p < load.processes; ++p) {
    std::int64_t free = 0;
    for (const auto& [at, arriving] : inbox[static_cast<std::size_t>(p)]) {
      free = std::max(free + 1, at);
      auto fetch = fetched(who(p), free, arriving.send.hash, load.error);
      if (chance(load.lost_fetches)) continue;
      events.push_back(fetch);
      if (arriving.recorded) truth.emplace(arriving.send.id, fetch.id);
    }
  }
  std::ranges::sort(events, {}, [](const Message& m) { return std::pair(m.at.time.ns, m.id); });
  Sink sink;
  MessageMatcher matcher(sink);
  for (const auto& e : events) {
    matcher.add(e);
    if (load.streaming) matcher.advance(e.at.time);
  }
  matcher.finish();
  Score score;
  score.pairs = truth.size();
  for (const auto& [send, match] : sink.by_send) {
    const auto t = truth.find(send);
    const bool right = t != truth.end() && t->second == match.arrival;
    ++(right ? score.right : score.wrong);
    if (match.how == Matched::ambiguous) {
      ++score.ambiguous;
    } else if (!right) {
      ++score.wrong_sure;
    }
  }
  return score;
}

TEST(MatchSimulated, DifferentMessagesAreAllFoundAndSure) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    for (const bool streaming : {false, true}) {
      const auto s = simulate({.error = kMs / 2, .streaming = streaming}, seed);
      EXPECT_EQ(s.right, s.pairs);
      EXPECT_EQ(s.wrong, 0u);
      EXPECT_LE(s.ambiguous * 100, s.pairs);
    }
  }
}

TEST(MatchSimulated, EqualMessagesAreNeverSureAndWrong) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    for (const int contents : {3, 30, 300}) {
      for (const bool streaming : {false, true}) {
        const auto s =
            simulate({.contents = contents, .error = kMs / 2, .streaming = streaming}, seed);
        EXPECT_EQ(s.wrong_sure, 0u) << contents << " seed " << seed << " streaming " << streaming;
        EXPECT_EQ(s.right + s.wrong, s.pairs) << "all are paired";
      }
    }
  }
}

TEST(MatchSimulated, OfOneSenderToOneReceiverTheOrderIsTheVms) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    const auto s = simulate({.processes = 1, .contents = 3, .streaming = seed % 2 == 0}, seed);
    EXPECT_EQ(s.right, s.pairs);
    EXPECT_EQ(s.wrong, 0u);
  }
}

TEST(MatchSimulated, WhatWasNotRecordedMakesNoWrongMatchOfDifferentMessages) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    const auto s = simulate({.lost_sends = 0.1, .lost_fetches = 0.1, .error = kMs / 2}, seed);
    EXPECT_EQ(s.right, s.pairs);
    EXPECT_EQ(s.wrong, 0u);
  }
}

}  // namespace
}  // namespace scope::analysis
