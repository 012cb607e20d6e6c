// appmon_info and application: the daemon as one application, its parts as the children of one supervisor.
#include <boost/asio/post.hpp>

#include "cnode/otp/otp_impl.h"

namespace scope::node {
namespace {

using codec::TermBuilder;
using codec::TermView;

// {From, app_ctrl | app, Aux, OnOff, Opts} is answered with {delivery, Self, Cmd, Aux, What}, once each.
class Appmon : public Errand {
 public:
  Appmon(Otp::Impl& otp, Pid client) : Errand(otp), client_(std::move(client)) {}

  void watch() { (void)otp_.node_.monitor(pid, client_); }
  void on_down(const Ref&, const Target&, const Message&) override { otp_.end(pid); }
  void on_message(Message message) override {
    if (message.term.is_atom("exit")) return otp_.end(pid);
    const auto cast = read_gen_cast(message);
    if (!cast || cast->term.arity() != 5) return;
    const auto from = cast->term.element(0).pid();
    const auto what = cast->term.element(1).atom();
    if (!from || !what || !cast->term.element(3).is_atom("true")) return;
    TermBuilder out;
    out.tuple(5).atom("delivery").pid(pid.parts()).atom(*what).term(cast->term.element(2));
    if (*what == "app_ctrl") {
      out.list(1);
      write_application(out);
      out.nil();
    } else if (*what == "app") {
      write_tree(out, cast->term.element(2).is_atom(kApplication));
    } else {
      return;
    }
    (void)otp_.node_.send(Pid(*from), out.bytes(), pid);
  }

 private:
  // {Pid, App, {App, Description, Version}}
  void write_application(TermBuilder& out) const {
    out.tuple(3).pid(otp_.supervisor_.parts()).atom(kApplication);
    out.tuple(3).atom(kApplication).charlist("ElixirScope, which records this cluster");
    out.charlist(otp_.sources_.version);
  }
  // {Root, [{Pid, Name}], [{Parent, Child}], CrossLinks}, names as strings.
  void write_tree(TermBuilder& out, bool ours) const {
    out.tuple(4);
    if (!ours) {
      out.charlist("").nil().nil().nil();
      return;
    }
    out.charlist(kSupervisor);
    out.list_cons().tuple(2).pid(otp_.supervisor_.parts()).charlist(kSupervisor);
    for (const auto& [name, part] : otp_.part_pids_)
      out.list_cons().tuple(2).pid(part.parts()).charlist(name);
    out.nil();
    for (const auto& [name, part] : otp_.part_pids_)
      out.list_cons().tuple(2).charlist(kSupervisor).charlist(name);
    out.nil().nil();
  }
  const Pid client_;
};

}  // namespace

void Otp::Impl::allow_applications() {
  allow("appmon_info", "start_link2", 3, [this](const RpcRequest& request) -> RpcAnswer {
    const auto client = argument(request, 1).pid();
    if (!client || errands_.size() >= 200) return rpc_badarg();
    auto appmon = std::make_unique<Appmon>(*this, Pid(*client));
    auto* process = appmon.get();
    const Pid pid = add(std::move(appmon));
    process->watch();
    TermBuilder out;
    out.tuple(2).atom("ok").pid(pid.parts());
    return out;
  });
  const auto applications = [this](const RpcRequest&) -> RpcAnswer {
    TermBuilder out;
    out.list(1).tuple(3).atom(kApplication).charlist("ElixirScope, which records this cluster");
    out.charlist(sources_.version).nil();
    return out;
  };
  allow("application", "which_applications", 0, applications);
  allow("application", "loaded_applications", 0, applications);
}

}  // namespace scope::node
