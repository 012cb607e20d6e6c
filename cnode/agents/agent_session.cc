#include "cnode/agents/agent_session.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>

#include "analysis/clock_model.h"
#include "cnode/agents/agent_beams.h"
#include "cnode/agents/agents.h"
#include "cnode/agents/deployment.h"
#include "cnode/agents/signal.h"
#include "cnode/dist/spawn.h"
#include "cnode/redaction.h"
#include "ei_codec/term_print.h"

namespace scope::node {
namespace {

using namespace std::chrono_literals;
using codec::TermBuilder;
using codec::TermView;

constexpr Millis kHelloTimeout = 5s;
constexpr Millis kFirstBackoff = 250ms, kLastBackoff = 10s;
constexpr Millis kRefusedRetry = 15s;
constexpr Millis kStatusEvery = 2s;
constexpr Millis kSilentAfter = 3s, kCutAfter = 15s;
constexpr std::size_t kMaxPings = 64;
constexpr std::size_t kMaxControls = 256;

std::vector<std::byte> owned(const TermBuilder& b) {
  auto bytes = b.bytes();
  return {bytes.begin(), bytes.end()};
}

std::string ref_key(const codec::RefParts& r) {
  return fmt::format("{}:{}", r.creation, fmt::join(std::span(r.ids, r.count), "."));
}

std::string text_of(const TermView& map, std::string_view key) {
  if (auto m = map.map()) {
    if (auto v = m->find(key)) return v->text().value_or("");
  }
  return {};
}

std::uint64_t number_of(const TermView& map, std::string_view key, std::uint64_t fallback = 0) {
  if (auto m = map.map()) {
    if (auto v = m->find(key)) return v->unsigned_integer().value_or(fallback);
  }
  return fallback;
}

}  // namespace

std::string_view state_name(AgentState state) {
  switch (state) {
    case AgentState::connecting:
      return "connecting";
    case AgentState::down:
      return "down";
    case AgentState::probing:
      return "probing";
    case AgentState::deploying:
      return "deploying";
    case AgentState::attaching:
      return "attaching";
    case AgentState::live:
      return "live";
    case AgentState::refused:
      return "refused";
    case AgentState::closed:
      return "closed";
  }
  return "closed";
}

AgentSession::AgentSession(boost::asio::io_context& io, Node& node, store::TraceStore& store,
                           Agents& agents, const Config& config, std::uint64_t daemon_id,
                           std::string peer)
    : io_(io),
      node_(node),
      store_(store),
      agents_(agents),
      config_(config),
      daemon_id_(daemon_id),
      peer_(std::move(peer)),
      signal_(std::make_unique<Signal>(io)) {
  self_pid_ = node_.spawn_process(this);
}

AgentSession::~AgentSession() { node_.end_process(self_pid_); }

void AgentSession::set_state(AgentState state, std::string reason) {
  if (state == state_ && reason == reason_) return;
  state_ = state;
  reason_ = std::move(reason);
  spdlog::log(state == AgentState::refused ? spdlog::level::warn : spdlog::level::debug,
              "{}: {}{}{}", peer_, state_name(state_), reason_.empty() ? "" : ": ", reason_);
  signal_->notify();
  agents_.changed();
}

void AgentSession::close() {
  closing_ = true;
  set_state(AgentState::closed, "stopped");
}

void AgentSession::wake() {
  if (state_ == AgentState::down || state_ == AgentState::refused) {
    wake_ = true;
    signal_->notify();
  }
}

Awaitable<void> AgentSession::run(std::shared_ptr<AgentSession> self) {
  Millis backoff = kFirstBackoff;
  auto last_live = std::chrono::steady_clock::now();
  while (!self->closing_) {
    Status up = co_await self->establish();
    if (self->closing_) break;
    if (up) {
      backoff = kFirstBackoff;
      while (self->state_ == AgentState::live) co_await self->signal_->wait_for(1h);
      last_live = std::chrono::steady_clock::now();
      // lost: try again at once, then slower.
    } else {
      bool refused = up.error().code == Code::owned_by || up.error().code == Code::refused ||
                     up.error().code == Code::auth_failed;
      self->set_state(refused ? AgentState::refused : AgentState::down, up.error().message);
      const Millis forget_after(self->config_.forget_ms);
      if (!refused && !self->given && std::chrono::steady_clock::now() - last_live > forget_after) {
        co_return self->agents_.forget(self->peer_);  // found again if it comes back
      }
      auto until = std::chrono::steady_clock::now() + (refused ? kRefusedRetry : backoff);
      backoff = std::min(backoff * 2, kLastBackoff);
      self->wake_ = false;
      while (!self->closing_ && !self->wake_) {
        auto left = std::chrono::ceil<Millis>(until - std::chrono::steady_clock::now());
        if (left <= 0ms) break;
        co_await self->signal_->wait_for(left);
      }
      if (self->wake_) backoff = kFirstBackoff;
    }
  }
}

Awaitable<Status> AgentSession::establish() {
  ++epoch_;
  hello_seen_ = false;
  refusal_.reset();
  set_state(AgentState::connecting, reason_);
  CO_RETURN_IF_ERROR(co_await node_.connect(peer_));
  set_state(AgentState::probing);
  CO_ASSIGN_OR_RETURN(auto there, co_await find_agent(node_, peer_));
  if (!there) {
    set_state(AgentState::deploying);
    CO_RETURN_IF_ERROR(
        co_await deploy(node_, peer_, self_pid_, attach_options(config_.capture == "native")));
  } else {
    TermBuilder attach;
    attach.tuple(3).atom("attach").pid(self_pid_.parts()).raw(attach_options());
    CO_RETURN_IF_ERROR(node_.send(NameAt{"scope_agent", peer_}, attach.bytes(), self_pid_));
  }
  set_state(AgentState::attaching);
  CO_RETURN_IF_ERROR(co_await await_hello());
  if (info_.version != agent_version()) {
    // An agent of another build: it drains, goes, and ours comes at the next try.
    spdlog::info("{}: replacing an agent of another version ({})", peer_, info_.version);
    set_state(AgentState::live);
    send_resume();
    auto gone = co_await detach_agent(shared_from_this(), 10s);
    set_state(AgentState::down, "replacing an agent of another version");
    if (!gone) co_return std::unexpected(gone.error());
    wake_ = true;
    co_return fail(Code::node_down, "agent of another version was replaced; attaching again");
  }
  set_state(AgentState::live);
  note_unrecorded();
  send_resume();
  spawn(io_, "agent pings", keep_pinging(shared_from_this(), epoch_));
  spawn(io_, "agent status", keep_asking(shared_from_this(), epoch_));
  spawn(io_, "agent went live", agents_.went_live(shared_from_this()));
  co_return Status{};
}

std::vector<std::byte> AgentSession::attach_options(bool with_library) const {
  TermBuilder b;
  b.map(with_library ? 11 : 10);
  if (with_library) b.atom("library").binary(agent_library());
  b.atom("proto").integer(1);
  b.atom("daemon").atom(node_.name());
  b.atom("daemon_id").unsigned_integer(daemon_id_);
  b.atom("store_id").unsigned_integer(store_.store_id());
  b.atom("version").binary(agent_version());
  b.atom("lease_ms").unsigned_integer(config_.lease_ms);
  b.atom("grace_ms").unsigned_integer(config_.grace_ms);
  b.atom("hold_bytes").unsigned_integer(config_.hold_bytes);
  b.atom("redact");
  write_redaction(b, config_);
  b.atom("budget").map(4);
  b.atom("cpu").real(std::strtod(config_.budget_percent.c_str(), nullptr));
  b.atom("memory").unsigned_integer(config_.budget_memory);
  b.atom("events").unsigned_integer(config_.budget_events);
  b.atom("bytes").unsigned_integer(config_.budget_bytes);
  return owned(b);
}

Awaitable<Status> AgentSession::await_hello() {
  auto until = std::chrono::steady_clock::now() + kHelloTimeout;
  while (!hello_seen_ && !refusal_ && state_ == AgentState::attaching) {
    auto left = std::chrono::ceil<Millis>(until - std::chrono::steady_clock::now());
    if (left <= 0ms) co_return fail(Code::timeout, "the agent does not say hello");
    co_await signal_->wait_for(left);
  }
  if (refusal_) co_return std::unexpected(*refusal_);
  if (!hello_seen_) co_return fail(Code::closed, "the session was closed");

  if (monitor_) node_.demonitor(monitor_);
  monitor_ = node_.monitor(self_pid_, Target(agent_));
  auto number = [store = &store_, node = peer_, creation = info_.creation,
                 agent_id = info_.agent_id] {
    return store->incarnation(node, creation, agent_id);
  };
  CO_ASSIGN_OR_RETURN(incarnation_info_, co_await offload(agents_.store_calls(), number));
  if (incarnation_ != incarnation_info_.number) {
    incarnation_ = incarnation_info_.number;
    clock_ = std::make_unique<analysis::ClockEstimator>(incarnation_);
  }
  co_return Status{};
}

// What an earlier agent of this node recorded has an end, and this one begins now: what lies between is a gap.
void AgentSession::note_unrecorded() {
  if (incarnation_info_.last_committed_seq > 0) return;  // this one was here before
  const auto view = store_.snapshot();
  Incarnation before = kNoIncarnation;
  for (const auto& info : view->incarnations()) {
    if (info.node == peer_ && info.agent_id != 0 && info.number < incarnation_)
      before = info.number;
  }
  const auto until = view->complete_until(before);
  if (!until) return;
  const auto now = analysis::ClockModel(*view).raw(before, store_.now()).time;
  if (now <= *until) return;
  if (auto stored = store_.add_gap(before, "not_recorded", *until, now); !stored)
    agents_.count(Counter::gaps_not_stored);
}

void AgentSession::send_resume() {
  waiting_.clear();
  waiting_bytes_ = 0;
  auto key = store_.hash_key();
  TermBuilder b;
  b.tuple(2).atom("resume").map(7);
  b.atom("daemon_id").unsigned_integer(daemon_id_);
  b.atom("store_id").unsigned_integer(store_.store_id());
  b.atom("last_committed_seq").unsigned_integer(incarnation_info_.last_committed_seq);
  b.atom("credit").unsigned_integer(config_.credit_bytes);
  b.atom("lease_ms").unsigned_integer(config_.lease_ms);
  b.atom("hash_key").binary(codec::Bytes(key));
  b.atom("api").integer(1);
  if (auto sent = node_.send(agent_, b.bytes(), self_pid_); !sent) lost(sent.error().message);
}

Awaitable<void> AgentSession::keep_pinging(std::shared_ptr<AgentSession> self,
                                           std::uint64_t epoch) {
  boost::asio::steady_timer timer(self->io_);
  boost::system::error_code ec;
  int beats = 0;
  while (self->state_ == AgentState::live && self->epoch_ == epoch) {
    auto now = self->store_.now();
    TermBuilder b;
    b.tuple(3).atom("ping").unsigned_integer(self->next_ping_).integer(now.ns);
    self->pings_[self->next_ping_++] = now;
    if (self->pings_.size() > kMaxPings) self->pings_.erase(self->pings_.begin());
    // A refused send (full queue) is a lost ping; the agent's lease tells it.
    (void)self->node_.send(self->agent_, b.bytes(), self->self_pid_);
    // The first second pings quickly: the clock's first bound is the best of many.
    ++beats;
    const auto wait = beats < 16 ? 20ms : beats < 32 ? 60ms : Millis(self->config_.ping_ms);
    timer.expires_after(wait);
    co_await timer.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ec));
    self->silence_ +=
        wait;  // not by the clock: had we stood still, the answers may be waiting here
    if (self->silence_ > kCutAfter && self->state_ == AgentState::live && self->epoch_ == epoch) {
      spdlog::warn("{}: not heard of for {} s; cutting the link", self->peer_,
                   std::chrono::floor<std::chrono::seconds>(self->silence_).count());
      self->node_.disconnect(self->peer_);
    }
  }
}

