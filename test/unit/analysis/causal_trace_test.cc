// Causal traces of a small cluster whose every event is written by hand, over a real store.
#include "analysis/causal_trace.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "test/unit/analysis/world.h"

namespace scope::analysis {
namespace {

using codec::PidParts;
using test::atom_term;
using test::int_term;
using test::Term;
using test::World;

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kHour = 3'600'000 * kMs;

struct Request {
  PidParts from;
  std::uint32_t n;
};
Term request(Request r) { return test::gen_call(r.from, r.n, "x"); }
Term reply(Request r) {
  return [r](codec::TermBuilder& out) {
    out.tuple(2).reference(
        {r.from.node, r.from.creation, 3, {r.n & 0x3FFFF, r.n * 2654435761U, 12345}});
    out.atom("ok");
  };
}
Term cast(std::string what) {
  return [what](codec::TermBuilder& out) { out.tuple(2).atom("$gen_cast").atom(what); };
}
Term down(PidParts pid) {
  return [pid](codec::TermBuilder& out) {
    out.tuple(5).atom("DOWN").reference({pid.node, pid.creation, 3, {9, 9, pid.id}});
    out.atom("process").pid(pid).atom("boom");
  };
}

class CausalTest : public testing::Test {
 protected:
  explicit CausalTest(std::uint32_t block_rows = store::StoreOptions{}.block_rows)
      : world([block_rows](store::StoreOptions& options) { options.block_rows = block_rows; }) {}
  World world;
  test::Node& one = world.node("a@h", 1, kHour, 100'000);
  test::Node& two = world.node("b@h", 2, -kHour, 100'000);
  PidParts client = one.own(5), front = one.own(6), stock = two.own(9), log = two.own(10);

  static std::int64_t a(double ms) { return static_cast<std::int64_t>(ms * kMs) - kHour; }
  static std::int64_t b(double ms) { return static_cast<std::int64_t>(ms * kMs) + kHour; }

  // A client calls front, which calls stock on the other node and tells log; log's handling comes later.
  void order(double at, std::uint32_t n) {
    const Request outer{client, n}, inner{front, n + 500};
    one.send(client, front, request(outer), a(at));
    one.fetch(front, request(outer), a(at + 1)).take(front, request(outer), a(at + 2));
    one.send(front, stock, request(inner), a(at + 3));
    two.fetch(stock, request(inner), b(at + 4)).take(stock, request(inner), b(at + 5));
    two.send(stock, front, reply(inner), b(at + 7));
    two.state(stock, int_term(n), b(at + 8));
    one.fetch(front, reply(inner), a(at + 9));
    one.send(front, log, cast("note"), a(at + 9.5));
    one.send(front, client, reply(outer), a(at + 10)).state(front, int_term(n), a(at + 11));
    one.fetch(client, reply(outer), a(at + 12));
    two.fetch(log, cast("note"), b(at + 20)).take(log, cast("note"), b(at + 21));
    two.state(log, int_term(n), b(at + 25));
  }
  void append() {
    world.append(one);
    world.append(two);
  }
  Context now() { return world.context(999'000 * kMs); }
  TraceList list(Filter filter = {}, std::optional<bool> errors = {}) {
    auto got = get_traces(now(), filter, errors);
    EXPECT_TRUE(got) << to_string(got.error());
    return got ? *std::move(got) : TraceList{};
  }
  Trace trace(const EventId& id) {
    auto got = get_trace(now(), id);
    EXPECT_TRUE(got) << to_string(got.error());
    return got ? *std::move(got) : Trace{};
  }
  // "depth kind pid name certainty" of each span, * for the critical path.
  static std::vector<std::string> shape(const Trace& t) {
    std::vector<std::string> out;
    for (const auto& s : t.spans) {
      out.push_back(fmt::format("{}{} {} {} {} {}", s.critical ? "*" : "", s.depth,
                                name(s.span.kind), s.span.process.id, s.span.name,
                                name(s.span.certainty)));
    }
    return out;
  }
  using Lines = std::vector<std::string>;
};

TEST_F(CausalTest, ARequestOverTwoNodesIsOneTree) {
  order(100, 1);
  append();
  const auto got = list();
  ASSERT_EQ(got.traces.size(), 1u);
  const auto& summary = got.traces[0];
  EXPECT_EQ(summary.spans, 5u);
  EXPECT_EQ(summary.duration_ns, 25 * kMs);
  EXPECT_EQ(summary.nodes, (std::vector<std::string>{"a@h", "b@h"}));
  EXPECT_EQ(summary.errors, 0u);
  EXPECT_EQ(summary.root.root, RootKind::process);
  EXPECT_EQ(summary.certainty, EdgeCertainty::unique);
  const auto t = trace(summary.root.id);
  EXPECT_EQ(shape(t), (Lines{"*0 call 5 order/3 exact", "*1 handle 6 order/3 exact",
                             "*2 call 6 order/3 exact", "*3 handle 9 order/3 exact",
                             "*2 cast 10 note unique"}));
}

TEST_F(CausalTest, TimesOfASpan) {
  order(100, 1);
  append();
  const auto t = trace(list().traces.at(0).root.id);
  ASSERT_EQ(t.spans.size(), 5u);
  EXPECT_EQ(t.spans[0].service_ns, 12 * kMs) << "until the reply was fetched";
  EXPECT_EQ(t.spans[1].span.queue_ns, 2 * kMs);
  EXPECT_EQ(t.spans[1].service_ns, 9 * kMs) << "until the loop's entry";
  EXPECT_EQ(t.spans[3].span.queue_ns, 2 * kMs) << "corrected: the clocks are two hours apart";
  EXPECT_EQ(t.spans[3].span.start.error_ns, 100'000);
  EXPECT_TRUE(t.cut.empty());
}

TEST_F(CausalTest, AnyEventOfATraceFindsIt) {
  order(100, 1);
  append();
  const auto root = list().traces.at(0).root.id;
  for (const auto& s : trace(root).spans) EXPECT_EQ(trace(s.span.id).spans.at(0).span.id, root);
  EXPECT_EQ(get_trace(now(), {{77, 1, 0}, {5}, 0}).error().code, Code::not_recorded);
}

TEST_F(CausalTest, EachRequestOfABusyClientIsATraceAndPagesGiveEachOnce) {
  for (int i = 0; i < 60; ++i) order(100 + 40 * i, static_cast<std::uint32_t>(1 + i));
  append();
  for (const auto order : {Order::newest_first, Order::oldest_first}) {
    Filter filter;
    filter.limit = 7;
    filter.order = order;
    std::vector<std::int64_t> starts;
    do {
      const auto page = list(filter);
      for (const auto& t : page.traces) {
        starts.push_back(t.root.start.time.ns);
        EXPECT_EQ(t.spans, 5u);
      }
      filter.cursor = page.next;
    } while (!filter.cursor.empty());
    EXPECT_EQ(starts.size(), 60u);
    EXPECT_TRUE(order == Order::oldest_first ? std::ranges::is_sorted(starts)
                                             : std::ranges::is_sorted(starts, std::greater<>()));
  }
}

// The client asked before the range that is read begins: its answer is no cause of what it does next.
TEST_F(CausalTest, AnAnswerWhoseCallWasNotSeenIsNoCause) {
  order(0, 1);
  order(1500, 2);
  append();
  Filter filter;
  filter.since = ClusterTime{1005 * kMs};
  const auto got = list(filter);
  ASSERT_EQ(got.traces.size(), 1u);
  EXPECT_EQ(got.traces[0].root.start.time.ns, 1500 * kMs);
  EXPECT_EQ(got.traces[0].spans, 5u);
}

TEST_F(CausalTest, Filters) {
  order(100, 1);
  one.take(client, cast("alone"), a(500)).state(client, int_term(1), a(502));
  append();
  EXPECT_EQ(list().traces.size(), 2u);
  const auto count = [&](auto change) {
    Filter filter;
    change(filter);
    return list(filter).traces.size();
  };
  EXPECT_EQ(count([](Filter& f) { f.min_duration_ns = 20 * kMs; }), 1u);
  EXPECT_EQ(count([](Filter& f) { f.nodes = {"b@h"}; }), 1u);
  EXPECT_EQ(count([](Filter& f) { f.text = "alon"; }), 1u);
  EXPECT_EQ(count([&](Filter& f) { f.pid = test::spec(stock); }), 1u);
  EXPECT_EQ(count([](Filter& f) { f.since = ClusterTime{300 * kMs}; }), 1u);
  EXPECT_EQ(list({}, true).traces.size(), 0u);
  EXPECT_EQ(list({}, false).traces.size(), 2u);
  Filter wrong;
  wrong.peer = test::spec(stock);
  EXPECT_EQ(get_traces(now(), wrong, {}).error().code, Code::bad_value);
}

TEST_F(CausalTest, CenturiesInWhichNothingWasRecordedTakeNoTime) {
  order(100, 1);
  append();
  for (const auto way : {Order::newest_first, Order::oldest_first}) {
    auto context = world.context(100'000 * kMs);
    context.budget.deadline = std::chrono::steady_clock::now() + std::chrono::seconds(2);
    Filter filter;
    filter.order = way;
    filter.since = ClusterTime{std::numeric_limits<std::int64_t>::min() / 2};
    filter.until = ClusterTime{std::numeric_limits<std::int64_t>::max() / 2};
    const auto page = get_traces(context, filter, {});
    ASSERT_TRUE(page);
    EXPECT_EQ(page->traces.size(), 1u);
    EXPECT_TRUE(page->next.empty());
    EXPECT_FALSE(page->completeness.deadline_cut);
  }
}

TEST_F(CausalTest, APassedDeadlineIsAnErrorOrACursorThatMissesNothing) {
  for (int i = 0; i < 5; ++i) order(100 + 15'000 * i, static_cast<std::uint32_t>(1 + i));
  append();
  auto context = world.context(100'000 * kMs);
  const auto passed = std::chrono::steady_clock::now() - std::chrono::seconds(1);
  for (const auto way : {Order::newest_first, Order::oldest_first}) {
    Filter filter;
    filter.order = way;
    std::size_t found = 0, errors = 0, pages = 0;
    bool hurried = true;
    do {
      context.budget.deadline = hurried ? passed : std::chrono::steady_clock::time_point::max();
      const auto page = get_traces(context, filter, {});
      if (!page) {
        EXPECT_EQ(page.error().code, Code::deadline);
        EXPECT_TRUE(hurried);
        ++errors;
        hurried = false;
        filter.limit = 1;
        continue;
      }
      EXPECT_EQ(page->completeness.deadline_cut, hurried && !page->next.empty());
      found += page->traces.size();
      filter.cursor = page->next;
      if (filter.cursor.empty()) break;
      hurried = true;
    } while (++pages < 100);
    EXPECT_EQ(found, 5u);
    EXPECT_GT(errors, 0u);
  }
}

TEST_F(CausalTest, WhatAServerSetsGoingAfterItsLoopEntryBelongsToItsLastHandling) {
  const Request r{client, 1};
  one.send(client, front, request(r), a(100));
  one.fetch(front, request(r), a(101)).take(front, request(r), a(102));
  one.state(front, int_term(1), a(103));  // {continue, _} follows
  one.send(front, log, cast("later"), a(105)).state(front, int_term(2), a(106));
  two.fetch(log, cast("later"), b(107)).take(log, cast("later"), b(108));
  append();
  const auto t = trace(list().traces.at(0).root.id);
  EXPECT_EQ(t.spans.at(2).span.name, "later");
  EXPECT_EQ(t.spans[1].service_ns, 4 * kMs);
}

TEST_F(CausalTest, ATaskIsSpawnedWorksCallsAndDies) {
  const auto task = one.own(77);
  one.take(front, cast("begin"), a(100));
  one.spawn(front, task, {"proc_lib", "init_p", 5}, a(101));
  one.spawned(task, front, {"proc_lib", "init_p", 5}, a(101.5));
  const Request r{task, 3};
  one.send(task, stock, request(r), a(102));
  two.fetch(stock, request(r), b(103)).take(stock, request(r), b(104));
  two.send(stock, task, reply(r), b(105)).state(stock, int_term(1), b(106));
  one.fetch(task, reply(r), a(107));
  one.send(task, log, cast("done"), a(108));
  one.exit(task, atom_term("boom"), a(110));
  one.fetch(front, down(task), a(111)).state(front, int_term(1), a(102.5));
  one.take(front, down(task), a(112)).send(front, log, cast("sad"), a(113));
  two.fetch(log, cast("done"), b(115))
      .take(log, cast("done"), b(116))
      .state(log, int_term(1), b(117));
  two.fetch(log, cast("sad"), b(118))
      .take(log, cast("sad"), b(119))
      .state(log, int_term(2), b(120));
  append();
  const auto got = list();
  ASSERT_EQ(got.traces.size(), 1u);
  EXPECT_EQ(got.traces[0].errors, 1u);
  EXPECT_EQ(got.traces[0].root.root, RootKind::untraced) << "the cast's sender was not recorded";
  EXPECT_EQ(shape(trace(got.traces[0].root.id)),
            (Lines{"*0 cast 6 begin exact", "*1 spawn 77 proc_lib:init_p/5 exact",
                   "*2 call 77 order/3 exact", "*3 handle 9 order/3 exact",
                   "*2 info 6 DOWN/5 exact", "*3 cast 10 sad unique", "2 cast 10 done unique"}));
}

// A worker's end ends the server that is linked to it. No guess where it may be another's, or its own.
TEST_F(CausalTest, AnEndIsPassedOnByALink) {
  struct Case {
    bool unlinked, second;  // the server from the worker; another worker with the same end
    const char* error;      // the server's
    double at;
    std::size_t links;
  };
  constexpr Case kCases[] = {{false, false, "boom", 111, 1},
                             {true, false, "boom", 211, 0},
                             {false, false, "other", 311, 0},
                             {false, true, "boom", 411, 0},
                             {false, false, "boom", 509.5, 0}};
  std::uint32_t n = 200;
  double t = 100;
  for (const auto& c : kCases) {
    const auto server = one.own(n), worker = one.own(n + 1), other = one.own(n + 2);
    one.take(server, cast("begin"), a(t)).link(other, server, a(t + 0.5));
    one.spawn(server, worker, {"m", "run", 0}, a(t + 1));
    one.link(server, worker, a(t + 1.1)).spawned(worker, server, {"m", "run", 0}, a(t + 1.2));
    if (c.unlinked) one.link(server, worker, a(t + 2), false);
    if (c.second) one.exit(other, atom_term("boom"), a(t + 9));
    one.exit(worker, atom_term("boom"), a(t + 10)).exit(server, atom_term(c.error), a(c.at));
    n += 10;
    t += 100;
  }
  append();
  t = 100;
  n = 200;
  for (const auto& c : kCases) {
    const auto found = trace({{one.incarnation, n, 0}, {a(t)}, 0});
    ASSERT_EQ(found.links.size(), c.links) << t;
    if (c.links == 1) {
      EXPECT_EQ(found.links[0].why, "exit");
      EXPECT_EQ(found.spans[found.links[0].from].span.name, "m:run/0");
      EXPECT_EQ(found.spans[found.links[0].to].span.name, "begin");
    }
    n += 10;
    t += 100;
  }
}

TEST_F(CausalTest, ALostConnectionOrAnEndThatCameLaterIsNoCause) {
  const auto worker = one.own(30);
  const auto lost = [&](codec::TermBuilder& out) {
    out.tuple(5).atom("DOWN").reference({worker.node, worker.creation, 3, {9, 9, 30}});
    out.atom("process").pid(worker).atom("noconnection");
  };
  const auto signal = [&](codec::TermBuilder& out) {
    out.tuple(3).atom("EXIT").pid(worker).atom("boom");
  };
  one.spawn(client, worker, {"m", "run", 0}, a(90)).spawned(worker, client, {"m", "run", 0}, a(91));
  two.fetch(stock, lost, b(100)).take(stock, lost, b(101));
  two.fetch(log, signal, b(110)).take(log, signal, b(111));
  one.exit(worker, atom_term("boom"), a(200));
  two.fetch(log, down(worker), b(210)).take(log, down(worker), b(211));
  append();
  const EventId by_lost{{two.incarnation, stock.id, 0}, {b(101)}, 0};
  const EventId by_signal{{two.incarnation, log.id, 0}, {b(111)}, 0};
  const EventId by_end{{two.incarnation, log.id, 0}, {b(211)}, 0};
  for (const auto& id : {by_lost, by_signal}) {
    const auto t = trace(id);
    EXPECT_EQ(t.spans.size(), 1u);
    EXPECT_EQ(t.spans.at(0).span.root, RootKind::system);
  }
  EXPECT_EQ(shape(trace(by_end)), (Lines{"*0 spawn 30 m:run/0 exact", "*1 info 10 DOWN/5 exact"}));
}

TEST_F(CausalTest, APlainProcessWithOneMessageIsInferredAndWithTwoAmbiguous) {
  const auto plain = one.own(50), source = one.own(51);
  one.take(source, cast("go"), a(100)).send(source, plain, int_term(1), a(101));
  one.fetch(plain, int_term(1), a(102)).send(plain, log, cast("first"), a(103));
  one.send(source, plain, int_term(2), a(104)).send(source, plain, int_term(3), a(105));
  one.fetch(plain, int_term(2), a(106)).fetch(plain, int_term(3), a(106.01));
  one.send(plain, log, cast("second"), a(107));
  two.fetch(log, cast("first"), b(110)).take(log, cast("first"), b(111));
  two.fetch(log, cast("second"), b(112)).take(log, cast("second"), b(113));
  append();
  const auto t = trace(list().traces.at(0).root.id);
  EXPECT_EQ(shape(t),
            (Lines{"*0 cast 51 go exact", "1 info 50 1 inferred", "2 cast 10 first unique",
                   "*1 info 50 3 ambiguous", "*2 cast 10 second unique"}));
  EXPECT_EQ(t.spans[3].span.candidates, 2u);
}

TEST_F(CausalTest, AServerThatWasBusyWhenTracingBeganIsNoPlainProcess) {
  one.send(client, front, int_term(4), a(99)).fetch(front, int_term(4), a(100));
  one.send(front, log, cast("old"), a(101));
  one.state(front, int_term(1), a(102)).take(front, int_term(4), a(103));
  one.send(front, log, cast("new"), a(104)).state(front, int_term(2), a(105));
  two.fetch(log, cast("old"), b(110))
      .take(log, cast("old"), b(111))
      .state(log, int_term(1), b(112));
  two.fetch(log, cast("new"), b(113))
      .take(log, cast("new"), b(114))
      .state(log, int_term(1), b(115));
  append();
  Filter filter;
  filter.order = Order::oldest_first;
  const auto got = list(filter);
  ASSERT_EQ(got.traces.size(), 2u);
  EXPECT_EQ(shape(trace(got.traces[0].root.id)),
            (Lines{"*0 info 6 4 exact", "*1 cast 10 new unique"}));
  EXPECT_EQ(got.traces[1].root.name, "old");
  EXPECT_EQ(got.traces[1].root.root, RootKind::process) << "what it handled then was not seen";
}

// How many blocks a question reads.
class CountingView : public test::ViewOf {
 public:
  using ViewOf::ViewOf;
  mutable std::size_t reads = 0;

  Result<store::Rows> read(const store::Unit& unit, const store::RowFilter& f) const override {
    if (!unit.tail) ++reads;
    return ViewOf::read(unit, f);
  }
};

struct CausalSmallBlocks : CausalTest {
  CausalSmallBlocks() : CausalTest(64) {}
};

TEST_F(CausalSmallBlocks, ATraceIdIsLookedForWhereItIs) {
  const Term carries = [](codec::TermBuilder& out) {
    out.tuple(2)
        .atom("$gen_cast")
        .binary("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
  };
  for (std::uint32_t n = 0; n < 1000; ++n) {
    const double at = 1000.0 * n;
    order(at, n);
    if (n == 40 || n == 200) {  // 1.5 s after its root
      one.send(front, log, carries, a(at + 10.5));
      two.fetch(log, carries, b(at + 1500)).take(log, carries, b(at + 1501));
    }
    append();
  }
  ASSERT_TRUE(world.store->flush(10'000));
  for (const auto order : {Order::newest_first, Order::oldest_first}) {
    auto context = now();
    const auto counting = std::make_shared<CountingView>(context.view);
    context.view = counting;
    Filter filter;
    filter.order = order;
    filter.trace_id = *store::read_trace_id("0af7651916cd43dd8448eb211c80319c");
    const auto got = get_traces(context, filter, {});
    ASSERT_TRUE(got) << to_string(got.error());
    std::vector<std::int64_t> starts;
    for (const auto& t : got->traces) starts.push_back(t.root.start.time.ns / kMs);
    const std::vector<std::int64_t> want = order == Order::newest_first
                                               ? std::vector<std::int64_t>{200'000, 40'000}
                                               : std::vector<std::int64_t>{40'000, 200'000};
    EXPECT_EQ(starts, want);
    EXPECT_TRUE(got->next.empty());
    EXPECT_EQ(got->traces.at(0).spans, 6u);
    EXPECT_LT(counting->reads, counting->units().size() / 4) << "blocks near the ids";
    filter.trace_id = *store::read_trace_id("ffffffffffffffffffffffffffffff00");
    counting->reads = 0;
    const auto none = get_traces(context, filter, {});
    ASSERT_TRUE(none);
    EXPECT_TRUE(none->traces.empty() && none->next.empty());
    EXPECT_LT(counting->reads, counting->units().size() / 8)
        << "what is not indexed yet, and 5 s before";
  }
}

TEST_F(CausalTest, ARequestThatIsPassedOnIsStillItsCallersCall) {
  const Request r{client, 1};
  one.send(client, front, request(r), a(100));
  one.fetch(front, request(r), a(101)).take(front, request(r), a(102));
  one.send(front, stock, request(r), a(103)).state(front, int_term(1), a(104));
  two.fetch(stock, request(r), b(105)).take(stock, request(r), b(106));
  two.send(stock, client, reply(r), b(107)).state(stock, int_term(1), b(108));
  one.fetch(client, reply(r), a(109));
  append();
  const auto t = trace(list().traces.at(0).root.id);
  EXPECT_EQ(t.spans.at(0).span.process.id, client.id);
  EXPECT_EQ(t.spans[0].service_ns, 9 * kMs) << "until the reply was fetched";
}

TEST_F(CausalTest, AReplyByAnotherHandlingIsALink) {
  const Request r{client, 1};
  one.send(client, front, request(r), a(100));
  one.fetch(front, request(r), a(101))
      .take(front, request(r), a(102))
      .state(front, int_term(1), a(103));
  one.send(front, log, cast("work"), a(102.5));
  two.fetch(log, cast("work"), b(104)).take(log, cast("work"), b(105));
  two.send(log, front, cast("done"), b(106)).state(log, int_term(1), b(107));
  one.fetch(front, cast("done"), a(108)).take(front, cast("done"), a(109));
  one.send(front, client, reply(r), a(110)).state(front, int_term(2), a(111));
  one.fetch(client, reply(r), a(112));
  append();
  const auto t = trace(list().traces.at(0).root.id);
  EXPECT_EQ(t.spans.size(), 4u);
  ASSERT_EQ(t.links.size(), 1u);
  EXPECT_EQ(t.spans[t.links[0].from].span.name, "done");
  EXPECT_EQ(t.spans[t.links[0].to].span.kind, SpanKind::call);
  EXPECT_EQ(t.links[0].why, "reply");
}

TEST_F(CausalTest, FunctionsHoldWhatWasDoneInThem) {
  one.take(front, cast("begin"), a(100));
  one.call(front, {"shop", "outer", 1}, a(101))
      .call(front, {"shop", "never_seen_to_end", 0}, a(102));
  const Request r{front, 1};
  one.send(front, stock, request(r), a(103));
  one.fetch(front, reply(r), a(104));
  one.returned(front, {"shop", "outer", 1}, int_term(1), a(105)).state(front, int_term(1), a(106));
  append();
  EXPECT_EQ(shape(trace(list().traces.at(0).root.id)),
            (Lines{"*0 cast 6 begin exact", "*1 function 6 shop:outer/1 exact",
                   "*2 call 6 order/3 exact"}));
  Filter filter;
  filter.mfa = MfaSpec{"shop", "outer", {}};
  EXPECT_EQ(list(filter).traces.size(), 1u);
  filter.mfa = MfaSpec{"shop", "outer", 2};
  EXPECT_EQ(list(filter).traces.size(), 0u);
}

TEST_F(CausalTest, ALongChainIsCutAtItsDepthAndSaysSo) {
  // Two servers cast to each other for ever.
  for (int i = 0; i < 500; ++i) {
    const double at = 100 + i;
    const auto& from = i % 2 == 0 ? front : client;
    const auto& to = i % 2 == 0 ? client : front;
    if (i == 0) one.take(from, cast("kick"), a(at - 0.5));
    const auto message = cast("ball" + std::to_string(i));
    one.send(from, to, message, a(at));
    one.fetch(to, message, a(at + 0.3)).take(to, message, a(at + 0.4));
  }
  append();
  const auto t = trace(list().traces.at(0).root.id);
  EXPECT_EQ(t.spans.size(), kMaxDepth + 1);
  EXPECT_EQ(t.cut, std::vector{TraceCut::depth});
}

TEST_F(CausalTest, ManySpansAreCutAndSaySo) {
  one.take(front, cast("begin"), a(100));
  for (std::uint32_t i = 0; i < kMaxSpans + 500; ++i) {
    one.spawn(front, one.own(1000 + i), {"m", "f", 0}, a(101 + i / 1000.0));
    if (i % 2000 == 0) append();
  }
  append();
  const auto summary = list().traces.at(0);
  EXPECT_EQ(summary.spans, kMaxSpans + 501);
  const auto t = trace(summary.root.id);
  EXPECT_EQ(t.spans.size(), kMaxSpans);
  EXPECT_EQ(t.cut, std::vector{TraceCut::spans});
}

}  // namespace
}  // namespace scope::analysis
