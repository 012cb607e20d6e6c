#include "cnode/dist/control.h"

#include <fmt/format.h>

#include "cnode/dist/handshake.h"

namespace scope::node {
namespace {

using codec::TermView;

// The numbers on the wire, where they are not an Op's own.
enum Wire : std::uint64_t {
  kSendTt = 12,
  kExitTt = 13,
  kRegSendTt = 16,
  kExit2Tt = 18,
  kSendSender = 22,
  kSendSenderTt = 23,
  kPayloadExit = 24,
  kPayloadExitTt = 25,
  kPayloadExit2 = 26,
  kPayloadExit2Tt = 27,
  kPayloadMonitorExit = 28,
  kSpawnRequestTt = 30,
  kSpawnReplyTt = 32,
  kAliasSendTt = 34
};

// Reads a tuple's elements in order; what does not fit makes ok() false.
class Fields {
 public:
  explicit Fields(const TermView& tuple) {
    if (auto elements = tuple.elements()) {
      it_ = *elements;
    } else {
      ok_ = false;
    }
  }

  std::optional<codec::PidParts> pid() {
    auto p = next().and_then_pid();
    if (!p) ok_ = false;
    return p;
  }
  void pid_or_name(std::optional<codec::PidParts>& pid, std::string_view& name) {
    const Item item = next();
    if (!item.set) return;
    pid = item.term.pid();
    if (pid) return;
    if (auto atom = item.term.atom()) {
      name = *atom;
    } else {
      ok_ = false;
    }
  }
  std::optional<codec::RefParts> ref() {
    const Item item = next();
    auto r = item.set ? item.term.reference() : std::nullopt;
    if (!r) ok_ = false;
    return r;
  }
  std::string_view atom() {
    const Item item = next();
    auto a = item.set ? item.term.atom() : std::nullopt;
    if (!a) ok_ = false;
    return a.value_or(std::string_view{});
  }
  std::uint64_t number() {
    const Item item = next();
    auto n = item.set ? item.term.unsigned_integer() : std::nullopt;
    if (!n) ok_ = false;
    return n.value_or(0);
  }
  std::optional<TermView> any() {
    const Item item = next();
    return item.set ? std::optional(item.term) : std::nullopt;
  }
  bool ok() const { return ok_; }
  bool at_end() const { return ok_ && it_.done(); }

 private:
  struct Item {
    bool set = false;
    TermView term;
    std::optional<codec::PidParts> and_then_pid() const { return set ? term.pid() : std::nullopt; }
  };
  Item next() {
    if (!ok_ || it_.done()) {
      ok_ = false;
      return {};
    }
    Item item{true, it_.item()};
    it_.next();
    return item;
  }

