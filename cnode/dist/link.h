// Link: one connection to a peer after its handshake. Frames packets both ways, bounds the outgoing queue, counts, and
// notices silence. Knows nothing of signals. Internal to cnode/dist.
//
// Life    shared_ptr: its two coroutines hold it until they end, soon after close().
// Reading Packets up to 4 KB are copied out of the read buffer; the rest of a larger one is read straight into the
//         Packet, which is then only shared.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "cnode/dist/message.h"
#include "cnode/dist/node.h"
#include "cnode/dist/packets.h"
#include "cnode/dist/stream.h"
#include "ei_codec/base/counters.h"

namespace scope::node {

class Event;
class Link;

// Called on the io_context's thread; outlives the links (they hold it).
class LinkOwner {
 public:
  virtual ~LinkOwner() = default;
  // The bytes of one signal, as PacketReader gives them. An error closes the link with its message as the reason.
  virtual Status on_signal_bytes(Link& link, Packet signal) = 0;
  // Once, from within close() or the reader's end.
  virtual void on_link_down(Link& link, std::string_view reason) = 0;
};

class Link : public std::enable_shared_from_this<Link> {
 public:
  struct Limits {
    std::size_t max_packet_bytes = 0, max_queue_bytes = 0;
    std::shared_ptr<IncomingBytes> incoming;  // of all links of the node
  };
  Link(boost::asio::io_context& io, std::shared_ptr<Stream> stream, LinkInfo peer, Limits limits,
       std::shared_ptr<Counters> counters, std::shared_ptr<LinkOwner> owner);
  ~Link();

  void start();
  void close(std::string_view reason);
  bool closed() const { return closed_; }

  // Queues one signal. must: it may not be lost (see node.h, Bounds); else busy when the queue is full.
  // too_large: over max_packet_bytes. closed.
  enum class Urgency : std::uint8_t { may_refuse, must };
  Status push(PacketQueue::Receiver receiver, codec::Bytes control, const Payload& payload,
              Urgency urgency);

  // Called twice a tick interval or so. Writes a tick if nothing was written since `interval`; closes when nothing was
  // heard, or when what waits could not be written, for `silence`.
  void tick(std::chrono::steady_clock::time_point now, Millis interval, Millis silence);

  LinkInfo info() const;
  const std::string& peer() const { return peer_.node; }
  std::uint64_t flags() const { return peer_.flags; }
  bool fragments() const;  // the peer takes them; then no payload begins with a version byte

  // Bookkeeping of the owner: watches and links that this peer holds on our processes, bounded there.
  std::size_t held = 0;

 private:
  static Awaitable<void> read_loop(std::shared_ptr<Link> self);
  static Awaitable<void> read_packets(std::shared_ptr<Link> self);
  static Awaitable<void> write_loop(std::shared_ptr<Link> self);
  // False at the end of the link.
  Awaitable<bool> fill(std::span<std::byte> into);
  void write_now();
  codec::Bytes next_piece() const;
  void count_written(std::size_t n);
  void queue_tick(std::chrono::steady_clock::time_point now);
  Status take_packet(Packet packet);
  std::size_t queue_bytes() const { return queue_.bytes() + writing_.size() - written_; }

  boost::asio::io_context& io_;
  std::shared_ptr<Stream> stream_;
  LinkInfo peer_;
  Limits limits_;
  std::shared_ptr<Counters> counters_;
  std::shared_ptr<LinkOwner> owner_;
  ByteBuffer in_;  // the read buffer
  std::size_t in_at_ = 0, in_end_ = 0;
  PacketReader reader_;
  PacketQueue queue_;
  ByteBuffer writing_;  // being written, up to written_
  std::size_t written_ = 0;
  std::unique_ptr<Event> wake_;
  std::chrono::steady_clock::time_point last_written_;
  bool closed_ = false;
};

}  // namespace scope::node
