// Versions of the clock model: what is forgotten when what was recorded then is gone.
#include "store/clocks.h"

#include <gtest/gtest.h>

namespace scope::store {
namespace {

ClockVersion version(std::int64_t raw, std::int64_t measured) {
  ClockVersion v;
  v.incarnation = 1;
  v.raw_at = RawTime{raw};
  v.measured_at = ClusterTime{measured};
  return v;
}

TEST(Clocks, TheNewestTimeIsKeptThoughAnOlderOneWasRevisedAfterIt) {
  Clocks clocks;
  clocks.add(version(10, 11));
  clocks.add(version(20, 21));
  clocks.add(version(30, 31));
  clocks.add(version(20, 35));  // the revision
  clocks.forget_before(ClusterTime{100});
  const auto left = clocks.all();
  ASSERT_FALSE(left->empty());
  EXPECT_EQ(left->back().raw_at, RawTime{30});
  EXPECT_LE(left->size(), 2u);
}

TEST(Clocks, OfOneTimeTheNewestVersionStandsLast) {
  Clocks clocks;
  clocks.add(version(20, 21));
  clocks.add(version(30, 31));
  clocks.add(version(20, 35));
  const auto all = clocks.all();
  ASSERT_EQ(all->size(), 3u);
  EXPECT_EQ((*all)[0].version, 1u);
  EXPECT_EQ((*all)[1].version, 3u);
  EXPECT_EQ((*all)[2].raw_at, RawTime{30});
}

}  // namespace
}  // namespace scope::store
