// Kept edges against one matcher over everything. Random traffic of three nodes, one of them restarted in between, whose
// batches come late by minutes and in any order; edges are derived in between, the store of edges is closed and opened.
//
// What is asked of each slice that is kept: of every sending and every arrival in it the same answer as the matcher's, and
// from message_flow; byte by byte what a fresh store of edges derives from the same view; the same or nothing from a file
// in which bytes were changed.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <map>
#include <random>

#include "analysis/edge_builder.h"
#include "analysis/kept_edges.h"
#include "analysis/message_flow.h"
#include "analysis/row_stream.h"
#include "store/key_format.h"
#include "test/unit/analysis/world.h"
#include "test/unit/store/store_fixture.h"

namespace scope::analysis {
namespace {

using codec::Bytes;
using codec::EventType;
using codec::PidParts;
using store::EdgeStore;
using store::MessageEdge;
using test::int_term;
using test::World;

constexpr std::int64_t kMs = 1'000'000, kSec = 1'000 * kMs;
constexpr std::int64_t kBegin = 1'000 * kSec, kMinutes = 8;
constexpr std::int64_t kNow = 100'000 * kSec;

std::string text(const std::optional<MessageEdge>& e) {
  if (!e) return "none";
  const auto ms = [](const EventId& id) {
    return fmt::format("{}.{}@{}", id.process.incarnation, id.process.id, id.time.ns / 1'000);
  };
  return fmt::format("{} -> {} taken {} how {} of {}", ms(e->send), ms(e->arrival),
                     e->take ? ms(*e->take) : "no", e->how, e->candidates);
}

// Every message's fate as one matcher sees it that gets all rows.
struct Reference : MatchSink {
  void matched(const Message& send, const Message& arrival, Matched how,
               std::uint32_t candidates) override {
    MessageEdge edge{send.id, arrival.id, arrival.type == EventType::message_take,
                     static_cast<std::uint8_t>(how), candidates};
    by_arrival[arrival.id] = send.id;
    by_send[send.id] = edge;
  }
  void taken(const Message& fetch, const Message& take) override { takes[fetch.id] = take.id; }

  explicit Reference(const Context& context) {
    const ClockModel clock(*context.view);
    ScanSpec spec;
    spec.types = kEdgeTypes;
    spec.payload = true;
    RowStream rows(context, clock, spec);
    Receivers receivers(context, clock);
    MessageMatcher matcher(*this);
    for (RowStream::Item item; rows.next(item);) {
      const auto message = receivers.message(*item.row, item.at);
      (message.type == EventType::message_send ? sends : arrivals)
          .push_back({message.id, item.at.time});
      matcher.advance(item.at.time);
      matcher.add(message);
    }
    matcher.finish();
    for (auto& [send, edge] : by_send) {
      const auto take = takes.find(edge.arrival);
      if (!edge.arrival_is_take && take != takes.end()) edge.take = take->second;
    }
  }
  std::vector<AskedEvent> sends, arrivals;
  std::map<EventId, MessageEdge> by_send;
  std::map<EventId, EventId> by_arrival, takes;
};

struct Traffic {
  struct Event {
    std::int64_t at = 0;  // cluster time
    EventType type{};
    PidParts pid, to;
    std::int64_t content = 0;
  };
  struct Member {
    test::Node* node = nullptr;
    std::int64_t behind = 0;
    std::vector<Event> events;
    std::size_t given = 0;
    // What it records up to that time.
    void give(World& world, std::int64_t until) {
      bool any = false;
      for (; given < events.size() && events[given].at <= until; ++given, any = true) {
        const auto& e = events[given];
        const auto term = int_term(e.content);
        const auto raw = e.at - behind;
        if (e.type == EventType::message_send) node->send(e.pid, e.to, term, raw);
        if (e.type == EventType::message_fetch) node->fetch(e.pid, term, raw);
        if (e.type == EventType::message_take) node->take(e.pid, term, raw);
      }
      if (any) world.append(*node);
    }
    bool done() const { return given == events.size(); }
  };

  Traffic(World& world, unsigned seed, int per_second) : random(seed) {
    members.resize(4);
    const std::int64_t behind[] = {0, 3'600 * kSec, -7'200 * kSec, 50 * kSec};
    const char* names[] = {"a@h", "b@h", "c@h", "c@h"};
    for (std::size_t i = 0; i < 4; ++i) {
      members[i].behind = behind[i];
      members[i].node = &world.node(names[i], static_cast<std::uint32_t>(i + 1), behind[i]);
    }
    std::map<std::pair<std::uint64_t, std::uint64_t>, std::int64_t> pair_time;
    std::map<std::uint64_t, std::multimap<std::int64_t, Event>> inbox;
    std::int64_t now = kBegin;
    const std::int64_t end = kBegin + kMinutes * 60 * kSec,
                       restart = kBegin + std::int64_t{240} * kSec;
    for (std::int64_t n = 0; now < end; ++n) {
      now += 1 + pick(2 * kSec / per_second);
      const auto member = [&] {  // of the third node the one that runs now
        const auto m = static_cast<std::size_t>(pick(3));
        return m < 2 ? m : now < restart ? 2U : 3U;
      };
      const auto from = member(), to = member();
      const auto p = static_cast<std::uint32_t>(1 + pick(3)),
                 q = static_cast<std::uint32_t>(11 + pick(3));
      const auto key = [](std::size_t m, std::uint32_t id) { return std::uint64_t{m} << 32 | id; };
      auto& last = pair_time[{key(from, p), key(to, q)}];
      const bool slow = pick(50) == 0;
      last = std::max(last + 1, now + 1'000 + pick((slow ? 4'000 : 40) * kMs));
      const Event sent{now, EventType::message_send, members[from].node->own(p),
                       members[to].node->own(q), pick(5) == 0 ? pick(5) : 1'000 + n};
      const bool only_once = sent.content >= 1'000;
      if (!only_once || pick(20) != 0) members[from].events.push_back(sent);
      if (!only_once || pick(20) != 0) inbox[key(to, q)].emplace(last, sent);
    }
    for (auto& [who, messages] : inbox) {
      std::int64_t fetched = 0, taken = 0;
      for (const auto& [at, sent] : messages) {
        fetched = std::max(fetched + 1, at);
        taken = std::max(
            {taken + 1, fetched + 1, fetched + pick(pick(60) == 0 ? 6'000 * kMs : 5 * kMs)});
        auto& events = members[who >> 32].events;
        events.push_back({fetched, EventType::message_fetch, sent.to, {}, sent.content});
        if ((who & 1) != 0)
          events.push_back({taken, EventType::message_take, sent.to, {}, sent.content});
      }
    }
    for (auto& m : members)
      std::ranges::sort(m.events, {}, [](const Event& e) { return std::pair(e.at, e.pid.id); });
  }
  std::int64_t pick(std::int64_t n) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n));
  }
  std::mt19937_64 random;
  std::vector<Member> members;
};

struct Rig {
  explicit Rig(EdgeLimits l = {}) : limits(l) { open(); }
  void open() {
    builder.reset();
    edges.reset();
    auto opened = EdgeStore::open(folder.path(), 1, kEdgeRules, false, nullptr);
    ASSERT_TRUE(opened) << to_string(opened.error());
    edges = *std::move(opened);
    builder = std::make_unique<EdgeBuilder>(*edges, nullptr, limits);
  }
  Context context() {
    auto out = world.context(kNow);
    out.edges = edges;
    return out;
  }
  // Slices derived.
  int derive(int most = 1'000'000) {
    const auto now = context();
    for (int n = 0; n < most; ++n) {
      const auto step = builder->step(now);
      EXPECT_TRUE(step) << to_string(step.error());
      if (!step || !step->derived) return n;
    }
    return most;
  }
  // Everything arrives; each node in its own order, but late by up to all of it.
  void deliver(Traffic& traffic, bool deriving) {
    while (true) {
      std::vector<Traffic::Member*> left;
      for (auto& m : traffic.members) {
        if (!m.done()) left.push_back(&m);
      }
      if (left.empty()) return;
      auto& m =
          *left[static_cast<std::size_t>(traffic.pick(static_cast<std::int64_t>(left.size())))];
      m.give(world, m.events[m.given].at + traffic.pick(40 * kSec));
      if (!deriving || traffic.pick(3) != 0) continue;
      if (traffic.pick(8) == 0) open();
      derive(static_cast<int>(traffic.pick(4)));
    }
  }
  struct Compared {
    std::size_t sends = 0, arrivals = 0, less_sure = 0;
  };
  // What tells equal messages apart may lie before the window. Then the same is kept, but as ambiguous.
  static bool less_sure(const std::optional<MessageEdge>& kept, const Reference& all) {
    const auto whole = kept ? all.by_send.find(kept->send) : all.by_send.end();
    if (whole == all.by_send.end() || static_cast<Matched>(kept->how) != Matched::ambiguous ||
        static_cast<Matched>(whole->second.how) != Matched::unique)
      return false;
    auto surer = *kept;
    surer.how = whole->second.how;
    surer.candidates = whole->second.candidates;
    return surer == whole->second;
  }
  Compared compare(const Reference& all, const Context& now) {
    Compared out;
    KeptEdges kept(now);
    const auto of_sends = kept.of_sends(all.sends);
    for (std::size_t i = 0; i < of_sends.size(); ++i) {
      if (!of_sends[i].settled) continue;
      ++out.sends;
      const auto expected = all.by_send.find(all.sends[i].id);
      if (less_sure(of_sends[i].edge, all)) {
        ++out.less_sure;
        continue;
      }
      const bool same = of_sends[i].edge
                            ? expected != all.by_send.end() && *of_sends[i].edge == expected->second
                            : expected == all.by_send.end();
      EXPECT_TRUE(same) << "kept: " << text(of_sends[i].edge) << ", of the whole: "
                        << (expected == all.by_send.end() ? "none" : text(expected->second));
    }
    const auto of_arrivals = kept.of_arrivals(all.arrivals);
    for (std::size_t i = 0; i < of_arrivals.size(); ++i) {
      if (!of_arrivals[i].settled) continue;
      ++out.arrivals;
      const auto sender = all.by_arrival.find(all.arrivals[i].id);
      const bool same = of_arrivals[i].edge ? sender != all.by_arrival.end() &&
                                                  of_arrivals[i].edge->send == sender->second
                                            : sender == all.by_arrival.end();
      EXPECT_TRUE(same) << "arrival at " << all.arrivals[i].at.ns / kMs;
    }
    return out;
  }
  std::map<std::vector<std::byte>, std::vector<std::byte>> contents() {
    edges.reset();
    builder.reset();
    std::map<std::vector<std::byte>, std::vector<std::byte>> out;
    raw([&](store::lmdb::Txn&, store::lmdb::Dbi, Bytes key, Bytes value) {
      if (key.size() > 1) out[{key.begin(), key.end()}] = {value.begin(), value.end()};
    });
    open();
    return out;
  }
  // Every value of the file. REQUIRES that it is closed.
  template <typename F>
  void raw(F each) {
    auto env = store::lmdb::Env::open(EdgeStore::path_of(folder.path()),
                                      {store::kEdgeMapBytes, false, false});
    ASSERT_TRUE(env);
    auto txn = store::lmdb::Txn::begin(*env, true);
    const auto db = *txn->open_db("edges", false);
    std::map<std::vector<std::byte>, std::vector<std::byte>> all;
    {
      auto cursor = store::lmdb::Cursor::open(*txn, db);
      for (bool there = *cursor->first(); there; there = *cursor->next()) {
        all[{cursor->key().begin(), cursor->key().end()}] = {cursor->value().begin(),
                                                             cursor->value().end()};
      }
    }
    for (auto& [key, value] : all) each(*txn, db, Bytes(key), Bytes(value));
    ASSERT_TRUE(txn->commit());
  }

