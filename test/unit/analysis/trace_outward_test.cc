// A trace worked out of the rows of those who took part against the same out of all rows of its range: over random traffic,
// everything that it says, of every event that may be asked for.
#include "analysis/trace_outward.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "analysis/causal_trace.h"
#include "test/unit/analysis/world.h"

namespace scope::analysis {
namespace {

using codec::PidParts;
using test::int_term;
using test::Term;
using test::World;

constexpr std::int64_t kUs = 1'000, kMs = 1'000'000, kSec = 1'000 * kMs;
constexpr std::int64_t kBegin = 1'000 * kSec;

std::string text(const EventId& id) {
  return fmt::format("{}.{}.{}@{}#{}", id.process.incarnation, id.process.id, id.process.serial,
                     id.time.ns, id.ordinal);
}
std::string text(const Corrected& at) { return fmt::format("{}+-{}", at.time.ns, at.error_ns); }

std::string text(const TraceSpan& s) {
  const auto& i = s.span;
  std::string events;
  for (const auto& e : i.events) events += text(e) + " ";
  return fmt::format(
      "{} {} parent {} root {} {} of {} pid {} sender {} from {} to {} queue {} {} name {} {} "
      "error "
      "{} token {} context {} differs {} events {} waits {} critical {} depth {} service {}",
      text(i.id), name(i.kind), i.parent, name(i.root), name(i.certainty), i.candidates,
      text(EventId{i.process, {}, 0}), i.sender ? text(EventId{*i.sender, {}, 0}) : "none",
      text(i.start), i.stop ? text(*i.stop) : "none", i.queue_ns.value_or(-1), i.queue_error_ns,
      i.name, i.module, i.error, i.token, i.context.has_value(), i.differs.has_value(), events,
      i.waits, s.critical, s.depth, s.service_ns.value_or(-1));
}
std::string text(const Result<Trace>& t) {
  if (!t) return to_string(t.error());
  std::string out;
  for (const auto& s : t->spans) out += text(s) + "\n";
  for (const auto& l : t->links) out += fmt::format("link {} {} {}\n", l.from, l.to, l.why);
  for (const auto c : t->cut) out += fmt::format("cut {}\n", name(c));
  return out + fmt::format("complete {}\n", t->completeness.complete());
}

// Groups of processes that talk among themselves for the most part: each behaviours, and plain ones that fetch only.
struct Traffic {
  Traffic(unsigned seed, bool strange) : random(seed), strange_(strange) {
    const std::int64_t behind[] = {0, 3'600 * kSec, -7'200 * kSec};
    for (std::uint32_t i = 0; i < 3; ++i) {
      behind_[i] = behind[i];
      nodes_[i] = &world.node(fmt::format("{}@h", static_cast<char>('a' + i)), i + 1, behind[i],
                              std::int64_t{i + 1} * 300 * kUs);
    }
    for (int i = 0; i < 150; ++i) work(kBegin + pick(8 * kSec), group(), 0);
    for (std::uint32_t n = 0; n < 3; ++n) {
      std::ranges::sort(events_[n], {}, &Event::at);
      std::int64_t last = 0;
      for (auto& e : events_[n]) {
        last = std::max(last + 1, e.at);
        e.record(last - behind_[n]);
        if (pick(200) == 0) world.append(*nodes_[n]);
      }
      world.append(*nodes_[n]);
    }
  }

