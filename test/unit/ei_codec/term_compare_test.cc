// equal(): what differs only a little is different, in either order of asking; nearest(): where "did you mean" ends.
#include <gtest/gtest.h>

#include <array>

#include "ei_codec/base/nearest.h"
#include "ei_codec/term_builder.h"
#include "ei_codec/term_view.h"

namespace scope::codec {
namespace {

struct Term {
  TermBuilder b;
  TermView view() const { return *codec::view(b.bytes()); }
};

// {Key => Index} for each key, in that order.
Term map_of(std::initializer_list<std::string_view> keys) {
  Term t;
  t.b.map(static_cast<std::uint32_t>(keys.size()));
  std::int64_t i = 0;
  for (const auto key : keys) t.b.atom(key).integer(++i);
  return t;
}

bool same(const Term& x, const Term& y) {
  const bool forth = equal(x.view(), y.view()), back = equal(y.view(), x.view());
  EXPECT_EQ(forth, back);
  return forth;
}

TEST(Compare, MapsOfDifferentSizesDiffer) {
  EXPECT_FALSE(same(map_of({}), map_of({"a"})));
  EXPECT_FALSE(same(map_of({"a"}), map_of({"a", "b"})));
  EXPECT_TRUE(same(map_of({"a", "b"}), map_of({"a", "b"})));
  EXPECT_FALSE(same(map_of({"a", "b"}), map_of({"b", "a"})));  // the values change places
}

TEST(Compare, ListsThatBeginAlikeDiffer) {
  const auto list = [](std::initializer_list<std::int64_t> items, bool proper) {
    Term t;
    t.b.list(static_cast<std::uint32_t>(items.size()));
    for (const auto i : items) t.b.integer(i);
    if (proper) {
      t.b.nil();
    } else {
      t.b.atom("tail");
    }
    return t;
  };
  EXPECT_TRUE(same(list({1, 2000}, true), list({1, 2000}, true)));
  EXPECT_FALSE(same(list({1, 2000}, true), list({1, 2000, 3}, true)));
  EXPECT_FALSE(same(list({1, 2000}, true), list({1, 2000}, false)));
}

TEST(Nearest, AThirdOfTheWordAndAtLeastTwoEdits) {
  constexpr std::array<std::string_view, 2> kKnown = {"limit", "partition_bytes"};
  EXPECT_EQ(nearest("limit", kKnown), "limit");
  EXPECT_EQ(nearest("limitxx", kKnown), "limit");  // 2 of 7
  EXPECT_EQ(nearest("limitxxx", kKnown), "");      // 3 of 8: a third of it is 2
  EXPECT_EQ(nearest("limitwxyz", kKnown), "");     // 4 of 9
  EXPECT_EQ(nearest("partition", kKnown), "");     // 6 of 9
  EXPECT_EQ(nearest("partition_byt", kKnown), "partition_bytes");
  EXPECT_EQ(nearest(std::string(65, 'x'), kKnown), "");
}

}  // namespace
}  // namespace scope::codec
