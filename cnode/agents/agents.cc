#include "cnode/agents/agents.h"

#include <fmt/format.h>
#include <sodium.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>

#include "analysis/sample_rates.h"
#include "cnode/agents/signal.h"
#include "cnode/agents/trace_wire.h"
#include "cnode/dist/spawn.h"
#include "cnode/redaction.h"
#include "ei_codec/term_print.h"

namespace scope::node {
namespace {

using namespace std::chrono_literals;
using codec::TermBuilder;
using codec::TermView;

constexpr Millis kControlTimeout = 3s;  // below the 4 s within which every request is answered
constexpr std::int64_t kDefaultForMs = 60'000;
constexpr std::size_t kMaxNodes = 1024;

}  // namespace

Agents::Agents(boost::asio::io_context& io, Node& node, store::TraceStore& store,
               const Config& config, std::shared_ptr<Counters> counters)
    : io_(io),
      node_(node),
      store_(store),
      config_(config),
      store_calls_(std::make_unique<boost::asio::thread_pool>(1)),
      traces_changed_(std::make_unique<Signal>(io)),
      counters_(std::move(counters)) {
  randombytes_buf(&daemon_id_, sizeof(daemon_id_));
  node_.add_observer(this);
}

Agents::~Agents() {
  node_.remove_observer(this);
  for (auto& [name, session] : sessions_) session->close();
  store_calls_->join();
}

boost::asio::thread_pool& Agents::store_calls() { return *store_calls_; }

void Agents::start() {
  spawn(io_, "trace expiry", watch_expiry(*this));
  for (const auto& name : config_.nodes) consider(name, true);
}

void Agents::consider(const std::string& name, bool given) {
  if (stopping_ || name == node_.name() || name == "nonode@nohost") return;
  if (auto it = sessions_.find(name); it != sessions_.end()) {
    it->second->given |= given;
    return it->second->wake();
  }
  if (sessions_.size() >= kMaxNodes) return;
  auto session =
      std::make_shared<AgentSession>(io_, node_, store_, *this, config_, daemon_id_, name);
  session->given = given;
  sessions_.emplace(name, session);
  spdlog::info("{}: found", name);
  spawn(io_, "agent session", AgentSession::run(session));
  changed();
}

void Agents::forget(const std::string& node) {
  auto it = sessions_.find(node);
  if (it == sessions_.end()) return;
  spdlog::info("{}: gone for long; forgotten", node);
  it->second->close();
  sessions_.erase(it);
  not_traced_since_.erase(node);
  std::erase_if(kind_since_, [&](const auto& known) { return known.first.first == node; });
  changed();
}

void Agents::on_node_up(const LinkInfo& link) {
  if (!link.hidden) {
    consider(link.node, false);
  } else if (auto it = sessions_.find(link.node); it != sessions_.end()) {
    it->second->wake();
  }
}

void Agents::on_node_down(const LinkInfo& link, std::string_view reason) {
  if (auto it = sessions_.find(link.node); it != sessions_.end()) it->second->link_down(reason);
}

void Agents::changed() {
  if (coverage_changed_ && !stopping_) coverage_changed_();
}

void Agents::committed(Incarnation incarnation, std::uint64_t seq) {
  for (auto& [name, session] : sessions_) {
    if (session->incarnation() == incarnation) session->committed(seq);
  }
}

void Agents::out_of_order(Incarnation incarnation, std::uint64_t expected, std::uint64_t got) {
  for (auto& [name, session] : sessions_) {
    if (session->incarnation() == incarnation) session->out_of_order(expected, got);
  }
}

// --- traces -------------------------------------------------------------------------------------

std::vector<std::byte> Agents::start_request(std::uint64_t id, const Trace& trace,
                                             const std::string& node) const {
  return encode_start(id, trace.spec, node, {trace.by, trace.expires}, store_.now());
}

// What was asked for and is not traced, as an encoded list of {What, Why}; empty: nothing. That a module or function is
// not there is said by no pattern of it having matched anything. Of `all` processes, the VM's own and ours never are.
std::vector<std::byte> left_out(const codec::MapView& answer, bool all) {
  TermBuilder list;
  bool any = false;
  if (const auto said = answer.find("left_out")) {
    for (auto items = said->list(); items && !items->done(); items->next()) {
      const auto item = items->item();
      if (all && item.arity() == 2u && item.element(0).pid() && item.element(1).atom()) continue;
      list.list_cons().raw(item.bytes());
      any = true;
    }
  }
  if (const auto patterns = answer.find("patterns")) {
    for (auto items = patterns->list(); items && !items->done(); items->next()) {
      const auto pattern = items->item();
      if (pattern.arity() != 2u || pattern.element(1).integer() != 0) continue;
      list.list_cons().tuple(2).raw(pattern.element(0).bytes()).atom("not_found");
      any = true;
    }
  }
  if (!any) return {};
  list.nil();
  const auto bytes = list.bytes();
  return {bytes.begin(), bytes.end()};
}

Awaitable<void> Agents::start_on(Agents& agents, std::shared_ptr<AgentSession> session,
                                 std::uint64_t id, std::vector<NodeOutcome>& outcomes,
                                 std::shared_ptr<Signal> done) {
  std::optional<Error> error;
  std::vector<std::byte> prediction, missing;
  if (auto it = agents.traces_.find(id); it != agents.traces_.end()) {
    auto request = agents.start_request(id, it->second, session->peer());
    if (session->state() == AgentState::live) it->second.asked[session->peer()] = session->epoch();
    const bool all = it->second.spec.pids.empty();
    auto reply = co_await AgentSession::control(session, std::move(request), kControlTimeout);
    if (!reply) {
      error = reply.error();
    } else if (!reply->term.is_tuple("ok", 2)) {
      error = refusal_of(reply->term);
    } else if (auto answer = reply->term.element(1).map()) {
      if (auto said = answer->find("prediction")) {
        auto bytes = said->bytes();
        prediction.assign(bytes.begin(), bytes.end());
      }
      missing = left_out(*answer, all);
    }
  }
  outcomes.push_back({session->peer(), error, std::move(prediction), std::move(missing)});
  done->notify();
}

Awaitable<Result<StartOutcome>> Agents::start_trace(TraceSpec spec, std::string by) {
  std::uint64_t id = static_cast<std::uint64_t>(store_.now().ns / 1'000'000'000);
  // Never one of a trace before: what is still said of that one would be taken for this one's.
  id = std::max(id, last_id_ + 1);
  while (traces_.contains(id)) ++id;
  last_id_ = id;
  std::optional<ClusterTime> expires;
  if (spec.forever && !spec.continuous && !spec.force && is_deep(spec)) {
    co_return fail(
        Code::refused,
        "arguments, results and everybody's messages need an end; say for how long, or force it",
        "for", "infinity");
  }
  if (!spec.forever && (spec.for_ms || !spec.continuous)) {
    expires = ClusterTime{store_.now().ns + spec.for_ms.value_or(kDefaultForMs) * 1'000'000};
  }
  for (const auto& name : spec.nodes) {
    if (!sessions_.contains(name)) {
      std::vector<std::string_view> known;
      for (const auto& [n, s] : sessions_) known.push_back(n);
      co_return fail(Code::unknown_node,
                     fmt::format("no such node was seen; known are {}", fmt::join(known, ", ")),
                     "nodes", name);
    }
  }
  traces_[id] = {std::move(spec), std::move(by), expires, {}, {}};

  StartOutcome outcome{id, {}, expires};
  auto done = std::make_shared<Signal>(io_);
  // The coroutines below write into this frame; it waits for all of them.
  auto outcomes = std::make_unique<std::vector<NodeOutcome>>();
  std::size_t wanted = 0;
  for (const auto& [name, session] : sessions_) {
    if (!wants(traces_[id].spec, name)) continue;
    ++wanted;
    spawn(io_, "start a trace", start_on(*this, session, id, *outcomes, done));
  }
  while (outcomes->size() < wanted) co_await done->wait_for(1s);
  outcome.nodes = std::move(*outcomes);
  bool any = std::ranges::any_of(outcome.nodes, [](const auto& n) { return !n.error; });
  // Refused everywhere: nothing was started, nothing is left to stop.
  bool all_refused =
      wanted > 0 && !any && std::ranges::none_of(outcome.nodes, [](const auto& n) {
        return n.error && (n.error->code == Code::node_down || n.error->code == Code::timeout);
      });
  if (all_refused) {
    traces_.erase(id);
    co_return std::unexpected(*outcome.nodes.front().error);
  }
  // Where somebody else is the system tracer, what we mark would come to him: then nowhere.
  const auto refused = std::ranges::find_if(outcome.nodes, [](const NodeOutcome& n) {
    return n.error && (n.error->code == Code::owned_by || n.error->code == Code::refused);
  });
  if (const auto it = traces_.find(id);
      it != traces_.end() && !it->second.spec.follow.empty() && refused != outcome.nodes.end()) {
    auto error = *refused->error;
    error.message = fmt::format("{}: {}", refused->node, error.message);
    (void)co_await stop_trace(id);
    co_return std::unexpected(std::move(error));
  }
  traces_changed_->notify();
  changed();
  co_return outcome;
}

Awaitable<std::vector<ProfileOutcome>> Agents::probe(std::vector<Profile> profiles) {
  std::vector<ProfileOutcome> out;
  for (auto& profile : profiles) out.push_back({std::move(profile), {}});
  auto done = std::make_shared<Signal>(io_);
  auto pending = std::make_shared<std::size_t>(0);
  auto sessions = sessions_;
  for (const auto& [name, session] : sessions) {
    if (session->state() != AgentState::live) continue;
    ++*pending;
    spawn(io_, "probe profiles", probe_node(session, out, pending, done));
  }
  while (*pending > 0) co_await done->wait_for(1s);
  co_return out;
}

// Writes into a frame that waits for it.
Awaitable<void> Agents::probe_node(std::shared_ptr<AgentSession> session,
                                   std::vector<ProfileOutcome>& out,
                                   std::shared_ptr<std::size_t> pending,
                                   std::shared_ptr<Signal> done) {
  const auto until = std::chrono::steady_clock::now() + kControlTimeout;
  for (auto& item : out) {
    TraceSpec spec;
    spec.profile = item.profile.name;
    spec.events = item.profile.events;
    spec.budget_percent = item.profile.budget_percent;
    spec.args = item.profile.args;
    if (item.profile.sample < 1) spec.sample = item.profile.sample;
    auto left = std::chrono::ceil<Millis>(until - std::chrono::steady_clock::now());
    auto request = encode_probe(spec, session->peer());
    auto reply =
        co_await AgentSession::control(session, std::move(request), std::max(left, Millis(1)));
    NodeOutcome outcome{session->peer(), std::nullopt, {}};
    if (!reply) {
      outcome.error = reply.error();
    } else if (!reply->term.is_tuple("ok", 2)) {
      outcome.error = refusal_of(reply->term);
    } else {
      auto bytes = reply->term.element(1).bytes();
      outcome.prediction.assign(bytes.begin(), bytes.end());
    }
    item.nodes.push_back(std::move(outcome));
  }
  --*pending;
  done->notify();
}

Awaitable<void> Agents::watch_expiry(Agents& agents) {
  while (!agents.stopping_) {
    auto now = agents.store_.now();
    // The agents end a trace by themselves at its limit; a little later it is stopped for whoever missed that.
    std::int64_t next = now.ns + 3'600'000'000'000;
    std::optional<std::uint64_t> over;
    for (const auto& [id, trace] : agents.traces_) {
      if (!trace.expires) continue;
      auto end = trace.expires->ns + 500'000'000;
      if (end <= now.ns) over = id;
      next = std::min(next, end);
    }
    if (over) {
      if (agents.trace_ended_) agents.trace_ended_(*over, {}, "its time was over");
      (void)co_await agents.stop_trace(over);
    } else {
      co_await agents.traces_changed_->wait_for(Millis((next - now.ns) / 1'000'000 + 1));
    }
  }
}

Awaitable<Result<StopOutcome>> Agents::stop_trace(std::optional<std::uint64_t> id) {
  StopOutcome outcome;
  if (id && !traces_.contains(*id)) {
    co_return fail(Code::no_such_trace, "no trace with that id is active; status lists them", "id",
                   std::to_string(*id));
  }
  for (const auto& [n, trace] : traces_) {
    if (!id || n == *id) outcome.ids.push_back(n);
  }
  for (auto n : outcome.ids) traces_.erase(n);
  auto sessions = sessions_;
  for (const auto& [name, session] : sessions) {
    if (session->state() != AgentState::live) continue;
    std::optional<Error> error;
    for (auto n : outcome.ids) {
      TermBuilder request;
      request.tuple(2).atom("stop").unsigned_integer(n);
      auto bytes = request.bytes();
      auto reply =
          co_await AgentSession::control(session, {bytes.begin(), bytes.end()}, kControlTimeout);
      if (!reply) error = reply.error();  // not_found there is as good as stopped
    }
    outcome.nodes.push_back({name, error});
  }
  changed();
  co_return outcome;
}

// An agent that is not live now hears of it when it is attached again.
void Agents::redaction_changed() {
  TermBuilder request;
  request.tuple(2).atom("configure").map(1).atom("redact");
  write_redaction(request, config_);
  const auto bytes = request.bytes();
  const std::vector<std::byte> owned(bytes.begin(), bytes.end());
  for (const auto& [name, session] : sessions_) {
    if (session->state() == AgentState::live) spawn(io_, "configure", configure(session, owned));
  }
}

Awaitable<void> Agents::configure(std::shared_ptr<AgentSession> session,
                                  std::vector<std::byte> request) {
  const std::string node = session->peer();
  auto reply = co_await AgentSession::control(session, std::move(request), kControlTimeout);
  if (!reply) {
    spdlog::warn("{}: what is redacted there has not changed yet: {}", node,
                 to_string(reply.error()));
  }
}

bool Agents::wants(const TraceSpec& spec, std::string_view node) const {
  if (!spec.nodes.empty() && std::ranges::find(spec.nodes, node) == spec.nodes.end()) return false;
  if (!spec.follow.empty()) return true;  // tokens go everywhere
  // A trace of single processes concerns their nodes only; on others it would name nobody, which means everybody.
  return spec.all || (spec.pids.empty() && spec.names.empty()) ||
         std::ranges::any_of(spec.pids, [&](const auto& p) { return p.node == node; }) ||
         std::ranges::any_of(spec.names,
                             [&](const auto& n) { return n.node.empty() || n.node == node; });
}

Awaitable<void> Agents::went_live(std::shared_ptr<AgentSession> session) {
  spdlog::info("{}: recording (OTP {}, capture {})", session->peer(), session->info().otp,
               session->info().capture);
  // What it traces already, started by us before the link was lost or by a daemon before us.
  std::vector<std::uint64_t> there;
  TermBuilder status;
  status.atom("status");
  auto bytes = status.bytes();
  auto reply =
      co_await AgentSession::control(session, {bytes.begin(), bytes.end()}, kControlTimeout);
  if (reply) {
    for (auto& found : read_traces(reply->term)) {
      there.push_back(found.id);
      traces_.try_emplace(found.id, Trace{found.spec, found.meta.by, found.meta.expires, {}, {}});
    }
    traces_changed_->notify();
  }
  auto outcomes = std::make_unique<std::vector<NodeOutcome>>();
  std::vector<std::uint64_t> ids;
  for (const auto& [id, trace] : traces_) ids.push_back(id);
  for (auto id : ids) {
    auto it = traces_.find(id);
    if (it == traces_.end() || !wants(it->second.spec, session->peer())) continue;
    if (std::ranges::find(there, id) != there.end()) continue;
    // Asked for since it is live, and perhaps not begun when it said what it traces.
    const auto asked = it->second.asked.find(session->peer());
    if (asked != it->second.asked.end() && asked->second == session->epoch()) continue;
    auto done = std::make_shared<Signal>(io_);
    co_await start_on(*this, session, id, *outcomes, done);
    if (!outcomes->empty() && outcomes->back().error) {
      spdlog::warn("{}: trace {} does not start: {}", session->peer(), id,
                   to_string(*outcomes->back().error));
    }
  }
  changed();
}

void Agents::stopped_by_itself(const std::string& node, std::uint64_t id, const std::string& why) {
  spdlog::info("{}: trace {} ended there: {}", node, id, why);
  if (auto it = traces_.find(id); it != traces_.end()) {
    it->second.ended[node] = why;
    if (trace_ended_) trace_ended_(id, node, why);
  }
  changed();
}

Awaitable<void> Agents::detach_all(Millis timeout) {
  stopping_ = true;
  traces_.clear();
  traces_changed_->notify();
  auto sessions = sessions_;
  std::size_t left = 0;
  auto done = std::make_shared<Signal>(io_);
  auto counter = std::make_shared<std::size_t>(0);
  for (auto& [name, session] : sessions) {
    ++left;
    spawn(io_, "detach", detach_one(session, timeout, counter, done));
  }
  auto until = std::chrono::steady_clock::now() + timeout + 500ms;
  while (*counter < left && std::chrono::steady_clock::now() < until)
    co_await done->wait_for(100ms);
}

Awaitable<void> Agents::detach_one(std::shared_ptr<AgentSession> session, Millis timeout,
                                   std::shared_ptr<std::size_t> counter,
                                   std::shared_ptr<Signal> done) {
  auto status = co_await AgentSession::detach(session, timeout);
  if (!status) spdlog::warn("{}: not detached: {}", session->peer(), to_string(status.error()));
  ++*counter;
  done->notify();
}

// --- status -------------------------------------------------------------------------------------

std::vector<NodeStatus> Agents::node_status() const {
  std::vector<NodeStatus> out;
  for (const auto& [name, session] : sessions_) {
    NodeStatus status;
    status.node = name;
    bool live = session->state() == AgentState::live;
    bool tracing = live && std::ranges::any_of(traces_, [&](const auto& t) {
                     return wants(t.second.spec, name) && !t.second.ended.contains(name);
                   });
    status.state = live && session->silent() ? "silent"
                   : tracing                 ? "tracing"
                   : live                    ? "connected"
                                             : std::string(state_name(session->state()));
    status.detail = session->reason();
    status.otp = session->info().otp;
    status.arch = session->info().arch;
    status.agent_id = session->info().agent_id;
    status.capture = live ? session->info().capture : "none";
    if (live) status.capture_reason = session->info().capture_reason;
    status.incarnation = session->incarnation();
    if (live) {
      status.dropped = session->info().dropped;
      status.spending = session->info().spending;
      status.budget_percent = status.spending.budget_percent;
      status.spent_percent = status.spending.spent_percent;
      status.hold_seconds = status.spending.hold_seconds;
    }
    out.push_back(std::move(status));
  }
  return out;
}

std::vector<TracingStatus> Agents::tracing() const {
  std::vector<TracingStatus> out;
  for (const auto& [id, trace] : traces_) {
    TracingStatus status{id, trace.by, trace.spec, trace.expires, {}};
    for (const auto& [name, session] : sessions_) {
      const auto& known = session->info().spending.traces;
      if (session->state() != AgentState::live) continue;
      if (auto it = known.find(id); it != known.end()) status.spent[name] = it->second;
    }
    out.push_back(std::move(status));
  }
  return out;
}

namespace {

analysis::TraceScope scope_of(const TraceSpec& spec) {
  return {traced_types(spec),  spec.all || (spec.pids.empty() && spec.names.empty()),
          !spec.names.empty(), spec.pids,
          spec.modules,        spec.mfas};
}

}  // namespace

std::shared_ptr<const analysis::Coverage> Agents::coverage() const {
  auto coverage = std::make_shared<analysis::Coverage>();
  for (const auto& [name, session] : sessions_) {
    const bool live = session->state() == AgentState::live;
    bool traced = false;
    std::uint32_t types = 0;
    std::vector<std::uint64_t> ids;
    analysis::NodeScope scope;
    scope.node = name;
    std::map<std::uint32_t, double>
        shares;                     // as the agent has it: for what a trace flag makes, the
    std::optional<double> fan_out;  // largest sample; the largest of those that want messages
    for (const auto& [id, trace] : traces_) {
      if (!live || !wants(trace.spec, name) || trace.ended.contains(name)) continue;
      traced = true;
      types |= traced_types(trace.spec);
      ids.push_back(id);
      scope.traces.push_back(scope_of(trace.spec));
      if (trace.spec.sample && *trace.spec.sample < 1) {
        coverage->sampled.push_back({name, *trace.spec.sample});
      }
      for (const auto* flag : {"call", "send", "receive", "procs"}) {
        const auto made = analysis::types_of_flag(flag);
        if ((traced_types(trace.spec) & made) != 0)
          shares[made] = std::max(shares[made], trace.spec.sample.value_or(1));
      }
      constexpr auto kMessages = 1u << static_cast<unsigned>(codec::EventType::message_send) |
                                 1u << static_cast<unsigned>(codec::EventType::message_fetch);
      if ((traced_types(trace.spec) & kMessages) != 0)
        fan_out = std::max(fan_out.value_or(0), trace.spec.fan_out.value_or(1));
    }
    for (const auto& [made, rate] : shares)
      if (rate < 1) coverage->shares.push_back({name, made, rate});
    if (fan_out && *fan_out < 1) coverage->sampled.push_back({name, *fan_out, true});
    for (unsigned t = 1; t <= codec::kMaxEventType; ++t) {
      if ((traceable_types() >> t & 1) == 0) continue;
      const auto known = kind_since_.find({name, t});
      if ((types >> t & 1) != 0) {
        kind_since_[{name, t}] = std::nullopt;
        continue;
      }
      if (known != kind_since_.end() && !known->second)
        known->second = live ? store_.now() : session->heard_at();
      if (traced)
        coverage->kinds.push_back({name, static_cast<codec::EventType>(t),
                                   known == kind_since_.end() ? std::nullopt : known->second});
    }
    const auto [traced_by, first] = scopes_.try_emplace(name, ids, std::nullopt);
    if (!first && traced_by->second.ids != ids) traced_by->second = {ids, store_.now()};
    scope.since = traced_by->second.since;
    if (traced) {
      coverage->scopes.push_back(std::move(scope));
      not_traced_since_[name] = std::nullopt;
      const auto& spending = session->info().spending;
      if (!spending.rung.empty() && spending.rung != "full") {
        coverage->not_traced.push_back(
            {name, fmt::format("stepped down to {}: {}", spending.rung, spending.cause), {}});
      }
      continue;
    }
    // What it did up to then has come, or is a gap.
    std::optional<ClusterTime> since;
    if (const auto known = not_traced_since_.find(name); known != not_traced_since_.end()) {
      if (!known->second) known->second = live ? store_.now() : session->heard_at();
      since = known->second;
    }
    auto reason = live ? "no trace is active there"
                       : fmt::format("{}{}{}", state_name(session->state()),
                                     session->reason().empty() ? "" : ": ", session->reason());
    coverage->not_traced.push_back({name, std::move(reason), since});
  }
  return coverage;
}

}  // namespace scope::node
