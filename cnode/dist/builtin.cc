// What every node answers: ping (net_kernel), rpc over rex, erpc over spawn requests, and the small allow-list of
// functions that any node may run here.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "cnode/dist/node_impl.h"

namespace scope::node {
namespace {

using codec::TermBuilder;
using codec::TermView;

// The calls' own process: answers to gen calls arrive here.
class CallsProcess : public Process {
 public:
  explicit CallsProcess(Node::Impl& impl) : impl_(impl) {}
  void on_message(Message message) override;

 private:
  Node::Impl& impl_;
};

class NetKernel : public Process {
 public:
  explicit NetKernel(Node::Impl& impl) : impl_(impl) {}
  void on_message(Message message) override;

 private:
  Node::Impl& impl_;
};

class Rex : public Process {
 public:
  explicit Rex(Node::Impl& impl) : impl_(impl) {}
  void on_message(Message message) override;

 private:
  void answer_call(const GenCall& call);
  void on_old_request(const Pid& from, const TermView& request, const Message& message);
  Node::Impl& impl_;
};

// [{M, F, Args, []}]: the stack of a call that failed.
void put_stack(TermBuilder& out, const TermView& module, const TermView& function,
               const TermView& args) {
  out.list(1).tuple(4).term(module).term(function).term(args).nil().nil();
}

void CallsProcess::on_message(Message message) {
  if (message.term.arity() == 2) {
    if (auto ref = message.term.element(0).reference()) {
      auto it = impl_.calls_.find(Ref(*ref));
      if (it != impl_.calls_.end()) {
        it->second->complete(message.with_term(message.term.element(1)));
        return;
      }
    }
  }
  impl_.counters_->add(Counter::no_receiver);  // late, or nothing that was asked for
}

void NetKernel::on_message(Message message) {
  auto call = read_gen_call(message);
  if (!call) return;
  TermBuilder b;
  if (call->request.term.is_tuple("is_auth", 2)) {
    b.atom("yes");
  } else {
    b.tuple(2).atom("error").atom("notsup");
  }
  (void)impl_.reply(call->from, b.bytes());
}

void Rex::answer_call(const GenCall& call) {
  const TermView& r = call.request.term;
  TermBuilder b;
  const bool rpc = (r.is_tuple("call", 5) || r.is_tuple("block_call", 5)) && r.element(1).atom() &&
                   r.element(2).atom() && r.element(3).list() && r.element(3).list()->proper();
  if (!rpc) {
    b.tuple(2).atom("badrpc").atom("notsup");
    return (void)impl_.reply(call.from, b.bytes());
  }
  RpcAnswer answer = impl_.apply(*r.element(1).atom(), *r.element(2).atom(), r.element(3),
                                 call.request, call.from.pid);
  if (answer || answer.error().cls == RpcFailure::Class::thrown) {
    return (void)impl_.reply(call.from, answer ? answer->bytes() : answer.error().reason.bytes());
  }
  b.tuple(2).atom("badrpc").tuple(2).atom("EXIT");
  if (answer.error().cls == RpcFailure::Class::error) b.tuple(2);
  b.raw(answer.error().reason.bytes());
  if (answer.error().cls == RpcFailure::Class::error) {
    put_stack(b, r.element(1), r.element(2), r.element(3));
  }
  (void)impl_.reply(call.from, b.bytes());
}

// {From, {sbcast, Name, Msg}} and its like, which expect an answer although they are no calls.
void Rex::on_old_request(const Pid& from, const TermView& request, const Message& message) {
  const std::string& here = impl_.options_.name;
  TermBuilder b;
  if (request.is_atom("features_request")) {
    b.tuple(3).atom("features_reply").atom(here).list(1).atom("erpc").nil();
    (void)impl_.send(from, b.bytes(), {}, {});
    return;
  }
  const bool sbcast = request.is_tuple("sbcast", 3);
  if (!sbcast && !request.is_tuple("send", 3)) return;
  const auto name = request.element(1).atom();
  LocalProcess* to = name ? impl_.find_name(*name) : nullptr;
  if (to != nullptr) {
    TermBuilder m;
    if (!sbcast) m.tuple(2).pid(from.parts());
    m.term(request.element(2));
    (void)impl_.send_here(to->pid, m.bytes(), message.from);
    if (!sbcast) return;
  }
  b.tuple(3).atom("rex").atom(here);
  if (to != nullptr) {
    b.atom(here);
  } else {
    b.tuple(2).atom("nonexisting_name").term(request.element(1));
  }
  (void)impl_.send(from, b.bytes(), {}, {});
}

void Rex::on_message(Message message) {
  if (auto call = read_gen_call(message)) return answer_call(*call);
  if (auto cast = read_gen_cast(message)) {
    const TermView& r = cast->term;
    if (r.is_tuple("cast", 5) && r.element(1).atom() && r.element(2).atom() &&
        r.element(3).list() && r.element(3).list()->proper()) {
      (void)impl_.apply(*r.element(1).atom(), *r.element(2).atom(), r.element(3), message,
                        message.from);
    }
    return;
  }
  if (message.term.arity() != 2) return;
  if (auto from = message.term.element(0).pid()) {
    on_old_request(Pid(*from), message.term.element(1), message);
  }
}

struct SpawnWish {
  bool link = false, monitor = false;
};

// monitor, link, {monitor, [..]}; others (priority, heap sizes) mean nothing here.
SpawnWish read_options(const TermView& options) {
  SpawnWish wish;
  auto list = options.list();
  if (!list) return wish;
  for (; !list->done(); list->next()) {
    TermView option = list->item();
    if (option.arity() == 2) option = option.element(0);
    wish.link |= option.is_atom("link");
    wish.monitor |= option.is_atom("monitor");
  }
  return wish;
}

std::string_view class_name(RpcFailure::Class cls) {
  switch (cls) {
    case RpcFailure::Class::exit:
      return "exit";
    case RpcFailure::Class::thrown:
      return "throw";
    case RpcFailure::Class::error:
      break;
  }
  return "error";
}

}  // namespace

RpcAnswer Node::Impl::apply(std::string_view module, std::string_view function,
                            const TermView& args, const Message& message, const Pid& caller) {
  const RpcHandler* handler = rpc_.find(module, function, args.list()->left());
  if (handler == nullptr) {
    counters_->add(Counter::rpc_refused);
    RpcFailure undef;
    undef.reason.atom("undef");
    return std::unexpected(std::move(undef));
  }
  counters_->add(Counter::rpc_answered);
  RpcAnswer answer = rpc_badarg();
  guarded([&] { answer = (*handler)(RpcRequest{message, caller, args}); });
  return answer;
}

void Node::Impl::on_spawn_request(Link& link, const Signal& signal, const Message& message) {
  const Pid caller(*signal.from);
  const Ref ref(*signal.ref);
  const SpawnWish wish = read_options(signal.options);
  auto answer_spawn = [&](const Pid& pid, std::string_view refusal) {
    const std::uint64_t spawn_flags =
        refusal.empty() ? (wish.link ? kSpawnLink : 0) | (wish.monitor ? kSpawnMonitor : 0) : 0;
    control_.clear();
    control::spawn_reply(control_, ref, caller, spawn_flags, pid, refusal);
    (void)link.push(receiver_of(caller), control_.bytes(), {}, Link::Urgency::must);
  };

  std::vector<TermView> args;
  for (codec::ListView it = *message.term.list(); !it.done(); it.next()) {
    if (args.size() == 256) return answer_spawn({}, "badarg");
    args.push_back(it.item());
  }
  const bool call =
      signal.module == "erpc" && signal.function == "execute_call" && args.size() == 4;
  const bool cast =
      signal.module == "erpc" && signal.function == "execute_cast" && args.size() == 3;
  if (call || cast) {
    const TermView& module = args[args.size() - 3];
    const TermView& function = args[args.size() - 2];
    const TermView& fargs = args[args.size() - 1];
    if (!module.atom() || !function.atom() || !fargs.list() || !fargs.list()->proper()) {
      return answer_spawn({}, "badarg");
    }
    const Pid pid = new_pid();  // lives as long as this function
    answer_spawn(pid, {});
    RpcAnswer answer = apply(*module.atom(), *function.atom(), fargs, message, caller);
    TermBuilder reason;
    if (cast) {
      reason.atom("normal");
    } else if (answer) {
      reason.tuple(3).term(args[0]).atom("return").raw(answer->bytes());
    } else {
      const bool error = answer.error().cls == RpcFailure::Class::error;
      reason.tuple(error ? 4 : 3).term(args[0]).atom(class_name(answer.error().cls));
      reason.raw(answer.error().reason.bytes());
      if (error) put_stack(reason, module, function, fargs);
    }
    link.held += (wish.monitor ? 1u : 0u) + (wish.link ? 1u : 0u);  // given back at once
    if (wish.monitor) tell_watcher({caller, ref, {}}, pid, reason.bytes());
    if (wish.link) tell_linked(pid, caller, reason.bytes());
    return;
  }

  std::optional<Pid> spawned;
  if (spawn_handler_) {
    const SpawnRequest request{message,       caller,          Pid(*signal.group_leader),
                               signal.module, signal.function, message.term,
                               wish.link,     wish.monitor};
    guarded([&] { spawned = spawn_handler_(request); });
  }
  LocalProcess* p = spawned ? find(*spawned) : nullptr;
  if (p == nullptr) {
    counters_->add(Counter::spawn_refused);
    return answer_spawn({}, "notsup");
  }
  if (wish.monitor) p->watches.push_back({caller, ref, {}});
  if (wish.link) p->links.push_back(caller);
  link.held += (wish.monitor ? 1u : 0u) + (wish.link ? 1u : 0u);
  answer_spawn(*spawned, {});
}

void Node::Impl::start_builtins() {
  builtins_.push_back(std::make_unique<CallsProcess>(*this));
  own_pid_ = spawn_process(builtins_.back().get(), {});
  builtins_.push_back(std::make_unique<NetKernel>(*this));
  spawn_process(builtins_.back().get(), "net_kernel");
  builtins_.push_back(std::make_unique<Rex>(*this));
  spawn_process(builtins_.back().get(), "rex");

  rpc_.allow("erlang", "node", 0, [this](const RpcRequest&) -> RpcAnswer {
    TermBuilder b;
    b.atom(options_.name);
    return b;
  });
  rpc_.allow("erlang", "is_alive", 0, [](const RpcRequest&) -> RpcAnswer {
    TermBuilder b;
    b.boolean(true);
    return b;
  });
  rpc_.allow("erlang", "nodes", 0, [this](const RpcRequest&) -> RpcAnswer {
    TermBuilder b;
    for (const auto& [node, link] : links_) {
      if ((link->flags() & flags::kPublished) != 0) b.list_cons().atom(node);
    }
    b.nil();
    return b;
  });
  rpc_.allow("erlang", "whereis", 1, [this](const RpcRequest& request) -> RpcAnswer {
    auto name = request.args.list()->item().atom();
    if (!name) return rpc_badarg();
    TermBuilder b;
    if (LocalProcess* p = find_name(*name)) {
      b.pid(p->pid.parts());
    } else {
      b.atom("undefined");
    }
    return b;
  });
}

}  // namespace scope::node
