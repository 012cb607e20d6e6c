// Control messages: the first term of every packet, read and written side by side (distribution.md section 2).
// Internal to cnode/dist.
//
// Reading folds the variants of one signal (with a seq_trace token, with the reason in the payload, with the sender)
// into one Op, so that whoever handles signals sees each once.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "cnode/dist/identity.h"
#include "ei_codec/base/result.h"
#include "ei_codec/term_builder.h"
#include "ei_codec/term_view.h"

namespace scope::node {

enum class Op : std::uint8_t {
  link = 1,            // from, to
  send = 2,            // [from], to, payload                            also 12, 22, 23
  exit = 3,            // from, to, reason (of a link)                   also 13, 24, 25
  unlink = 4,          // from, to: before UNLINK_ID
  reg_send = 6,        // from, to_name, payload                         also 16
  group_leader = 7,    // from, to
  exit2 = 8,           // from, to, reason (exit/2)                      also 18, 26, 27
  monitor = 19,        // from, to or to_name, ref
  demonitor = 20,      // from, to or to_name, ref
  monitor_exit = 21,   // from or from_name, to, ref, reason             also 28
  spawn_request = 29,  // ref, from, group_leader, mfa, options, payload also 30
  spawn_reply = 31,    // ref, to, spawn_flags, result                   also 32
  alias_send = 33,     // from, ref, payload                             also 34
  unlink_id = 35,      // id, from, to
  unlink_id_ack = 36,  // id, from, to
};

inline constexpr std::uint64_t kSpawnLink = 1, kSpawnMonitor = 2;

// Views into the packet. Fields that the Op's line above does not name are unset.
struct Signal {
  Op op = Op::send;
  bool payload = false;  // a second term follows: the message, the reason or the arguments
  std::optional<codec::PidParts> from, to, group_leader;
  std::string_view from_name, to_name;
  std::optional<codec::RefParts> ref;
  std::uint64_t id = 0;
  std::optional<codec::TermView> token;
  std::optional<codec::TermView> reason;  // where it is not the payload
  std::string_view module, function;
  std::uint32_t arity = 0;
  codec::TermView options;
  std::uint64_t spawn_flags = 0;
  codec::TermView result;  // of a spawn: a pid or an atom
};

// malformed: no tuple, an operation that we did not agree to, or fields of the wrong type.
Result<Signal> read_signal(const codec::TermView& control);

// Each writes one control tuple to the builder. A token is a whole encoded tuple, or empty.
namespace control {
using Out = codec::TermBuilder;
// `from` is left out (op 2) for peers without SEND_SENDER, unless there is a token.
void send(Out& out, std::uint64_t peer_flags, const Pid& from, const Pid& to, codec::Bytes token);
void reg_send(Out& out, const Pid& from, std::string_view name, codec::Bytes token);
void alias_send(Out& out, const Pid& from, const Ref& alias, codec::Bytes token);
void link(Out& out, const Pid& from, const Pid& to);
void unlink_id(Out& out, std::uint64_t id, const Pid& from, const Pid& to);
void unlink_id_ack(Out& out, std::uint64_t id, const Pid& from, const Pid& to);
void monitor(Out& out, const Pid& from, const Target& target, const Ref& ref);
void demonitor(Out& out, const Pid& from, const Target& target, const Ref& ref);
// These three return true if the reason follows as the payload; else they have written it.
bool exit(Out& out, std::uint64_t peer_flags, const Pid& from, const Pid& to, codec::Bytes reason);
bool exit2(Out& out, std::uint64_t peer_flags, const Pid& from, const Pid& to, codec::Bytes reason);
bool monitor_exit(Out& out, std::uint64_t peer_flags, const Target& who, const Pid& watcher,
                  const Ref& ref, codec::Bytes reason);
void spawn_request(Out& out, const Ref& id, const Pid& from, std::string_view module,
                   std::string_view function, std::uint32_t arity, bool link, bool monitor);
// `refusal` is sent instead of the pid if it is not empty.
void spawn_reply(Out& out, const Ref& id, const Pid& to, std::uint64_t spawn_flags, const Pid& pid,
                 std::string_view refusal);
}  // namespace control

}  // namespace scope::node
