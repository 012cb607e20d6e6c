// The agent's compiled modules, embedded in the executable (erl/CMakeLists.txt). Static storage; any thread.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace scope::node {

struct AgentBeam {
  std::string_view module;
  std::span<const std::byte> bytes;
};

std::span<const AgentBeam> agent_beams();

}  // namespace scope::node
