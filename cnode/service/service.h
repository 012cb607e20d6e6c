// Service: an Erlang request term in, an encoded reply term out. Knows no transport.
//
// What   handle() parses the request against the table of requests (requests.h), answers what is a question over the
//        store on a small pool, and passes what changes or asks the daemon to Controls. Every request is answered
//        exactly once with {ok, Value} or {error, {Code, #{field, got, hint}}}: also when it is nonsense, when a
//        queue is full (busy), when its deadline passes (a partial answer, or the code deadline) and at stop() (closed).
// Lanes  Questions that touch few rows (points), those that may scan (scans) and what looks after the store's files
//        (upkeep) have queues and threads of their own, so that a scan never delays a point.
// Life   The store, Controls and `coverage` outlive the service or stop(). stop() ends the pool; later requests get
//        `closed`.
// Thread handle(), set_coverage() and stop() from any thread. Replies come from the pool, from the caller of handle()
//        (errors) or from the thread that Controls answers on. Controls is called on handle()'s thread.
#pragma once

#include <any>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "analysis/follow.h"
#include "analysis/query.h"
#include "cnode/service/profiles.h"
#include "cnode/service/trace_spec.h"
#include "ei_codec/base/counters.h"
#include "ei_codec/base/result.h"
#include "ei_codec/term_builder.h"
#include "ei_codec/term_view.h"
#include "store/trace_store.h"

namespace scope::node {

class EdgeDeriver;

// How the nodes of command lines are called: scope_cli_<os pid>_<random>@host.
inline constexpr std::string_view kCommandLinePrefix = "scope_cli_";

// What an agent says of its costs (erl/agent/scope_agent.erl, status); empty until it has.
struct Spending {
  std::optional<double> budget_percent, spent_percent, hold_seconds;
  std::string rung, cause;  // of the ladder; cause: why it is there
  std::optional<std::uint64_t> memory, discarded;
  std::string redact;  // on | off; which settings: counted from 1 when the daemon began
  std::optional<std::uint64_t> redact_version;
  std::map<std::string, std::uint64_t> events_per_s;      // by kind
  std::map<std::uint64_t, std::optional<double>> traces;  // per cent spent, by trace
};

// What `status` says of one node; the service adds its clock from the store.
struct NodeStatus {
  std::string node;
  std::string state;           // an atom: connecting | connected | tracing | down | refused | ...
  std::string detail;          // why, for people; may be empty
  std::string otp, arch;       // empty: unknown
  std::uint64_t agent_id = 0;  // 0: none
  std::string capture;         // an atom: erlang | native | none
  std::string capture_reason;  // why it is not native; empty otherwise
  std::optional<double> budget_percent, spent_percent;
  std::optional<std::uint64_t> dropped;      // events that the agent counted as dropped
  std::optional<double> hold_seconds;        // of hold at the present rate
  Spending spending;                         // as of two seconds ago at most
  Incarnation incarnation = kNoIncarnation;  // the current one, for its clock
};

struct TracingStatus {
  std::uint64_t id = 0;
  std::string by;  // who asked: a pid's text and node
  TraceSpec spec;
  std::optional<ClusterTime> expires;
  std::map<std::string, std::optional<double>> spent = {};  // node -> per cent of its schedulers
};

struct CounterStatus {
  std::string_view name;  // of the table
  std::uint64_t value = 0;
  Severity severity = Severity::info;
};

struct StatusInfo {
  std::int64_t uptime_ms = 0;
  std::vector<NodeStatus> nodes;
  std::vector<TracingStatus> tracing;
  std::vector<CounterStatus> counters;
  std::size_t subscriptions = 0;
};

struct NodeOutcome {
  std::string node;
  std::optional<Error> error;              // nullopt: ok
  std::vector<std::byte> prediction = {};  // the agent's map, encoded; empty: none was made
  std::vector<std::byte> left_out = {};    // [{What, Why}], encoded; empty: nothing was
};

struct StartOutcome {
  std::uint64_t id = 0;
  std::vector<NodeOutcome> nodes;
  std::optional<ClusterTime> expires;
};

// What each profile would cost, by a look at each node that starts nothing.
struct ProfileOutcome {
  Profile profile;
  std::vector<NodeOutcome> nodes;
};

struct StopOutcome {
  std::vector<std::uint64_t> ids;  // those that were stopped
  std::vector<NodeOutcome> nodes;
};

// What the daemon does for requests that are not questions. Called on the thread of handle(); a callback may come at
// once or later, on any thread, exactly once. The views passed live only during the call.
class Controls {
 public:
  template <typename T>
  using Reply = std::move_only_function<void(Result<T>)>;

