#include <algorithm>
#include <boost/unordered/unordered_flat_map.hpp>
#include <deque>
#include <limits>
#include <optional>

#include "store/block_parts.h"

namespace scope::store {
namespace {

using namespace block_format;
using codec::Peer;
using codec::TraceRecord;

// The atoms that payloads name by number. While `names` is there, what is asked for is looked up and kept.
class BlockStrings final : public codec::StringTable {
 public:
  explicit BlockStrings(NameSource& names) : names_(&names) {}

  std::optional<std::string_view> atom(std::uint32_t id) const override {
    if (const auto it = texts_.find(id); it != texts_.end()) return it->second;
    if (!names_) return std::nullopt;
    const auto text = names_->atom(id);
    if (!text) return std::nullopt;
    texts_.emplace(id, *text);
    return *text;
  }
  void seal() { names_ = nullptr; }  // from here on immutable

 private:
  NameSource* names_;
  mutable boost::unordered_flat_map<NameId, std::string_view> texts_;
};

// The streams of payloads; chunks are decompressed once each and kept by the rows.
struct Payloads {
  std::shared_ptr<Arena> arena;
  std::vector<std::vector<std::byte>> chunks;
  std::deque<std::vector<std::byte>> joined;  // payloads that span chunks
  std::optional<BlockStrings> strings;

  Result<Bytes> get(const Head& head, Place place) {
    const auto [stream, at, size] = place;
    if (size == 0) return Bytes{};
    if (chunks.empty()) chunks.resize(head.chunks.size());
    const std::size_t base = head.first_chunk(stream);
    const std::size_t first = at / kChunkBytes, last = (std::size_t{at} + size - 1) / kChunkBytes;
    for (auto c = first; c <= last; ++c) {
      auto& chunk = chunks[base + c];
      if (!chunk.empty()) continue;
      RETURN_IF_ERROR(head.unpack(head.chunks[base + c], kChunkBytes, "payload", chunk));
      if (chunk.size() != std::min(kChunkBytes, head.stream_bytes(stream) - c * kChunkBytes))
        return corrupt("payload");
    }
    const std::size_t in_first = at % kChunkBytes;
    if (first == last) return Bytes(chunks[base + first]).subspan(in_first, size);
    auto& whole = joined.emplace_back();
    whole.reserve(size);
    for (auto c = first; c <= last; ++c) {
      const Bytes from = Bytes(chunks[base + c]).subspan(c == first ? in_first : 0);
      const auto take = std::min<std::size_t>(from.size(), size - whole.size());
      whole.insert(whole.end(), from.begin(), from.begin() + static_cast<std::ptrdiff_t>(take));
    }
    return Bytes(whole);
  }
};

class Reader {
 public:
  Reader(const RowFilter& filter, NameSource& names, std::shared_ptr<Arena> arena)
      : filter_(filter), names_(names), payloads_(std::make_shared<Payloads>()) {
    payloads_->arena = std::move(arena);
    for (unsigned t = 0; t < 32; ++t) {
      if ((filter.types >> t & 1U) != 0) classes_ |= class_of(static_cast<codec::EventType>(t));
    }
  }

  Result<Rows> read(Bytes block);

 private:
  Status scan(std::size_t incarnation, std::size_t process, const TimeRange& times);
  Result<Choice> emit(const ProcessId& process, std::size_t incarnation, std::size_t in_frame);
  Result<bool> wants_mfa(NameId id);
  Status read_peer(Peer& peer, std::size_t incarnation, std::size_t i);
  Status set_node(std::size_t index, Peer& peer);
  Status fill_payloads();
  // The last row before `end` that only_ lets through.
  std::optional<std::size_t> last_wanted(std::size_t end) const {
    if (!only_) return end == 0 ? std::nullopt : std::optional(end - 1);
    const auto it = std::ranges::lower_bound(*only_, end);
    return it == only_->begin() ? std::nullopt : std::optional<std::size_t>(*std::prev(it));
  }

