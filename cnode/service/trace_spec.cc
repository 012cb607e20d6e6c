#include "cnode/service/trace_spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cnode/service/parse.h"
#include "cnode/service/reply.h"
#include "ei_codec/trace_event.h"

namespace scope::node {
namespace {

using codec::EventType;
using codec::TermView;

struct Group {
  std::string_view name;
  std::uint32_t types;
};
constexpr Group kGroups[] = {
    {"calls", bit(EventType::function_entry) | bit(EventType::function_exit) |
                  bit(EventType::function_exception)},
    {"messages",
     bit(EventType::message_send) | bit(EventType::message_fetch) | bit(EventType::message_take)},
    {"state", bit(EventType::state_change)},
    {"lifecycle", bit(EventType::process_spawn) | bit(EventType::process_exit)},
    {"links", bit(EventType::process_link) | bit(EventType::process_unlink)},
    {"names", bit(EventType::process_register) | bit(EventType::process_unregister)},
};

constexpr std::int64_t kMillisecond = 1'000'000;
constexpr std::int64_t kMaxCap = 16 << 20;

Status read_list(std::vector<std::string>& out, const TermView& value, std::string_view field) {
  for (const auto& item : one_or_many(value)) {
    std::string name;
    ASSIGN_OR_RETURN(name, read_name(item, field));
    out.push_back(std::move(name));
  }
  return {};
}

Status read_nodes(TraceSpec& out, const TermView& value, std::string_view field) {
  return value.is_atom("all") ? Status{} : read_list(out.nodes, value, field);
}

Status read_profile(TraceSpec& out, const TermView& value, std::string_view field) {
  ASSIGN_OR_RETURN(out.profile, read_name(value, field));
  return {};
}

// Who is followed is traced: at least what is taken, and up to when that was handled.
void apply_follow(TraceSpec& out) {
  if (out.follow.empty()) return;
  const bool nothing_said = out.profile.empty() && out.events == 0;
  if (nothing_said) out.events = bit(EventType::message_take) | bit(EventType::state_change);
  const auto& follow = out.follow;
  out.pids.insert(out.pids.end(), follow.pids.begin(), follow.pids.end());
  out.names.insert(out.names.end(), follow.names.begin(), follow.names.end());
  out.mfas.insert(out.mfas.end(), follow.mfas.begin(), follow.mfas.end());
  if (!follow.mfas.empty()) {
    out.events |= bit(EventType::function_entry);
    out.all |= out.pids.empty() && out.names.empty();
  }
}

Status apply_profile(TraceSpec& out, const std::vector<Profile>& profiles) {
  const bool calls = !out.modules.empty() || !out.mfas.empty();
  if (out.profile.empty() && out.events == 0 && !calls && out.pids.empty() && out.names.empty()) {
    out.profile = "lightweight_production";
  }
  if (out.profile.empty()) return {};
  const auto it = std::ranges::find(profiles, out.profile, &Profile::name);
  if (it == profiles.end()) {
    std::vector<std::string_view> names;
    for (const auto& p : profiles) names.push_back(p.name);
    const auto near = nearest(out.profile, names);
    return fail(
        Code::bad_value,
        fmt::format("{}profiles: {}", near.empty() ? "" : fmt::format("did you mean {}? ", near),
                    fmt::join(names, ", ")),
        "profile", out.profile);
  }
  if (out.events == 0) out.events = it->events | (calls ? event_group("calls") : 0);
  if (!out.sample && it->sample < 1) out.sample = it->sample;
  if (!out.fan_out && it->fan_out < 1) out.fan_out = it->fan_out;
  if (!out.budget_percent) out.budget_percent = it->budget_percent;
  if (!out.args) out.args = it->args;
  out.continuous = it->continuous;
  return {};
}

Status read_mfas(TraceSpec& out, const TermView& value, std::string_view field) {
  for (const auto& item : one_or_many(value)) {
    analysis::MfaSpec mfa;
    ASSIGN_OR_RETURN(mfa, read_mfa(item, field));
    out.mfas.push_back(std::move(mfa));
  }
  return {};
}

// A pid or text goes to pids, a name to names.
template <typename Target>  // TraceSpec, FollowSpec
Status read_targets(Target& out, const TermView& value, std::string_view field) {
  for (const auto& item : one_or_many(value)) {
    analysis::ProcessSpec spec;
    ASSIGN_OR_RETURN(spec, read_process(item, field));
    if (auto* pid = std::get_if<analysis::PidSpec>(&spec)) {
      out.pids.push_back(std::move(*pid));
    } else if (auto* name = std::get_if<analysis::NameSpec>(&spec)) {
      out.names.push_back(std::move(*name));
    } else {
      auto& text = std::get<analysis::TextSpec>(spec);
      if (text.node.empty()) {
        return bad_value(field, item, "a pid as text needs its node: {\"<0.123.0>\", Node}");
      }
      out.pids.push_back({std::move(text.node), 0, text.id, text.serial});
    }
  }
  return {};
}

Status read_processes(TraceSpec& out, const TermView& value, std::string_view field) {
  return read_targets(out, value, field);
}

Status read_follow(TraceSpec& out, const TermView& value, std::string_view field) {
  for (const auto& item : one_or_many(value)) {
    if (item.arity() == 3u) {
      analysis::MfaSpec mfa;
      ASSIGN_OR_RETURN(mfa, read_mfa(item, field));
      if (mfa.function.empty() || !mfa.arity) {
        return bad_value(field, item, "a function to be followed needs its name and arity");
      }
      out.follow.mfas.push_back(std::move(mfa));
    } else {
      RETURN_IF_ERROR(read_targets(out.follow, item, field));
    }
  }
  return {};
}

Status read_events(TraceSpec& out, const TermView& value, std::string_view field) {
  for (const auto& item : one_or_many(value)) {
    std::string name;
    ASSIGN_OR_RETURN(name, read_name(item, field));
    std::uint32_t bits = event_group(name);
    if (const auto type = codec::event_type_from_name(name)) bits = bit(*type);
    if (bits == 0) {
      std::vector<std::string_view> names;
      for (const auto& group : kGroups) names.push_back(group.name);
      for (unsigned i = 1; i <= codec::kMaxEventType; ++i) {
        names.push_back(codec::event_type_name(static_cast<EventType>(i)));
      }
      const auto near = nearest(name, names);
      return bad_value(
          field, item,
          fmt::format("{}groups: calls, messages, state, lifecycle, links, names; or an "
                      "event type like message_send",
                      near.empty() ? "" : fmt::format("did you mean {}? ", near)));
    }
    out.events |= bits;
  }
  return {};
}

Status read_for(TraceSpec& out, const TermView& value, std::string_view field) {
  out.forever = value.is_atom("infinity");
  out.for_ms.reset();
  if (out.forever) return {};
  std::int64_t ns = 0;
  ASSIGN_OR_RETURN(ns, read_duration(value, field, kMillisecond));
  out.for_ms = ns / kMillisecond;
  if (*out.for_ms == 0) return bad_value(field, value, "must be at least 1 ms, or infinity");
  return {};
}

template <auto Member>
Status read_cap(CaptureCaps& out, const TermView& value, std::string_view field) {
  std::int64_t bytes = 0;
  ASSIGN_OR_RETURN(bytes, read_integer(value, field, 0, kMaxCap));
  out.*Member = static_cast<std::uint32_t>(bytes);
  return {};
}
constexpr OptionReader<CaptureCaps> kCapOptions[] = {{"args", read_cap<&CaptureCaps::args>},
                                                     {"message", read_cap<&CaptureCaps::message>},
                                                     {"state", read_cap<&CaptureCaps::state>},
                                                     {"result", read_cap<&CaptureCaps::result>}};

Status read_caps(TraceSpec& out, const TermView& value, std::string_view field) {
  if (!value.integer()) {
    return read_options(value, std::span<const OptionReader<CaptureCaps>>(kCapOptions), out.caps);
  }
  std::int64_t bytes = 0;
  ASSIGN_OR_RETURN(bytes, read_integer(value, field, 0, kMaxCap));
  const auto cap = static_cast<std::uint32_t>(bytes);
  out.caps = {cap, cap, cap, cap};
  return {};
}

constexpr OptionReader<TraceSpec> kTraceOptions[] = {
    {"profile", read_profile},
    {"nodes", read_nodes},
    {"modules", [](TraceSpec& out, const TermView& v,
                   std::string_view f) { return read_list(out.modules, v, f); }},
    {"mfas", read_mfas},
    {"pids", read_processes},
    {"names", read_processes},
    {"events", read_events},
    {"sample",
     [](TraceSpec& out, const TermView& v, std::string_view f) -> Status {
       ASSIGN_OR_RETURN(out.sample, read_number(v, f));
       if (*out.sample <= 0 || *out.sample > 1) {
         return bad_value(f, v, "must be over 0 and at most 1.0, the share that is kept");
       }
       return {};
     }},
    {"fan_out",
     [](TraceSpec& out, const TermView& v, std::string_view f) -> Status {
       ASSIGN_OR_RETURN(out.fan_out, read_number(v, f));
       if (!(*out.fan_out >= kLeastFanOut && *out.fan_out <= 1)) {
         return bad_value(
             f, v,
             "must be at least 0.001 and at most 1.0, the share of the receivers of messages");
       }
       return {};
     }},
    {"budget",
     [](TraceSpec& out, const TermView& v, std::string_view f) -> Status {
       ASSIGN_OR_RETURN(out.budget_percent, read_number(v, f));
       if (*out.budget_percent <= 0 || *out.budget_percent > 100) {
         return bad_value(f, v,
                          "must be per cent of the node's schedulers, over 0 and at most 100");
       }
       return {};
     }},
    {"for", read_for},
    {"follow", read_follow},
    {"shots",
     [](TraceSpec& out, const TermView& v, std::string_view f) -> Status {
       std::int64_t shots = 0;
       ASSIGN_OR_RETURN(shots, read_integer(v, f, 1, 1000));
       out.follow.shots = static_cast<std::uint32_t>(shots);
       return {};
     }},
    {"args",
     [](TraceSpec& out, const TermView& v, std::string_view f) -> Status {
       ASSIGN_OR_RETURN(out.args, read_boolean(v, f));
       return {};
     }},
    {"caps", read_caps},
    {"force",
     [](TraceSpec& out, const TermView& v, std::string_view f) -> Status {
       ASSIGN_OR_RETURN(out.force, read_boolean(v, f));
       return {};
     }},
    {"all",
     [](TraceSpec& out, const TermView& v, std::string_view f) -> Status {
       ASSIGN_OR_RETURN(out.all, read_boolean(v, f));
       return {};
     }},
};

void names_list(codec::TermBuilder& out, const std::vector<std::string>& names) {
  out.list(static_cast<std::uint32_t>(names.size()));
  for (const auto& name : names) out.atom(name);
  out.nil();
}

void pids_list(codec::TermBuilder& out, const std::vector<analysis::PidSpec>& pids) {
  out.list(static_cast<std::uint32_t>(pids.size()));
  for (const auto& p : pids) out.pid({p.node, p.id, p.serial, p.creation});
  out.nil();
}

void add_name(codec::TermBuilder& out, const analysis::NameSpec& n) {
  if (!n.node.empty()) out.tuple(2);
  out.atom(n.name);
  if (!n.node.empty()) out.atom(n.node);
}

void add_mfa(codec::TermBuilder& out, const analysis::MfaSpec& mfa) {
  out.tuple(3).atom(mfa.module).atom(mfa.function.empty() ? "_" : mfa.function);
  mfa.arity ? out.integer(*mfa.arity) : out.atom("_");
}

void cap(MapWriter& out, std::string_view key, const std::optional<std::uint32_t>& bytes) {
  if (bytes) out.key(key).integer(*bytes);
}

}  // namespace

std::uint32_t event_group(std::string_view name) {
  for (const auto& group : kGroups) {
    if (group.name == name) return group.types;
  }
  return 0;
}

Result<TraceSpec> parse_trace_spec(const TermView& options, const std::vector<Profile>& profiles) {
  TraceSpec out;
  ASSIGN_OR_RETURN(out, read_trace_spec(options));
  apply_follow(out);
  RETURN_IF_ERROR(apply_profile(out, profiles));
  return out;
}

Result<TraceSpec> read_trace_spec(const TermView& options) {
  TraceSpec out;
  RETURN_IF_ERROR(
      read_options(options, std::span<const OptionReader<TraceSpec>>(kTraceOptions), out));
  return out;
}

void encode(codec::TermBuilder& out, const TraceSpec& spec) {
  MapWriter map;
  if (!spec.profile.empty()) map.key("profile").atom(spec.profile);
  if (!spec.nodes.empty()) names_list(map.key("nodes"), spec.nodes);
  if (!spec.modules.empty()) names_list(map.key("modules"), spec.modules);
  if (!spec.mfas.empty()) {
    auto& b = map.key("mfas").list(static_cast<std::uint32_t>(spec.mfas.size()));
    for (const auto& mfa : spec.mfas) add_mfa(b, mfa);
    b.nil();
  }
  if (!spec.pids.empty()) pids_list(map.key("pids"), spec.pids);
  if (!spec.names.empty()) {
    auto& b = map.key("names").list(static_cast<std::uint32_t>(spec.names.size()));
    for (const auto& n : spec.names) add_name(b, n);
    b.nil();
  }
  if (const auto& follow = spec.follow; !follow.empty()) {
    auto& b = map.key("follow");
    for (const auto& p : follow.pids) b.list_cons().pid({p.node, p.id, p.serial, p.creation});
    for (const auto& n : follow.names) add_name(b.list_cons(), n);
    for (const auto& mfa : follow.mfas) add_mfa(b.list_cons(), mfa);
    b.nil();
    map.key("shots").integer(follow.shots);
  }
  if (spec.events != 0) {
    auto& b = map.key("events");
    for (unsigned i = 1; i <= codec::kMaxEventType; ++i) {
      if (spec.events & (1u << i)) {
        b.list_cons().atom(codec::event_type_name(static_cast<EventType>(i)));
      }
    }
    b.nil();
  }
  if (spec.sample) map.key("sample").real(*spec.sample);
  if (spec.fan_out) map.key("fan_out").real(*spec.fan_out);
  if (spec.budget_percent) map.key("budget").real(*spec.budget_percent);
  if (spec.forever) map.key("for").atom("infinity");
  if (spec.for_ms) map.key("for").integer(*spec.for_ms);
  if (spec.args) map.key("args").boolean(*spec.args);
  MapWriter caps;
  cap(caps, "args", spec.caps.args);
  cap(caps, "message", spec.caps.message);
  cap(caps, "state", spec.caps.state);
  cap(caps, "result", spec.caps.result);
  if (!caps.empty()) caps.write(map.key("caps"));
  if (spec.all) map.key("all").boolean(true);
  if (spec.force) map.key("force").boolean(true);
  map.write(out);
}

}  // namespace scope::node
