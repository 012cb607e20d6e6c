#include "cnode/dist/tcp_stream.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace scope::node {
namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);

std::unexpected<Error> io_failure(const error_code& ec) {
  const bool closed = ec == asio::error::eof || ec == asio::error::operation_aborted ||
                      ec == asio::error::connection_reset || ec == asio::error::broken_pipe ||
                      ec == asio::error::bad_descriptor;
  return fail(closed ? Code::closed : Code::io, ec.message());
}

}  // namespace

TcpStream::TcpStream(tcp::socket socket) : socket_(std::move(socket)) {}

Awaitable<Result<std::size_t>> TcpStream::read_some(std::span<std::byte> into) {
  auto [ec, n] = co_await socket_.async_read_some(asio::buffer(into.data(), into.size()), kAwait);
  if (ec) co_return io_failure(ec);
  co_return n;
}

Awaitable<Result<std::size_t>> TcpStream::write_some(codec::Bytes bytes) {
  auto [ec, n] =
      co_await socket_.async_write_some(asio::buffer(bytes.data(), bytes.size()), kAwait);
  if (ec) co_return io_failure(ec);
  co_return n;
}

std::size_t TcpStream::write_now(codec::Bytes bytes) {
  const auto n =
      ::send(socket_.native_handle(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  return n < 0 ? 0 : static_cast<std::size_t>(n);
}

void TcpStream::close() {
  closed_ = true;
  error_code ignored;
  socket_.close(ignored);
}

std::string TcpStream::peer_address() const {
  error_code ec;
  auto peer = socket_.remote_endpoint(ec);
  return ec ? std::string("unknown")
            : fmt::format("{}:{}", peer.address().to_string(), peer.port());
}

Awaitable<Status> tcp_connect(std::shared_ptr<TcpStream> stream, std::string host,
                              std::uint16_t port) {
  tcp::resolver resolver(stream->socket_.get_executor());
  auto [resolve_error, found] = co_await resolver.async_resolve(host, std::to_string(port), kAwait);
  if (resolve_error || found.empty()) {
    co_return fail(Code::unknown_node,
                   fmt::format("the host {} has no address: {}", host, resolve_error.message()));
  }
  // IPv4 first: that is where a node listens unless it was told otherwise.
  std::vector<tcp::endpoint> endpoints;
  for (const bool v4 : {true, false}) {
    for (const auto& entry : found) {
      if (entry.endpoint().address().is_v4() == v4) endpoints.push_back(entry.endpoint());
    }
  }
  error_code last;
  for (const auto& endpoint : endpoints) {
    tcp::socket& socket = stream->socket_;
    error_code ignored;
    if (stream->closed_) co_return fail(Code::closed, "closed while connecting");
    socket.close(ignored);
    auto [ec] = co_await socket.async_connect(endpoint, kAwait);
    last = ec;
    if (!ec) {
      socket.set_option(tcp::no_delay(true), ignored);
      socket.set_option(asio::socket_base::keep_alive(true), ignored);
      co_return Status{};
    }
    if (ec == asio::error::operation_aborted) break;
  }
  Code code = Code::io;
  if (last == asio::error::connection_refused) code = Code::node_down;
  if (last == asio::error::timed_out) code = Code::timeout;
  if (last == asio::error::operation_aborted) code = Code::closed;
  co_return fail(code, fmt::format("{}:{}: {}", host, port, last.message()));
}

Awaitable<Status> read_exactly(std::shared_ptr<Stream> stream, std::span<std::byte> into) {
  while (!into.empty()) {
    auto n = co_await stream->read_some(into);
    if (!n) co_return std::unexpected(n.error());
    into = into.subspan(*n);
  }
  co_return Status{};
}

Awaitable<Status> write_all(std::shared_ptr<Stream> stream, codec::Bytes bytes) {
  while (!bytes.empty()) {
    auto n = co_await stream->write_some(bytes);
    if (!n) co_return std::unexpected(n.error());
    bytes = bytes.subspan(*n);
  }
  co_return Status{};
}

StreamDeadline::StreamDeadline(asio::io_context& io, std::shared_ptr<Stream> stream,
                               std::chrono::milliseconds after)
    : timer_(io, after), state_(std::make_shared<State>(State::running)) {
  timer_.async_wait([stream = std::move(stream), state = state_](error_code) {
    if (*state != State::running) return;
    *state = State::expired;
    stream->close();
  });
}

StreamDeadline::~StreamDeadline() { *state_ = State::over; }

void Event::notify() {
  for (asio::steady_timer* waiter : waiters_) waiter->cancel();
}

Awaitable<void> Event::wait(std::chrono::steady_clock::time_point until) {
  asio::steady_timer timer(io_, until);
  waiters_.push_back(&timer);
  co_await timer.async_wait(kAwait);
  std::erase(waiters_, &timer);
}

Awaitable<void> sleep_for(asio::io_context& io, std::chrono::milliseconds time) {
  asio::steady_timer timer(io, time);
  co_await timer.async_wait(kAwait);
}

}  // namespace scope::node
