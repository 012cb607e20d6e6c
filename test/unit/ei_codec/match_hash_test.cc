#include "ei_codec/match_hash.h"

#include <gtest/gtest.h>
#include <sodium.h>

#include <numeric>
#include <random>
#include <sstream>

#include "ei_codec/term_builder.h"
#include "ei_codec/wire/siphash.h"
#include "test/unit/ei_codec/codec_fixture.h"

namespace scope::codec {
namespace {

HashKey key() {
  HashKey out;
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>(i);
  return out;
}

TEST(SipHash, IsSodiumsInWhateverPieces) {
  std::mt19937 random(5);
  for (std::size_t size = 0; size < 300; ++size) {
    Buffer data(size);
    for (auto& b : data) b = static_cast<std::byte>(random());
    SipHash ours(key());
    for (std::size_t at = 0; at < size;) {
      const std::size_t n = std::min<std::size_t>(size - at, 1 + random() % 20);
      std::uint64_t value = 0;
      if (n <= 8 && random() % 2) {
        std::memcpy(&value, data.data() + at, n);
        ours.put(value, static_cast<unsigned>(n));
      } else {
        ours.put(data.data() + at, n);
      }
      at += n;
    }
    std::uint64_t theirs = 0;
    crypto_shorthash_siphash24(reinterpret_cast<unsigned char*>(&theirs),
                               reinterpret_cast<const unsigned char*>(data.data()), size,
                               reinterpret_cast<const unsigned char*>(key().data()));
    ASSERT_EQ(ours.finish(), theirs) << size;
  }
}

TEST(MatchHash, GoldenVectors) {
  std::ifstream in(golden_path("match_hash.txt"));
  std::string hex, hash;
  int bounded = 0, lines = 0;
  for (; in >> hex >> hash >> bounded; ++lines) {
    const Buffer bytes = from_hex(hex);
    const auto term = view(bytes);
    ASSERT_TRUE(term) << hex;
    const MatchHash ours = match_hash(*term, key());
    EXPECT_EQ(ours.value, std::stoull(hash, nullptr, 16)) << hex;
    EXPECT_EQ(ours.bounded, bounded == 1) << hex;
  }
  EXPECT_GE(lines, 40);
}

TEST(MatchHash, TheOrderOfPairsNeverShows) {
  std::mt19937 random(9);
  for (const int pairs : {2, 10, 20, 21, 22, 32, 33, 40}) {
    std::vector<int> order(static_cast<std::size_t>(pairs));
    std::iota(order.begin(), order.end(), 0);
    std::optional<MatchHash> first;
    for (int round = 0; round < 20; ++round) {
      std::shuffle(order.begin(), order.end(), random);
      TermBuilder b;
      b.tuple(2).map(static_cast<std::uint32_t>(pairs));
      for (const int i : order) {
        b.integer(i);
        b.list(static_cast<std::uint32_t>(i % 3));
        for (int j = 0; j < i % 3; ++j) b.integer(i);
        b.nil();
      }
      b.atom("after");
      const MatchHash hash = match_hash(*view(b.bytes()), key());
      if (!first) first = hash;
      EXPECT_EQ(hash.value, first->value) << pairs;
      EXPECT_EQ(hash.bounded, first->bounded) << pairs;
    }
  }
}

TEST(MatchHash, TheKeyMatters) {
  TermBuilder b;
  b.atom("ok");
  EXPECT_NE(match_hash(*view(b.bytes()), key()).value, match_hash(*view(b.bytes()), {}).value);
}

}  // namespace
}  // namespace scope::codec
