#include "cnode/service/requests.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "analysis/clock_model.h"
#include "analysis/get_events.h"
#include "analysis/message_flow.h"
#include "analysis/state_at.h"
#include "analysis/state_history.h"
#include "cnode/service/aggregate_request.h"
#include "cnode/service/audit_request.h"
#include "cnode/service/parse.h"
#include "cnode/service/reply.h"
#include "cnode/service/trace_request.h"

namespace scope::node {
namespace {

using analysis::ClockModel;
using codec::TermBuilder;
using codec::TermView;

constexpr int kApi = 1;

// The filter of a request, and its own deadline if it has one.
Result<analysis::Filter> filter_of(const TermView& options, Env& env) {
  FilterRequest request;
  ASSIGN_OR_RETURN(request, read_filter(options));
  if (request.deadline) env.context.budget.deadline = env.received + *request.deadline;
  return std::move(request.filter);
}

Status hello(const TermView&, Env& env, TermBuilder& out) {
  MapWriter map;
  map.key("api").integer(kApi);
  auto& features = map.key("features");
  for (const auto& request : requests()) {
    if (request.available) features.list_cons().atom(request.name);
  }
  features.nil();
  map.key("version").binary(std::string_view(env.options.version));
  text_or_unknown(map.key("node"), env.options.node);
  map.write(out);
  return {};
}

Status get_events(const TermView& request, Env& env, TermBuilder& out) {
  analysis::Filter filter;
  ASSIGN_OR_RETURN(filter, filter_of(request.element(1), env));
  analysis::EventsPage page;
  ASSIGN_OR_RETURN(page, analysis::get_events(env.context, filter));
  const ClockModel clock(*env.context.view);
  MapWriter map;
  write_cursor(map.key("next"), page.next);
  write_completeness(map.key("completeness"), page.completeness);
  if (page.pid) write_process(map.key("pid"), *page.pid);
  if (page.explain) write_explain(map.key("explain"), *page.explain);
  map.write(out, 1);
  // What may be large stands in memory once: each event is given up as it is written.
  out.atom("events").list(static_cast<std::uint32_t>(page.events.size()));
  for (auto& event : page.events) {
    write_event(out, *env.context.view, clock, event);
    event = {};
  }
  out.nil();
  return {};
}

Status get_state_at(const TermView& request, Env& env, TermBuilder& out) {
  analysis::ProcessSpec process;
  analysis::TimeSpec time;
  ASSIGN_OR_RETURN(process, read_process(request.element(1), "pid"));
  ASSIGN_OR_RETURN(time, read_time(request.element(2), "time"));
  analysis::StateAt at;
  ASSIGN_OR_RETURN(at, analysis::state_at(env.context, process, time));
  const auto& record = at.state.row.record;
  MapWriter map;
  write_payload(map.key("state"), record);
  write_time(map, "time", "time_error", at.state.at);
  map.key("event").event_id(at.state.row.id());
  map.key("certainty").atom(analysis::name(at.certainty));
  auto& why = map.key("why").list(static_cast<std::uint32_t>(at.why.size()));
  for (const auto doubt : at.why) why.atom(analysis::name(doubt));
  why.nil();
  map.key("asked").integer(at.asked.ns);
  if (at.final_until) {
    map.key("final_until").integer(at.final_until->ns);
  } else {
    unknown(map.key("final_until"));
  }
  write_process(map.key("pid"), at.process);
  text_or_unknown(map.key("node"), at.process.node);
  text_or_unknown(map.key("behaviour"), record.mfa.module);
  if (record.has(codec::TraceRecord::kTruncated)) {
    map.key("truncated").unsigned_integer(record.original_bytes);
  }
  if (record.has(codec::TraceRecord::kRedacted)) map.key("redacted").boolean(true);
  write_completeness(map.key("completeness"), at.completeness);
  map.write(out);
  return {};
}

Status get_state_history(const TermView& request, Env& env, TermBuilder& out) {
  analysis::ProcessSpec process;
  analysis::Filter filter;
  ASSIGN_OR_RETURN(process, read_process(request.element(1), "pid"));
  ASSIGN_OR_RETURN(filter, filter_of(request.element(2), env));
  analysis::StateHistory history;
  ASSIGN_OR_RETURN(history, analysis::state_history(env.context, process, filter));
  MapWriter map;
  auto& list = map.key("transitions").list(static_cast<std::uint32_t>(history.transitions.size()));
  for (const auto& t : history.transitions) {
    MapWriter item;
    const auto& record = t.state.row.record;
    item.key("event").event_id(t.state.row.id());
    write_time(item, "time", "time_error", t.state.at);
    text_or_unknown(item.key("callback"), t.callback);
    text_or_unknown(item.key("behaviour"), record.mfa.module);
    if (t.cause) {
      MapWriter cause;
      write_payload(cause.key("message"), t.cause->row.record);
      t.sender ? write_process(cause.key("from"), *t.sender) : unknown(cause.key("from"));
      cause.key("event").event_id(t.cause->row.id());
      cause.write(item.key("cause"));
    } else {
      unknown(item.key("cause"));
    }
    write_payload(item.key("state"), record);
    t.diff ? codec::write_diff(*t.diff, item.key("diff")) : unknown(item.key("diff"));
    item.key("certainty").atom(analysis::name(t.certainty));
    if (record.has(codec::TraceRecord::kTruncated)) {
      item.key("truncated").unsigned_integer(record.original_bytes);
    }
    if (record.has(codec::TraceRecord::kRedacted)) item.key("redacted").boolean(true);
    if (record.has(codec::TraceRecord::kEndState)) item.key("final").boolean(true);
    item.write(list);
  }
  list.nil();
  write_cursor(map.key("next"), history.next);
  write_completeness(map.key("completeness"), history.completeness);
  write_process(map.key("pid"), history.process);
  map.write(out);
  return {};
}

Status get_message_flow(const TermView& request, Env& env, TermBuilder& out) {
  analysis::ProcessSpec a, b;
  analysis::Filter filter;
  ASSIGN_OR_RETURN(a, read_process(request.element(1), "pid_a"));
  ASSIGN_OR_RETURN(b, read_process(request.element(2), "pid_b"));
  ASSIGN_OR_RETURN(filter, filter_of(request.element(3), env));
  analysis::MessageFlow flow;
  ASSIGN_OR_RETURN(flow, analysis::message_flow(env.context, a, b, filter));
  MapWriter map;
  auto& list = map.key("messages").list(static_cast<std::uint32_t>(flow.messages.size()));
  const auto time = [](MapWriter& item, std::string_view key, std::string_view error_key,
                       const std::optional<analysis::FlowPoint>& point) {
    if (point) return write_time(item, key, error_key, point->at);
    unknown(item.key(key));
    unknown(item.key(error_key));
  };
  const auto id = [](MapWriter& ids, std::string_view key,
                     const std::optional<analysis::FlowPoint>& point) {
    point ? void(ids.key(key).event_id(point->id)) : unknown(ids.key(key));
  };
  const auto number = [](TermBuilder& b2, const std::optional<std::int64_t>& n) {
    n ? void(b2.integer(*n)) : unknown(b2);
  };
  for (const auto& m : flow.messages) {
    MapWriter item;
    write_process(item.key("from"), m.a_to_b ? flow.a : flow.b);
    write_process(item.key("to"), m.a_to_b ? flow.b : flow.a);
    write_peer(item.key("to_raw"), *env.context.view, m.send.row);
    write_payload(item.key("message"), m.send.row.record);
    write_time(item, "sent", "sent_error", m.send.at);
    time(item, "fetched", "fetched_error", m.fetch);
    time(item, "taken", "taken_error", m.take);
    number(item.key("latency_ns"), m.latency_ns);
    number(item.key("queue_ns"), m.queue_ns);
    m.error_ns ? error_ns(item.key("error_ns"), *m.error_ns) : unknown(item.key("error_ns"));
    item.key("matched").atom(analysis::name(m.matched));
    item.key("candidates").integer(m.candidates);
    MapWriter ids;
    ids.key("send").event_id(m.send.row.id());
    id(ids, "fetch", m.fetch);
    id(ids, "take", m.take);
    ids.write(item.key("events"));
    if (m.send.row.record.has(codec::TraceRecord::kTruncated)) {
      item.key("truncated").unsigned_integer(m.send.row.record.original_bytes);
    }
    if (m.send.row.record.has(codec::TraceRecord::kRedacted)) item.key("redacted").boolean(true);
    item.write(list);
  }
  list.nil();
  write_cursor(map.key("next"), flow.next);
  write_completeness(map.key("completeness"), flow.completeness);
  map.write(out);
  return {};
}

// The clock of one node as people ask for it: how far its system clock is ahead of the cluster's.
void write_clock(TermBuilder& out, const ClockModel& clock, Incarnation incarnation,
                 ClusterTime now) {
  const auto* version = clock.newest(incarnation);
  if (version == nullptr) return unknown(out);
  const auto raw = clock.raw(incarnation, now);
  const std::int64_t offset = raw.time.ns + version->raw_to_system_ns - now.ns;
  MapWriter map;
  map.key("offset_ns").integer(offset);
  map.key("lower_ns").integer(offset - raw.error_ns);
  map.key("upper_ns").integer(offset + raw.error_ns);
  map.key("error_ns").integer(raw.error_ns);
  map.key("drift_ppm").real(version->drift_ppb / 1000.0);
  map.key("drift_bound_ppm").real(version->drift_bound_ppb / 1000.0);
  map.key("age_ms").integer((now.ns - version->measured_at.ns) / 1'000'000);
  map.key("source").atom(version->source == 2 ? "messages" : "pings");
  map.key("version").unsigned_integer(version->version);
  map.write(out);
}

Status clocks(const TermView&, Env& env, TermBuilder& out) {
  const ClockModel clock(*env.context.view);
  std::map<std::string_view, Incarnation> newest;
  for (const auto& info : env.context.view->incarnations()) {
    auto& chosen = newest[info.node];
    if (chosen == kNoIncarnation || clock.newest(info.number) != nullptr) chosen = info.number;
  }
  MapWriter map, nodes;
  map.key("reference").atom("cluster");
  map.key("version").integer(clock.version());
  for (const auto& [node, incarnation] : newest) {
    write_clock(nodes.key(node), clock, incarnation, env.context.now);
  }
  nodes.write(map.key("nodes"));
  map.write(out);
  return {};
}

Status look_after_store(const TermView& request, Env& env, TermBuilder& out) {
  StoreVerb verb;
  ASSIGN_OR_RETURN(verb, read_store_verb(request.element(1), env.context.now));
  // Room for the answer to travel before the caller's own timeout.
  return env.jobs.run(verb, env.context.budget.deadline - std::chrono::milliseconds(500), out);
}

constexpr RequestDef kRequests[] = {
    {"hello", 1, Lane::points, hello, true, "hello"},
    {"status", 1, Lane::control, nullptr, true, "status"},
    {"start", 2, Lane::control, nullptr, true, "{start, [{modules, [m]}, {for, {5, minute}}]}"},
    {"profiles", 1, Lane::control, nullptr, true, "profiles"},
    {"stop", 2, Lane::control, nullptr, true, "{stop, Id | all}"},
    {"update_config", 3, Lane::control, nullptr, true, "{update_config, Path, Value}"},
    {"get_events", 2, Lane::scans, get_events, true,
     "{get_events, #{pid => Pid, since => {ago, 1, minute}}}"},
    {"get_state_at", 3, Lane::points, get_state_at, true, "{get_state_at, Pid, {ago, 5, second}}"},
    {"get_state_history", 3, Lane::scans, get_state_history, true, "{get_state_history, Pid, #{}}"},
    {"get_message_flow", 4, Lane::scans, get_message_flow, true,
     "{get_message_flow, PidA, PidB, #{}}"},
    {"get_traces", 2, Lane::scans, run_get_traces, true,
     "{get_traces, #{since => {ago, 1, minute}, errors => true}}"},
    {"get_trace", 2, Lane::scans, run_get_trace, true, "{get_trace, Id}"},
    {"get_order", 3, Lane::scans, run_get_order, true, "{get_order, EventId, EventId}"},
    {"aggregate", 4, Lane::scans, run_aggregate, true,
     "{aggregate, #{type => calls}, [mfa, {time, 1, minute}], [count, p99]}"},
    {"store", 2, Lane::upkeep, look_after_store, true, "{store, info | verify | {attach, Folder}}"},
    {"audit", 2, Lane::points, run_audit, true, "{audit, #{since => {ago, 1, day}}}"},
    {"clocks", 1, Lane::points, clocks, true, "clocks"},
    {"get_state_diff", 4, Lane::points, nullptr, false, "{get_state_diff, Pid, T1, T2}"},
    {"get_pending_messages_at", 3, Lane::scans, nullptr, false,
     "{get_pending_messages_at, Pid, Time}"},
    {"get_snapshot_at", 3, Lane::scans, nullptr, false, "{get_snapshot_at, Time, Filter}"},
    {"get_supervision_tree_at", 3, Lane::scans, nullptr, false,
     "{get_supervision_tree_at, Node, Time}"},
    {"get_supervision_diff", 4, Lane::scans, nullptr, false,
     "{get_supervision_diff, Node, T1, T2}"},
    {"explain_state", 4, Lane::scans, nullptr, false, "{explain_state, Pid, Path, Time}"},
    {"subscribe", 3, Lane::control, nullptr, true,
     "{subscribe, #{type => calls}, #{demand => 100}}"},
    {"demand", 3, Lane::control, nullptr, true, "{demand, Ref, 100}"},
    {"unsubscribe", 2, Lane::control, nullptr, true, "{unsubscribe, Ref}"},
};

}  // namespace

std::span<const RequestDef> requests() { return kRequests; }

Result<const RequestDef*> find_request(const TermView& request) {
  std::optional<std::string_view> name = request.atom();
  std::uint32_t arity = 1;
  if (!name && request.arity().value_or(0) > 0) {
    name = request.element(0).atom();
    arity = *request.arity();
  }
  if (!name) {
    return fail(Code::bad_request,
                "a request is an atom or a tuple that begins with one, for example hello",
                "request", printed(request));
  }
  std::vector<std::string_view> names;
  for (const auto& def : kRequests) {
    if (def.name == *name) {
      if (!def.available) {
        return fail(Code::not_available, "this request comes with a later version",
                    std::string(def.name));
      }
      if (def.arity != arity) {
        return fail(Code::bad_request, fmt::format("wrong number of arguments; use {}", def.usage),
                    std::string(def.name), printed(request));
      }
      return &def;
    }
    if (def.available) names.push_back(def.name);
  }
  const auto near = nearest(*name, names);
  std::string hint;
  for (const auto& def : kRequests) {
    if (def.name == near) hint = fmt::format("unknown request; did you mean {}?", def.usage);
  }
  if (hint.empty()) hint = fmt::format("unknown request; known: {}", fmt::join(names, ", "));
  return fail(Code::not_available, std::move(hint), std::string(name->substr(0, 255)),
              printed(request));
}

namespace {

// Up to when edges of messages are kept, and what that costs.
void write_edges(TermBuilder& out, const EdgeStatus& s, ClusterTime now) {
  MapWriter map;
  if (s.progress.until) {
    map.key("until").integer(s.progress.until->ns);
    map.key("behind_ms").integer((now.ns - s.progress.until->ns) / 1'000'000);
  } else {
    map.key("until").atom("none");
  }
  map.key("slices").unsigned_integer(s.progress.kept);
  map.key("ready").unsigned_integer(s.progress.ready);
  map.key("waiting").unsigned_integer(s.progress.waiting);
  map.key("bytes").unsigned_integer(s.bytes);
  map.key("rows").unsigned_integer(s.rows);
  map.key("edges").unsigned_integer(s.edges);
  map.key("cpu_ms").integer(s.cpu_ns / 1'000'000);
  if (!s.trouble.empty()) map.key("trouble").binary(std::string_view(s.trouble));
  map.write(out);
}

}  // namespace

void write_status(TermBuilder& out, const StatusInfo& info, store::TraceStore& store,
                  const ServiceOptions& options) {
  const auto view = store.snapshot();
  const auto now = store.now();
  const ClockModel clock(*view);
  const auto stats = store.stats();
  MapWriter map;
  map.key("version").binary(std::string_view(options.version));
  map.key("uptime_ms").integer(info.uptime_ms);
  text_or_unknown(map.key("node"), options.node);
  map.key("now").integer(now.ns);

  MapWriter nodes;
  const auto number = [](TermBuilder& b, const auto& value) {
    if (!value) return unknown(b);
    if constexpr (std::is_same_v<std::decay_t<decltype(*value)>, double>) {
      b.real(*value);
    } else {
      b.unsigned_integer(*value);
    }
  };
  for (const auto& n : info.nodes) {
    MapWriter node;
    text_or_unknown(node.key("state"), n.state);
    if (!n.detail.empty()) node.key("detail").binary(std::string_view(n.detail));
    const auto text = [&](std::string_view key, const std::string& value) {
      value.empty() ? unknown(node.key(key)) : void(node.key(key).binary(std::string_view(value)));
    };
    text("otp", n.otp);
    text("arch", n.arch);
    n.agent_id != 0 ? void(node.key("agent").unsigned_integer(n.agent_id))
                    : void(node.key("agent").atom("none"));
    text_or_unknown(node.key("capture"), n.capture);
    if (!n.capture_reason.empty()) {
      node.key("capture_reason").binary(std::string_view(n.capture_reason));
    }
    number(node.key("budget"), n.budget_percent);
    number(node.key("spent"), n.spent_percent);
    number(node.key("dropped"), n.dropped);
    number(node.key("hold_seconds"), n.hold_seconds);
    if (!n.spending.redact.empty()) {
      node.key("redact").atom(n.spending.redact);
      number(node.key("redact_version"), n.spending.redact_version);
    }
    if (!n.spending.rung.empty()) {
      node.key("rung").atom(n.spending.rung);
      node.key("rung_cause").atom(n.spending.cause.empty() ? "none" : n.spending.cause);
      number(node.key("memory"), n.spending.memory);
      number(node.key("discarded"), n.spending.discarded);
      MapWriter kinds;
      for (const auto& [kind, count] : n.spending.events_per_s)
        kinds.key(kind).unsigned_integer(count);
      kinds.write(node.key("events_per_s"));
    }
    write_clock(node.key("clock"), clock, n.incarnation, now);
    node.write(nodes.key(n.node));
  }
  nodes.write(map.key("nodes"));

  std::optional<std::int64_t> oldest, newest;
  for (const auto& unit : view->units()) {
    for (const auto& range : unit.ranges) {
      const auto from = clock.cluster(range.incarnation, range.oldest).time.ns;
      const auto until = clock.cluster(range.incarnation, range.newest).time.ns;
      oldest = std::min(oldest.value_or(from), from);
      newest = std::max(newest.value_or(until), until);
    }
  }
  MapWriter kept;
  if (options.edges) write_edges(kept.key("edges"), options.edges->status(), now);
  kept.key("events").unsigned_integer(stats.events_stored);
  kept.key("bytes").unsigned_integer(stats.bytes_on_disk);
  oldest ? void(kept.key("oldest").integer(*oldest)) : void(kept.key("oldest").atom("none"));
  newest ? void(kept.key("newest").integer(*newest)) : void(kept.key("newest").atom("none"));
  kept.key("partitions").unsigned_integer(stats.partitions);
  kept.key("commit_failures").unsigned_integer(stats.commit_failures);
  kept.key("corrupt_blocks").unsigned_integer(stats.corrupt_blocks);
  kept.write(map.key("store"));

  auto& tracing = map.key("tracing").list(static_cast<std::uint32_t>(info.tracing.size()));
  for (const auto& t : info.tracing) {
    MapWriter item;
    item.key("id").unsigned_integer(t.id);
    item.key("by").binary(std::string_view(t.by));
    encode(item.key("opts"), t.spec);
    MapWriter spent;
    for (const auto& [node, percent] : t.spent) number(spent.key(node), percent);
    spent.write(item.key("spent"));
    t.expires ? void(item.key("expires").integer(t.expires->ns))
              : void(item.key("expires").atom("infinity"));
    item.write(tracing);
  }
  tracing.nil();

  map.key("subscriptions").unsigned_integer(info.subscriptions);
  MapWriter counters;
  for (const auto& c : info.counters) counters.key(c.name).unsigned_integer(c.value);
  counters.write(map.key("counters"));
  MapWriter lost;
  for (const auto& c : info.counters) {
    if (c.value != 0 && c.severity == Severity::data_loss)
      lost.key(c.name).unsigned_integer(c.value);
  }
  lost.write(map.key("data_loss"));
  map.write(out);
}

}  // namespace scope::node
