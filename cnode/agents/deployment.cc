#include "cnode/agents/deployment.h"

#include <fmt/format.h>

#include "cnode/agents/agent_beams.h"
#include "cnode/dist/spawn.h"
#include "ei_codec/term_print.h"

namespace scope::node {

using codec::TermBuilder;

std::string_view agent_version() {
  static const std::string version = [] {
    std::uint64_t h = 1469598103934665603ull;  // FNV-1a: tells builds apart, no more
    for (const auto& beam : agent_beams()) {
      for (std::byte b : beam.bytes) h = (h ^ static_cast<std::uint8_t>(b)) * 1099511628211ull;
    }
    for (std::byte b : agent_library()) h = (h ^ static_cast<std::uint8_t>(b)) * 1099511628211ull;
    return fmt::format("{:016x}", h);
  }();
  return version;
}

namespace {

constexpr Millis kRpcTimeout = std::chrono::seconds(5);

std::vector<std::byte> encoded(const TermBuilder& b) {
  const auto bytes = b.bytes();
  return {bytes.begin(), bytes.end()};
}

// All modules at once, which is many times quicker on a busy node; one by one where code of an agent before is not yet
// purged.
Awaitable<Status> load_code(Node& node, std::string peer) {
  TermBuilder all;
  all.list(1).list(static_cast<std::uint32_t>(agent_beams().size()));
  for (const auto& beam : agent_beams()) {
    all.tuple(3).atom(beam.module).charlist(fmt::format("{}.beam", beam.module)).binary(beam.bytes);
  }
  all.nil().nil();
  CO_ASSIGN_OR_RETURN(
      auto at_once, co_await node.rpc_call(peer, "code", "atomic_load", encoded(all), kRpcTimeout));
  if (at_once.term.is_atom("ok")) co_return Status{};
  for (const auto& beam : agent_beams()) {
    TermBuilder args;
    args.list(3)
        .atom(beam.module)
        .charlist(fmt::format("{}.beam", beam.module))
        .binary(beam.bytes)
        .nil();
    CO_ASSIGN_OR_RETURN(auto loaded, co_await node.rpc_call(peer, "code", "load_binary",
                                                            encoded(args), kRpcTimeout));
    if (!loaded.term.is_tuple("module", 2)) {
      co_return fail(Code::refused,
                     fmt::format("{} does not load {}: {}", peer, beam.module,
                                 codec::print(loaded.term, codec::Syntax::erlang, 200)));
    }
  }
  co_return Status{};
}

Awaitable<Status> start_agent(Node& node, std::string peer, Pid daemon,
                              std::vector<std::byte> options) {
  TermBuilder args;
  args.list(2).pid(daemon.parts()).raw(options).nil();
  auto answer = co_await node.rpc_call(peer, "scope_agent", "start", encoded(args), kRpcTimeout);
  // One that is leaving deletes its modules by name, and these were ours: it is gone when we try again.
  if (!answer && answer.error().code == Code::refused && answer.error().message.contains("undef")) {
    co_return fail(Code::node_down, "an agent that is leaving took the new one's code with it");
  }
  CO_ASSIGN_OR_RETURN(auto started, std::move(answer));
  if (!started.term.is_atom("ok")) {
    co_return fail(Code::refused,
                   fmt::format("the agent does not start: {}",
                               codec::print(started.term, codec::Syntax::erlang, 200)));
  }
  co_return Status{};
}

// After a deployment that failed.
Awaitable<void> remove_code(Node& node, std::string peer) {
  for (const auto& beam : agent_beams()) {
    TermBuilder args;
    args.list(1).atom(beam.module).nil();
    for (const char* function : {"delete", "purge"}) {
      auto done = co_await node.rpc_call(peer, "code", function, encoded(args), kRpcTimeout);
      if (!done) co_return;  // the node is gone, and our code with it
    }
  }
}

}  // namespace

Awaitable<Result<std::optional<Pid>>> find_agent(Node& node, std::string peer) {
  TermBuilder args;
  args.list(1).atom("scope_agent").nil();
  CO_ASSIGN_OR_RETURN(
      auto found, co_await node.rpc_call(peer, "erlang", "whereis", encoded(args), kRpcTimeout));
  std::optional<Pid> pid;
  if (auto p = found.term.pid()) pid = Pid(*p);
  co_return pid;
}

Awaitable<Status> deploy(Node& node, std::string peer, Pid daemon, std::vector<std::byte> options) {
  auto done = co_await load_code(node, peer);
  if (done) done = co_await start_agent(node, peer, daemon, options);
  if (!done) co_await remove_code(node, peer);
  co_return done;
}

}  // namespace scope::node
