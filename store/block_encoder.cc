#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <boost/unordered/unordered_flat_map.hpp>
#include <numeric>

#include "ei_codec/local_atoms.h"
#include "store/block.h"
#include "store/block_format.h"

namespace scope::store {
namespace {

using namespace block_format;
using codec::Peer;
using codec::TraceRecord;

void put_column(ByteWriter& out, std::span<const std::uint64_t> values) {
  std::uint64_t all = 0;
  for (const auto v : values) all |= v;
  unsigned width = 0;
  for (; all != 0; all >>= 8) ++width;
  out.u8(width);
  const auto at = out.size();
  out.vector().resize(at + width * values.size());
  auto* to = out.data() + at;
  for (unsigned plane = 0; plane < width; ++plane)
    for (const auto v : values) *to++ = static_cast<std::byte>(v >> (8 * plane));
}

template <typename T>
void put_at(std::vector<std::byte>& bytes, std::size_t at, const T& value) {
  std::memcpy(bytes.data() + at, &value, sizeof(T));
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
  std::vector<const StoredRow*> sorted;
  std::vector<NodeEntry> nodes;
  boost::unordered_flat_map<std::pair<const char*, std::uint32_t>, std::uint32_t> node_numbers;
  std::vector<IncarnationEntry> incarnations;
  std::vector<std::uint64_t> columns[kRestColumns];
  ByteWriter raw, body;
  std::vector<std::byte> streams[2], packed;  // states, other payloads
  // The numbers that the batches of these rows have for their atoms, as this partition's.
  boost::unordered_flat_map<std::pair<const codec::StringTable*, std::uint32_t>, NameId> atoms;
  bool local_atoms = false;

  void sort_rows(std::span<const StoredRow* const> rows);
  std::uint32_t node_index(std::string_view node, std::uint32_t creation, BlockNames& names);
  void list_incarnations(BlockNames& names);
  void add_payload(const TraceRecord& record, BlockNames& names);
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
  for (std::size_t i = 0; i < rows.size(); ++i) sorted[next[process_of[i]]++] = rows[i];
  const auto before = [](const StoredRow* a, const StoredRow* b) {
    return std::tie(a->record.time, a->record.ordinal) <
           std::tie(b->record.time, b->record.ordinal);
  };
  for (const auto& p : processes) {
    const auto begin = sorted.begin() + p.first_row, end = begin + p.rows;
    if (!std::is_sorted(begin, end, before)) std::sort(begin, end, before);
  }
  std::ranges::sort(processes, {}, &Process::id);
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
      const auto time = sorted[p.first_row]->record.time.ns;
      incarnations.push_back(
          {p.id.incarnation, i, 0, node_index(info.node, info.creation, names), time, time});
    }
    auto& entry = incarnations.back();
    entry.rows += p.rows;
    entry.oldest = std::min(entry.oldest, sorted[p.first_row]->record.time.ns);
    entry.newest = std::max(entry.newest, sorted[p.first_row + p.rows - 1]->record.time.ns);
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
  piece.xxh3 = static_cast<std::uint32_t>(XXH3_64bits(bytes.data(), bytes.size()));
  body.raw(bytes);
  return piece;
}

void BlockEncoder::Work::add_payload(const TraceRecord& record, BlockNames& names) {
  auto& stream = streams[record.type == codec::EventType::state_change ? 0 : 1];
  const auto at = stream.size();
  stream.insert(stream.end(), record.payload.begin(), record.payload.end());
  if (!record.strings || record.payload.empty()) return;
  local_atoms = true;
  codec::renumber_local_atoms(stream.data() + at, [&](std::uint32_t number) {
    const auto [it, fresh] = atoms.try_emplace({record.strings, number}, 0U);
    if (fresh) it->second = names.atom(record.strings->atom(number).value_or(std::string_view{}));
    return it->second;
  });
}

FrameEntry BlockEncoder::Work::encode_frame(std::size_t begin, std::size_t end, BlockNames& names,
                                            BlockIndexBuilder& index) {
  FrameEntry frame;
  frame.state_at = static_cast<std::uint32_t>(streams[0].size());
  frame.other_at = static_cast<std::uint32_t>(streams[1].size());
  const std::size_t n = end - begin;

  for (auto& c : columns) c.assign(n, 0);
  for (std::size_t i = 0; i < n; ++i) {
    const auto& r = sorted[begin + i]->record;
    columns[kType][i] = static_cast<std::uint64_t>(r.type);
    columns[kFlags][i] = r.flags;
    const auto mfa = names.mfa(r.mfa);
    columns[kMfa][i] = mfa;
    index.add(*sorted[begin + i], mfa);  // here, while the row is in the cache
    columns[kOrdinal][i] = r.ordinal;
  }
  raw.clear();
  for (unsigned c = 0; c < kKindColumns; ++c) put_column(raw, columns[c]);
  frame.kinds = add_piece(raw.bytes(), true);

  raw.clear();
  std::int64_t base = 0;
  std::size_t incarnation = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const auto& row = *sorted[begin + i];
    const bool continues = i > 0 && sorted[begin + i - 1]->process == row.process;
    if (continues) {
      base = sorted[begin + i - 1]->record.time.ns;
    } else {
      while (incarnations[incarnation].number != row.process.incarnation) ++incarnation;
      base = incarnations[incarnation].oldest;
    }
    raw.varint(static_cast<std::uint64_t>(row.record.time.ns) - static_cast<std::uint64_t>(base));
  }
  frame.times = add_piece(raw.bytes(), false);

