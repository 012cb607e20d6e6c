// No question takes memory by how much is stored: what it takes at most is measured, over a recording of which all rows match.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include "analysis/aggregate.h"
#include "analysis/get_events.h"
#include "analysis/message_flow.h"
#include "analysis/state_history.h"
#include "test/unit/analysis/world.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SCOPE_SANITIZED 1
#endif
#endif
#if !defined(SCOPE_SANITIZED) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define SCOPE_COUNTS_MEMORY 1
// This thread's own: the store's writer allocates meanwhile.
namespace {
thread_local std::int64_t now_taken = 0, most_taken = 0;
void* take(std::size_t size) {
  void* p = std::malloc(size == 0 ? 1 : size);
  if (p == nullptr) throw std::bad_alloc();
  now_taken += static_cast<std::int64_t>(::malloc_usable_size(p));
  most_taken = std::max(most_taken, now_taken);
  return p;
}
void give_back(void* p) noexcept {
  if (p != nullptr) now_taken -= static_cast<std::int64_t>(::malloc_usable_size(p));
  std::free(p);
}
}  // namespace
void* operator new(std::size_t size) { return take(size); }
void* operator new[](std::size_t size) { return take(size); }
void operator delete(void* p) noexcept { give_back(p); }
void operator delete[](void* p) noexcept { give_back(p); }
void operator delete(void* p, std::size_t) noexcept { give_back(p); }
void operator delete[](void* p, std::size_t) noexcept { give_back(p); }
#endif

namespace scope::analysis {
namespace {

using namespace test;

#if defined(SCOPE_COUNTS_MEMORY)

constexpr std::int64_t kMb = 1 << 20;

// What `ask` takes on this thread at most, its answer included.
template <typename Ask>
std::int64_t most(Ask ask) {
  const auto before = now_taken;
  most_taken = now_taken;
  ask();
  return most_taken - before;
}

// 15 partitions of one block each: 15,000 rows of 15,000 processes and functions, all of one time and text; then as much again.
class MemoryTest : public ::testing::Test {
 protected:
  MemoryTest()
      : world_([](auto& o) {
          o.block_rows = 1000;
          o.partition_bytes = 1;
          o.map_bytes = 64u << 20;
        }),
        node_(world_.node("a@h", 7, 0)) {}
  void record(int blocks) {
    for (int b = 0; b < blocks; ++b) {
      for (int i = 0; i < 1000; ++i) {
        ++made_;
        const auto pid = node_.own(made_);
        const auto name = fmt::format("f{}", made_);
        node_.role(
            pid, {"shop", name, 1}, "args",
            [](TermBuilder& t) {
              t.list(1).binary(std::string_view("the same text in every row")).nil();
            },
            1'000'000 + made_);
      }
      world_.append(node_, true);
      SCOPE_CHECK(world_.store->flush(30'000).has_value());
    }
  }
  Context context() { return world_.context(10'000'000); }

  World world_;
  Node& node_;
  std::uint32_t made_ = 0;
};

TEST_F(MemoryTest, IsBoundedByTheAnswerAndOneUnit) {
  Filter newest, text, oldest;
  newest.limit = 100;
  text.limit = 100;
  text.text = "the same text";
  oldest.limit = kMaxLimit;
  oldest.order = Order::oldest_first;
  AggregateSpec groups, functions, searched;
  groups.by = {{GroupKey::pid, 0}};
  functions.by = {{GroupKey::mfa, 0}};
  searched = groups;
  searched.filter.text = "same text";
  const auto measure = [&] {
    const auto here = context();
    std::vector<std::int64_t> out;
    const auto add = [&](const char* name, auto ask) {
      out.push_back(most(ask));
      std::printf("%8u rows  %-12s %8.2f MB\n", made_, name, static_cast<double>(out.back()) / kMb);
    };
    add("newest", [&] { EXPECT_EQ(get_events(here, newest)->events.size(), 100U); });
    add("text", [&] { EXPECT_EQ(get_events(here, text)->events.size(), 100U); });
    add("oldest", [&] { EXPECT_EQ(get_events(here, oldest)->events.size(), kMaxLimit); });
    for (const auto* spec : {&groups, &functions, &searched}) {
      add("groups", [&] {
        const auto all = aggregate(here, *spec);
        ASSERT_TRUE(all);
        EXPECT_EQ(all->groups.size(), kMaxGroups);
        ASSERT_TRUE(all->other);
        EXPECT_EQ(all->other->rows, made_ - kMaxGroups);
      });
    }
    return out;
  };
  record(15);
  const auto once = measure();
  record(15);
  const auto twice = measure();
  for (std::size_t i = 0; i < once.size(); ++i) {
    EXPECT_LT(twice[i], 24 * kMb) << i;
    EXPECT_LT(twice[i], once[i] + once[i] / 4 + kMb) << i << ": it grows with what is stored";
  }
}

// There is no cache of decoded blocks: what read() gives is all that is kept of a block, as long as the caller keeps it.
TEST_F(MemoryTest, NothingDecodedIsKept) {
  record(30);
  const auto view = world_.store->snapshot();
  (void)view->read(view->units().front(), {});
  const auto before = now_taken;
  std::int64_t largest = 0;
  for (const auto& unit : view->units())
    largest = std::max(largest, most([&] { (void)view->read(unit, {}); }));
  EXPECT_LT(now_taken - before, kMb / 4) << "of 30 blocks";
  EXPECT_LT(largest, 4 * kMb) << "for 1,000 rows";
}

#else
TEST(MemoryTest, IsNotMeasuredUnderSanitizers) { GTEST_SKIP() << "they have their own allocator"; }
#endif

}  // namespace
}  // namespace scope::analysis
