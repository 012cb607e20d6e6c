// A peer in memory: what it has to say is a span, what it is told is kept. It never waits while it has something to say.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>

#include "cnode/dist/stream.h"
#include "cnode/dist/wire.h"

namespace scope::test {

class FakeStream : public node::Stream {
 public:
  // `ends`: closed after the last byte; else it is silent from then on, until close().
  FakeStream(boost::asio::io_context& io, node::ByteBuffer says, bool ends)
      : says_(std::move(says)), ends_(ends), silence_(io) {
    silence_.expires_at(std::chrono::steady_clock::time_point::max());
  }
  node::Awaitable<Result<std::size_t>> read_some(std::span<std::byte> into) override {
    if (at_ == says_.size() && !ends_ && !closed_) {
      boost::system::error_code ignored;
      co_await silence_.async_wait(
          boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
    }
    if (at_ == says_.size() || closed_) co_return fail(Code::closed, "the end");
    const auto n = std::min(into.size(), says_.size() - at_);
    std::memcpy(into.data(), says_.data() + at_, n);
    at_ += n;
    co_return n;
  }
  node::Awaitable<Result<std::size_t>> write_some(codec::Bytes bytes) override {
    if (closed_) co_return fail(Code::closed, "closed");
    node::put(told, bytes);
    co_return bytes.size();
  }
  void close() override {
    closed_ = true;
    silence_.cancel();
  }
  std::string peer_address() const override { return "memory"; }

  node::ByteBuffer told;

 protected:
  node::ByteBuffer says_;
  std::size_t at_ = 0;

 private:
  const bool ends_;
  bool closed_ = false;
  boost::asio::steady_timer silence_;
};

}  // namespace scope::test
