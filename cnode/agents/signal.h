// Signal: a condition variable for coroutines of one io_context (Asio's timer idiom), and offload(): a blocking call on
// another thread, awaited. Includes Asio: for .cc files.
//
// Thread The io_context's; offload's function runs on the pool's. A Signal outlives its waiters.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <type_traits>
#include <utility>

namespace scope::node {

class Signal {
 public:
  explicit Signal(boost::asio::io_context& io) : timer_(io) {}

  void notify() { timer_.cancel(); }

  // Until notify() or the time is over, whichever is first; the caller looks at its condition again.
  boost::asio::awaitable<void> wait_for(std::chrono::milliseconds time) {
    boost::system::error_code ec;
    timer_.expires_after(time);
    co_await timer_.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ec));
  }

 private:
  boost::asio::steady_timer timer_;
};

namespace detail {
template <typename F>
boost::asio::awaitable<std::invoke_result_t<F&>> run_once(F f) {
  co_return f();
}
}  // namespace detail

// Runs f() on the pool and resumes here with its result. Give it a named function, never a temporary lambda (GCC 12).
template <typename F>
boost::asio::awaitable<std::invoke_result_t<F&>> offload(boost::asio::thread_pool& pool, F f) {
  auto task =
      detail::run_once<F>(std::move(f));  // named: GCC 12 copies temporaries of a co_await bitwise
  co_return co_await boost::asio::co_spawn(pool, std::move(task), boost::asio::use_awaitable);
}

}  // namespace scope::node
