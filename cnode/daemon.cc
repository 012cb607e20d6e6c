#include "cnode/daemon.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <charconv>
#include <map>

#include "cnode/agents/agents.h"
#include "cnode/agents/clock_refiner.h"
#include "cnode/agents/signal.h"
#include "cnode/audit.h"
#include "cnode/dist/node.h"
#include "cnode/dist/spawn.h"
#include "cnode/dist/tls.h"
#include "cnode/otp/otp.h"
#include "cnode/redaction.h"
#include "cnode/service/edge_deriver.h"
#include "cnode/service/service.h"
#include "cnode/subscriptions.h"
#include "cnode/version.h"
#include "ei_codec/term_print.h"
#include "store/trace_store.h"

namespace scope::node {
namespace {

using namespace std::chrono_literals;
using codec::TermBuilder;
using codec::TermView;

constexpr Millis kDetachTimeout = 8s;
constexpr std::size_t kMostQuestionBytes = 1u << 20;

store::StoreOptions store_options(const Config& c) {
  store::StoreOptions o;
  o.path = c.db;
  o.partition_bytes = c.partition_bytes;
  o.retain_bytes = c.retain_bytes;
  o.retain_age_ns = static_cast<std::int64_t>(c.retain_ms) * 1'000'000;
  if (o.retain_age_ns > 0)
    o.partition_age_ns = std::max<std::int64_t>(60'000'000'000, o.retain_age_ns / 20);
  o.queue_bytes = c.store_queue_bytes;
  return o;
}

// Takes the ports out of `nodes`: name@host:port becomes name@host.
Result<std::map<std::string, std::uint16_t, std::less<>>> take_ports(
    std::vector<std::string>& nodes) {
  std::map<std::string, std::uint16_t, std::less<>> out;
  for (auto& node : nodes) {
    const auto colon = node.find(':');
    if (colon == node.npos) continue;
    unsigned port = 0;
    const auto* end = node.data() + node.size();
    const auto [at, ec] = std::from_chars(node.data() + colon + 1, end, port);
    if (ec != std::errc{} || at != end || port == 0 || port > 65535)
      return fail(Code::bad_value, "must be name@host or name@host:port", "node", node);
    node.resize(colon);
    out[node] = static_cast<std::uint16_t>(port);
  }
  return out;
}

Result<NodeOptions> node_options(const Config& c) {
  NodeOptions o;
  o.name = c.name.empty() ? "scope" : c.name;
  o.longnames = c.longnames;
  if (!c.cookie.empty()) {
    o.cookie = Cookie(c.cookie);
  } else {
    ASSIGN_OR_RETURN(
        o.cookie, c.cookie_file.empty() ? Cookie::from_home() : Cookie::from_file(c.cookie_file));
  }
  CookiesByNode cookies;
  for (const auto& given : c.cookies) {
    const auto split = given.find('=');
    const auto node = given.substr(0, split);
    if (split == given.npos || node.find('@') == node.npos)
      return fail(Code::bad_value, "must be name@host=FILE", "cookie_for", given);
    ASSIGN_OR_RETURN(cookies[node], Cookie::from_file(given.substr(split + 1)));
  }
  if (!cookies.empty()) o.cookies = std::make_shared<const CookiesByNode>(std::move(cookies));
  o.epmd = !c.no_epmd;
  o.listen_address = c.listen;
  o.listen_port_min = static_cast<std::uint16_t>(c.port);
  o.listen_port_max = static_cast<std::uint16_t>(std::max(c.port, c.port_max));
  o.max_packet_bytes = c.max_packet_bytes;
  o.max_incoming_bytes = std::max<std::size_t>(o.max_incoming_bytes, c.max_packet_bytes);
  o.max_queue_bytes = c.link_queue_bytes;
  return o;
}

TlsSettings tls_settings(const Config& c) {
  return {{c.tls_cert, c.tls_key, c.tls_ca, {}, c.tls_verify == "peer"}, c.ssl_dist_optfile};
}

class Daemon : public Process, public Controls, public store::StoreListener {
 public:
  explicit Daemon(Config config)
      : config_(std::move(config)), signals_(io_, SIGINT, SIGTERM), hangup_(io_) {}

  int run() {
    spawn(io_, "daemon", main());
    while (!finished_) io_.run_one();
    // What was closed winds up. Whatever still waits after that would outlive what it refers to.
    io_.run_for(2s);
    if (!io_.stopped()) {
      spdlog::warn("something did not wind up within 2 s; ending all the same");
      spdlog::shutdown();
      std::_Exit(exit_code_);
    }
    return exit_code_;
  }

 private:
  // --- life ---
  Awaitable<void> main() {
    if (auto up = co_await bring_up(); !up) {
      spdlog::error("{}", to_string(up.error()));
      fmt::print(stderr, "scope: {}\n", to_string(up.error()));
      exit_code_ = 1;
    } else {
      boost::system::error_code ec;
      co_await signals_.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ec));
      spdlog::info("stopping: detaching from every node (again: end at once)");
      signals_.async_wait([](boost::system::error_code e, int) {
        if (!e) std::_Exit(130);
      });
      audit_->note("daemon_stop", "a signal", trace_ids());
      co_await agents_->detach_all(kDetachTimeout);
      co_await ClockRefiner::finish(*clock_refiner_);
    }
    otp_.reset();
    if (service_) service_->stop();
    subscriptions_.reset();
    if (edges_) edges_->stop();
    clock_refiner_.reset();
    if (audit_) audit_->close();
    if (store_) store_->close();
    agents_ready_ = false;
    if (node_) node_->stop();
    signals_.cancel();
    hangup_.cancel();
    finished_ = true;
  }

