// The indexes through the view: a unit that holds a wanted row is always a candidate, most others are not, and sums are
// what counting the rows gives: in the tail, in open and complete segments, over partitions, after a restart.
#include <random>
#include <set>

#include "store/segment.h"
#include "store/trace_ids.h"
#include "test/unit/store/store_fixture.h"

namespace scope::test {
namespace {

using codec::EventType;
using store::RowFilter;
using store::Selection;

class IndexTest : public StoreTest {
 protected:
  // `count` events of two nodes: 40 busy processes, one rare function, name and word each every 2,000 events or so, and
  // a function that is called for some seconds only.
  void record(int count) {
    for (int i = 0; i < count; ++i) {
      auto& m = makers_[random_() % 2];
      const auto p = m.own(static_cast<unsigned>(100 + random_() % 40));
      const auto q = m.own(static_cast<unsigned>(100 + random_() % 40));
      const auto t = clock_ += static_cast<std::int64_t>(random_() % 20'000'000) - 1'000'000;
      const bool rare = random_() % 2000 == 0;
      const auto phase = fmt::format("phase_{}", i / 1500);
      switch (random_() % 5) {
        case 0:
          m.call(p, {"Elixir.Shop", rare ? "rare" : i % 7 == 0 ? phase : "common", 2}, t);
          break;
        case 1:
          m.state(rare ? m.own(7) : p, server_state(i, rare ? "an unusual Zebra" : "text"), t);
          break;
        case 2:
          m.fetch(q, gen_call(p, static_cast<unsigned>(i), "hello"), t);
          break;
        default:
          m.send(p, q, gen_call(p, static_cast<unsigned>(i), "hello"), t);
      }
      if (m.events() < 50) continue;
      const auto k = static_cast<std::size_t>(&m - makers_.data());
      append(m.batch(numbers_[k], ++seqs_[k]));
    }
    flush();
  }
  void start() {
    open();
    for (const auto& m : makers_) numbers_.push_back(incarnation(m));
  }

  // All rows of a view, by unit.
  static std::vector<store::Rows> all_rows(const store::View& view) {
    std::vector<store::Rows> out;
    for (const auto& unit : view.units()) {
      auto rows = view.read(unit, {});
      EXPECT_TRUE(rows);
      out.push_back(rows ? *rows : store::Rows{});
    }
    return out;
  }

  // Every unit with a row for which `wanted` is a candidate, and read() gives just those rows. Answers candidates / units.
  double check(const store::View& view, const Selection& selection,
               const std::function<bool(const store::StoredRow&)>& wanted) {
    const auto found = view.candidates(selection);
    const auto all = all_rows(view);
    for (std::uint32_t i = 0; i < all.size(); ++i) {
      std::vector<std::string> want, got;
      for (const auto& row : all[i].rows) {
        if (wanted(row)) want.push_back(to_text(row));
      }
      if (std::ranges::binary_search(found.units, i)) {
        if (!selection.texts.empty() || !selection.times.empty()) continue;
        const auto rows = view.read(view.units()[i], selection.rows);
        EXPECT_TRUE(rows);
        for (const auto& row : rows->rows) got.push_back(to_text(row));
        EXPECT_EQ(got, want);
      } else {
        EXPECT_TRUE(want.empty()) << "unit " << i << " was ruled out and holds " << want.size();
      }
    }
    EXPECT_FALSE(found.steps.empty());
    EXPECT_EQ(found.steps.back().after, found.units.size());
    return static_cast<double>(found.units.size()) / static_cast<double>(all.size());
  }

