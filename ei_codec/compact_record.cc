// Reads the native tracer's records: capture_record.h, Compact. Nothing of a record is used before all of it was checked.
#include "ei_codec/record_forms.h"
#include "ei_codec/record_parts.h"
#include "ei_codec/term_walk.h"

namespace scope::codec {
namespace {

using namespace etf;

constexpr std::size_t kAlign = 8;
constexpr std::size_t kHead = 24;  // size to serial

// What records of a kind may have; by number, 0 is none.
struct Shape {
  bool mfa = false, peer = false, hash = false;
  std::uint16_t flags = 0;  // of those that the tracer sets, without those of the hash
};
constexpr std::uint16_t kCut = TraceRecord::kTruncated | TraceRecord::kRedacted;
constexpr Shape kShapes[] = {
    {},
    {.mfa = true, .flags = kCut},  // function_entry, _exit, _exception
    {.mfa = true, .flags = kCut},
    {.mfa = true, .flags = kCut},
    {.peer = true, .hash = true, .flags = kCut | TraceRecord::kDeadReceiver},  // message_send
    {.hash = true, .flags = kCut},                                             // message_fetch
    {.mfa = true, .hash = true, .flags = kCut},                                // message_take
    {.mfa = true, .flags = kCut | TraceRecord::kEndState | TraceRecord::kInferred},  // state_change
    {.mfa = true, .peer = true, .flags = kCut | TraceRecord::kChildSide},  // process_spawn
    {.flags = kCut},                                                       // process_exit
    {.peer = true},                                                        // process_link, _unlink
    {.peer = true},
    {},  // process_register, _unregister
    {},
};

class RecordReader {
 public:
  RecordReader(Bytes records, const BatchStrings& strings, const DecodeContext& context)
      : strings_(strings),
        context_(context),
        walk_(records.data() + records.size(), &strings, true) {}

  // `bytes` is the whole record. false: it does not fit the grammar.
  bool read(Bytes bytes, TraceRecord& out);
  // Of the last record: nothing was hashed for it here.
  bool hash_was_given() const { return !hashed_; }

 private:
  bool mfa(TraceRecord& out);
  bool own_peer(TraceRecord& out);
  bool term(const std::byte*& end, bool& local_atoms);
  bool payload(const Shape& shape, TraceRecord& out);
  std::size_t left() const { return static_cast<std::size_t>(end_ - at_); }

