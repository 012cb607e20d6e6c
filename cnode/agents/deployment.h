// Deployment: the agent's code into a node, and out again if it does not start there.
//
// Errors refused: the node does not load or start it, with what it answered; otherwise those of Node::rpc_call.
// Thread The io_context's.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cnode/dist/node.h"

namespace scope::node {

// Tells builds of the agent apart: two agents are the same if their beams and library are.
std::string_view agent_version();

// The agent that is there already.
Awaitable<Result<std::optional<Pid>>> find_agent(Node& node, std::string peer);

// Loads the embedded modules and starts the agent with the options, an encoded map; it then says hello to `daemon`. What
// was loaded is removed again if that fails.
Awaitable<Status> deploy(Node& node, std::string peer, Pid daemon, std::vector<std::byte> options);

}  // namespace scope::node
