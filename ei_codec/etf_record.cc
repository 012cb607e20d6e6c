// Reads the Erlang tracer's events: capture_record.h, Event. One pass over each event with the unchecked readers:
// TermView::element() would walk every term several times, and this runs for every event of a cluster.
#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "ei_codec/record_parts.h"
#include "ei_codec/term_walk.h"

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
  node_down,
  seq_send,
  seq_receive
};

// What tells texts apart, with their sizes: all of one of up to 8 bytes.
constexpr std::uint64_t sample_of(std::string_view text) {
  std::uint64_t out = 0;
  for (std::size_t i = std::min<std::size_t>(text.size(), 8); i-- > 0;) {
    out = out << 8 | static_cast<std::uint8_t>(text[i]);
  }
  return out;
}

struct NameText {
  constexpr NameText(std::string_view t, Name n) : sample(sample_of(t)), text(t), name(n) {}
  std::uint64_t sample;
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
    {"alive", Name::alive},
    {"checkpoint", Name::checkpoint},
    {"code_load", Name::code_load},
    {"node_up", Name::node_up},
    {"node_down", Name::node_down},
    {"seq_send", Name::seq_send},
    {"seq_receive", Name::seq_receive},
};

// Bytes up to `readable` may be looked at.
template <std::size_t N>
Name name_of(const NameText (&names)[N], std::string_view text, const std::byte* readable) {
  const auto* const at = reinterpret_cast<const std::byte*>(text.data());
  std::uint64_t sample = 0;
  if (readable - at < 8) {
    sample = sample_of(text);
  } else {
    sample = le64(at);
    if (text.size() < 8) sample &= (std::uint64_t{1} << 8 * text.size()) - 1;
  }
  for (const NameText& entry : names) {
    if (entry.sample == sample && entry.text.size() == text.size() &&
        (text.size() <= 8 || entry.text == text)) {
      return entry.name;
    }
  }
  return Name::unknown;
}

// Reads one event. Its elements are checked one by one, which tells where each begins, so that no term is walked to find
// the next. The readers answer false where the grammar is broken. There are no local atoms in this payload.
class EventReader {
 public:
  // `end`: of the batch's bytes.
  EventReader(const DecodeContext& context, const std::byte* end)
      : context_(context), end_(end), walk_(end, nullptr, false) {
    own_pid_ = {kNewPid, kSmallAtomUtf8, static_cast<std::uint8_t>(context.node.size())};
    for (const char c : context.node) own_pid_.push_back(static_cast<std::uint8_t>(c));
  }

  // The end of the event at `at`; nullptr: what is there is no term. The record is whole only if it `fits`.
  const std::byte* read(const std::byte* at, TraceRecord& out, bool& fits);
  // The end of the term at `at`; nullptr: there is none.
  const std::byte* checked(const std::byte* at) {
    if (const std::byte* end = walk_.end_of(at, end_)) return end;
    bool local_atoms = false;
    return check_rare_term(Bytes(at, end_), nullptr, local_atoms);
  }

 private:
  const std::byte* elements(const std::byte* at);
  const std::byte* message_end(const std::byte* at, std::uint32_t receiver);
  const std::byte* name_end(const std::byte* at, std::string_view& text) const;
  const std::byte* mfa_end(const std::byte* at);
  bool event(TraceRecord& out);
  bool trace(TraceRecord& out);
  bool scope(TraceRecord& out);
  bool call(TraceRecord& out);
  bool pid(unsigned index, LocalPid& out) const;
  bool mfa(Mfa& out) const;
  bool spawn_mfa(unsigned index, TraceRecord& out);
  bool time(TraceRecord& out) const;  // always the last element
  bool atom(unsigned index, std::string_view& text) const {
    return read_atom(at(index), nullptr, text) != nullptr;
  }
  bool payload(unsigned index, TraceRecord& out) { return payload(at(index), at(index + 1), out); }
  bool payload(const std::byte* start, const std::byte* end, TraceRecord& out);
  void message(TraceRecord& out);
  bool seq(TraceRecord& out);

  unsigned arity() const { return arity_; }
  const std::byte* at(unsigned index) const { return elements_[index]; }

