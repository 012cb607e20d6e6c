// aggregate over a real store, against plain counting of the same rows: with late batches, and clocks measured anew.
#include "analysis/aggregate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "analysis/get_events.h"
#include "analysis/sample_rates.h"
#include "test/unit/analysis/world.h"

namespace scope::analysis {
namespace {

using codec::EventType;
using codec::PidParts;
using test::int_term;
using test::World;

constexpr std::int64_t kMs = 1'000'000, kSecond = 1000 * kMs;

struct Call {
  std::string node, function;
  std::int64_t entered, left;  // cluster times, by clocks that were never measured again
};

// Two nodes whose seconds begin at different times; batches of one hold times that the other has long passed.
class Recording {
 public:
  Recording(unsigned seed, std::int64_t step)
      : random(seed), world([](auto& o) { o.block_rows = 300; }), step_(step) {
    for (int n = 0; n < 2; ++n) {
      behind_[n] = (std::int64_t{n} + 1) * 3'600'000 * kMs + std::int64_t{n} * 337 * kMs + 41;
      node_[n] = &world.node(n == 0 ? "a@h" : "b@h", 7, behind_[n]);
      clock_[n] = begin();
    }
  }

  void batch() {
    const int n = static_cast<int>(random() % 2);
    auto& events = *node_[n];
    for (auto size = 1 + random() % 60; size > 0; --size) {
      clock_[n] += static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(step_));
      const std::int64_t raw = clock_[n] - behind_[n];
      const auto who = static_cast<std::uint32_t>(random() % 4);
      const PidParts pid = events.own(100 + who);
      const std::string function(1, static_cast<char>('f' + random() % 3));
      const codec::Mfa mfa{who % 2 == 0 ? "m0" : "m1", function, 1};
      auto& open = open_[{n, who}];
      switch (random() % 5) {
        case 0:
        case 1:
          if (open.size() < 5) {
            events.call(pid, mfa, raw);
            open.emplace_back(function, clock_[n]);
            break;
          }
          [[fallthrough]];
        case 2:
          if (!open.empty()) {
            const auto [f, entered] = open.back();
            open.pop_back();
            events.returned(pid, {mfa.module, f, 1}, int_term(1), raw);
            calls.push_back({events.node(), f, entered, clock_[n]});
            break;
          }
          [[fallthrough]];
        case 3:
          events.send(pid, events.own(100 + static_cast<std::uint32_t>(random() % 4)), int_term(7),
                      raw);
          break;
        default:
          events.fetch(pid, int_term(7), raw);
      }
    }
    world.append(events);
  }
  // The clock of one node, measured anew: its times since the last measurement shift by some milliseconds.
  void measure() {
    const int n = static_cast<int>(random() % 2);
    shift_ += static_cast<std::int64_t>(random() % 3'000'000) - 1'500'000;
    store::ClockVersion v;
    v.incarnation = node_[n]->incarnation;
    v.raw_at = RawTime{clock_[n] - behind_[n]};
    v.offset_ns = behind_[n] + shift_;
    v.lower_ns = v.offset_ns - 1000;
    v.upper_ns = v.offset_ns + 1000;
    v.measured_at = ClusterTime{++versions_};
    ASSERT_TRUE(world.store->add_clock(v));
  }

