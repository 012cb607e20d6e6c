// Node: this program as a full, hidden member of an Erlang cluster. The face of cnode/dist.
//
// What    Registers with epmd, accepts and makes links, routes signals between remote processes and the Process objects that
//         live here, and offers calls to remote nodes as coroutines.
// Thread  Everything here is called on the io_context's one thread, and everything is called back there. A Process or
//         observer is never called from within a call into Node: local effects are posted.
// Life    The io_context outlives the Node. stop() (or the destructor) closes links, answers waiting calls with Code::closed,
//         and no callback comes after it.
// Terms   Outgoing terms are encoded without the version magic (TermBuilder().bytes()), and are copied once.
// Bounds  Each link has a queue of max_queue_bytes for signals up to 64 KB and as much for larger ones; beyond it send()
//         answers Code::busy (one that is larger than the limit passes when no other large one waits). Signals that must not
//         be lost (DOWN, EXIT, acks, replies to spawns) pass up to twice the limit; a link beyond that is closed, and one on
//         which nothing can be written for 1.25 net_ticktime: its peer does not read. What is on its way in is bounded for
//         each link (max_packet_bytes) and for all together (max_incoming_bytes).
// Errors  connect() and the calls that connect: io (epmd cannot be reached), unknown_node (epmd does not know it), node_down
//         (registered, but refuses connections, or went away), auth_failed (wrong cookie or certificate), bad_value (another
//         node answers there, or the name's form does not fit), refused (not_allowed), timeout, malformed (no distribution
//         protocol there, or flags that we need are missing), closed (we are stopping).
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cnode/dist/awaitable.h"
#include "cnode/dist/cookie.h"
#include "cnode/dist/gen.h"
#include "cnode/dist/identity.h"
#include "cnode/dist/message.h"
#include "cnode/dist/process.h"
#include "cnode/dist/rpc.h"
#include "ei_codec/base/counters.h"
#include "ei_codec/base/result.h"
#include "ei_codec/term_view.h"

namespace scope::node {

using Millis = std::chrono::milliseconds;
class Tls;

struct NodeOptions {
  std::shared_ptr<Counters> counters;  // null: its own
  std::string name;  // "scope@host"; without a host one is added: the short host name, or with
                     // longnames the full
  Cookie cookie;
  std::shared_ptr<const CookiesByNode> cookies;  // of nodes that have another one; may be null
  std::shared_ptr<const Tls> tls;                // null: plain TCP; else every link is over TLS
  // Nodes whose ports are known: no epmd is asked for them.
  std::map<std::string, std::uint16_t, std::less<>> ports;
  bool epmd = true;        // false: nothing is registered; peers must know our port
  bool longnames = false;  // as for erl -name; short names have no dot after the @
  std::string epmd_host;   // empty: $ERL_EPMD_ADDRESS's first address, or 127.0.0.1
  std::uint16_t epmd_port =
      0;  // 0: $ERL_EPMD_PORT, or 4369; also where other hosts' epmds are asked
  // false: makes links but accepts none and is not registered: for a command line.
  bool listen = true;
  std::string listen_address = "0.0.0.0";
  std::uint16_t listen_port_min = 0, listen_port_max = 0;  // 0: any free port
  std::size_t max_packet_bytes = 72u << 20;
  std::size_t max_incoming_bytes = 80u << 20;  // packets.h: IncomingBytes
  std::size_t max_queue_bytes = 8u << 20;
  std::size_t max_handshakes = 128;  // half-made, accepted ones
  Millis handshake_timeout{7000};
  Millis net_ticktime{
      60000};  // how long a silent peer is believed; a link is closed after 1.25 of it
  Millis tick_interval{
      2000};  // how often we write a tick when idle: a quarter of the smallest net_ticktime in use
};

struct LinkInfo {
  std::string node;
  std::uint32_t creation = 0;
  std::uint64_t flags = 0;   // of the peer
  bool hidden = false;       // the peer does not publish itself
  bool initiated = false;    // by us
  std::uint64_t number = 0;  // counted from 1, of all links since the start
  std::uint64_t bytes_in = 0, bytes_out = 0;
  std::size_t queue_bytes = 0;
  std::chrono::steady_clock::time_point since, last_heard;
};

// A process here, as it is now.
struct ProcessInfo {
  Pid pid;
  std::string name;            // empty: none
  std::uint64_t messages = 0;  // handled
  std::vector<Pid> links, watchers;
};

class NodeObserver {
 public:
  virtual ~NodeObserver() = default;
  virtual void on_node_up(const LinkInfo& link) = 0;
  // `reason` as BEAM says it: connection_closed, net_tick_timeout, disconnect, ... or our words for
  // broken protocol.
  virtual void on_node_down(const LinkInfo& link, std::string_view reason) = 0;
};

struct EpmdName {
  std::string name;
  std::uint16_t port = 0;
};

struct SpawnOptions {
  Pid parent;  // the process of ours that links, monitors and is group leader; empty: the Node's
               // own
  bool link = false, monitor = false;  // on_exit and on_down of the parent
  Millis timeout{5000};
};
struct Spawned {
  Pid pid;
  Ref monitor;  // set if a monitor was asked for
};

class Node {
 public:
  Node(boost::asio::io_context& io, NodeOptions options);
  ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  // Listens and registers. bad_value: the name, or it is registered already (field "name"); io: the
  // port or epmd. When epmd is not there yet at start that is an error; when it goes away later we
  // register again with backoff.
  Awaitable<Status> start();
  void stop();

