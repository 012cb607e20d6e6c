// get_events over a real store, against a plain list of the same events.
#include "analysis/get_events.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "analysis/event_scan.h"
#include "test/unit/analysis/world.h"

namespace scope::analysis {
namespace {

using codec::PidParts;
using test::int_term;
using test::World;

constexpr std::int64_t kMs = 1'000'000;

struct Fact {
  std::string node;
  PidParts pid;
  std::int64_t time;  // cluster
  codec::EventType type;
  std::string module;
  std::optional<PidParts> peer;
  std::int64_t number;  // in its payload; unique
};

// A random recording of two nodes whose clocks differ by hours, with blocks small enough that many are sealed.
class Recording {
 public:
  explicit Recording(unsigned seed) : random_(seed), world([](auto& o) { o.block_rows = 256; }) {
    for (int n = 0; n < 2; ++n) {
      behind_[n] = (std::int64_t{n} + 1) * 3'600'000 * kMs;
      node_[n] = &world.node(n == 0 ? "a@h" : "b@h", 7, behind_[n]);
      for (std::uint32_t p = 0; p < 6; ++p) pids_.push_back(node_[n]->own(100 + p));
    }
    clock_[0] = clock_[1] = 10'000'000 * kMs;
  }

  // Appends a batch of one node; its times overlap those of the other node's batches.
  void batch(int size) {
    const int n = static_cast<int>(random_() % 2);
    auto& events = *node_[n];
    for (int i = 0; i < size; ++i) {
      clock_[n] += static_cast<std::int64_t>(random_() % 3) * 1000;  // equal times occur
      const auto& who = pids_[static_cast<std::size_t>(n) * 6 + random_() % 6];
      const auto& peer = pids_[random_() % 12];
      const std::int64_t raw = clock_[n] - behind_[n];
      const std::string module = "m" + std::to_string(random_() % 3);
      const std::int64_t number = static_cast<std::int64_t>(facts.size());
      Fact fact{std::string(who.node),
                who,
                clock_[n],
                codec::EventType::function_exit,
                module,
                {},
                number};
      switch (random_() % 4) {
        case 0:
          events.returned(who, {module, "f", 1}, int_term(number), raw);
          break;
        case 1:
          fact.type = codec::EventType::message_send;
          fact.module.clear();
          fact.peer = peer;
          events.send(who, peer, int_term(number), raw);
          break;
        case 2:
          fact.type = codec::EventType::message_fetch;
          fact.module.clear();
          events.fetch(who, int_term(number), raw);
          break;
        default:
          fact.type = codec::EventType::state_change;
          fact.module = "gen_server";
          events.state(who, int_term(number), raw);
      }
      facts.push_back(fact);
    }
    world.append(events);
  }

  std::int64_t now() const { return std::max(clock_[0], clock_[1]) + 1; }
  std::int64_t begin() const { return 10'000'000 * kMs; }

  std::mt19937_64 random_;
  World world;
  std::vector<Fact> facts;
  std::vector<PidParts> pids_;

