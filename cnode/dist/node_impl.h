// The state behind Node. Internal to cnode/dist: node.cc (life, processes), node_links.cc (epmd, connecting, accepting),
// node_signals.cc (what comes in), node_out.cc (what processes send), node_calls.cc (calls to remote nodes), builtin.cc
// (rex, net_kernel, erpc).
//
// Life: coroutines and links hold it by shared_ptr, so it outlives the Node by as long as they need to end.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <list>
#include <map>
#include <unordered_map>

#include "cnode/dist/control.h"
#include "cnode/dist/epmd.h"
#include "cnode/dist/handshake.h"
#include "cnode/dist/link.h"
#include "cnode/dist/node.h"
#include "cnode/dist/tcp_stream.h"
#include "cnode/dist/tls.h"
#include "ei_codec/term_print.h"

namespace scope::node {

// A remote (or local) process that watches one of ours.
struct Watch {
  Pid watcher;
  Ref ref;
  std::string name;  // the name that was watched; empty: the pid
};

struct LocalProcess {
  Process* process = nullptr;
  Pid pid;
  std::string name;
  std::vector<Watch> watches;  // held by others on it
  std::vector<Pid> links;
  std::uint64_t messages = 0;  // handled
};

struct OutMonitor {
  Pid watcher;
  Target target;
};

// Somebody waits for an answer from a remote node. Keyed by the monitor's (or spawn request's) reference.
struct PendingCall {
  enum class Kind : std::uint8_t { gen, erpc, spawn };
  PendingCall(boost::asio::io_context& io, Kind what, std::string where)
      : kind(what), node(std::move(where)), event(io) {}
  void complete(Result<Message> r) {
    if (result) return;
    result = std::move(r);
    event.notify();
  }
  Kind kind;
  std::string node;
  Event event;
  std::optional<Result<Message>> result;
  Pid pid;  // of the spawned process, once known
  SpawnOptions spawn;
};

// A connection that we are making.
struct Attempt {
  explicit Attempt(boost::asio::io_context& io) : event(io) {}
  std::shared_ptr<TcpStream> stream;
  bool reached = false;  // somebody listens there
  bool yielded = false;  // the peer's own attempt goes first: wait for that one
  Event event;
  std::optional<Status> result;
};

class Node::Impl : public LinkOwner, public std::enable_shared_from_this<Node::Impl> {
 public:
  using Self = std::shared_ptr<Impl>;
  Impl(boost::asio::io_context& io, NodeOptions options);
  ~Impl() override;

  // node.cc
  static Awaitable<Status> start(Self self);
  void stop();
  Status fix_name();
  Pid new_pid();
  Ref new_ref();
  Pid spawn_process(Process* process, std::string name);
  void end_process(const Pid& pid, codec::Bytes reason);
  LocalProcess* find(const Pid& pid);
  LocalProcess* find(const codec::PidParts& pid);
  LocalProcess* find_name(std::string_view name);
  std::shared_ptr<Link> link_to(std::string_view node) const;
  bool is_here(std::string_view node) const { return node == options_.name; }
  const Pid& sender(const Pid& from) const { return from ? from : own_pid_; }

  template <typename F>
  void post(F f) {
    boost::asio::post(io_, [self = shared_from_this(), f = std::move(f)]() mutable {
      if (!self->stopped_) f(*self);
    });
  }
  // Calls a process; what it throws is a bug of its own and ends there.
  template <typename F>
  void guarded(F call) {
    try {
      call();
    } catch (const std::exception& e) {
      escaped(e.what());
    } catch (...) {
      escaped("an unknown exception");
    }
  }
  void escaped(std::string_view what);

  Status send(const Target& to, const Payload& term, const Pid& from, codec::Bytes token);
  // `holder`: whose alias it is, if that is known.
  Status send_alias(const Ref& alias, const Pid& holder, const Payload& term, const Pid& from,
                    codec::Bytes token);
  Status send_here(const Pid& to, const Payload& term, const Pid& from);
  Status reply(const CallFrom& to, codec::Bytes term, std::shared_ptr<const void> owner = nullptr);
  // The token to send with a message made by `from`: the given one, or that of the message being handled; else empty.
  codec::Bytes next_token(const Pid& from, codec::Bytes given);
  Ref monitor(const Pid& watcher, const Target& target);
  void start_monitor(const Pid& watcher, const Target& target, const Ref& ref);
  void demonitor(const Ref& ref);
  void fire_down(const Ref& ref, const Message& reason);
  void post_down(const Ref& ref, std::string_view reason_atom);
  void link(const Pid& ours, const Pid& theirs);
  void unlink(const Pid& ours, const Pid& theirs);
  Status exit(const Pid& from, const Pid& to, codec::Bytes reason);
  Message local_atom(std::string_view atom) const;
  void tell_watcher(const Watch& watch, const Pid& who, codec::Bytes reason);
  void tell_linked(const Pid& who, const Pid& linked, codec::Bytes reason);

