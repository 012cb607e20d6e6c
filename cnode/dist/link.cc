#include "cnode/dist/link.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "cnode/dist/handshake.h"
#include "cnode/dist/spawn.h"
#include "cnode/dist/tcp_stream.h"

namespace scope::node {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kReadBuffer = 4096;
constexpr std::size_t kWritePiece = 256u << 10;
constexpr std::size_t kKeepCapacity = 1u
                                      << 20;  // a queue that once was larger gives its memory back
constexpr std::size_t kLengthBytes = 4;
constexpr std::string_view kDoesNotRead = "the peer does not read";

}  // namespace

Link::Link(boost::asio::io_context& io, std::shared_ptr<Stream> stream, LinkInfo peer,
           Limits limits, std::shared_ptr<Counters> counters, std::shared_ptr<LinkOwner> owner)
    : io_(io),
      stream_(std::move(stream)),
      peer_(std::move(peer)),
      limits_(std::move(limits)),
      counters_(std::move(counters)),
      owner_(std::move(owner)),
      in_(kReadBuffer),
      reader_(fragments(), {.max_bytes = limits_.max_packet_bytes, .incoming = limits_.incoming}),
      queue_(fragments(), limits_.max_queue_bytes),
      wake_(std::make_unique<Event>(io)),
      last_written_(Clock::now()) {
  peer_.since = peer_.last_heard = last_written_;
}

Link::~Link() = default;

void Link::start() {
  spawn(io_, "link reader", read_loop(shared_from_this()));
  spawn(io_, "link writer", write_loop(shared_from_this()));
}

void Link::close(std::string_view reason) {
  if (closed_) return;
  closed_ = true;
  const std::string why(reason);
  auto self = shared_from_this();
  stream_->close();
  wake_->notify();
  queue_.clear();
  counters_->add(Counter::links_down);
  owner_->on_link_down(*this, why);
}

LinkInfo Link::info() const {
  LinkInfo info = peer_;
  info.queue_bytes = queue_bytes();
  return info;
}

bool Link::fragments() const { return (peer_.flags & flags::kFragments) != 0; }

Status Link::push(PacketQueue::Receiver receiver, codec::Bytes control, const Payload& payload,
                  Urgency urgency) {
  if (closed_) return fail(Code::node_down, fmt::format("the link to {} is closed", peer_.node));
  const std::size_t size = control.size() + payload.size();
  if (size > limits_.max_packet_bytes) {
    return fail(Code::too_large, fmt::format("a message of {} bytes to {}; the limit is {}", size,
                                             peer_.node, limits_.max_packet_bytes));
  }
  const auto room = queue_.room(size);
  if (room != PacketQueue::Room::enough && urgency == Urgency::may_refuse) {
    counters_->add(Counter::send_busy);
    return fail(Code::busy, fmt::format("{} bytes wait for {} already", queue_bytes(), peer_.node));
  }
  if (room == PacketQueue::Room::overflow) {
    counters_->add(Counter::queue_overflow);
    close(kDoesNotRead);
    return fail(Code::node_down, fmt::format("{} does not read", peer_.node));
  }
  queue_.push(receiver, control, payload);
  counters_->add(Counter::packets_out);
  wake_->notify();
  return {};
}

void Link::queue_tick(Clock::time_point now) {
  if (queue_bytes() > 0) return;  // what waits says as much
  put(writing_, std::uint32_t{0});
  last_written_ = now;
  counters_->add(Counter::ticks_out);
  wake_->notify();
}

void Link::tick(Clock::time_point now, Millis interval, Millis silence) {
  if (closed_) return;
  if (now - peer_.last_heard > silence) {
    counters_->add(Counter::tick_timeouts);
    close("net_tick_timeout");
    return;
  }
  if (queue_bytes() > 0 && now - last_written_ > silence) {
    counters_->add(Counter::queue_overflow);
    close(kDoesNotRead);
    return;
  }
  if (now - last_written_ >= interval) queue_tick(now);
}

Awaitable<void> Link::write_loop(std::shared_ptr<Link> self) {
  while (!self->closed_) {
    if (self->writing_.empty()) self->queue_.next(self->writing_);
    if (self->writing_.empty()) {
      co_await self->wake_->wait();
      continue;
    }
    auto n = co_await self->stream_->write_some(self->next_piece());
    if (!n) {
      self->close("connection_closed");
      co_return;
    }
    self->count_written(*n);
  }
}