 private:
  std::int64_t behind_[2], clock_[2];
  test::Node* node_[2];
};

std::int64_t number_of(const Event& event) {
  const auto term = codec::view(event.row.record.payload);
  return term && term->integer() ? *term->integer() : -1;
}

TEST(GetEvents, EveryFilterGivesWhatAPlainListGives) {
  for (unsigned seed = 1; seed <= 4; ++seed) {
    Recording r(seed);
    for (int i = 0; i < 60; ++i) r.batch(1 + static_cast<int>(r.random_() % 60));
    const auto context = r.world.context(r.now());
    for (int query = 0; query < 150; ++query) {
      Filter filter;
      auto& random = r.random_;
      const auto some = [&](int one_in) { return random() % static_cast<unsigned>(one_in) == 0; };
      std::optional<PidParts> pid, peer;
      if (some(2)) filter.pid = test::spec(*(pid = r.pids_[random() % 12]));
      if (some(4)) filter.peer = test::spec(*(peer = r.pids_[random() % 12]));
      if (some(3)) filter.nodes = {some(2) ? "a@h" : "b@h"};
      if (some(3))
        filter.types = bit(codec::EventType::message_send) | bit(codec::EventType::state_change);
      if (some(4)) filter.modules = {"m1"};
      if (some(6))
        filter.mfa = MfaSpec{"m0", some(2) ? "f" : "",
                             some(2) ? std::optional<std::uint8_t>(1) : std::nullopt};
      const auto width = r.now() - r.begin();
      const auto at = [&] {
        return ClusterTime{r.begin() +
                           static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(width))};
      };
      if (some(2)) filter.since = at();
      if (some(2)) filter.until = at();
      filter.limit = 1 + static_cast<std::uint32_t>(random() % 200);
      filter.order = some(2) ? Order::newest_first : Order::oldest_first;
      const auto page = get_events(context, filter);
      const auto time = [](const std::optional<TimeSpec>& t) {
        return std::get<ClusterTime>(*t).ns;
      };
      if (filter.since && filter.until && time(filter.since) > time(filter.until)) {
        ASSERT_FALSE(page);
        continue;
      }
      std::vector<std::pair<std::int64_t, std::int64_t>> expected;  // time, number
      for (const auto& f : r.facts) {
        if (pid && (f.pid.id != pid->id || f.node != pid->node)) continue;
        if (peer && (!f.peer || f.peer->id != peer->id || f.peer->node != peer->node)) continue;
        if (!filter.nodes.empty() && f.node != filter.nodes[0]) continue;
        if ((filter.types & bit(f.type)) == 0) continue;
        if (!filter.modules.empty() && f.module != "m1") continue;
        if (filter.mfa && f.module != "m0") continue;
        if (filter.since && f.time < time(filter.since)) continue;
        if (filter.until && f.time > time(filter.until)) continue;
        expected.emplace_back(f.time, f.number);
      }
      const auto total = expected.size();
      if (!page) {
        ASSERT_EQ(page.error().code, Code::no_such_process) << to_string(page.error());
        ASSERT_EQ(total, 0u);
        continue;
      }
      ASSERT_EQ(page->events.size(), std::min<std::size_t>(total, filter.limit));
      ASSERT_EQ(page->next.empty(), total <= filter.limit);
      ASSERT_TRUE(page->completeness.complete());
      // Equal times have an order of their own (ids): compare times in order, numbers as a set where they are whole.
      std::sort(expected.begin(), expected.end());
      if (filter.order == Order::newest_first) std::reverse(expected.begin(), expected.end());
      std::multiset<std::int64_t> numbers, want;
      for (std::size_t i = 0; i < page->events.size(); ++i) {
        ASSERT_EQ(page->events[i].at.time.ns, expected[i].first);
        const auto number = number_of(page->events[i]);
        ASSERT_GE(number, 0);
        ASSERT_EQ(r.facts[static_cast<std::size_t>(number)].time, expected[i].first);
        numbers.insert(number);
      }
      ASSERT_EQ(std::set<std::int64_t>(numbers.begin(), numbers.end()).size(), numbers.size());
      if (total <= filter.limit) {
        for (const auto& e : expected) want.insert(e.second);
        ASSERT_EQ(numbers, want);
      }
    }
  }
}

TEST(GetEvents, AWalkWhileDataArrivesGivesEachRowOfItsBeginningExactlyOnce) {
  for (const Order order : {Order::newest_first, Order::oldest_first}) {
    Recording r(order == Order::newest_first ? 11 : 12);
    for (int i = 0; i < 30; ++i) r.batch(50);
    const std::size_t at_start = r.facts.size();
    Filter filter;
    filter.order = order;
    filter.limit = 37;
    std::multiset<std::int64_t> seen;
    std::int64_t last = order == Order::newest_first ? INT64_MAX : INT64_MIN;
    int pages = 0;
    do {
      const auto page = get_events(r.world.context(r.now()), filter);
      ASSERT_TRUE(page) << to_string(page.error());
      for (const auto& event : page->events) {
        seen.insert(number_of(event));
        ASSERT_TRUE(order == Order::newest_first ? event.at.time.ns <= last
                                                 : event.at.time.ns >= last);
        last = event.at.time.ns;
      }
      filter.cursor = page->next;
      r.batch(40);  // arrives, and seals blocks, between two pages
      ASSERT_LT(++pages, 500);
    } while (!filter.cursor.empty());
    for (std::size_t i = 0; i < r.facts.size(); ++i) {
      const auto times = seen.count(static_cast<std::int64_t>(i));
      ASSERT_LE(times, 1u);
      ASSERT_TRUE(i >= at_start || times == 1) << i;
    }
  }
}

TEST(GetEvents, AWalkUnderAnExpiredDeadlineStillEndsAndMissesNothing) {
  Recording r(21);
  for (int i = 0; i < 40; ++i) r.batch(50);
  Filter filter;
  filter.limit = 10'000;
  std::multiset<std::int64_t> seen;
  int pages = 0;
  bool cut = false;
  do {
    auto context = r.world.context(r.now());
    context.budget.deadline = std::chrono::steady_clock::now() - std::chrono::seconds(1);
    const auto page = get_events(context, filter);
    ASSERT_TRUE(page);
    cut = cut || page->completeness.deadline_cut;
    ASSERT_EQ(page->completeness.deadline_cut, !page->next.empty());
    for (const auto& event : page->events) seen.insert(number_of(event));
    filter.cursor = page->next;
    ASSERT_LT(++pages, 1000);
  } while (!filter.cursor.empty());
  EXPECT_TRUE(cut);
  EXPECT_EQ(seen.size(), r.facts.size());
  EXPECT_EQ(std::set<std::int64_t>(seen.begin(), seen.end()).size(), r.facts.size());
}

// Gives all that is asked of one unit, and then says that it is damaged.
class DamagedView : public test::ViewOf {
 public:
  DamagedView(std::shared_ptr<const store::View> of, std::size_t unit)
      : ViewOf(std::move(of)), unit_(unit) {}
  Result<store::Rows> read(const store::Unit& unit, const store::RowFilter& f) const override {
    auto rows = ViewOf::read(unit, f);
    if (&unit == &units()[unit_]) return fail(Code::corrupt, "damaged at its end");
    return rows;
  }

