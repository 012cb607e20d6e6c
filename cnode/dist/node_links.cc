// Links of a Node: its registration, connecting, accepting, ticking.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "cnode/dist/node_impl.h"
#include "cnode/dist/spawn.h"

namespace scope::node {
namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr Millis kFirstBackoff{100}, kLastBackoff{5000};
constexpr Millis kLogEvery{1000};

std::string host_of(std::string_view node) { return std::string(node.substr(node.find('@') + 1)); }

}  // namespace

Status Node::Impl::listen() {
  error_code ec;
  const auto address = asio::ip::make_address(options_.listen_address, ec);
  if (ec) return fail(Code::bad_value, "not an IP address", "listen", options_.listen_address);
  std::uint32_t port = options_.listen_port_min;
  const std::uint32_t last = std::max(options_.listen_port_min, options_.listen_port_max);
  for (; port <= last; ++port) {
    error_code ignored;
    acceptor_.close(ignored);
    acceptor_.open(address.is_v6() ? tcp::v6() : tcp::v4(), ec);
    if (!ec) acceptor_.set_option(tcp::acceptor::reuse_address(true), ec);
    if (!ec) acceptor_.bind({address, static_cast<std::uint16_t>(port)}, ec);
    if (!ec) acceptor_.listen(asio::socket_base::max_listen_connections, ec);
    if (!ec) {
      port_ = acceptor_.local_endpoint().port();
      return {};
    }
  }
  return fail(Code::io,
              fmt::format("no port of {}:{}-{} can be listened on: {}", options_.listen_address,
                          options_.listen_port_min, last, ec.message()));
}

// Holds the registration; registers again with backoff when epmd goes away.
Awaitable<void> Node::Impl::epmd_loop(Self self, EpmdRegistration registration) {
  self->epmd_stream_ = registration.stream;
  const std::string short_name = self->options_.name.substr(0, self->options_.name.find('@'));
  while (!self->stopped_) {
    std::array<std::byte, 64> nothing;  // epmd says nothing more, it only closes
    auto n = co_await self->epmd_stream_->read_some(nothing);
    if (n) continue;
    if (self->stopped_) co_return;
    self->counters_->add(Counter::epmd_lost);
    spdlog::warn("epmd at {}:{} went away; links stay, new ones must wait", self->epmd_.host,
                 self->epmd_.port);
    self->epmd_stream_->close();
    Millis backoff = kFirstBackoff;
    for (;;) {
      co_await self->stop_event_.wait(Clock::now() + backoff);
      if (self->stopped_) co_return;
      auto again = co_await epmd_register(self->io_, self->epmd_, short_name, self->port_,
                                          self->options_.handshake_timeout);
      if (self->stopped_) co_return;
      if (again) {
        // The creation stays: our pids carry it.
        self->epmd_stream_ = again->stream;
        spdlog::info("registered with epmd again");
        break;
      }
      if (again.error().code != Code::io) spdlog::warn("{}", to_string(again.error()));
      backoff = std::min(backoff * 2, kLastBackoff);
    }
  }
}

Awaitable<void> Node::Impl::tick_loop(Self self) {
  const Millis interval = self->options_.tick_interval;
  const Millis silence = self->options_.net_ticktime * 5 / 4;
  while (!self->stopped_) {
    co_await self->stop_event_.wait(Clock::now() + interval / 2);
    for (const auto& [node, link] : std::map(self->links_)) {
      link->tick(Clock::now(), interval, silence);
    }
  }
}

// --- accepting --------------------------------------------------------------------------------------

Awaitable<void> Node::Impl::accept_loop(Self self) {
  while (!self->stopped_) {
    auto [ec, socket] = co_await self->acceptor_.async_accept(kAwait);
    if (self->stopped_) co_return;
    if (ec) {
      if (ec == asio::error::operation_aborted) co_return;
      spdlog::warn("accepting a connection failed: {}", ec.message());
      co_await self->stop_event_.wait(Clock::now() + kFirstBackoff);  // out of descriptors, say
      continue;
    }
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    socket.set_option(asio::socket_base::keep_alive(true), ignored);
    // The oldest goes: a peer in earnest is through in milliseconds.
    if (self->half_open_.size() >= self->options_.max_handshakes) {
      self->counters_->add(Counter::handshake_limit);
      self->half_open_.front()->close();
      self->half_open_.pop_front();
    }
    auto stream = std::make_shared<TcpStream>(std::move(socket));
    self->half_open_.push_back(stream);
    spawn(self->io_, "handshake", accept_one(self, stream));
  }
}

