// Packets: how the bytes of signals lie in the packets of a link, whole or in fragments. Read and written side by side;
// knows nothing of what the signals say. Internal to cnode/dist.
//
//   packet = 112 131 control [131 payload]                   for peers without FRAGMENTS
//          | 131 68 0 control [payload]                      for the others; 0: atoms in the atom cache's header, none
//          | 131 69 sequence:8 left:8 0 control some-payload the first of `left` fragments; holds all of the control
//          | 131 70 sequence:8 left:8 some-payload           each of the next, `left` counting down to 1
//
// Thread  The link's.
// Units   Bytes.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <unordered_map>

#include "cnode/dist/message.h"
#include "cnode/dist/wire.h"
#include "ei_codec/base/result.h"

namespace scope::node {

inline constexpr std::size_t kFragmentBytes = 64u << 10;  // as a BEAM's

// One encoded term in two pieces, so that wrapping a large one does not copy it. Empty: no payload. With an owner, `rest` is
// there unchanged as long as the owner is: what waits to be sent need not copy it either.
struct Payload {
  codec::Bytes first, rest;
  std::shared_ptr<const void> owner = nullptr;
  Payload() = default;
  Payload(codec::Bytes whole) : first(whole) {}  // NOLINT(google-explicit-constructor)
  Payload(codec::Bytes head, codec::Bytes tail, std::shared_ptr<const void> holds = nullptr)
      : first(head), rest(tail), owner(std::move(holds)) {}
  std::size_t size() const { return first.size() + rest.size(); }
};

// What is on its way in and not whole yet, of signals over kFragmentBytes, on all links of a node together: peers that announce
// much and send it slowly cannot take more memory than this, however many they are.
class IncomingBytes {
 public:
  explicit IncomingBytes(std::size_t most) : most_(most) {}
  bool take(std::size_t bytes) {
    if (bytes > most_ - bytes_) return false;
    bytes_ += bytes;
    return true;
  }
  void give(std::size_t bytes) { bytes_ -= bytes; }  // REQUIRES that they were taken
  std::size_t most() const { return most_; }

 private:
  const std::size_t most_;
  std::size_t bytes_ = 0;
};

// What a peer sends, put together again.
class PacketReader {
 public:
  struct Limits {
    std::size_t max_bytes = 0;         // of all signals that are not whole yet, together
    std::size_t max_sequences = 4096;  // of those
    std::shared_ptr<IncomingBytes> incoming = nullptr;  // shared with other links; may be null
  };
  PacketReader(bool fragments, Limits limits) : fragments_(fragments), limits_(std::move(limits)) {}
  ~PacketReader();
  PacketReader(const PacketReader&) = delete;
  PacketReader& operator=(const PacketReader&) = delete;

  // The signal that this packet makes whole: control and payload, without version bytes before the control (before the
  // payload only where the peer has no FRAGMENTS). None: a fragment, the rest will follow. malformed; too_large: a limit.
  Result<std::optional<Packet>> take(Packet packet);

 private:
  struct Sequence {
    std::uint64_t left = 0;  // fragments that are still to come
    ByteBuffer signal;       // what came
  };
  Result<std::optional<Packet>> take_fragment(std::uint8_t tag, codec::Bytes packet);

  const bool fragments_;
  const Limits limits_;
  std::unordered_map<std::uint64_t, Sequence> open_;
  std::size_t open_bytes_ = 0;
};

// What waits to be sent to a peer, as a queue of packets with their lengths before them. Signals over kFragmentBytes go out in
// turns, one fragment each, and what is small goes before them; but two signals to one receiver stay in their order.
class PacketQueue {
 public:
  // Who receives a signal: those of one receiver are kept in order.
  using Receiver = std::uint64_t;

  PacketQueue(bool fragments, std::size_t max_bytes)
      : fragments_(fragments), max_bytes_(max_bytes) {}

  // Bounds: small signals together max_bytes; large ones together max_bytes, too, or one of any size alone. overflow: more
  // than twice that.
  enum class Room : std::uint8_t { enough, full, overflow };
  Room room(std::size_t signal_bytes) const;
  void push(Receiver receiver, codec::Bytes control, const Payload& payload);

  bool empty() const { return small_.empty() && lanes_.empty(); }
  std::size_t bytes() const { return small_.size() + follower_bytes_ + large_bytes_; }
  // Moves what is to be written next to `out`, which is empty: what is small, and about 256 KB of what is large.
  void next(ByteBuffer& out);
  void clear();

 private:
  struct Waiting {
    ByteBuffer head;  // control and payload, but for what an owner holds
    codec::Bytes rest;
    std::shared_ptr<const void> owner;
    std::size_t control = 0, sent = 0;
    std::size_t size() const { return head.size() + rest.size(); }
    std::uint64_t sequence = 0, left = 0;  // left: 0 until the first fragment is sent
  };
  struct Lane {  // of one receiver, to which something large is on its way
    Receiver receiver = 0;
    std::deque<Waiting> waiting;
  };
  bool large(std::size_t signal_bytes) const { return fragments_ && signal_bytes > kFragmentBytes; }
  void put_whole(ByteBuffer& out, codec::Bytes control, const Payload& payload) const;
  void put_fragment(ByteBuffer& out, Waiting& waiting);

  const bool fragments_;
  const std::size_t max_bytes_;
  ByteBuffer small_;
  std::list<Lane> lanes_;  // the front one is next
  std::size_t large_bytes_ = 0, follower_bytes_ = 0;
  std::uint64_t next_sequence_ = 1;
};

}  // namespace scope::node
