#include <fmt/format.h>
#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <bit>
#include <boost/unordered/unordered_flat_map.hpp>

#include "store/block.h"
#include "store/block_format.h"

namespace scope::store {
namespace {

using namespace block_format;
using codec::Peer;
using codec::TraceRecord;

std::unexpected<Error> corrupt(std::string_view what) {
  return fail(Code::corrupt, fmt::format("a block's {} is damaged", what));
}

ZSTD_DCtx* decompressor() {
  thread_local const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context{ZSTD_createDCtx(),
                                                                                  &ZSTD_freeDCtx};
  return context.get();
}

// Of an old version the first `bytes` of what is there today.
template <typename T>
T load_first(const std::byte* at, std::size_t bytes) {
  T out;
  std::memcpy(static_cast<void*>(&out), at, bytes);
  return out;
}

// Fixed-size entries inside the head, read in place.
template <typename T>
class Entries {
 public:
  Entries() = default;
  Entries(const std::byte* at, std::size_t size, std::size_t bytes = sizeof(T))
      : at_(at), size_(size), bytes_(bytes) {}
  T operator[](std::size_t i) const { return load_first<T>(at_ + i * bytes_, bytes_); }
  std::size_t size() const { return size_; }

 private:
  const std::byte* at_ = nullptr;
  std::size_t size_ = 0, bytes_ = sizeof(T);
};

// A column of the directory: little-endian values of 0, 1, 2 or 4 bytes.
struct Narrow {
  const std::byte* at = nullptr;
  unsigned width = 0;
  std::uint32_t operator[](std::size_t i) const {
    std::uint32_t value = 0;
    std::memcpy(&value, at + i * width, width);
    return value;
  }
};

// The head, checked: after parse() every entry and every piece lies inside the block.
struct Head {
  Bytes block;
  Header h;
  Entries<IncarnationEntry> incarnations;
  Entries<NodeEntry> nodes;
  Narrow ids, serials, first_rows, classes;
  Entries<FrameEntry> frames;
  Entries<Piece> chunks;

  Status parse(Bytes bytes);
  Result<Bytes> piece(const Piece& piece, std::string_view what) const;
  // Decompresses into `out`, which is resized. `most`: the bound on its size.
  Status unpack(const Piece& piece, std::size_t most, std::string_view what,
                std::vector<std::byte>& out) const;

