// Processes as erlang:process_info, proc_lib and module_info tell of them. A field that means nothing here has the value
// that it has for a BEAM process without any (no binaries, no dictionary).
#include "cnode/otp/otp_impl.h"

namespace scope::node {
namespace {

using codec::TermBuilder;
using codec::TermView;

std::string_view module_of(const Shown&) { return kApplication; }

void write_pids(TermBuilder& out, const std::vector<Pid>& pids) {
  for (const auto& pid : pids) out.list_cons().pid(pid.parts());
  out.nil();
}

void write_call(TermBuilder& out, const Shown& p) {
  out.tuple(3).atom(module_of(p)).atom(p.name).integer(1);
}

constexpr std::string_view kItems[] = {"registered_name",   "current_function",
                                       "initial_call",      "status",
                                       "message_queue_len", "links",
                                       "dictionary",        "trap_exit",
                                       "error_handler",     "priority",
                                       "group_leader",      "total_heap_size",
                                       "heap_size",         "stack_size",
                                       "reductions",        "garbage_collection",
                                       "suspending"};

}  // namespace

Shown Otp::Impl::show(ProcessInfo info) {
  Shown p;
  p.name = info.name.empty() ? "process" : info.name;
  p.figures.work = info.messages;
  if (const auto part = parts_.find(info.name); part != parts_.end() && !info.name.empty()) {
    const auto f = part->second->figures();
    p.figures = {f.queue, f.work + info.messages, f.memory};
  }
  p.info = std::move(info);
  return p;
}

std::vector<Shown> Otp::Impl::shown() {
  std::vector<Shown> all;
  for (auto& info : node_.processes()) all.push_back(show(std::move(info)));
  return all;
}

std::optional<Shown> Otp::Impl::shown(const Pid& pid) {
  auto info = node_.process(pid);
  if (!info) return std::nullopt;
  return show(*std::move(info));
}

bool Otp::Impl::write_item(const Shown& p, std::string_view item, TermBuilder& out) const {
  const auto is = [item](auto... names) { return ((item == names) || ...); };
  if (item == "registered_name") {
    p.info.name.empty() ? out.nil() : out.atom(p.info.name);
  } else if (is("current_function", "initial_call")) {
    write_call(out, p);
  } else if (item == "status") {
    out.atom(p.figures.queue > 0 ? "runnable" : "waiting");
  } else if (item == "message_queue_len") {
    out.unsigned_integer(p.figures.queue);
  } else if (item == "links") {
    write_pids(out, p.info.links);
  } else if (item == "monitored_by") {
    write_pids(out, p.info.watchers);
  } else if (item == "reductions") {
    out.unsigned_integer(p.figures.work);
  } else if (item == "memory") {
    out.unsigned_integer(p.figures.memory);
  } else if (is("total_heap_size", "heap_size")) {
    out.unsigned_integer(p.figures.memory / 8);
  } else if (is("stack_size", "catchlevel", "trace")) {
    out.integer(0);
  } else if (is("binary", "dictionary", "messages", "monitors", "suspending", "current_stacktrace",
                "sequential_trace_token", "garbage_collection")) {
    out.nil();
  } else if (item == "group_leader") {
    out.pid((supervisor_ ? supervisor_ : p.info.pid).parts());
  } else if (item == "priority") {
    out.atom("normal");
  } else if (item == "trap_exit") {
    out.boolean(true);
  } else if (item == "last_calls") {
    out.boolean(false);
  } else if (item == "error_handler") {
    out.atom("error_handler");
  } else if (item == "current_location") {
    out.tuple(4).atom(module_of(p)).atom(p.name).integer(1).nil();
  } else {
    return false;
  }
  return true;
}

void Otp::Impl::allow_processes() {
  const auto process_info = [this](const RpcRequest& request) -> RpcAnswer {
    const auto pid = argument(request, 0).pid();
    if (!pid || pid->node != node_.name()) return rpc_badarg();
    const auto p = shown(Pid(*pid));
    TermBuilder out;
    const bool all = request.args.list()->left() == 1;
    if (!p) {
      out.atom("undefined");
      return out;
    }
    const auto pair = [&](std::string_view item) {
      out.tuple(2).atom(item);
      return write_item(*p, item, out);
    };
    if (all) {
      for (const auto item : kItems) {
        if (item == "registered_name" && p->info.name.empty()) continue;
        out.list_cons();
        (void)pair(item);
      }
      out.nil();
      return out;
    }
    const TermView what = argument(request, 1);
    if (const auto item = what.atom()) {
      if (*item == "registered_name" && p->info.name.empty()) {
        out.nil();
        return out;
      }
      if (!pair(*item)) return rpc_badarg();
      return out;
    }
    auto items = what.list();
    if (!items || !items->proper()) return rpc_badarg();
    for (; !items->done(); items->next()) {
      const auto item = items->item().atom();
      out.list_cons();
      if (!item || !pair(*item)) return rpc_badarg();
    }
    out.nil();
    return out;
  };
  allow("erlang", "process_info", 1, process_info);
  allow("erlang", "process_info", 2, process_info);
  allow("erlang", "processes", 0, [this](const RpcRequest&) -> RpcAnswer {
    TermBuilder out;
    for (const auto& p : node_.processes()) out.list_cons().pid(p.pid.parts());
    out.nil();
    return out;
  });
  allow("erlang", "registered", 0, [this](const RpcRequest&) -> RpcAnswer {
    TermBuilder out;
    for (const auto& p : node_.processes()) {
      if (!p.name.empty()) out.list_cons().atom(p.name);
    }
    out.nil();
    return out;
  });
  allow("erlang", "is_process_alive", 1, [this](const RpcRequest& request) -> RpcAnswer {
    const auto pid = argument(request, 0).pid();
    if (!pid || pid->node != node_.name()) return rpc_badarg();
    TermBuilder out;
    out.boolean(node_.process(Pid(*pid)).has_value());
    return out;
  });
  // There is no garbage; a process that is there answers true.
  allow("erlang", "garbage_collect", 1, [this](const RpcRequest& request) -> RpcAnswer {
    const auto pid = argument(request, 0).pid();
    if (!pid || pid->node != node_.name()) return rpc_badarg();
    TermBuilder out;
    out.boolean(node_.process(Pid(*pid)).has_value());
    return out;
  });
  allow("proc_lib", "translate_initial_call", 1, [this](const RpcRequest& request) -> RpcAnswer {
    const auto pid = argument(request, 0).pid();
    if (!pid) return rpc_badarg();
    const auto p = shown(Pid(*pid));
    TermBuilder out;
    p ? write_call(out, *p) : void(out.tuple(3).atom("proc_lib").atom("init_p").integer(5));
    return out;
  });
  allow("sys", "get_status", 2, [this](const RpcRequest& request) -> RpcAnswer {
    const auto pid = argument(request, 0).pid();
    if (!pid) return rpc_badarg();
    const auto p = shown(Pid(*pid));
    if (!p) {
      RpcFailure failure;
      failure.cls = RpcFailure::Class::exit;
      failure.reason.tuple(2).atom("noproc").tuple(3).atom("sys").atom("get_status");
      failure.reason.term(request.args);
      return std::unexpected(std::move(failure));
    }
    // The window shows the last of these as {"State", _}.
    TermBuilder out;
    out.tuple(4).atom("status").pid(p->info.pid.parts());
    out.tuple(2).atom("module").atom(module_of(*p));
    out.list(5).nil().atom("running").pid((supervisor_ ? supervisor_ : p->info.pid).parts()).nil();
    out.map(3).atom("queue").unsigned_integer(p->figures.queue);
    out.atom("work").unsigned_integer(p->figures.work);
    out.atom("memory").unsigned_integer(p->figures.memory).nil();
    return out;
  });
  allow(std::string(kApplication), "module_info", 1, [](const RpcRequest& request) -> RpcAnswer {
    const auto item = argument(request, 0).atom();
    TermBuilder out;
    if (item == "attributes") {
      out.list(1).tuple(2).atom("behaviour").list(1).atom("gen_server").nil().nil();
    } else if (item == "exports" || item == "functions") {
      out.nil();
    } else {
      return rpc_badarg();
    }
    return out;
  });
}

}  // namespace scope::node
