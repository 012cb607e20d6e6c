#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <boost/unordered/unordered_flat_map.hpp>
#include <numeric>
#include <utility>

#include "ei_codec/local_atoms.h"
#include "store/block.h"
#include "store/block_format.h"

namespace scope::store {
namespace {

using namespace block_format;
using codec::Peer;
using codec::TraceRecord;

template <typename T>
void put_column(ByteWriter& out, const std::vector<T>& values) {
  constexpr std::size_t kStep = 32;  // a fixed count, so that the compiler makes vectors of it
  T all = 0;
  for (const auto v : values) all |= v;
  const auto width = static_cast<unsigned>(std::bit_width(all) + 7) / 8;
  out.u8(width);
  const auto at = out.size();
  out.vector().resize(at + width * values.size());
  auto* to = out.data() + at;
  for (unsigned plane = 0; plane < width; ++plane) {
    const auto* from = values.data();
    std::size_t left = values.size();
    for (; left >= kStep; left -= kStep, from += kStep, to += kStep)
      for (std::size_t i = 0; i < kStep; ++i) to[i] = static_cast<std::byte>(from[i] >> 8 * plane);
    for (; left > 0; --left) *to++ = static_cast<std::byte>(*from++ >> 8 * plane);
  }
}

template <typename T>
void put_at(std::vector<std::byte>& bytes, std::size_t at, const T& value) {
  std::memcpy(bytes.data() + at, &value, sizeof(T));
}

std::uint32_t hash_of(Bytes bytes) {
  return static_cast<std::uint32_t>(XXH3_64bits(bytes.data(), bytes.size()));
}

unsigned width_for(std::uint64_t most) {
  return most == 0 ? 0 : most < 1U << 8 ? 1 : most < 1U << 16 ? 2 : 4;
}

}  // namespace

struct BlockEncoder::Work {
  std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> zstd{ZSTD_createCCtx(), &ZSTD_freeCCtx};

  struct Process {
    ProcessId id;
    std::uint32_t rows = 0, first_row = 0;
    std::uint8_t classes = 0;
  };
  std::vector<Process> processes;
  std::vector<std::uint32_t> process_of;  // by arrival
  // With what orders it: rows are far apart in memory, and are visited once more to be encoded.
  struct Sorted {
    const StoredRow* row;
    RawTime time;
    std::uint32_t ordinal;
  };
  std::vector<Sorted> sorted;
  std::vector<NodeEntry> nodes;
  boost::unordered_flat_map<std::pair<const char*, std::uint32_t>, std::uint32_t> node_numbers;
  std::vector<IncarnationEntry> incarnations;
  std::vector<std::uint32_t> kinds[kKindColumns], rest[kRestColumns];
  ByteWriter times, aliases;
  std::uint32_t alias_count = 0;
  ByteWriter raw, body;
  std::vector<std::byte> streams[kStreams], packed;
  // A message as it was met first, where in its stream it is, and its place in `trace_rows`.
  struct Message {
    const TraceRecord* first;
    std::size_t at;
    std::size_t traces = 0, traces_end = 0;
  };
  std::vector<Message> messages;
  std::uint32_t last_message = 0;  // of the frame's row with kHashed before
  struct TraceRow {
    std::uint32_t print, row;
  };
  std::vector<TraceRow> trace_rows;  // by row
  bool trace_rows_known = true;
  struct HashHash {  // match hashes are random already
    using is_avalanching = void;
    std::size_t operator()(std::uint64_t hash) const { return hash; }
  };
  boost::unordered_flat_map<std::uint64_t, std::uint32_t, HashHash> message_places;
  // The numbers that the batches of these rows have for their atoms, as this partition's.
  boost::unordered_flat_map<std::pair<const codec::StringTable*, std::uint32_t>, NameId> atoms;
  bool local_atoms = false;