  std::uint32_t process_end(std::size_t incarnation) const {
    return incarnation + 1 < incarnations.size() ? incarnations[incarnation + 1].first_process
                                                 : h.processes;
  }
  std::uint32_t row_end(std::size_t process) const {
    return process + 1 < h.processes ? first_rows[process + 1] : h.rows;
  }
  bool has_messages() const { return h.version >= 3; }
  std::uint32_t stream_bytes(unsigned stream) const {
    return stream == kStates ? h.state_bytes : stream == kOthers ? h.other_bytes : h.message_bytes;
  }
  std::size_t first_chunk(unsigned stream) const {
    return (stream > kStates ? std::size_t{h.state_chunks} : 0) +
           (stream > kOthers ? h.other_chunks : 0);
  }
  std::size_t frame_rows(std::size_t frame) const {
    return std::min<std::size_t>(kFrameRows, h.rows - frame * kFrameRows);
  }
};

Status Head::parse(Bytes bytes) {
  block = bytes;
  if (bytes.size() < kOldHeader) return corrupt("header");
  h = load_first<Header>(bytes.data(), kOldHeader);
  const auto own_size = header_size(h.version);
  if (h.magic != kMagic || h.head_end > bytes.size() || h.head_end < own_size ||
      h.end != bytes.size())
    return corrupt("header");
  h = load_first<Header>(bytes.data(), own_size);
  if (h.version == 0 || h.version > kVersion || (h.flags & ~kAllFlags) != 0)
    return fail(Code::corrupt,
                fmt::format("a block of version {}, made by a later release?", h.version));
  if (XXH3_64bits_withSeed(bytes.data() + kHashFrom, h.head_end - kHashFrom, h.flags) !=
      h.head_xxh3)
    return corrupt("head");
  if (h.rows == 0 || h.rows > kMaxBlockRows || h.processes == 0 || h.processes > h.rows ||
      h.incarnations == 0 || h.incarnations > h.processes || h.id_width > 4 || h.serial_width > 4 ||
      h.row_width > 4 || h.messages > h.rows || h.frames != (h.rows + kFrameRows - 1) / kFrameRows)
    return corrupt("header");

  const std::uint64_t directory =
      std::uint64_t{h.processes} * (1U + h.id_width + h.serial_width + h.row_width);
  const std::uint64_t chunk_count =
      std::uint64_t{h.state_chunks} + h.other_chunks + h.message_chunks;
  const auto frame_bytes = frame_size(h.version);
  const std::uint64_t expected =
      own_size + h.incarnations * std::uint64_t{sizeof(IncarnationEntry)} +
      h.nodes * std::uint64_t{sizeof(NodeEntry)} + directory +
      h.frames * std::uint64_t{frame_bytes} + chunk_count * sizeof(Piece);
  if (expected != h.head_end) return corrupt("head");
  const std::byte* at = bytes.data() + own_size;
  incarnations = {at, h.incarnations};
  nodes = {at += h.incarnations * sizeof(IncarnationEntry), h.nodes};
  ids = {at += h.nodes * sizeof(NodeEntry), h.id_width};
  serials = {at += std::size_t{h.processes} * h.id_width, h.serial_width};
  first_rows = {at += std::size_t{h.processes} * h.serial_width, h.row_width};
  classes = {at += std::size_t{h.processes} * h.row_width, 1};
  frames = {at += h.processes, h.frames, frame_bytes};
  chunks = {at += h.frames * frame_bytes, static_cast<std::size_t>(chunk_count)};

  const auto chunks_for = [](std::uint32_t size) { return (size + kChunkBytes - 1) / kChunkBytes; };
  if (chunks_for(h.state_bytes) != h.state_chunks || chunks_for(h.other_bytes) != h.other_chunks ||
      chunks_for(h.message_bytes) != h.message_chunks)
    return corrupt("list of chunks");
  for (std::size_t i = 0; i < incarnations.size(); ++i) {
    const auto entry = incarnations[i];
    if (entry.node >= h.nodes || process_end(i) > h.processes ||
        entry.first_process >= process_end(i) || (i == 0 && entry.first_process != 0) ||
        (i > 0 && entry.number <= incarnations[i - 1].number))
      return corrupt("list of incarnations");
  }
  return {};
}

Result<Bytes> Head::piece(const Piece& piece, std::string_view what) const {
  if (piece.offset < h.head_end || piece.offset > block.size() ||
      piece.bytes > block.size() - piece.offset)
    return corrupt(what);
  const auto bytes = block.subspan(piece.offset, piece.bytes);
  if (static_cast<std::uint32_t>(XXH3_64bits(bytes.data(), bytes.size())) != piece.xxh3)
    return corrupt(what);
  return bytes;
}

Status Head::unpack(const Piece& p, std::size_t most, std::string_view what,
                    std::vector<std::byte>& out) const {
  if (p.raw > most) return corrupt(what);
  ASSIGN_OR_RETURN(const auto packed, piece(p, what));
  out.resize(p.raw);
  const auto size =
      ZSTD_decompressDCtx(decompressor(), out.data(), out.size(), packed.data(), packed.size());
  if (ZSTD_isError(size) || size != out.size()) return corrupt(what);
  return {};
}

// Values of a column; the planes stay where they are.
struct Column {
  const std::byte* planes = nullptr;
  std::size_t n = 0;
  unsigned width = 0;

  bool parse(ByteReader& in, std::size_t count) {
    n = count;
    width = in.u8();
    if (!in.ok() || width > 8) return false;
    const auto bytes = in.raw(width * count);
    planes = bytes.data();
    return in.ok();
  }
  std::uint64_t operator[](std::size_t i) const {
    std::uint64_t value = 0;
    for (unsigned p = 0; p < width; ++p)
      value |= std::to_integer<std::uint64_t>(planes[p * n + i]) << (8 * p);
    return value;
  }
};

// The block's messages, decoded when they are first asked for. Of an old block there are none.
struct Messages {
  std::vector<std::byte> bytes;
  std::array<Column, kMessageColumns> columns;
  std::vector<std::uint32_t> at;  // within the stream
  bool open = false;

