// Calls to remote nodes: spawn requests, erpc, gen_server calls.
#include <fmt/format.h>

#include "cnode/dist/node_impl.h"

namespace scope::node {
namespace {

using Clock = std::chrono::steady_clock;
using codec::TermView;

Status no_link(const std::string& node) {
  return fail(Code::node_down, fmt::format("{} is not connected", node));
}

// The reason with which the process of an erpc ended.
Result<Message> erpc_result(const Message& reason) {
  const TermView& t = reason.term;
  const auto arity = t.arity();
  const bool answer = (arity == 3 || arity == 4) && t.element(0).reference() && t.element(1).atom();
  if (answer && t.element(1).is_atom("return")) return reason.with_term(t.element(2));
  if (answer) {
    return fail(Code::refused, fmt::format("{}: {}", *t.element(1).atom(), describe(t.element(2))));
  }
  if (t.is_atom("noconnection")) return fail(Code::node_down, "the link was lost");
  return fail(Code::refused, fmt::format("the called process ended: {}", describe(t)));
}

Result<Message> gen_result(const Message& reason) {
  if (reason.term.is_atom("noproc")) {
    return fail(Code::no_such_process, "no process of that name is there");
  }
  if (reason.term.is_atom("noconnection")) return fail(Code::node_down, "the link was lost");
  return fail(Code::refused,
              fmt::format("the process ended while it was asked: {}", describe(reason.term)));
}

}  // namespace

void Node::Impl::complete_call(const Ref& ref, PendingCall& call, const Message& reason) {
  switch (call.kind) {
    case PendingCall::Kind::gen:
      call.complete(gen_result(reason));
      break;
    case PendingCall::Kind::erpc:
      call.complete(erpc_result(reason));
      break;
    case PendingCall::Kind::spawn:
      break;  // its monitor is in monitors_ by the time a DOWN can come
  }
  (void)ref;
}

void Node::Impl::on_spawn_reply(Link& link, const Signal& signal, const Message& message) {
  const Ref ref(*signal.ref);
  const auto pid = signal.result.pid();
  auto it = calls_.find(ref);
  if (it == calls_.end()) {
    // Given up in the meantime: it shall not find us linked or watching.
    if (pid && (signal.spawn_flags & kSpawnMonitor) != 0) {
      control_.clear();
      control::demonitor(control_, Pid(*signal.to), Pid(*pid), ref);
      (void)link.push(receiver_of(*pid), control_.bytes(), {}, Link::Urgency::must);
    }
    if (pid && (signal.spawn_flags & kSpawnLink) != 0) {
      control_.clear();
      control::unlink_id(control_, next_unlink_++, Pid(*signal.to), Pid(*pid));
      (void)link.push(receiver_of(*pid), control_.bytes(), {}, Link::Urgency::must);
    }
    return;
  }
  PendingCall& call = *it->second;
  if (!pid) {
    call.complete(fail(Code::refused, fmt::format("{} refused to spawn: {}", link.peer(),
                                                  describe(signal.result))));
    return;
  }
  call.pid = Pid(*pid);
  if (call.kind != PendingCall::Kind::spawn) return;
  if (call.spawn.monitor) monitors_.emplace(ref, OutMonitor{call.spawn.parent, call.pid});
  if (LocalProcess* p = find(call.spawn.parent); p != nullptr && call.spawn.link) {
    p->links.push_back(call.pid);
    ++link.held;
  }
  call.complete(message.with_term(signal.result));
}

Awaitable<Result<Message>> Node::Impl::await_call(Self self, Ref ref,
                                                  std::shared_ptr<PendingCall> call,
                                                  Clock::time_point until) {
  while (!call->result && Clock::now() < until) co_await call->event.wait(until);
  self->calls_.erase(ref);
  if (call->result) co_return std::move(*call->result);
  co_return fail(Code::timeout, fmt::format("{} did not answer in time", call->node));
}

Status Node::Impl::push_spawn(const std::string& node, const Ref& ref, const Pid& parent,
                              std::string_view module, std::string_view function, codec::Bytes args,
                              bool link, bool monitor) {
  auto to = link_to(node);
  if (!to) return no_link(node);
  auto view = codec::view(args);
  auto list = view ? view->list() : std::nullopt;
  if (!list || !list->proper()) {
    return fail(Code::bad_value, "the arguments of a spawn must be a proper list", "args");
  }
  control_.clear();
  control::spawn_request(control_, ref, parent, module, function, list->left(), link, monitor);
  return to->push(kTheNode, control_.bytes(), args, Link::Urgency::may_refuse);
}

Awaitable<Result<Spawned>> Node::Impl::spawn_request(Self self, std::string node,
                                                     std::string module, std::string function,
                                                     std::vector<std::byte> args,
                                                     SpawnOptions options) {
  const auto until = Clock::now() + options.timeout;
  CO_RETURN_IF_ERROR(co_await connect(self, node));
  if (!options.parent) options.parent = self->own_pid_;
  const Ref ref = self->new_ref();
  auto call = std::make_shared<PendingCall>(self->io_, PendingCall::Kind::spawn, node);
  call->spawn = options;
  self->calls_.emplace(ref, call);
  Status pushed = self->push_spawn(node, ref, options.parent, module, function, args, options.link,
                                   options.monitor);
  if (!pushed) call->complete(std::unexpected(pushed.error()));
  auto reply = co_await await_call(self, ref, call, until);
  if (!reply) co_return std::unexpected(std::move(reply).error());
  Spawned spawned;
  spawned.pid = call->pid;
  if (options.monitor) spawned.monitor = ref;
  co_return spawned;
}

Awaitable<Result<Message>> Node::Impl::rpc_call(Self self, std::string node, std::string module,
                                                std::string function, std::vector<std::byte> args,
                                                Millis timeout) {
  const auto until = Clock::now() + timeout;
  CO_RETURN_IF_ERROR(co_await connect(self, node));
  const Ref ref = self->new_ref();
  auto call = std::make_shared<PendingCall>(self->io_, PendingCall::Kind::erpc, node);
  self->calls_.emplace(ref, call);
  codec::TermBuilder list;
  list.list(4).reference(self->new_ref().parts()).atom(module).atom(function).raw(args).nil();
  Status pushed = self->push_spawn(node, ref, self->own_pid_, "erpc", "execute_call", list.bytes(),
                                   false, true);
  if (!pushed) call->complete(std::unexpected(pushed.error()));
  auto answer = co_await await_call(self, ref, call, until);
  if (!answer && answer.error().code == Code::timeout && call->pid) {
    self->monitors_.emplace(ref, OutMonitor{self->own_pid_, call->pid});
    self->demonitor(ref);
  }
  if (!answer) {
    Error error = std::move(answer).error();
    error.message = fmt::format("{}:{} on {}: {}", module, function, node, error.message);
    co_return std::unexpected(std::move(error));
  }
  co_return answer;
}

Awaitable<Result<Message>> Node::Impl::gen_call(Self self, NameAt to,
                                                std::vector<std::byte> request, Millis timeout) {
  const auto until = Clock::now() + timeout;
  CO_RETURN_IF_ERROR(co_await connect(self, to.node));
  const Ref ref = self->new_ref();
  auto call = std::make_shared<PendingCall>(self->io_, PendingCall::Kind::gen, to.node);
  self->calls_.emplace(ref, call);
  self->start_monitor(self->own_pid_, to, ref);
  codec::TermBuilder message;
  message.tuple(3).atom("$gen_call").tuple(2).pid(self->own_pid_.parts());
  message.reference(ref.parts()).raw(request);
  Status sent = self->send(to, message.bytes(), {}, {});
  if (!sent) call->complete(std::unexpected(sent.error()));
  auto answer = co_await await_call(self, ref, call, until);
  // Harmless if the monitor fired.
  self->monitors_.emplace(ref, OutMonitor{self->own_pid_, to});
  self->demonitor(ref);
  if (!answer) {
    Error error = std::move(answer).error();
    error.message = fmt::format("{} on {}: {}", to.name, to.node, error.message);
    co_return std::unexpected(std::move(error));
  }
  co_return answer;
}

}  // namespace scope::node
