// spawn(): the one way to start a coroutine that nobody awaits. Logs what escapes it (an exception
// is a bug of ours: expected failures are Results). Includes Asio: for .cc files.
//
// Never start a lambda that captures: the captures die before the coroutine does. Parameters by
// value.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <string_view>

#include "cnode/dist/awaitable.h"

namespace scope::node {

// `what` names the coroutine in the log; a literal, it must live for ever.
void spawn(boost::asio::io_context& io, std::string_view what, Awaitable<void> task);

}  // namespace scope::node
