#include "cnode/agents/trace_wire.h"

#include <fmt/format.h>

#include <algorithm>

#include "ei_codec/term_builder.h"
#include "ei_codec/term_print.h"
#include "ei_codec/trace_event.h"

namespace scope::node {
namespace {

using codec::EventType;
using codec::TermBuilder;
using codec::TermView;

struct Group {
  std::string_view name;
  std::uint32_t types;
};
// The agent's words (scope_agent.erl, SPEC).
constexpr Group kGroups[] = {
    {"calls", bit(EventType::function_entry)},
    {"returns", bit(EventType::function_exit) | bit(EventType::function_exception)},
    {"sends", bit(EventType::message_send)},
    {"fetches", bit(EventType::message_fetch)},
    {"procs", bit(EventType::process_spawn) | bit(EventType::process_exit) |
                  bit(EventType::process_link) | bit(EventType::process_unlink) |
                  bit(EventType::process_register) | bit(EventType::process_unregister) |
                  bit(EventType::process_alive)},
    {"state", bit(EventType::state_change)},
    {"takes", bit(EventType::message_take)},
};

void atom_list(TermBuilder& b, const std::vector<std::string_view>& atoms) {
  if (!atoms.empty()) b.list(static_cast<std::uint32_t>(atoms.size()));
  for (auto a : atoms) b.atom(a);
  b.nil();
}

}  // namespace

std::vector<std::string_view> agent_events(const TraceSpec& spec) {
  std::uint32_t types = spec.events;
  std::vector<std::string_view> out;
  bool functions = !spec.modules.empty() || !spec.mfas.empty();
  for (const auto& group : kGroups) {
    bool default_one = functions ? group.name == "calls" || group.name == "returns"
                                 : group.name != "calls" && group.name != "returns";
    // calls and returns mean something only with modules or functions.
    if (!functions && (group.name == "calls" || group.name == "returns")) continue;
    if (types == 0 ? default_one : (types & group.types) != 0) out.push_back(group.name);
  }
  return out;
}

std::uint32_t traced_types(const TraceSpec& spec) {
  const auto events = agent_events(spec);
  std::uint32_t out = 0;
  for (const auto& group : kGroups) {
    if (std::ranges::find(events, group.name) != events.end()) out |= group.types;
  }
  return out;
}

std::uint32_t traceable_types() {
  std::uint32_t out = 0;
  for (const auto& group : kGroups) out |= group.types;
  return out;
}

bool is_deep(const TraceSpec& spec) {
  const bool functions = !spec.modules.empty() || !spec.mfas.empty();
  const bool everyone = spec.all || (spec.pids.empty() && spec.names.empty());
  const auto events = agent_events(spec);
  const auto has = [&](std::string_view name) {
    return std::ranges::find(events, name) != events.end();
  };
  return has("returns") || (has("calls") && functions && spec.args.value_or(!spec.mfas.empty())) ||
         (everyone && (has("sends") || has("fetches")));
}

namespace {

void mfas_list(TermBuilder& b, const std::vector<analysis::MfaSpec>& mfas) {
  for (const auto& m : mfas) {
    b.list_cons().tuple(3).atom(m.module).atom(m.function.empty() ? "_"
                                                                  : std::string_view(m.function));
    m.arity ? b.integer(*m.arity) : b.atom("_");
  }
  b.nil();
}

// Those of one node.
void pids_list(TermBuilder& b, const std::vector<analysis::PidSpec>& pids, std::string_view node) {
  for (const auto& p : pids) {
    if (p.node == node) b.list_cons().pid({p.node, p.id, p.serial, p.creation});
  }
  b.nil();
}

// SPEC, as `start` and `probe` have it.
void write_spec(TermBuilder& b, const TraceSpec& spec, std::string_view node, const TraceMeta& meta,
                ClusterTime now) {
  const auto names_of = [&](const std::vector<analysis::NameSpec>& given) {
    std::vector<std::string_view> out;
    for (const auto& n : given) {
      if (n.node.empty() || n.node == node) out.push_back(n.name);
    }
    return out;
  };
  const auto names = names_of(spec.names);
  bool everyone = spec.all || (spec.pids.empty() && spec.names.empty());
  bool has_limit = meta.expires.has_value();
  std::uint32_t caps = 0;
  for (const auto* c : {&spec.caps.args, &spec.caps.message, &spec.caps.state, &spec.caps.result})
    caps += c->has_value();

  b.map(9u + (everyone ? 1 : 0) + (has_limit ? 1 : 0) + (caps > 0 ? 1 : 0) + (spec.sample ? 1 : 0) +
        (spec.fan_out ? 1 : 0) + (spec.budget_percent ? 1 : 0) + (spec.follow.empty() ? 0 : 1));
  b.atom("force").boolean(spec.force);
  b.atom("continuous").boolean(!has_limit);  // whether it may go on for ever is decided here
  if (spec.sample) b.atom("sample").real(*spec.sample);
  if (spec.fan_out) b.atom("fan_out").real(*spec.fan_out);
  if (spec.budget_percent) b.atom("budget").map(1).atom("cpu").real(*spec.budget_percent);
  b.atom("events");
  atom_list(b, agent_events(spec));
  b.atom("modules");
  atom_list(b, {spec.modules.begin(), spec.modules.end()});
  mfas_list(b.atom("mfas"), spec.mfas);
  pids_list(b.atom("pids"), spec.pids, node);
  b.atom("names");
  atom_list(b, names);
  if (!spec.follow.empty()) {
    b.atom("follow").map(4).atom("shots").integer(spec.follow.shots);
    pids_list(b.atom("pids"), spec.follow.pids, node);
    atom_list(b.atom("names"), names_of(spec.follow.names));
    mfas_list(b.atom("mfas"), spec.follow.mfas);
  }
  // A whole module's arguments (a server's state in each of its functions) are what overloads a node: only when asked.
  b.atom("args").boolean(spec.args.value_or(spec.modules.empty() && !spec.mfas.empty()));
  if (everyone) b.atom("all").boolean(true);
  if (has_limit) {
    auto left = std::max<std::int64_t>(1, (meta.expires->ns - now.ns) / 1'000'000);
    b.atom("limit").map(1).atom("ms").integer(left);
  }
  if (caps > 0) {
    b.atom("caps").map(caps);
    if (spec.caps.args) b.atom("args").integer(*spec.caps.args);
    if (spec.caps.message) b.atom("message").integer(*spec.caps.message);
    if (spec.caps.state) b.atom("state").integer(*spec.caps.state);
    if (spec.caps.result) b.atom("result").integer(*spec.caps.result);
  }
  b.atom("meta").tuple(3).binary(meta.by);
  if (meta.expires) {
    b.integer(meta.expires->ns);
  } else {
    b.atom("none");
  }
  encode(b, spec);
}

std::optional<double> number(const std::optional<TermView>& term) {
  if (!term) return std::nullopt;
  if (auto real = term->real()) return real;
  if (auto integer = term->integer()) return static_cast<double>(*integer);
  return std::nullopt;
}

std::optional<TermView> get(const std::optional<TermView>& term, std::string_view key) {
  auto map = term ? term->map() : std::nullopt;
  return map ? map->find(key) : std::nullopt;
}

}  // namespace

std::vector<std::byte> encode_start(std::uint64_t id, const TraceSpec& spec, std::string_view node,
                                    const TraceMeta& meta, ClusterTime now) {
  TermBuilder b;
  b.tuple(3).atom("start").unsigned_integer(id);
  write_spec(b, spec, node, meta, now);
  auto bytes = b.bytes();
  return {bytes.begin(), bytes.end()};
}

std::vector<std::byte> encode_probe(const TraceSpec& spec, std::string_view node) {
  TermBuilder b;
  b.tuple(2).atom("probe");
  write_spec(b, spec, node, {}, {});
  auto bytes = b.bytes();
  return {bytes.begin(), bytes.end()};
}

Spending read_spending(const TermView& status) {
  Spending out;
  const auto unsigned_of = [](const std::optional<TermView>& term) {
    return term ? term->unsigned_integer() : std::nullopt;
  };
  const auto spent = get(status, "spent");
  const auto ladder = get(status, "ladder");
  out.budget_percent = number(get(get(status, "budget"), "cpu"));
  out.spent_percent = number(get(spent, "cpu"));
  out.hold_seconds = number(get(status, "hold_seconds"));
  out.memory = unsigned_of(get(spent, "memory"));
  out.discarded = unsigned_of(get(status, "discarded"));
  if (auto rung = get(ladder, "rung")) out.rung = rung->text(64).value_or("");
  if (auto cause = get(ladder, "cause")) out.cause = cause->text(64).value_or("");
  const auto redact = get(status, "redact");
  if (auto on = get(redact, "redact")) out.redact = on->text(64).value_or("");
  out.redact_version = unsigned_of(get(redact, "version"));
  const auto kinds = get(spent, "kinds");
  for (auto map = kinds ? kinds->map() : std::nullopt; map && !map->done(); map->next()) {
    auto kind = map->key().atom();
    auto count = map->value().unsigned_integer();
    if (kind && count) out.events_per_s[std::string(*kind)] = *count;
  }
  const auto traces = get(status, "traces");
  for (auto map = traces ? traces->map() : std::nullopt; map && !map->done(); map->next()) {
    if (auto id = map->key().unsigned_integer())
      out.traces[*id] = number(get(map->value(), "spent"));
  }
  return out;
}

std::vector<FoundTrace> read_traces(const TermView& status) {
  std::vector<FoundTrace> out;
  auto answer = status.is_tuple("ok", 2) ? status.element(1).map() : std::nullopt;
  auto tracing = answer ? answer->find("tracing") : std::nullopt;
  auto map = tracing ? tracing->map() : std::nullopt;
  for (; map && !map->done(); map->next()) {
    auto id = map->key().unsigned_integer();
    auto spec = map->value().map();
    auto meta = spec ? spec->find("meta") : std::nullopt;
    if (!id || !meta || meta->arity() != 3u) continue;
    auto options = read_trace_spec(meta->element(2));
    if (!options) continue;
    FoundTrace found{
        *id, *std::move(options), {meta->element(0).text(512).value_or("unknown"), std::nullopt}};
    if (auto until = meta->element(1).integer()) found.meta.expires = ClusterTime{*until};
    out.push_back(std::move(found));
  }
  return out;
}

Error refusal_of(const TermView& reply) {
  if (!reply.is_tuple("error", 2)) {
    return {Code::internal,
            "the agent answered " + codec::print(reply, codec::Syntax::erlang, 200),
            {},
            {}};
  }
  auto reason = reply.element(1);
  auto tag = reason.arity().value_or(0) > 0 ? reason.element(0).atom().value_or("")
                                            : reason.atom().value_or("");
  if (tag == "owned_by" || tag == "pattern_owned") {
    return {Code::owned_by,
            "another tool traces there: " + codec::print(reason, codec::Syntax::erlang, 300),
            {},
            {}};
  }
  if (tag == "bad_spec" && reason.arity() == 3u) {
    return {Code::bad_value,
            codec::print(reason.element(2), codec::Syntax::erlang, 200),
            std::string(reason.element(1).atom().value_or("")),
            {}};
  }
  if (tag == "over_budget" && reason.arity() == 2u) {
    const auto said = reason.element(1);
    const auto cpu = number(get(said, "cpu")), most = number(get(get(said, "budget"), "cpu"));
    const auto events = number(get(said, "events_per_s"));
    return {
        Code::over_budget,
        fmt::format("the budget there is {:.3g} % of the schedulers; ask for fewer functions or "
                    "processes, a sample (at most {:.2g}), a larger budget, or force it",
                    most.value_or(0), cpu && most && *cpu > *most ? *most / *cpu : 0.5),
        "budget", fmt::format("{:.3g} % at {:.0f} events/s", cpu.value_or(0), events.value_or(0))};
  }
  if (tag == "refused" && reason.arity() == 3u && reason.element(1).is_atom("follow_runs")) {
    return {Code::refused,
            "another start follows something there, and there is one system tracer: stop it first",
            "follow", codec::print(reason.element(2), codec::Syntax::erlang, 300)};
  }
  if (tag == "refused" && reason.arity() == 3u) {
    struct Why {
      std::string_view name, field, hint;
    };
    constexpr Why kWhys[] = {
        {"own_modules", "modules", "these are the tracer's own"},
        {"server_loop", "mfas",
         "a server's loop never returns, and tracing its return would fill its stack; its state is "
         "seen by events => [state]"},
        {"calls_itself_last", "mfas",
         "it calls itself last: tracing its return would fill its stack; trace its calls alone"},
        {"everything_without_limit", "modules", "'_' needs `for`"},
        {"module_needed", "mfas", "a function of every module cannot be traced; name the module"}};
    const auto why = reason.element(1).atom().value_or("");
    for (const auto& w : kWhys) {
      if (w.name != why) continue;
      return {Code::refused, std::string(w.hint), std::string(w.field),
              codec::print(reason.element(2), codec::Syntax::erlang, 300)};
    }
  }
  return {Code::refused,
          "the agent refuses: " + codec::print(reason, codec::Syntax::erlang, 300),
          {},
          {}};
}

}  // namespace scope::node
