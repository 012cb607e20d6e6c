// Packets: whole ones, fragments both ways, what waits for what, and the bounds.
#include "cnode/dist/packets.h"

#include <gtest/gtest.h>

#include <string>

namespace scope::node {
namespace {

using Room = PacketQueue::Room;

ByteBuffer bytes(std::string_view text) {
  ByteBuffer out;
  put(out, text);
  return out;
}
std::string text(codec::Bytes b) { return {reinterpret_cast<const char*>(b.data()), b.size()}; }

// Everything that waits, in the order in which it goes out: packets without their lengths.
std::vector<ByteBuffer> drain(PacketQueue& queue) {
  std::vector<ByteBuffer> packets;
  while (!queue.empty()) {
    ByteBuffer out;
    queue.next(out);
    WireReader in{codec::Bytes(out)};
    while (!in.rest().empty()) {
      const auto packet = in.take(in.number<std::uint32_t>());
      EXPECT_TRUE(in.ok());
      packets.emplace_back(packet.begin(), packet.end());
    }
  }
  return packets;
}

// What a reader makes of them: the signals, in the order in which they became whole.
std::vector<std::string> read(PacketReader& reader, const std::vector<ByteBuffer>& packets) {
  std::vector<std::string> signals;
  for (const auto& packet : packets) {
    auto whole = reader.take(Packet::copy_of(packet));
    EXPECT_TRUE(whole.has_value());
    if (whole && *whole) signals.push_back(text((*whole)->bytes()));
  }
  return signals;
}

void push(PacketQueue& queue, PacketQueue::Receiver receiver, std::string_view control,
          const std::string& payload) {
  const ByteBuffer c = bytes(control), p = bytes(payload);
  queue.push(receiver, c, codec::Bytes(p));
}

std::string large(char c, std::size_t n = 1000000) { return std::string(n, c); }

TEST(Packets, WholeOnesInBothForms) {
  for (const bool fragments : {false, true}) {
    PacketQueue queue(fragments, 1 << 20);
    push(queue, 1, "control", "payload");
    push(queue, 1, "alone", "");
    const auto packets = drain(queue);
    ASSERT_EQ(packets.size(), 2u);
    EXPECT_EQ(packets[0][0], fragments ? std::byte{131} : std::byte{112});
    PacketReader reader(fragments, {.max_bytes = 100});
    const auto signals = read(reader, packets);
    EXPECT_EQ(signals[0], fragments ? "controlpayload" : "control\x83payload");
    EXPECT_EQ(signals[1], "alone");
  }
}

TEST(Packets, ALargeOneGoesInFragmentsAndComesOutWhole) {
  for (const std::size_t size : {kFragmentBytes - 1, kFragmentBytes, kFragmentBytes + 1,
                                 2 * kFragmentBytes, std::size_t{1000000}}) {
    PacketQueue queue(true, 1 << 20);
    push(queue, 1, "c", large('x', size - 1));
    const auto packets = drain(queue);
    EXPECT_EQ(packets.size(), (size + kFragmentBytes - 1) / kFragmentBytes);
    EXPECT_EQ(queue.bytes(), 0u);
    PacketReader reader(true, {.max_bytes = 1000000});
    EXPECT_EQ(read(reader, packets), std::vector{"c" + large('x', size - 1)});
  }
}

// A payload that is held, not copied, goes out in the same packets, wherever its head ends, and is let go when it is sent.
TEST(Packets, WhatAnOwnerHoldsGoesOutTheSame) {
  std::string whole(300'000, ' ');
  for (std::size_t i = 0; i < whole.size(); ++i) whole[i] = static_cast<char>(i % 251);
  for (const bool fragments : {false, true}) {
    for (const std::size_t head : {0U, 9U, 65'531U, 65'536U, 131'072U, 200'001U}) {
      const auto own = std::make_shared<const std::string>(whole.substr(head));
      const ByteBuffer control = bytes("ctrl"), first = bytes(whole.substr(0, head)),
                       all = bytes(whole);
      const auto rest = std::as_bytes(std::span(*own));
      PacketQueue copied(fragments, 1 << 20), held(fragments, 1 << 20);
      copied.push(1, control, codec::Bytes(all));
      held.push(1, control, Payload(first, rest, own));
      EXPECT_EQ(own.use_count(), fragments ? 2 : 1);
      EXPECT_EQ(held.bytes(), copied.bytes());
      EXPECT_EQ(drain(held), drain(copied)) << head;
      EXPECT_EQ(own.use_count(), 1);
      EXPECT_EQ(held.bytes(), 0U);
    }
  }
}

TEST(Packets, APeerWithoutFragmentsGetsLargeOnesWhole) {
  PacketQueue queue(false, 1 << 20);
  push(queue, 1, "c", large('x'));
  EXPECT_EQ(drain(queue).size(), 1u);
}

TEST(Packets, SmallOnesOvertakeALargeOneToAnother) {
  PacketQueue queue(true, 1 << 20);
  push(queue, 1, "big", large('x'));
  ByteBuffer first;
  queue.next(first);  // some of it is on its way
  push(queue, 2, "small", "s");
  PacketReader reader(true, {.max_bytes = 2000000});
  const auto rest = drain(queue);
  EXPECT_EQ(text(codec::Bytes(rest[0]).subspan(3)), "smalls");
}

TEST(Packets, ToOneReceiverOrderIsKept) {
  PacketQueue queue(true, 1 << 20);
  push(queue, 1, "1 ", large('x'));
  push(queue, 1, "2 ", "small");
  push(queue, 2, "other ", "small");
  push(queue, 1, "3 ", large('y'));
  push(queue, 1, "4 ", "");
  PacketReader reader(true, {.max_bytes = 4000000});
  std::vector<std::string> heads;
  for (const auto& signal : read(reader, drain(queue))) heads.push_back(signal.substr(0, 2));
  EXPECT_EQ(heads, (std::vector<std::string>{"ot", "1 ", "2 ", "3 ", "4 "}));
}

TEST(Packets, LargeOnesTakeTurns) {
  PacketQueue queue(true, 8 << 20);
  push(queue, 1, "long", large('x', 4000000));
  push(queue, 2, "short", large('y', 200000));
  PacketReader reader(true, {.max_bytes = 8000000});
  const auto signals = read(reader, drain(queue));
  ASSERT_EQ(signals.size(), 2u);
  EXPECT_EQ(signals[0].substr(0, 5), "short");
}

TEST(Packets, SmallAndLargeOnesHaveTheirOwnRoom) {
  PacketQueue queue(true, 1 << 20);
  EXPECT_EQ(queue.room(64u << 20), Room::enough);  // alone, of any size
  push(queue, 1, "big", large('x', 2u << 20));
  EXPECT_EQ(queue.room(kFragmentBytes + 1), Room::overflow);
  EXPECT_EQ(queue.room(1000), Room::enough);
  for (int i = 0; i < 21; ++i) push(queue, 2, "s", large('s', 50000));
  EXPECT_EQ(queue.room(1000), Room::full);
  for (int i = 0; i < 21; ++i) push(queue, 2, "s", large('s', 50000));
  EXPECT_EQ(queue.room(1000), Room::overflow);
  const auto waiting = queue.bytes();
  ByteBuffer out;
  queue.next(out);
  EXPECT_LT(queue.bytes(), waiting);
  queue.clear();
  EXPECT_EQ(queue.bytes(), 0u);
  EXPECT_EQ(queue.room(64u << 20), Room::enough);
}

// --- broken ones ------------------------------------------------------------------------------------

ByteBuffer fragment(std::uint8_t tag, std::uint64_t sequence, std::uint64_t left,
                    std::string_view data) {
  ByteBuffer out{std::byte{131}, std::byte{tag}};
  put(out, sequence);
  put(out, left);
  if (tag == 69) put(out, std::uint8_t{0});
  put(out, data);
  return out;
}
Code refused(PacketReader& reader, const ByteBuffer& packet) {
  auto taken = reader.take(Packet::copy_of(packet));
  return taken ? Code{} : taken.error().code;
}

TEST(Packets, FragmentsOutOfOrderAreRefused) {
  const auto begin = [](PacketReader& reader) {
    EXPECT_TRUE(reader.take(Packet::copy_of(fragment(69, 1, 3, "a"))).has_value());
  };
  for (const auto& next :
       {fragment(69, 1, 3, "again"), fragment(70, 2, 2, "unknown"), fragment(70, 1, 1, "skipped"),
        fragment(70, 1, 3, "repeated"), fragment(70, 1, 0, "none"), fragment(69, 2, 0, "none")}) {
    PacketReader reader(true, {.max_bytes = 1000});
    begin(reader);
    EXPECT_EQ(refused(reader, next), Code::malformed);
  }
  PacketReader reader(true, {.max_bytes = 1000});
  begin(reader);
  EXPECT_TRUE(reader.take(Packet::copy_of(fragment(70, 1, 2, "b"))).has_value());
  auto whole = reader.take(Packet::copy_of(fragment(70, 1, 1, "c")));
  ASSERT_TRUE(whole && *whole);
  EXPECT_EQ(text((*whole)->bytes()), "abc");
  // Its number may be used again.
  EXPECT_TRUE(reader.take(Packet::copy_of(fragment(69, 1, 2, "d"))).has_value());
}

TEST(Packets, HeadersThatAreCutOrOfAnotherFormAreRefused) {
  const ByteBuffer whole = fragment(69, 1, 2, "");
  for (std::size_t n = 0; n < whole.size(); ++n) {
    PacketReader reader(true, {.max_bytes = 1000});
    EXPECT_EQ(refused(reader, ByteBuffer(whole.begin(), whole.begin() + static_cast<long>(n))),
              Code::malformed);
  }
  PacketReader with(true, {.max_bytes = 1000}), without(false, {.max_bytes = 1000});
  EXPECT_EQ(refused(with, bytes("\x70\x83xx")), Code::malformed);
  EXPECT_EQ(refused(with, bytes("\x83\x44\x01xx")), Code::malformed);  // with an atom
  EXPECT_EQ(refused(without, bytes(std::string_view("\x83\x44\x00xx", 5))), Code::malformed);
  EXPECT_EQ(refused(without, fragment(69, 1, 2, "x")), Code::malformed);
}

TEST(Packets, WhatIsNotWholeYetIsBounded) {
  PacketReader bytes_limit(true, {.max_bytes = 10});
  EXPECT_TRUE(bytes_limit.take(Packet::copy_of(fragment(69, 1, 9, "12345"))).has_value());
  EXPECT_TRUE(bytes_limit.take(Packet::copy_of(fragment(69, 2, 9, "12345"))).has_value());
  EXPECT_EQ(refused(bytes_limit, fragment(70, 1, 8, "1")), Code::too_large);
  // Shared by links; what is whole, and what went with its link, takes no room.
  const auto incoming = std::make_shared<IncomingBytes>(8);
  PacketReader one(true, {.max_bytes = 1000, .incoming = incoming});
  {
    PacketReader other(true, {.max_bytes = 1000, .incoming = incoming});
    EXPECT_TRUE(one.take(Packet::copy_of(fragment(69, 1, 2, "1234"))).has_value());
    EXPECT_TRUE(other.take(Packet::copy_of(fragment(69, 1, 2, "1234"))).has_value());
    EXPECT_EQ(refused(one, fragment(69, 2, 2, "1")), Code::too_large);
  }
  EXPECT_TRUE(one.take(Packet::copy_of(fragment(70, 1, 1, "5678"))).has_value());
  EXPECT_TRUE(one.take(Packet::copy_of(fragment(69, 2, 2, "12345678"))).has_value());
  PacketReader count_limit(true, {.max_bytes = 1000, .max_sequences = 2});
  EXPECT_TRUE(count_limit.take(Packet::copy_of(fragment(69, 1, 9, ""))).has_value());
  EXPECT_TRUE(count_limit.take(Packet::copy_of(fragment(69, 2, 9, ""))).has_value());
  EXPECT_EQ(refused(count_limit, fragment(69, 3, 9, "")), Code::too_large);
}

}  // namespace
}  // namespace scope::node