  std::int64_t pick(std::int64_t n) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n));
  }

  std::mt19937_64 random;
  World world{[](store::StoreOptions& o) { o.block_rows = 150; }};
  std::vector<EventId> asked;

 private:
  struct Event {
    std::int64_t at;
    std::function<void(std::int64_t)> record;
  };
  struct Who {
    std::uint32_t node, id;
    bool plain() const { return id % 4 == 3; }
  };
  std::uint32_t group() { return static_cast<std::uint32_t>(pick(12)); }
  Who member(std::uint32_t group) {
    const auto id = 10 * group + static_cast<std::uint32_t>(pick(6));
    return {id % 3, id + 1'000};
  }
  PidParts pid(Who w) const { return nodes_[w.node]->own(w.id); }
  // `record` gets the node and the raw time. Some of it is not recorded.
  template <typename F>
  void at(Who who, std::int64_t when, const F& record) {
    if (pick(40) == 0) return;
    events_[who.node].push_back({when, [this, who, record](std::int64_t raw) {
                                   record(*nodes_[who.node], raw);
                                   asked.push_back(
                                       {{nodes_[who.node]->incarnation, who.id, 0}, {raw}, 0});
                                 }});
  }
  std::int64_t soon() { return 1 + pick(pick(30) == 0 ? 900 * kMs : 2 * kMs); }

  void sends(Who from, Who to, const Term& message, std::int64_t when) {
    at(from, when, [=, this](auto& n, auto raw) {
      if (strange_ && to.id % 5 == 0) {  // to a name of which nobody knows who has it
        const auto node = nodes_[to.node]->node();
        n.send_to(
            pid(from), [=](codec::TermBuilder& b) { b.tuple(2).atom("someone").atom(node); },
            message, raw);
      } else {
        n.send(pid(from), pid(to), message, raw);
      }
    });
  }
  // From its arrival on: what `to` does about a message. Answers when that is over.
  std::int64_t acts(Who to, const Term& message, std::int64_t when, std::uint32_t g, int depth) {
    at(to, when, [=, this](auto& n, auto raw) { n.fetch(pid(to), message, raw); });
    if (!to.plain()) {
      when += soon();
      at(to, when, [=, this](auto& n, auto raw) { n.take(pid(to), message, raw); });
    }
    when += soon();
    const auto some = pick(4);
    for (int i = 0; i < some && depth < 4; ++i) when = does(to, when, g, depth);
    return when;
  }
  std::int64_t ends(Who who, std::int64_t when) {
    when += soon();
    if (!who.plain()) {
      at(who, when, [this, who](auto& n, auto raw) { n.state(pid(who), int_term(1), raw); });
    }
    return when;
  }
  std::int64_t does(Who self, std::int64_t when, std::uint32_t g, int depth) {
    if (pick(25) == 0) g = group();
    const auto other = member(g);
    switch (pick(strange_ ? 8 : 6)) {
      case 0:
      case 1:
      case 2: {  // a call
        const auto n = ++calls_;
        const auto me = pid(self);
        const auto request = test::gen_call(me, n, "x");
        const Term reply = [me, n](codec::TermBuilder& b) {
          b.tuple(2).reference({me.node, me.creation, 3, {n & 0x3FFFF, n * 2654435761U, 12345}});
          b.atom("ok");
        };
        const bool traced = pick(4) == 0;
        if (traced)
          at(self, when, [=, this](auto& o, auto raw) { o.call(pid(self), {"m", "f", 1}, raw); });
        sends(self, other, request, when += soon());
        when = acts(other, request, when + soon(), g, depth + 1);
        at(other, when += soon(),
           [=, this](auto& o, auto raw) { o.send(pid(other), me, reply, raw); });
        ends(other, when);
        at(self, when += soon(), [=](auto& o, auto raw) { o.fetch(me, reply, raw); });
        if (traced)
          at(self, when += soon(), [=, this](auto& o, auto raw) {
            o.returned(pid(self), {"m", "f", 1}, int_term(1), raw);
          });
        return when;
      }
      case 3:
      case 4: {  // a cast, some of them alike
        const std::int64_t content = pick(6) == 0 ? pick(4) : 1'000 + ++calls_;
        const Term cast = [content](codec::TermBuilder& b) {
          b.tuple(2).atom("$gen_cast").integer(content);
        };
        sends(self, other, cast, when += soon());
        ends(other, acts(other, cast, when + soon(), g, depth + 1));
        return when;
      }
      case 5: {  // a process that does something
        const Who child{pick(3) == 0 ? (self.node + 1) % 3 : self.node, 10'000 + ++calls_};
        if (child.node == self.node)
          at(self, when += soon(), [=, this](auto& o, auto raw) {
            o.spawn(pid(self), pid(child), {"m", "run", 0}, raw);
          });
        at(child, when + soon(), [=, this](auto& o, auto raw) {
          o.spawned(pid(child), pid(self), {"m", "run", 0}, raw);
        });
        auto then = when + 2 * kMs;
        for (auto i = pick(3); i > 0 && depth < 4; --i) then = does(child, then, g, depth + 1);
        return when;
      }
      case 6: {  // an end, and who is told
        const auto gone = Who{other.node, 20'000 + ++calls_};
        at(self, when += soon(),
           [=, this](auto& o, auto raw) { o.spawn(pid(self), pid(gone), {"m", "run", 0}, raw); });
        at(gone, when + kMs,
           [=, this](auto& o, auto raw) { o.exit(pid(gone), test::atom_term("boom"), raw); });
        const auto who = pid(gone);
        const Term down = [who](codec::TermBuilder& b) {
          b.tuple(5).atom("DOWN").reference({who.node, who.creation, 3, {9, 9, who.id}});
          b.atom("process").pid(who).atom("boom");
        };
        acts(member(g), down, when + 3 * kMs, g, depth + 1);
        return when;
      }
      default: {  // a timer
        const Term timeout = [](codec::TermBuilder& b) {
          b.tuple(3).atom("timeout").reference({"a@h", 1, 3, {1, 2, 3}}).atom("tick");
        };
        acts(other, timeout, when + soon(), g, depth + 1);
        return when;
      }
    }
  }
  void work(std::int64_t when, std::uint32_t g, int depth) {
    const auto first = member(g);
    const auto n = 1'000'000 + ++calls_;
    ends(first, acts(first, int_term(n), when, g, depth));
  }

  const bool strange_;
  std::uint32_t calls_ = 0;
  test::Node* nodes_[3] = {};
  std::int64_t behind_[3] = {};
  std::vector<Event> events_[3];
};

struct Compared {
  std::size_t asked = 0, outward = 0, spans = 0;
};

Compared compare(Traffic& traffic, int most) {
  Compared out;
  const auto now = traffic.world.context(kBegin + 1'000 * kSec);
  for (int i = 0; i < most; ++i) {
    const auto& id = traffic.asked[static_cast<std::size_t>(
        traffic.pick(static_cast<std::int64_t>(traffic.asked.size())))];
    const auto all = get_trace(now, id, TraceReading::all);
    const auto some = get_trace(now, id);
    EXPECT_EQ(text(some), text(all)) << text(id);
    if (testing::Test::HasFailure()) return out;
    if (!some) continue;
    ++out.asked;
    out.outward += some->outward;
    out.spans += some->outward ? some->spans.size() : 0;
  }
  return out;
}

Compared compare_seeds(bool strange) {
  const char* more = std::getenv("SCOPE_SEEDS");
  Compared all;
  for (unsigned seed = 1; seed < (more != nullptr ? std::stoul(more) : 5); ++seed) {
    SCOPED_TRACE(seed);
    Traffic traffic(seed, strange);
    const auto one = compare(traffic, 150);
    if (testing::Test::HasFailure()) break;
    all.asked += one.asked;
    all.outward += one.outward;
    all.spans += one.spans;
  }
  fmt::print("{} asked, {} outward, {} spans in these\n", all.asked, all.outward, all.spans);
  return all;
}

TEST(Outward, SaysWhatAllRowsSay) {
  const auto all = compare_seeds(false);
  EXPECT_GT(all.outward * 2, all.asked) << "else this compares the same with itself";
  EXPECT_GT(all.spans, all.outward * 3);
}

// Names that nobody is known to have, ends of which others are told, timers.
TEST(Outward, SaysWhatAllRowsSayOfStrangerTraffic) {
  const auto all = compare_seeds(true);
  EXPECT_GT(all.outward * 10, all.asked);
}

// Equal messages to one process at one time: `mine` sent one, `other`, who is not in the trace, another.
struct EqualMessages : testing::Test {
  World world;
  test::Node& one = world.node("a@h", 1, 0, 100 * kUs);
  test::Node& two = world.node("b@h", 2, 0, 100 * kUs);
  PidParts mine = one.own(1), other = one.own(2), log = two.own(3), idle = one.own(4);

  static Term cast(const std::string& what) {
    return [what](codec::TermBuilder& b) { b.tuple(2).atom("$gen_cast").atom(what); };
  }
  static std::int64_t at(double ms) { return kBegin + static_cast<std::int64_t>(ms * kMs); }

  void sent(bool with_others) {
    for (int i = 0; i < 50; ++i) one.take(idle, int_term(i), at(i));
    one.take(mine, cast("begin"), at(99)).send(mine, log, cast("tick"), at(100));
    if (with_others) one.send(mine, log, cast("end"), at(100.05));
    one.take(other, cast("also"), at(99.1));
    if (with_others) one.send(other, log, cast("mark"), at(100.1));
    one.send(other, log, cast("tick"), at(100.2));
  }
  Trace arrived(const std::vector<std::string>& messages) {
    for (std::size_t i = 0; i < messages.size(); ++i) {
      const auto then = 102 + static_cast<double>(i);
      two.fetch(log, cast(messages[i]), at(then)).take(log, cast(messages[i]), at(then + 0.5));
    }
    world.append(one);
    world.append(two);
    auto got = get_trace(world.context(kBegin + 1'000 * kSec),
                         {{one.incarnation, mine.id, 0}, {at(99)}, 0});
    EXPECT_TRUE(got) << to_string(got.error());
    return got ? *std::move(got) : Trace{};
  }
};

TEST_F(EqualMessages, AreToldApartByOtherMessagesOfWhoIsNotInTheTrace) {
  sent(true);
  const auto got = arrived({"tick", "mark", "end", "tick"});
  ASSERT_EQ(got.spans.size(), 3u);
  EXPECT_EQ(got.spans[1].span.certainty, EdgeCertainty::unique) << "the mark came before the other";
  EXPECT_FALSE(got.outward);
}

TEST_F(EqualMessages, AreInQuestionAlsoIfWhoSentThemIsNotInTheTrace) {
  sent(false);
  const auto got = arrived({"tick"});
  ASSERT_EQ(got.spans.size(), 2u);
  EXPECT_EQ(got.spans[1].span.certainty, EdgeCertainty::ambiguous) << "one of the two is lost";
  EXPECT_FALSE(got.outward);
}

// What a token says of a message stands in payloads.
TEST(Outward, ReadsAllWhereTokensWereRecorded) {
  for (const std::int64_t before : {100 * kSec, std::int64_t{0}}) {
    World world;
    auto& node = world.node("a@h", 1);
    const auto mine = node.own(1), idle = node.own(2);
    node.token(true, idle, mine, 1, 0, 1, int_term(7), kBegin - before);
    world.append(node);
    ASSERT_TRUE(world.store->flush(10'000));
    for (int i = 0; i < 50; ++i) node.take(idle, int_term(i), kBegin + i);
    node.take(mine, int_term(1), kBegin + kMs);
    world.append(node);
    const auto got = get_trace(world.context(kBegin + 1'000 * kSec),
                               {{node.incarnation, mine.id, 0}, {kBegin + kMs}, 0});
    ASSERT_TRUE(got) << to_string(got.error());
    EXPECT_EQ(got->outward, before > 0);
  }
}

}  // namespace
}  // namespace scope::analysis
