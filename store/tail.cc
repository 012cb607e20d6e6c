#include "store/tail.h"

#include <algorithm>
#include <numeric>

#include "ei_codec/term_builder.h"
#include "store/trace_ids.h"

namespace scope::store {
namespace {

using codec::EventType;
using codec::Peer;
using codec::TraceRecord;

constexpr unsigned kOrdinalsVersion = 1;

class TailSink final : public codec::RecordSink {
 public:
  TailSink(TailBatch& batch, const TailInput& input, Incarnations& incarnations,
           OrdinalMemory& ordinals)
      : batch_(batch),
        input_(input),
        incarnations_(incarnations),
        ordinals_(ordinals),
        node_(incarnations.node(input.incarnation)),
        creation_(incarnations.info(input.incarnation).creation) {}

  void record(const TraceRecord& record) override {
    const auto ordinal = ordinals_.assign(batch_, record.pid, record.time);
    auto& row = batch_.rows.emplace_back();
    row.process = {input_.incarnation, record.pid.id, record.pid.serial};
    row.record = record;
    row.record.ordinal = ordinal;
    if (record.peer.kind != Peer::Kind::none) name_peer(row.record.peer);
    if (is_lifecycle(record.type))
      batch_.lifecycle.push_back(static_cast<std::uint32_t>(batch_.rows.size() - 1));
    if (record.type == EventType::gap) ++batch_.gaps;
    batch_.types |= type_bit(record.type);
  }

 private:
  // A peer's node is always given, also the event's own, and its text belongs to the pool.
  void name_peer(Peer& peer) {
    switch (peer.kind) {
      case Peer::Kind::pid:
      case Peer::Kind::port:
      case Peer::Kind::alias:
        if (peer.node.empty() || (peer.node == node_ && peer.creation == creation_)) {
          peer.node = node_;
          peer.creation = creation_;
        } else {
          const auto home = incarnations_.home_of(peer.node, peer.creation, input_.received);
          if (home != kNoIncarnation) peer.node = incarnations_.node(home);
        }
        if (peer.kind == Peer::Kind::alias) {
          peer.alias.node = peer.node;
          peer.alias.creation = peer.creation;
        }
        break;
      default:
        break;
    }
  }

