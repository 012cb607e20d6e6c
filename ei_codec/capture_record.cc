// Reads the grammar of capture_record.h. One pass over each event with the unchecked readers: TermView::element() would
// walk every term several times, and this runs for every event of a cluster.
#include "ei_codec/capture_record.h"

#include <limits>

#include "ei_codec/term_tags.h"

namespace scope::codec {
namespace {

using namespace etf;

constexpr std::string_view kCutTag = "$scope_cut";

// The names of the events' second or third element, told apart by length and text.
enum class Name : std::uint8_t {
  unknown,
  call,
  return_from,
  exception_from,
  send,
  send_to_dead,
  receive,
  spawn,
  spawned,
  exit,
  link,
  unlink,
  reg,
  unreg,
  alive,
  checkpoint,
  code_load,
  node_up,
  node_down
};

struct NameText {
  std::string_view text;
  Name name;
};
constexpr NameText kTraceNames[] = {
    {"call", Name::call},
    {"send", Name::send},
    {"receive", Name::receive},
    {"return_from", Name::return_from},
    {"exception_from", Name::exception_from},
    {"send_to_non_existing_process", Name::send_to_dead},
    {"spawn", Name::spawn},
    {"spawned", Name::spawned},
    {"exit", Name::exit},
    {"link", Name::link},
    {"getting_linked", Name::link},
    {"unlink", Name::unlink},
    {"getting_unlinked", Name::unlink},
    {"register", Name::reg},
    {"unregister", Name::unreg},
};
constexpr NameText kScopeNames[] = {
    {"alive", Name::alive},     {"checkpoint", Name::checkpoint}, {"code_load", Name::code_load},
    {"node_up", Name::node_up}, {"node_down", Name::node_down},
};

template <std::size_t N>
Name name_of(const NameText (&names)[N], std::string_view text) {
  for (const NameText& entry : names) {
    if (entry.text == text) return entry.name;
  }
  return Name::unknown;
}

// Reads one event. Each reader moves at_ past what it reads and answers false where the grammar is broken.
class EventReader {
 public:
  EventReader(const DecodeContext& context, const StringTable* strings)
      : context_(context), strings_(strings) {}

  // Reads the event at `at`; the record is whole only if it answers true.
  bool read(const std::byte* at, TraceRecord& out);
  const std::byte* end() const { return at_; }

 private:
  bool trace(TraceRecord& out);
  bool scope(TraceRecord& out);
  bool call(TraceRecord& out);

  bool tuple(std::uint32_t arity);
  bool atom(std::string_view& text) {
    const std::byte* next = read_atom(at_, strings_, text);
    if (!next) return false;
    at_ = next;
    return true;
  }
  bool pid(LocalPid& out);
  bool peer_pid(Peer& out);
  bool peer(Peer& out);
  bool mfa(Mfa& out);
  bool spawn_mfa(TraceRecord& out);
  bool time(TraceRecord& out);
  bool integer(std::int64_t& out);
  bool payload(TraceRecord& out);
  void message(TraceRecord& out, bool received);
  TermView here() const { return TermView::unchecked(at_, strings_); }

