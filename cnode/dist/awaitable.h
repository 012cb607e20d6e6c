// Awaitable<T>: the coroutine type of the daemon, without including Asio (headers name it, .cc
// files that start or await one include cnode/dist/spawn.h or Asio itself).
#pragma once

namespace boost::asio {
class any_io_executor;
class io_context;
template <typename T, typename Executor>
class awaitable;
}  // namespace boost::asio

namespace scope::node {

template <typename T>
using Awaitable = boost::asio::awaitable<T, boost::asio::any_io_executor>;

}  // namespace scope::node