// What the packets just read were answered goes out before more is awaited, without a turn of the event loop. The rest is
// the writer's.
void Link::write_now() {
  if (!writing_.empty() || closed_) return;
  queue_.next(writing_);
  if (!writing_.empty()) count_written(stream_->write_now(next_piece()));
}

// A huge buffer does not keep the kernel busy at once.
codec::Bytes Link::next_piece() const {
  const auto rest = codec::Bytes(writing_).subspan(written_);
  return rest.first(std::min(rest.size(), kWritePiece));
}

void Link::count_written(std::size_t n) {
  if (n == 0) return;
  written_ += n;
  if (written_ == writing_.size()) {
    written_ = 0;
    writing_.clear();
    if (writing_.capacity() > kKeepCapacity) writing_ = {};
  }
  last_written_ = Clock::now();
  peer_.bytes_out += n;
  counters_->add(Counter::bytes_out, n);
}

Awaitable<bool> Link::fill(std::span<std::byte> into) {
  const std::size_t buffered = std::min(into.size(), in_end_ - in_at_);
  std::copy_n(in_.begin() + static_cast<std::ptrdiff_t>(in_at_), buffered, into.begin());
  in_at_ += buffered;
  into = into.subspan(buffered);
  while (!into.empty() && !closed_) {
    // Small remainders go through the buffer, so that many small packets cost one system call.
    const bool direct = into.size() >= in_.size();
    write_now();
    auto n = co_await stream_->read_some(direct ? into : std::span<std::byte>(in_));
    if (!n) {
      close("connection_closed");
      co_return false;
    }
    peer_.last_heard = Clock::now();
    peer_.bytes_in += *n;
    counters_->add(Counter::bytes_in, *n);
    if (direct) {
      into = into.subspan(*n);
      continue;
    }
    const std::size_t take = std::min(into.size(), *n);
    std::copy_n(in_.begin(), take, into.begin());
    into = into.subspan(take);
    in_at_ = take;
    in_end_ = *n;
  }
  co_return !closed_;
}

Awaitable<void> Link::read_loop(std::shared_ptr<Link> self) {
  try {
    co_await read_packets(self);
  } catch (const std::exception& e) {
    self->counters_->add(Counter::escaped);
    spdlog::error("reading from {} failed, which is a bug: {}", self->peer_.node, e.what());
  }
  self->close("our reader failed");  // does nothing if the link is closed already
}

Status Link::take_packet(Packet packet) {
  ASSIGN_OR_RETURN(auto signal, reader_.take(std::move(packet)));
  return signal ? owner_->on_signal_bytes(*this, *std::move(signal)) : Status{};
}

Awaitable<void> Link::read_packets(std::shared_ptr<Link> self) {
  for (;;) {
    std::array<std::byte, kLengthBytes> head;
    const bool got_head = co_await self->fill(head);
    if (!got_head) co_return;
    const auto length = WireReader(head).number<std::uint32_t>();
    if (length == 0) {
      self->counters_->add(Counter::ticks_in);
      const auto now = Clock::now();
      // Not at once after something else was written: two nodes would answer each other's answers for ever.
      if (now - self->last_written_ > std::chrono::milliseconds(500)) self->queue_tick(now);
      continue;
    }
    if (length > self->limits_.max_packet_bytes) {
      self->counters_->add(Counter::packet_too_large);
      self->close(fmt::format("a packet of {} bytes; the limit is {}", length,
                              self->limits_.max_packet_bytes));
      co_return;
    }
    const std::size_t counted = length > kFragmentBytes ? length : 0;
    if (!self->limits_.incoming->take(counted)) {
      self->counters_->add(Counter::packet_too_large);
      self->close(
          fmt::format("a packet of {} bytes, while others of up to {} together are on their "
                      "way in",
                      length, self->limits_.incoming->most()));
      co_return;
    }
    const std::shared_ptr<void> until_handled(
        nullptr, [incoming = self->limits_.incoming, counted](void*) { incoming->give(counted); });
    auto data = std::make_shared_for_overwrite<std::byte[]>(length);
    const bool got_body = co_await self->fill({data.get(), length});
    if (!got_body) co_return;
    self->counters_->add(Counter::packets_in);
    const Status handled = self->take_packet({std::move(data), length});
    if (!handled) {
      const bool too_large = handled.error().code == Code::too_large;
      self->counters_->add(too_large ? Counter::packet_too_large : Counter::protocol_errors);
      self->close(handled.error().message);
    }
    if (self->closed_) co_return;
  }
}

}  // namespace scope::node
