// Trace ids in payloads: what is found, against a search that looks at every place.
#include "store/trace_ids.h"

#include <random>
#include <regex>

#include "test/unit/store/store_fixture.h"

namespace scope::test {
namespace {

const std::string kId = "0af7651916cd43dd8448eb211c80319c";
const std::string kParent = "00-" + kId + "-b7ad6b7169203331-01";

std::vector<std::uint64_t> keys_in(std::string_view bytes) {
  std::vector<std::uint64_t> out;
  store::add_trace_keys(std::as_bytes(std::span(bytes)), out);
  return out;
}
std::uint64_t key(std::string_view text) { return store::trace_key(*store::read_trace_id(text)); }

TEST(TraceIds, AreFoundWhereverTheyStandInATerm) {
  TermBuilder b;
  b.map(2).atom("headers").list(1).tuple(2).binary(std::string_view("traceparent"));
  b.binary(kParent).nil().atom("trace_id").binary(kId);
  const std::string bytes(reinterpret_cast<const char*>(b.bytes().data()), b.bytes().size());
  EXPECT_EQ(keys_in(bytes), (std::vector{key(kId), key(kParent)}));
  EXPECT_TRUE(store::has_trace_id(b.bytes(), *store::read_trace_id(kId)));
  EXPECT_FALSE(store::has_trace_id(b.bytes(), *store::read_trace_id(std::string(32, 'a'))));
  const std::string list = std::string("k\0\x20", 3) + kId + "a\x05";  // then a small integer
  EXPECT_EQ(keys_in(list), std::vector{key(kId)});
}

TEST(TraceIds, WhatIsNoneIsNotTakenForOne) {
  EXPECT_FALSE(store::read_trace_id(kId.substr(1)));
  EXPECT_FALSE(store::read_trace_id(kId + "0"));
  EXPECT_FALSE(store::read_trace_id(std::string(32, '0')));
  EXPECT_FALSE(store::read_trace_id(kParent.substr(1)));
  EXPECT_FALSE(store::read_trace_id("g" + kId.substr(1)));
  EXPECT_TRUE(keys_in("an order " + kId + " in a text").empty());
  EXPECT_TRUE(keys_in(std::string(100'000, 'a')).empty());
  for (std::size_t i = 0; i < kParent.size(); ++i) {
    EXPECT_TRUE(keys_in(kParent.substr(0, i)).empty()) << i;
    auto bad = kParent;
    bad[i] = 'x';
    EXPECT_TRUE(keys_in(bad).empty()) << i;
  }
}

TEST(TraceIds, AreThoseOfASearchAtEveryPlace) {
  std::mt19937 random(7);
  const std::regex parent("[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}");
  static constexpr std::string_view kBytes = "0123456789abcdef-xyz";
  std::size_t total = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    const auto some = [&](std::size_t most, std::size_t of) {
      for (std::size_t n = random() % (most + 1); n > 0; --n) text += kBytes[random() % of];
    };
    for (int part = 0; part < 4; ++part) {
      some(70, random() % 2 ? 16 : kBytes.size());
      text += '-';
      const auto hex = [&](int n) {
        while (n-- > 0) text += kBytes[random() % 16];
      };
      if (random() % 2) {
        text += random() % 2 ? "x00-" : "00-";
        hex(random() % 8 == 0 ? 31 : 32);
        text += '-';
        hex(16);
        text += "-01";
      }
    }
    std::vector<std::uint64_t> want;
    for (std::size_t at = 0; at + 55 <= text.size(); ++at) {
      std::smatch m;
      const auto window = text.substr(at, 55);
      if (std::regex_match(window, m, parent)) want.push_back(key(m[1].str()));
    }
    ASSERT_EQ(keys_in(text), want) << text;
    total += want.size();
  }
  EXPECT_GT(total, 3000U);
}

TEST(TraceIds, ATraceparentNamesTraceAndSpan) {
  const auto found = [](std::string_view text) {
    return store::first_traceparent(std::as_bytes(std::span(text)));
  };
  const auto context = found(
      "x00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01 no span, then "
      "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01");
  ASSERT_TRUE(context);
  EXPECT_EQ(context->trace, store::read_trace_id("4bf92f3577b34da6a3ce929d0e0e4736"));
  EXPECT_EQ(context->span,
            (std::array<std::uint8_t, 8>{0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7}));
  EXPECT_FALSE(found("00-4bf92f3577b34da6a3ce929d0e0e4736"));
  EXPECT_FALSE(found("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"));
}

}  // namespace
}  // namespace scope::test
