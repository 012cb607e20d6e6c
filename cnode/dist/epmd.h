// The client of epmd, the Erlang port mapper: registering a hidden node, finding a node's port, listing names.
// Internal to cnode/dist. Errors: io (epmd cannot be reached), unknown_node (no such name), malformed, timeout.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cnode/dist/awaitable.h"
#include "cnode/dist/node.h"
#include "cnode/dist/stream.h"
#include "cnode/dist/wire.h"

namespace scope::node {

struct EpmdAddress {
  std::string host;
  std::uint16_t port = 0;
};
// $ERL_EPMD_ADDRESS and $ERL_EPMD_PORT where the options leave it open.
EpmdAddress epmd_address(const NodeOptions& options);

// Requests, each with its 2-byte length.
ByteBuffer encode_alive2(std::string_view short_name, std::uint16_t port);
ByteBuffer encode_port_please(std::string_view short_name);
ByteBuffer encode_names();

// The text that follows epmd's port in its answer to names: "name X at port P" lines. Lines of other forms are skipped.
std::vector<EpmdName> parse_names(std::string_view text);

struct EpmdRegistration {
  std::shared_ptr<Stream> stream;  // the registration lives as long as this is open
  std::uint32_t creation = 0;
};
// bad_value: the name is taken.
Awaitable<Result<EpmdRegistration>> epmd_register(boost::asio::io_context& io, EpmdAddress epmd,
                                                  std::string short_name, std::uint16_t port,
                                                  Millis timeout);
Awaitable<Result<std::uint16_t>> epmd_lookup(boost::asio::io_context& io, EpmdAddress epmd,
                                             std::string short_name, Millis timeout);
Awaitable<Result<std::vector<EpmdName>>> epmd_names(boost::asio::io_context& io, EpmdAddress epmd,
                                                    Millis timeout);

}  // namespace scope::node
