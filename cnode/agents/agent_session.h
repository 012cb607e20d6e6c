// AgentSession: one node, one agent, one session after another.
//
//      ┌──────────► connecting ──link──► probing ──no agent──► deploying ──┐
//   backoff             │                   │ agent there                  │ spawned
//      │                └──no──► down       └──────────► attaching ◄───────┘
//      └──────◄────────────────┐                            │ hello
//                              └── lost ◄── live ◄──────────┘ resume sent
//   refused: the node has an owner, is disabled or is no BEAM; tried again slowly, the reason in status.
//
// Credit and acks: at each commit {ack, Seq} and {credit, Seq, Window} go back: the agent may send Window bytes beyond
// batch Seq, so a lost or repeated grant is harmless and nobody has to count the other's bytes. A batch that the store
// has no room for waits here (never more than the window); nothing is committed meanwhile, so no credit is given.
//
// Thread The io_context's. Life: shared with its own coroutines; close() ends them.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/clock_estimator.h"
#include "cnode/agents/trace_wire.h"
#include "cnode/config.h"
#include "cnode/dist/node.h"
#include "ei_codec/capture_record.h"
#include "store/trace_store.h"

namespace scope::node {

class Agents;
class Signal;

enum class AgentState { connecting, down, probing, deploying, attaching, live, refused, closed };
std::string_view state_name(AgentState state);

// What an agent said of itself in its hello and in its last report.
struct AgentInfo {
  std::uint64_t agent_id = 0;
  std::uint32_t creation = 0;
  std::uint64_t first_seq = 0, next_seq = 0;
  std::string otp, arch, capture, elixir, version;
  std::string capture_reason;  // why it is not the native tracer; empty when it is
  std::uint64_t dropped = 0;
  Spending spending;  // of two seconds ago at most, while live
};

class AgentSession : public Process, public std::enable_shared_from_this<AgentSession> {
 public:
  AgentSession(boost::asio::io_context& io, Node& node, store::TraceStore& store, Agents& agents,
               const Config& config, std::uint64_t daemon_id, std::string peer);
  ~AgentSession() override;

  // Runs the state machine until close().
  static Awaitable<void> run(std::shared_ptr<AgentSession> self);
  void close();
  // Try now: the node has just come up.
  void wake();

  // A control request; `request` is an encoded term. node_down when not live; timeout; refused/owned_by from the agent.
  static Awaitable<Result<Message>> control(std::shared_ptr<AgentSession> self,
                                            std::vector<std::byte> request, Millis timeout);
  // Traces off, drained, unloaded; the session is closed afterwards.
  static Awaitable<Status> detach_agent(std::shared_ptr<AgentSession> self, Millis timeout);
  static Awaitable<Status> detach(std::shared_ptr<AgentSession> self, Millis timeout);

  const std::string& peer() const { return peer_; }
  AgentState state() const { return state_; }
  const std::string& reason() const { return reason_; }
  const AgentInfo& info() const { return info_; }
  Incarnation incarnation() const { return incarnation_; }
  std::uint64_t epoch() const { return epoch_; }      // another one each time it tries to go live
  ClusterTime heard_at() const { return heard_at_; }  // of the agent's last message
  // Live, and not heard of for 3 s; after 15 s the link is cut, which TCP and the VMs' ticks would take minutes for.
  bool silent() const;
  bool given = false;  // named by the user: never given up, hidden or not

  void committed(std::uint64_t seq);
  void out_of_order(std::uint64_t expected, std::uint64_t got);
  void link_down(std::string_view reason);

  void on_message(Message message) override;
  void on_down(const Ref& monitor, const Target& who, const Message& reason) override;

 private:
  Awaitable<Status> establish();
  Awaitable<Status> await_hello();
  static Awaitable<void> keep_asking(std::shared_ptr<AgentSession> self, std::uint64_t epoch);
  static Awaitable<void> keep_pinging(std::shared_ptr<AgentSession> self, std::uint64_t epoch);

  void set_state(AgentState state, std::string reason = {});
  void note_unrecorded();
  void send_resume();
  void on_hello(const Message& message);
  void on_batch(Message message);
  void on_pong(const codec::TermView& pong);
  void on_nodes(const codec::TermView& nodes);
  void on_control_reply(const Message& message);
  void on_stopped(const codec::TermView& stopped);
  void push_waiting();
  void lost(std::string reason);
  std::vector<std::byte> attach_options(bool with_library = false) const;

  boost::asio::io_context& io_;
  Node& node_;
  store::TraceStore& store_;
  Agents& agents_;
  const Config& config_;
  const std::uint64_t daemon_id_;
  const std::string peer_;
  Pid self_pid_;
  std::unique_ptr<Signal> signal_;  // notified at each change that run() may wait for

  AgentState state_ = AgentState::connecting;
  std::string reason_;
  std::uint64_t epoch_ = 0;  // counts sessions; a late callback of an earlier one is ignored
  Pid agent_;
  Ref monitor_;
  AgentInfo info_;
  bool hello_seen_ = false, wake_ = false;
  bool closing_ = false;  // no new session is made
  std::optional<Error> refusal_;
  store::IncarnationInfo incarnation_info_;
  Incarnation incarnation_ = kNoIncarnation;
  std::unique_ptr<analysis::ClockEstimator> clock_;

  struct Waiter {
    store::IncomingBatch batch;
    std::size_t bytes;
  };
  std::deque<Waiter> waiting_;  // the store had no room
  std::uint64_t waiting_bytes_ = 0;

  std::map<std::uint64_t, ClusterTime> pings_;  // sent and not answered; the last kMaxPings
  std::uint64_t next_ping_ = 1;
  RawTime last_raw_;
  ClusterTime heard_at_;
  Millis silence_{};  // since the last message, as pings count it

  struct Waiting {
    std::shared_ptr<Signal> done;
    std::optional<Message> reply;
  };
  std::map<std::string, std::shared_ptr<Waiting>> controls_;  // by the request's reference as text
};

}  // namespace scope::node