  static constexpr unsigned kLeast = 4, kMost = 6;  // elements of an event

  const DecodeContext& context_;
  const std::byte* const end_;
  TermWalk<BatchStrings> walk_;
  PayloadMemo memo_;                     // of messages
  std::vector<std::uint8_t> own_pid_;    // how the pids of the agent's node begin
  PayloadMemo::Entry* known_ = nullptr;  // what is remembered of this event's message
  bool traced_ = false, own_ = false;    // a trace_ts; of a pid that begins with own_pid_
  Name name_ = Name::unknown;            // the third element, if elements() knows it
  std::optional<Mfa> mfa_;               // the fourth
  unsigned arity_ = 0;
  const std::byte* elements_[kMost] = {};
  std::optional<std::uint64_t> given_hash_;  // by the last payload that was cut or redacted
  bool hash_bounded_ = true;
};

const std::byte* read_integer(const std::byte* at, std::int64_t& out) {
  const auto value = TermView::unchecked(at, nullptr).integer();
  if (!value) return nullptr;
  out = *value;
  return at + term_length(at);
}

// {M, F, and what comes third.
const std::byte* read_module_function(const std::byte* at, Mfa& out) {
  at = enter_tuple(at, 3);
  if (at) at = read_atom(at, nullptr, out.module);
  return at ? read_atom(at, nullptr, out.function) : nullptr;
}

bool read_mfa(const std::byte* at, Mfa& out) {
  at = read_module_function(at, out);
  if (!at || u8(at) != kSmallInteger) return false;
  out.arity = u8(at + 1);
  return true;
}

bool EventReader::mfa(Mfa& out) const {
  if (!mfa_) return read_mfa(at(3), out);
  out = *mfa_;
  return true;
}

bool EventReader::time(TraceRecord& out) const {
  const std::byte* const p = at(arity() - 1);
  if (u8(p) == kSmallBig && u8(p + 1) == 8) {  // what monotonic nanoseconds are on most systems
    std::uint64_t value;
    std::memcpy(&value, p + 3, 8);
    if (value >> 63) return false;
    out.time.ns = static_cast<std::int64_t>(u8(p + 2) ? 0 - value : value);
    return true;
  }
  return read_integer(p, out.time.ns) != nullptr;
}

bool EventReader::pid(unsigned index, LocalPid& out) const {
  if (own_ && index == 1) {
    const std::byte* const p = at(1) + own_pid_.size();
    out = {be32(p), be32(p + 4)};
    return be32(p + 8) == context_.creation;
  }
  PidParts parts;
  if (!read_pid(at(index), nullptr, parts)) return false;
  if (parts.creation != context_.creation || parts.node != context_.node) return false;
  out = {parts.id, parts.serial};
  return true;
}

// {M, F, Args | Arity}; the arguments, whole or cut, are the payload.
bool EventReader::spawn_mfa(unsigned index, TraceRecord& out) {
  const std::byte* const p = read_module_function(at(index), out.mfa);
  if (!p) return false;
  if (u8(p) == kSmallInteger) {
    out.mfa.arity = u8(p + 1);
    return true;
  }
  if (!payload(p, at(index + 1), out)) return false;
  auto items = TermView::unchecked(out.payload.data(), nullptr).list();
  if (!items) return true;  // a cut form that is no list: its arity is not known
  std::uint32_t count = 0;
  for (; !items->done() && count < 255; items->next()) ++count;
  out.mfa.arity = static_cast<std::uint8_t>(count);
  return true;
}