bool AgentSession::silent() const { return silence_ > kSilentAfter; }

void AgentSession::on_message(Message message) {
  const TermView& t = message.term;
  auto arity = t.arity();
  heard_at_ = store_.now();
  silence_ = {};
  if (!arity || *arity < 2) return agents_.count(Counter::unexpected_messages);
  auto tag = t.element(0).atom().value_or("");
  if (tag == "batch") return on_batch(std::move(message));
  if (tag == "pong" && (*arity == 4 || *arity == 5))  // 4: an older build's, to be replaced
    return on_pong(t);
  if (tag == "hello" && *arity == 2) return on_hello(message);
  if (tag == "nodes" && *arity == 2) return on_nodes(t.element(1));
  if (tag == "control_reply" && *arity == 3) return on_control_reply(message);
  if (tag == "stopped" && *arity == 3) return on_stopped(t);
  if (tag == "bye" && *arity == 2) {
    spdlog::info("{}: the agent leaves: {}", peer_,
                 codec::print(t.element(1), codec::Syntax::erlang, 200));
    return;  // its end comes by the monitor
  }
  if (tag == "error" && *arity == 2) {
    auto reason = t.element(1);
    bool owned_by = reason.is_tuple("owned_by", 2);
    refusal_ = Error{owned_by ? Code::owned_by : Code::refused,
                     owned_by ? fmt::format("{} is recorded by {}", peer_,
                                            reason.element(1).text().value_or("another daemon"))
                              : fmt::format("the agent on {} refuses: {}", peer_,
                                            codec::print(reason, codec::Syntax::erlang, 200)),
                     {},
                     {}};
    return signal_->notify();
  }
  agents_.count(Counter::unexpected_messages);
}

