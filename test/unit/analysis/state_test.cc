// State at a time and its history, over a real store.
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "analysis/state_at.h"
#include "analysis/state_history.h"
#include "ei_codec/term_print.h"
#include "test/unit/analysis/world.h"

namespace scope::analysis {
namespace {

using codec::PidParts;
using test::int_term;
using test::Term;
using test::World;

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kHour = 3'600'000 * kMs;

std::string shown(const Event& event) {
  return codec::print(*codec::view(event.row.record.payload), codec::Syntax::erlang);
}
Term cut(std::int64_t bytes, Term bounded) {
  return [=](codec::TermBuilder& b) {
    b.tuple(4).atom("$scope_cut").integer(bytes);
    bounded(b);
    b.atom("none");
  };
}

class StateTest : public testing::Test {
 protected:
  World world;
  test::Node& node = world.node("a@h", 1, kHour, 10'000);
  PidParts p = node.own(5);

  // Cluster milliseconds -> the node's raw time.
  static std::int64_t raw(std::int64_t ms) { return ms * kMs - kHour; }
  Result<StateAt> at(std::int64_t ms, std::int64_t now_ms = 100'000) {
    return state_at(world.context(now_ms * kMs), test::spec(p), ClusterTime{ms * kMs});
  }
};

TEST_F(StateTest, TheNewestStateBeforeTheTimeIsProvenWhenNothingCanHideALaterOne) {
  for (int i = 1; i <= 5; ++i) {
    node.state(p, int_term(i), raw(i * 1000));
    world.append(node);
  }
  auto got = at(3500);
  ASSERT_TRUE(got) << to_string(got.error());
  EXPECT_EQ(shown(got->state), "3");
  EXPECT_EQ(got->state.at.time.ns, 3000 * kMs);
  EXPECT_EQ(got->state.at.error_ns, 10'000);
  EXPECT_EQ(got->certainty, Certainty::proven);
  EXPECT_TRUE(got->completeness.complete());
  EXPECT_EQ(shown(at(3001)->state), "3");
  EXPECT_EQ(shown(at(2999)->state), "2");
  EXPECT_EQ(at(999).error().code, Code::not_recorded);
}

TEST_F(StateTest, TheLastStateOfAllIsInferredAsMoreMayBeOnItsWay) {
  node.state(p, int_term(1), raw(1000));
  world.append(node);
  const auto got = at(5000);
  ASSERT_TRUE(got);
  EXPECT_EQ(got->certainty, Certainty::inferred);
  EXPECT_EQ(got->why, std::vector<Doubt>{Doubt::not_final});
  const auto now = state_at(world.context(5000 * kMs), test::spec(p), Now{});
  ASSERT_TRUE(now);
  EXPECT_EQ(shown(now->state), "1");
}

TEST_F(StateTest, AGapAfterTheStateLowersTheCertainty) {
  node.state(p, int_term(1), raw(1000));
  world.append(node);
  node.gap("overload", 3, raw(2000), raw(2500)).state(p, int_term(2), raw(6000));
  world.append(node);
  EXPECT_EQ(at(1500)->certainty, Certainty::proven);
  const auto got = at(3000);
  EXPECT_EQ(got->certainty, Certainty::inferred);
  EXPECT_EQ(got->why, std::vector<Doubt>{Doubt::gap});
  ASSERT_EQ(got->completeness.gaps.size(), 1u);
  EXPECT_EQ(got->completeness.gaps[0].dropped, 3u);
}

TEST_F(StateTest, ATimeNearerToAChangeThanTheClocksCanTellIsInferred) {
  node.state(p, int_term(1), raw(1000)).state(p, int_term(2), raw(2000));
  node.fetch(p, int_term(0), raw(9000));
  world.append(node);
  const auto ask = [&](std::int64_t ns) {
    return state_at(world.context(99'000 * kMs), test::spec(p), ClusterTime{ns});
  };
  EXPECT_EQ(ask(2000 * kMs - 5000)->why, std::vector<Doubt>{Doubt::clock});
  EXPECT_EQ(ask(2000 * kMs + 5000)->why, std::vector<Doubt>{Doubt::clock});
  EXPECT_EQ(ask(2000 * kMs - 50'000)->certainty, Certainty::proven);
  EXPECT_EQ(ask(2000 * kMs + 50'000)->certainty, Certainty::proven);
}

TEST_F(StateTest, TruncatedAndAskedStatesSaySo) {
  node.state(p, cut(9999, int_term(1)), raw(1000));
  node.checkpoint(p, int_term(2), raw(2000));
  node.fetch(p, int_term(0), raw(9000));
  world.append(node);
  EXPECT_EQ(at(1500)->certainty, Certainty::truncated);
  EXPECT_EQ(at(1500)->state.row.record.original_bytes, 9999u);
  EXPECT_EQ(at(2500)->why, std::vector<Doubt>{Doubt::checkpoint});
}

TEST_F(StateTest, BeforeSpawnAfterExitAndNobody) {
  const PidParts parent = node.own(4);
  node.spawned(p, parent, {"m", "init", 0}, raw(1000)).state(p, int_term(1), raw(2000));
  node.exit(p, test::atom_term("normal"), raw(3000)).fetch(parent, int_term(1), raw(9000));
  world.append(node);
  EXPECT_EQ(shown(at(2500)->state), "1");
  auto error = at(3500).error();
  EXPECT_EQ(error.code, Code::not_recorded);
  EXPECT_NE(error.message.find("exited 0.500 s before"), error.message.npos) << error.message;
  error = at(500).error();
  EXPECT_EQ(error.code, Code::not_recorded);
  EXPECT_NE(error.message.find("spawned only later"), error.message.npos) << error.message;
  EXPECT_EQ(at(1500).error().code, Code::not_recorded);
  p = node.own(77);
  EXPECT_EQ(at(1500).error().code, Code::no_such_process);
  p = node.own(4);
  EXPECT_EQ(at(9500).error().code, Code::not_recorded) << "known, but its state is not traced";
}

TEST_F(StateTest, TheFutureIsAnError) {
  node.state(p, int_term(1), raw(1000));
  world.append(node);
  EXPECT_EQ(at(200'000).error().code, Code::time_in_future);
  EXPECT_EQ(at(100'500)->asked.ns, 100'000 * kMs) << "a caller's clock may be a little ahead";
}

TEST_F(StateTest, AnAgentThatWasReplacedIsTheSameVm) {
  node.state(p, int_term(1), raw(1000));
  world.append(node);
  auto& again = world.node("a@h", 1, kHour);
  again.state(p, int_term(2), raw(5000)).fetch(p, int_term(0), raw(9000));
  world.append(again);
  EXPECT_EQ(shown(at(3000)->state), "1");
  EXPECT_EQ(shown(at(6000)->state), "2");
}

// ---- history --------------------------------------------------------------------------------------------------------

Term call_from(PidParts from, std::int64_t n) {
  return [=](codec::TermBuilder& b) {
    b.tuple(3).atom("$gen_call").tuple(2).pid(from).atom("tag").integer(n);
  };
}
Term cast(std::int64_t n) {
  return [=](codec::TermBuilder& b) { b.tuple(2).atom("$gen_cast").integer(n); };
}

TEST_F(StateTest, HistoryTellsCauseSenderCallbackAndDiff) {
  auto& other = world.node("b@h", 3, 2 * kHour);
  const PidParts client = other.own(9), caster = node.own(6);
  const auto state = [](int n) { return test::server_state(n, "x"); };
  node.state(p, state(0), raw(1000));
  node.take(p, call_from(client, 1), raw(1100)).state(p, state(1), raw(1101));
  node.send(caster, p, cast(7), raw(1190));
  node.take(p, cast(7), raw(1200)).state(p, state(2), raw(1201));
  node.take(p, test::atom_term("tick"), raw(1300)).state(p, state(2), raw(1301));
  node.role(p, {"gen_server", "terminate", 10}, "final", state(2), raw(1400));
  world.append(node);
  const auto got = state_history(world.context(99'000 * kMs), test::spec(p), {});
  ASSERT_TRUE(got) << to_string(got.error());
  ASSERT_EQ(got->transitions.size(), 5u);
  const auto& end = got->transitions[0];
  EXPECT_EQ(end.callback, "terminate");
  EXPECT_FALSE(end.cause);
  const auto& tick = got->transitions[1];
  EXPECT_EQ(tick.callback, "handle_info");
  EXPECT_TRUE(tick.diff && tick.diff->empty());
  EXPECT_FALSE(tick.sender) << "nobody recorded sent it";
  const auto& by_cast = got->transitions[2];
  EXPECT_EQ(by_cast.callback, "handle_cast");
  ASSERT_TRUE(by_cast.sender);
  EXPECT_EQ(by_cast.sender->id, 6u);
  EXPECT_EQ(shown(*by_cast.cause), "{'$gen_cast',7}");
  const auto& by_call = got->transitions[3];
  EXPECT_EQ(by_call.callback, "handle_call");
  EXPECT_EQ(by_call.sender->node, "b@h");
  EXPECT_EQ(by_call.sender->id, 9u);
  ASSERT_TRUE(by_call.diff);
  EXPECT_FALSE(by_call.diff->changed.empty());
  EXPECT_EQ(by_call.certainty, Certainty::proven);
  const auto& first = got->transitions[4];
  EXPECT_FALSE(first.diff || first.cause);
}

TEST_F(StateTest, HistoryPagesCompareWithTheStateBeforeThePage) {
  for (int i = 0; i < 20; ++i) {
    if (i > 0) node.take(p, cast(i), raw(1000 * i - 1));
    node.state(p, int_term(i), raw(1000 * i));
    if (i % 3 == 0) world.append(node);
  }
  world.append(node);
  for (const Order order : {Order::newest_first, Order::oldest_first}) {
    Filter filter;
    filter.limit = 6;
    filter.order = order;
    filter.since = ClusterTime{2500 * kMs};
    std::vector<int> seen;
    do {
      const auto page = state_history(world.context(99'000 * kMs), test::spec(p), filter);
      ASSERT_TRUE(page);
      for (const auto& t : page->transitions) {
        const int i = std::stoi(shown(t.state));
        seen.push_back(i);
        ASSERT_TRUE(t.cause);
        EXPECT_EQ(shown(*t.cause), "{'$gen_cast'," + std::to_string(i) + "}");
        ASSERT_TRUE(t.diff);
        ASSERT_EQ(t.diff->changed.size(), 1u);
        EXPECT_EQ(*t.diff->changed[0].old_value.integer(), i - 1);
      }
      filter.cursor = page->next;
    } while (!filter.cursor.empty());
    EXPECT_EQ(seen.size(), 17u);
    EXPECT_TRUE(order == Order::newest_first ? std::is_sorted(seen.rbegin(), seen.rend())
                                             : std::is_sorted(seen.begin(), seen.end()));
  }
}

TEST_F(StateTest, HistoryTakesOnlyARange) {
  Filter filter;
  filter.modules = {"m"};
  const auto error = state_history(world.context(1), test::spec(p), filter).error();
  EXPECT_EQ(error.code, Code::bad_value);
  EXPECT_EQ(error.field, "module");
}

// A process that is quiet while others fill partitions: where its last state stands is carried from each to the next.
class RolledStateTest : public testing::Test {
 protected:
  World world{[](store::StoreOptions& options) {
    options.block_rows = 100;
    options.partition_bytes = 300'000;
    options.retain_bytes = retain;
  }};
  test::Node& node = world.node("a@h", 1);
  PidParts quiet = node.own(5), gone = node.own(6);
  std::int64_t at = 10;
  std::mt19937 random{7};

  // At least a block of others' states.
  void fill_batch() {
    for (int i = 0; i < 100; ++i) {
      std::string text(200, ' ');
      for (auto& c : text) c = static_cast<char>(random() % 256);
      node.state(node.own(100 + static_cast<std::uint32_t>(random() % 20)), test::binary_term(text),
                 at += 10);
    }
    world.append(node);
    ASSERT_TRUE(world.store->flush(10'000));
  }
  // Until there are as many partitions, of which the oldest is at least `oldest`.
  void fill(std::uint64_t partitions, std::uint32_t oldest) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (world.store->stats().partitions < partitions ||
           world.store->snapshot()->units().front().partition < oldest) {
      ASSERT_LT(std::chrono::steady_clock::now(), until);
      fill_batch();
      // Retention looks each second: as many as are wanted are enough to be looked at.
      if (world.store->stats().partitions > partitions + 2)
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
  Result<StateAt> state_of(const PidParts& pid) {
    return state_at(world.context(at + 1'000'000), test::spec(pid), Now{});
  }
  std::optional<store::StatePlace> before(std::uint32_t partition, std::uint32_t id) {
    const auto place = world.store->snapshot()->state_before(partition, {node.incarnation, id, 0});
    EXPECT_TRUE(place.has_value());
    return *place;
  }
  inline static std::uint64_t retain = 0;
};

TEST_F(RolledStateTest, IsFoundWhereItStandsHoweverManyPartitionsCameSince) {
  for (int i = 0; i <= 3; ++i) {  // four blocks
    node.state(quiet, int_term(i), at += 10);
    node.state(gone, int_term(7), at += 10);
    fill_batch();
  }
  fill(2, 0);
  node.exit(gone, test::atom_term("normal"), at += 10);
  world.append(node);
  fill(5, 0);
  const auto newest = world.context(at).view->units().back();
  const auto last = newest.tail ? world.store->stats().partitions : newest.partition;
  for (std::uint32_t n = 2; n <= last; ++n) {
    const auto place = before(n, 5);
    ASSERT_TRUE(place) << n;
    EXPECT_EQ(place->partition, 1U) << n;
    EXPECT_EQ(place->block, 4U) << n;
  }
  EXPECT_FALSE(before(1, 5));
  EXPECT_TRUE(before(2, 6));
  EXPECT_FALSE(before(static_cast<std::uint32_t>(last), 6)) << "it had exited";
  const auto busy = before(static_cast<std::uint32_t>(last), 100);
  ASSERT_TRUE(busy);
  EXPECT_EQ(busy->partition, last - 1);
  const auto got = state_of(quiet);
  ASSERT_TRUE(got) << to_string(got.error());
  EXPECT_EQ(shown(got->state), "3");
  node.state(quiet, int_term(4), at += 10);
  world.append(node);
  EXPECT_EQ(shown(state_of(quiet)->state), "4");
}

class DroppedStateTest : public RolledStateTest {
 protected:
  static void SetUpTestSuite() { retain = 700'000; }
  static void TearDownTestSuite() { retain = 0; }
};

TEST_F(DroppedStateTest, IsSaidToHaveBeenThere) {
  node.state(quiet, int_term(1), at += 10);
  world.append(node);
  fill(2, 3);
  const auto error = state_of(quiet).error();
  EXPECT_EQ(error.code, Code::not_recorded);
  EXPECT_NE(error.message.find("retention"), std::string::npos) << error.message;
  EXPECT_EQ(state_of(gone).error().code, Code::no_such_process);
  node.state(quiet, int_term(2), at += 10);
  world.append(node);
  EXPECT_EQ(shown(state_of(quiet)->state), "2");
}

}  // namespace
}  // namespace scope::analysis
