// Node's life, its processes, and what they send. See node_impl.h for the rest.
#include "cnode/dist/node.h"

#include <fmt/format.h>
#include <sodium.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>

#include "cnode/dist/node_impl.h"
#include "cnode/dist/spawn.h"

namespace scope::node {
namespace {

std::uint64_t key(std::uint32_t id, std::uint32_t serial) {
  return std::uint64_t{serial} << 32 | id;
}

codec::Bytes or_normal(codec::Bytes reason) {
  static const codec::TermBuilder* const normal = [] {
    auto* b = new codec::TermBuilder;
    b->atom("normal");
    return b;
  }();
  return reason.empty() ? normal->bytes() : reason;
}

}  // namespace

Node::Impl::Impl(boost::asio::io_context& io, NodeOptions options)
    : io_(io),
      options_(std::move(options)),
      counters_(options_.counters ? options_.counters : std::make_shared<Counters>()),
      stop_event_(io),
      acceptor_(io) {
  epmd_ = epmd_address(options_);
}

Node::Impl::~Impl() = default;

Status Node::Impl::fix_name() {
  std::string& name = options_.name;
  if (name.find('@') == name.npos) {
    char host[256] = {};
    ::gethostname(host, sizeof host - 1);
    std::string_view text(host);
    name += '@';
    name += options_.longnames ? text : text.substr(0, text.find('.'));
  }
  if (!valid_node_name(name)) {
    return fail(Code::bad_value, "a node's name must look like scope@host", "name", name);
  }
  host_ = name.substr(name.find('@') + 1);
  const bool dotted = host_.find('.') != host_.npos;
  if (dotted != options_.longnames) {
    return fail(
        Code::bad_value,
        options_.longnames
            ? "a long name needs a host with a dot, like scope@host.domain or scope@10.0.0.1"
            : "a short name has no dot in its host: use long names as the cluster does",
        "name", name);
  }
  if (options_.cookie.empty()) return fail(Code::bad_value, "there is no cookie", "cookie");
  return {};
}

Awaitable<Status> Node::Impl::start(Self self) {
  SCOPE_CHECK(!self->started_ && sodium_init() >= 0);
  CO_RETURN_IF_ERROR(self->fix_name());
  if (self->options_.listen) {
    CO_RETURN_IF_ERROR(self->listen());
  }
  if (self->options_.listen && self->options_.epmd) {
    const std::string short_name = self->options_.name.substr(0, self->options_.name.find('@'));
    auto registered = co_await epmd_register(self->io_, self->epmd_, short_name, self->port_,
                                             self->options_.handshake_timeout);
    if (!registered) {
      boost::system::error_code ignored;
      self->acceptor_.close(ignored);
      co_return std::unexpected(std::move(registered).error());
    }
    self->creation_ = registered->creation;
    spawn(self->io_, "epmd registration", epmd_loop(self, std::move(*registered)));
  } else {
    self->creation_ = randombytes_random() | 4;  // 0 to 3 have meanings
  }
  self->started_ = true;
  self->next_ref_ = std::uint64_t{randombytes_random()} << 20;  // not the refs of an earlier life
  self->start_builtins();
  if (self->options_.listen) spawn(self->io_, "acceptor", accept_loop(self));
  spawn(self->io_, "ticker", tick_loop(self));
  co_return Status{};
}

void Node::Impl::stop() {
  if (stopped_) return;
  stopped_ = true;  // from here on nothing is called back
  boost::system::error_code ignored;
  acceptor_.close(ignored);
  if (epmd_stream_) epmd_stream_->close();
  for (const auto& stream : half_open_) stream->close();
  for (const auto& [node, attempt] : std::map(attempts_)) {
    if (attempt->stream) attempt->stream->close();
    finish_attempt(node, fail(Code::closed, "this node is stopping"));
  }
  for (const auto& [node, link] : std::map(links_)) link->close("shutdown");
  for (const auto& [ref, call] : std::unordered_map(calls_)) {
    call->complete(fail(Code::closed, "this node is stopping"));
  }
  stop_event_.notify();
  processes_.clear();
  names_.clear();
  aliases_.clear();
  monitors_.clear();
  observers_.clear();
}

void Node::Impl::escaped(std::string_view what) {
  counters_->add(Counter::escaped);
  spdlog::error("a process of {} let an exception escape, which is a bug: {}", options_.name, what);
}

// --- processes --------------------------------------------------------------------------------------

Pid Node::Impl::new_pid() {
  Pid pid;
  pid.node = options_.name;
  pid.creation = creation_;
  do {
    pid.id = next_id_++;
    if (next_id_ == 0) ++next_serial_;
    pid.serial = next_serial_;
  } while (processes_.contains(key(pid.id, pid.serial)));
  return pid;
}

Ref Node::Impl::new_ref() {
  Ref ref;
  ref.node = options_.name;
  ref.creation = creation_;
  ref.count = 3;
  const std::uint64_t n = next_ref_++;
  // The first word of a reference has 18 bits for nodes that are older than V4_NC.
  ref.ids[0] = static_cast<std::uint32_t>(n & 0x3FFFF);
  ref.ids[1] = static_cast<std::uint32_t>(n >> 18);
  ref.ids[2] = static_cast<std::uint32_t>(n >> 50);
  return ref;
}

Pid Node::Impl::spawn_process(Process* process, std::string name) {
  LocalProcess entry;
  entry.process = process;
  entry.pid = new_pid();
  entry.name = name;
  const Pid pid = entry.pid;
  processes_.emplace(key(pid.id, pid.serial), std::move(entry));
  if (!name.empty()) names_.emplace(std::move(name), pid);
  return pid;
}

void Node::Impl::end_process(const Pid& pid, codec::Bytes given_reason) {
  auto it = is_here(pid.node) ? processes_.find(key(pid.id, pid.serial)) : processes_.end();
  if (it == processes_.end() || it->second.pid != pid) return;
  const codec::Bytes reason = or_normal(given_reason);
  LocalProcess gone = std::move(it->second);
  processes_.erase(it);
  names_.erase(gone.name);
  std::erase_if(aliases_, [&](const auto& entry) { return entry.second == pid; });
  std::vector<Ref> ours;
  for (const auto& [ref, monitor] : monitors_) {
    if (monitor.watcher == pid) ours.push_back(ref);
  }
  for (const Ref& ref : ours) demonitor(ref);
  for (const Watch& watch : gone.watches) tell_watcher(watch, pid, reason);
  for (const Pid& linked : gone.links) tell_linked(pid, linked, reason);
}

void Node::Impl::tell_watcher(const Watch& watch, const Pid& who, codec::Bytes reason) {
  if (is_here(watch.watcher.node)) {
    post([ref = watch.ref, message = Message::local(reason, options_.name)](Impl& impl) {
      impl.fire_down(ref, message);
    });
    return;
  }
  auto link = link_to(watch.watcher.node);
  if (!link) return;
  if (link->held > 0) --link->held;
  const Target target =
      watch.name.empty() ? Target(who) : Target(NameAt{watch.name, options_.name});
  control_.clear();
  const bool payload =
      control::monitor_exit(control_, link->flags(), target, watch.watcher, watch.ref, reason);
  (void)link->push(receiver_of(watch.watcher), control_.bytes(), payload ? reason : codec::Bytes{},
                   Link::Urgency::must);
}

void Node::Impl::tell_linked(const Pid& who, const Pid& linked, codec::Bytes reason) {
  if (is_here(linked.node)) {
    post([who, linked, message = Message::local(reason, options_.name)](Impl& impl) {
      LocalProcess* p = impl.find(linked);
      if (p == nullptr || std::erase(p->links, who) == 0) return;
      impl.guarded([&] { p->process->on_exit(who, message, true); });
    });
    return;
  }
  auto link = link_to(linked.node);
  if (!link) return;
  if (link->held > 0) --link->held;
  control_.clear();
  const bool payload = control::exit(control_, link->flags(), who, linked, reason);
  (void)link->push(receiver_of(linked), control_.bytes(), payload ? reason : codec::Bytes{},
                   Link::Urgency::must);
}

LocalProcess* Node::Impl::find(const Pid& pid) { return find(pid.parts()); }

LocalProcess* Node::Impl::find(const codec::PidParts& pid) {
  if (!is_here(pid.node) || pid.creation != creation_) return nullptr;
  auto it = processes_.find(key(pid.id, pid.serial));
  return it == processes_.end() ? nullptr : &it->second;
}

LocalProcess* Node::Impl::find_name(std::string_view name) {
  auto it = names_.find(name);
  return it == names_.end() ? nullptr : find(it->second);
}

std::shared_ptr<Link> Node::Impl::link_to(std::string_view node) const {
  auto it = links_.find(node);
  return it == links_.end() ? nullptr : it->second;
}

// --- the face ---------------------------------------------------------------------------------------

Node::Node(boost::asio::io_context& io, NodeOptions options)
    : impl_(std::make_shared<Impl>(io, std::move(options))) {}
Node::~Node() { impl_->stop(); }

Awaitable<Status> Node::start() { return Impl::start(impl_); }
void Node::stop() { impl_->stop(); }
const std::string& Node::name() const { return impl_->options_.name; }
std::uint32_t Node::creation() const { return impl_->creation_; }
std::uint16_t Node::port() const { return impl_->port_; }

Pid Node::spawn_process(Process* process) { return impl_->spawn_process(process, {}); }

Result<Pid> Node::register_process(std::string name, Process* process) {
  if (impl_->names_.contains(name)) {
    return fail(Code::bad_value, "a process of that name is registered", "name", name);
  }
  return impl_->spawn_process(process, std::move(name));
}

void Node::end_process(const Pid& pid, codec::Bytes reason) { impl_->end_process(pid, reason); }

std::optional<Pid> Node::whereis(std::string_view name) const {
  auto it = impl_->names_.find(name);
  return it == impl_->names_.end() ? std::nullopt : std::optional(it->second);
}

Ref Node::make_ref() { return impl_->new_ref(); }

Ref Node::make_alias(const Pid& pid) {
  const Ref alias = impl_->new_ref();
  impl_->aliases_.emplace(alias, pid);
  return alias;
}

void Node::remove_alias(const Ref& alias) { impl_->aliases_.erase(alias); }

Status Node::send(const Pid& to, codec::Bytes term, const Pid& from, codec::Bytes token) {
  return impl_->send(to, term, from, token);
}
Status Node::send(const NameAt& to, codec::Bytes term, const Pid& from, codec::Bytes token) {
  return impl_->send(to, term, from, token);
}
Status Node::send(const Ref& alias, codec::Bytes term, const Pid& from, codec::Bytes token) {
  return impl_->send_alias(alias, {}, term, from, token);
}

Status Node::reply(const CallFrom& to, codec::Bytes term) { return impl_->reply(to, term); }
Status Node::reply(const CallFrom& to, codec::TermBuilder&& term) {
  const auto held = std::make_shared<const codec::TermBuilder>(std::move(term));
  return impl_->reply(to, held->bytes(), held);
}

Ref Node::monitor(const Pid& watcher, const Target& target) {
  return impl_->monitor(watcher, target);
}
void Node::demonitor(const Ref& ref) { impl_->demonitor(ref); }
void Node::link(const Pid& ours, const Pid& theirs) { impl_->link(ours, theirs); }
void Node::unlink(const Pid& ours, const Pid& theirs) { impl_->unlink(ours, theirs); }
Status Node::exit(const Pid& from, const Pid& to, codec::Bytes reason) {
  return impl_->exit(from, to, reason);
}

Awaitable<Status> Node::connect(std::string node) { return Impl::connect(impl_, std::move(node)); }
void Node::disconnect(std::string_view node) {
  if (auto link = impl_->link_to(node)) link->close("disconnect");
}
void Node::set_tls(std::shared_ptr<const Tls> tls) { impl_->options_.tls = std::move(tls); }
bool Node::connected(std::string_view node) const { return impl_->link_to(node) != nullptr; }

const Counters& Node::counters() const { return *impl_->counters_; }

std::vector<ProcessInfo> Node::processes() const {
  std::vector<ProcessInfo> all;
  for (const auto& [key, p] : impl_->processes_) all.push_back(*process(p.pid));
  return all;
}

std::optional<ProcessInfo> Node::process(const Pid& pid) const {
  const LocalProcess* p = impl_->find(pid);
  if (p == nullptr) return std::nullopt;
  ProcessInfo info{p->pid, p->name, p->messages, p->links, {}};
  for (const auto& watch : p->watches) info.watchers.push_back(watch.watcher);
  return info;
}

std::vector<LinkInfo> Node::links() const {
  std::vector<LinkInfo> all;
  for (const auto& [node, link] : impl_->links_) all.push_back(link->info());
  return all;
}

void Node::add_observer(NodeObserver* observer) { impl_->observers_.push_back(observer); }
void Node::remove_observer(NodeObserver* observer) { std::erase(impl_->observers_, observer); }

Awaitable<Result<Spawned>> Node::spawn_request(std::string node, std::string module,
                                               std::string function, std::vector<std::byte> args,
                                               SpawnOptions options) {
  return Impl::spawn_request(impl_, std::move(node), std::move(module), std::move(function),
                             std::move(args), std::move(options));
}
Awaitable<Result<Message>> Node::rpc_call(std::string node, std::string module,
                                          std::string function, std::vector<std::byte> args,
                                          Millis timeout) {
  return Impl::rpc_call(impl_, std::move(node), std::move(module), std::move(function),
                        std::move(args), timeout);
}
Awaitable<Result<Message>> Node::gen_call(NameAt to, std::vector<std::byte> request,
                                          Millis timeout) {
  return Impl::gen_call(impl_, std::move(to), std::move(request), timeout);
}

Awaitable<Result<std::vector<EpmdName>>> Node::names(std::string host) {
  EpmdAddress epmd = impl_->epmd_;
  if (!host.empty()) epmd.host = std::move(host);
  return epmd_names(impl_->io_, std::move(epmd), impl_->options_.handshake_timeout);
}

RpcTable& Node::rpc() { return impl_->rpc_; }
void Node::set_spawn_handler(SpawnHandler handler) { impl_->spawn_handler_ = std::move(handler); }

}  // namespace scope::node