void AgentSession::on_hello(const Message& message) {
  auto hello = message.term.element(1);
  auto agent = hello.map() ? hello.map()->find("agent") : std::nullopt;
  if (!agent || !agent->pid()) return agents_.count(Counter::unexpected_messages);
  agent_ = Pid(*agent->pid());
  info_.agent_id = number_of(hello, "agent_id");
  info_.creation = static_cast<std::uint32_t>(number_of(hello, "creation"));
  info_.first_seq = number_of(hello, "first_seq");
  info_.next_seq = number_of(hello, "next_seq");
  info_.otp = text_of(hello, "otp");
  info_.arch = text_of(hello, "arch");
  info_.capture = text_of(hello, "capture");
  info_.capture_reason = text_of(hello, "capture_reason");
  if (info_.capture_reason == "none") info_.capture_reason.clear();
  if (config_.capture == "native" && info_.capture != "native") {
    spdlog::warn("{}: captured by the Erlang tracer: {}", peer_, info_.capture_reason);
  }
  info_.elixir = text_of(hello, "elixir");
  info_.version = text_of(hello, "version");
  if (auto nodes = hello.map()->find("nodes")) on_nodes(*nodes);
  hello_seen_ = true;
  signal_->notify();
}

void AgentSession::on_nodes(const TermView& nodes) {
  // Hidden nodes are remote consoles, command lines and other recorders: joined only when the user names them.
  auto visible = nodes.map() ? nodes.map()->find("visible") : std::nullopt;
  auto list = visible ? visible->list() : std::nullopt;
  for (; list && !list->done(); list->next()) {
    if (auto name = list->item().atom()) agents_.heard_of(*name);
  }
}