  for (auto& c : columns) c.assign(n, 0);
  columns[kHash].clear();
  ByteWriter aliases;
  std::uint64_t alias_count = 0;
  incarnation = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const auto& row = *sorted[begin + i];
    const auto& r = row.record;
    columns[kPayload][i] = r.payload.size();
    add_payload(r, names);
    columns[kOriginal][i] = r.original_bytes;
    if (r.has(TraceRecord::kHashed)) columns[kHash].push_back(r.match_hash);
    columns[kPeerKind][i] = static_cast<std::uint64_t>(r.peer.kind);
    if (r.peer.kind == Peer::Kind::none) continue;
    while (incarnations[incarnation].number != row.process.incarnation) ++incarnation;
    if (!r.peer.node.empty()) {
      const auto node = node_index(r.peer.node, r.peer.creation, names);
      const bool own = node == incarnations[incarnation].node && r.peer.kind != Peer::Kind::name &&
                       r.peer.kind != Peer::Kind::remote_name;
      columns[kPeerNode][i] = own ? 0 : node + 1;
    }
    switch (r.peer.kind) {
      case Peer::Kind::pid:
      case Peer::Kind::port:
        columns[kPeerId][i] = r.peer.id;
        columns[kPeerSerial][i] = r.peer.serial;
        break;
      case Peer::Kind::name:
      case Peer::Kind::remote_name:
        columns[kPeerId][i] = names.atom(r.peer.name);
        break;
      case Peer::Kind::alias: {
        columns[kPeerId][i] = alias_count++;
        const auto count = std::min(r.peer.alias.count, 5U);
        aliases.u8(count);
        for (std::uint32_t k = 0; k < count; ++k) aliases.u32(r.peer.alias.ids[k]);
        break;
      }
      case Peer::Kind::none:
        break;
    }
  }
  raw.clear();
  for (const auto& c : columns) put_column(raw, c);
  raw.raw(aliases.bytes());
  frame.rest = add_piece(raw.bytes(), true);
  return frame;
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
  w.atoms.clear();
  w.local_atoms = false;
  w.sort_rows(rows);
  w.list_incarnations(names);

  Header header;
  header.first = first;
  header.last = last;
  header.rows = static_cast<std::uint32_t>(rows.size());
  for (const auto* row : rows) header.types |= 1U << static_cast<unsigned>(row->record.type);
  std::uint32_t most_serial = 0;
  for (const auto& p : w.processes) most_serial = std::max(most_serial, p.id.serial);
  header.serial_width = static_cast<std::uint8_t>(width_for(most_serial));
  header.row_width = static_cast<std::uint8_t>(width_for(rows.size()));
  header.processes = static_cast<std::uint32_t>(w.processes.size());

  std::vector<FrameEntry> frames;
  BlockIndexBuilder index([&](std::string_view text) { return names.atom(text); });
  for (std::size_t at = 0; at < rows.size(); at += kFrameRows)
    frames.push_back(w.encode_frame(at, std::min(at + kFrameRows, rows.size()), names, index));
  std::vector<Piece> chunks;
  for (const auto& stream : w.streams) {
    for (std::size_t at = 0; at < stream.size(); at += kChunkBytes)
      chunks.push_back(
          w.add_piece(Bytes(stream).subspan(at, std::min(kChunkBytes, stream.size() - at)), true));
    if (&stream == &w.streams[0]) header.state_chunks = static_cast<std::uint32_t>(chunks.size());
  }
  header.other_chunks = static_cast<std::uint32_t>(chunks.size()) - header.state_chunks;
  header.state_bytes = static_cast<std::uint32_t>(w.streams[0].size());
  header.other_bytes = static_cast<std::uint32_t>(w.streams[1].size());
  header.frames = static_cast<std::uint32_t>(frames.size());
  header.incarnations = static_cast<std::uint32_t>(w.incarnations.size());
  header.nodes = static_cast<std::uint32_t>(w.nodes.size());

  const std::size_t directory =
      w.processes.size() * (4U + header.serial_width + header.row_width + 1U);
  header.head_end = static_cast<std::uint32_t>(
      sizeof(Header) + w.incarnations.size() * sizeof(IncarnationEntry) +
      w.nodes.size() * sizeof(NodeEntry) + directory + frames.size() * sizeof(FrameEntry) +
      chunks.size() * sizeof(Piece));
  header.end = header.head_end + static_cast<std::uint32_t>(w.body.size());

  EncodedBlock out;
  ByteWriter head;
  head.vector().reserve(header.end);
  head.fixed(header);
  for (const auto& entry : w.incarnations) head.fixed(entry);
  for (const auto& entry : w.nodes) head.fixed(entry);
  const auto put = [&head](std::uint32_t value, unsigned width) {
    for (unsigned i = 0; i < width; ++i) head.u8(value >> (8 * i) & 0xFF);
  };
  for (const auto& p : w.processes) put(p.id.id, 4);
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