  static std::int64_t begin() { return 10'000 * kSecond; }
  std::int64_t now() const { return std::max(clock_[0], clock_[1]) + kSecond; }

  std::mt19937_64 random;
  World world;
  std::vector<Call> calls;

 private:
  std::int64_t step_, shift_ = 0, versions_ = 1, behind_[2], clock_[2];
  test::Node* node_[2];
  std::map<std::pair<int, std::uint32_t>, std::vector<std::pair<std::string, std::int64_t>>> open_;
};

using Key = std::tuple<std::string, std::string, std::string, std::uint32_t, unsigned, std::int64_t,
                       std::uint32_t>;

bool has(const AggregateSpec& spec, GroupKey key) {
  return std::ranges::find(spec.by, key, &Grouping::key) != spec.by.end();
}
std::int64_t bucket_of(const AggregateSpec& spec, std::int64_t at) {
  for (const auto& by : spec.by) {
    if (by.key == GroupKey::time) return (at - (at % by.bucket_ns + by.bucket_ns) % by.bucket_ns);
  }
  return 0;
}

TEST(Aggregate, CountsAreThoseOfAPlainList) {
  std::uint64_t from_cells = 0;
  for (unsigned seed = 1; seed <= 4; ++seed) {
    Recording r(seed, seed % 2 == 0 ? 60 * kMs : 3 * kMs);
    for (int i = 0; i < 120; ++i) {
      r.batch();
      if (i % 29 == 28) r.measure();
    }
    const auto context = r.world.context(r.now());
    Filter everything;
    everything.limit = kMaxLimit;
    const auto all = get_events(context, everything);
    ASSERT_TRUE(all && all->next.empty());
    auto& random = r.random;
    const auto some = [&](unsigned n) { return random() % n == 0; };
    for (int query = 0; query < 120; ++query) {
      AggregateSpec spec;
      auto& f = spec.filter;
      if (some(3)) f.nodes = {some(2) ? "a@h" : "b@h"};
      if (some(3))
        f.types = bit(EventType::function_entry) | (some(2) ? bit(EventType::message_send) : 0);
      if (some(4)) f.modules = {"m1"};
      if (some(5))
        f.mfa = MfaSpec{"m0", some(2) ? "f" : "",
                        some(2) ? std::optional<std::uint8_t>(1) : std::nullopt};
      if (some(6)) f.pid = PidSpec{"a@h", 7, 101, 0};
      const auto time = [&] {
        const auto& e = all->events[random() % all->events.size()];
        return ClusterTime{e.at.time.ns +
                           (some(2) ? 0 : static_cast<std::int64_t>(random() % 5) - 2)};
      };
      if (some(2)) f.since = time();
      if (some(2)) f.until = time();
      for (const auto key : {GroupKey::node, GroupKey::mfa, GroupKey::module, GroupKey::type}) {
        if (some(3)) spec.by.push_back({key, 0});
      }
      if (some(5)) spec.by.push_back({GroupKey::pid, 0});
      if (some(6)) spec.by.push_back({GroupKey::edge, 0});
      if (some(2))
        spec.by.push_back({GroupKey::time, some(2) ? 7 * kSecond : some(2) ? kSecond : 100 * kMs});
      f.explain = true;
      const auto got = aggregate(context, spec);
      const auto at_of = [](const std::optional<TimeSpec>& t) {
        return std::get<ClusterTime>(*t).ns;
      };
      if (f.since && f.until && at_of(f.since) > at_of(f.until)) {
        EXPECT_FALSE(got);
        continue;
      }
      ASSERT_TRUE(got) << to_string(got.error());
      from_cells += got->explain->rollup_cells;
      EXPECT_TRUE(got->completeness.complete());
      EXPECT_FALSE(got->other || got->scaled);
      std::map<Key, std::uint64_t> want, counted;
      for (const auto& e : all->events) {
        const auto& rec = e.row.record;
        const auto* info = info_of(*context.view, e.row.process.incarnation);
        if (!f.nodes.empty() && info->node != f.nodes[0]) continue;
        if ((f.types & bit(rec.type)) == 0) continue;
        if (has(spec, GroupKey::edge) && rec.type != EventType::message_send) continue;
        if (!f.modules.empty() && rec.mfa.module != "m1") continue;
        if (f.mfa &&
            (rec.mfa.module != "m0" || (!f.mfa->function.empty() && rec.mfa.function != "f")))
          continue;
        if (f.pid && (info->node != "a@h" || rec.pid.id != 101)) continue;
        if (f.since && e.at.time.ns < at_of(f.since)) continue;
        if (f.until && e.at.time.ns > at_of(f.until)) continue;
        const bool edge = has(spec, GroupKey::edge), pid = has(spec, GroupKey::pid) || edge;
        ++want[{has(spec, GroupKey::node) || pid ? info->node : "",
                has(spec, GroupKey::mfa) || has(spec, GroupKey::module)
                    ? std::string(rec.mfa.module)
                    : "",
                has(spec, GroupKey::mfa) ? std::string(rec.mfa.function) : "", pid ? rec.pid.id : 0,
                has(spec, GroupKey::type) ? static_cast<unsigned>(rec.type) : 0,
                bucket_of(spec, e.at.time.ns), edge ? rec.peer.id : 0}];
      }
      for (const auto& g : got->groups) {
        const bool edge = has(spec, GroupKey::edge), pid = has(spec, GroupKey::pid) || edge;
        EXPECT_EQ(static_cast<double>(g.measured.rows), g.measured.count);
        counted[{has(spec, GroupKey::node) || pid ? g.node : "",
                 has(spec, GroupKey::mfa) || has(spec, GroupKey::module) ? g.module : "",
                 has(spec, GroupKey::mfa) ? g.function : "", pid ? g.pid.id : 0,
                 has(spec, GroupKey::type) ? static_cast<unsigned>(g.type) : 0, g.time.ns,
                 edge ? g.sender.record.peer.id : 0}] += g.measured.rows;
      }
      ASSERT_EQ(counted, want) << "seed " << seed << " query " << query;
      ASSERT_EQ(got->groups.size(), want.size()) << "each group once";
    }
  }
  EXPECT_GT(from_cells, 1000u) << "no count came from the rollups";
}

TEST(Aggregate, ADeadlineGivesWhatWasCountedUntilThenAndSaysSo) {
  Recording r(1, 3 * kMs);
  for (int i = 0; i < 120; ++i) r.batch();
  auto context = r.world.context(r.now());
  for (const auto value : {ValueOf::nothing, ValueOf::duration}) {
    for (const bool rollups : {true, false}) {
      AggregateSpec spec;
      spec.value = value;
      if (!rollups) spec.by = {{GroupKey::pid, 0}};
      const auto count = [&] {
        const auto got = aggregate(context, spec);
        EXPECT_TRUE(got) << to_string(got.error());
        std::uint64_t rows = 0;
        for (const auto& g : got->groups) rows += g.measured.rows;
        return std::pair(rows, got->completeness.deadline_cut);
      };
      context.budget = {};
      const auto [all, whole] = count();
      EXPECT_FALSE(whole);
      context.budget.deadline = std::chrono::steady_clock::now() - std::chrono::seconds(1);
      const auto [some, cut] = count();
      EXPECT_TRUE(cut);
      EXPECT_LT(some, all);
    }
  }
}

TEST(Aggregate, DurationsAreThoseOfTheCallsThatWereMade) {
  for (unsigned seed = 1; seed <= 3; ++seed) {
    Recording r(seed, 3 * kMs);
    for (int i = 0; i < 150; ++i) r.batch();
    const auto context = r.world.context(r.now());
    for (const bool late : {false, true}) {
      AggregateSpec spec;
      spec.by = {{GroupKey::node, 0}, {GroupKey::mfa, 0}};
      spec.value = ValueOf::duration;
      // From the middle on, many entries lie in older units.
      const std::int64_t since = late ? r.calls[r.calls.size() / 2].left : 0;
      if (late) spec.filter.since = ClusterTime{since};
      const auto got = aggregate(context, spec);
      ASSERT_TRUE(got) << to_string(got.error());
      std::map<std::string, std::vector<std::int64_t>> want;
      for (const auto& c : r.calls) {
        if (c.left >= since) want[c.node + c.function].push_back(c.left - c.entered);
      }
      std::map<std::string, std::uint64_t> rows;
      std::map<std::string, std::pair<std::int64_t, std::int64_t>> ends;
      std::map<std::string, double> sums;
      for (const auto& g : got->groups) {  // m0 and m1 have the same functions
        const auto& v = g.measured.values;
        EXPECT_EQ(v.count(), g.measured.rows);
        rows[g.node + g.function] += g.measured.rows;
        sums[g.node + g.function] += v.mean() * static_cast<double>(v.count());
        auto& [low, high] = ends.try_emplace(g.node + g.function, v.min(), v.max()).first->second;
        low = std::min(low, v.min());
        high = std::max(high, v.max());
      }
      ASSERT_EQ(rows.size(), want.size());
      for (const auto& [key, all] : want) {
        EXPECT_EQ(rows[key], all.size());
        const auto [low, high] = std::ranges::minmax(all);
        EXPECT_EQ(ends[key], std::pair(low, high));
        double sum = 0;
        for (const auto ns : all) sum += static_cast<double>(ns);
        EXPECT_NEAR(sums[key], sum, sum * 1e-9);
      }
    }
    // Longer than most: the same calls as get_events finds.
    Filter filter;
    filter.limit = kMaxLimit;
    filter.min_duration_ns = 30 * kMs;
    const auto page = get_events(context, filter);
    AggregateSpec spec;
    spec.filter = filter;
    const auto got = aggregate(context, spec);
    ASSERT_TRUE(page && got && got->groups.size() == 1);
    EXPECT_EQ(got->groups[0].measured.rows, page->events.size());
    EXPECT_EQ(page->events.size(),
              static_cast<std::size_t>(std::ranges::count_if(
                  r.calls, [](const Call& c) { return c.left - c.entered >= 30 * kMs; })));
  }
}

TEST(Aggregate, QueueTimesAreThoseOfMessagesWhoseSendingIsCertain) {
  World world([](auto& o) { o.block_rows = 100; });
  auto& a = world.node("a@h", 1, 1000 * kSecond);
  auto& b = world.node("b@h", 2, 5 * kSecond + 1);
  std::mt19937_64 random(3);
  std::int64_t at = 2000 * kSecond;
  std::vector<std::int64_t> waited;
  std::uint64_t taken = 0;
  for (int i = 0; i < 900; ++i) {
    at += kMs;
    const PidParts to = b.own(50 + static_cast<std::uint32_t>(i % 3));
    const std::int64_t queue = static_cast<std::int64_t>(1 + random() % 900) * 1000;
    // Some are sent by who is not recorded; some twice at once, so that nobody can tell which is which.
    const bool known = i % 7 != 0, twice = i % 11 == 0;
    if (known) a.send(a.own(9), to, int_term(i), at - 1000 * kSecond);
    if (known && twice) a.send(a.own(9), to, int_term(i), at - 1000 * kSecond + 1);
    b.take(to, int_term(i), at + queue - 5 * kSecond - 1);
    if (known && twice) b.take(to, int_term(i), at + queue + 1 - 5 * kSecond - 1);
    taken += known && twice ? 2 : 1;
    if (known && !twice) waited.push_back(queue);
    if (i % 50 == 49) {
      world.append(b);  // the takings come before the sends
      world.append(a);
    }
  }
  AggregateSpec spec;
  spec.value = ValueOf::queue_time;
  const auto got = aggregate(world.context(at + kSecond), spec);
  ASSERT_TRUE(got) << to_string(got.error());
  ASSERT_EQ(got->groups.size(), 1u);
  const auto& m = got->groups[0].measured;
  EXPECT_EQ(m.rows, taken);
  ASSERT_EQ(m.values.count(), waited.size());
  std::ranges::sort(waited);
  EXPECT_EQ(m.values.min(), waited.front());
  EXPECT_EQ(m.values.max(), waited.back());
  for (const double q : {0.5, 0.9, 0.99}) {
    const auto exact = static_cast<double>(
        waited[static_cast<std::size_t>(q * static_cast<double>(waited.size() - 1))]);
    EXPECT_NEAR(m.values.quantile(q), exact, exact * 0.0131) << q;
  }
}

TEST(Aggregate, QuantilesAreWithinTheirError) {
  std::mt19937_64 random(1);
  Distribution d;
  std::vector<std::int64_t> all;
  for (int i = 0; i < 20'000; ++i) {
    const auto ns =
        static_cast<std::int64_t>(std::exp(std::uniform_real_distribution<>(5, 25)(random)));
    d.add(ns);
    all.push_back(ns);
  }
  std::ranges::sort(all);
  for (const double q : {0.0, 0.01, 0.5, 0.9, 0.99, 1.0}) {
    const auto exact = static_cast<double>(all[static_cast<std::size_t>(q * 19'999)]);
    EXPECT_NEAR(d.quantile(q), exact, exact * 0.0131) << q;
  }
  Distribution ends;
  for (const std::int64_t ns : {std::int64_t{-5}, std::int64_t{0}, std::int64_t{1} << 62})
    ends.add(ns);
  EXPECT_EQ(ends.quantile(0), -5);
  EXPECT_EQ(ends.quantile(1), 0x1p62);
}

TEST(Aggregate, SampledNodesAreScaledAndTooManyGroupsAreOneMore) {
  World world([](auto& o) { o.block_rows = 4096; });
  auto& a = world.node("a@h", 1);
  auto& b = world.node("b@h", 2);
  std::int64_t at = kSecond;
  for (std::uint32_t i = 0; i < 12'000; ++i) {
    a.fetch(a.own(i + 1), int_term(1), ++at);
    if (i % 1000 == 999) world.append(a);
  }
  b.fetch(b.own(5), int_term(1), ++at);
  world.append(b);
  auto context = world.context(at + 1);
  auto coverage = std::make_shared<Coverage>();
  coverage->sampled.push_back({"b@h", 0.25});
  coverage->shares.push_back({"b@h", ~0u, 0.25});
  context.coverage = coverage;
  AggregateSpec spec;
  spec.by = {{GroupKey::node, 0}};
  auto got = aggregate(context, spec);
  ASSERT_TRUE(got);
  ASSERT_EQ(got->groups.size(), 2u);
  EXPECT_TRUE(got->scaled);
  EXPECT_FALSE(got->completeness.complete());
  EXPECT_EQ(got->groups[1].measured.count, 4.0);
  EXPECT_EQ(got->groups[1].measured.rows, 1u);
  EXPECT_EQ(got->groups[0].measured.count, 12'000.0);
  spec.by = {{GroupKey::pid, 0}};
  got = aggregate(context, spec);
  ASSERT_TRUE(got && got->other);
  EXPECT_EQ(got->groups.size(), kMaxGroups);
  std::uint64_t rows = got->other->rows;
  for (const auto& g : got->groups) rows += g.measured.rows;
  EXPECT_EQ(rows, 12'001u);
  spec.limit = 10;
  got = aggregate(context, spec);
  EXPECT_EQ(got->groups.size(), 10u);
  EXPECT_EQ(got->not_listed, kMaxGroups - 10);
  // A deadline that has passed: what was counted, and that it is not all.
  context.budget.deadline = std::chrono::steady_clock::now() - std::chrono::seconds(1);
  got = aggregate(context, spec);
  ASSERT_TRUE(got);
  EXPECT_TRUE(got->completeness.deadline_cut);
}

// What a row stands for is by the rate of its own time, and by two rates at once where both were in force.
TEST(Aggregate, RowsAreScaledByTheRateOfTheirTime) {
  World world([](auto& o) { o.block_rows = 64; });
  auto& a = world.node("a@h", 1);
  const auto p = a.own(1);
  // One a millisecond for 8 s: whole, a quarter, a quarter of an eighth, whole.
  for (std::int64_t ms = 1; ms <= 8000; ++ms) {
    a.fetch(p, int_term(1), 10 * kSecond + ms * 1'000'000);
    if (ms == 4300) a.gap("sampled", -1, 12 * kSecond, 14'300'000'000, 0.25);
    if (ms == 6000) {
      a.gap("sampled", -1, 14'300'000'000, 16 * kSecond, 0.25);
      a.gap("fewer_tracees", -1, 14'300'000'000, 16 * kSecond, 0.125);
    }
    if (ms % 100 == 0) world.append(a);
  }
  auto context = world.context(19 * kSecond);
  for (const auto by_time : {false, true}) {
    AggregateSpec spec;
    spec.filter.types = 1u << static_cast<unsigned>(codec::EventType::message_fetch);
    if (by_time) spec.by = {{GroupKey::time, kSecond}};
    const auto got = aggregate(context, spec);
    ASSERT_TRUE(got);
    EXPECT_TRUE(got->scaled);
    double count = 0;
    std::uint64_t rows = 0;
    for (const auto& g : got->groups) {
      count += g.measured.count;
      rows += g.measured.rows;
    }
    EXPECT_EQ(rows, 8000u);
    // Up to a row at each boundary.
    EXPECT_NEAR(count, 2000 + 2300 * 4 + 1700 * 32 + 2000, 100) << by_time;
  }
  // The present rate holds for what none tells of yet, and not for what was before the sample began.
  auto coverage = std::make_shared<Coverage>();
  coverage->sampled.push_back({"a@h", 0.5});
  coverage->shares.push_back({"a@h", ~0u, 0.5});
  context.coverage = coverage;
  AggregateSpec all;
  const auto now = aggregate(context, all);
  ASSERT_TRUE(now);
  EXPECT_NEAR(now->groups.at(0).measured.count, 2000 + 2300 * 4 + 1700 * 32 + 4000, 100);
}

// 2,000 fetches and 2,000 states in turns, from 10 to 14 s; half way `gap` is told.
void fetches_and_states(World& world, const auto& gap) {
  auto& a = world.node("a@h", 1);
  const auto p = a.own(1);
  for (std::int64_t ms = 1; ms <= 4000; ++ms) {
    const std::int64_t at = 10 * kSecond + ms * 1'000'000;
    if (ms % 2 == 0) {
      a.fetch(p, int_term(1), at);
    } else {
      a.state(p, int_term(1), at);
    }
    if (ms == 2000) gap(a);
    if (ms % 100 == 0) world.append(a);
  }
}

// Of two starts with other samples the larger counts, and only for what both make.
TEST(Aggregate, WhatAStartTakesWholeIsNotScaledByTheSampleOfAnother) {
  World world([](auto& o) { o.block_rows = 64; });
  fetches_and_states(world, [](auto& a) {
    a.gap("sampled", -1, 10 * kSecond, 12 * kSecond, 0.25,
          {{"call", 1.0}, {"receive", 0.25}, {"send", 0.25}});
  });
  auto context = world.context(19 * kSecond);
  auto coverage = std::make_shared<Coverage>();
  coverage->sampled.push_back({"a@h", 0.1});
  coverage->shares.push_back({"a@h", types_of_flag("call"), 0.5});
  coverage->shares.push_back({"a@h", types_of_flag("receive"), 0.1});
  context.coverage = coverage;
  const auto counted = [&](codec::EventType type) {
    AggregateSpec spec;
    spec.filter.types = codec::bit(type);
    const auto got = aggregate(context, spec);
    EXPECT_TRUE(got);
    EXPECT_EQ(got->groups.at(0).measured.rows, 2000u);
    return got->groups.at(0).measured.count;
  };
  EXPECT_NEAR(counted(codec::EventType::message_fetch), 1000 * 4 + 1000 * 10, 40);
  EXPECT_NEAR(counted(codec::EventType::state_change), 1000 + 1000 * 2, 10);
}

// Where messages to a part of their receivers are recorded, messages stand for more, and nothing else does.
TEST(Aggregate, MessagesAreScaledByTheShareOfTheirReceivers) {
  World world([](auto& o) { o.block_rows = 64; });
  fetches_and_states(world,
                     [](auto& a) { a.gap("fan_out", -1, 10 * kSecond, 12 * kSecond, 0.25); });
  auto context = world.context(19 * kSecond);
  auto coverage = std::make_shared<Coverage>();
  coverage->sampled.push_back({"a@h", 0.5, true});
  context.coverage = coverage;
  const auto counted = [&](codec::EventType type) {
    AggregateSpec spec;
    spec.filter.types = 1u << static_cast<unsigned>(type);
    const auto got = aggregate(context, spec);
    EXPECT_TRUE(got);
    EXPECT_EQ(got->groups.at(0).measured.rows, 2000u);
    // Both are known to be missing, whatever is asked for.
    EXPECT_EQ(got->completeness.sampled,
              (std::vector<Sampled>{{"a@h", 0.25, true}, {"a@h", 0.5, true}}));
    return got->groups.at(0).measured.count;
  };
  EXPECT_NEAR(counted(codec::EventType::message_fetch), 1000 * 4 + 1000 * 2, 20);
  EXPECT_EQ(counted(codec::EventType::state_change), 2000);
}

}  // namespace
}  // namespace scope::analysis