  TailBatch& batch_;
  const TailInput& input_;
  Incarnations& incarnations_;
  OrdinalMemory& ordinals_;
  std::string_view node_;
  std::uint32_t creation_;
};

}  // namespace

std::span<const std::uint32_t> TailBatch::by_id() const {
  std::call_once(sorted_, [this] {
    by_id_.resize(rows.size());
    std::iota(by_id_.begin(), by_id_.end(), 0U);
    std::ranges::sort(by_id_, {}, [this](std::uint32_t i) { return rows[i].id(); });
  });
  return by_id_;
}

bool TailBatch::has_trace(std::span<const std::uint64_t> keys) const {
  std::call_once(searched_, [this] {
    for (const auto& row : rows) add_trace_keys(row.record.payload, traces_);
    std::ranges::sort(traces_);
    traces_.erase(std::ranges::unique(traces_).begin(), traces_.end());
    traces_.shrink_to_fit();
  });
  return std::ranges::any_of(keys,
                             [this](auto k) { return std::ranges::binary_search(traces_, k); });
}

std::uint32_t OrdinalMemory::assign(const TailBatch& so_far, LocalPid pid, RawTime time) {
  if (!late_.empty()) return assign_late(so_far, pid, time);
  const auto k = key(pid);
  const auto [it, fresh] = now_.try_emplace(k, Last{time, 1});
  if (fresh) {
    const auto before = before_.find(k);
    if (before == before_.end() || before->second.time != time) return 0;
    it->second.next = before->second.next + 1;
    return before->second.next;
  }
  if (time == it->second.time) return it->second.next++;
  if (time < it->second.time) return assign_late(so_far, pid, time);
  it->second = {time, 1};
  return 0;
}

std::uint32_t OrdinalMemory::assign_late(const TailBatch& so_far, LocalPid pid, RawTime time) {
  if (late_.empty()) {
    for (const auto& row : so_far.rows) {
      auto& next = late_[{key({row.process.id, row.process.serial}), row.record.time.ns}];
      next = std::max(next, row.record.ordinal + 1);
    }
  }
  const auto k = key(pid);
  const auto [it, fresh] = late_.try_emplace(Late{k, time.ns}, 0U);
  if (fresh) {
    const auto before = before_.find(k);
    if (before != before_.end() && before->second.time == time) it->second = before->second.next;
  }
  const auto ordinal = it->second++;
  auto& last = now_.try_emplace(k, Last{time, 0}).first->second;
  if (time >= last.time) last = {time, ordinal + 1};
  return ordinal;
}

void OrdinalMemory::end_batch(bool counts) {
  late_.clear();
  if (counts && !now_.empty()) before_.swap(now_);
  now_.clear();
}

void OrdinalMemory::clear() {
  before_ = {};
  now_ = {};
}

std::optional<RawTime> OrdinalMemory::earliest() const {
  std::optional<RawTime> out;
  for (const auto& [pid, last] : before_) out = out ? std::min(*out, last.time) : last.time;
  return out;
}

std::vector<std::byte> OrdinalMemory::encode_after(const TailBatch& batch) {
  Map last;
  for (const auto& row : batch.rows) {
    const auto& r = row.record;
    auto [it, fresh] = last.try_emplace(key(r.pid), Last{r.time, r.ordinal + 1});
    if (!fresh && r.time >= it->second.time) it->second = {r.time, r.ordinal + 1};
  }
  ByteWriter out;
  out.u8(kOrdinalsVersion);
  out.varint(last.size());
  for (const auto& [pid, entry] : last) {
    out.varint(pid & 0xFFFFFFFF);
    out.varint(pid >> 32);
    out.i64(entry.time.ns);
    out.varint(entry.next);
  }
  return std::move(out.vector());
}

Status OrdinalMemory::decode(Bytes value) {
  ByteReader in(value);
  const auto version = in.u8();
  const auto count = in.varint();
  for (std::uint64_t i = 0; i < count && in.ok(); ++i) {
    const auto id = in.varint(), serial = in.varint();
    const RawTime time{in.i64()};
    before_[serial << 32 | id] = {time, static_cast<std::uint32_t>(in.varint())};
  }
  if (version != kOrdinalsVersion || !in.done())
    return fail(Code::corrupt, "the memory of ordinals is damaged");
  return {};
}

std::shared_ptr<TailBatch> empty_batch(const TailInput& input) {
  auto batch = std::make_shared<TailBatch>();
  batch->lsn = input.lsn;
  batch->seq = input.seq;
  batch->received_ns = input.received.ns;
  batch->buffer = input.buffer;
  batch->message = input.message.bytes();
  batch->range.incarnation = input.incarnation;
  batch->malformed = 1;
  return batch;
}

namespace {

void add_unreadable(TailBatch& batch, codec::DecodeStats& stats, RawTime from, RawTime until,
                    TailSink& sink) {
  codec::TermBuilder gap;
  gap.tuple(4).atom("unreadable");
  stats.unreadable ? gap.atom("unknown") : gap.unsigned_integer(stats.malformed);
  gap.integer(from.ns).integer(until.ns);
  batch.gap.assign(gap.bytes().begin(), gap.bytes().end());
  TraceRecord record;
  record.type = EventType::gap;
  record.time = until;
  record.payload = batch.gap;
  sink.record(record);
  stats.oldest = batch.rows.size() == 1 ? until : std::min(stats.oldest, until);
  stats.newest = batch.rows.size() == 1 ? until : std::max(stats.newest, until);
}

}  // namespace

Result<std::shared_ptr<TailBatch>> decode_batch(const TailInput& input,
                                                const codec::HashKey& hash_key,
                                                Incarnations& incarnations,
                                                OrdinalMemory& ordinals) {
  ASSIGN_OR_RETURN(const auto header, codec::read_batch_header(input.message));
  auto batch = empty_batch(input);
  batch->nodes = incarnations.pool();
  if (input.seq != 0) batch->cut = header.cut;
  batch->rows.reserve(batch->message.size() / 128 + 1);  // a realistic event has 154 bytes
  const auto& info = incarnations.info(input.incarnation);
  const codec::DecodeContext context{hash_key, incarnations.node(input.incarnation), info.creation};
  TailSink sink(*batch, input, incarnations, ordinals);
  auto stats = codec::decode_records(header, context, batch->strings, sink);
  if (stats.malformed > 0) {
    const auto until = std::max(header.clock_raw, header.cut);
    const auto from = std::min(until, ordinals.earliest().value_or(header.cut));
    add_unreadable(*batch, stats, from, until, sink);
  }
  ordinals.end_batch(input.seq != 0);
  batch->malformed = stats.malformed;
  batch->range.rows = static_cast<std::uint32_t>(batch->rows.size());
  if (!batch->rows.empty()) {
    batch->range.oldest = stats.oldest;
    batch->range.newest = stats.newest;
  }
  return batch;
}

}  // namespace scope::store
