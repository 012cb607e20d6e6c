// run_cli: the `scope` command line. main.cc is nothing but a call to it.
//
// What    Parses the arguments, runs one subcommand (commands.h lists them) and returns the exit status, which the help
//         documents: kExitOk ... kExitNotClean. Every subcommand but `start` speaks to a daemon, or to the nodes
//         themselves, as one more hidden node through cnode/dist, and is gone afterwards.
// start   `scope start` parses its flags and --config FILE into a Config and hands it to `start`, which runs the daemon
//         in the foreground and returns the exit status. Logging is the business of `start`: nothing is set up before.
// Thread  The caller's; makes no other.
// Errors  Never throws. Answers go to stdout, everything else to stderr.
#pragma once

#include <functional>

#include "cnode/config.h"

namespace scope::node {

inline constexpr int kExitOk = 0;
inline constexpr int kExitError = 1;  // the answer is an error
inline constexpr int kExitUsage = 2;  // the command line is wrong
inline constexpr int kExitNoConnection =
    3;                                   // no connection to the daemon (verify-clean: to a node)
inline constexpr int kExitNotClean = 4;  // verify-clean found something

using StartFn = std::function<int(const Config& config)>;

int run_cli(int argc, const char* const* argv, const StartFn& start);

}  // namespace scope::node