  void check_all(const store::View& view) {
    const ProcessId rare{numbers_[0], 7, 0}, busy{numbers_[1], 105, 0};
    Selection s;
    s.rows.processes = {&rare, 1};
    EXPECT_LT(check(view, s, [&](const auto& r) { return r.process == rare; }), 0.5);
    s.rows.types = bit(EventType::message_send);
    EXPECT_LT(check(view, s, [&](const auto&) { return false; }), 0.01);
    s.rows.processes = {&busy, 1};
    check(view, s, [&](const auto& r) {
      return r.process == busy && r.record.type == EventType::message_send;
    });

    const store::MfaPattern rare_mfa{"Elixir.Shop", "rare", {}}, module{"Elixir.Shop", "", {}},
        arity{"Elixir.Shop", "common", 3};
    Selection f;
    f.rows.mfas = {&rare_mfa, 1};
    EXPECT_LT(check(view, f, [](const auto& r) { return r.record.mfa.function == "rare"; }), 0.5);
    f.rows.mfas = {&module, 1};
    check(view, f, [](const auto& r) { return r.record.mfa.module == "Elixir.Shop"; });
    f.rows.mfas = {&arity, 1};
    EXPECT_EQ(check(view, f, [](const auto&) { return false; }), 0);

    const auto all = all_rows(view);
    std::uint64_t hash = 0;
    for (const auto& row : all[all.size() / 3].rows) {
      if (row.record.has(codec::TraceRecord::kHashed)) hash = row.record.match_hash;
    }
    ASSERT_NE(hash, 0U);
    Selection h;
    h.rows.match_hashes = {&hash, 1};
    EXPECT_LT(check(view, h, [&](const auto& r) { return r.record.match_hash == hash; }), 0.1);

    const auto contains = [](const store::StoredRow& r, std::string_view text) {
      return std::string_view(reinterpret_cast<const char*>(r.record.payload.data()),
                              r.record.payload.size())
                 .find(text) != std::string_view::npos;
    };
    for (const std::string_view text : {"Zebra", "unusual Ze", "ZEBRA", "ebr"}) {
      Selection t;
      t.texts = {&text, 1};
      EXPECT_LT(check(view, t, [&](const auto& r) { return text != "ZEBRA" && contains(r, text); }),
                0.6)
          << text;
    }
    const std::string_view both[] = {"Zebra", "hello"};
    Selection t;
    t.texts = both;
    check(view, t, [&](const auto& r) { return contains(r, "Zebra") && contains(r, "hello"); });
    const std::string_view nothing = "a: ";
    t.texts = {&nothing, 1};
    EXPECT_EQ(check(view, t, [&](const auto&) { return false; }), 1) << "too short to rule out";

    const store::TimeRange range{numbers_[1], {clock_ / 2}, {clock_ / 2 + 1'000'000'000}};
    Selection time;
    time.times = {&range, 1};
    EXPECT_LT(check(view, time,
                    [&](const auto& r) {
                      return r.process.incarnation == range.incarnation &&
                             r.record.time >= range.from && r.record.time <= range.until;
                    }),
              0.2);
  }

  // First and last second, and rows, by the second if cells are to be of one.
  using Cells = std::map<std::tuple<Incarnation, std::int64_t, EventType, std::string>,
                         std::tuple<std::int64_t, std::int64_t, std::uint64_t>>;
  static std::string name(const codec::Mfa& m) {
    return fmt::format("{}:{}/{}", m.module, m.function, m.arity);
  }

  void check_sums(const store::View& view) {
    const auto all = all_rows(view);
    const std::int64_t second = clock_ / 2'000'000'000;
    const store::TimeRange ranges[] = {{numbers_[0], {second * 1'000'000'000 + 1}, {clock_}},
                                       {numbers_[1], {0}, {second * 1'000'000'000 + 999'999'999}}};
    const store::MfaPattern common{"Elixir.Shop", "common", 2};
    for (int kind = 0; kind < 6; ++kind) {
      store::RollupSpec spec;
      if (kind >= 2) spec.times = ranges;
      if (kind == 3) spec.mfas = {&common, 1};
      if (kind == 4) spec.types = bit(EventType::message_send) | bit(EventType::state_change);
      if (kind == 5) spec.incarnations = {&numbers_[1], 1};
      spec.by_second = kind % 2 == 0;
      const auto add = [&](Cells& to, Incarnation i, std::int64_t first, std::int64_t last,
                           EventType type, const codec::Mfa& mfa, std::uint64_t n) {
        auto& [oldest, newest, rows] =
            to.try_emplace({i, spec.by_second ? first : 0, type, name(mfa)}, first, last, 0)
                .first->second;
        oldest = std::min(oldest, first);
        newest = std::max(newest, last);
        rows += n;
      };
      Cells want, got;
      for (const auto& rows : all) {
        for (const auto& row : rows.rows) {
          const auto s = row.record.time.ns / 1'000'000'000;
          const bool first = row.process.incarnation == numbers_[0];
          if (kind >= 2 && (first ? s <= second || s >= clock_ / 1'000'000'000 : s > second))
            continue;
          if (kind == 3 && row.record.mfa.function != "common") continue;
          if (kind == 4 && (spec.types & bit(row.record.type)) == 0) continue;
          if (kind == 5 && first) continue;
          add(want, row.process.incarnation, s, s, row.record.type, row.record.mfa, 1);
        }
      }
      const auto info = view.rollup(spec, [&](const store::RollupCell& c) {
        EXPECT_TRUE(spec.by_second ? c.last_second == c.second : c.last_second >= c.second);
        add(got, c.incarnation, c.second, c.last_second, c.type, c.mfa, c.rows);
      });
      ASSERT_TRUE(info);
      EXPECT_TRUE(info->missing.empty());
      EXPECT_EQ(got, want) << "kind " << kind;
    }
    // Edges
    std::map<std::string, std::tuple<std::int64_t, std::int64_t, std::uint64_t>> want, got;
    const auto key = [](const ProcessId& p, const codec::Peer& to) {
      return fmt::format("{}.{} {} {} {}.{}", p.incarnation, p.id, static_cast<int>(to.kind),
                         to.node, to.creation, to.id);
    };
    const auto add = [](auto& map, const std::string& k, RawTime from, RawTime until,
                        std::uint64_t n) {
      auto& [oldest, newest, rows] = map.try_emplace(k, from.ns, until.ns, 0).first->second;
      oldest = std::min(oldest, from.ns);
      newest = std::max(newest, until.ns);
      rows += n;
    };
    std::vector<ProcessId> senders;
    for (unsigned i = 100; i < 110; ++i) senders.push_back({numbers_[0], i, 0});
    for (const bool some : {false, true}) {
      want.clear();
      got.clear();
      for (const auto& rows : all) {
        for (const auto& row : rows.rows) {
          if (row.record.type == EventType::message_send &&
              (!some || std::ranges::binary_search(senders, row.process)))
            add(want, key(row.process, row.record.peer), row.record.time, row.record.time, 1);
        }
      }
      const auto info =
          view.edges(some ? senders : std::vector<ProcessId>{}, [&](const store::EdgeCell& c) {
            add(got, key(c.sender, c.receiver), c.oldest, c.newest, c.rows);
          });
      ASSERT_TRUE(info);
      EXPECT_TRUE(info->missing.empty());
      EXPECT_EQ(got, want);
    }
  }

  std::mt19937 random_{7};
  std::array<BatchMaker, 2> makers_{BatchMaker("a@host", 3, 77), BatchMaker("b@host", 4, 78)};
  std::vector<Incarnation> numbers_;
  std::vector<std::uint64_t> seqs_ = std::vector<std::uint64_t>(2);
  std::int64_t clock_ = 1'000'000'000;
};

TEST_F(IndexTest, FindsWhatIsThereAndRulesOutTheRest) {
  options_.block_rows = 100;
  options_.sync = false;
  start();
  record(10'020);  // a complete segment, an open one, a tail
  auto view = store_->snapshot();
  const auto blocks = view->units().size() - tail_units(*view);
  ASSERT_GT(blocks, 70U);
  ASSERT_LT(blocks, 128U);
  check_all(*view);
  check_sums(*view);
  reopen();
  SCOPED_TRACE("after a restart");
  check_all(*store_->snapshot());
  check_sums(*store_->snapshot());
  record(8'000);
  check_all(*store_->snapshot());
  SCOPED_TRACE("a view from before");
  check_all(*view);
  check_sums(*view);
}

TEST_F(IndexTest, OfTheTailOnlyBatchesWithTheTraceIdAreCandidates) {
  start();
  constexpr std::string_view kId = "4bf92f3577b34da6a3ce929d0e0e4736";
  const Term context = [&](codec::TermBuilder& out) {
    out.binary(std::string_view(fmt::format("00-{}-00f067aa0ba902b7-01", kId)));
  };
  auto& m = makers_[0];
  for (int batch = 0; batch < 3; ++batch) {
    const auto plain = gen_call(m.own(1), static_cast<unsigned>(batch), "hello");
    for (int i = 0; i < 5; ++i)
      m.send(m.own(1), m.own(2), batch == 1 && i == 3 ? context : plain, clock_ += 1000);
    append(m.batch(numbers_[0], ++seqs_[0]));
  }
  flush();
  const auto view = store_->snapshot();
  ASSERT_EQ(view->units().size(), 3U);
  const auto candidates = [&](std::string_view id) {
    const auto key = store::trace_key(*store::read_trace_id(id));
    Selection s;
    s.rows.traces = {&key, 1};
    return view->candidates(s).units;
  };
  EXPECT_EQ(candidates(kId), std::vector<std::uint32_t>{1});
  EXPECT_TRUE(candidates("4bf92f3577b34da6a3ce929d0e0e4737").empty());
}

TEST_F(IndexTest, HoldsOverPartitions) {
  options_.block_rows = 60;
  options_.sync = false;
  options_.partition_bytes = 400'000;
  start();
  record(20'000);
  ASSERT_GE(store_->stats().partitions, 3U);
  const auto view = store_->snapshot();
  check_all(*view);
  check_sums(*view);
  EXPECT_EQ(store_->stats().corrupt_indexes, 0U);
  reopen();
  check_all(*store_->snapshot());
  check_sums(*store_->snapshot());
  // All that is sealed is indexed, also what a roll cut short.
  const ProcessId nobody{numbers_[0], 3, 0};
  Selection s;
  s.rows.processes = {&nobody, 1};
  EXPECT_TRUE(store_->snapshot()->candidates(s).units.empty());
}

// Asked before each piece, however the pieces are counted: values of segments, indexes in memory, rows of blocks with too
// many edges, the tail.
TEST_F(IndexTest, SumsEndWhenTheyAreTold) {
  options_.sync = false;
  constexpr unsigned kReceivers = 3 * store::kMostEdges;
  options_.block_rows = 2 * store::kMostEdges;
  start();
  auto& m = makers_[0];
  for (unsigned i = 0; i < 7 * options_.block_rows; ++i) {
    m.send(m.own(1), m.own(2 + i % kReceivers), gen_call(m.own(1), i, "hello"), clock_ += 1000);
    if (m.events() == 512) append(m.batch(numbers_[0], ++seqs_[0]));
  }
  flush();
  const auto wide = store_->snapshot()->units().size();
  options_.block_rows = 100;
  reopen();
  record(10'020);
  const auto view = store_->snapshot();
  store::RollupInfo edges, cells;
  // Told to end after so many pieces; negative: never.
  const auto all = [&](int pieces) {
    const auto after = [pieces]() -> std::function<bool()> {
      if (pieces < 0) return {};
      return [left = pieces]() mutable { return left-- <= 0; };
    };
    std::pair<std::uint64_t, std::uint64_t> rows;
    const auto e =
        view->edges({}, [&](const store::EdgeCell& c) { rows.first += c.rows; }, after());
    store::RollupSpec spec;
    spec.types = bit(EventType::message_send);
    spec.stop = after();
    const auto c = view->rollup(spec, [&](const store::RollupCell& x) { rows.second += x.rows; });
    EXPECT_TRUE(e && c);
    if (e) edges = *e;
    if (c) cells = *c;
    return rows;
  };
  const auto whole = all(-1);
  EXPECT_EQ(whole.first, whole.second);
  EXPECT_GE(edges.read, wide) << "rows are read where there are too many edges";
  EXPECT_FALSE(edges.stopped || cells.stopped);
  auto before = all(0);
  EXPECT_GT(before.first, 0U);
  EXPECT_GT(before.second, 0U);
  EXPECT_TRUE(edges.stopped && cells.stopped);
  EXPECT_EQ(edges.read, 1U) << "one block's rows, not a segment's";
  int stops = 0;
  for (int pieces = 1; before != whole && pieces < 1000; ++pieces) {
    const auto here = all(pieces);
    EXPECT_GE(here.first, before.first);
    EXPECT_GE(here.second, before.second);
    EXPECT_TRUE(edges.stopped || here.first == whole.first);
    EXPECT_TRUE(cells.stopped || here.second == whole.second);
    stops += edges.stopped ? 1 : 0;
    before = here;
  }
  EXPECT_EQ(before, whole);
  EXPECT_GT(stops, 7);
}

TEST_F(IndexTest, CutsOfAgentsOnlyGoForwardAndOutliveARestart) {
  start();
  EXPECT_FALSE(store_->snapshot()->complete_until(numbers_[0]));
  auto& m = makers_[0];
  append(m.call(m.own(1), {"m", "f", 1}, 500).batch(numbers_[0], 1));
  flush();
  EXPECT_EQ(store_->snapshot()->complete_until(numbers_[0]), RawTime{500});
  append(m.call(m.own(1), {"m", "f", 1}, 300).batch(numbers_[0], 2));
  flush();
  EXPECT_EQ(store_->snapshot()->complete_until(numbers_[0]), RawTime{500});
  ASSERT_TRUE(store_->add_gap(numbers_[0], "node_down", {100}, {90'000}));
  flush();
  reopen();
  EXPECT_EQ(store_->snapshot()->complete_until(numbers_[0]), RawTime{500}) << "a gap is no cut";
}

TEST(Segment, DamagedValuesAreCorruptOrHarmless) {
  std::mt19937_64 random(5);
  std::vector<std::shared_ptr<const store::BlockIndex>> blocks;
  for (int b = 0; b < 5; ++b) {
    auto index = std::make_shared<store::BlockIndex>();
    for (unsigned i = 0; i < 30; ++i) {
      index->processes.push_back({{1 + i / 20, i * 3, i % 2}, static_cast<std::uint8_t>(random())});
      index->hashes.push_back(random());
      index->cells.push_back({1, EventType::message_send, i, static_cast<std::int64_t>(i), 3});
      index->edges.push_back({{1, i, 0}, codec::Peer::Kind::pid, 1, 0, 3, i, 0, {5}, {9}, 2});
      index->mfas.push_back(i + 1);
    }
    std::ranges::sort(index->hashes);
    index->traces = index->hashes;
    index->text.resize((store::kTrigrams + 63) / 64, 0x1111);
    blocks.push_back(std::move(index));
  }
  const ProcessId wanted[] = {{1, 6, 0}, {2, 63, 1}, {9, 9, 9}};
  RowFilter filter;
  filter.processes = wanted;
  const std::uint64_t hashes[] = {1, 1ULL << 63, ~0ULL};
  const std::uint32_t trigrams[] = {1500, 5000, 54871};
  const store::NameId mfas[] = {1, 7, 99};
  const auto use = [&](char kind, const store::SegmentValue& v) -> bool {
    switch (kind) {
      case 'p':
        return blocks_of_processes(v, filter).has_value();
      case 'm':
        return blocks_of_mfas(v, mfas).has_value();
      case 'h':
      case 'i':
        return blocks_of_hashes(v, hashes).has_value();
      case 't':
        return blocks_of_texts(v, trigrams).has_value();
      case 'r':
        return visit_cells(
                   v, [](const auto&) { return true; }, [](const auto&) -> Status { return {}; })
            .has_value();
      default:
        return visit_edges(v, {}, [](const auto&) -> Status { return {}; }).has_value();
    }
  };
  for (const char kind : store::kSegmentKinds) {
    const auto value = encode_segment(kind, blocks);
    ASSERT_TRUE(use(kind, *store::SegmentValue::open(value, false))) << kind;
    for (std::size_t i = 0; i < value.size(); ++i) {
      const std::vector<std::byte> cut(value.begin(),
                                       value.begin() + static_cast<std::ptrdiff_t>(i));
      EXPECT_FALSE(store::SegmentValue::open(cut, false)) << kind << i;
      if (const auto v = store::SegmentValue::open(cut, true)) use(kind, *v);  // must not crash
      auto bad = value;
      bad[i] ^= static_cast<std::byte>(1 + random() % 255);
      EXPECT_FALSE(store::SegmentValue::open(bad, false)) << kind << i;
      if (const auto v = store::SegmentValue::open(bad, true)) use(kind, *v);
    }
  }
}

}  // namespace
}  // namespace scope::test