  // node_links.cc
  Status listen();
  static Awaitable<void> accept_loop(Self self);
  static Awaitable<void> accept_one(Self self, std::shared_ptr<TcpStream> stream);
  static Awaitable<void> epmd_loop(Self self, EpmdRegistration registration);
  static Awaitable<void> tick_loop(Self self);
  static Awaitable<Status> connect(Self self, std::string node);
  static Awaitable<void> run_attempt(Self self, std::string node, std::shared_ptr<Attempt> attempt);
  static Awaitable<Status> attempt_link(Self self, std::string node,
                                        std::shared_ptr<Attempt> attempt);
  Gate gate(const Hello& peer);
  void link_up(std::shared_ptr<Stream> stream, const Hello& peer, bool initiated);
  void finish_attempt(const std::string& node, const Status& status);
  void count_failed_handshake(const Error& error);
  HandshakeSelf handshake_self() const {
    return {options_.name, creation_, options_.cookie, options_.cookies};
  }

  // node_signals.cc
  Status on_signal_bytes(Link& link, Packet packet) override;
  void on_link_down(Link& link, std::string_view reason) override;
  Status on_signal(Link& link, const Signal& signal, Message message);
  void deliver(LocalProcess* to, Message message);
  void on_link(Link& link, const Signal& signal);
  void on_unlink(Link& link, const Signal& signal);
  void on_exit(const Signal& signal, const Message& reason);
  void on_monitor(Link& link, const Signal& signal);
  void on_demonitor(Link& link, const Signal& signal);
  void on_monitor_exit(const Signal& signal, const Message& reason);
  void on_spawn_reply(Link& link, const Signal& signal, const Message& message);

  // node_calls.cc
  static Awaitable<Result<Spawned>> spawn_request(Self self, std::string node, std::string module,
                                                  std::string function, std::vector<std::byte> args,
                                                  SpawnOptions options);
  static Awaitable<Result<Message>> rpc_call(Self self, std::string node, std::string module,
                                             std::string function, std::vector<std::byte> args,
                                             Millis timeout);
  static Awaitable<Result<Message>> gen_call(Self self, NameAt to, std::vector<std::byte> request,
                                             Millis timeout);
  static Awaitable<Result<Message>> await_call(Self self, Ref ref,
                                               std::shared_ptr<PendingCall> call,
                                               std::chrono::steady_clock::time_point until);
  void complete_call(const Ref& ref, PendingCall& call, const Message& reason);
  Status push_spawn(const std::string& node, const Ref& ref, const Pid& parent,
                    std::string_view module, std::string_view function, codec::Bytes args,
                    bool link, bool monitor);

  // builtin.cc
  void start_builtins();
  void answer_system(LocalProcess& to, const GenCall& call);
  void refuse_to_end(LocalProcess& to, const GenCall& call);
  void on_spawn_request(Link& link, const Signal& signal, const Message& message);
  // The answer of an allowed function; undef for others.
  RpcAnswer apply(std::string_view module, std::string_view function, const codec::TermView& args,
                  const Message& message, const Pid& caller);

  boost::asio::io_context& io_;
  NodeOptions options_;
  const std::shared_ptr<IncomingBytes> incoming_ =
      std::make_shared<IncomingBytes>(options_.max_incoming_bytes);
  const std::shared_ptr<Counters> counters_;
  std::string host_;  // of our name
  EpmdAddress epmd_;
  std::uint32_t creation_ = 0;
  std::uint16_t port_ = 0;
  bool started_ = false, stopped_ = false;
  Event stop_event_;

  boost::asio::ip::tcp::acceptor acceptor_;
  std::shared_ptr<Stream> epmd_stream_;
  std::list<std::shared_ptr<TcpStream>> half_open_;  // oldest first
  std::map<std::string, std::shared_ptr<Attempt>, std::less<>> attempts_;
  std::map<std::string, std::shared_ptr<Link>, std::less<>> links_;
  std::vector<NodeObserver*> observers_;
  std::chrono::steady_clock::time_point last_failure_logged_;
  std::uint64_t failures_unlogged_ = 0;

  Pid own_pid_;  // calls and signals that no process of ours makes
  std::uint32_t next_id_ = 1, next_serial_ = 0;
  std::uint64_t next_ref_ = 1;
  std::uint64_t next_unlink_ = 1;
  std::uint64_t links_made_ = 0;
  std::unordered_map<std::uint64_t, LocalProcess> processes_;  // by id and serial
  std::map<std::string, Pid, std::less<>> names_;
  std::unordered_map<Ref, Pid> aliases_;
  std::unordered_map<Ref, OutMonitor> monitors_;
  std::unordered_map<Ref, std::shared_ptr<PendingCall>> calls_;
  std::vector<std::unique_ptr<Process>> builtins_;
  RpcTable rpc_;
  SpawnHandler spawn_handler_;

  codec::TermBuilder control_, token_;  // scratch: valid until the next use
  const Message* handling_ = nullptr;   // during on_message
};

// Whoever is reached by these is one receiver (see PacketQueue): a process by its pid, and by aliases of which we know whose
// they are. By its name it is another.
inline constexpr PacketQueue::Receiver kTheNode = 0;  // itself: it is asked to spawn
inline PacketQueue::Receiver receiver_of(const Pid& pid) { return std::hash<Pid>{}(pid); }
inline PacketQueue::Receiver receiver_of(const Target& target) {
  const auto* pid = std::get_if<Pid>(&target);
  return pid != nullptr ? receiver_of(*pid)
                        : std::hash<std::string_view>{}(std::get<NameAt>(target).name);
}
inline PacketQueue::Receiver receiver_of(const codec::PidParts& pid) {
  return receiver_of(Pid(pid));
}

inline std::string describe(const codec::TermView& term) {
  return codec::print(term, codec::Syntax::erlang, 200);
}

}  // namespace scope::node
