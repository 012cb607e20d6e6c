#include "cnode/dist/epmd.h"

#include <fmt/format.h>

#include <array>
#include <boost/asio/io_context.hpp>
#include <charconv>
#include <cstdlib>

#include "cnode/dist/tcp_stream.h"

namespace scope::node {
namespace {

constexpr std::uint8_t kAlive2Req = 120, kAlive2Resp = 121, kAlive2XResp = 118;
constexpr std::uint8_t kPort2Req = 122, kPort2Resp = 119, kNamesReq = 110;
constexpr std::uint8_t kHiddenNode = 72, kTcp = 0;
constexpr std::uint16_t kHighestVersion = 6, kLowestVersion = 5;
constexpr std::uint16_t kDefaultPort = 4369;
constexpr std::size_t kMaxNamesBytes = 1u << 20;

ByteBuffer with_length(const ByteBuffer& body) {
  ByteBuffer out;
  put(out, static_cast<std::uint16_t>(body.size()));
  put(out, codec::Bytes(body));
  return out;
}

std::unexpected<Error> unreachable(const EpmdAddress& epmd, const Error& why) {
  if (why.code == Code::unknown_node) return std::unexpected(why);
  return fail(Code::io, fmt::format("epmd at {}:{} cannot be reached ({}); is an Erlang node "
                                    "running there?",
                                    epmd.host, epmd.port, why.message));
}

// Connects and sends a request, under the caller's deadline.
Awaitable<Status> ask(std::shared_ptr<TcpStream> stream, EpmdAddress epmd, ByteBuffer request) {
  auto connected = co_await tcp_connect(stream, epmd.host, epmd.port);
  if (!connected) co_return unreachable(epmd, connected.error());
  auto sent = co_await write_all(stream, request);
  if (!sent) co_return unreachable(epmd, sent.error());
  co_return Status{};
}

std::shared_ptr<TcpStream> new_stream(boost::asio::io_context& io) {
  return std::make_shared<TcpStream>(boost::asio::ip::tcp::socket(io));
}

}  // namespace

EpmdAddress epmd_address(const NodeOptions& options) {
  EpmdAddress address{options.epmd_host, options.epmd_port};
  if (address.host.empty()) {
    const char* env = std::getenv("ERL_EPMD_ADDRESS");
    const std::string_view list = env != nullptr ? env : "";
    address.host = list.substr(0, list.find(','));
    if (address.host.empty() || address.host == "0.0.0.0") address.host = "127.0.0.1";
  }
  if (address.port == 0) {
    const char* env = std::getenv("ERL_EPMD_PORT");
    const std::string_view text = env != nullptr ? env : "";
    auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), address.port);
    if (ec != std::errc() || address.port == 0) address.port = kDefaultPort;
  }
  return address;
}

ByteBuffer encode_alive2(std::string_view short_name, std::uint16_t port) {
  ByteBuffer body;
  put(body, kAlive2Req);
  put(body, port);
  put(body, kHiddenNode);
  put(body, kTcp);
  put(body, kHighestVersion);
  put(body, kLowestVersion);
  put(body, static_cast<std::uint16_t>(short_name.size()));
  put(body, short_name);
  put(body, std::uint16_t{0});  // no extra field
  return with_length(body);
}

ByteBuffer encode_port_please(std::string_view short_name) {
  ByteBuffer body;
  put(body, kPort2Req);
  put(body, short_name);
  return with_length(body);
}

ByteBuffer encode_names() { return with_length({static_cast<std::byte>(kNamesReq)}); }

std::vector<EpmdName> parse_names(std::string_view text) {
  constexpr std::string_view kBefore = "name ", kBetween = " at port ";
  std::vector<EpmdName> names;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    const std::size_t at = line.find(kBetween);
    if (!line.starts_with(kBefore) || at == line.npos) continue;
    EpmdName entry;
    entry.name = line.substr(kBefore.size(), at - kBefore.size());
    const std::string_view port = line.substr(at + kBetween.size());
    auto [end, ec] = std::from_chars(port.data(), port.data() + port.size(), entry.port);
    if (ec == std::errc()) names.push_back(std::move(entry));
  }
  return names;
}

