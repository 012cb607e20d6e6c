// Which of two events came first: by hand, and of random traffic against vector clocks.
#include "analysis/event_order.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "test/unit/analysis/world.h"

namespace scope::analysis {
namespace {

using codec::PidParts;
using test::atom_term;
using test::int_term;
using test::Term;
using test::World;

constexpr std::int64_t kMs = 1'000'000;

Term down(PidParts pid, const std::string& reason) {
  return [pid, reason](codec::TermBuilder& out) {
    out.tuple(5).atom("DOWN").reference({pid.node, pid.creation, 3, {9, 9, pid.id}});
    out.atom("process").pid(pid).atom(reason);
  };
}
Term exit_message(PidParts pid, const std::string& reason) {
  return
      [pid, reason](codec::TermBuilder& out) { out.tuple(3).atom("EXIT").pid(pid).atom(reason); };
}
Term spawn_reply(PidParts to, PidParts child) {
  return [to, child](codec::TermBuilder& out) {
    out.tuple(4).atom("spawn_reply").reference({to.node, to.creation, 3, {7, 7, child.id}});
    out.atom("ok").pid(child);
  };
}

// Two nodes whose clocks are known to 5 ms.
class OrderTest : public testing::Test {
 protected:
  World world;
  test::Node& one = world.node("a@h", 1, 0, 5 * kMs);
  test::Node& two = world.node("b@h", 2, 0, 5 * kMs);
  PidParts a = one.own(5), b = two.own(6), c = two.own(7);

