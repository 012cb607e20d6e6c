// Daemon: the composition root. Owns the store, the node, the agents and the service, and starts and stops them in order.
//
//   start: store -> node (epmd) -> service -> elixir_scope registered -> agents
//   stop:  agents detached (traces off, drained, unloaded) -> service -> store (committed) -> node
//
// Thread run() runs the io_context on the calling thread until SIGINT or SIGTERM; a second one ends at once, and then
//        agents remove themselves after their grace.
#pragma once

#include "cnode/config.h"
#include "ei_codec/base/result.h"

namespace scope::node {

// Exit code for the shell: 0 after a clean stop.
int run_daemon(Config config);

}  // namespace scope::node
