// Varints as they are read: of any length, at any distance from the end, whole or cut short.
#include "store/bytes.h"

#include <gtest/gtest.h>

#include <optional>
#include <random>

namespace scope::store {
namespace {

// Byte by byte. nullopt: it does not end within ten bytes or the input.
std::optional<std::uint64_t> plain(Bytes bytes, std::size_t& at) {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 64 && at < bytes.size(); shift += 7) {
    const auto byte = std::to_integer<std::uint64_t>(bytes[at++]);
    value |= (byte & 0x7F) << shift;
    if ((byte & 0x80) == 0) return value;
  }
  return std::nullopt;
}

void expect_the_same(Bytes bytes) {
  ByteReader in(bytes);
  std::size_t at = 0;
  while (at < bytes.size()) {
    const auto want = plain(bytes, at);
    const auto got = in.varint();
    ASSERT_EQ(in.ok(), want.has_value());
    if (!want) return;
    ASSERT_EQ(got, *want);
    ASSERT_EQ(in.left(), bytes.size() - at);
  }
  EXPECT_TRUE(in.done());
}

TEST(Varint, IsReadAsItWasWritten) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 2000; ++round) {
    ByteWriter out;
    std::vector<std::uint64_t> values;
    for (int i = 0; i < 20; ++i) {
      values.push_back(random() >> (random() % 64));
      out.varint(values.back());
    }
    ByteReader in(out.bytes());
    for (const auto value : values) ASSERT_EQ(in.varint(), value);
    EXPECT_TRUE(in.done());
    ByteReader skipping(out.bytes());
    const auto skipped = random() % (values.size() + 1);
    skipping.skip_varints(skipped);
    for (auto i = skipped; i < values.size(); ++i) ASSERT_EQ(skipping.varint(), values[i]);
    EXPECT_TRUE(skipping.done());
    skipping.skip_varints(1);
    EXPECT_FALSE(skipping.ok());
    for (std::size_t cut = 0; cut < out.size(); ++cut) expect_the_same(out.bytes().first(cut));
  }
}

TEST(Varint, AnyBytesAreReadByteByByteOrNot) {
  std::mt19937_64 random(4);
  std::vector<std::byte> bytes(24);
  for (int round = 0; round < 200'000; ++round) {
    const auto more = random() % 9;  // of eight bytes, how many say that another follows
    for (auto& b : bytes)
      b = std::byte(random() % 8 < more ? 0x80 | random() % 128 : random() % 128);
    expect_the_same(Bytes(bytes).first(random() % (bytes.size() + 1)));
  }
}

}  // namespace
}  // namespace scope::store
