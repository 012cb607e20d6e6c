#include "ei_codec/record_parts.h"

#include "ei_codec/term_tags.h"

namespace scope::codec {

using namespace etf;

bool read_peer_pid(const std::byte* at, const StringTable* strings, const DecodeContext& context,
                   Peer& out) {
  PidParts parts;
  if (!read_pid(at, strings, parts)) return false;
  out.kind = Peer::Kind::pid;
  if (parts.creation != context.creation || parts.node != context.node) out.node = parts.node;
  out.creation = parts.creation;
  out.id = parts.id;
  out.serial = parts.serial;
  return true;
}

bool read_peer(const std::byte* at, const StringTable* strings, const DecodeContext& context,
               Peer& out) {
  if (read_peer_pid(at, strings, context, out)) return true;
  if (read_atom(at, strings, out.name)) {
    out.kind = Peer::Kind::name;
    return true;
  }
  if (const std::byte* p = enter_tuple(at, 2)) {
    out.kind = Peer::Kind::remote_name;
    p = read_atom(p, strings, out.name);
    return p && read_atom(p, strings, out.node);
  }
  const TermView term = TermView::unchecked(at, strings);
  if (const auto ref = term.reference()) {
    out.kind = Peer::Kind::alias;
    out.alias = *ref;
    out.creation = ref->creation;
    out.node = ref->node;
    return true;
  }
  const auto port = term.port();
  if (!port) return false;
  out.kind = Peer::Kind::port;
  out.node = port->node;
  out.creation = port->creation;
  out.id = static_cast<std::uint32_t>(port->id);
  out.serial = static_cast<std::uint32_t>(port->id >> 32);
  return true;
}

void hash_message(TraceRecord& record, const HashKey& key, PayloadMemo::Entry& known) {
  if (!known.hashed) known.hash = match_hash(record.term(), key);
  known.hashed = true;
  record.match_hash = known.hash.value;
  record.flags |= TraceRecord::kHashed;
  if (known.hash.bounded) record.flags |= TraceRecord::kHashBounded;
}

namespace {

// Is it one of the messages that the runtime system itself makes? `tag` is the first of the tuple's elements, if that
// is an atom; `second` the element after it.
bool from_runtime(std::uint8_t arity, std::string_view tag, TermKind second) {
  const bool port = second == TermKind::port, ref = second == TermKind::reference;
  switch (arity) {
    case 2:
      return port && (tag == "tcp_closed" || tag == "tcp_passive" || tag == "udp_passive");
    case 3:
      return (tag == "EXIT" && (second == TermKind::pid || port)) || (tag == "timeout" && ref) ||
             (port &&
              (tag == "tcp" || tag == "tcp_error" || tag == "udp_error" || tag == "inet_reply"));
    case 4:  // '$socket': what a NIF of a socket sends to who waits for it
      return (tag == "spawn_reply" && ref) || (tag == "inet_async" && port) || tag == "$socket";
    case 5:
      return (tag == "DOWN" && ref) || (tag == "udp" && port);
    default:
      return false;
  }
}

}  // namespace

void describe_message(TraceRecord& record) {
  const std::byte* const term = record.payload.data();
  const bool received = record.type != EventType::message_send;
  if (u8(term) != kSmallTuple) {
    if (record.type == EventType::message_fetch && record.term().is_atom("timeout")) {
      record.flags |= TraceRecord::kTimeoutNotMessage;
    }
    return;
  }
  const std::uint8_t arity = u8(term + 1);
  if (arity < 2) return;
  std::string_view tag;
  const std::byte* const second = read_atom(term + 2, record.strings, tag);
  if (!second) {
    const bool port = TermView::unchecked(term + 2, record.strings).kind() == TermKind::port;
    if (received && port && arity == 2) record.flags |= TraceRecord::kSystem;  // {Port, What}
    return;
  }
  if (arity == 3 && tag == "system") record.flags |= TraceRecord::kSystemMessage;
  if (received && from_runtime(arity, tag, TermView::unchecked(second, record.strings).kind())) {
    record.flags |= TraceRecord::kSystem;
  }
}

}  // namespace scope::codec
