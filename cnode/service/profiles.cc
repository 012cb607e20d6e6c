#include "cnode/service/profiles.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>

#include "cnode/service/trace_spec.h"
#include "ei_codec/trace_event.h"

namespace scope::node {
namespace {

Result<std::uint32_t> read_events(const toml::node& node, const std::string& field) {
  std::uint32_t events = 0;
  const auto* array = node.as_array();
  if (array == nullptr) return fail(Code::bad_value, "expected a list of texts", field);
  for (const auto& item : *array) {
    const auto name = item.value<std::string>().value_or("");
    auto bits = event_group(name);
    if (const auto type = codec::event_type_from_name(name))
      bits = 1u << static_cast<unsigned>(*type);
    if (bits == 0) return fail(Code::bad_value, "no such event type or group", field, name);
    events |= bits;
  }
  return events;
}

Result<Profile> read_profile(const std::string& name, const toml::table& table) {
  Profile out;
  out.name = name;
  for (const auto& [key, node] : table) {
    const auto field = fmt::format("profiles.{}.{}", name, key.str());
    const auto number = node.value<double>();
    const auto flag = node.value<bool>();
    if (key == "help" && node.is_string()) {
      out.help = *node.value<std::string>();
    } else if (key == "events") {
      ASSIGN_OR_RETURN(out.events, read_events(node, field));
    } else if (key == "sample" && node.is_number()) {
      out.sample = *number;
      if (!(out.sample > 0 && out.sample <= 1)) {
        return fail(Code::bad_value, "must be over 0 and at most 1", field);
      }
    } else if (key == "fan_out" && node.is_number()) {
      out.fan_out = *number;
      if (!(out.fan_out >= kLeastFanOut && out.fan_out <= 1)) {
        return fail(Code::bad_value, "must be at least 0.001 and at most 1", field);
      }
    } else if (key == "budget" && node.is_number()) {
      out.budget_percent = number;
      if (!(*number > 0 && *number <= 100)) {
        return fail(Code::bad_value, "must be per cent, over 0 and at most 100", field);
      }
    } else if (key == "args" && node.is_boolean()) {
      out.args = flag;
    } else if (key == "continuous" && node.is_boolean()) {
      out.continuous = *flag;
    } else {
      return fail(
          Code::unknown_key,
          "keys are help, events, sample, fan_out, budget, args and continuous, each of its type",
          field);
    }
  }
  if (out.events == 0) return fail(Code::bad_value, "a profile needs events", "profiles." + name);
  return out;
}

}  // namespace

const std::vector<Profile>& builtin_profiles() {
  static const std::vector<Profile> profiles = [] {
    const auto life = event_group("lifecycle") | event_group("names") | event_group("links");
    const auto take = 1u << static_cast<unsigned>(codec::EventType::message_take);
    std::vector<Profile> out(4);
    out[0] = {"lightweight_production",
              "processes' lives, names, links and crashes; the default",
              life,
              1.0,
              1.0,
              {},
              {},
              true};
    out[1] = {"balanced",
              "and what servers handle and their states, of a quarter of the processes",
              life | take | event_group("state"),
              0.25,
              1.0,
              {},
              {},
              true};
    out[2] = {"messages",
              "lives, and every message sent, fetched and taken",
              life | event_group("messages"),
              1.0,
              1.0,
              {},
              {},
              true};
    out[3] = {"deep_dive_dev",
              "everything, with arguments; for a minute, on a machine of your own",
              ~0u,
              1.0,
              1.0,
              25.0,
              true,
              false};
    return out;
  }();
  return profiles;
}

Result<std::vector<Profile>> load_profiles(const std::string& path) {
  auto out = builtin_profiles();
  if (path.empty()) return out;
  toml::table table;
  try {
    table = toml::parse_file(path);
  } catch (const toml::parse_error& e) {
    return fail(Code::bad_value,
                fmt::format("{}:{}: {}", path, e.source().begin.line, e.description()), "profiles");
  }
  const auto* own = table["profiles"].as_table();
  if (own == nullptr || table.size() != 1) {
    return fail(Code::bad_value,
                fmt::format("{}: expected tables [profiles.NAME], and nothing else", path),
                "profiles");
  }
  for (const auto& [key, node] : *own) {
    const std::string name(key.str());
    const auto* fields = node.as_table();
    if (fields == nullptr || name.size() > 255 ||
        std::ranges::find(out, name, &Profile::name) != out.end()) {
      return fail(Code::bad_value,
                  fmt::format("{}: a table whose name no other profile has is needed", path),
                  "profiles." + name);
    }
    Profile profile;
    ASSIGN_OR_RETURN(profile, read_profile(name, *fields));
    out.push_back(std::move(profile));
  }
  return out;
}

}  // namespace scope::node
