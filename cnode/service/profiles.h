// Profiles: named defaults of a start. The built-in ones, and the user's own from a TOML file:
//
//   [profiles.my_messages]
//   help = "messages of a tenth of the processes"
//   events = ["messages", "lifecycle"]     groups or event types, as {events, ..} of a start
//   sample = 0.1                            optional, as all that follow
//   fan_out = 0.1                           messages to a tenth of their receivers
//   budget = 0.5                            per cent of the node's schedulers
//   args = true
//   continuous = true                       held by the budget alone; otherwise it ends after a minute unless told
//
// Plain data; thread: any, once made.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ei_codec/base/result.h"

namespace scope::node {

struct Profile {
  std::string name, help;
  std::uint32_t events = 0;  // bits 1 << EventType
  double sample = 1.0;
  double fan_out = 1.0;
  std::optional<double> budget_percent;
  std::optional<bool> args;
  bool continuous = false;
};

const std::vector<Profile>& builtin_profiles();

// The built-in ones and those of the file, of which none may have a built-in name. Errors name the file and the key.
Result<std::vector<Profile>> load_profiles(const std::string& path);

}  // namespace scope::node