  virtual ~Controls() = default;
  virtual void status(Reply<StatusInfo> reply) = 0;
  // `by`: who asked, a pid's text and its node.
  virtual void start(TraceSpec spec, std::string by, Reply<StartOutcome> reply) = 0;
  virtual void profiles(Reply<std::vector<ProfileOutcome>> reply) = 0;
  // nullopt: all. Unknown id: no_such_trace.
  virtual void stop(std::optional<std::uint64_t> id, std::string by, Reply<StopOutcome> reply) = 0;
  // A path of keys ("store", "retain_bytes") and a term; unknown_key or bad_value if it is none.
  virtual void update_config(std::vector<std::string> path, codec::TermView value, std::string by,
                             Reply<std::monostate> reply) = 0;
  // Subscriptions: `to` (else the asker) is sent what matches, never more than `demand` events. The value is an encoded
  // term. Without them: not_available.
  virtual void subscribe(analysis::Filter filter, std::uint64_t demand,
                         std::optional<codec::PidParts> to, std::any asker,
                         Reply<std::vector<std::byte>> reply);
  virtual void demand(const codec::RefParts& subscription, std::uint64_t more,
                      Reply<std::vector<std::byte>> reply);
  virtual void unsubscribe(const codec::RefParts& subscription,
                           Reply<std::vector<std::byte>> reply);
};

struct ServiceOptions {
  unsigned point_threads = 1, scan_threads = 1;
  std::size_t max_queue = 1024;  // waiting requests per lane
  std::chrono::milliseconds deadline{4000};
  std::string version;  // of the daemon, for hello and status
  std::string node;     // our own name
  std::vector<Profile> profiles = builtin_profiles();
  std::shared_ptr<EdgeDeriver> edges = {};  // null: edges are not kept, messages are matched anew
};

struct Request {
  codec::TermView term;  // validated; inside what `owner` keeps
  std::shared_ptr<const void> owner;
  std::string caller;  // "<0.123.0>" for the record of who asked
  std::string caller_node;
  std::shared_ptr<const std::atomic<bool>> cancelled;  // set when the caller went away; may be null
  std::any asker = {};  // whom Controls may send to later, in the daemon's own words
};

struct ServiceStats {
  std::uint64_t requests = 0, errors = 0, busy = 0, cancelled = 0, deadline_cuts = 0;
  std::uint64_t waiting = 0;  // in the lanes' queues, now
};

class Service {
 public:
  using Reply = std::move_only_function<void(codec::TermBuilder)>;

  Service(store::TraceStore& store, Controls& controls, ServiceOptions options);
  ~Service();

  void handle(Request request, Reply reply);
  // The next page of a subscription, made on the scans' threads; busy when they have too much to do. `done` may come at
  // once or from any thread; until then `follow` is not touched elsewhere.
  struct FollowPage {
    codec::TermBuilder events;  // the list
    std::uint32_t count = 0;
    codec::TermBuilder missing;  // the completeness
    bool incomplete = false, more = false;
  };
  void follow(std::shared_ptr<analysis::Follow> follow, std::uint32_t limit,
              std::move_only_function<void(Result<FollowPage>)> done);
  // What is known to be missing from everything recorded now; goes into each answer's completeness.
  void set_coverage(std::shared_ptr<const analysis::Coverage> coverage);
  ServiceStats stats() const;
  void stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// {error, {Code, #{field => .., got => .., hint => ..}}}; for the daemon's own refusals too.
codec::TermBuilder error_reply(const Error& error);

}  // namespace scope::node