void AgentSession::on_stopped(const TermView& stopped) {
  if (auto id = stopped.element(1).unsigned_integer()) {
    agents_.stopped_by_itself(peer_, *id,
                              codec::print(stopped.element(2), codec::Syntax::erlang, 200));
  }
}

void AgentSession::on_batch(Message message) {
  auto header = codec::read_batch_header(message.term);
  if (!header || header->agent_id != info_.agent_id || state_ != AgentState::live) {
    return agents_.count(Counter::batches_refused);
  }
  last_raw_ = header->clock_raw;
  for (auto gaps = header->gaps.list(); gaps && !gaps->done(); gaps->next()) {
    if (auto gap = codec::read_gap(gaps->item()); gap && gap->count) info_.dropped += *gap->count;
  }
  waiting_bytes_ += message.packet.size;
  if (waiting_bytes_ > 2 * config_.credit_bytes + config_.max_packet_bytes) {
    return agents_.count(
        Counter::batches_refused);  // an agent that heeds no credit; the next resume repairs it
  }
  waiting_.push_back(
      {{incarnation_, header->seq, message.packet.data, message.term}, message.packet.size});
  push_waiting();
}

void AgentSession::push_waiting() {
  while (!waiting_.empty()) {
    if (!store_.append(waiting_.front().batch)) {
      agents_.count(Counter::store_full);
      return;  // tried again at the next commit; meanwhile the agent gets no credit
    }
    waiting_bytes_ -= waiting_.front().bytes;
    waiting_.pop_front();
  }
}