// Any term, or {'$scope_cut', OriginalBytes, Bounded, Hash}, or that with {redacted, IsHashBounded} at its end.
bool EventReader::payload(const std::byte* start, const std::byte* end, TraceRecord& out) {
  out.payload = Bytes(start, end);
  std::string_view tag;
  const bool redacted = u8(start) == kSmallTuple && u8(start + 1) == 5;
  const std::byte* p = enter_tuple(start, redacted ? 5 : 4);
  if (p) p = read_atom(p, nullptr, tag);
  if (!p || tag != kCutTag) return true;
  std::int64_t original = 0;
  p = read_integer(p, original);
  if (!p || original < 0) return false;
  out.payload = Bytes(p, term_length(p));
  if (static_cast<std::uint64_t>(original) > out.payload.size()) {
    constexpr std::int64_t kLargest = std::numeric_limits<std::uint32_t>::max();
    out.original_bytes = static_cast<std::uint32_t>(std::min(original, kLargest));
    out.flags |= TraceRecord::kTruncated;
  }
  const TermView hash = TermView::unchecked(p + out.payload.size(), nullptr);
  given_hash_ = hash.unsigned_integer();
  hash_bounded_ = true;
  if (redacted) {
    const TermView how = TermView::unchecked(hash.start() + hash.size(), nullptr);
    if (!how.is_tuple("redacted", 2)) return false;
    hash_bounded_ = !how.element(1).is_atom("false");
    out.flags |= TraceRecord::kRedacted;
  }
  return given_hash_ || hash.is_atom("none");
}

void EventReader::message(TraceRecord& out) {
  if (!out.has(TraceRecord::kTruncated) && !out.has(TraceRecord::kRedacted)) {
    PayloadMemo::Entry unknown;
    // A whole message inside a '$scope_cut' is not what is remembered.
    if (known_ && known_->bytes.size() != out.payload.size()) known_ = nullptr;
    if (out.type == EventType::message_send) {
      const bool process = out.peer.kind == Peer::Kind::pid;
      known_ = memo_.add(process ? out.peer.id : PayloadMemo::kNoProcess, out.payload);
    }
    hash_message(out, context_.hash_key, known_ ? *known_ : unknown);
  } else if (given_hash_) {
    out.match_hash = *given_hash_;
    out.flags |= TraceRecord::kHashed;
    if (hash_bounded_) out.flags |= TraceRecord::kHashBounded;
  }
  describe_message(out);
}

bool EventReader::seq(TraceRecord& out) {
  if (arity() != 6 || !pid(2, out.pid) || !read_peer(at(3), nullptr, context_, out.peer))
    return false;
  if (!payload(4, out)) return false;
  const auto read = read_seq(out);
  if (!read) return false;
  if (!out.has(TraceRecord::kTruncated) && !out.has(TraceRecord::kRedacted)) {
    const auto hash = match_hash(read->message, context_.hash_key);
    out.match_hash = hash.value;
    out.flags |= TraceRecord::kHashed;
    if (hash.bounded) out.flags |= TraceRecord::kHashBounded;
  } else if (given_hash_) {
    out.match_hash = *given_hash_;
    out.flags |= TraceRecord::kHashed;
    if (hash_bounded_) out.flags |= TraceRecord::kHashBounded;
  }
  return true;
}

bool EventReader::call(TraceRecord& out) {
  if (!mfa(out.mfa)) return false;
  out.type = EventType::function_entry;
  if (arity() == 5) return true;
  std::string_view role;
  const std::byte* p = enter_tuple(at(4), 2);
  if (p) p = read_atom(p, nullptr, role);
  if (!p || !payload(p, at(5), out)) return false;
  if (role == "args") return true;
  if (role == "take") {
    out.type = EventType::message_take;
    message(out);
    return true;
  }
  out.type = EventType::state_change;
  if (role == "final") out.flags |= TraceRecord::kEndState;
  return role == "state" || role == "final";
}

