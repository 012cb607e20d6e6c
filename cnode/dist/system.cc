// What the module sys asks of any process: its state and status are told; what would change a process from outside is
// refused, always with an answer.
#include <algorithm>

#include "cnode/dist/node_impl.h"

namespace scope::node {
namespace {

using codec::TermBuilder;
using codec::TermView;

// {error, {refused, Why}}: what sys:suspend returns, and sys:replace_state raises.
void refuse(TermBuilder& out, std::string_view why) {
  out.tuple(2).atom("error").tuple(2).atom("refused").binary(why);
}

// As gen_server answers: {status, Pid, {module, M}, [PDict, SysState, Parent, Debug, [Header, Data, Data]]}.
void write_status(TermBuilder& out, const LocalProcess& p, const Pid& parent) {
  out.tuple(4).atom("status").pid(p.pid.parts());
  out.tuple(2).atom("module").atom("gen_server");
  out.list(5).nil().atom("running").pid(parent.parts()).nil();
  out.list(3);
  out.tuple(2).atom("header").charlist("Status for generic server " +
                                       (p.name.empty() ? p.pid.to_string() : p.name));
  out.tuple(2).atom("data").list(2);
  out.tuple(2).charlist("Status").atom("running");
  out.tuple(2).charlist("Parent").pid(parent.parts());
  out.nil();
  out.tuple(2).atom("data").list(1);
  out.tuple(2).charlist("State");
  p.process->write_state(out);
  out.nil().nil().nil();
}

}  // namespace

// To sys:terminate: the caller's monitor of this call fires with {refused, Why}, so that GenServer.stop exits with a reason.
// Any answer but `ok` would be a try_clause error in it, and after `ok` it waits for our end.
void Node::Impl::refuse_to_end(LocalProcess& to, const GenCall& call) {
  constexpr std::string_view kWhy =
      "end the daemon with SIGTERM: it takes its agents out of the nodes first";
  TermBuilder out;
  const auto watch = std::ranges::find(to.watches, call.from.monitor, &Watch::ref);
  if (!call.from.monitor || watch == to.watches.end()) {
    refuse(out, kWhy);
    return (void)reply(call.from, out.bytes());
  }
  out.tuple(2).atom("refused").binary(kWhy);
  tell_watcher(*watch, to.pid, out.bytes());
  to.watches.erase(watch);
}

void Node::Impl::answer_system(LocalProcess& to, const GenCall& call) {
  const TermView& request = call.request.term;
  if (request.is_tuple("terminate", 2)) return refuse_to_end(to, call);
  TermBuilder out;
  guarded([&] {
    if (request.is_atom("get_state")) {
      out.tuple(2).atom(
          "ok");  // as of OTP 27, where a bare state raises; before, the caller sees {ok, State}
      to.process->write_state(out);
    } else if (request.is_atom("get_status")) {
      write_status(out, to, own_pid_);
    } else if (request.is_atom("resume")) {
      out.atom("ok");  // it runs
    } else if (request.is_atom("suspend")) {
      refuse(out, "a process of a daemon that records is not suspended from outside");
    } else if (request.is_tuple("replace_state", 2)) {
      refuse(out, "a process of a daemon that records has no state to be replaced from outside");
    } else {
      out.tuple(2).atom("error").tuple(2).atom("unknown_system_msg").term(request);
    }
  });
  (void)reply(call.from, out.bytes());
}

}  // namespace scope::node