  Status load(const Head& head) {
    if (open) return {};
    const std::size_t n = head.h.messages;
    if (n > 0) {
      RETURN_IF_ERROR(head.unpack(head.h.message_table, n * 16 + 64, "list of messages", bytes));
      ByteReader in(bytes);
      for (auto& c : columns) {
        if (!c.parse(in, n)) return corrupt("list of messages");
      }
      if (!in.done()) return corrupt("list of messages");
    }
    at.resize(n);
    std::uint64_t next = 0;
    for (std::size_t i = 0; i < n; ++i) {
      at[i] = static_cast<std::uint32_t>(next);
      const auto size = columns[kBytes][i];
      if (size > head.h.message_bytes - next) return corrupt("list of messages");
      next += size;
    }
    open = true;
    return {};
  }
};

// A payload within the streams.
struct Place {
  std::uint8_t stream;
  std::uint32_t at, size;
};

// One frame, each part decoded when it is first asked for.
class Frame {
 public:
  Frame(const Head& head, Messages& messages) : head_(head), messages_(messages) {}

  Status open(std::size_t index) {
    if (index == index_) return {};
    index_ = index;
    have_times_ = have_rest_ = false;
    rows_ = head_.frame_rows(index);
    RETURN_IF_ERROR(
        head_.unpack(head_.frames[index].kinds, rows_ * 64 + 64, "frame", kinds_bytes_));
    ByteReader in(kinds_bytes_);
    for (auto& c : kinds) {
      if (!c.parse(in, rows_)) return corrupt("frame");
    }
    return in.done() ? Status{} : corrupt("frame");
  }
  Status open_times();
  Status open_rest();
  // REQUIRES open_rest(), and of the first that the row has kHashed
  std::uint64_t match_hash(std::size_t i) const {
    const auto value = rest[kMessage][hash_at_[i]];
    return head_.has_messages() ? messages_.columns[kHash][message_of_[hash_at_[i]]] : value;
  }
  Place place(std::size_t i) const {
    if (head_.has_messages() && (kinds[kFlags][i] & TraceRecord::kHashed) != 0 &&
        rest[kMessage][hash_at_[i]] % 2 == 0) {
      const auto m = message_of_[hash_at_[i]];
      return {kMessages, messages_.at[m], static_cast<std::uint32_t>(messages_.columns[kBytes][m])};
    }
    const bool state = kinds[kType][i] == std::uint64_t(codec::EventType::state_change);
    return {state ? kStates : kOthers, payload_at_[i],
            static_cast<std::uint32_t>(rest[kPayload][i])};
  }

  std::array<Column, kKindColumns> kinds;
  std::array<Column, kRestColumns> rest;
  std::vector<std::int64_t> times;
  std::vector<std::uint32_t> alias_at;  // where in aliases each begins
  Bytes aliases;

 private:
  Status find_messages(std::size_t hashed);