// {trace_ts, Pid, Name, ..., Ts}, of 5 or 6.
bool EventReader::trace(TraceRecord& out) {
  std::string_view text;
  if (!pid(1, out.pid) || !atom(2, text) || !time(out)) return false;
  const Name name = name_ != Name::unknown ? name_ : name_of(kTraceNames, text, end_);
  const bool six = arity() == 6;
  switch (name) {
    case Name::call:
      return call(out);
    case Name::return_from:
    case Name::exception_from:
      out.type =
          name == Name::return_from ? EventType::function_exit : EventType::function_exception;
      return six && mfa(out.mfa) && payload(4, out);
    case Name::send:
    case Name::send_to_dead:
      out.type = EventType::message_send;
      if (name == Name::send_to_dead) out.flags |= TraceRecord::kDeadReceiver;
      if (!six || !payload(3, out) || !read_peer(at(4), nullptr, context_, out.peer)) return false;
      message(out);
      return true;
    case Name::receive:
      out.type = EventType::message_fetch;
      if (six || !payload(3, out)) return false;
      message(out);
      return true;
    case Name::spawn:
    case Name::spawned:
      out.type = EventType::process_spawn;
      if (name == Name::spawned) out.flags |= TraceRecord::kChildSide;
      return six && read_peer_pid(at(3), nullptr, context_, out.peer) && spawn_mfa(4, out);
    case Name::exit:
      out.type = EventType::process_exit;
      return !six && payload(3, out);
    case Name::link:
    case Name::unlink:
      out.type = name == Name::link ? EventType::process_link : EventType::process_unlink;
      return !six && read_peer(at(3), nullptr, context_, out.peer);
    case Name::reg:
    case Name::unreg: {
      out.type = name == Name::reg ? EventType::process_register : EventType::process_unregister;
      std::string_view registered;
      out.payload = Bytes(at(3), at(4));
      return !six && atom(3, registered);
    }
    default:
      return false;
  }
}

// {scope, Name, ..., Ts}
bool EventReader::scope(TraceRecord& out) {
  std::string_view text;
  if (!atom(1, text) || !time(out)) return false;
  switch (const Name name = name_of(kScopeNames, text, end_)) {
    case Name::alive: {
      out.type = EventType::process_alive;
      out.flags |= TraceRecord::kInferred;
      if (arity() != 5 || !pid(2, out.pid) || u8(at(3)) != kMap) return false;
      out.payload = Bytes(at(3), at(4));
      const MapView facts = *TermView::unchecked(at(3), nullptr).map();
      const auto parent = facts.find("parent"), initial = facts.find("initial_call");
      return (!parent || read_peer_pid(parent->start(), nullptr, context_, out.peer)) &&
             (!initial || read_mfa(initial->start(), out.mfa));
    }
    case Name::checkpoint:
      out.type = EventType::state_change;
      out.flags |= TraceRecord::kInferred;
      return arity() == 6 && pid(2, out.pid) && read_mfa(at(3), out.mfa) && payload(4, out);
    case Name::seq_send:
    case Name::seq_receive:
      out.type = name == Name::seq_send ? EventType::seq_send : EventType::seq_receive;
      return seq(out);
    case Name::code_load:
      out.type = EventType::code_load;
      return arity() == 5 && atom(2, out.mfa.module) && payload(3, out);
    case Name::node_up:
    case Name::node_down: {
      out.type = name == Name::node_up ? EventType::node_up : EventType::node_down;
      std::string_view node;
      out.payload = Bytes(at(2), at(3));
      return arity() == 4 && atom(2, node);
    }
    default:
      return false;
  }
}

bool EventReader::event(TraceRecord& out) {
  out = TraceRecord{};
  if (traced_) return arity() > kLeast && trace(out);
  std::string_view tag;
  if (!atom(0, tag)) return false;
  if (tag == "trace_ts") return arity() > kLeast && trace(out);
  return tag == "scope" && scope(out);
}

// The end of a message that the process of that number has got.
const std::byte* EventReader::message_end(const std::byte* at, std::uint32_t receiver) {
  known_ = memo_.find(receiver, at, end_);
  if (known_) return at + known_->bytes.size();
  const std::byte* const end = checked(at);
  if (end) known_ = memo_.add(receiver, Bytes(at, end));
  return end;
}

// The end of an atom with a short head, which most are; nullptr: another term, or broken.
const std::byte* EventReader::name_end(const std::byte* at, std::string_view& text) const {
  if (end_ - at < 2 || u8(at) != kSmallAtomUtf8) return nullptr;
  const std::size_t size = u8(at + 1);
  at += 2;
  if (size <= 16 && end_ - at >= 16) {
    if (!short_ascii(at, size)) return nullptr;
  } else if (static_cast<std::size_t>(end_ - at) < size || !ascii(at, size)) {
    return nullptr;
  }
  text = {chars(at), size};
  return at + size;
}