 private:
  std::size_t unit_;
};

TEST(GetEvents, OfAUnitThatTurnsOutDamagedNothingCounts) {
  Recording r(31);
  for (int i = 0; i < 30; ++i) r.batch(60);
  const auto whole = r.world.context(r.now());
  for (std::size_t unit = 0; unit < whole.view->units().size(); ++unit) {
    const Context context{
        std::make_shared<DamagedView>(whole.view, unit), ClusterTime{r.now()}, {}, nullptr};
    const ClockModel clock(*context.view);
    ScanSpec keys;
    keys.order = unit % 2 == 0 ? Order::newest_first : Order::oldest_first;
    keys.limit = 1 + r.random_() % 400;
    ScanSpec rows = keys;
    rows.accept = [](const store::StoredRow&, Hit&) { return true; };
    const auto got = scan(context, clock, keys), want = scan(context, clock, rows);
    ASSERT_EQ(got.corrupt_blocks, want.corrupt_blocks);
    ASSERT_EQ(got.hits.size(), want.hits.size());
    for (std::size_t i = 0; i < got.hits.size(); ++i) {
      ASSERT_EQ(got.hits[i].id, want.hits[i].id);
      ASSERT_NE(got.hits[i].unit, unit);
    }
  }
}

TEST(GetEvents, ACursorBelongsToItsFilter) {
  Recording r(3);
  for (int i = 0; i < 5; ++i) r.batch(30);
  Filter filter;
  filter.limit = 10;
  const auto context = r.world.context(r.now());
  const auto page = get_events(context, filter);
  ASSERT_TRUE(page);
  filter.cursor = page->next;
  filter.limit = 20;  // may change
  EXPECT_TRUE(get_events(context, filter));
  filter.types = bit(codec::EventType::message_send);
  EXPECT_EQ(get_events(context, filter).error().code, Code::bad_cursor);
  filter.types = ~0u;
  for (std::size_t i = 0; i < page->next.size(); ++i) {
    filter.cursor = page->next;
    filter.cursor[i] = static_cast<char>(filter.cursor[i] ^ 0x20);
    EXPECT_FALSE(get_events(context, filter)) << i;
    filter.cursor = page->next.substr(0, i);
    EXPECT_TRUE(i == 0 || get_events(context, filter).error().code == Code::bad_cursor);
  }
}

TEST(GetEvents, GapsInTheRangeAreSaid) {
  World world;
  auto& node = world.node("a@h", 1);
  const PidParts p = node.own(5);
  node.fetch(p, int_term(1), 100 * kMs);
  world.append(node);
  node.gap("overload", 17, 120 * kMs, 150 * kMs).gap("killed", -1, 160 * kMs, 170 * kMs);
  node.fetch(p, int_term(2), 200 * kMs);
  world.append(node);
  Filter filter;
  filter.pid = test::spec(p);
  auto page = get_events(world.context(300 * kMs), filter);
  ASSERT_TRUE(page);
  ASSERT_EQ(page->completeness.gaps.size(), 2u);
  const auto& counted = page->completeness.gaps[1];
  EXPECT_EQ(counted.dropped, 17u);
  EXPECT_EQ(counted.reason, "overload");
  EXPECT_EQ(counted.node, "a@h");
  EXPECT_EQ(counted.from.ns, 120 * kMs);
  EXPECT_FALSE(page->completeness.gaps[0].dropped);
  filter.since = ClusterTime{155 * kMs};
  page = get_events(world.context(300 * kMs), filter);
  EXPECT_EQ(page->completeness.gaps.size(), 1u);
  filter.since = ClusterTime{180 * kMs};
  page = get_events(world.context(300 * kMs), filter);
  EXPECT_TRUE(page->completeness.complete());
  filter.since.reset();
  filter.until = ClusterTime{130 * kMs};
  page = get_events(world.context(300 * kMs), filter);
  EXPECT_EQ(page->completeness.gaps.size(), 1u) << "it began inside the range";
}

TEST(GetEvents, MinDurationFindsLongCallsAlsoWhereTheEntryIsInAnotherUnit) {
  World world([](auto& o) { o.block_rows = 64; });
  auto& node = world.node("a@h", 1);
  const PidParts p = node.own(5), q = node.own(6);
  const codec::Mfa f{"m", "f", 1}, g{"m", "g", 0};
  node.call(p, f, 10 * kMs).call(p, f, 11 * kMs);
  node.call(q, g, 12 * kMs).returned(q, g, int_term(1), 13 * kMs);
  world.append(node);
  for (int i = 0; i < 10; ++i) {
    for (int k = 0; k < 30; ++k) node.fetch(q, int_term(k), (20 + i) * kMs + k);
    world.append(node);
  }
  node.call(p, f, 40 * kMs).returned(p, f, int_term(3), 41 * kMs);
  node.returned(p, f, int_term(2), 50 * kMs).returned(p, f, int_term(1), 60 * kMs);
  node.returned(q, g, int_term(9), 61 * kMs);  // its call was never recorded
  world.append(node);
  Filter filter;
  filter.min_duration_ns = 5 * kMs;
  const auto page = get_events(world.context(100 * kMs), filter);
  ASSERT_TRUE(page);
  ASSERT_EQ(page->events.size(), 2u);
  EXPECT_EQ(*page->events[0].duration_ns, 50 * kMs);
  EXPECT_EQ(*page->events[1].duration_ns, 39 * kMs);
  filter.min_duration_ns = 0;
  EXPECT_EQ(get_events(world.context(100 * kMs), filter)->events.size(), 4u);
}

TEST(GetEvents, ProcessesAreFoundByPidNameAndTextAndUnknownOnesAreErrors) {
  World world;
  auto& old_vm = world.node("a@h", 1);
  const PidParts old_pid = old_vm.own(5);
  old_vm.registered(old_pid, "srv", 10 * kMs).fetch(old_pid, int_term(1), 20 * kMs);
  world.append(old_vm);
  auto& new_vm = world.node("a@h", 2);
  const PidParts new_pid = new_vm.own(5), other = new_vm.own(6);
  new_vm.registered(new_pid, "srv", 110 * kMs).fetch(new_pid, int_term(2), 120 * kMs);
  new_vm.registered(new_pid, "srv", 130 * kMs, false).registered(other, "srv", 140 * kMs);
  new_vm.fetch(other, int_term(3), 150 * kMs);
  world.append(new_vm);
  const auto now = world.store->now().ns;
  const auto numbers = [&](ProcessSpec spec) -> Result<std::vector<std::int64_t>> {
    Filter filter;
    filter.pid = std::move(spec);
    filter.types = bit(codec::EventType::message_fetch);
    std::vector<std::int64_t> out;
    EventsPage page;
    ASSIGN_OR_RETURN(page, get_events(world.context(now), filter));
    for (const auto& event : page.events) out.push_back(number_of(event));
    return out;
  };
  EXPECT_EQ(numbers(test::spec(old_pid)), (std::vector<std::int64_t>{1})) << "a pid of a dead VM";
  EXPECT_EQ(numbers(test::spec(new_pid)), (std::vector<std::int64_t>{2}));
  EXPECT_EQ(numbers(NameSpec{"srv", "a@h"}), (std::vector<std::int64_t>{3})) << "who has it now";
  EXPECT_EQ(numbers(NameSpec{"srv", ""}), (std::vector<std::int64_t>{3}));
  EXPECT_EQ(numbers(NameSpec{"nobody", "a@h"}).error().code, Code::no_such_process);
  EXPECT_EQ(numbers(NameSpec{"srv", "x@h"}).error().code, Code::unknown_node);
  EXPECT_EQ(numbers(PidSpec{"a@h", 9, 5, 0}).error().code, Code::no_such_process);
  EXPECT_EQ(numbers(PidSpec{"a@h", 2, 77, 0}).error().code, Code::no_such_process);
  EXPECT_EQ(numbers(TextSpec{6, 0, "a@h"}), (std::vector<std::int64_t>{3}));
}

}  // namespace
}  // namespace scope::analysis