  const Head& head_;
  Messages& messages_;
  std::vector<std::uint32_t> payload_at_;  // within its stream
  std::vector<std::uint32_t> hash_at_;     // place among the rows with kHashed
  std::vector<std::uint32_t> message_of_;  // of each of those
  std::size_t index_ = SIZE_MAX, rows_ = 0;
  bool have_times_ = false, have_rest_ = false;
  std::vector<std::byte> kinds_bytes_, rest_bytes_;
};

Status Frame::open_times() {
  if (have_times_) return {};
  ASSIGN_OR_RETURN(const auto bytes, head_.piece(head_.frames[index_].times, "frame's times"));
  ByteReader in(bytes);
  times.resize(rows_);
  const std::size_t begin = index_ * kFrameRows;
  // The process of the frame's first row: the last one that begins at or before it.
  std::size_t low = 0, high = head_.h.processes;
  while (high - low > 1) {
    const auto middle = (low + high) / 2;
    (head_.first_rows[middle] <= begin ? low : high) = middle;
  }
  std::size_t process = low, incarnation = 0;
  bool continues = false;
  for (std::size_t i = 0; i < rows_; ++i) {
    if (begin + i >= head_.row_end(process) && process + 1 < head_.h.processes) {
      ++process;
      continues = false;
    }
    while (process >= head_.process_end(incarnation) && incarnation + 1 < head_.incarnations.size())
      ++incarnation;
    const auto base = static_cast<std::uint64_t>(
        continues ? times[i - 1] : head_.incarnations[incarnation].oldest);
    times[i] = static_cast<std::int64_t>(base + in.varint());
    continues = true;
  }
  if (!in.done()) return corrupt("frame's times");
  have_times_ = true;
  return {};
}

Status Frame::open_rest() {
  if (have_rest_) return {};
  const auto entry = head_.frames[index_];
  RETURN_IF_ERROR(head_.unpack(entry.rest, rows_ * 128 + 64, "frame's rest", rest_bytes_));
  ByteReader in(rest_bytes_);
  hash_at_.resize(rows_);
  std::uint32_t hashes = 0;
  for (std::size_t i = 0; i < rows_; ++i) {
    hash_at_[i] = hashes;
    if ((kinds[kFlags][i] & TraceRecord::kHashed) != 0) ++hashes;
  }
  for (unsigned c = 0; c < kRestColumns; ++c) {
    if (!rest[c].parse(in, c == kMessage ? hashes : rows_)) return corrupt("frame's rest");
  }
  aliases = in.rest();
  ByteReader alias_in(aliases);
  alias_at.clear();
  while (alias_in.left() > 0) {
    alias_at.push_back(static_cast<std::uint32_t>(aliases.size() - alias_in.left()));
    const auto count = alias_in.u8();
    alias_in.raw(count * 4U);
    if (!alias_in.ok() || count > 5) return corrupt("frame's rest");
  }
  if (head_.has_messages() && hashes > 0) RETURN_IF_ERROR(find_messages(hashes));
  payload_at_.resize(rows_);
  std::uint64_t at[2] = {entry.state_at, entry.other_at};
  const std::uint64_t ends[2] = {head_.h.state_bytes, head_.h.other_bytes};
  for (std::size_t i = 0; i < rows_; ++i) {
    const unsigned s = kinds[kType][i] == std::uint64_t(codec::EventType::state_change) ? 0 : 1;
    const auto size = rest[kPayload][i];
    if (at[s] > ends[s] || size > ends[s] - at[s]) return corrupt("frame's rest");
    payload_at_[i] = static_cast<std::uint32_t>(at[s]);
    at[s] += size;
  }
  have_rest_ = true;
  return {};
}

Status Frame::find_messages(std::size_t hashed) {
  RETURN_IF_ERROR(messages_.load(head_));
  message_of_.resize(hashed);
  std::uint64_t next = head_.frames[index_].first_message, last = head_.h.messages;
  for (std::size_t i = 0; i < hashed; ++i) {
    const auto ref = rest[kMessage][i] / 2;
    if (ref != kSameMessage) last = ref == kNextMessage ? next++ : ref - kPlaceFrom;
    if (last >= head_.h.messages) return corrupt("frame's rest");
    message_of_[i] = static_cast<std::uint32_t>(last);
  }
  return {};
}

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
  Status scan(std::size_t incarnation, std::size_t process);
  Result<bool> emit(const ProcessId& process, std::size_t incarnation, std::size_t in_frame);
  Result<bool> wants_mfa(NameId id);
  Status read_peer(Peer& peer, std::size_t incarnation, std::size_t i);
  Status set_node(std::size_t index, Peer& peer);
  Status fill_payloads();

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
};

// Backwards, so that each frame is decoded once and the newest row of a process comes first; reversed at the end.
Result<Rows> Reader::read(Bytes block) {
  RETURN_IF_ERROR(head_.parse(block));
  for (std::size_t i = head_.incarnations.size(); i-- > 0;) {
    const auto entry = head_.incarnations[i];
    const std::size_t begin = entry.first_process, end = head_.process_end(i);
    if (filter_.processes.empty()) {
      if (!wants_process(filter_, {entry.number, 0, 0})) continue;
      for (auto p = end; p-- > begin;) RETURN_IF_ERROR(scan(i, p));
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
        RETURN_IF_ERROR(scan(i, low));
    }
  }
  std::ranges::reverse(rows_);
  std::ranges::reverse(places_);
  if (filter_.payload) RETURN_IF_ERROR(fill_payloads());
  return Rows{std::move(rows_), std::move(payloads_)};
}

Status Reader::scan(std::size_t incarnation, std::size_t process) {
  if ((head_.classes[process] & classes_) == 0) return {};
  const std::size_t begin = head_.first_rows[process], end = head_.row_end(process);
  if (begin >= end || end > head_.h.rows) return corrupt("directory");
  const ProcessId id{head_.incarnations[incarnation].number, head_.ids[process],
                     head_.serials[process]};
  for (auto row = end; row-- > begin;) {
    RETURN_IF_ERROR(frame_.open(row / kFrameRows));
    const std::size_t i = row % kFrameRows;
    const auto type = frame_.kinds[kType][i];
    if (type > 31) return corrupt("frame");
    if ((filter_.types >> type & 1U) == 0) continue;
    RETURN_IF_ERROR(frame_.open_times());
    if (filter_.until && frame_.times[i] > filter_.until->ns) continue;
    if (filter_.from && frame_.times[i] < filter_.from->ns) break;  // older ones follow
    ASSIGN_OR_RETURN(const bool wanted, emit(id, incarnation, i));
    if (wanted && filter_.newest_only) break;
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

Result<bool> Reader::emit(const ProcessId& process, std::size_t incarnation, std::size_t i) {
  ASSIGN_OR_RETURN(const bool wanted, wants_mfa(static_cast<NameId>(frame_.kinds[kMfa][i])));
  if (!wanted) return false;
  const bool hashed = (frame_.kinds[kFlags][i] & TraceRecord::kHashed) != 0;
  if (!filter_.match_hashes.empty() && !hashed) return false;
  RETURN_IF_ERROR(frame_.open_rest());
  if (!filter_.match_hashes.empty() &&
      !std::ranges::binary_search(filter_.match_hashes, frame_.match_hash(i)))
    return false;
  auto& row = rows_.emplace_back();
  row.process = process;
  auto& r = row.record;
  r.type = static_cast<codec::EventType>(frame_.kinds[kType][i]);
  r.flags = static_cast<std::uint16_t>(frame_.kinds[kFlags][i]);
  r.pid = {process.id, process.serial};
  r.time = {frame_.times[i]};
  r.ordinal = static_cast<std::uint32_t>(frame_.kinds[kOrdinal][i]);
  ASSIGN_OR_RETURN(r.mfa, names_.mfa(static_cast<NameId>(frame_.kinds[kMfa][i])));
  r.original_bytes = static_cast<std::uint32_t>(frame_.rest[kOriginal][i]);
  if (r.has(TraceRecord::kHashed)) r.match_hash = frame_.match_hash(i);
  places_.push_back(frame_.place(i));
  const auto kind = frame_.rest[kPeerKind][i];
  if (kind > static_cast<unsigned>(Peer::Kind::port)) return corrupt("frame's rest");
  r.peer.kind = static_cast<Peer::Kind>(kind);
  if (r.peer.kind != Peer::Kind::none) RETURN_IF_ERROR(read_peer(r.peer, incarnation, i));
  return true;
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
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    auto& r = rows_[i].record;
    ASSIGN_OR_RETURN(r.payload, payloads_->get(head_, places_[i]));
    if (r.payload.empty()) continue;
    // Readers of a record trust its term. Finds every atom's text, too, because names are at hand only here.
    const auto* strings = local_atoms ? &*payloads_->strings : nullptr;
    if (!codec::view(r.payload, {.local_atoms = local_atoms}, strings)) return corrupt("payload");
    r.strings = strings;
  }
  if (local_atoms) payloads_->strings->seal();
  return {};
}

}  // namespace

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