void AgentSession::committed(std::uint64_t seq) {
  push_waiting();
  if (state_ != AgentState::live) return;
  incarnation_info_.last_committed_seq = std::max(incarnation_info_.last_committed_seq, seq);
  // Cumulative and absolute: one that a full queue refuses is made good by the next.
  TermBuilder ack, credit;
  ack.tuple(2).atom("ack").unsigned_integer(seq);
  (void)node_.send(agent_, ack.bytes(), self_pid_);
  credit.tuple(3).atom("credit").unsigned_integer(seq).unsigned_integer(config_.credit_bytes);
  (void)node_.send(agent_, credit.bytes(), self_pid_);
}

void AgentSession::out_of_order(std::uint64_t expected, std::uint64_t got) {
  spdlog::warn("{}: batch {} came where {} was expected; resuming the session", peer_, got,
               expected);
  agents_.count(Counter::resumes);
  incarnation_info_.last_committed_seq = expected - 1;
  if (state_ == AgentState::live) send_resume();
}

void AgentSession::on_pong(const TermView& pong) {
  auto received = store_.now();
  auto number = pong.element(1).unsigned_integer();
  auto pair = pong.element(3);
  if (!number || pair.arity() != 2u) return agents_.count(Counter::unexpected_messages);
  auto raw = pair.element(0).integer(), system = pair.element(1).integer();
  auto sent = pings_.find(*number);
  if (sent == pings_.end() || !raw || !system || !clock_) return;
  auto versions = clock_->add({sent->second, received, RawTime{*raw}, *system});
  pings_.erase(sent);
  last_raw_ = std::max(last_raw_, RawTime{*raw});
  for (auto& version : versions) {
    if (auto stored = store_.add_clock(version); !stored) agents_.count(Counter::clock_not_stored);
  }
  const auto complete = pong.arity() == 5u ? pong.element(4).integer() : std::nullopt;
  // After the batches that came before it, through the same queue; if they still wait here, it is not true yet. A lost
  // one is made good by the next. And after what the ping says of the clock (clock_pairs.cc).
  if (complete && waiting_.empty()) (void)store_.add_cut(incarnation_, RawTime{*complete});
}

void AgentSession::on_control_reply(const Message& message) {
  auto ref = message.term.element(1).reference();
  auto it = ref ? controls_.find(ref_key(*ref)) : controls_.end();
  if (it == controls_.end()) return;  // too late
  it->second->reply = message.with_term(message.term.element(2));
  it->second->done->notify();
}

Awaitable<Result<Message>> AgentSession::control(std::shared_ptr<AgentSession> self,
                                                 std::vector<std::byte> request, Millis timeout) {
  if (self->state_ != AgentState::live) {
    co_return fail(Code::node_down,
                   fmt::format("no agent on {}: {}", self->peer_,
                               self->reason_.empty() ? state_name(self->state_) : self->reason_));
  }
  if (self->controls_.size() >= kMaxControls) co_return fail(Code::busy, "too many requests wait");
  auto ref = self->node_.make_ref();
  auto key = ref_key(ref.parts());
  auto waiting = std::make_shared<Waiting>();
  waiting->done = std::make_shared<Signal>(self->io_);
  self->controls_[key] = waiting;
  TermBuilder b;
  b.tuple(3).atom("control").reference(ref.parts()).raw(request);
  auto sent = self->node_.send(self->agent_, b.bytes(), self->self_pid_);
  auto until = std::chrono::steady_clock::now() + timeout;
  auto epoch = self->epoch_;
  while (sent && !waiting->reply && self->state_ == AgentState::live && self->epoch_ == epoch) {
    auto left = std::chrono::ceil<Millis>(until - std::chrono::steady_clock::now());
    if (left <= 0ms) break;
    co_await waiting->done->wait_for(left);
  }
  self->controls_.erase(key);
  if (!sent) co_return std::unexpected(sent.error());
  if (waiting->reply) co_return *waiting->reply;
  if (self->state_ != AgentState::live) {
    co_return fail(Code::node_down, fmt::format("{} went away: {}", self->peer_, self->reason_));
  }
  co_return fail(Code::timeout, fmt::format("the agent on {} did not answer", self->peer_));
}