  const RowFilter& filter_;
  NameSource& names_;
  std::shared_ptr<Payloads> payloads_;
  std::uint8_t classes_ = 0;
  Head head_;
  Messages messages_;
  Frame frame_{head_, messages_};
  std::vector<StoredRow> rows_;
  std::vector<Place> places_;
  boost::unordered_flat_map<NameId, bool> wanted_mfas_;
  std::optional<std::vector<std::uint32_t>> only_;  // these rows, ascending
};

// Backwards, so that each frame is decoded once and the newest row of a process comes first; reversed at the end.
Result<Rows> Reader::read(Bytes block) {
  RETURN_IF_ERROR(head_.parse(block));
  if (!filter_.traces.empty()) {
    ASSIGN_OR_RETURN(only_, head_.rows_with(filter_.traces));
  }
  if (filter_.processes.empty() && filter_.mfas.empty() && filter_.match_hashes.empty() && !only_ &&
      !filter_.newest_only && !filter_.choose) {
    rows_.reserve(head_.h.rows);
    places_.reserve(head_.h.rows);
  }
  for (std::size_t i = head_.incarnations.size(); i-- > 0;) {
    const auto entry = head_.incarnations[i];
    const std::size_t begin = entry.first_process, end = head_.process_end(i);
    const auto times = wanted_times(filter_, entry.number);
    if (!times || times->from.ns > entry.newest || times->until.ns < entry.oldest) continue;
    if (filter_.processes.empty()) {
      if (!wants_process(filter_, {entry.number, 0, 0})) continue;
      for (auto p = end; p-- > begin;) {
        const auto row = last_wanted(head_.row_end(p));
        if (!row) break;
        p = std::min(p, head_.process_of(*row));
        if (p < begin) break;
        RETURN_IF_ERROR(scan(i, p, *times));
      }
      continue;
    }
    for (std::size_t w = filter_.processes.size(); w-- > 0;) {
      const auto& wanted = filter_.processes[w];
      if (wanted.incarnation != entry.number || !wants_process(filter_, wanted)) continue;
      std::size_t low = begin, high = end;
      while (low < high) {
        const auto middle = (low + high) / 2;
        const auto here = std::pair(head_.ids[middle], head_.serials[middle]);
        if (here < std::pair(wanted.id, wanted.serial)) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      if (low < end && head_.ids[low] == wanted.id && head_.serials[low] == wanted.serial)
        RETURN_IF_ERROR(scan(i, low, *times));
    }
  }
  // Whoever reads all of a block has it checked whole.
  if (filter_.payload && rows_.size() == head_.h.rows) RETURN_IF_ERROR(head_.rows_with({}));
  std::ranges::reverse(rows_);
  std::ranges::reverse(places_);
  if (filter_.payload) RETURN_IF_ERROR(fill_payloads());
  return Rows{std::move(rows_), std::move(payloads_)};
}

Status Reader::scan(std::size_t incarnation, std::size_t process, const TimeRange& times) {
  if ((head_.classes[process] & classes_) == 0) return {};
  const std::size_t begin = head_.first_rows[process], end = head_.row_end(process);
  if (begin >= end || end > head_.h.rows) return corrupt("directory");
  const ProcessId id{head_.incarnations[incarnation].number, head_.ids[process],
                     head_.serials[process]};
  for (auto next = last_wanted(end); next && *next >= begin; next = last_wanted(*next)) {
    const std::size_t row = *next;
    RETURN_IF_ERROR(frame_.open(row / kFrameRows));
    const std::size_t i = row % kFrameRows;
    const auto type = frame_.kinds[kType][i];
    if (type > 31) return corrupt("frame");
    if ((filter_.types >> type & 1U) == 0) continue;
    const std::size_t from = row - i;  // where the frame begins
    RETURN_IF_ERROR(filter_.processes.empty()
                        ? frame_.open_times()
                        : frame_.open_times(std::max(begin, from) - from,
                                            std::min(end - from, kFrameRows),
                                            head_.incarnations[incarnation].oldest));
    if (frame_.times[i] > times.until.ns) continue;
    if (frame_.times[i] < times.from.ns) break;  // older ones follow
    ASSIGN_OR_RETURN(const Choice choice, emit(id, incarnation, i));
    if (choice == Choice::leave_older || (choice == Choice::make && filter_.newest_only)) break;
  }
  return {};
}

Result<bool> Reader::wants_mfa(NameId id) {
  if (filter_.mfas.empty()) return true;
  const auto [it, fresh] = wanted_mfas_.try_emplace(id, false);
  if (fresh) {
    ASSIGN_OR_RETURN(const auto mfa, names_.mfa(id));
    it->second = std::ranges::any_of(filter_.mfas, [&](const auto& p) { return p.matches(mfa); });
  }
  return it->second;
}

Result<Choice> Reader::emit(const ProcessId& process, std::size_t incarnation, std::size_t i) {
  ASSIGN_OR_RETURN(const bool wanted, wants_mfa(static_cast<NameId>(frame_.kinds[kMfa][i])));
  if (!wanted) return Choice::leave;
  const RowKey key{
      {process, {frame_.times[i]}, static_cast<std::uint32_t>(frame_.kinds[kOrdinal][i])},
      static_cast<codec::EventType>(frame_.kinds[kType][i]),
      static_cast<std::uint16_t>(frame_.kinds[kFlags][i])};
  if (!filter_.match_hashes.empty()) {
    if ((key.flags & TraceRecord::kHashed) == 0) return Choice::leave;
    RETURN_IF_ERROR(frame_.open_rest());
    if (!std::ranges::binary_search(filter_.match_hashes, frame_.match_hash(i)))
      return Choice::leave;
  }
  if (filter_.choose) {
    if (const auto choice = filter_.choose(key); choice != Choice::make) {
      RETURN_IF_ERROR(frame_.check_rest());
      return choice;
    }
  }
  RETURN_IF_ERROR(frame_.open_rest());
  auto& row = rows_.emplace_back();
  row.process = process;
  auto& r = row.record;
  r.type = key.type;
  r.flags = key.flags;
  r.pid = {process.id, process.serial};
  r.time = key.id.time;
  r.ordinal = key.id.ordinal;
  ASSIGN_OR_RETURN(r.mfa, names_.mfa(static_cast<NameId>(frame_.kinds[kMfa][i])));
  r.original_bytes = static_cast<std::uint32_t>(frame_.rest[kOriginal][i]);
  if (r.has(TraceRecord::kHashed)) r.match_hash = frame_.match_hash(i);
  places_.push_back(frame_.place(i));
  const auto kind = frame_.rest[kPeerKind][i];
  if (kind > static_cast<unsigned>(Peer::Kind::port)) return corrupt("frame's rest");
  r.peer.kind = static_cast<Peer::Kind>(kind);
  if (r.peer.kind != Peer::Kind::none) RETURN_IF_ERROR(read_peer(r.peer, incarnation, i));
  return Choice::make;
}

Status Reader::set_node(std::size_t index, Peer& peer) {
  if (index >= head_.nodes.size()) return corrupt("frame's rest");
  const auto node = head_.nodes[index];
  ASSIGN_OR_RETURN(peer.node, names_.atom(node.atom));
  peer.creation = node.creation;
  return {};
}

Status Reader::read_peer(Peer& peer, std::size_t incarnation, std::size_t i) {
  const auto id = static_cast<std::uint32_t>(frame_.rest[kPeerId][i]);
  const auto node = frame_.rest[kPeerNode][i];
  const bool named = peer.kind == Peer::Kind::name || peer.kind == Peer::Kind::remote_name;
  if (node != 0) {
    RETURN_IF_ERROR(set_node(node - 1, peer));
  } else if (!named) {
    RETURN_IF_ERROR(set_node(head_.incarnations[incarnation].node, peer));
  }
  if (named) {
    ASSIGN_OR_RETURN(peer.name, names_.atom(id));
    return {};
  }
  if (peer.kind == Peer::Kind::alias) {
    if (id >= frame_.alias_at.size()) return corrupt("frame's rest");
    ByteReader in(frame_.aliases.subspan(frame_.alias_at[id]));
    peer.alias.node = peer.node;
    peer.alias.creation = peer.creation;
    peer.alias.count = in.u8();
    for (std::uint32_t k = 0; k < peer.alias.count; ++k) peer.alias.ids[k] = in.u32();
    return {};
  }
  peer.id = id;
  peer.serial = static_cast<std::uint32_t>(frame_.rest[kPeerSerial][i]);
  return {};
}

Status Reader::fill_payloads() {
  const bool local_atoms = (head_.h.flags & kLocalAtoms) != 0;
  if (local_atoms) payloads_->strings.emplace(names_);
  const auto* strings = local_atoms ? &*payloads_->strings : nullptr;
  boost::unordered_flat_map<std::uint32_t, Bytes> messages;  // by place: sent, fetched and taken
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    auto& r = rows_[i].record;
    if ((filter_.payloads >> static_cast<unsigned>(r.type) & 1U) == 0) continue;
    const bool message = places_[i].stream == kMessages && places_[i].size > 0;
    if (message) {
      if (const auto known = messages.find(places_[i].at); known != messages.end()) {
        r.payload = known->second;
        r.strings = strings;
        continue;
      }
    }
    ASSIGN_OR_RETURN(r.payload, payloads_->get(head_, places_[i]));
    if (r.payload.empty()) continue;
    // Readers of a record trust its term. Finds every atom's text, too, because names are at hand only here.
    if (!codec::view(r.payload, {.local_atoms = local_atoms}, strings)) return corrupt("payload");
    r.strings = strings;
    if (message) messages.emplace(places_[i].at, r.payload);
  }
  if (local_atoms) payloads_->strings->seal();
  return {};
}

}  // namespace

std::optional<TimeRange> wanted_times(const RowFilter& filter, Incarnation incarnation) {
  using Limits = std::numeric_limits<std::int64_t>;
  TimeRange out{incarnation, {Limits::min()}, {Limits::max()}};
  if (!filter.times.empty()) {
    const auto at =
        std::ranges::lower_bound(filter.times, incarnation, {}, &TimeRange::incarnation);
    if (at == filter.times.end() || at->incarnation != incarnation) return std::nullopt;
    out = *at;
  }
  if (filter.from) out.from = std::max(out.from, *filter.from);
  if (filter.until) out.until = std::min(out.until, *filter.until);
  return out;
}

bool wants_process(const RowFilter& filter, const ProcessId& process) {
  if (!filter.incarnations.empty() &&
      !std::ranges::binary_search(filter.incarnations, process.incarnation))
    return false;
  return filter.processes.empty() || std::ranges::binary_search(filter.processes, process);
}

bool wants_record(const RowFilter& filter, const TraceRecord& record) {
  if (!filter.match_hashes.empty() &&
      (!record.has(TraceRecord::kHashed) ||
       !std::ranges::binary_search(filter.match_hashes, record.match_hash)))
    return false;
  return filter.mfas.empty() || std::ranges::any_of(filter.mfas, [&](const auto& pattern) {
           return pattern.matches(record.mfa);
         });
}

Result<Rows> read_block(Bytes block, const RowFilter& filter, NameSource& names,
                        std::shared_ptr<Arena> arena) {
  return Reader(filter, names, std::move(arena)).read(block);
}

}  // namespace scope::store
