// The agent's compiled modules and its native tracer, embedded in the executable (erl/CMakeLists.txt). Static storage;
// any thread.
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
// scope_nif's shared library, for the architecture that this executable was built for.
std::span<const std::byte> agent_library();

}  // namespace scope::node
