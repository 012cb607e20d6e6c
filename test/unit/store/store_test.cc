// The store through its face: what goes in comes out, from the tail, from blocks, after a restart.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
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
    flush();
    const std::vector<std::string> want{"1 of 6 to 6", "? of 9 to 25", "? of 25 to 26"};
    EXPECT_EQ(listener_.committed(n), 5U);
    EXPECT_EQ(store_->stats().malformed, 4U);
    EXPECT_EQ(gaps_of(*store_->snapshot(), "unreadable"), want);
    const auto rows = rows_of(*store_->snapshot());
    EXPECT_EQ(rows.size(), 2U + 1 + 1 + 3);  // of the compact batch the first event was whole
    reopen();
    EXPECT_EQ(rows_of(*store_->snapshot()), rows);
    EXPECT_EQ(gaps_of(*store_->snapshot(), "unreadable"), want);
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
    m.call(p, kHandleCall, i * 10).state(p, server_state(i, "s"), i * 10 + 1);
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
    v.raw_at = {1000 * i};
    v.offset_ns = 5 * i;
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

// Lives and names, as analysis asks for them, wherever the rows are.
class LivesTest : public StoreTest {
 protected:
  std::string lives(std::uint32_t id) {
    std::shared_ptr<const void> owner;
    const auto found = store_->snapshot()->lives({n_, id, 0}, owner);
    if (!found) return to_string(found.error());
    std::string out;
    for (const auto& l : *found) {
      const auto time = [](const std::optional<RawTime>& t) {
        return t ? std::to_string(t->ns) : "-";
      };
      out += fmt::format("{}.{} {} {} {} {}:{} parent {}@{};", l.process.incarnation, l.process.id,
                         time(l.spawned), time(l.exited), time(l.seen_alive), l.initial_call.module,
                         l.initial_call.function, l.parent ? l.parent->id : 0,
                         l.parent ? l.parent->node : "");
    }
    return out;
  }
  static std::string to_text(const std::vector<store::NameSpell>& spells) {
    std::string out;
    for (const auto& s : spells)
      out += fmt::format("{}={} {}..{}{};", s.name, s.process.id, s.from.ns,
                         s.until ? std::to_string(s.until->ns) : "",
                         s.from_baseline ? " baseline" : "");
    return out;
  }
  std::string holders(std::string_view name, std::string_view node = "shop@host") {
    std::shared_ptr<const void> owner;
    const auto found = store_->snapshot()->name_spells(node, name, owner);
    return found ? to_text(*found) : to_string(found.error());
  }
  std::string names(std::uint32_t id) {
    std::shared_ptr<const void> owner;
    const auto found = store_->snapshot()->names_of({n_, id, 0}, owner);
    return found ? to_text(*found) : to_string(found.error());
  }
  void seal() {
    for (std::uint32_t i = 0; i < options_.block_rows; ++i) m_.call(m_.own(1), kHandleCall, 1);
    append(m_.batch(n_, ++seq_));
    flush();
    ASSERT_EQ(tail_units(*store_->snapshot()), 0U);
  }

  BatchMaker m_{"shop@host", 3, 77};
  Incarnation n_ = 0;
  std::uint64_t seq_ = 0;
};

TEST_F(LivesTest, AreTheSameInTailBlocksAndBoth) {
  for (const int sealed_until : {0, 1, 2, 3}) {
    store_.reset();
    std::filesystem::remove_all(options_.path);
    options_.block_rows = 50;
    open();
    seq_ = 0;
    n_ = incarnation(m_);
    const auto step = [&](int number) {
      append(m_.batch(n_, ++seq_));
      flush();
      if (number <= sealed_until) seal();
    };
    m_.alive(m_.own(5), "orders", m_.own(2), {"orders", "init", 1}, 10);
    m_.spawn(m_.own(5), m_.own(6), {"worker", "run", 0}, 20);
    m_.registered(m_.own(6), "w", 21);
    step(1);
    m_.registered(m_.own(6), "w", 30, false).registered(m_.own(7), "w", 31);
    m_.exit(m_.own(5), atom_term("normal"), 40).spawned(m_.own(8), m_.own(7), {"x", "y", 0}, 41);
    step(2);
    m_.registered(m_.own(8), "orders", 50)
        .exit(m_.own(7), atom_term("kill"), 60)
        .exit(m_.own(8), atom_term("a"), 70);
    step(3);
    EXPECT_EQ(lives(5), "1.5 - 40 10 orders:init parent 2@shop@host;") << sealed_until;
    EXPECT_EQ(lives(6), "1.6 20 - - worker:run parent 5@shop@host;");
    EXPECT_EQ(lives(8), "1.8 41 70 - x:y parent 7@shop@host;");
    EXPECT_EQ(lives(99), "");
    EXPECT_EQ(holders("w"), "w=6 21..30;w=7 31..60;");
    EXPECT_EQ(holders("orders"), "orders=5 10..40 baseline;orders=8 50..70;");
    EXPECT_EQ(holders("orders", ""), holders("orders"));
    EXPECT_EQ(holders("orders", "else@host"), "");
    EXPECT_EQ(names(7), "w=7 31..60;");
    EXPECT_EQ(names(5), "orders=5 10..40 baseline;");
  }
}