Awaitable<void> Node::Impl::accept_one(Self self, std::shared_ptr<TcpStream> stream) {
  const std::string address = stream->peer_address();
  StreamDeadline deadline(self->io_, stream, self->options_.handshake_timeout);
  Impl* impl = self.get();
  GateKeeper keeper = [impl](const Hello& peer) { return impl->gate(peer); };
  std::shared_ptr<Stream> link_stream = stream;
  Result<Hello> peer;
  if (const auto tls = self->options_.tls) {
    if (auto made = co_await Tls::accept(tls, stream)) {
      link_stream = *std::move(made);
    } else {
      peer = std::unexpected(std::move(made).error());
    }
  }
  if (peer)
    peer = co_await handshake_accept(link_stream, self->handshake_self(), std::move(keeper));
  self->half_open_.remove(stream);
  if (self->stopped_) {
    stream->close();
    co_return;
  }
  if (peer) {
    self->link_up(link_stream, *peer, false);
    co_return;
  }
  stream->close();
  Error error = std::move(peer).error();
  if (deadline.expired()) error = {Code::timeout, "the handshake took too long", {}, {}};
  self->count_failed_handshake(error);
  // Anyone can cause this: one line a second.
  const auto now = Clock::now();
  if (now - self->last_failure_logged_ < kLogEvery) {
    ++self->failures_unlogged_;
    co_return;
  }
  spdlog::warn("refused a connection from {}: {} ({} more since the last such line)", address,
               to_string(error), self->failures_unlogged_);
  self->last_failure_logged_ = now;
  self->failures_unlogged_ = 0;
}

void Node::Impl::count_failed_handshake(const Error& error) {
  Counter counter = Counter::handshake_failed;
  if (error.code == Code::auth_failed) counter = Counter::handshake_auth;
  if (error.code == Code::timeout) counter = Counter::handshake_timeout;
  counters_->add(counter);
}

// Two nodes connect to each other at once: the attempt of the one whose name sorts last goes on.
Gate Node::Impl::gate(const Hello& peer) {
  if (stopped_ || !started_) return Gate::not_allowed;
  if (auto it = attempts_.find(peer.name); it != attempts_.end()) {
    Attempt& ours = *it->second;
    if (!ours.yielded) {
      if (options_.name > peer.name) return Gate::nok;
      ours.yielded = true;
      if (ours.stream) ours.stream->close();
    }
    return Gate::ok_simultaneous;
  }
  return links_.contains(peer.name) ? Gate::alive : Gate::ok;
}

// --- connecting -------------------------------------------------------------------------------------

Awaitable<Status> Node::Impl::connect(Self self, std::string node) {
  if (self->stopped_ || !self->started_) co_return fail(Code::closed, "this node is not running");
  if (self->is_here(node) || self->links_.contains(node)) co_return Status{};
  const bool dotted = node.find('.', std::min(node.size(), node.find('@'))) != node.npos;
  if (!valid_node_name(node) || dotted != self->options_.longnames) {
    co_return fail(Code::bad_value,
                   self->options_.longnames ? "the cluster uses long names: name@host.domain"
                                            : "the cluster uses short names: name@host, no dots",
                   "node", node);
  }
  auto& slot = self->attempts_[node];
  if (!slot) {
    slot = std::make_shared<Attempt>(self->io_);
    spawn(self->io_, "connecting", run_attempt(self, node, slot));
  }
  const std::shared_ptr<Attempt> attempt = slot;
  while (!attempt->result) co_await attempt->event.wait();
  co_return *attempt->result;
}

Awaitable<void> Node::Impl::run_attempt(Self self, std::string node,
                                        std::shared_ptr<Attempt> attempt) {
  const auto until = Clock::now() + self->options_.handshake_timeout;
  Status status = co_await attempt_link(self, node, attempt);
  const bool theirs_goes_on = attempt->yielded || (!status && status.error().code == Code::busy);
  if (!status && theirs_goes_on) {
    attempt->yielded = true;
    while (!attempt->result && Clock::now() < until) co_await attempt->event.wait(until);
    status = fail(Code::timeout, fmt::format("{} and we connected to each other at once, and its "
                                             "attempt did not finish",
                                             node));
  }
  // Where nobody listens there is no handshake that could fail.
  if (!status && !attempt->result && (attempt->reached || attempt->yielded))
    self->count_failed_handshake(status.error());
  auto it = self->attempts_.find(node);
  if (it != self->attempts_.end() && it->second == attempt) self->finish_attempt(node, status);
}

