// A hidden node for dist_SUITE: dist_peer NAME [long] [key=value ...], cookie in $SCOPE_TEST_COOKIE. Prints "ready" when it
// runs and "error: ..." when it cannot. Its processes:
//   echo      a gen_server: {later, Ms, X} -> X after Ms; never -> no reply; {size, Bin} -> its size; {big, N} -> N bytes;
//             stop -> ends with reason stopped; anything else -> {echo, Request}. Casts go back to {Pid, X} as {cast, X}.
//   control   a gen_server that makes Node do things (see Control::on_message).
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <charconv>
#include <csignal>
#include <map>
#include <memory>

#include "cnode/dist/node.h"
#include "cnode/dist/spawn.h"

namespace {

using namespace scope;
using namespace scope::node;
using codec::TermBuilder;
using codec::TermView;

boost::asio::io_context io;

std::vector<std::byte> owned(const TermView& t) {
  const codec::Bytes b = t.bytes();
  return {b.begin(), b.end()};
}

std::string atom_of(const TermView& t) { return std::string(t.atom().value_or("")); }

Target target_of(const TermView& t) {
  if (auto pid = t.pid()) return Pid(*pid);
  return NameAt{atom_of(t.element(0)), atom_of(t.element(1))};
}

void put_error(TermBuilder& b, const Error& e) {
  b.tuple(3).atom("error").atom(code_name(e.code)).binary(e.message);
}

Awaitable<void> reply_later(Node& node, CallFrom to, std::vector<std::byte> term, Millis delay) {
  boost::asio::steady_timer timer(io, delay);
  co_await timer.async_wait(boost::asio::use_awaitable);
  (void)node.reply(to, term);
}

class Echo : public Process {
 public:
  explicit Echo(Node& node) : node_(node) {}
  Pid pid;

  void on_message(Message m) override {
    if (auto call = read_gen_call(m)) return on_call(*call);
    if (auto cast = read_gen_cast(m)) {
      TermBuilder b;
      b.tuple(2).atom("cast").term(cast->term.element(1));
      (void)node_.send(Pid(*cast->term.element(0).pid()), b.bytes(), pid);
    }
  }

 private:
  void on_call(const GenCall& call) {
    const TermView& r = call.request.term;
    TermBuilder b;
    if (r.is_atom("never")) return;
    if (r.is_atom("stop")) {
      b.atom("stopped");
      return node_.end_process(pid, b.bytes());
    }
    if (r.is_tuple("later", 3)) {
      return spawn(
          io, "later",
          reply_later(node_, call.from, owned(r.element(2)), Millis(*r.element(1).integer())));
    }
    if (r.is_tuple("size", 2)) {
      b.unsigned_integer(r.element(1).binary()->size());
    } else if (r.is_tuple("big", 2)) {
      b.binary(std::string(static_cast<std::size_t>(*r.element(1).integer()), 'x'));
    } else {
      b.tuple(2).atom("echo").term(r);
    }
    if (Status s = node_.reply(call.from, b.bytes()); !s) spdlog::error("{}", to_string(s.error()));
  }
  Node& node_;
};

// Tells its listener everything that happens to it.
class Actor : public Process {
 public:
  Actor(Node& node, Pid listener) : node_(node), listener_(std::move(listener)) {}
  Pid pid;

  void on_message(Message m) override {
    TermBuilder b;
    tell(b.tuple(3).atom("message").pid(pid.parts()).term(m.term));
  }
  void on_down(const Ref& monitor, const Target&, const Message& reason) override {
    TermBuilder b;
    b.tuple(4).atom("down").pid(pid.parts()).reference(monitor.parts());
    tell(b.term(reason.term));
  }
  void on_exit(const Pid& from, const Message& reason, bool linked) override {
    TermBuilder b;
    b.tuple(5).atom("exit").pid(pid.parts()).pid(from.parts()).term(reason.term);
    tell(b.boolean(linked));
  }
  void on_watcher_gone(const Pid& watcher, const Ref&) override {
    TermBuilder b;
    tell(b.tuple(3).atom("watcher_gone").pid(pid.parts()).pid(watcher.parts()));
  }

