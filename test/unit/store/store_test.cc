// The store through its face: what goes in comes out, from the tail, from blocks, after a restart.
#include <cinttypes>
#include <cstdio>
#include <random>
#include <set>
#include <thread>

#include "test/unit/store/store_fixture.h"

namespace scope::test {
namespace {

using codec::EventType;
using store::RowFilter;
using store::Unit;

constexpr Mfa kHandleCall{"shop_orders", "handle_call", 3};

// One event of every type and shape, at `t` and after.
void every_event(BatchMaker& m, std::int64_t t) {
  const auto p = m.own(90), q = m.own(91, 2);
  const auto far = BatchMaker::far("stock@host", 5, 700);
  const auto big = [](TermBuilder& b) {
    b.tuple(4).atom("$scope_cut").integer(1'000'000).binary(std::string_view("begin"));
    b.unsigned_integer(0xFEDCBA9876543210ULL);
  };
  m.gap("overload", 17, t - 50, t - 10).gap("killed", -1, t - 9, t - 5);
  m.alive(p, "orders", m.own(1), {"gen_server", "init_it", 6}, t)
      .alive(q, "", std::nullopt, {}, t + 1);
  m.call(p, kHandleCall, t + 2);
  m.role(
      p, kHandleCall, "args", [](TermBuilder& b) { b.list(2).integer(1).atom("two").nil(); },
      t + 3);
  m.returned(p, kHandleCall, atom_term("ok"), t + 4)
      .raised(p, kHandleCall, atom_term("badarg"), t + 5);
  m.send(p, q, gen_call(p, 1, "local"), t + 6).send(p, far, gen_call(p, 2, "remote"), t + 7);
  m.send_to(p, atom_term("stock"), atom_term("to_name"), t + 8);
  m.send_to(
      p, [](TermBuilder& b) { b.tuple(2).atom("stock").atom("stock@host"); }, atom_term("x"),
      t + 9);
  m.send_to(
      p, [&m](TermBuilder& b) { b.tuple(2).atom("own").atom(m.node()); }, atom_term("y"), t + 10);
  codec::RefParts ref;
  ref.node = "pay@host";
  ref.creation = 8;
  ref.count = 3;
  ref.ids[0] = 7, ref.ids[1] = 8, ref.ids[2] = 0xFFFFFFFF;
  m.send_to(p, [ref](TermBuilder& b) { b.reference(ref); }, atom_term("to_alias"), t + 11);
  codec::RefParts own_ref = ref;
  const std::string node = m.node();
  own_ref.node = node;
  own_ref.creation = m.creation();
  own_ref.count = 2;
  m.send_to(
      p, [own_ref](TermBuilder& b) { b.reference(own_ref); }, atom_term("to_own_alias"), t + 12);
  m.send_to(
      p, [&m](TermBuilder& b) { b.port({m.node(), 0x100000005ULL, m.creation()}); },
      atom_term("to_port"), t + 13);
  m.send(p, q, atom_term("dead"), t + 14, true).send(p, q, big, t + 15);
  m.fetch(q, gen_call(p, 1, "local"), t + 16).fetch(q, atom_term("timeout"), t + 17);
  m.take(q, gen_call(p, 1, "local"), t + 18);
  m.state(q, server_state(1, "first"), t + 19);
  m.role(q, {"gen_server", "terminate", 10}, "final", server_state(2, std::string(100'000, 'z')),
         t + 20);
  m.checkpoint(q, server_state(3, "seen"), t + 21);
  m.spawn(p, m.own(95), {"shop_worker", "init", 1}, t + 22)
      .spawned(m.own(95), p, {"shop_worker", "init", 1}, t + 23);
  m.link(p, m.own(95), t + 24).link(p, far, t + 25, false);
  m.registered(q, "orders_2", t + 26).registered(q, "orders_2", t + 27, false);
  m.exit(m.own(95), atom_term("normal"), t + 28);
  m.code_load("shop_orders", 12345, t + 29)
      .node_up("pay@host", t + 30)
      .node_up("pay@host", t + 31, false);
}

TEST_F(StoreTest, EveryEventIsTheSameInTailBlockAndAfterReopen) {
  options_.block_rows = 40;
  open();
  BatchMaker m("shop@host", 3, 77);
  const auto n = incarnation(m);
  every_event(m, -1000);
  append(m.batch(n, 1));
  flush();
  const auto in_tail = rows_of(*store_->snapshot());
  ASSERT_EQ(tail_units(*store_->snapshot()), 1U);
  EXPECT_EQ(in_tail.size(), 34U);
  EXPECT_EQ(store_->stats().malformed, 0U);
  reopen();
  EXPECT_EQ(rows_of(*store_->snapshot()), in_tail) << "replayed from the hot log";
  ASSERT_EQ(tail_units(*store_->snapshot()), 1U);

  BatchMaker other("stock@host", 5, 78);
  every_event(other, 5);
  const auto n2 = incarnation(other);
  append(other.batch(n2, 1));
  flush();
  auto view = store_->snapshot();
  EXPECT_EQ(tail_units(*view), 0U);
  auto in_block = rows_of(*view);
  EXPECT_EQ(in_block.size(), 2 * in_tail.size());
  std::erase_if(in_block, [&](const auto& s) { return !s.starts_with(fmt::format("{}.", n)); });
  EXPECT_EQ(in_block, in_tail);
  const auto all = rows_of(*view);
  view.reset();
  reopen();
  EXPECT_EQ(rows_of(*store_->snapshot()), all);

  std::set<int> types;
  for (const auto& unit : store_->snapshot()->units()) {
    auto rows = store_->snapshot()->read(unit, {});
    ASSERT_TRUE(rows);
    std::uint32_t bits = 0;
    for (const auto& row : rows->rows) bits |= 1U << static_cast<unsigned>(row.record.type);
    EXPECT_EQ(bits, unit.types);
    for (const auto& row : rows->rows) types.insert(static_cast<int>(row.record.type));
  }
  EXPECT_EQ(types.size(), 18U)
      << "all but telemetry, log and vm_sample, which no batch can carry yet";
}

TEST_F(StoreTest, NodesThatAreOnlyHeardOfGetAHome) {
  open();
  BatchMaker m("shop@host", 3, 77);
  const auto n = incarnation(m);
  m.send(m.own(1), BatchMaker::far("stock@host", 5, 700), atom_term("x"), 10);
  append(m.batch(n, 1));
  flush();
  auto view = store_->snapshot();
  ASSERT_EQ(view->incarnations().size(), 2U);
  EXPECT_EQ(view->incarnations()[1].node, "stock@host");
  EXPECT_EQ(view->incarnations()[1].creation, 5U);
  EXPECT_EQ(view->incarnations()[1].agent_id, 0U);
  const BatchMaker stock("stock@host", 5, 900);
  const auto real = store_->incarnation(stock.node(), 5, 900);
  ASSERT_TRUE(real);
  EXPECT_EQ(real->home, 2U) << "an agent that comes later shares the VM's home";
  EXPECT_EQ(store_->incarnation("stock@host", 5, 900)->number, real->number);
  reopen();
  EXPECT_EQ(store_->incarnation("stock@host", 5, 900)->number, real->number);
  EXPECT_EQ(store_->incarnation("shop@host", 3, 77)->last_committed_seq, 1U);
}

TEST_F(StoreTest, EachBatchOnce) {
  open();
  BatchMaker m("shop@host", 3, 77);
  const auto n = incarnation(m);
  const auto one = [&](std::uint64_t seq) {
    m.call(m.own(1), kHandleCall, static_cast<std::int64_t>(seq));
    append(m.batch(n, seq));
  };
  one(1);
  one(2);
  flush();
  EXPECT_EQ(listener_.committed(n), 2U);
  const auto acks = listener_.acks();
  one(2);
  one(1);
  flush();
  EXPECT_EQ(listener_.acks(), acks + 2) << "a batch that is stored already is acknowledged again";
  EXPECT_EQ(listener_.committed(n), 2U);
  one(4);
  one(5);
  flush();
  EXPECT_EQ(listener_.breaks(), (std::vector<std::pair<std::uint64_t, std::uint64_t>>{{3, 4}}));
  one(3);
  one(4);
  flush();
  EXPECT_EQ(listener_.committed(n), 4U);
  EXPECT_EQ(rows_of(*store_->snapshot()).size(), 4U);
  EXPECT_EQ(store_->stats().duplicates, 2U);
  EXPECT_EQ(store_->stats().out_of_order, 2U);
  reopen();
  one(4);
  one(6);
  flush();
  EXPECT_EQ(rows_of(*store_->snapshot()).size(), 4U);
  EXPECT_EQ(listener_.breaks().size(), 2U);
}

// The gaps of that reason in everything that is stored.
std::vector<std::string> gaps_of(const store::View& view, std::string_view reason) {
  std::vector<std::string> out;
  for (const auto& unit : view.units()) {
    const auto rows = view.read(unit, {});
    if (!rows) continue;
    for (const auto& row : rows->rows) {
      if (row.record.type != EventType::gap) continue;
      const auto gap = codec::read_gap(row.record.term());
      if (!gap || gap->reason != reason) continue;
      EXPECT_EQ(row.record.time, gap->until);
      out.push_back(fmt::format("{} of {} to {}", gap->count ? fmt::format("{}", *gap->count) : "?",
                                gap->from.ns, gap->until.ns));
    }
  }
  return out;
}

TEST_F(StoreTest, WhatCannotBeReadIsCountedUsedUpAndAGap) {
  for (const std::uint32_t block_rows : {1000U, 1U}) {  // in the tail, and in blocks
    store_.reset();
    std::filesystem::remove_all(options_.path);
    options_.block_rows = block_rows;
    open();
    BatchMaker m("shop@host", 3, 77);
    const auto n = incarnation(m);
    TermBuilder b;
    b.tuple(2).atom("batch").integer(1);
    append(BatchMaker::incoming(n, 1, {b.bytes().begin(), b.bytes().end()}));
    // One event of a node that is not the agent's, between two that are sound.
    m.call(m.own(2), kHandleCall, 4).call(PidParts{"else@where", 1, 0, 3}, kHandleCall, 5);
    m.call(m.own(1), kHandleCall, 6);
    append(m.batch(n, 2));
    const auto sound = m.call(m.own(1), kHandleCall, 9).message(3);
    // Its events end in the middle; the header is whole.
    const auto broken = [&](bool compact, std::uint64_t seq) {
      const auto whole = m.call(m.own(1), kHandleCall, 20 + static_cast<std::int64_t>(seq))
                             .call(m.own(1), kHandleCall, 21 + static_cast<std::int64_t>(seq))
                             .message(seq);
      const auto chosen = compact ? m.compact(whole, store_->hash_key()) : whole;
      const auto header = *codec::read_batch_header(*codec::view(chosen));
      TermBuilder out;
      out.tuple(7).atom("batch").unsigned_integer(77).unsigned_integer(seq);
      out.tuple(2).integer(header.clock_raw.ns).integer(header.clock_system_ns);
      out.nil().integer(header.cut.ns - 7);
      out.tuple(compact ? 4 : 3).atom(compact ? "compact" : "etf").integer(1);
      if (compact) out.binary(header.strings);
      out.binary(header.events.first(header.events.size() - 5));
      append(BatchMaker::incoming(n, seq, {out.bytes().begin(), out.bytes().end()}));
    };
    append(BatchMaker::incoming(n, 3, sound));
    broken(false, 4);
    broken(true, 5);
    // No header, as the first; but now it is known what came before.
    append(BatchMaker::incoming(n, 6, {b.bytes().begin(), b.bytes().end()}));
    flush();
    const std::vector<std::string> want{"1 of 6 to 6", "? of 9 to 25", "? of 24 to 26",
                                        "? of 25 to 25"};
    EXPECT_EQ(listener_.committed(n), 6U);
    EXPECT_EQ(store_->stats().malformed, 5U);
    EXPECT_EQ(gaps_of(*store_->snapshot(), "unreadable"), want);
    const auto rows = rows_of(*store_->snapshot());
    EXPECT_EQ(rows.size(), 2U + 1 + 1 + 4 + 1);  // of both broken batches the first event was whole
    reopen();
    EXPECT_EQ(rows_of(*store_->snapshot()), rows);
    EXPECT_EQ(gaps_of(*store_->snapshot(), "unreadable"), want);
  }
}

TEST_F(StoreTest, WhatCannotBeReadBeforeAClockIsKnownIsAGapWhenItIs) {
  open();
  BatchMaker m("shop@host", 3, 77);
  const auto n = incarnation(m);
  TermBuilder b;
  b.tuple(2).atom("batch").integer(1);
  append(BatchMaker::incoming(n, 1, {b.bytes().begin(), b.bytes().end()}));
  flush();
  EXPECT_TRUE(gaps_of(*store_->snapshot(), "unreadable").empty());
  const auto heard_of = store_->snapshot()->incarnations()[n - 1].first_seen.ns;
  const auto until = store_->now().ns;
  for (const std::uint32_t version : {1U, 2U}) {  // told once
    store::ClockVersion clock;
    clock.incarnation = n;
    clock.version = version;
    clock.offset_ns = heard_of;
    ASSERT_TRUE(store_->add_clock(clock));
    flush();
    const auto gaps = gaps_of(*store_->snapshot(), "unreadable");
    ASSERT_EQ(gaps.size(), 1U);
    std::int64_t from = -1, to = -1;
    ASSERT_EQ(std::sscanf(gaps[0].c_str(), "? of %" SCNd64 " to %" SCNd64, &from, &to), 2);
    EXPECT_EQ(from, 0);  // when it was first heard of
    EXPECT_GE(to, from);
    EXPECT_LE(to, until - heard_of);
  }
}

TEST_F(StoreTest, AViewShowsWhatThereWasWhenItWasTaken) {
  options_.block_rows = 100;
  open();
  BatchMaker m("shop@host", 3, 77);
  const auto n = incarnation(m);
  std::uint64_t seq = 0;
  const auto some = [&](int count) {
    for (int i = 0; i < count; ++i) {
      for (int k = 0; k < 10; ++k)
        m.call(m.own(1), kHandleCall, static_cast<std::int64_t>(seq * 10) + k);
      append(m.batch(n, ++seq));
    }
    flush();
  };
  some(5);
  const auto early = store_->snapshot();
  some(30);
  const auto late = store_->snapshot();
  some(30);
  EXPECT_EQ(rows_of(*early).size(), 50U);
  EXPECT_EQ(early->upper(), 5U);
  EXPECT_EQ(rows_of(*late).size(), 350U);
  EXPECT_EQ(rows_of(*store_->snapshot()).size(), 650U);
  store_->close();
  EXPECT_EQ(rows_of(*late).size(), 350U) << "views outlive the store";
  store_.reset();
  EXPECT_EQ(rows_of(*late).size(), 350U);
}

TEST_F(StoreTest, FiltersChooseRows) {
  options_.block_rows = 200;
  open();
  BatchMaker m("shop@host", 3, 77);
  const auto n = incarnation(m);
  for (int i = 0; i < 100; ++i) {
    const auto p = m.own(100 + static_cast<unsigned>(i % 7));
    m.call(p, kHandleCall, i * 10L).state(p, server_state(i, "s"), i * 10L + 1);
  }
  append(m.batch(n, 1));
  for (const bool sealed : {false, true}) {
    if (sealed) {
      m.call(m.own(50), kHandleCall, 2000);
      append(m.batch(n, 2));
    }
    flush();
    const auto view = store_->snapshot();
    ASSERT_EQ(tail_units(*view), sealed ? 1U : 0U) << "200 rows fill a block at once";
    const ProcessId p{n, 102, 0};
    RowFilter f;
    f.processes = {&p, 1};
    EXPECT_EQ(rows_of(*view, f).size(), 28U);
    f.types = 1U << static_cast<unsigned>(EventType::state_change);
    EXPECT_EQ(rows_of(*view, f).size(), 14U);
    f.newest_only = true;
    f.until = RawTime{500};
    const auto newest = rows_of(*view, f);
    ASSERT_EQ(newest.size(), 1U);
    EXPECT_NE(newest[0].find("@441#0 state_change"), std::string::npos) << newest[0];
    f.newest_only = false;
    f.from = RawTime{300};
    EXPECT_EQ(rows_of(*view, f).size(), 3U);
    const Incarnation none = n + 1;
    f = {};
    f.incarnations = {&none, 1};
    EXPECT_EQ(rows_of(*view, f).size(), 0U);
    f = {};
    f.payload = false;
    for (const auto& unit : view->units()) {
      const auto rows = view->read(unit, f);
      ASSERT_TRUE(rows);
      for (const auto& row : rows->rows) EXPECT_TRUE(row.record.payload.empty());
    }
  }
}

TEST_F(StoreTest, OrdinalsGoOnAcrossBatchesBlocksAndRestarts) {
  options_.block_rows = 4;
  BatchMaker m("shop@host", 3, 77);
  Incarnation n = 0;
  std::uint64_t seq = 0;
  std::vector<std::string> expected;
  const auto same_time = [&](int count) {
    for (int i = 0; i < count; ++i) m.call(m.own(1), kHandleCall, 500);
    append(m.batch(n, ++seq));
  };
  open();
  n = incarnation(m);
  same_time(3);
  reopen();      // replayed
  same_time(2);  // sealed with the first: 5 rows
  flush();
  ASSERT_EQ(tail_units(*store_->snapshot()), 0U);
  reopen();  // nothing to replay: the block alone knows
  same_time(2);
  ASSERT_TRUE(store_->add_gap(n, "node_died", {1}, {2}));  // the store's own rows do not disturb it
  same_time(1);
  flush();
  m.call(m.own(1), kHandleCall, 600)
      .call(m.own(1), kHandleCall, 500)
      .call(m.own(1), kHandleCall, 600);
  append(m.batch(n, ++seq));
  flush();
  const auto view = store_->snapshot();
  const ProcessId p{n, 1, 0};
  RowFilter f;
  f.processes = {&p, 1};
  std::vector<std::pair<std::int64_t, std::uint32_t>> ids;
  for (const auto& unit : view->units()) {
    const auto rows = view->read(unit, f);
    ASSERT_TRUE(rows);
    for (const auto& row : rows->rows) ids.emplace_back(row.record.time.ns, row.record.ordinal);
  }
  std::ranges::sort(ids);
  std::vector<std::pair<std::int64_t, std::uint32_t>> want;
  for (std::uint32_t i = 0; i < 9; ++i) want.emplace_back(500, i);
  want.emplace_back(600, 0);
  want.emplace_back(600, 1);
  EXPECT_EQ(ids, want);
}

// Raw clocks should never do this. If one does, between batches or within one, rows stay where their times put them. (The same
// nanosecond twice would give two rows one id: README, ordinals.)
TEST_F(StoreTest, ClocksThatJumpBackwardsLoseNothing) {
  options_.block_rows = 60;
  BatchMaker m("shop@host", 3, 77);
  open();
  const auto n = incarnation(m);
  std::multiset<std::pair<std::uint32_t, std::int64_t>> want;
  std::uint64_t seq = 0;
  for (const std::int64_t base : {10'000, 20'000, 5'000, 5'000, -3'000, 30'000, 29'900, 10'000}) {
    for (std::int64_t i = 0; i < 25; ++i) {
      const auto process = static_cast<std::uint32_t>(1 + i % 3);
      const auto time =
          base + static_cast<std::int64_t>(seq) + (i < 15 ? i * 10 : (i - 15) * 10 - 200);
      m.call(m.own(process), kHandleCall, time);
      want.emplace(process, time);
    }
    append(m.batch(n, ++seq));
    if (seq == 3 || seq == 6) flush();
    if (seq == 4) reopen();
  }
  flush();
  const auto check = [&](const RowFilter& f) {
    std::multiset<std::pair<std::uint32_t, std::int64_t>> found, wanted;
    std::set<EventId> ids;
    const auto view = store_->snapshot();
    for (const auto& unit : view->units()) {
      const auto rows = view->read(unit, f);
      ASSERT_TRUE(rows);
      for (const auto& row : rows->rows) {
        found.emplace(row.process.id, row.record.time.ns);
        EXPECT_TRUE(ids.insert(row.id()).second) << to_text(row);
      }
    }
    for (const auto& w : want) {
      if ((!f.from || w.second >= f.from->ns) && (!f.until || w.second <= f.until->ns))
        wanted.insert(w);
    }
    EXPECT_EQ(found, wanted);
  };
  for (int again = 0; again < 2; ++again, reopen()) {
    check({});
    RowFilter f;
    f.from = RawTime{5'050};
    f.until = RawTime{20'020};
    check(f);
  }
}

TEST_F(StoreTest, GapsOfTheStoresOwnAreEvents) {
  open();
  BatchMaker m("shop@host", 3, 77);
  const auto n = incarnation(m);
  ASSERT_TRUE(store_->add_gap(n, "node_died", {100}, {200}));
  flush();
  for (int round = 0; round < 2; ++round) {
    const auto view = store_->snapshot();
    ASSERT_EQ(view->units().size(), 1U);
    const auto rows = view->read(view->units()[0], {});
    ASSERT_TRUE(rows);
    ASSERT_EQ(rows->rows.size(), 1U);
    const auto& r = rows->rows[0].record;
    EXPECT_EQ(r.type, EventType::gap);
    const auto gap = codec::read_gap(*codec::view(r.payload));
    ASSERT_TRUE(gap);
    EXPECT_EQ(gap->reason, "node_died");
    EXPECT_FALSE(gap->count);
    EXPECT_EQ(gap->from.ns, 100);
    reopen();
  }
}

TEST_F(StoreTest, ClockVersionsAreNumberedAndKept) {
  open();
  const auto n = incarnation(BatchMaker("shop@host", 3, 77));
  for (int i = 1; i <= 3; ++i) {
    store::ClockVersion v;
    v.incarnation = n;
    v.raw_at = {1000L * i};
    v.offset_ns = 5L * i;
    v.source = 1;
    ASSERT_TRUE(store_->add_clock(v));
  }
  flush();
  reopen();
  const auto view = store_->snapshot();
  ASSERT_EQ(view->clocks().size(), 3U);
  EXPECT_EQ(view->clocks()[2].version, 3U);
  EXPECT_EQ(view->clocks()[2].offset_ns, 15);
}

TEST_F(StoreTest, IdentityAndTimeGoOnAfterReopen) {
  open();
  const auto id = store_->store_id();
  const auto key = store_->hash_key();
  const auto now = store_->now();
  (void)incarnation(BatchMaker("shop@host", 3, 77));
  auto second = store::TraceStore::open(options_, nullptr);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Code::owned_by);
  reopen();
  EXPECT_EQ(store_->store_id(), id);
  EXPECT_EQ(store_->hash_key(), key);
  EXPECT_GT(store_->now(), now);
  store_.reset();
  std::filesystem::remove(options_.path + "/manifest");
  second = store::TraceStore::open(options_, nullptr);
  ASSERT_FALSE(second) << "partitions without a manifest are not overwritten";
  EXPECT_EQ(second.error().code, Code::corrupt);
}

}  // namespace
}  // namespace scope::test
