// Reads the native tracer's records: capture_record.h, Compact. Nothing of a record is used before all of it was checked.
#include "ei_codec/record_parts.h"
#include "ei_codec/term_tags.h"

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
  RecordReader(const BatchStrings& strings, const DecodeContext& context)
      : strings_(strings), context_(context) {}

  // `bytes` is the whole record. false: it does not fit the grammar.
  bool read(Bytes bytes, TraceRecord& out);

 private:
  bool mfa(TraceRecord& out);
  bool term(const std::byte*& end, bool& local_atoms);
  bool payload(const Shape& shape, TraceRecord& out);
  std::size_t left() const { return static_cast<std::size_t>(end_ - at_); }

  const BatchStrings& strings_;
  const DecodeContext& context_;
  PayloadMemo memo_;
  const std::byte* at_ = nullptr;
  const std::byte* end_ = nullptr;
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
  end = check_term(Bytes(at_, end_), &strings_, local_atoms);
  return end != nullptr;
}

bool RecordReader::payload(const Shape& shape, TraceRecord& out) {
  const bool named =
      out.type == EventType::process_register || out.type == EventType::process_unregister;
  if (at_ == end_) return !named;
  out.payload = Bytes(at_, end_);
  PayloadMemo::Entry& known = memo_.at(out.payload);
  if (known.bytes.empty()) {
    const std::byte* end = nullptr;
    if (!term(end, known.local_atoms) || end != end_) return false;
    known.bytes = out.payload;
  }
  if (known.local_atoms) out.strings = &strings_;
  if (named) return skip_atom(at_) != nullptr;
  if (shape.hash) {
    if (!out.has(TraceRecord::kHashed) && (out.flags & kCut) == 0) {
      hash_message(out, context_.hash_key, known);
    }
    describe_message(out);
  }
  // Links have none.
  return out.type != EventType::process_link && out.type != EventType::process_unlink;
}

bool RecordReader::read(Bytes bytes, TraceRecord& out) {
  out = TraceRecord{};
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
  if (shape.peer) {
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
  RecordReader reader(strings, context);
  TraceRecord record;
  while (!records.empty()) {
    const std::size_t size = records.size() < kHead ? 0 : le32(records.data());
    if (size < kHead || size > records.size()) return deliver.unreadable();
    if (reader.read(records.first(size), record)) {
      deliver(record);
    } else {
      deliver.malformed();
    }
    records = records.subspan(std::min(records.size(), (size + kAlign - 1) / kAlign * kAlign));
  }
}

}  // namespace scope::codec