 private:
  void tell(const TermBuilder& b) { (void)node_.send(listener_, b.bytes(), pid); }
  Node& node_;
  Pid listener_;
};

Awaitable<void> do_connect(Node& node, CallFrom from, std::string peer) {
  const Status s = co_await node.connect(peer);
  TermBuilder b;
  if (s) {
    b.atom("ok");
  } else {
    put_error(b, s.error());
  }
  (void)node.reply(from, b.bytes());
}

void reply_result(Node& node, const CallFrom& from, const Result<Message>& r) {
  TermBuilder b;
  if (r) {
    b.tuple(2).atom("ok").term(r->term);
  } else {
    put_error(b, r.error());
  }
  (void)node.reply(from, b.bytes());
}

Awaitable<void> do_rpc(Node& node, CallFrom from, std::string peer, std::string m, std::string f,
                       std::vector<std::byte> args, Millis timeout) {
  auto r = co_await node.rpc_call(peer, m, f, args, timeout);
  reply_result(node, from, r);
}

Awaitable<void> do_gen_call(Node& node, CallFrom from, NameAt to, std::vector<std::byte> request,
                            Millis timeout) {
  auto r = co_await node.gen_call(to, request, timeout);
  reply_result(node, from, r);
}

Awaitable<void> do_spawn(Node& node, CallFrom from, std::string peer, std::string m, std::string f,
                         std::vector<std::byte> args, SpawnOptions options) {
  auto r = co_await node.spawn_request(peer, m, f, args, options);
  TermBuilder b;
  if (r) {
    b.tuple(2).atom("ok").pid(r->pid.parts());
  } else {
    put_error(b, r.error());
  }
  (void)node.reply(from, b.bytes());
}

Awaitable<void> do_names(Node& node, CallFrom from) {
  auto r = co_await node.names("");
  TermBuilder b;
  if (r) {
    for (const EpmdName& n : *r) b.list_cons().atom(n.name);
    b.nil();
  } else {
    put_error(b, r.error());
  }
  (void)node.reply(from, b.bytes());
}

class Control : public Process, public NodeObserver {
 public:
  Control(Node& node, const Counters& counters) : node_(node), counters_(counters) {
    node.add_observer(this);
  }

  void on_node_up(const LinkInfo& link) override {
    fmt::print("up {} {}\n", link.node, link.hidden ? "hidden" : "visible");
    std::fflush(stdout);
  }
  void on_node_down(const LinkInfo& link, std::string_view reason) override {
    fmt::print("down {} {}\n", link.node, reason);
    std::fflush(stdout);
  }

  void on_message(Message m) override {
    auto call = read_gen_call(m);
    if (!call) return;
    const TermView& r = call->request.term;
    TermBuilder b;
    b.atom("ok");
    if (r.is_tuple("actor", 2)) {  // {actor, Listener} -> Pid
      actors_.push_back(std::make_unique<Actor>(node_, Pid(*r.element(1).pid())));
      actors_.back()->pid = node_.spawn_process(actors_.back().get());
      b.clear();
      b.pid(actors_.back()->pid.parts());
    } else if (r.is_tuple("end", 3)) {
      node_.end_process(pid(r, 1), r.element(2).bytes());
    } else if (r.is_tuple("link", 3)) {
      node_.link(pid(r, 1), pid(r, 2));
    } else if (r.is_tuple("unlink", 3)) {
      node_.unlink(pid(r, 1), pid(r, 2));
    } else if (r.is_tuple("monitor", 3)) {  // {monitor, Actor, Target} -> Ref
      b.clear();
      b.reference(node_.monitor(pid(r, 1), target_of(r.element(2))).parts());
    } else if (r.is_tuple("demonitor", 2)) {
      node_.demonitor(Ref(*r.element(1).reference()));
    } else if (r.is_tuple("alias", 2)) {
      b.clear();
      b.reference(node_.make_alias(pid(r, 1)).parts());
    } else if (r.is_tuple("exit", 4)) {
      (void)node_.exit(pid(r, 1), pid(r, 2), r.element(3).bytes());
    } else if (r.is_tuple("send", 3)) {
      if (auto to = r.element(1).pid()) {
        (void)node_.send(Pid(*to), r.element(2).bytes());
      } else {
        (void)node_.send(std::get<NameAt>(target_of(r.element(1))), r.element(2).bytes());
      }
    } else if (r.is_tuple("connect", 2)) {
      return spawn(io, "connect", do_connect(node_, call->from, atom_of(r.element(1))));
    } else if (r.is_tuple("disconnect", 2)) {
      node_.disconnect(atom_of(r.element(1)));
    } else if (r.is_tuple("rpc", 6)) {  // {rpc, Node, M, F, Args, Timeout}
      return spawn(io, "rpc",
                   do_rpc(node_, call->from, atom_of(r.element(1)), atom_of(r.element(2)),
                          atom_of(r.element(3)), owned(r.element(4)), millis(r, 5)));
    } else if (r.is_tuple("gen_call", 5)) {  // {gen_call, Name, Node, Request, Timeout}
      return spawn(io, "gen_call",
                   do_gen_call(node_, call->from, {atom_of(r.element(1)), atom_of(r.element(2))},
                               owned(r.element(3)), millis(r, 4)));
    } else if (r.is_tuple("spawn", 7)) {  // {spawn, Actor, Node, M, F, Args, [link|monitor]}
      SpawnOptions options;
      options.parent = pid(r, 1);
      for (auto it = *r.element(6).list(); !it.done(); it.next()) {
        options.link |= it.item().is_atom("link");
        options.monitor |= it.item().is_atom("monitor");
      }
      return spawn(io, "spawn",
                   do_spawn(node_, call->from, atom_of(r.element(2)), atom_of(r.element(3)),
                            atom_of(r.element(4)), owned(r.element(5)), options));
    } else if (r.is_atom("names")) {
      return spawn(io, "names", do_names(node_, call->from));
    } else if (r.is_atom("counters")) {
      b.clear();
      b.map(static_cast<std::uint32_t>(kCounterInfo.size()));
      for (std::size_t i = 0; i < kCounterInfo.size(); ++i) {
        b.atom(kCounterInfo[i].name);
        b.unsigned_integer(counters_.get(static_cast<Counter>(i)));
      }
    } else if (r.is_atom("links")) {
      b.clear();
      for (const LinkInfo& l : node_.links()) b.list_cons().tuple(2).atom(l.node).boolean(l.hidden);
      b.nil();
    } else {
      b.clear();
      b.atom("unknown");
    }
    (void)node_.reply(call->from, b.bytes());
  }