Awaitable<Result<EpmdRegistration>> epmd_register(boost::asio::io_context& io, EpmdAddress epmd,
                                                  std::string short_name, std::uint16_t port,
                                                  Millis timeout) {
  auto stream = new_stream(io);
  StreamDeadline deadline(io, stream, timeout);
  CO_RETURN_IF_ERROR(co_await ask(stream, epmd, encode_alive2(short_name, port)));
  std::array<std::byte, 2> head;
  auto got = co_await read_exactly(stream, head);
  if (!got) co_return unreachable(epmd, got.error());
  const auto kind = std::to_integer<std::uint8_t>(head[0]);
  if (kind != kAlive2Resp && kind != kAlive2XResp) {
    co_return fail(Code::malformed, fmt::format("{}:{} is no epmd: it answered a registration "
                                                "with {}",
                                                epmd.host, epmd.port, kind));
  }
  if (head[1] != std::byte{0}) {
    co_return fail(Code::bad_value,
                   fmt::format("epmd at {}:{} refused the name {}: a node of that name is running "
                               "(choose another, or end that one)",
                               epmd.host, epmd.port, short_name),
                   "name", short_name);
  }
  ByteBuffer creation(kind == kAlive2XResp ? 4 : 2);
  got = co_await read_exactly(stream, creation);
  if (!got) co_return unreachable(epmd, got.error());
  WireReader reader(creation);
  EpmdRegistration registration;
  registration.creation =
      kind == kAlive2XResp ? reader.number<std::uint32_t>() : reader.number<std::uint16_t>();
  registration.stream = stream;
  co_return registration;
}

Awaitable<Result<std::uint16_t>> epmd_lookup(boost::asio::io_context& io, EpmdAddress epmd,
                                             std::string short_name, Millis timeout) {
  auto stream = new_stream(io);
  StreamDeadline deadline(io, stream, timeout);
  CO_RETURN_IF_ERROR(co_await ask(stream, epmd, encode_port_please(short_name)));
  std::array<std::byte, 2> head;
  auto got = co_await read_exactly(stream, head);
  if (!got) co_return unreachable(epmd, got.error());
  if (std::to_integer<std::uint8_t>(head[0]) != kPort2Resp) {
    co_return fail(Code::malformed,
                   fmt::format("{}:{} is no epmd: it answered a question for a port with {}",
                               epmd.host, epmd.port, std::to_integer<int>(head[0])));
  }
  if (head[1] != std::byte{0}) {
    co_return fail(Code::unknown_node, fmt::format("epmd at {}:{} knows no node {}; is it running?",
                                                   epmd.host, epmd.port, short_name));
  }
  std::array<std::byte, 2> port;  // what follows (type, versions, name) tells nothing that we need
  got = co_await read_exactly(stream, port);
  if (!got) co_return unreachable(epmd, got.error());
  co_return WireReader(port).number<std::uint16_t>();
}

Awaitable<Result<std::vector<EpmdName>>> epmd_names(boost::asio::io_context& io, EpmdAddress epmd,
                                                    Millis timeout) {
  auto stream = new_stream(io);
  StreamDeadline deadline(io, stream, timeout);
  CO_RETURN_IF_ERROR(co_await ask(stream, epmd, encode_names()));
  std::array<std::byte, 4> own_port;
  auto got = co_await read_exactly(stream, own_port);
  if (!got) co_return unreachable(epmd, got.error());
  std::string text;
  std::array<std::byte, 4096> chunk;
  while (text.size() < kMaxNamesBytes) {
    auto n = co_await stream->read_some(chunk);
    if (!n) break;  // epmd closes at the end
    text.append(reinterpret_cast<const char*>(chunk.data()), *n);
  }
  if (deadline.expired()) co_return fail(Code::timeout, "epmd did not finish its list in time");
  co_return parse_names(text);
}

}  // namespace scope::node
