// Stream over TCP, and what opens one. Includes Asio: for .cc files. Internal to cnode/dist.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <vector>

#include "cnode/dist/stream.h"

namespace scope::node {

class TcpStream : public Stream {
 public:
  explicit TcpStream(boost::asio::ip::tcp::socket socket);
  Awaitable<Result<std::size_t>> read_some(std::span<std::byte> into) override;
  Awaitable<Result<std::size_t>> write_some(codec::Bytes bytes) override;
  std::size_t write_now(codec::Bytes bytes) override;
  void close() override;
  std::string peer_address() const override;
  boost::asio::ip::tcp::socket& socket() { return socket_; }  // of an open one: TLS goes over it

 private:
  friend Awaitable<Status> tcp_connect(std::shared_ptr<TcpStream>, std::string, std::uint16_t);
  boost::asio::ip::tcp::socket socket_;
  bool closed_ = false;
};

// Connects to the first IPv4 address of `host` that answers. unknown_node: the host has no address; node_down: refused;
// timeout (the system's own), closed: stream->close() was called; io: anything else.
Awaitable<Status> tcp_connect(std::shared_ptr<TcpStream> stream, std::string host,
                              std::uint16_t port);

// Closes a stream at a time; what waits on it then fails. Cancelled by its destruction.
class StreamDeadline {
 public:
  StreamDeadline(boost::asio::io_context& io, std::shared_ptr<Stream> stream,
                 std::chrono::milliseconds after);
  ~StreamDeadline();
  bool expired() const { return *state_ == State::expired; }

 private:
  enum class State : std::uint8_t { running, expired, over };
  boost::asio::steady_timer timer_;
  std::shared_ptr<State> state_;
};

// Something that coroutines wait for: notify() wakes all that wait now.
class Event {
 public:
  explicit Event(boost::asio::io_context& io) : io_(io) {}
  void notify();
  // Waits for a notify() or until `until`. The Event must live until then. Check the condition again after it.
  Awaitable<void> wait(
      std::chrono::steady_clock::time_point until = std::chrono::steady_clock::time_point::max());

 private:
  boost::asio::io_context& io_;
  std::vector<boost::asio::steady_timer*> waiters_;  // each in its coroutine's frame
};

// Not for what may have to end early.
Awaitable<void> sleep_for(boost::asio::io_context& io, std::chrono::milliseconds time);

}  // namespace scope::node