TEST_F(LivesTest, OutliveTheirPartition) {
  options_.block_rows = 100;
  options_.partition_bytes = 300'000;
  options_.retain_bytes = 700'000;
  open();
  n_ = incarnation(m_);
  m_.alive(m_.own(5), "orders", m_.own(2), {"orders", "init", 1}, 10);
  m_.spawn(m_.own(5), m_.own(6), {"worker", "run", 0}, 20).exit(m_.own(6), atom_term("normal"), 30);
  seal();
  std::mt19937 random(7);
  while (store_->stats().partitions < 2 || store_->snapshot()->units().front().partition < 3) {
    for (std::int64_t i = 0; i < 100; ++i) {
      std::string text(200, ' ');
      for (auto& c : text) c = static_cast<char>(random() % 256);
      m_.send(m_.own(5), m_.own(2), binary_term(text), static_cast<std::int64_t>(seq_ * 100) + i);
    }
    append(m_.batch(n_, ++seq_));
    flush();
    ASSERT_LT(seq_, 2000U);
    if (seq_ % 100 == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(300));  // retention looks each second
  }
  EXPECT_EQ(lives(5), "1.5 - - 10 orders:init parent 2@shop@host;");
  EXPECT_EQ(lives(6), "") << "it was gone before the roll, and went with its partition";
  EXPECT_EQ(holders("orders"), "orders=5 10.. baseline;");
  m_.exit(m_.own(5), atom_term("normal"), 1'000'000'000);
  seal();
  EXPECT_EQ(names(5), "orders=5 10..1000000000 baseline;");
  reopen();
  EXPECT_EQ(names(5), "orders=5 10..1000000000 baseline;");
}

TEST_F(StoreTest, RollsAndDropsWholePartitions) {
  options_.block_rows = 200;
  options_.partition_bytes = 400'000;
  open();
  BatchMaker m("shop@host", 3, 77);
  const auto n = incarnation(m);
  std::mt19937 random(1);
  std::uint64_t seq = 0;
  const auto some = [&](int batches) {
    for (int k = 0; k < batches; ++k) {
      for (std::int64_t i = 0; i < 50; ++i) {
        std::string text(300, ' ');
        for (auto& c : text) c = static_cast<char>(random() % 256);
        m.state(m.own(static_cast<unsigned>(random() % 20)), server_state(i, text),
                static_cast<std::int64_t>(seq * 50) + i);
      }
      append(m.batch(n, ++seq));
    }
    flush();
  };
  some(200);
  EXPECT_GE(store_->stats().partitions, 3U);
  auto before = rows_of(*store_->snapshot());
  EXPECT_EQ(before.size(), 10'000U);
  reopen();
  EXPECT_EQ(rows_of(*store_->snapshot()), before);
  EXPECT_EQ(store_->stats().events_stored, 10'000U);
  some(1);
  EXPECT_EQ(rows_of(*store_->snapshot()).size(), 10'050U);
  before = rows_of(*store_->snapshot());

  options_.retain_bytes = 1'000'000;
  reopen();
  auto view = store_->snapshot();
  const auto files = [&] {
    return std::count_if(std::filesystem::directory_iterator(options_.path), {},
                         [](const auto& e) { return e.path().extension() == ".mdb"; });
  };
  for (int i = 0; i < 100 && store_->stats().bytes_on_disk > options_.retain_bytes; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_LE(store_->stats().bytes_on_disk, options_.retain_bytes);
  const auto left = rows_of(*store_->snapshot());
  EXPECT_LT(left.size(), before.size());
  EXPECT_EQ(rows_of(*view), before) << "a view keeps what it shows";
  view.reset();
  const auto partitions = static_cast<long>(store_->stats().partitions);
  for (int i = 0; i < 100 && files() > partitions; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(files(), static_cast<long>(store_->stats().partitions));
  reopen();
  EXPECT_EQ(rows_of(*store_->snapshot()), left);
}

TEST_F(StoreTest, AFullMapIsRolled) {
  options_.map_bytes = 2u << 20;
  options_.partition_bytes = 1u << 30;
  options_.block_rows = 4000;
  open();
  BatchMaker m("shop@host", 3, 77);
  const auto n = incarnation(m);
  std::mt19937 random(1);
  for (std::uint64_t seq = 1; seq <= 60; ++seq) {
    for (std::int64_t i = 0; i < 50; ++i) {
      std::string text(1000, ' ');
      for (auto& c : text) c = static_cast<char>(random() % 256);
      m.send(m.own(1), m.own(2), binary_term(text), static_cast<std::int64_t>(seq * 50) + i);
    }
    append(m.batch(n, seq));
    flush();
  }
  EXPECT_GE(store_->stats().partitions, 2U);
  EXPECT_EQ(rows_of(*store_->snapshot()).size(), 3000U);
  reopen();
  EXPECT_EQ(rows_of(*store_->snapshot()).size(), 3000U);
}

TEST_F(StoreTest, AFullDiskStopsAcknowledgementsAndLosesNothing) {
  open();
  BatchMaker m("shop@host", 3, 77);
  const auto n = incarnation(m);
  std::mt19937 random(1);
  const auto batch = [&](std::uint64_t seq) {
    for (std::int64_t i = 0; i < 50; ++i) {
      std::string text(500, ' ');
      for (auto& c : text) c = static_cast<char>(random() % 256);
      m.send(m.own(1), m.own(2), binary_term(text), static_cast<std::int64_t>(seq * 50) + i);
    }
    return m.batch(n, seq);
  };
  // No file of this process may grow beyond 600 KB: to the store that is a full disk.
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit small{600'000, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  std::uint64_t seq = 0;
  for (; seq < 40 && store_->stats().commit_failures == 0; (void)store_->flush(200))
    append(batch(++seq));
  EXPECT_GT(store_->stats().commit_failures, 0U);
  const auto acked = listener_.committed(n);
  EXPECT_LT(acked, seq);
  EXPECT_EQ(rows_of(*store_->snapshot()).size(), seq * 50) << "the tail is still readable";
  setrlimit(RLIMIT_FSIZE, &old);
  flush();
  EXPECT_EQ(listener_.committed(n), seq);
  const auto rows = rows_of(*store_->snapshot());
  EXPECT_EQ(rows.size(), seq * 50);
  reopen();
  EXPECT_EQ(rows_of(*store_->snapshot()), rows);
}

TEST_F(StoreTest, ADamagedBlockIsNamedAndCounted) {
  options_.block_rows = 100;
  open();
  BatchMaker m("shop@host", 3, 77);
  const auto n = incarnation(m);
  for (int i = 0; i < 200; ++i)
    m.state(m.own(static_cast<unsigned>(i % 9)), server_state(i, "text"), i);
  append(m.batch(n, 1));
  flush();
  store_.reset();
  const auto file = options_.path + "/p-00000001.mdb";
  std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(f)), {});
  const auto at = bytes.find("SBLK");
  ASSERT_NE(at, bytes.npos);
  f.seekp(static_cast<std::streamoff>(at + 130));
  f.put(static_cast<char>(~bytes[at + 130]));
  f.close();
  open();
  const auto view = store_->snapshot();
  int bad = 0;
  for (const auto& unit : view->units()) {
    const auto rows = view->read(unit, {});
    if (rows) continue;
    ++bad;
    EXPECT_EQ(rows.error().code, Code::corrupt);
    EXPECT_TRUE(rows.error().message.starts_with(
        fmt::format("block {} of partition 1 (batches 1 to 1)", unit.block)))
        << rows.error().message;
  }
  EXPECT_EQ(bad, 1);
  EXPECT_EQ(store_->stats().corrupt_blocks, 1U);
}

// Batch `seq` of the crash test: its rows follow from its number alone.
store::IncomingBatch crash_batch(BatchMaker& m, Incarnation n, std::uint64_t seq) {
  std::mt19937 random(static_cast<unsigned>(seq));
  const auto count = 1 + random() % 60;
  for (unsigned i = 0; i < count; ++i) {
    const auto p = m.own(static_cast<unsigned>(random() % 30));
    const auto t = static_cast<std::int64_t>(seq * 100 + i / 3);
    if (random() % 2) {
      m.state(p, server_state(t, "crash"), t);
    } else {
      m.send(p, BatchMaker::far("stock@host", 2, 9), gen_call(p, i, "crash"), t);
    }
  }
  return seq % 2 ? m.batch(n, seq) : m.compact_batch(n, seq, {});  // hashes are not compared
}

// Writes each acknowledged number to a file, with one system call: what was written there is known to outlive a kill.
class AckFile final : public store::StoreListener {
 public:
  explicit AckFile(int fd) : fd_(fd) {}
  void on_committed(Incarnation, std::uint64_t seq) override {
    if (::pwrite(fd_, &seq, sizeof seq, 0) != sizeof seq) std::abort();
  }
  void on_out_of_order(Incarnation, std::uint64_t, std::uint64_t) override { std::abort(); }
  void on_published() override {}

 private:
  int fd_;
};

[[noreturn]] void run_until_killed(store::StoreOptions options, int fd) {
  AckFile acks(fd);
  auto store = store::TraceStore::open(options, &acks);
  if (!store) std::_Exit(3);
  BatchMaker m("shop@host", 3, 77);
  const auto info = (*store)->incarnation("shop@host", 3, 77);
  if (!info) std::_Exit(4);
  for (auto seq = info->last_committed_seq;;) {
    auto batch = crash_batch(m, info->number, ++seq);
    while (!(*store)->append(batch)) {
    }
    std::this_thread::sleep_for(std::chrono::microseconds(400));
  }
}

TEST_F(StoreTest, KilledAtAnyMomentLosesNothingThatWasAcknowledged) {
  options_.block_rows = 500;
  options_.partition_bytes = 400'000;
  const auto ack_path = folder_.path() + "/acks";
  std::ofstream(ack_path, std::ios::binary) << std::string(8, '\0');
  std::mt19937 random(std::random_device{}());
  std::uint64_t acked_before = 0;
  for (int round = 0; round < 10; ++round) {
    const int fd = ::open(ack_path.c_str(), O_RDWR);
    ASSERT_GE(fd, 0);
    const pid_t child = ::fork();
    if (child == 0) run_until_killed(options_, fd);
    // Mostly once something new was acknowledged, else wherever it is: at its start perhaps.
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    for (std::uint64_t now = 0; round % 4 != 3 && std::chrono::steady_clock::now() < give_up;) {
      ASSERT_EQ(::pread(fd, &now, sizeof now, 0), static_cast<ssize_t>(sizeof now));
      if (now > acked_before) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 150));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself: " << WEXITSTATUS(status);
    std::uint64_t acked = 0;
    ASSERT_EQ(::pread(fd, &acked, sizeof acked, 0), static_cast<ssize_t>(sizeof acked));
    ::close(fd);
    ASSERT_GE(acked, acked_before);
    acked_before = acked;
    open();
    const auto info = store_->incarnation("shop@host", 3, 77);
    ASSERT_TRUE(info);
    EXPECT_GE(info->last_committed_seq, acked);
    // What is there is what a store that was never killed has, ids and all.
    const auto rows = rows_of(*store_->snapshot());
    store_.reset();
    TempFolder other;
    auto calm_options = options_;
    calm_options.path = other.path() + "/db";
    calm_options.sync = false;
    {
      auto calm = store::TraceStore::open(calm_options, nullptr);
      ASSERT_TRUE(calm);
      BatchMaker m("shop@host", 3, 77);
      const auto n = (*calm)->incarnation("shop@host", 3, 77)->number;
      for (std::uint64_t seq = 1; seq <= info->last_committed_seq; ++seq) {
        const auto batch = crash_batch(m, n, seq);
        while (!(*calm)->append(batch)) ASSERT_TRUE((*calm)->flush(10'000));
      }
      ASSERT_TRUE((*calm)->flush(10'000));
      // The hash key differs from store to store, so hashes are left out.
      const auto without_hash = [](std::vector<std::string> list) {
        for (auto& s : list) s.erase(s.find(" hash="), s.find(" orig=") - s.find(" hash="));
        return list;
      };
      ASSERT_EQ(without_hash(rows), without_hash(rows_of(*(*calm)->snapshot())))
          << "round " << round;
    }
  }
  EXPECT_GE(acked_before, 8U) << "too slow a machine to say anything";
}

}  // namespace
}  // namespace scope::test