  World world{[](store::StoreOptions& o) { o.block_rows = 150; }};
  test::TempFolder folder;
  std::shared_ptr<EdgeStore> edges;
  std::unique_ptr<EdgeBuilder> builder;
  const EdgeLimits limits;
};

TEST(KeptEdges, WhatCameLateIsAsIfItHadComeInTime) {
  Rig rig;
  Traffic traffic(rig.world, 1, 8);
  rig.deliver(traffic, true);
  rig.derive();
  auto now = rig.context();
  const Reference all(now);
  const auto compared = rig.compare(all, now);
  now.edges.reset();
  EXPECT_GT(compared.sends * 10, all.sends.size() * 7) << "most slices are kept";
  EXPECT_GT(compared.arrivals * 10, all.arrivals.size() * 6);
  EXPECT_GT(all.by_send.size(), 1'000u);
  EXPECT_EQ(rig.derive(1), 0) << "there is nothing left to do";

  const auto late = rig.contents();
  ASSERT_TRUE(rig.builder->clear());
  EXPECT_GE(rig.derive(), kMinutes - 3);
  EXPECT_EQ(rig.contents(), late) << "rebuilt";
}

TEST(KeptEdges, MoreTraffic) {
  const char* more = std::getenv("SCOPE_SEEDS");
  for (unsigned seed = 2; seed < (more != nullptr ? std::stoul(more) : 6); ++seed) {
    SCOPED_TRACE(seed);
    // Parts that hold little, and little that is remembered from one to the next.
    Rig rig(seed % 2 == 0 ? EdgeLimits{} : EdgeLimits{.part_edges = seed, .max_takes = 4});
    Traffic traffic(rig.world, seed, 3 + static_cast<int>(seed % 6));
    rig.deliver(traffic, true);
    rig.derive();
    const auto now = rig.context();
    const auto compared = rig.compare(Reference(now), now);
    EXPECT_GT(compared.sends, 100u);
    EXPECT_LT(compared.less_sure * 100, compared.sends);
  }
}

TEST(KeptEdges, WhereNobodyRecordsTheTailIsKeptToo) {
  Rig rig({.alone = true});
  Traffic traffic(rig.world, 9, 4);
  rig.deliver(traffic, true);
  rig.derive();
  const auto now = rig.context();
  ASSERT_TRUE(now.view->units().back().tail);
  const Reference all(now);
  EXPECT_EQ(rig.compare(all, now).sends, all.sends.size());
  // More comes: what has it in its window is no longer what the view would give.
  traffic.members[0].events.push_back({kBegin + (kMinutes * 60 + 5) * kSec, EventType::message_send,
                                       traffic.members[0].node->own(1),
                                       traffic.members[1].node->own(11), 5});
  traffic.members[0].give(rig.world, INT64_MAX);
  const auto later = rig.context();
  const auto compared = rig.compare(Reference(later), later);
  EXPECT_LT(compared.sends, all.sends.size());
  EXPECT_GT(compared.sends, 100u);
}

TEST(KeptEdges, ABlockThatCameAfterwardsIsNotPassedOver) {
  Rig rig;
  Traffic traffic(rig.world, 7, 6);
  // All but the first node's, then its own: what was kept is not used from then on until it is derived again.
  for (std::size_t i = 1; i < 4; ++i) traffic.members[i].give(rig.world, INT64_MAX);
  EXPECT_GT(rig.derive(), 3);
  traffic.members[0].give(rig.world, INT64_MAX);
  const auto now = rig.context();
  const Reference all(now);
  EXPECT_EQ(rig.compare(all, now).sends, 0u) << "all is stale";
  EXPECT_GT(rig.derive(), 3);
  EXPECT_GT(rig.compare(all, now).sends, 500u);
}

TEST(KeptEdges, AnInterruptedSliceIsAbsentAndDerivedAgain) {
  Rig rig;
  Traffic traffic(rig.world, 12, 8);
  rig.deliver(traffic, false);
  rig.derive();
  const auto right = rig.contents();
  ASSERT_TRUE(rig.builder->clear());
  std::atomic<bool> stop = false;
  std::int64_t left = 0;
  rig.builder = std::make_unique<EdgeBuilder>(
      *rig.edges, [&] { stop = --left < 0; }, EdgeLimits{.part_edges = 50});
  int interrupted = 0;
  for (int round = 0; round < 40; ++round) {
    auto now = rig.context();
    now.budget.stop = &stop;
    stop = false;
    left = traffic.pick(4);
    interrupted += !rig.builder->step(now);
    if (round % 4 == 0) rig.compare(Reference(now), now);
  }
  EXPECT_GT(interrupted, 5);
  rig.open();
  rig.derive();
  auto now = rig.context();
  EXPECT_GT(rig.compare(Reference(now), now).sends, 1'000u);
  // The parts that were written by others' limits are as long as those.
  ASSERT_TRUE(rig.builder->clear());
  rig.derive();
  now.edges.reset();
  EXPECT_EQ(rig.contents(), right);
}

TEST(KeptEdges, AFileThatIsOfAnotherStoreOrCannotBeOpenedIsBegunAnew) {
  Rig rig;
  Traffic traffic(rig.world, 11, 4);
  rig.deliver(traffic, false);
  const auto path = EdgeStore::path_of(rig.folder.path());
  const auto counters = std::make_shared<Counters>();
  const auto reopened = [&](std::uint64_t id) {
    rig.builder.reset();
    rig.edges.reset();
    auto opened = EdgeStore::open(rig.folder.path(), id, kEdgeRules, false, counters);
    EXPECT_TRUE(opened);
    rig.edges = *std::move(opened);
    rig.builder = std::make_unique<EdgeBuilder>(*rig.edges);
    return rig.edges->states()->size();
  };
  EXPECT_GT(rig.derive(), 3);
  EXPECT_GT(reopened(1), 3u);
  EXPECT_EQ(reopened(2), 0u);
  EXPECT_GT(rig.derive(), 3);
  EXPECT_GT(reopened(2), 3u);
  EXPECT_EQ(counters->get(Counter::corrupt_edges), 0u);
  for (const std::size_t size : {std::size_t{0}, std::size_t{100}, std::size_t{3} * 4096}) {
    rig.builder.reset();
    rig.edges.reset();
    std::filesystem::resize_file(path, size);
    EXPECT_EQ(reopened(2), 0u) << size;
    EXPECT_GT(rig.derive(), 3);
  }
  rig.builder.reset();
  rig.edges.reset();
  {
    std::ofstream(path, std::ios::binary) << std::string(100'000, 'x');
  }
  EXPECT_EQ(reopened(2), 0u);
  EXPECT_GE(counters->get(Counter::corrupt_edges), 2u);
  EXPECT_GT(rig.derive(), 3);
}

TEST(KeptEdges, AMessageFlowIsThatOfTheWholeAndStaysSoInADamagedFile) {
  Rig rig;
  Traffic traffic(rig.world, 8, 6);
  rig.deliver(traffic, false);
  rig.derive();
  auto now = rig.context();
  const Reference all(now);
  const auto flow = [&](const PidParts& a, const PidParts& b) {
    std::map<EventId, MessageEdge> out;
    Filter filter;
    filter.order = Order::oldest_first;
    filter.limit = 40;
    for (int pages = 0; pages < 100; ++pages) {
      const auto got = message_flow(now, test::spec(a), test::spec(b), filter);
      EXPECT_TRUE(got) << to_string(got.error());
      if (!got) break;
      EXPECT_FALSE(got->completeness.deadline_cut);
      for (const auto& m : got->messages) {
        MessageEdge edge{
            m.send.row.id(), {}, false, static_cast<std::uint8_t>(m.matched), m.candidates};
        if (m.fetch) edge.arrival = m.fetch->id;
        if (m.take) edge.take = m.take->id;
        out[edge.send] = edge;
      }
      if (got->next.empty()) break;
      filter.cursor = got->next;
    }
    return out;
  };
  const auto check = [&] {
    std::size_t settled = 0;
    for (const std::uint32_t id : {1U, 2U}) {
      const auto a = traffic.members[0].node->own(id), b = traffic.members[1].node->own(id + 10);
      const auto messages = flow(a, b);
      EXPECT_GT(messages.size(), 20u);
      KeptEdges kept(now);
      std::vector<AskedEvent> asked;
      for (const auto& [send, edge] : messages) asked.push_back({send, {}});
      for (auto& event : asked) {
        event.at = std::ranges::find(all.sends, event.id, &AskedEvent::id)->at;
      }
      const auto answers = kept.of_sends(asked);
      for (std::size_t i = 0; i < asked.size(); ++i) {
        if (!answers[i].settled) continue;
        ++settled;
        const auto expected = all.by_send.find(asked[i].id);
        const auto& got = messages.at(asked[i].id);
        if (expected == all.by_send.end()) {
          EXPECT_EQ(got.how, static_cast<std::uint8_t>(Matched::unknown));
        } else {
          EXPECT_EQ(got, expected->second);
        }
      }
    }
    return settled;
  };
  const auto whole = check();
  EXPECT_GT(whole, 40u);

  now.edges.reset();
  const auto right = rig.contents();
  std::mt19937_64 random(3);
  for (int round = 0; round < 8; ++round) {
    rig.edges.reset();
    rig.builder.reset();
    now.edges.reset();
    rig.raw([&](store::lmdb::Txn& txn, store::lmdb::Dbi db, Bytes key, Bytes value) {
      std::vector<std::byte> bytes(value.begin(), value.end());
      const auto at = random() % bytes.size();
      if (key.size() == 1 || random() % 3 == 0) return;
      if (round % 2 == 0) {
        bytes[at] ^= static_cast<std::byte>(1 + random() % 255);
      } else {
        bytes.resize(at);
      }
      ASSERT_TRUE(txn.put(db, key, bytes));
    });
    rig.open();
    now = rig.context();
    EXPECT_LT(check(), whole) << "less is known";
    rig.compare(all, now);
    rig.edges->check().value();
    rig.derive();
    now.edges.reset();
    EXPECT_EQ(rig.contents(), right) << "derived again";
  }
}

TEST(KeptEdges, APartIsReadAtEveryLengthAndWithEveryByteChanged) {
  std::vector<MessageEdge> edges;
  std::vector<store::LateTake> late;
  for (std::uint32_t i = 0; i < 300; ++i) {
    const EventId send{{1 + i % 2, 5, i % 3}, RawTime{1'000'000 * std::int64_t{i}}, i % 7 == 0};
    EventId arrival{{1 + i % 3, 9 + i % 4, 0}, RawTime{send.time.ns + 50'000 - 7'000'000'000}, 0};
    auto& edge = edges.emplace_back(
        MessageEdge{send, arrival, i % 5 == 0, static_cast<std::uint8_t>(i % 3), 1 + i % 2});
    arrival.time.ns += 900;
    if (i % 5 == 1) edge.take = arrival;
    if (i % 11 == 2) late.push_back({edge.arrival, arrival});
  }
  const auto bytes = store::encode_edges(edges, late);
  const auto part = store::EdgePart::open(bytes);
  ASSERT_TRUE(part);
  EXPECT_EQ(*part->all(), edges);
  for (const auto& edge : edges) {
    EXPECT_EQ(**part->by_send(edge.send), edge);
    EXPECT_EQ((*part->by_arrival(edge.arrival))->arrival, edge.arrival);
  }
  for (const auto& l : late) EXPECT_EQ(**part->late_take(l.fetch), l.take);
  EXPECT_FALSE(*part->by_send({{9, 9, 9}, RawTime{9}, 9}));
  EXPECT_FALSE(*part->by_arrival({{9, 9, 9}, RawTime{9}, 9}));
  const auto read = [](Bytes damaged) {
    const auto some = store::EdgePart::open(damaged);
    return some && some->all() && some->late();
  };
  for (std::size_t size = 0; size < bytes.size(); ++size)
    EXPECT_FALSE(read(Bytes(bytes).first(size))) << size;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    auto changed = bytes;
    changed[i] ^= std::byte{0x41};
    EXPECT_FALSE(read(changed)) << i;
  }
}

}  // namespace
}  // namespace scope::analysis
