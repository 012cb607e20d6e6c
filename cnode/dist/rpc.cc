#include "cnode/dist/rpc.h"

#include <utility>

namespace scope::node {

RpcAnswer rpc_badarg() {
  RpcFailure failure;
  failure.reason.atom("badarg");
  return std::unexpected(std::move(failure));
}

void RpcTable::allow(std::string module, std::string function, std::uint32_t arity,
                     RpcHandler handler) {
  table_.insert_or_assign(std::tuple(std::move(module), std::move(function), arity),
                          std::move(handler));
}

const RpcHandler* RpcTable::find(std::string_view module, std::string_view function,
                                 std::uint32_t arity) const {
  auto it = table_.find(std::tuple(module, function, arity));
  return it == table_.end() ? nullptr : &it->second;
}

}  // namespace scope::node