  const BatchStrings& strings_;
  const DecodeContext& context_;
  TermWalk<BatchStrings> walk_;
  PayloadMemo memo_;                            // of messages
  const std::string_view* own_node_ = nullptr;  // the agent's node in strings_, once it was met
  const std::byte* at_ = nullptr;
  const std::byte* end_ = nullptr;
  bool hashed_ = false;
};

bool RecordReader::mfa(TraceRecord& out) {
  if (left() < 8) return false;
  const std::string_view* const module = strings_.find(le32(at_));
  const std::string_view* const function = strings_.find(le32(at_ + 4));
  if (!module || !function) return false;
  out.mfa.module = *module;
  out.mfa.function = *function;
  at_ += 8;
  return true;
}

bool RecordReader::term(const std::byte*& end, bool& local_atoms) {
  walk_.local_atoms = false;
  end = walk_.end_of(at_, end_);
  local_atoms = walk_.local_atoms;
  if (!end) end = check_rare_term(Bytes(at_, end_), &strings_, local_atoms);
  return end != nullptr;
}

// What most peers are: a pid of the agent's own node, which is named by number.
bool RecordReader::own_peer(TraceRecord& out) {
  constexpr std::size_t kSize = 18;  // two tags, the atom's number, id, serial, creation
  if (left() < kSize || u8(at_) != kNewPid || u8(at_ + 1) != kLocalAtom) return false;
  const std::string_view* const node = strings_.find(be32(at_ + 2));
  if (!node || be32(at_ + 14) != context_.creation) return false;
  if (node != own_node_) {
    if (*node != context_.node) return false;
    own_node_ = node;
  }
  out.peer.kind = Peer::Kind::pid;
  out.peer.id = be32(at_ + 6);
  out.peer.serial = be32(at_ + 10);
  out.peer.creation = context_.creation;
  at_ += kSize;
  return true;
}

bool RecordReader::payload(const Shape& shape, TraceRecord& out) {
  const bool named =
      out.type == EventType::process_register || out.type == EventType::process_unregister;
  if (at_ == end_) return !named;
  out.payload = Bytes(at_, end_);
  const bool received = shape.hash && out.type != EventType::message_send;
  PayloadMemo::Entry* known = received ? memo_.find(out.pid.id, at_, end_) : nullptr;
  bool local_atoms = false;
  if (known && known->bytes.size() == out.payload.size()) {
    local_atoms = known->local_atoms;
  } else {
    const std::byte* end = nullptr;
    if (!term(end, local_atoms) || end != end_) return false;
    const auto receiver = received                           ? out.pid.id
                          : out.peer.kind == Peer::Kind::pid ? out.peer.id
                                                             : PayloadMemo::kNoProcess;
    known = shape.hash ? memo_.add(receiver, out.payload) : nullptr;
    if (known) known->local_atoms = local_atoms;
  }
  if (local_atoms) out.strings = &strings_;
  if (named) return skip_atom(at_) != nullptr;
  if (shape.hash) {
    if (!out.has(TraceRecord::kHashed) && (out.flags & kCut) == 0) {
      PayloadMemo::Entry unknown;
      hashed_ = true;
      hash_message(out, context_.hash_key, known ? *known : unknown);
    }
    describe_message(out);
  }
  // Links have none.
  return out.type != EventType::process_link && out.type != EventType::process_unlink;
}

bool RecordReader::read(Bytes bytes, TraceRecord& out) {
  out = TraceRecord{};
  hashed_ = false;
  at_ = bytes.data();
  end_ = at_ + bytes.size();
  const std::uint8_t kind = u8(at_ + 4);
  if (kind == 0 || kind >= std::size(kShapes)) return false;
  const Shape& shape = kShapes[kind];
  out.type = static_cast<EventType>(kind);
  out.mfa.arity = u8(at_ + 5);
  out.flags = le16(at_ + 6);
  const std::uint16_t allowed = static_cast<std::uint16_t>(
      shape.flags | (shape.hash ? TraceRecord::kHashed | TraceRecord::kHashBounded : 0));
  if ((out.flags & ~allowed) != 0) return false;
  out.time.ns = static_cast<std::int64_t>(le64(at_ + 8));
  out.pid = {le32(at_ + 16), le32(at_ + 20)};
  at_ += kHead;
  if (shape.mfa ? !mfa(out) : out.mfa.arity != 0) return false;
  if (out.has(TraceRecord::kHashed)) {
    if (left() < 8) return false;
    out.match_hash = le64(at_);
    at_ += 8;
  } else if (out.has(TraceRecord::kHashBounded)) {
    return false;
  }
  if (out.has(TraceRecord::kTruncated)) {
    if (left() < 4) return false;
    out.original_bytes = le32(at_);
    at_ += 4;
  }
  if (shape.peer && !own_peer(out)) {
    const std::byte* end = nullptr;
    bool local_atoms = false;
    if (!term(end, local_atoms)) return false;
    const bool pid_only = out.type == EventType::process_spawn;
    if (!(pid_only ? read_peer_pid : read_peer)(at_, &strings_, context_, out.peer)) return false;
    at_ = end;
  }
  return payload(shape, out);
}

}  // namespace

void read_compact(Bytes records, const BatchStrings& strings, const DecodeContext& context,
                  Delivery& deliver) {
  RecordReader reader(records, strings, context);
  RecordForms forms;
  TraceRecord record;
  while (!records.empty()) {
    const std::size_t size = records.size() < kHead ? 0 : le32(records.data());
    if (size < kHead || size > records.size()) return deliver.unreadable();
    const Bytes bytes = records.first(size);
    const std::uint8_t kind = u8(bytes.data() + 4);
    const bool mfa = kind < std::size(kShapes) && kShapes[kind].mfa;
    if (const TraceRecord* known = forms.find(bytes, mfa)) {
      deliver(*known);
    } else if (reader.read(bytes, record)) {
      // A hash that is made here costs more than a check; PayloadMemo spares both.
      if (reader.hash_was_given()) forms.add(bytes, mfa, record);
      deliver(record);
    } else {
      deliver.malformed();
    }
    records = records.subspan(std::min(records.size(), (size + kAlign - 1) / kAlign * kAlign));
  }
}

}  // namespace scope::codec