  static EventId id(const test::Node& node, const PidParts& pid, double ms) {
    return {{node.incarnation, pid.id, pid.serial}, {at(ms)}, 0};
  }
  static std::int64_t at(double ms) { return static_cast<std::int64_t>(ms * kMs); }
  // Each process is there before and after what happens.
  void begin() {
    one.call(a, {"m", "f", 0}, at(1));
    two.call(b, {"m", "f", 0}, at(1)).call(c, {"m", "f", 0}, at(1));
  }
  OrderAnswer order(const EventId& x, const EventId& y) {
    one.call(one.own(99), {"m", "f", 0}, at(5000));
    two.call(two.own(99), {"m", "f", 0}, at(5000));
    world.append(one);
    world.append(two);
    auto got = get_order(world.context(at(6000)), x, y);
    EXPECT_TRUE(got) << to_string(got.error());
    return got ? *std::move(got) : OrderAnswer{};
  }
  static std::string said(const OrderAnswer& o) {
    std::string out = fmt::format("{} {}", name(o.order), name(o.why));
    if (o.why == OrderWhy::messages) out += fmt::format(" {}", name(o.certainty));
    for (unsigned d = 0; d < kOrderDoubts; ++d) {
      if (o.doubts >> d & 1) out += fmt::format(" {}", name(static_cast<OrderDoubt>(d)));
    }
    return out;
  }
};

TEST_F(OrderTest, OfOneProcessItsOwn) {
  begin();
  one.call(a, {"m", "g", 0}, at(1.5));
  EXPECT_EQ(said(order(id(one, a, 1.5), id(one, a, 1))), "after process");
  EXPECT_EQ(said(order(id(one, a, 1), id(one, a, 1))), "same none");
}

// By the clocks the fetch is 3 ms before the send; they may be off by 10.
TEST_F(OrderTest, AMessageTellsWhatTheClocksCannot) {
  begin();
  one.call(a, {"m", "g", 0}, at(99)).send(a, b, atom_term("hello"), at(100));
  two.fetch(b, atom_term("hello"), at(97)).call(b, {"m", "h", 0}, at(98));
  const auto before = order(id(one, a, 99), id(two, b, 98));
  EXPECT_EQ(said(before), "before messages unique");
  EXPECT_EQ(before.path, (std::vector<EventId>{id(one, a, 99), id(one, a, 100), id(two, b, 97),
                                               id(two, b, 98)}));
  EXPECT_EQ(said(order(id(two, b, 97), id(one, a, 100))), "after messages unique");
}

TEST_F(OrderTest, WithoutAChainTheyAreConcurrentOnlyWhereAllIsKnown) {
  begin();
  one.send(a, b, atom_term("hello"), at(100));
  two.call(b, {"m", "h", 0}, at(98)).fetch(b, atom_term("hello"), at(101));
  EXPECT_EQ(said(order(id(one, a, 100), id(two, b, 98))), "concurrent none");
  // Somebody unknown wrote to b before.
  two.fetch(b, atom_term("who"), at(97));
  EXPECT_EQ(said(order(id(one, a, 100), id(two, b, 98))), "unknown none untraced");
}

TEST_F(OrderTest, AGapHidesChains) {
  begin();
  one.send(a, b, atom_term("hello"), at(100)).gap("ring_full", 3, at(90), at(110));
  two.call(b, {"m", "h", 0}, at(98));
  const auto o = order(id(one, a, 100), id(two, b, 98));
  EXPECT_EQ(said(o), "unknown none");
  EXPECT_EQ(o.completeness.gaps.size(), 1u);
}

TEST_F(OrderTest, FarApartByTimeAlone) {
  begin();
  one.call(a, {"m", "g", 0}, at(100));
  two.call(b, {"m", "h", 0}, at(111));
  EXPECT_EQ(said(order(id(two, b, 111), id(one, a, 100))), "after time");
}

TEST_F(OrderTest, AnAmbiguousMatchProvesNothing) {
  begin();
  one.send(a, b, atom_term("tick"), at(100)).send(one.own(8), b, atom_term("tick"), at(100.5));
  one.call(one.own(8), {"m", "f", 0}, at(2));
  two.fetch(b, atom_term("tick"), at(99)).fetch(b, atom_term("tick"), at(99.5));
  EXPECT_EQ(said(order(id(one, a, 100), id(two, b, 99.5))), "unknown none ambiguous");
}

// a -> b -> c, each by a message, all within what the clocks can tell.
TEST_F(OrderTest, AChainOfSeveralSteps) {
  begin();
  one.send(a, b, atom_term("first"), at(100));
  two.fetch(b, atom_term("first"), at(98)).send(b, c, atom_term("second"), at(99));
  two.fetch(c, atom_term("second"), at(99.5));
  const auto o = order(id(one, a, 100), id(two, c, 99.5));
  EXPECT_EQ(said(o), "before messages unique");
  EXPECT_EQ(o.path.size(), 4u);
}

TEST_F(OrderTest, SpawnsAndEnds) {
  begin();
  const auto child = one.own(20), far_child = two.own(21);
  one.spawn(a, child, {"m", "run", 0}, at(50)).spawned(child, a, {"m", "run", 0}, at(50.1));
  one.exit(child, atom_term("normal"), at(51));
  two.fetch(b, down(child, "normal"), at(49)).call(b, {"m", "h", 0}, at(49.5));
  EXPECT_EQ(said(order(id(one, a, 50), id(one, child, 51))), "before messages exact");
  EXPECT_EQ(said(order(id(one, a, 50), id(two, b, 49.5))), "before messages exact");
  // The parent of a process on another node has only its reply.
  two.spawned(far_child, a, {"m", "run", 0}, at(203));
  one.fetch(a, spawn_reply(a, far_child), at(200));
  EXPECT_EQ(said(order(id(two, far_child, 203), id(one, a, 200))), "before messages exact");
}

TEST_F(OrderTest, ALostConnectionEndsNobodyAndAnExitSignalMayComeOfTheLiving) {
  begin();
  const auto dead = one.own(20);
  one.call(dead, {"m", "f", 0}, at(2)).exit(dead, atom_term("boom"), at(100));
  two.fetch(b, down(dead, "noconnection"), at(97));
  EXPECT_EQ(said(order(id(one, dead, 100), id(two, b, 97))), "unknown none signal");
  two.fetch(c, exit_message(dead, "other"), at(98));
  EXPECT_EQ(said(order(id(one, dead, 100), id(two, c, 98))), "unknown none signal");
  two.fetch(c, exit_message(dead, "boom"), at(99));
  EXPECT_EQ(said(order(id(one, dead, 100), id(two, c, 99))), "before messages unique");
}

TEST_F(OrderTest, WhatIsNotRecordedIsAnError) {
  begin();
  world.append(one);
  world.append(two);
  const auto context = world.context(at(6000));
  const auto there = id(one, a, 1);
  for (const auto& wrong :
       {id(one, a, 2), EventId{{77, 1, 0}, {5}, 0}, EventId{{1, 1, 0}, {INT64_MAX}, 0}}) {
    const auto got = get_order(context, there, wrong);
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code, Code::not_recorded);
    EXPECT_EQ(got.error().field, "id_b");
  }
}

// ---- random traffic -------------------------------------------------------------------------------------------------

// Processes of three nodes send each other messages, spawn, end and are told of ends; each event has its true time and a
// vector clock. The nodes' clocks are wrong by up to what their bounds allow.
struct Traffic {
  static constexpr std::int64_t kBehind = 3'600'000 * kMs;  // raw times are negative, as on nodes
  struct Event {
    EventId id;
    std::int64_t truth = 0;
    std::map<int, int> clock;  // by process
    int process = 0;
  };
  struct Proc {
    int node = 0;
    PidParts pid;
    std::map<int, int> clock;
    std::multimap<std::int64_t, std::pair<Term, std::map<int, int>>>
        inbox;  // by arrival; FIFO by pair
    std::map<int, std::int64_t> last_to;
    bool alive = true;
  };
  World world;
  std::mt19937 random;
  std::vector<test::Node*> nodes;
  std::vector<std::int64_t> wrong;
  std::vector<Proc> procs;
  std::vector<Event> events;
  std::int64_t now = 1000 * kMs;