  codec::ListView it_;
  bool ok_ = true;
};

bool has_token(std::uint64_t op) {
  switch (op) {
    case kSendTt:
    case kExitTt:
    case kRegSendTt:
    case kExit2Tt:
    case kSendSenderTt:
    case kPayloadExitTt:
    case kPayloadExit2Tt:
    case kSpawnRequestTt:
    case kSpawnReplyTt:
    case kAliasSendTt:
      return true;
    default:
      return false;
  }
}

void read_mfa(Fields& in, Signal& s) {
  auto mfa = in.any();
  if (!mfa) return;
  Fields f(*mfa);
  s.module = f.atom();
  s.function = f.atom();
  s.arity = static_cast<std::uint32_t>(std::min<std::uint64_t>(f.number(), 256));
  if (!f.at_end()) s.module = {};
}

// A link's two ends, an id before them in some.
void read_ends(Fields& in, Signal& s) {
  s.from = in.pid();
  s.to = in.pid();
}

// False: an operation that is not ours. Leaves the token and inline reason of 13 and 18 to the end.
bool read_fields(std::uint64_t op, Fields& in, Signal& s) {
  const bool token = has_token(op);
  auto read_token = [&] {
    if (token) s.token = in.any();
  };
  switch (op) {
    case 1:
    case 4:
    case 7:
      s.op = static_cast<Op>(op);
      read_ends(in, s);
      return true;
    case 2:
    case kSendTt:
      s.op = Op::send;
      s.payload = true;
      in.any();  // unused: a cookie once
      s.to = in.pid();
      read_token();
      return true;
    case kSendSender:
    case kSendSenderTt:
      s.op = Op::send;
      s.payload = true;
      read_ends(in, s);
      read_token();
      return true;
    case 6:
    case kRegSendTt:
      s.op = Op::reg_send;
      s.payload = true;
      s.from = in.pid();
      in.any();
      s.to_name = in.atom();
      read_token();
      return true;
    case 3:
    case kExitTt:
    case 8:
    case kExit2Tt:
      s.op = op == 3 || op == kExitTt ? Op::exit : Op::exit2;
      read_ends(in, s);
      read_token();
      s.reason = in.any();
      return true;
    case kPayloadExit:
    case kPayloadExitTt:
    case kPayloadExit2:
    case kPayloadExit2Tt:
      s.op = op == kPayloadExit || op == kPayloadExitTt ? Op::exit : Op::exit2;
      s.payload = true;
      read_ends(in, s);
      read_token();
      return true;
    case 19:
    case 20:
      s.op = static_cast<Op>(op);
      s.from = in.pid();
      in.pid_or_name(s.to, s.to_name);
      s.ref = in.ref();
      return true;
    case 21:
    case kPayloadMonitorExit:
      s.op = Op::monitor_exit;
      in.pid_or_name(s.from, s.from_name);
      s.to = in.pid();
      s.ref = in.ref();
      s.payload = op == kPayloadMonitorExit;
      if (!s.payload) s.reason = in.any();
      return true;
    case 29:
    case kSpawnRequestTt: {
      s.op = Op::spawn_request;
      s.payload = true;
      s.ref = in.ref();
      s.from = in.pid();
      s.group_leader = in.pid();
      read_mfa(in, s);
      if (auto options = in.any()) s.options = *options;
      read_token();
      return true;
    }
    case 31:
    case kSpawnReplyTt:
      s.op = Op::spawn_reply;
      s.ref = in.ref();
      s.to = in.pid();
      s.spawn_flags = in.number();
      if (auto result = in.any()) s.result = *result;
      read_token();
      return true;
    case 33:
    case kAliasSendTt:
      s.op = Op::alias_send;
      s.payload = true;
      s.from = in.pid();
      s.ref = in.ref();
      read_token();
      return true;
    case 35:
    case 36:
      s.op = static_cast<Op>(op);
      s.id = in.number();
      read_ends(in, s);
      return true;
    default:
      return false;
  }
}

}  // namespace

Result<Signal> read_signal(const TermView& term) {
  Fields in(term);
  const std::uint64_t op = in.number();
  if (!in.ok()) return fail(Code::malformed, "a control message that is no tuple with a number");
  Signal s;
  if (!read_fields(op, in, s)) {
    return fail(Code::malformed, fmt::format("control message {}: not agreed upon", op));
  }
  const bool bad_mfa = s.op == Op::spawn_request && (s.module.empty() || s.arity > 255);
  if (!in.at_end() || bad_mfa) {
    return fail(Code::malformed, fmt::format("control message {}: wrong fields", op));
  }
  return s;
}

namespace control {
namespace {

Out& head(Out& out, std::uint32_t arity, std::uint64_t op) {
  return out.tuple(arity).unsigned_integer(op);
}

void target_of(Out& out, const Target& target) {
  if (const auto* pid = std::get_if<Pid>(&target)) {
    out.pid(pid->parts());
  } else {
    out.atom(std::get<NameAt>(target).name);
  }
}

std::uint32_t one_if(bool yes) { return yes ? 1 : 0; }

}  // namespace

void send(Out& out, std::uint64_t peer_flags, const Pid& from, const Pid& to, codec::Bytes token) {
  const bool traced = !token.empty();
  if ((peer_flags & flags::kSendSender) != 0) {
    head(out, 3 + one_if(traced), traced ? kSendSenderTt : kSendSender).pid(from.parts());
  } else {
    head(out, 3 + one_if(traced), traced ? std::uint64_t{kSendTt} : 2).atom("");
  }
  out.pid(to.parts()).raw(token);
}

void reg_send(Out& out, const Pid& from, std::string_view name, codec::Bytes token) {
  const bool traced = !token.empty();
  head(out, 4 + one_if(traced), traced ? std::uint64_t{kRegSendTt} : 6);
  out.pid(from.parts()).atom("").atom(name).raw(token);
}

void alias_send(Out& out, const Pid& from, const Ref& alias, codec::Bytes token) {
  const bool traced = !token.empty();
  head(out, 3 + one_if(traced), traced ? std::uint64_t{kAliasSendTt} : 33);
  out.pid(from.parts()).reference(alias.parts()).raw(token);
}

void link(Out& out, const Pid& from, const Pid& to) {
  head(out, 3, 1).pid(from.parts()).pid(to.parts());
}

void unlink_id(Out& out, std::uint64_t id, const Pid& from, const Pid& to) {
  head(out, 4, 35).unsigned_integer(id).pid(from.parts()).pid(to.parts());
}

void unlink_id_ack(Out& out, std::uint64_t id, const Pid& from, const Pid& to) {
  head(out, 4, 36).unsigned_integer(id).pid(from.parts()).pid(to.parts());
}

void monitor(Out& out, const Pid& from, const Target& target, const Ref& ref) {
  head(out, 4, 19).pid(from.parts());
  target_of(out, target);
  out.reference(ref.parts());
}

void demonitor(Out& out, const Pid& from, const Target& target, const Ref& ref) {
  head(out, 4, 20).pid(from.parts());
  target_of(out, target);
  out.reference(ref.parts());
}

bool exit(Out& out, std::uint64_t peer_flags, const Pid& from, const Pid& to, codec::Bytes reason) {
  const bool payload = (peer_flags & flags::kExitPayload) != 0;
  head(out, payload ? 3 : 4, payload ? std::uint64_t{kPayloadExit} : 3);
  out.pid(from.parts()).pid(to.parts());
  if (!payload) out.raw(reason);
  return payload;
}

bool exit2(Out& out, std::uint64_t peer_flags, const Pid& from, const Pid& to,
           codec::Bytes reason) {
  const bool payload = (peer_flags & flags::kExitPayload) != 0;
  head(out, payload ? 3 : 4, payload ? std::uint64_t{kPayloadExit2} : 8);
  out.pid(from.parts()).pid(to.parts());
  if (!payload) out.raw(reason);
  return payload;
}

bool monitor_exit(Out& out, std::uint64_t peer_flags, const Target& who, const Pid& watcher,
                  const Ref& ref, codec::Bytes reason) {
  const bool payload = (peer_flags & flags::kExitPayload) != 0;
  head(out, payload ? 4 : 5, payload ? std::uint64_t{kPayloadMonitorExit} : 21);
  target_of(out, who);
  out.pid(watcher.parts()).reference(ref.parts());
  if (!payload) out.raw(reason);
  return payload;
}

void spawn_request(Out& out, const Ref& id, const Pid& from, std::string_view module,
                   std::string_view function, std::uint32_t arity, bool link, bool monitor) {
  head(out, 6, 29).reference(id.parts()).pid(from.parts()).pid(from.parts());
  out.tuple(3).atom(module).atom(function).unsigned_integer(arity);
  const std::uint32_t options = one_if(link) + one_if(monitor);
  out.list(options);
  if (link) out.atom("link");
  if (monitor) out.atom("monitor");
  out.nil();
}

void spawn_reply(Out& out, const Ref& id, const Pid& to, std::uint64_t spawn_flags, const Pid& pid,
                 std::string_view refusal) {
  head(out, 5, 31).reference(id.parts()).pid(to.parts()).unsigned_integer(spawn_flags);
  if (refusal.empty()) {
    out.pid(pid.parts());
  } else {
    out.atom(refusal);
  }
}

}  // namespace control
}  // namespace scope::node
