#include "cnode/cli/client.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <exception>
#include <optional>
#include <random>

#include "cnode/dist/node.h"
#include "cnode/service/service.h"

namespace scope::node::cli {
namespace {

bool long_host(std::string_view node) {
  return node.find('.', node.find('@') + 1) != std::string_view::npos;
}

bool loopback(std::string_view host) { return host == "localhost" || host.starts_with("127."); }

std::string own_name(std::string_view peer, bool longnames) {
  std::random_device random;
  std::string name = fmt::format("{}{}_{:06x}", kCommandLinePrefix, getpid(), random() & 0xFFFFFFu);
  const auto at = peer.find('@');
  const auto host = at == std::string_view::npos ? "localhost" : peer.substr(at + 1);
  // A node that is not on loopback sees us under this host's name, which the Node adds.
  if (loopback(host) && (!longnames || host != "localhost")) name += fmt::format("@{}", host);
  return name;
}

Result<Cookie> read_cookie(const Access& access) {
  if (!access.cookie.empty()) return Cookie(access.cookie);
  if (!access.cookie_file.empty()) return Cookie::from_file(access.cookie_file);
  auto cookie = Cookie::from_home();
  if (!cookie) cookie.error().message += "; give --cookie-file FILE or --cookie COOKIE";
  return cookie;
}

std::vector<std::byte> owned(const codec::TermBuilder& term) {
  const auto bytes = term.bytes();
  return {bytes.begin(), bytes.end()};
}

}  // namespace

struct Client::Impl {
  boost::asio::io_context io{1};
  std::optional<Node> node;

  template <typename T>
  T run(Awaitable<T> task) {
    std::optional<T> result;
    std::exception_ptr escaped;
    boost::asio::co_spawn(io, std::move(task), [&](const std::exception_ptr& e, T value) {
      escaped = e;
      result.emplace(std::move(value));
    });
    io.restart();
    while (!result && io.run_one() > 0) {
    }
    if (escaped) std::rethrow_exception(escaped);
    SCOPE_CHECK(result.has_value());  // every call of Node ends by itself
    return *std::move(result);
  }
};

bool is_command_line(std::string_view node) { return node.starts_with(kCommandLinePrefix); }

Client::Client(std::unique_ptr<Impl> impl, Access access)
    : impl_(std::move(impl)), access_(std::move(access)) {}

Client::~Client() {
  impl_->node->stop();
  impl_->io.restart();
  impl_->io.poll();
}

Result<std::unique_ptr<Client>> Client::make(Access access, const std::vector<std::string>& nodes) {
  // What the links log is told by the errors; stdout is for answers.
  spdlog::set_level(spdlog::level::off);
  std::string peer = access.scope;
  for (const auto& n : nodes) {
    if (peer.empty() || !loopback(n.substr(n.find('@') + 1))) peer = n;
  }
  access.longnames = access.longnames || long_host(peer);
  ASSIGN_OR_RETURN(Cookie cookie, read_cookie(access));
  auto impl = std::make_unique<Impl>();
  NodeOptions options;
  options.name = own_name(peer, access.longnames);
  options.cookie = std::move(cookie);
  options.longnames = access.longnames;
  options.listen = false;
  if (access.tls.wanted()) {
    ASSIGN_OR_RETURN(options.tls, Tls::load(access.tls));
  }
  options.handshake_timeout = std::min<Millis>(options.handshake_timeout, access.timeout);
  impl->node.emplace(impl->io, std::move(options));
  RETURN_IF_ERROR(impl->run(impl->node->start()));
  return std::unique_ptr<Client>(new Client(std::move(impl), std::move(access)));
}

const std::string& Client::name() const { return impl_->node->name(); }

Status Client::connect(const std::string& node) { return impl_->run(impl_->node->connect(node)); }

Result<std::string> Client::connect_local(const std::string& short_name) {
  // A node that answers under another host tells us which.
  std::string wanted = short_name + (access_.longnames ? "@127.0.0.1" : "@localhost");
  auto connected = connect(wanted);
  if (!connected && connected.error().code == Code::bad_value &&
      connected.error().field == "name" && connected.error().got.starts_with(short_name + "@")) {
    wanted = connected.error().got;
    connected = connect(wanted);
  }
  if (!connected) return std::unexpected(std::move(connected).error());
  return wanted;
}

Result<std::vector<std::string>> Client::local_names() {
  auto names = impl_->run(impl_->node->names({}));
  if (!names) return std::unexpected(std::move(names).error());
  std::vector<std::string> out;
  for (auto& n : *names) out.push_back(std::move(n.name));
  return out;
}

Status Client::find_daemon() {
  if (!access_.scope.empty()) {
    daemon_ = access_.scope;
    return connect(daemon_);
  }
  ASSIGN_OR_RETURN(const auto names, local_names());
  // "scope" is what a daemon is called unless it was told otherwise; another name must be the only one of its kind.
  std::vector<std::string> found;
  for (const auto& n : names) {
    if (n.starts_with("scope") && !is_command_line(n)) found.push_back(n);
  }
  if (std::ranges::find(found, "scope") != found.end()) found = {"scope"};
  if (found.size() != 1) {
    return fail(
        Code::unknown_node,
        names.empty() ? "the local epmd knows no node at all"
        : found.empty()
            ? fmt::format("the local epmd knows no scope node, only {}", fmt::join(names, ", "))
            : fmt::format("the local epmd knows several scope nodes: {}", fmt::join(found, ", ")),
        "scope");
  }
  ASSIGN_OR_RETURN(daemon_, connect_local(found.front()));
  return {};
}

Result<Message> Client::ask(const codec::TermBuilder& request) {
  return impl_->run(
      impl_->node->gen_call(NameAt{"elixir_scope", daemon_}, owned(request), access_.timeout));
}

Pid Client::add_process(Process* process) { return impl_->node->spawn_process(process); }

bool Client::run_until(const std::function<bool()>& done) {
  impl_->io.restart();
  while (!done()) {
    if (!impl_->node->connected(daemon_)) return false;
    impl_->io.run_one_for(std::chrono::milliseconds(100));
  }
  return true;
}

Result<Message> Client::rpc(const std::string& node, std::string_view module,
                            std::string_view function, const codec::TermBuilder& args) {
  return impl_->run(impl_->node->rpc_call(node, std::string(module), std::string(function),
                                          owned(args), access_.timeout));
}

}  // namespace scope::node::cli