  int pick(int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); }
  std::int64_t raw(const Proc& p) const {
    return now - kBehind + wrong[static_cast<std::size_t>(p.node)];
  }
  test::Node& node(const Proc& p) { return *nodes[static_cast<std::size_t>(p.node)]; }
  int number(const Proc& p) const { return static_cast<int>(&p - procs.data()); }

  void tick() { now += 1000 + pick(60'000); }
  void note(Proc& p) {
    ++p.clock[number(p)];
    events.push_back({{{node(p).incarnation, p.pid.id, 0}, {raw(p)}, 0}, now, p.clock, number(p)});
  }
  void merge(Proc& p, const std::map<int, int>& from) {
    for (const auto& [who, n] : from) p.clock[who] = std::max(p.clock[who], n);
  }

  // `unseen`: of how many sends one was not recorded; 0: none.
  Traffic(unsigned seed, int steps, int contents, int unseen) : random(seed) {
    constexpr std::int64_t kHalf = 3 * kMs;
    for (int n = 0; n < 3; ++n) {
      nodes.push_back(
          &world.node(fmt::format("n{}@h", n), static_cast<std::uint32_t>(n + 1), kBehind, kHalf));
      wrong.push_back(pick(2 * kHalf) - kHalf);
    }
    procs.reserve(200);
    const auto add = [&](int n) -> Proc& {
      auto& p = procs.emplace_back();
      p.node = n;
      p.pid =
          nodes[static_cast<std::size_t>(n)]->own(static_cast<std::uint32_t>(10 + procs.size()));
      return p;
    };
    for (int i = 0; i < 7; ++i) {
      auto& p = add(i % 3);
      tick();
      node(p).call(p.pid, {"m", "begin", 0}, raw(p));
    }
    now += 100 * kMs;
    for (int i = 0; i < steps; ++i) {
      tick();
      auto& p = procs[static_cast<std::size_t>(pick(static_cast<int>(procs.size())))];
      if (!p.alive) continue;
      const auto what = pick(20);
      if (what < 9) {
        auto& to = procs[static_cast<std::size_t>(pick(static_cast<int>(procs.size())))];
        if (!to.alive) continue;
        const auto message = int_term(contents == 0 ? i : pick(contents));
        ++p.clock[number(p)];
        if (unseen == 0 || pick(unseen) != 0) {
          --p.clock[number(p)];
          note(p);
          node(p).send(p.pid, to.pid, message, raw(p));
        }
        auto& last = p.last_to[number(to)];
        last = std::max(last + 1, now + 10'000 + pick(kMs / 2));
        to.inbox.emplace(last, std::pair(message, p.clock));
      } else if (what < 17) {
        const auto first = p.inbox.begin();
        if (first == p.inbox.end() || first->first > now) continue;
        merge(p, first->second.second);
        note(p);
        node(p).fetch(p.pid, first->second.first, raw(p));
        p.inbox.erase(first);
      } else if (what == 17) {
        note(p);
        node(p).call(p.pid, {"m", "f", 0}, raw(p));
      } else if (what == 18 && procs.size() < 16) {
        note(p);
        auto& child = add(p.node);
        node(p).spawn(p.pid, child.pid, {"m", "f", 0}, raw(p));
        child.clock = p.clock;
        now += 1000;
        note(child);
        node(p).spawned(child.pid, p.pid, {"m", "f", 0}, raw(child));
      } else if (pick(8) == 0) {
        note(p);
        node(p).exit(p.pid, atom_term("normal"), raw(p));
        p.alive = false;
        auto& watcher = procs[static_cast<std::size_t>(pick(static_cast<int>(procs.size())))];
        if (watcher.alive)
          watcher.inbox.emplace(now + 10'000 + pick(3 * kMs),
                                std::pair(down(p.pid, "normal"), p.clock));
      }
    }
    now += 1000 * kMs;
    for (auto* n : nodes) {
      n->call(n->own(5), {"m", "end", 0}, now - kBehind);
      world.append(*n);
    }
  }
  static bool before(const Event& a, const Event& b) {
    if (a.process == b.process) return a.truth < b.truth;
    const auto seen = b.clock.find(a.process);
    return seen != b.clock.end() && seen->second >= a.clock.at(a.process);
  }
};

struct Tally {
  int asked = 0, chains = 0, chains_found = 0, concurrent = 0, unknown = 0, by_time = 0;
};

void check(unsigned seed, int contents, int unseen, Tally& tally) {
  Traffic t(seed, 700, contents, unseen);
  const auto context = t.world.context(t.now + 1000 * kMs);
  std::map<EventId, const Traffic::Event*> by_id;
  for (const auto& e : t.events) by_id.emplace(e.id, &e);
  const auto size = static_cast<int>(t.events.size());
  for (int i = 0; i < 250; ++i) {
    // Half of the time two of which one led to the other.
    const Traffic::Event *x = nullptr, *y = nullptr;
    int first = 0, second = 0;
    for (int tries = 0; tries < 60; ++tries) {
      first = t.pick(size);
      second = std::clamp(first + t.pick(61) - 30, 0, size - 1);
      x = &t.events[static_cast<std::size_t>(first)];
      y = &t.events[static_cast<std::size_t>(second)];
      if (i % 2 == 0 || (x->process != y->process && Traffic::before(*x, *y))) break;
    }
    const auto &a = *x, &b = *y;
    if (a.id == b.id) continue;
    const auto got = get_order(context, a.id, b.id);
    ASSERT_TRUE(got) << to_string(got.error());
    const bool forth = Traffic::before(a, b), back = Traffic::before(b, a);
    ++tally.asked;
    const auto what = fmt::format("seed {} contents {}: {} {}, {} and {}", seed, contents,
                                  name(got->order), name(got->why), first, second);
    switch (got->order) {
      case EventOrder::before:
      case EventOrder::after: {
        const bool said_before = got->order == EventOrder::before;
        ASSERT_FALSE(said_before ? back : forth) << what;
        ASSERT_EQ(said_before, a.truth < b.truth) << what;
        if (got->why == OrderWhy::messages) {
          ASSERT_TRUE(said_before ? forth : back) << what;
          ASSERT_EQ(got->path.front(), said_before ? a.id : b.id) << what;
          ASSERT_EQ(got->path.back(), said_before ? b.id : a.id) << what;
          for (std::size_t s = 1; s < got->path.size(); ++s) {
            ASSERT_TRUE(Traffic::before(*by_id.at(got->path[s - 1]), *by_id.at(got->path[s])))
                << what;
          }
        }
        tally.by_time += got->why == OrderWhy::time;
        break;
      }
      case EventOrder::concurrent:
        ASSERT_FALSE(forth || back) << what;
        ++tally.concurrent;
        break;
      default:
        ++tally.unknown;
    }
    if (a.process != b.process && (forth || back)) {
      ++tally.chains;
      tally.chains_found += got->why == OrderWhy::messages;
    }
  }
}

TEST(OrderOfRandomTraffic, NeverContradictsVectorClocks) {
  Tally different, equal, unseen;
  for (unsigned seed = 1; seed <= 12; ++seed) {
    check(seed, 0, 0, different);
    check(seed, 8, 0, equal);
    check(seed, 0, 5, unseen);
  }
  // All recorded and no two alike: every chain is found.
  EXPECT_EQ(different.chains_found, different.chains);
  EXPECT_GT(different.chains, 300);
  EXPECT_GT(different.concurrent, 300);
  EXPECT_GT(different.by_time, 100);
  EXPECT_LT(equal.chains_found, equal.chains);
  EXPECT_LT(unseen.chains_found, unseen.chains);
  EXPECT_GT(unseen.unknown, 100);
  for (const auto& [t, title] : {std::pair(different, "different"), std::pair(equal, "equal"),
                                 std::pair(unseen, "unseen")}) {
    fmt::print("{}: asked {}, chains {} of which found {}, concurrent {}, unknown {}, by time {}\n",
               title, t.asked, t.chains, t.chains_found, t.concurrent, t.unknown, t.by_time);
  }
}

}  // namespace
}  // namespace scope::analysis
