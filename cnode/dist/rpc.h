// What remote nodes may run here: RpcTable, an allow-list of functions, and SpawnHandler for spawns
// that are no rpc.
#pragma once

#include <cstdint>
#include <expected>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <tuple>

#include "cnode/dist/identity.h"
#include "cnode/dist/message.h"
#include "ei_codec/term_builder.h"
#include "ei_codec/term_view.h"

namespace scope::node {

struct RpcRequest {
  const Message& message;  // keeps args alive
  Pid caller;
  codec::TermView args;  // a proper list of the function's arity
};

// What the call raises instead of returning.
struct RpcFailure {
  enum class Class : std::uint8_t { error, exit, thrown };
  Class cls = Class::error;
  codec::TermBuilder reason;
};
using RpcAnswer = std::expected<codec::TermBuilder, RpcFailure>;
using RpcHandler = std::function<RpcAnswer(const RpcRequest&)>;

RpcAnswer rpc_badarg();

// Answers must be quick: they are made on the io_context's thread. What is not listed is undef, as
// on a BEAM.
class RpcTable {
 public:
  void allow(std::string module, std::string function, std::uint32_t arity, RpcHandler handler);
  const RpcHandler* find(std::string_view module, std::string_view function,
                         std::uint32_t arity) const;

 private:
  std::map<std::tuple<std::string, std::string, std::uint32_t>, RpcHandler, std::less<>> table_;
};

// A spawn request that is neither erpc:execute_call nor execute_cast.
struct SpawnRequest {
  const Message& message;
  Pid parent, group_leader;
  std::string_view module, function;
  codec::TermView args;  // a proper list
  bool link = false, monitor = false;
};
// The pid of a process of this node (spawn_process) that runs it; nullopt: refused with notsup. The
// link and monitor that the request asked for are set up by the Node before the caller learns the
// pid.
using SpawnHandler = std::function<std::optional<Pid>(const SpawnRequest&)>;

}  // namespace scope::node