Awaitable<Status> Node::Impl::attempt_link(Self self, std::string node,
                                           std::shared_ptr<Attempt> attempt) {
  const std::string host = host_of(node);
  EpmdAddress epmd = self->epmd_;
  if (host != self->host_) epmd.host = host;
  Result<std::uint16_t> port;
  if (const auto known = self->options_.ports.find(node); known != self->options_.ports.end()) {
    port = known->second;
  } else {
    const std::string short_name = node.substr(0, node.find('@'));
    port = co_await epmd_lookup(self->io_, epmd, short_name, self->options_.handshake_timeout);
  }
  if (!port) co_return std::unexpected(port.error());
  if (attempt->yielded || attempt->result) co_return fail(Code::busy, "the peer was first");

  auto stream = std::make_shared<TcpStream>(tcp::socket(self->io_));
  attempt->stream = stream;
  StreamDeadline deadline(self->io_, stream, self->options_.handshake_timeout);
  Status reached = co_await tcp_connect(stream, host, *port);
  if (!reached) {
    if (deadline.expired()) {
      co_return fail(Code::timeout, fmt::format("{} at {}:{} does not answer", node, host, *port));
    }
    co_return fail(reached.error().code, fmt::format("{} is registered, but cannot be reached: {}",
                                                     node, reached.error().message));
  }
  attempt->reached = true;
  std::shared_ptr<Stream> link_stream = stream;
  Result<Hello> peer;
  if (const auto tls = self->options_.tls) {
    if (auto made = co_await Tls::connect(tls, stream, host)) {
      link_stream = *std::move(made);
    } else {
      peer = std::unexpected(std::move(made).error());
    }
  }
  if (peer) peer = co_await handshake_connect(link_stream, self->handshake_self(), node);
  if (!peer) {
    stream->close();
    if (deadline.expired()) {
      const bool in_tls = self->options_.tls && link_stream == stream;
      co_return fail(Code::timeout,
                     fmt::format("{} did not finish the handshake in time{}", node,
                                 in_tls ? ": does it speak TLS (-proto_dist inet_tls)?" : ""));
    }
    Error error = std::move(peer).error();
    if (error.code == Code::closed) {
      error = {Code::node_down,
               fmt::format("{} closed the connection: {}", node, error.message),
               {},
               {}};
    }
    co_return std::unexpected(std::move(error));
  }
  if (attempt->yielded || self->stopped_) {
    stream->close();
    co_return fail(Code::busy, "the peer was first");
  }
  self->link_up(link_stream, *peer, true);
  co_return Status{};
}

void Node::Impl::link_up(std::shared_ptr<Stream> stream, const Hello& peer, bool initiated) {
  if (auto old = link_to(peer.name)) old->close("replaced by a newer connection");
  LinkInfo info;
  info.node = peer.name;
  info.creation = peer.creation;
  info.flags = peer.flags;
  info.hidden = (peer.flags & flags::kPublished) == 0;
  info.initiated = initiated;
  info.number = ++links_made_;
  auto link = std::make_shared<Link>(
      io_, std::move(stream), std::move(info),
      Link::Limits{options_.max_packet_bytes, options_.max_queue_bytes, incoming_}, counters_,
      shared_from_this());
  links_[peer.name] = link;
  counters_->add(Counter::links_up);
  spdlog::info("connected to {} ({})", peer.name, initiated ? "by us" : "by it");
  link->start();
  finish_attempt(peer.name, {});
  post([link](Impl& impl) {
    for (NodeObserver* o : std::vector(impl.observers_)) {
      impl.guarded([&] { o->on_node_up(link->info()); });
    }
  });
}

void Node::Impl::finish_attempt(const std::string& node, const Status& status) {
  auto it = attempts_.find(node);
  if (it == attempts_.end()) return;
  const std::shared_ptr<Attempt> attempt = std::move(it->second);
  attempts_.erase(it);
  attempt->result = status;
  attempt->event.notify();
}

}  // namespace scope::node