  void sort_rows(std::span<const StoredRow* const> rows);
  void prefetch(std::size_t at) const;
  std::uint32_t node_index(std::string_view node, std::uint32_t creation, BlockNames& names);
  void list_incarnations(BlockNames& names);
  std::size_t add_payload(const TraceRecord& record, Stream to, BlockNames& names);
  bool add_message(const TraceRecord& record, BlockNames& names);
  void add_peer(std::size_t i, const StoredRow& row, std::uint32_t own_node, BlockNames& names);
  void add_traces(std::size_t at, std::span<const std::uint64_t> keys, Message* message);
  Piece add_message_table();
  Piece add_trace_table();
  Piece add_piece(Bytes bytes, bool compress);
  FrameEntry encode_frame(std::size_t begin, std::size_t end, BlockNames& names,
                          BlockIndexBuilder& index);
};

// A counting sort by process; within a process rows mostly come in order already.
void BlockEncoder::Work::sort_rows(std::span<const StoredRow* const> rows) {
  boost::unordered_flat_map<ProcessId, std::uint32_t, std::hash<ProcessId>> numbers;
  processes.clear();
  process_of.resize(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto [it, fresh] =
        numbers.try_emplace(rows[i]->process, static_cast<std::uint32_t>(processes.size()));
    if (fresh) processes.push_back({rows[i]->process});
    auto& process = processes[it->second];
    ++process.rows;
    process.classes |= class_of(rows[i]->record.type);
    process_of[i] = it->second;
  }
  std::vector<std::uint32_t> order(processes.size()), next(processes.size());
  std::iota(order.begin(), order.end(), 0U);
  std::ranges::sort(order, {}, [&](std::uint32_t i) { return processes[i].id; });
  std::uint32_t at = 0;
  for (const auto i : order) {
    next[i] = processes[i].first_row = at;
    at += processes[i].rows;
  }
  sorted.resize(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i)
    sorted[next[process_of[i]]++] = {rows[i], rows[i]->record.time, rows[i]->record.ordinal};
  const auto before = [](const Sorted& a, const Sorted& b) {
    return std::tie(a.time, a.ordinal) < std::tie(b.time, b.ordinal);
  };
  for (const auto& p : processes) {
    const auto begin = sorted.begin() + p.first_row, end = begin + p.rows;
    if (!std::is_sorted(begin, end, before)) std::sort(begin, end, before);
  }
  std::vector<Process> ascending;
  ascending.reserve(processes.size());
  for (const auto i : order) ascending.push_back(processes[i]);
  processes.swap(ascending);
}

std::uint32_t BlockEncoder::Work::node_index(std::string_view node, std::uint32_t creation,
                                             BlockNames& names) {
  // Equal addresses are equal texts; the texts of nodes are pooled, so this nearly always finds them.
  const std::pair key(node.data(), creation);
  if (const auto it = node_numbers.find(key); it != node_numbers.end()) return it->second;
  const NodeEntry entry{names.home_of(node, creation), creation, names.atom(node)};
  const auto known = std::ranges::find_if(nodes, [&](const NodeEntry& n) {
    return n.creation == entry.creation && n.atom == entry.atom;
  });
  const auto index = static_cast<std::uint32_t>(known - nodes.begin());
  if (known == nodes.end()) nodes.push_back(entry);
  node_numbers.emplace(key, index);
  return index;
}

void BlockEncoder::Work::list_incarnations(BlockNames& names) {
  incarnations.clear();
  for (std::uint32_t i = 0; i < processes.size(); ++i) {
    const auto& p = processes[i];
    if (incarnations.empty() || incarnations.back().number != p.id.incarnation) {
      const auto& info = names.incarnation(p.id.incarnation);
      const auto time = sorted[p.first_row].time.ns;
      incarnations.push_back(
          {p.id.incarnation, i, 0, node_index(info.node, info.creation, names), time, time});
    }
    auto& entry = incarnations.back();
    entry.rows += p.rows;
    entry.oldest = std::min(entry.oldest, sorted[p.first_row].time.ns);
    entry.newest = std::max(entry.newest, sorted[p.first_row + p.rows - 1].time.ns);
  }
}

Piece BlockEncoder::Work::add_piece(Bytes bytes, bool compress) {
  Piece piece{static_cast<std::uint32_t>(body.size()), 0, static_cast<std::uint32_t>(bytes.size()),
              0};
  if (compress) {
    packed.resize(ZSTD_compressBound(bytes.size()));
    const auto size =
        ZSTD_compressCCtx(zstd.get(), packed.data(), packed.size(), bytes.data(), bytes.size(), 1);
    SCOPE_CHECK(!ZSTD_isError(size));
    bytes = Bytes(packed).first(size);
  }
  piece.bytes = static_cast<std::uint32_t>(bytes.size());
  piece.xxh3 = hash_of(bytes);
  body.raw(bytes);
  return piece;
}

// Where in the stream it begins.
std::size_t BlockEncoder::Work::add_payload(const TraceRecord& record, Stream to,
                                            BlockNames& names) {
  auto& stream = streams[to];
  const auto at = stream.size();
  stream.insert(stream.end(), record.payload.begin(), record.payload.end());
  if (!record.strings || record.payload.empty()) return at;
  local_atoms = true;
  codec::renumber_local_atoms(stream.data() + at, [&](std::uint32_t number) {
    const auto [it, fresh] = atoms.try_emplace({record.strings, number}, 0U);
    if (fresh) it->second = names.atom(record.strings->atom(number).value_or(std::string_view{}));
    return it->second;
  });
  return at;
}

// Adds to kMessage. Does the row say nothing that its message did not say before?
bool BlockEncoder::Work::add_message(const TraceRecord& record, BlockNames& names) {
  const auto [it, fresh] =
      message_places.try_emplace(record.match_hash, static_cast<std::uint32_t>(messages.size()));
  const auto place = it->second;
  const bool repeated = place == std::exchange(last_message, place);
  auto& column = rest[kMessage].emplace_back();
  if (fresh) {
    messages.push_back({&record, add_payload(record, kMessages, names), 0, 0});
    column = std::uint32_t{kNextMessage} * 2;
    return false;
  }
  column = (repeated ? std::uint32_t{kSameMessage} : place + kPlaceFrom) * 2;
  const auto& known = messages[place];
  if (record.payload.size() == known.first->payload.size()) {
    if (record.strings == known.first->strings &&
        as_text(record.payload) ==
            as_text(known.first->payload))  // one memcmp, unlike ranges::equal
      return true;
    // Another batch's numbers for the same atoms: compared as the partition has them.
    const auto own = streams[kMessages].size();
    add_payload(record, kMessages, names);
    const auto* const all = streams[kMessages].data();
    const bool equal = std::memcmp(all + own, all + known.at, record.payload.size()) == 0;
    streams[kMessages].resize(own);
    if (equal) return true;
  }
  column |= 1;
  return false;
}

void BlockEncoder::Work::add_peer(std::size_t i, const StoredRow& row, std::uint32_t own_node,
                                  BlockNames& names) {
  const auto& peer = row.record.peer;
  const bool named = peer.kind == Peer::Kind::name || peer.kind == Peer::Kind::remote_name;
  if (!peer.node.empty()) {
    const auto node = node_index(peer.node, peer.creation, names);
    rest[kPeerNode][i] = node == own_node && !named ? 0 : node + 1;
  }
  switch (peer.kind) {
    case Peer::Kind::pid:
    case Peer::Kind::port:
      rest[kPeerId][i] = peer.id;
      rest[kPeerSerial][i] = peer.serial;
      break;
    case Peer::Kind::name:
    case Peer::Kind::remote_name:
      rest[kPeerId][i] = names.atom(peer.name);
      break;
    case Peer::Kind::alias: {
      rest[kPeerId][i] = alias_count++;
      const auto count = std::min(peer.alias.count, 5U);
      aliases.u8(count);
      for (std::uint32_t k = 0; k < count; ++k) aliases.u32(peer.alias.ids[k]);
      break;
    }
    case Peer::Kind::none:
      break;
  }
}

// Rows and payloads lie where they arrived, so each is one more wait for memory unless it is asked for ahead.
void BlockEncoder::Work::prefetch(std::size_t at) const {
  constexpr std::size_t kRowsAhead = 8, kPayloadsAhead = 4, kLine = 64, kMostLines = 4;
  const auto lines = [](const void* from, std::size_t size) {
    for (std::size_t i = 0; i < size && i < kMostLines * kLine; i += kLine)
      __builtin_prefetch(static_cast<const std::byte*>(from) + i);
  };
  if (at + kRowsAhead < sorted.size()) lines(sorted[at + kRowsAhead].row, sizeof(StoredRow));
  if (at + kPayloadsAhead < sorted.size()) {
    const Bytes payload = sorted[at + kPayloadsAhead].row->record.payload;
    lines(payload.data(), payload.size());
  }
}

// Everything of a row at once, while it is in the cache.
FrameEntry BlockEncoder::Work::encode_frame(std::size_t begin, std::size_t end, BlockNames& names,
                                            BlockIndexBuilder& index) {
  FrameEntry frame;
  frame.state_at = static_cast<std::uint32_t>(streams[kStates].size());
  frame.other_at = static_cast<std::uint32_t>(streams[kOthers].size());
  frame.first_message = static_cast<std::uint32_t>(messages.size());
  const std::size_t n = end - begin;

  for (auto& c : kinds) c.assign(n, 0);
  for (auto& c : rest) c.assign(n, 0);
  rest[kMessage].clear();
  aliases.clear();
  times.clear();
  alias_count = 0;
  last_message = UINT32_MAX;
  std::int64_t base = 0;
  std::size_t incarnation = 0;
  for (std::size_t i = 0; i < n; ++i) {
    prefetch(begin + i);
    const auto& row = *sorted[begin + i].row;
    const auto& r = row.record;
    const bool continues = i > 0 && sorted[begin + i - 1].row->process == row.process;
    if (!continues) {
      while (incarnations[incarnation].number != row.process.incarnation) ++incarnation;
      base = incarnations[incarnation].oldest;
    }
    times.varint(static_cast<std::uint64_t>(r.time.ns) - static_cast<std::uint64_t>(base));
    base = r.time.ns;

    kinds[kType][i] = static_cast<std::uint32_t>(r.type);
    kinds[kFlags][i] = r.flags;
    const auto mfa = names.mfa(r.mfa);
    kinds[kMfa][i] = mfa;
    kinds[kOrdinal][i] = r.ordinal;

    const bool repeats = r.has(TraceRecord::kHashed) && add_message(r, names);
    const bool in_message = r.has(TraceRecord::kHashed) && rest[kMessage].back() % 2 == 0;
    if (!in_message) {
      rest[kPayload][i] = static_cast<std::uint32_t>(r.payload.size());
      add_payload(r, r.type == codec::EventType::state_change ? kStates : kOthers, names);
    }
    rest[kOriginal][i] = r.original_bytes;
    rest[kPeerKind][i] = static_cast<std::uint32_t>(r.peer.kind);
    if (r.peer.kind != Peer::Kind::none) add_peer(i, row, incarnations[incarnation].node, names);
    const auto ids = index.add(row, mfa, repeats);
    add_traces(begin + i, ids, in_message ? &messages[last_message] : nullptr);
  }

  raw.clear();
  for (const auto& c : kinds) put_column(raw, c);
  frame.kinds = add_piece(raw.bytes(), true);
  frame.times = add_piece(times.bytes(), false);
  raw.clear();
  for (const auto& c : rest) put_column(raw, c);
  raw.raw(aliases.bytes());
  frame.rest = add_piece(raw.bytes(), true);
  return frame;
}

// `keys`: those of the row's payload; of a message that was met before, none: it is known what it holds.
void BlockEncoder::Work::add_traces(std::size_t at, std::span<const std::uint64_t> keys,
                                    Message* message) {
  const auto row = static_cast<std::uint32_t>(at);
  const auto before = trace_rows.size();
  for (const auto key : keys) trace_rows.push_back({trace_print(key), row});
  if (message != nullptr) {
    for (auto i = message->traces; i < message->traces_end; ++i)
      trace_rows.push_back({trace_rows[i].print, row});
    if (!keys.empty()) {
      message->traces = before;
      message->traces_end = trace_rows.size();
    }
  }
  if (trace_rows.size() <= kMostTraceRows * sorted.size()) return;
  trace_rows_known = false;
  trace_rows.clear();
  for (auto& m : messages) m.traces = m.traces_end = 0;
}

Piece BlockEncoder::Work::add_trace_table() {
  if (trace_rows.empty()) return {};
  std::vector<std::uint32_t> columns[kTraceColumns];
  for (auto& c : columns) c.reserve(trace_rows.size());
  std::uint32_t before = 0;
  for (const auto& t : trace_rows) {
    columns[kPrint].push_back(t.print);
    columns[kRow].push_back(t.row - std::exchange(before, t.row));
  }
  raw.clear();
  for (const auto& c : columns) put_column(raw, c);
  return add_piece(raw.bytes(), true);
}

Piece BlockEncoder::Work::add_message_table() {
  if (messages.empty()) return {static_cast<std::uint32_t>(body.size()), 0, 0, hash_of({})};
  std::vector<std::uint64_t> columns[kMessageColumns];
  for (auto& c : columns) c.reserve(messages.size());
  for (const auto& m : messages) {
    columns[kHash].push_back(m.first->match_hash);
    columns[kBytes].push_back(m.first->payload.size());
  }
  raw.clear();
  for (const auto& c : columns) put_column(raw, c);
  return add_piece(raw.bytes(), true);
}

BlockEncoder::BlockEncoder() : work_(std::make_unique<Work>()) {}
BlockEncoder::~BlockEncoder() = default;

EncodedBlock BlockEncoder::encode(std::span<const StoredRow* const> rows, Lsn first, Lsn last,
                                  BlockNames& names) {
  SCOPE_CHECK(!rows.empty() && rows.size() <= kMaxBlockRows);
  auto& w = *work_;
  w.nodes.clear();
  w.node_numbers.clear();
  w.body.clear();
  for (auto& s : w.streams) s.clear();
  w.messages.clear();
  w.message_places.clear();
  w.trace_rows.clear();
  w.trace_rows_known = true;
  w.atoms.clear();
  w.local_atoms = false;
  w.sort_rows(rows);
  w.list_incarnations(names);

  Header header;
  header.first = first;
  header.last = last;
  header.rows = static_cast<std::uint32_t>(rows.size());
  for (const auto* row : rows) header.types |= 1U << static_cast<unsigned>(row->record.type);
  std::uint32_t most_id = 0, most_serial = 0;
  for (const auto& p : w.processes) {
    most_id = std::max(most_id, p.id.id);
    most_serial = std::max(most_serial, p.id.serial);
  }
  header.id_width = static_cast<std::uint8_t>(width_for(most_id));
  header.serial_width = static_cast<std::uint8_t>(width_for(most_serial));
  header.row_width = static_cast<std::uint8_t>(width_for(rows.size()));
  header.processes = static_cast<std::uint32_t>(w.processes.size());

  std::vector<FrameEntry> frames;
  BlockIndexBuilder index([&](std::string_view text) { return names.atom(text); });
  for (std::size_t at = 0; at < rows.size(); at += kFrameRows)
    frames.push_back(w.encode_frame(at, std::min(at + kFrameRows, rows.size()), names, index));
  header.messages = static_cast<std::uint32_t>(w.messages.size());
  header.message_table = w.add_message_table();
  header.trace_rows =
      w.trace_rows_known ? static_cast<std::uint32_t>(w.trace_rows.size()) : kTraceRowsUnknown;
  header.trace_table = w.add_trace_table();
  std::vector<Piece> chunks;
  std::uint32_t counts[kStreams], bytes[kStreams];
  for (unsigned k = 0; k < kStreams; ++k) {
    const Bytes stream = w.streams[k];
    const auto before = chunks.size();
    for (std::size_t at = 0; at < stream.size(); at += kChunkBytes)
      chunks.push_back(
          w.add_piece(stream.subspan(at, std::min(kChunkBytes, stream.size() - at)), true));
    counts[k] = static_cast<std::uint32_t>(chunks.size() - before);
    bytes[k] = static_cast<std::uint32_t>(stream.size());
  }
  header.state_chunks = counts[kStates];
  header.state_bytes = bytes[kStates];
  header.other_chunks = counts[kOthers];
  header.other_bytes = bytes[kOthers];
  header.message_chunks = counts[kMessages];
  header.message_bytes = bytes[kMessages];
  header.frames = static_cast<std::uint32_t>(frames.size());
  header.incarnations = static_cast<std::uint32_t>(w.incarnations.size());
  header.nodes = static_cast<std::uint32_t>(w.nodes.size());

  const std::size_t directory =
      w.processes.size() * (header.id_width + header.serial_width + header.row_width + 1U);
  header.head_end = static_cast<std::uint32_t>(
      sizeof(Header) + w.incarnations.size() * sizeof(IncarnationEntry) +
      w.nodes.size() * sizeof(NodeEntry) + directory + frames.size() * sizeof(FrameEntry) +
      chunks.size() * sizeof(Piece));
  header.end = header.head_end + static_cast<std::uint32_t>(w.body.size());

  header.message_table.offset += header.head_end;
  header.trace_table.offset += header.head_end;

  EncodedBlock out;
  ByteWriter head;
  head.vector().reserve(header.end);
  head.fixed(header);
  for (const auto& entry : w.incarnations) head.fixed(entry);
  for (const auto& entry : w.nodes) head.fixed(entry);
  const auto put = [&head](std::uint32_t value, unsigned width) {
    for (unsigned i = 0; i < width; ++i) head.u8(value >> (8 * i) & 0xFF);
  };
  for (const auto& p : w.processes) put(p.id.id, header.id_width);
  for (const auto& p : w.processes) put(p.id.serial, header.serial_width);
  for (const auto& p : w.processes) put(p.first_row, header.row_width);
  for (const auto& p : w.processes) put(p.classes, 1);
  for (auto frame : frames) {
    for (auto* piece : {&frame.kinds, &frame.times, &frame.rest}) piece->offset += header.head_end;
    head.fixed(frame);
  }
  for (auto chunk : chunks) {
    chunk.offset += header.head_end;
    head.fixed(chunk);
  }
  header.flags = w.local_atoms ? kLocalAtoms : 0;
  header.head_xxh3 =
      XXH3_64bits_withSeed(head.data() + kHashFrom, head.size() - kHashFrom, header.flags);
  put_at(head.vector(), 0, header);
  head.raw(w.body.bytes());
  out.bytes = std::move(head.vector());

  out.unit.first = first;
  out.unit.last = last;
  out.unit.rows = header.rows;
  out.unit.types = header.types;
  for (const auto& i : w.incarnations)
    out.ranges.push_back({i.number, {i.oldest}, {i.newest}, i.rows});
  out.index = index.finish();
  return out;
}

}  // namespace scope::store
