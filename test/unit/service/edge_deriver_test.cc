// The daemon's deriving of edges, killed.
#include "cnode/service/edge_deriver.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "test/unit/analysis/world.h"

namespace scope::node {
namespace {

using namespace std::chrono_literals;
using store::EdgeStore;

constexpr std::int64_t kMs = 1'000'000, kMinutes = 4;
// Small parts, so that a slice is written in many transactions.
constexpr analysis::EdgeLimits kLimits{.part_edges = 40};

// Two nodes that send each other what often was sent before. Long ago: nothing is waited for.
void record(test::World& world) {
  std::mt19937 random(20261129);
  const auto below = [&random](std::uint32_t n) {
    return static_cast<std::uint32_t>(random()) % n;
  };
  test::Node* nodes[] = {&world.node("a@h", 1), &world.node("b@h", 2)};
  for (std::int64_t at = 1'000'000 * kMs; at < (1'000'000 + kMinutes * 60'000) * kMs;) {
    for (int i = 0; i < 100; ++i) {
      at += 1 + below(200'000'000);
      const auto from = below(2);
      auto &a = *nodes[from], &b = *nodes[1 - from];
      const auto sender = a.own(1 + below(3)), receiver = b.own(11 + below(3));
      const auto content = test::int_term(below(4) != 0 ? at : below(5));
      a.send(sender, receiver, content, at);
      b.fetch(receiver, content, at + 20 * kMs);
      if (below(2) != 0) b.take(receiver, content, at + 21 * kMs);
    }
    for (auto* node : nodes) world.append(*node);
  }
}

// What a daemon does, and a `rebuild` that is asked of it. A byte to `begun` when it is about to.
[[noreturn]] void derive_until_killed(const store::StoreOptions& options, bool again, int begun) {
  auto store = store::TraceStore::open(options, nullptr);
  if (!store) std::_Exit(3);
  auto deriver = EdgeDeriver::open(**store, options.path, nullptr, kLimits);
  if (!deriver) std::_Exit(4);
  if (::write(begun, "b", 1) != 1) std::_Exit(6);
  (*deriver)->start(1);
  while (again && (*deriver)->rebuild({})) {
  }
  if (again) std::_Exit(5);
  while (true) ::pause();
}

struct Kept {
  std::map<std::vector<std::byte>, std::vector<std::byte>> values;
  std::set<std::string> files;
  int derived = 0;  // slices that were still to be
};

// Derives what is left, in this process.
Kept derive_to_the_end(const store::StoreOptions& options) {
  Kept out;
  {
    auto store = store::TraceStore::open(options, nullptr);
    SCOPE_CHECK(store.has_value());
    const analysis::Context now{(*store)->snapshot(), (*store)->now(), {}, nullptr};
    auto kept =
        EdgeStore::open(options.path, (*store)->store_id(), analysis::kEdgeRules, true, nullptr);
    SCOPE_CHECK(kept.has_value());
    analysis::EdgeBuilder builder(**kept, nullptr, kLimits);
    for (;; ++out.derived) {
      const auto step = builder.step(now);
      SCOPE_CHECK(step.has_value());
      if (!step->derived) break;
    }
  }
  auto env =
      store::lmdb::Env::open(EdgeStore::path_of(options.path), {store::kEdgeMapBytes, false, true});
  SCOPE_CHECK(env.has_value());
  auto txn = store::lmdb::Txn::begin(*env, true);
  auto cursor = store::lmdb::Cursor::open(*txn, *txn->open_db("edges", false));
  for (bool there = *cursor->first(); there; there = *cursor->next()) {
    out.values[{cursor->key().begin(), cursor->key().end()}] = {cursor->value().begin(),
                                                                cursor->value().end()};
  }
  for (const auto& file : std::filesystem::recursive_directory_iterator(options.path))
    out.files.insert(file.path().string());
  return out;
}

// $SCOPE_KILLS: how many.
TEST(EdgeDeriver, KilledAtAnyMomentItKeepsWhatItWouldHaveKept) {
  store::StoreOptions options;
  test::World world([&](store::StoreOptions& o) {
    o.block_rows = 150;
    options = o;
  });
  record(world);
  SCOPE_CHECK(world.store->flush(10'000).has_value());
  world.store.reset();
  const auto from = std::chrono::steady_clock::now();
  const auto right = derive_to_the_end(options);
  const auto whole = std::chrono::duration_cast<std::chrono::microseconds>(
      std::chrono::steady_clock::now() - from);
  ASSERT_GE(right.derived, kMinutes - 2);
  ASSERT_GT(right.values.size(), 25u);

  std::mt19937 random(std::random_device{}());
  const auto* kills = std::getenv("SCOPE_KILLS");
  int interrupted = 0;
  for (int round = 0; round < (kills != nullptr ? std::atoi(kills) : 20); ++round) {
    // Now and then several are killed before one comes to an end; those go on where the one before was.
    bool again = true;
    do {
      int begun[2];
      ASSERT_EQ(::pipe(begun), 0);
      const pid_t child = ::fork();
      if (child == 0) derive_until_killed(options, again, begun[1]);
      ::close(begun[1]);
      char byte = 0;
      EXPECT_EQ(::read(begun[0], &byte, 1), 1);  // 0: it ended before
      ::close(begun[0]);
      std::this_thread::sleep_for(
          std::chrono::microseconds(random() % static_cast<unsigned>(whole.count())));
      ::kill(child, SIGKILL);
      int status = 0;
      ::waitpid(child, &status, 0);
      ASSERT_TRUE(WIFSIGNALED(status)) << "it ended by itself: " << WEXITSTATUS(status);
      again = false;
    } while (random() % 3 == 0);
    const auto kept = derive_to_the_end(options);
    interrupted += kept.derived > 0;
    ASSERT_TRUE(kept.values == right.values) << "round " << round;
    ASSERT_EQ(kept.files, right.files) << "round " << round;
  }
  EXPECT_GE(interrupted, 10) << "too slow a machine to say anything";
}

}  // namespace
}  // namespace scope::node