  // SIGHUP: certificates are read again, for links made from then on. What cannot be read changes nothing.
  Awaitable<void> reload_certificates() {
    boost::system::error_code ec;
    for (;;) {
      co_await hangup_.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ec));
      if (ec) co_return;
      if (auto tls = Tls::load(tls_settings(config_))) {
        node_->set_tls(*std::move(tls));
        spdlog::info("certificates were read again");
      } else {
        spdlog::error("certificates stay as they were: {}", to_string(tls.error()));
      }
    }
  }

  Awaitable<Status> bring_up() {
    CO_ASSIGN_OR_RETURN(auto options, node_options(config_));
    CO_ASSIGN_OR_RETURN(options.ports, take_ports(config_.nodes));
    if (const auto settings = tls_settings(config_); settings.wanted()) {
      CO_ASSIGN_OR_RETURN(options.tls, Tls::load(settings));
    }
    auto store = store_options(config_);
    options.counters = store.counters = counters_;
    CO_ASSIGN_OR_RETURN(store_, store::TraceStore::open(store, this));
    node_ = std::make_unique<Node>(io_, std::move(options));
    CO_RETURN_IF_ERROR(co_await node_->start());
    // Without certificates a terminal that goes away ends us as ^C does.
    if (tls_settings(config_).wanted()) {
      hangup_.add(SIGHUP);
      spawn(io_, "hangup", reload_certificates());
    } else {
      signals_.add(SIGHUP);
    }
    CO_ASSIGN_OR_RETURN(profiles_, load_profiles(config_.profiles));
    ServiceOptions service;
    service.profiles = profiles_;
    service.deadline = Millis(config_.query_deadline_ms);
    service.scan_threads =
        static_cast<unsigned>(std::max<std::uint64_t>(1, config_.query_threads / 2));
    service.point_threads = static_cast<unsigned>(
        std::max<std::uint64_t>(1, config_.query_threads - service.scan_threads));
    service.version = kVersion;
    service.node = node_->name();
    audit_ = std::make_unique<Audit>(io_, *store_, *this, counters_);
    // Without them messages are matched when they are asked for.
    if (auto edges = EdgeDeriver::open(*store_, config_.db, counters_)) {
      edges_ = *std::move(edges);
      edges_->start();
      service.edges = edges_;
    } else {
      spdlog::warn("edges of messages are not kept: {}", to_string(edges.error()));
    }
    service_ = std::make_unique<Service>(*store_, *audit_, service);
    CO_ASSIGN_OR_RETURN(pid_, node_->register_process("elixir_scope", this));
    subscriptions_ = std::make_unique<Subscriptions>(io_, *node_, *store_, *service_, pid_);
    agents_ = std::make_unique<Agents>(io_, *node_, *store_, config_, counters_);
    agents_->on_coverage_changed([this] { service_->set_coverage(agents_->coverage()); });
    agents_->on_trace_ended([this](std::uint64_t id, std::string_view node, std::string_view why) {
      audit_->note("ended", why, {id}, node);
    });
    audit_->note("daemon_start", node_->name(), {});
    agents_ready_ = true;
    service_->set_coverage(agents_->coverage());
    agents_->start();
    clock_refiner_ = std::make_unique<ClockRefiner>(io_, *store_, counters_);
    clock_refiner_->start();
    otp_ = std::make_unique<Otp>(io_, *node_, otp_sources());
    auto stats = store_->stats();
    spdlog::info("{} is up, port {}, store {} ({} events)", node_->name(), node_->port(),
                 config_.db, stats.events_stored);
    co_return Status{};
  }

  std::vector<std::uint64_t> trace_ids() const {
    std::vector<std::uint64_t> ids;
    for (const auto& trace : agents_->tracing()) ids.push_back(trace.id);
    return ids;
  }

  // --- what OTP's tools see ---
  OtpSources otp_sources() {
    OtpSources o;
    o.version = kVersion;
    o.link_queue_bytes = config_.link_queue_bytes;
    o.listen_address = config_.listen;
    o.parts = {
        {"scope_store",
         [this] {
           const auto s = store_->stats();
           return PartFigures{s.tail_rows, s.events, s.queue_bytes};
         }},
        {"scope_agents", [this] { return PartFigures{0, counters_->get(Counter::batches), 0}; }},
        {"scope_service", [this] {
           const auto s = service_->stats();
           return PartFigures{s.waiting, s.requests, 0};
         }}};
    o.ask = [this](TermBuilder request, std::move_only_function<void(TermBuilder)> answer) {
      const auto term = std::make_shared<TermBuilder>(std::move(request));
      service_->handle({*codec::view(term->bytes()), term, "observer", node_->name(), nullptr},
                       std::move(answer));
    };
    o.sizes = [this] {
      const auto s = store_->stats();
      return OtpSources::Sizes{agents_->node_status().size(), agents_->tracing().size(),
                               s.events_stored, s.gaps, service_->stats().waiting};
    };
    return o;
  }

  // --- elixir_scope: calls in, replies out ---
  void on_message(Message message) override {
    auto call = read_gen_call(message);
    if (!call) return;  // anything else is not for us; a GenServer would log it
    if (call->request.term.size() > kMostQuestionBytes) {
      const Error error{Code::too_large,
                        fmt::format("a question has at most {} bytes", kMostQuestionBytes),
                        "request",
                        {}};
      (void)node_->reply(call->from, error_reply(error).bytes());
      return;
    }
    auto cancelled = std::make_shared<std::atomic<bool>>(false);
    if (call->from.monitor) callers_[call->from.monitor] = cancelled;
    Request request{call->request.term,
                    message.packet.data,
                    fmt::format("<{}.{}>", call->from.pid.id, call->from.pid.serial),
                    call->from.pid.node,
                    cancelled,
                    call->from.pid};
    auto reply = [this, from = call->from](TermBuilder answer) mutable {
      boost::asio::dispatch(io_, [this, from = std::move(from),
                                  answer = std::move(answer)]() mutable {
        callers_.erase(from.monitor);
        if (auto sent = node_->reply(from, std::move(answer));
            !sent && (sent.error().code == Code::busy || sent.error().code == Code::too_large)) {
          // The peer does not read, or not that much. A short word instead of the answer, if even that fits.
          (void)node_->reply(from, error_reply(sent.error()).bytes());
        }
      });
    };
    service_->handle(std::move(request), std::move(reply));
  }

  void on_watcher_gone(const Pid&, const Ref& monitor) override {
    if (auto it = callers_.find(monitor); it != callers_.end()) it->second->store(true);
  }

  void on_down(const Ref& monitor, const Target&, const Message&) override {
    if (subscriptions_) subscriptions_->on_down(monitor);
  }

  // --- Controls (on the io thread: handle() is called there) ---
  void status(Reply<StatusInfo> reply) override {
    StatusInfo info;
    info.uptime_ms =
        std::chrono::duration_cast<Millis>(std::chrono::steady_clock::now() - since_).count();
    info.nodes = agents_->node_status();
    info.tracing = agents_->tracing();
    info.subscriptions = subscriptions_->size();
    for (std::size_t i = 0; i < kCounterInfo.size(); ++i) {
      info.counters.push_back({kCounterInfo[i].name, counters_->get(static_cast<Counter>(i)),
                               kCounterInfo[i].severity});
    }
    reply(std::move(info));
  }

  void start(TraceSpec spec, std::string by, Reply<StartOutcome> reply) override {
    spawn(io_, "start_trace", start_trace(std::move(spec), std::move(by), std::move(reply)));
  }
  Awaitable<void> start_trace(TraceSpec spec, std::string by, Reply<StartOutcome> reply) {
    auto outcome = co_await agents_->start_trace(std::move(spec), std::move(by));
    reply(std::move(outcome));
  }

  void profiles(Reply<std::vector<ProfileOutcome>> reply) override {
    spawn(io_, "profiles", probe_profiles(std::move(reply)));
  }
  Awaitable<void> probe_profiles(Reply<std::vector<ProfileOutcome>> reply) {
    auto outcome = co_await agents_->probe(profiles_);
    reply(std::move(outcome));
  }

  void stop(std::optional<std::uint64_t> id, std::string, Reply<StopOutcome> reply) override {
    spawn(io_, "stop_trace", stop_trace(id, std::move(reply)));
  }
  Awaitable<void> stop_trace(std::optional<std::uint64_t> id, Reply<StopOutcome> reply) {
    auto outcome = co_await agents_->stop_trace(id);
    reply(std::move(outcome));
  }

  using Encoded = std::vector<std::byte>;
  static Encoded owned(const TermBuilder& term) {
    const auto bytes = term.bytes();
    return {bytes.begin(), bytes.end()};
  }
  void subscribe(analysis::Filter filter, std::uint64_t demand, std::optional<codec::PidParts> to,
                 std::any asker, Reply<Encoded> reply) override {
    const auto* caller = std::any_cast<Pid>(&asker);
    if (!to && caller == nullptr) return reply(fail(Code::bad_value, "say to which pid", "to"));
    auto ref = subscriptions_->subscribe(std::move(filter), demand, to ? Pid(*to) : *caller);
    if (!ref) return reply(std::unexpected(std::move(ref).error()));
    TermBuilder out;
    out.reference(ref->parts());
    reply(owned(out));
  }
  void demand(const codec::RefParts& ref, std::uint64_t more, Reply<Encoded> reply) override {
    const auto all = subscriptions_->demand(Ref(ref), more);
    if (!all) return reply(std::unexpected(all.error()));
    TermBuilder out;
    out.unsigned_integer(*all);
    reply(owned(out));
  }
  void unsubscribe(const codec::RefParts& ref, Reply<Encoded> reply) override {
    if (auto done = subscriptions_->unsubscribe(Ref(ref)); !done)
      return reply(std::unexpected(std::move(done).error()));
    TermBuilder out;
    out.atom("ok");
    reply(owned(out));
  }

  Status set_list(const Option& option, const TermView& value) {
    const auto add = [&](const TermView& item) {
      return set_option(config_, option.key, item.text().value_or(""));
    };
    auto items = value.list();
    if (!items || value.kind() == codec::TermKind::string) return add(value);
    for (; !items->done(); items->next()) RETURN_IF_ERROR(add(items->item()));
    return {};
  }

  void update_config(std::vector<std::string> path, TermView value, std::string,
                     Reply<std::monostate> reply) override {
    std::string key = path.empty() ? "" : path.back();
    const Option* option = path.size() == 1 ? find_option(key) : nullptr;
    std::string text;
    if (auto i = value.integer()) {
      text = std::to_string(*i);
    } else {
      text = value.text().value_or("");
    }
    if (option && !option->live) {
      return reply(
          fail(Code::refused,
               "this setting is fixed while the daemon runs; restart it with the new value", key));
    }
    // What is given is the whole list.
    std::vector<std::string> before;
    const Config all_before = config_;
    const auto* list =
        option ? std::get_if<std::vector<std::string> Config::*>(&option->field) : nullptr;
    if (list) std::swap(config_.*(*list), before);
    auto set =
        list ? set_list(*option, value)
             : set_option(config_, option ? key : fmt::format("{}", fmt::join(path, ".")), text);
    if (!set && list) std::swap(config_.*(*list), before);
    if (!set) return reply(std::unexpected(set.error()));
    if (key.starts_with("redact")) {
      if (auto checked = check_text_patterns(config_); !checked) {
        config_ = all_before;
        return reply(std::unexpected(checked.error()));
      }
      ++config_.redact_version;
      agents_->redaction_changed();
    }
    if (key == "log_level") spdlog::set_level(spdlog::level::from_str(config_.log_level));
    spdlog::info("{} is now {}", key, text);
    reply(std::monostate{});
  }

  // --- StoreListener (on the writer's thread) ---
  void on_committed(Incarnation incarnation, std::uint64_t seq) override {
    boost::asio::post(io_, [this, incarnation, seq] {
      if (agents_ready_) agents_->committed(incarnation, seq);
    });
  }
  void on_out_of_order(Incarnation incarnation, std::uint64_t expected,
                       std::uint64_t got) override {
    boost::asio::post(io_, [this, incarnation, expected, got] {
      if (agents_ready_) agents_->out_of_order(incarnation, expected, got);
    });
  }
  void on_published() override {}

  Config config_;
  const std::shared_ptr<Counters> counters_ = std::make_shared<Counters>();
  std::vector<Profile> profiles_;
  boost::asio::io_context io_{1};
  boost::asio::signal_set signals_, hangup_;
  std::unique_ptr<store::TraceStore> store_;
  std::unique_ptr<Node> node_;
  std::unique_ptr<Audit> audit_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<Subscriptions> subscriptions_;
  std::unique_ptr<ClockRefiner> clock_refiner_;
  std::shared_ptr<EdgeDeriver> edges_;
  std::unique_ptr<Agents> agents_;
  std::unique_ptr<Otp> otp_;
  Pid pid_;
  std::unordered_map<Ref, std::shared_ptr<std::atomic<bool>>> callers_;
  std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
  bool agents_ready_ = false, finished_ = false;
  int exit_code_ = 0;
};

}  // namespace

int run_daemon(Config config) {
  spdlog::set_level(spdlog::level::from_str(config.log_level));
  return Daemon(std::move(config)).run();
}

}  // namespace scope::node
