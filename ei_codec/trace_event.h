// TraceRecord: the canonical trace event, as every layer above the codec sees it. The agent's batches are decoded into
// it (capture_record.h), the store writes its columns from it and gives it back, queries turn it into the maps of
// api.md.
//
// Life   All views point into the batch (or the decoded block) that the record came from. Plain data, any thread.
// Times  raw nanoseconds of the node's own clock.
#pragma once

#include <cstdint>
#include <string_view>

#include "ei_codec/base/ids.h"
#include "ei_codec/term_view.h"

namespace scope::codec {

// number, name (as in api.md). The numbers are stored: append only.
#define SCOPE_EVENT_TYPES(X)                                                                        \
  X(1, function_entry)                                                                              \
  X(2, function_exit)                                                                               \
  X(3, function_exception)                                                                          \
  X(4, message_send)                                                                                \
  X(5, message_fetch)                                                                               \
  X(6, message_take)                                                                                \
  X(7, state_change)                                                                                \
  X(8, process_spawn)                                                                               \
  X(9, process_exit)                                                                                \
  X(10, process_link)                                                                               \
  X(11, process_unlink)                                                                             \
  X(12, process_register)                                                                           \
  X(13, process_unregister)                                                                         \
  X(14, telemetry)                                                                                  \
  X(15, log)                                                                                        \
  X(16, vm_sample)                                                                                  \
  X(17, code_load)                                                                                  \
  X(18, node_up)                                                                                    \
  X(19, node_down)                                                                                  \
  X(20, gap)                                                                                        \
  X(21,                                                                                             \
    process_alive) /* a process found alive when tracing began; for lifetimes, names and parents */ \
  X(22, seq_send)  /* of seq_trace: a message sent with a token ... */                              \
  X(23, seq_receive) /* ... and matched by a receive expression */

enum class EventType : std::uint8_t {
#define SCOPE_ENUM(number, name) name = number,
  SCOPE_EVENT_TYPES(SCOPE_ENUM)
#undef SCOPE_ENUM
};
inline constexpr unsigned kMaxEventType = 23;

std::string_view event_type_name(EventType type);
// Its place in a set of types.
constexpr std::uint32_t bit(EventType type) { return 1u << static_cast<unsigned>(type); }
std::optional<EventType> event_type_from_name(std::string_view name);

// A module, function, arity. Empty module: none.
struct Mfa {
  std::string_view module, function;
  std::uint8_t arity = 0;
  explicit operator bool() const { return !module.empty(); }
  bool operator==(const Mfa&) const = default;
};

// The other end of an event: where a message went or came from, the parent or child of a spawn, the peer of a link.
struct Peer {
  enum class Kind : std::uint8_t {
    none = 0,
    pid = 1,          // node, creation, id, serial
    name = 2,         // a name on the event's own node
    remote_name = 3,  // {name, node}
    alias = 4,        // a reference; `alias` below
    port = 5,         // node, creation, id = low 32 bits, serial = high 32 bits
  };
  Kind kind = Kind::none;
  std::string_view node;  // pid, remote_name, alias, port; empty: the event's own node
  std::uint32_t creation = 0;
  std::uint32_t id = 0, serial = 0;  // pid, port
  std::string_view name;             // name, remote_name
  RefParts alias;                    // alias
};

struct TraceRecord {
  enum Flag : std::uint16_t {
    kTruncated = 1 << 0,     // the payload is a bounded form of a term of `original_bytes` bytes
    kHashBounded = 1 << 1,   // the match hash's walk was cut at its node limit
    kHashed = 1 << 2,        // match_hash is set
    kDeadReceiver = 1 << 3,  // send_to_non_existing_process
    kSystem = 1 << 4,        // origin => system: no process sent it (timeouts, DOWN, EXIT, ports)
    kTimeoutNotMessage = 1 << 5,  // `receive, timeout`: an after clause, no message
    kEndState = 1 << 6,           // a state seen at terminate
    kSystemMessage = 1 << 7,      // {system, From, Req}: handling of kind system
    kInferred = 1 << 8,   // not observed at this time but known to hold since before (baseline)
    kChildSide = 1 << 9,  // a spawn as the child saw it: pid is the child, peer the parent
    kRedacted = 1 << 10,  // something is hidden: {'$scope_redacted', Hash} (erl/c_src/redact.h)
  };

  EventType type = EventType::gap;
  std::uint16_t flags = 0;
  LocalPid pid;  // of the batch's node and creation; {0,0} for events of the node itself
  RawTime time;
  std::uint32_t ordinal = 0;  // see EventId; set by the store at ingest
  Mfa mfa;  // calls; a state's or a taking's behaviour function; a spawn's initial call
  Peer peer;
  std::uint64_t match_hash =
      0;  // of the message (send, fetch, take); 0 with kHashed unset: unknown
  std::uint32_t original_bytes = 0;
  // One encoded term (no version magic): arguments (list) · result · {Class, Reason} · message · state ·
  // exit reason · name (atom) · metadata map · of seq_ types {Label, {Previous, Current}, Message} (read_seq()).
  // Empty: none was captured.
  Bytes payload;
  // Resolves local atoms inside the payload; lives as long as it. nullptr: it has none.
  const StringTable* strings = nullptr;

  // REQUIRES !payload.empty()
  TermView term() const { return TermView::unchecked(payload.data(), strings); }
  bool has(Flag flag) const { return (flags & flag) != 0; }
};

// What seq_trace says of a message: the token's label, the serial of the message that the sender had got before, and
// this one's. Sender, label and `current` name a message: every send counts on.
struct SeqMessage {
  TermView label;
  std::uint64_t previous = 0, current = 0;
  TermView message;
};
// Of a record of type seq_send or seq_receive; nullopt: it is none.
std::optional<SeqMessage> read_seq(const TraceRecord& record);

}  // namespace scope::codec
