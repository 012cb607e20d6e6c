// Agents: finds the cluster's nodes, brings an agent to each, and holds the sessions (session.md).
//
// What   Every node that is worth recording has one AgentSession (agent_session.h), which connects with backoff, deploys
//        the embedded beams, attaches, and passes batches to the store and acks and credit back. Worth recording are
//        the nodes given by the user and every *visible* node that any agent or link tells of; hidden nodes (remote
//        consoles, command lines, other recorders) only when given. Nodes come and go without an operator.
//        A start reaches every live node at once and every node that goes live later; who asked is remembered. After a
//        restart of the daemon, what agents still trace is learnt from them.
// Life   The Node and the TraceStore outlive it. detach_all() before destruction, to leave no trace.
// Thread The io_context's. Store calls that may wait run on a thread of its own (offload.h).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cnode/agents/agent_session.h"
#include "cnode/config.h"
#include "cnode/dist/node.h"
#include "cnode/service/service.h"
#include "ei_codec/base/counters.h"
#include "store/trace_store.h"

namespace boost::asio {
class thread_pool;
}

namespace scope::node {

class Agents : public NodeObserver {
 public:
  Agents(boost::asio::io_context& io, Node& node, store::TraceStore& store, const Config& config,
         std::shared_ptr<Counters> counters);
  ~Agents() override;

  void start();
  // Traces off, drained, unloaded, on every node; at most `timeout` in all. Then no new session is made.
  Awaitable<void> detach_all(Millis timeout);

  Awaitable<Result<StartOutcome>> start_trace(TraceSpec spec, std::string by);
  // What each profile would cost on each live node; nothing is started.
  Awaitable<std::vector<ProfileOutcome>> probe(std::vector<Profile> profiles);
  Awaitable<Result<StopOutcome>> stop_trace(std::optional<std::uint64_t> id);

  // The settings of what is redacted have changed.
  void redaction_changed();

  std::vector<NodeStatus> node_status() const;
  std::vector<TracingStatus> tracing() const;
  std::shared_ptr<const analysis::Coverage> coverage() const;
  // Called (on the io thread) when coverage() may have changed.
  void on_coverage_changed(std::function<void()> callback) {
    coverage_changed_ = std::move(callback);
  }

  // Called (on the io thread) when a trace ended that nobody stopped: on `node`, or, at its limit, everywhere (empty).
  using TraceEnded =
      std::function<void(std::uint64_t id, std::string_view node, std::string_view why)>;
  void on_trace_ended(TraceEnded callback) { trace_ended_ = std::move(callback); }

  // From the store's listener, posted to the io thread.
  void committed(Incarnation incarnation, std::uint64_t seq);
  void out_of_order(Incarnation incarnation, std::uint64_t expected, std::uint64_t got);

  void on_node_up(const LinkInfo& link) override;
  void on_node_down(const LinkInfo& link, std::string_view reason) override;

  // --- for AgentSession ---
  void heard_of(std::string_view node) { consider(std::string(node), false); }
  // Ends the session of a node that is gone for good.
  void forget(const std::string& node);
  void changed();
  void count(Counter counter) { counters_->add(counter); }
  // An agent ended a trace on its node: its limit was reached, or it had to.
  void stopped_by_itself(const std::string& node, std::uint64_t id, const std::string& why);
  // The session went live: what it still traces is learnt, what it should trace is started.
  Awaitable<void> went_live(std::shared_ptr<AgentSession> session);
  boost::asio::thread_pool& store_calls();

 private:
  struct Trace {
    TraceSpec spec;
    std::string by;
    std::optional<ClusterTime> expires;
    std::map<std::string, std::string> ended;  // node -> why it ended there before its time
    std::map<std::string, std::uint64_t>
        asked;  // node -> its session's epoch that was told to start
  };

  void consider(const std::string& name, bool given);
  std::vector<std::byte> start_request(std::uint64_t id, const Trace& trace,
                                       const std::string& node) const;
  static Awaitable<void> start_on(Agents& agents, std::shared_ptr<AgentSession> session,
                                  std::uint64_t id, std::vector<NodeOutcome>& outcomes,
                                  std::shared_ptr<Signal> done);
  static Awaitable<void> detach_one(std::shared_ptr<AgentSession> session, Millis timeout,
                                    std::shared_ptr<std::size_t> counter,
                                    std::shared_ptr<Signal> done);
  static Awaitable<void> probe_node(std::shared_ptr<AgentSession> session,
                                    std::vector<ProfileOutcome>& out,
                                    std::shared_ptr<std::size_t> pending,
                                    std::shared_ptr<Signal> done);
  static Awaitable<void> configure(std::shared_ptr<AgentSession> session,
                                   std::vector<std::byte> request);
  bool wants(const TraceSpec& spec, std::string_view node) const;
  static Awaitable<void> watch_expiry(Agents& agents);

  boost::asio::io_context& io_;
  Node& node_;
  store::TraceStore& store_;
  const Config& config_;
  std::uint64_t daemon_id_;
  std::unique_ptr<boost::asio::thread_pool> store_calls_;
  std::unique_ptr<Signal> traces_changed_;
  std::map<std::string, std::shared_ptr<AgentSession>, std::less<>> sessions_;
  std::map<std::uint64_t, Trace> traces_;
  std::uint64_t last_id_ = 0;
  // Nodes that were traced when coverage was looked at last, and since when those are not that were once.
  mutable std::map<std::string, std::optional<ClusterTime>> not_traced_since_;
  // The same of each kind of event; what was never asked for has no entry.
  mutable std::map<std::pair<std::string, unsigned>, std::optional<ClusterTime>> kind_since_;
  // The traces of a node and since when it is these; nullopt: since before it was looked at.
  struct Scopes {
    std::vector<std::uint64_t> ids;
    std::optional<ClusterTime> since;
  };
  mutable std::map<std::string, Scopes> scopes_;
  const std::shared_ptr<Counters> counters_;
  bool stopping_ = false;
  std::function<void()> coverage_changed_;
  TraceEnded trace_ended_;
};

}  // namespace scope::node