  const DecodeContext& context_;
  const StringTable* strings_;
  const std::byte* at_ = nullptr;
  std::uint32_t arity_ = 0;                  // of the event
  std::optional<std::uint64_t> given_hash_;  // by the last cut payload
};

bool EventReader::tuple(std::uint32_t arity) {
  if (u8(at_) != kSmallTuple || u8(at_ + 1) != arity) return false;
  at_ += 2;
  return true;
}

bool EventReader::integer(std::int64_t& out) {
  const auto value = here().integer();
  if (!value) return false;
  out = *value;
  at_ += term_length(at_);
  return true;
}

bool EventReader::time(TraceRecord& out) {
  // Monotonic nanoseconds: a big of 8 bytes on most systems.
  if (u8(at_) == kSmallBig && u8(at_ + 1) == 8) {
    std::uint64_t value;
    std::memcpy(&value, at_ + 3, 8);
    if (value >> 63) return false;
    out.time.ns = static_cast<std::int64_t>(u8(at_ + 2) ? 0 - value : value);
    at_ += 11;
    return true;
  }
  return integer(out.time.ns);
}

bool EventReader::pid(LocalPid& out) {
  PidParts parts;
  const std::byte* next = read_pid(at_, strings_, parts);
  if (!next || parts.creation != context_.creation || parts.node != context_.node) return false;
  out = {parts.id, parts.serial};
  at_ = next;
  return true;
}

bool EventReader::peer_pid(Peer& out) {
  PidParts parts;
  const std::byte* next = read_pid(at_, strings_, parts);
  if (!next) return false;
  at_ = next;
  out.kind = Peer::Kind::pid;
  if (parts.creation != context_.creation || parts.node != context_.node) out.node = parts.node;
  out.creation = parts.creation;
  out.id = parts.id;
  out.serial = parts.serial;
  return true;
}

bool EventReader::peer(Peer& out) {
  if (peer_pid(out)) return true;
  if (atom(out.name)) {
    out.kind = Peer::Kind::name;
    return true;
  }
  if (tuple(2)) {
    out.kind = Peer::Kind::remote_name;
    return atom(out.name) && atom(out.node);
  }
  const TermView term = here();
  at_ += term_length(at_);
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

bool EventReader::mfa(Mfa& out) {
  if (!tuple(3) || !atom(out.module) || !atom(out.function)) return false;
  if (u8(at_) != kSmallInteger) return false;
  out.arity = u8(at_ + 1);
  at_ += 2;
  return true;
}

// {M, F, Args | Arity}; the arguments, whole or cut, are the payload.
bool EventReader::spawn_mfa(TraceRecord& out) {
  if (!tuple(3) || !atom(out.mfa.module) || !atom(out.mfa.function)) return false;
  if (u8(at_) == kSmallInteger) {
    out.mfa.arity = u8(at_ + 1);
    at_ += 2;
    return true;
  }
  if (!payload(out)) return false;
  auto items = TermView::unchecked(out.payload.data(), strings_).list();
  if (!items) return true;  // a cut form that is no list: its arity is not known
  std::uint32_t arity = 0;
  for (; !items->done() && arity < 255; items->next()) ++arity;
  out.mfa.arity = static_cast<std::uint8_t>(arity);
  return true;
}

// Any term, or {'$scope_cut', OriginalBytes, Bounded, Hash}.
bool EventReader::payload(TraceRecord& out) {
  const std::byte* const start = at_;
  std::string_view tag;
  if (tuple(4) && atom(tag) && tag == kCutTag) {
    std::int64_t original = 0;
    if (!integer(original) || original < 0) return false;
    out.payload = here().bytes();
    at_ += out.payload.size();
    if (static_cast<std::uint64_t>(original) > out.payload.size()) {
      constexpr std::int64_t kMost = std::numeric_limits<std::uint32_t>::max();
      out.original_bytes = static_cast<std::uint32_t>(std::min(original, kMost));
      out.flags |= TraceRecord::kTruncated;
    }
    const TermView hash = here();
    at_ += term_length(at_);
    given_hash_ = hash.unsigned_integer();
    return given_hash_ || hash.is_atom("none");
  }
  at_ = start + term_length(start);
  out.payload = Bytes(start, at_);
  return true;
}

// Is it one of the messages that the runtime system itself makes?
bool from_runtime(const TermView& message) {
  const auto arity = message.arity();
  if (!arity || *arity < 2 || *arity > 5) return false;
  auto it = *message.elements();
  const TermView first = it.item();
  it.next();
  const TermKind second = it.item().kind();
  if (first.kind() == TermKind::port) return *arity == 2;
  const auto tag = first.atom();
  if (!tag) return false;
  const bool from_port = second == TermKind::port;
  switch (*arity) {
    case 2:
      return from_port && (*tag == "tcp_closed" || *tag == "tcp_passive" || *tag == "udp_passive");
    case 3:
      return (*tag == "EXIT" && (second == TermKind::pid || from_port)) ||
             (*tag == "timeout" && second == TermKind::reference) ||
             (from_port && (*tag == "tcp" || *tag == "tcp_error" || *tag == "udp_error"));
    case 4:
      return *tag == "spawn_reply" && second == TermKind::reference;
    default:
      return (*tag == "DOWN" && second == TermKind::reference) || (*tag == "udp" && from_port);
  }
}

void EventReader::message(TraceRecord& out, bool received) {
  const TermView term = TermView::unchecked(out.payload.data(), strings_);
  if (!out.has(TraceRecord::kTruncated)) {
    const MatchHash hash = match_hash(term, context_.hash_key);
    out.match_hash = hash.value;
    out.flags |= TraceRecord::kHashed;
    if (hash.bounded) out.flags |= TraceRecord::kHashBounded;
  } else if (given_hash_) {
    out.match_hash = *given_hash_;
    out.flags |= TraceRecord::kHashed | TraceRecord::kHashBounded;
  }
  if (term.is_tuple("system", 3)) out.flags |= TraceRecord::kSystemMessage;
  if (received && from_runtime(term)) out.flags |= TraceRecord::kSystem;
}

bool EventReader::call(TraceRecord& out) {
  if (!mfa(out.mfa)) return false;
  out.type = EventType::function_entry;
  if (arity_ == 5) return true;
  std::string_view role;
  if (arity_ != 6 || !tuple(2) || !atom(role) || !payload(out)) return false;
  if (role == "args") return true;
  if (role == "take") {
    out.type = EventType::message_take;
    message(out, true);
    return true;
  }
  out.type = EventType::state_change;
  if (role == "final") out.flags |= TraceRecord::kEndState;
  return role == "state" || role == "final";
}

bool EventReader::trace(TraceRecord& out) {
  std::string_view text;
  if (!pid(out.pid) || !atom(text)) return false;
  const Name name = name_of(kTraceNames, text);
  switch (name) {
    case Name::call:
      return call(out) && time(out);
    case Name::return_from:
      out.type = EventType::function_exit;
      return arity_ == 6 && mfa(out.mfa) && payload(out) && time(out);
    case Name::exception_from:
      out.type = EventType::function_exception;
      return arity_ == 6 && mfa(out.mfa) && payload(out) && time(out);
    case Name::send:
    case Name::send_to_dead:
      out.type = EventType::message_send;
      if (name == Name::send_to_dead) out.flags |= TraceRecord::kDeadReceiver;
      if (arity_ != 6 || !payload(out) || !peer(out.peer)) return false;
      message(out, false);
      return time(out);
    case Name::receive:
      out.type = EventType::message_fetch;
      if (arity_ != 5 || !payload(out)) return false;
      message(out, true);
      if (TermView::unchecked(out.payload.data(), strings_).is_atom("timeout")) {
        out.flags |= TraceRecord::kTimeoutNotMessage;
      }
      return time(out);
    case Name::spawn:
    case Name::spawned:
      out.type = EventType::process_spawn;
      if (name == Name::spawned) out.flags |= TraceRecord::kChildSide;
      return arity_ == 6 && peer_pid(out.peer) && spawn_mfa(out) && time(out);
    case Name::exit:
      out.type = EventType::process_exit;
      return arity_ == 5 && payload(out) && time(out);
    case Name::link:
    case Name::unlink:
      out.type = name == Name::link ? EventType::process_link : EventType::process_unlink;
      return arity_ == 5 && peer(out.peer) && time(out);
    case Name::reg:
    case Name::unreg: {
      out.type = name == Name::reg ? EventType::process_register : EventType::process_unregister;
      std::string_view registered;
      const std::byte* const start = at_;
      if (arity_ != 5 || !atom(registered)) return false;
      out.payload = Bytes(start, at_);
      return time(out);
    }
    default:
      return false;
  }
}

bool EventReader::scope(TraceRecord& out) {
  std::string_view text;
  if (!atom(text)) return false;
  const Name name = name_of(kScopeNames, text);
  switch (name) {
    case Name::alive: {
      out.type = EventType::process_alive;
      out.flags |= TraceRecord::kInferred;
      if (arity_ != 5 || !pid(out.pid) || u8(at_) != kMap || !payload(out)) return false;
      const MapView facts = *TermView::unchecked(out.payload.data(), strings_).map();
      const std::byte* const after = at_;
      if (const auto parent = facts.find("parent")) {
        at_ = parent->start();
        if (!peer_pid(out.peer)) return false;
      }
      if (const auto initial = facts.find("initial_call")) {
        at_ = initial->start();
        if (!mfa(out.mfa)) return false;
      }
      at_ = after;
      return time(out);
    }
    case Name::checkpoint:
      out.type = EventType::state_change;
      out.flags |= TraceRecord::kInferred;
      return arity_ == 6 && pid(out.pid) && mfa(out.mfa) && payload(out) && time(out);
    case Name::code_load:
      out.type = EventType::code_load;
      return arity_ == 5 && atom(out.mfa.module) && payload(out) && time(out);
    case Name::node_up:
    case Name::node_down: {
      out.type = name == Name::node_up ? EventType::node_up : EventType::node_down;
      std::string_view node;
      const std::byte* const start = at_;
      if (arity_ != 4 || !atom(node)) return false;
      out.payload = Bytes(start, at_);
      return time(out);
    }
    default:
      return false;
  }
}

bool EventReader::read(const std::byte* at, TraceRecord& out) {
  at_ = at;
  out = TraceRecord{};
  if (u8(at_) != kSmallTuple) return false;
  arity_ = u8(at_ + 1);
  at_ += 2;
  std::string_view tag;
  if (arity_ < 4 || !atom(tag)) return false;
  if (tag == "trace_ts") return arity_ >= 5 && trace(out);
  return tag == "scope" && scope(out);
}

class Delivery {
 public:
  Delivery(RecordSink& sink, DecodeStats& stats) : sink_(sink), stats_(stats) {}

  void operator()(const TraceRecord& record) {
    if (stats_.records++ == 0) {
      stats_.oldest = stats_.newest = record.time;
    } else {
      stats_.oldest = std::min(stats_.oldest, record.time);
      stats_.newest = std::max(stats_.newest, record.time);
    }
    sink_.record(record);
  }

 private:
  RecordSink& sink_;
  DecodeStats& stats_;
};

}  // namespace

Result<BatchHeader> read_batch_header(const TermView& message) {
  if (!message.is_tuple("batch", 7)) return fail(Code::malformed, "a batch is {batch, ...} of 7");
  ListView it = *message.elements();
  const auto next = [&it] {
    it.next();
    return it.item();
  };
  BatchHeader out;
  const auto agent = next().unsigned_integer();
  const auto seq = next().unsigned_integer();
  const TermView clock = next();
  out.gaps = next();
  const auto cut = next().integer();
  out.payload = next();
  if (!agent || !seq) return fail(Code::malformed, "a batch's agent id or sequence number");
  out.agent_id = *agent;
  out.seq = *seq;
  if (clock.arity() != 2u) return fail(Code::malformed, "a batch's clock pair");
  const auto raw = clock.element(0).integer(), system = clock.element(1).integer();
  if (!raw || !system) return fail(Code::malformed, "a batch's clock pair");
  out.clock_raw = {*raw};
  out.clock_system_ns = *system;
  if (!out.gaps.list()) return fail(Code::malformed, "a batch's gaps are not a list");
  if (!cut) return fail(Code::malformed, "a batch's cut");
  out.cut = {*cut};
  if (!out.payload.is_tuple("etf", 3)) {
    return fail(Code::malformed, "a batch's payload is of a kind that this daemon does not know");
  }
  if (out.payload.element(1).integer() != 1) {
    return fail(Code::malformed,
                "a batch's payload is of a version that this daemon does not know");
  }
  if (!out.payload.element(2).binary()) {
    return fail(Code::malformed, "a batch's events are not a binary");
  }
  return out;
}

std::optional<Gap> read_gap(const TermView& payload) {
  if (payload.arity() != 4u) return std::nullopt;
  ListView it = *payload.elements();
  Gap out;
  const auto reason = it.item().atom();
  it.next();
  out.count = it.item().unsigned_integer();
  if (!reason || (!out.count && !it.item().is_atom("unknown"))) return std::nullopt;
  out.reason = *reason;
  it.next();
  const auto from = it.item().integer();
  it.next();
  const auto until = it.item().integer();
  if (!from || !until) return std::nullopt;
  out.from = {*from};
  out.until = {*until};
  return out;
}

DecodeStats decode_records(const BatchHeader& batch, const DecodeContext& context,
                           RecordSink& sink) {
  DecodeStats stats;
  Delivery deliver(sink, stats);
  TraceRecord record;
  for (ListView it = *batch.gaps.list(); !it.done(); it.next()) {
    const TermView term = it.item();
    const auto gap = read_gap(term);
    if (!gap) {
      ++stats.malformed;
      continue;
    }
    record = TraceRecord{};
    record.type = EventType::gap;
    record.time = gap->until;
    record.payload = term.bytes();
    deliver(record);
  }

  // The list's cells by hand: an event that was read tells where the next one begins, so no event is walked twice.
  // They are validated here, on the writer's thread, not with the message on the network's.
  const auto whole = view_message(*batch.payload.element(2).binary());
  if (!whole || !whole->list()) {
    ++stats.malformed;
    stats.unreadable = true;
    return stats;
  }
  const TermView events = *whole;
  if (events.kind() == TermKind::nil) return stats;
  if (events.kind() != TermKind::list) {  // a string: bytes are no events
    for (ListView it = *events.list(); !it.done(); it.next()) ++stats.malformed;
    return stats;
  }
  EventReader reader(context, events.strings());
  const std::byte* at = events.start();
  while (u8(at) == kList) {
    const std::uint32_t count = be32(at + 1);
    at += 5;
    for (std::uint32_t i = 0; i < count; ++i) {
      if (reader.read(at, record)) {
        deliver(record);
        at = reader.end();
      } else {
        ++stats.malformed;
        at += term_length(at);
      }
    }
  }
  if (u8(at) != kNil) ++stats.malformed;  // an improper list's tail
  return stats;
}

}  // namespace scope::codec