// What the agent spends, every two seconds, for `status` and completeness: no request waits for it.
Awaitable<void> AgentSession::keep_asking(std::shared_ptr<AgentSession> self, std::uint64_t epoch) {
  boost::asio::steady_timer timer(self->io_);
  boost::system::error_code ec;
  TermBuilder request;
  request.atom("status");
  const auto bytes = owned(request);
  while (self->state_ == AgentState::live && self->epoch_ == epoch) {
    auto reply = co_await control(self, bytes, kStatusEvery);
    if (reply && reply->term.is_tuple("ok", 2)) {
      auto spending = read_spending(reply->term.element(1));
      const bool other = spending.rung != self->info_.spending.rung;
      self->info_.spending = std::move(spending);
      if (other) self->agents_.changed();
    }
    timer.expires_after(kStatusEvery);
    co_await timer.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ec));
  }
}

Awaitable<Status> AgentSession::detach_agent(std::shared_ptr<AgentSession> self, Millis timeout) {
  if (self->state_ != AgentState::live) co_return Status{};
  auto until = std::chrono::steady_clock::now() + timeout;
  TermBuilder unload;
  unload.atom("unload");
  auto asked = co_await control(self, owned(unload), timeout);
  if (!asked) co_return std::unexpected(asked.error());
  // It drains, waits for its last ack and goes: the monitor tells.
  while (self->state_ == AgentState::live) {
    auto left = std::chrono::ceil<Millis>(until - std::chrono::steady_clock::now());
    if (left <= 0ms)
      co_return fail(Code::timeout, fmt::format("the agent on {} does not end", self->peer_));
    co_await self->signal_->wait_for(left);
  }
  co_return Status{};
}

Awaitable<Status> AgentSession::detach(std::shared_ptr<AgentSession> self, Millis timeout) {
  self->closing_ = true;  // its end, when it comes, is no reason to bring another agent there
  auto until = std::chrono::steady_clock::now() + timeout;
  auto left = timeout;
  // A deployment under way is finished first: half of it would stay behind.
  while ((self->state_ == AgentState::probing || self->state_ == AgentState::deploying ||
          self->state_ == AgentState::attaching) &&
         left > 0ms) {
    co_await self->signal_->wait_for(left);
    left = std::chrono::ceil<Millis>(until - std::chrono::steady_clock::now());
  }
  auto status = co_await detach_agent(self, std::max(left, Millis(100)));
  self->close();
  co_return status;
}

void AgentSession::on_down(const Ref& monitor, const Target&, const Message& reason) {
  if (!(monitor == monitor_)) return;
  monitor_ = {};
  lost(fmt::format("the agent ended: {}", codec::print(reason.term, codec::Syntax::erlang, 100)));
}

void AgentSession::link_down(std::string_view reason) {
  if (state_ == AgentState::live || state_ == AgentState::attaching) {
    lost(fmt::format("the link was lost: {}", reason));
  }
}

void AgentSession::lost(std::string reason) {
  if (state_ == AgentState::closed) return;
  if (state_ == AgentState::live) agents_.count(Counter::sessions_lost);
  set_state(AgentState::down, std::move(reason));
  for (auto& [key, waiting] : controls_) waiting->done->notify();
}

}  // namespace scope::node
