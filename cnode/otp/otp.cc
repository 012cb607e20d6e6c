#include "cnode/otp/otp.h"

#include <boost/asio/post.hpp>

#include "cnode/otp/otp_impl.h"

namespace scope::node {

using codec::TermBuilder;
using codec::TermView;

// --- a part ---

void PartProcess::on_message(Message message) {
  auto call = read_gen_call(message);
  if (!call) return;
  TermBuilder out;
  answer(call->request.term, out);
  (void)node_.reply(call->from, out.bytes());
}

void PartProcess::answer(const TermView&, TermBuilder& out) {
  out.tuple(2).atom("error").atom("notsup");
}

void PartProcess::write_state(TermBuilder& out) const {
  const auto f = figures();
  out.map(3).atom("queue").unsigned_integer(f.queue).atom("work").unsigned_integer(f.work);
  out.atom("memory").unsigned_integer(f.memory);
}

namespace {

// Answers supervisor:which_children and count_children of the parts.
class Supervisor : public PartProcess {
 public:
  Supervisor(Node& node, const Otp::Impl& otp)
      : PartProcess(node, {std::string(kSupervisor), nullptr}), otp_(otp) {}

 protected:
  void answer(const TermView& request, TermBuilder& out) override {
    const auto& parts = otp_.part_pids_;
    if (request.is_atom("which_children")) {
      for (const auto& [name, pid] : parts) {
        out.list_cons().tuple(4).atom(name).pid(pid.parts()).atom("worker");
        out.list(1).atom(kApplication).nil();
      }
      out.nil();
    } else if (request.is_atom("count_children")) {
      out.list(4);
      for (const std::string_view key : {"specs", "active", "supervisors", "workers"}) {
        out.tuple(2).atom(key).unsigned_integer(key == "supervisors" ? 0 : parts.size());
      }
      out.nil();
    } else {
      PartProcess::answer(request, out);
    }
  }

 private:
  const Otp::Impl& otp_;
};

}  // namespace

void Errand::on_exit(const Pid&, const Message&, bool) { otp_.end(pid); }

// --- life ---

Otp::Otp(boost::asio::io_context& io, Node& node, OtpSources sources)
    : impl_(std::make_shared<Impl>(io, node, std::move(sources))) {
  impl_->start();
}
Otp::~Otp() { impl_->stop(); }

Otp::Impl::Impl(boost::asio::io_context& io, Node& node, OtpSources sources)
    : io_(io), node_(node), sources_(std::move(sources)) {}

void Otp::Impl::start() {
  for (auto& part : sources_.parts) {
    const std::string name = part.name;
    auto process = std::make_unique<PartProcess>(node_, std::move(part));
    if (const auto pid = node_.register_process(name, process.get())) {
      part_pids_[name] = *pid;
      parts_[name] = std::move(process);
    }
  }
  for (const std::string_view name : {"elixir_scope", "net_kernel", "rex"}) {
    if (const auto pid = node_.whereis(name)) part_pids_.emplace(name, *pid);
  }
  auto supervisor = std::make_unique<Supervisor>(node_, *this);
  if (const auto pid = node_.register_process(std::string(kSupervisor), supervisor.get())) {
    supervisor_ = *pid;
    parts_[std::string(kSupervisor)] = std::move(supervisor);
  }
  allow("code", "ensure_loaded", 1, [](const RpcRequest& request) -> RpcAnswer {
    const auto module = argument(request, 0).atom();
    if (!module) return rpc_badarg();
    TermBuilder out;
    const bool ours = *module == "observer_backend" || *module == "appmon_info";
    out.tuple(2).atom(ours ? "module" : "error");
    out.atom(ours ? *module : "nofile");
    return out;
  });
  allow("code", "all_loaded", 0, [](const RpcRequest&) -> RpcAnswer {
    TermBuilder out;
    out.nil();
    return out;
  });
  allow("erlang", "function_exported", 3, [this](const RpcRequest& request) -> RpcAnswer {
    const auto module = argument(request, 0).atom(), function = argument(request, 1).atom();
    const auto arity = argument(request, 2).unsigned_integer();
    if (!module || !function || !arity || *arity > 255) return rpc_badarg();
    const bool spawned =
        *module == "observer_backend" && ((*function == "procs_info" && *arity == 1) ||
                                          (*function == "fetch_stats" && *arity == 2) ||
                                          (*function == "etop_collect" && *arity == 1));
    TermBuilder out;
    out.boolean(spawned ||
                node_.rpc().find(*module, *function, static_cast<std::uint32_t>(*arity)));
    return out;
  });
  allow_processes();
  allow_backend();
  allow_tables();
  allow_applications();
  node_.set_spawn_handler([this](const SpawnRequest& request) { return on_spawn(request); });
  look_at_databases();
}

void Otp::Impl::stop() {
  stopped_ = true;
  node_.set_spawn_handler(nullptr);
  for (const auto& errand : errands_) node_.end_process(errand->pid);
  for (const auto& [name, part] : parts_) {
    if (const auto pid = node_.whereis(name)) node_.end_process(*pid);
  }
}

Pid Otp::Impl::add(std::unique_ptr<Errand> errand) {
  errand->pid = node_.spawn_process(errand.get());
  errands_.push_back(std::move(errand));
  return errands_.back()->pid;
}

void Otp::Impl::end(const Pid& pid, std::string_view reason) {
  boost::asio::post(io_, [self = shared_from_this(), pid, reason] {
    if (self->stopped_) return;
    TermBuilder why;
    why.atom(reason);
    self->node_.end_process(pid, why.bytes());
    std::erase_if(self->errands_, [&](const auto& e) { return e->pid == pid; });
  });
}

std::optional<Pid> Otp::Impl::on_spawn(const SpawnRequest& request) {
  constexpr std::size_t kMostErrands = 200;
  if (errands_.size() >= kMostErrands) return std::nullopt;
  std::vector<TermView> args;
  for (auto it = *request.args.list(); !it.done() && args.size() < 4; it.next())
    args.push_back(it.item());
  const auto pid = [&](std::size_t i) { return i < args.size() ? args[i].pid() : std::nullopt; };
  if (request.module == "dbg" && request.function == "do_relay" && request.link) {
    const std::size_t at = args.size() == 3 ? 1 : 0;  // where Parent stands
    if (args.size() != at + 2 || !pid(at)) return std::nullopt;
    return trace_relay(Pid(*pid(at)), args[at + 1], at == 1);
  }
  const auto parent = pid(0);
  if (request.module != "observer_backend" || !parent) return std::nullopt;
  if (args.size() == 1 && request.function == "procs_info") return procs_info(Pid(*parent), false);
  if (args.size() == 1 && request.function == "etop_collect") return procs_info(Pid(*parent), true);
  if (args.size() != 2 || request.function != "fetch_stats") return std::nullopt;
  const auto every = args[1].integer();
  return every ? fetch_stats(Pid(*parent), *every) : std::nullopt;
}

const MemoryUse& Otp::Impl::memory() {
  const auto now = std::chrono::steady_clock::now();
  if (memory_.total == 0 || now - memory_at_ > std::chrono::milliseconds(500)) {
    memory_ = measure_memory();
    memory_at_ = now;
  }
  return memory_;
}

}  // namespace scope::node
