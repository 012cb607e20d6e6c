#include "cnode/dist/spawn.h"

#include <spdlog/spdlog.h>

#include <boost/asio/co_spawn.hpp>
#include <exception>

namespace scope::node {

void spawn(boost::asio::io_context& io, std::string_view what, Awaitable<void> task) {
  boost::asio::co_spawn(io, std::move(task), [what](std::exception_ptr escaped) {
    if (!escaped) return;
    try {
      std::rethrow_exception(escaped);
    } catch (const std::exception& e) {
      spdlog::error("{} ended with an exception, which is a bug: {}", what, e.what());
    } catch (...) {
      spdlog::error("{} ended with an unknown exception, which is a bug", what);
    }
  });
}

}  // namespace scope::node