  const std::string& name() const;
  std::uint32_t creation() const;
  std::uint16_t port() const;  // where it listens; 0 before start()
  const Counters& counters() const;

  // --- processes here
  // -----------------------------------------------------------------------------------------------
  Pid spawn_process(Process* process);
  // Spawns it under a name. bad_value: the name is taken.
  Result<Pid> register_process(std::string name, Process* process);
  // Watchers and linked processes get `reason` (an encoded term; empty: normal). No callback comes
  // after it.
  void end_process(const Pid& pid, codec::Bytes reason = {});
  std::optional<Pid> whereis(std::string_view name) const;
  std::vector<ProcessInfo> processes() const;
  std::optional<ProcessInfo> process(const Pid& pid) const;
  Ref make_ref();
  // A reference that stands for the process as a receiver until removed.
  Ref make_alias(const Pid& pid);
  void remove_alias(const Ref& alias);

  // --- signals out
  // --------------------------------------------------------------------------------------------------
  // node_down: no link (connect() first; no link is made here). busy: the queue is full. `from` is
  // a process of ours or empty for the Node's own; `token` is an encoded seq_trace token to carry
  // on (while a message with a token is being handled, that token is carried on by itself). Pids
  // and names of our own node are delivered here.
  Status send(const Pid& to, codec::Bytes term, const Pid& from = {}, codec::Bytes token = {});
  Status send(const NameAt& to, codec::Bytes term, const Pid& from = {}, codec::Bytes token = {});
  Status send(const Ref& alias, codec::Bytes term, const Pid& from = {}, codec::Bytes token = {});
  Status reply(const CallFrom& to, codec::Bytes term);
  Status reply(const CallFrom& to, codec::TermBuilder&& term);  // a large one is not copied

  // on_down comes once, at once with noconnection if there is no link.
  Ref monitor(const Pid& watcher, const Target& target);
  void demonitor(const Ref& ref);
  void link(const Pid& ours, const Pid& theirs);  // on_exit with noconnection if there is no link
  void unlink(const Pid& ours, const Pid& theirs);
  Status exit(const Pid& from, const Pid& to, codec::Bytes reason);  // exit(To, Reason)

  // --- links
  // --------------------------------------------------------------------------------------------------------
  // Ok at once when connected; attempts to one node share their result.
  Awaitable<Status> connect(std::string node);
  void disconnect(std::string_view node);
  bool connected(std::string_view node) const;
  // For links made from now on: other certificates. REQUIRES that the node was made with some.
  void set_tls(std::shared_ptr<const Tls> tls);
  std::vector<LinkInfo> links() const;
  void add_observer(NodeObserver* observer);
  void remove_observer(NodeObserver* observer);

  // --- calls to remote nodes; each connects if need be
  // ---------------------------------------------------------------- node_down, timeout, or refused
  // (what the spawn answered: notsup, badarg, system_limit). `args` is an encoded list.
  Awaitable<Result<Spawned>> spawn_request(std::string node, std::string module,
                                           std::string function, std::vector<std::byte> args,
                                           SpawnOptions options);
  // erpc: the result's term is the value returned. An exception there is Code::refused, its message
  // "error: undef ...".
  Awaitable<Result<Message>> rpc_call(std::string node, std::string module, std::string function,
                                      std::vector<std::byte> args, Millis timeout);
  // gen_server:call. no_such_process: noproc; refused: the server ended while handling it.
  Awaitable<Result<Message>> gen_call(NameAt to, std::vector<std::byte> request, Millis timeout);

  // The names that the epmd of `host` knows (empty: ours).
  Awaitable<Result<std::vector<EpmdName>>> names(std::string host);

  // --- what others may ask of us
  // ------------------------------------------------------------------------------------
  RpcTable& rpc();
  void set_spawn_handler(SpawnHandler handler);

  class Impl;  // internal to cnode/dist

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace scope::node