// The end of {M, F, Arity}, checked and read; nullptr: it is something else.
const std::byte* EventReader::mfa_end(const std::byte* at) {
  if (end_ - at < 2 || u8(at) != kSmallTuple || u8(at + 1) != 3) return nullptr;
  Mfa& mfa = mfa_.emplace();
  at = name_end(at + 2, mfa.module);
  if (at) at = name_end(at, mfa.function);
  if (!at || end_ - at < 2 || u8(at) != kSmallInteger) {
    mfa_.reset();
    return nullptr;
  }
  mfa.arity = u8(at + 1);
  return at + 2;
}

// Finds where the elements of an event begin, and its end. What nearly every event begins and ends with is told by its
// bytes.
const std::byte* EventReader::elements(const std::byte* at) {
  constexpr std::string_view kTraceTs = "\x77\x08trace_ts";  // SMALL_ATOM_UTF8_EXT
  constexpr std::string_view kTake = "\x68\x02\x77\x04take";
  constexpr std::size_t kPidRest = 12;
  const auto begins = [&](const void* with, std::size_t size, std::size_t rest) {
    return static_cast<std::size_t>(end_ - at) >= size + rest && std::memcmp(at, with, size) == 0;
  };
  unsigned i = 0;
  std::uint32_t receiver = 0;
  traced_ = begins(kTraceTs.data(), kTraceTs.size(), 0);
  own_ = false;
  known_ = nullptr;
  name_ = Name::unknown;
  mfa_.reset();
  if (traced_) {
    elements_[i++] = at;
    at += kTraceTs.size();
    own_ = begins(own_pid_.data(), own_pid_.size(), kPidRest);
    if (own_) {
      elements_[i++] = at;
      at += own_pid_.size() + kPidRest;
      receiver = be32(at - kPidRest);
      std::string_view text;
      if (const auto* const after = name_end(at, text)) {
        name_ = name_of(kTraceNames, text, end_);
        elements_[i++] = at;
        at = after;
      }
      const std::byte* after = nullptr;
      if (name_ == Name::receive) {
        after = message_end(at, receiver);
        if (!after) return nullptr;
      } else if (name_ == Name::call || name_ == Name::return_from) {
        after = mfa_end(at);
      }
      if (after) {
        elements_[i++] = at;
        at = after;
      }
    }
  }
  for (; i < arity_; ++i) {
    elements_[i] = at;
    if (end_ - at >= 11 && u8(at) == kSmallBig && u8(at + 1) == 8) {
      at += 11;
    } else if (i == 4 && name_ == Name::call && begins(kTake.data(), kTake.size(), 0)) {
      at = message_end(at + kTake.size(), receiver);
    } else {
      at = checked(at);
    }
    if (!at) return nullptr;
  }
  return at;
}

const std::byte* EventReader::read(const std::byte* at, TraceRecord& out, bool& fits) {
  fits = false;
  if (end_ - at < 2 || u8(at) != kSmallTuple || u8(at + 1) < kLeast || u8(at + 1) > kMost) {
    return checked(at);
  }
  arity_ = u8(at + 1);
  at = elements(at + 2);
  if (!at) return nullptr;
  fits = event(out);
  return at;
}

}  // namespace

// Validated here, on the writer's thread, not with the message on the network's.
void read_etf(Bytes events, const DecodeContext& context, Delivery& deliver) {
  const std::byte* at = events.data();
  const std::byte* const end = at + events.size();
  if (events.empty() || u8(at++) != kVersionMagic) return deliver.unreadable();
  EventReader reader(context, end);
  TraceRecord record;
  // The list's tail may be encoded as one more list.
  while (end - at >= 5 && u8(at) == kList) {
    std::uint32_t count = be32(at + 1);
    if (count == 0) return deliver.unreadable();  // no check accepts such a list
    for (at += 5; count > 0; --count) {
      bool fits = false;
      at = reader.read(at, record, fits);
      if (!at) return deliver.unreadable();
      fits ? deliver(record) : deliver.malformed();
    }
  }
  const std::byte* const tail = at;
  at = reader.checked(at);
  if (!at || at != end) return deliver.unreadable();
  if (u8(tail) == kString) return deliver.malformed(be16(tail + 1));  // bytes are no events
  if (u8(tail) != kNil) deliver.malformed();
}

}  // namespace scope::codec