 private:
  static Pid pid(const TermView& r, std::uint32_t i) { return Pid(*r.element(i).pid()); }
  static Millis millis(const TermView& r, std::uint32_t i) {
    return Millis(*r.element(i).integer());
  }
  Node& node_;
  const Counters& counters_;
  std::vector<std::unique_ptr<Actor>> actors_;
};

Awaitable<void> run(Node& node, const Counters& counters, Echo& echo,
                    std::unique_ptr<Control>& control, std::string peer) {
  const Status started = co_await node.start();
  if (!started) {
    fmt::print("error: {}\n", to_string(started.error()));
    std::fflush(stdout);
    io.stop();
    co_return;
  }
  echo.pid = *node.register_process("echo", &echo);
  control = std::make_unique<Control>(node, counters);
  (void)node.register_process("control", control.get());
  fmt::print("ready {} {}\n", node.name(), node.port());
  std::fflush(stdout);
  if (!peer.empty()) (void)co_await node.connect(peer);
}

}  // namespace

int main(int argc, char** argv) {
  NodeOptions options;
  options.listen_address = "127.0.0.1";
  if (argc < 2) return 64;
  options.name = argv[1];
  const char* cookie = std::getenv("SCOPE_TEST_COOKIE");
  options.cookie = Cookie(cookie != nullptr ? cookie : "");
  std::string peer;
  for (int i = 2; i < argc; ++i) {
    const std::string_view arg = argv[i];
    auto number = [&] {
      std::size_t n = 0;
      const std::string_view text = arg.substr(arg.find('=') + 1);
      std::from_chars(text.data(), text.data() + text.size(), n);
      return n;
    };
    if (arg == "long") options.longnames = true;
    if (arg == "client") options.listen = false;
    if (arg.starts_with("connect=")) peer = arg.substr(8);
    if (arg.starts_with("handshake_ms=")) options.handshake_timeout = Millis(number());
    if (arg.starts_with("ticktime_ms=")) options.net_ticktime = Millis(number());
    if (arg.starts_with("tick_ms=")) options.tick_interval = Millis(number());
    if (arg.starts_with("max_packet=")) options.max_packet_bytes = number();
    if (arg.starts_with("max_queue=")) options.max_queue_bytes = number();
  }
  int status = 0;
  {
    options.counters = std::make_shared<Counters>();
    Node node(io, options);
    Echo echo(node);
    std::unique_ptr<Control> control;
    boost::asio::signal_set signals(io, SIGTERM);
    signals.async_wait([&](const boost::system::error_code& ec, int) {
      if (!ec) node.stop();
    });
    spawn(io, "main", run(node, *options.counters, echo, control, peer));
    io.run();
    status = control ? 0 : 1;
    node.stop();
  }
  fmt::print("stopped\n");
  return status;
}
