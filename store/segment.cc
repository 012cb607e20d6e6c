#include "store/segment.h"

#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <bit>
#include <map>

#include "store/block.h"
#include "store/bytes.h"

namespace scope::store {
namespace {

constexpr unsigned kVersion = 1;
constexpr std::size_t kHashFrom = 9, kBodyFrom = 17;
constexpr std::size_t kPieceTrigrams = std::size_t{kTextCodes} * kTextCodes;
constexpr std::size_t kMostEdgeBytes = kMostSegmentEdges * 100;
constexpr unsigned kBlockBits = 6, kPrintBits = 10;

using Blocks = std::span<const std::shared_ptr<const BlockIndex>>;

std::unexpected<Error> damaged() { return fail(Code::corrupt, "an index of a segment is damaged"); }

std::uint64_t zigzag(std::int64_t v) {
  return static_cast<std::uint64_t>(v) << 1 ^ static_cast<std::uint64_t>(v >> 63);
}
std::int64_t unzigzag(std::uint64_t v) {
  return static_cast<std::int64_t>(v >> 1 ^ (~(v & 1) + 1));
}
unsigned width_for(std::uint64_t most) {
  return most == 0 ? 0 : most < 1U << 8 ? 1 : most < 1U << 16 ? 2 : 4;
}
void put(ByteWriter& out, std::uint32_t value, unsigned width) {
  for (unsigned i = 0; i < width; ++i) out.u8(value >> (8 * i) & 0xFF);
}
std::uint32_t get(const std::byte* at, std::size_t i, unsigned width) {
  std::uint32_t value = 0;
  std::memcpy(&value, at + i * width, width);
  return value;
}

void add_zstd(ByteWriter& out, Bytes raw) {
  const auto at = out.size();
  out.vector().resize(at + ZSTD_compressBound(raw.size()));
  const auto size = ZSTD_compress(out.data() + at, out.size() - at, raw.data(), raw.size(), 1);
  SCOPE_CHECK(!ZSTD_isError(size));
  out.vector().resize(at + size);
}

void encode_processes(ByteWriter& out, Blocks blocks) {
  struct Entry {
    ProcessId id;
    std::uint8_t slot, classes;
  };
  std::vector<Entry> all;
  for (std::size_t slot = 0; slot < blocks.size(); ++slot) {
    for (const auto& p : blocks[slot]->processes)
      all.push_back({p.id, static_cast<std::uint8_t>(slot), p.classes});
  }
  std::ranges::sort(all, {}, &Entry::id);
  std::map<std::vector<std::byte>, std::uint32_t> numbers;
  std::vector<std::uint32_t> starts;
  ByteWriter sets, one;
  struct Process {
    ProcessId id;
    std::uint32_t set;
  };
  std::vector<Process> processes;
  std::uint32_t most_serial = 0;
  for (std::size_t i = 0, j = 0; i < all.size(); i = j) {
    std::array<std::uint64_t, 8> of{};
    unsigned classes = 0;
    for (j = i; j < all.size() && all[j].id == all[i].id; ++j) {
      classes |= all[j].classes;
      for (unsigned c = 0; c < 8; ++c) {
        if ((all[j].classes >> c & 1) != 0) of[c] |= 1ULL << all[j].slot;
      }
    }
    one.clear();
    one.u8(classes);
    for (unsigned c = 0; c < 8; ++c) {
      if (of[c] != 0) one.u64(of[c]);
    }
    const auto [it, fresh] =
        numbers.try_emplace(one.vector(), static_cast<std::uint32_t>(starts.size()));
    if (fresh) {
      starts.push_back(static_cast<std::uint32_t>(sets.size()));
      sets.raw(one.bytes());
    }
    processes.push_back({all[i].id, it->second});
    most_serial = std::max(most_serial, all[i].id.serial);
  }
  std::vector<std::pair<Incarnation, std::uint32_t>> incarnations;
  for (std::uint32_t i = 0; i < processes.size(); ++i) {
    if (incarnations.empty() || incarnations.back().first != processes[i].id.incarnation)
      incarnations.emplace_back(processes[i].id.incarnation, i);
  }
  const unsigned serial_width = width_for(most_serial), set_width = width_for(starts.size());
  out.u32(static_cast<std::uint32_t>(incarnations.size()));
  out.u32(static_cast<std::uint32_t>(processes.size()));
  out.u32(static_cast<std::uint32_t>(starts.size()));
  out.u32(static_cast<std::uint32_t>(sets.size()));
  out.u8(serial_width);
  out.u8(set_width);
  for (const auto& [number, first] : incarnations) {
    out.u32(number);
    out.u32(first);
  }
  for (const auto& p : processes) out.u32(p.id.id);
  for (const auto& p : processes) put(out, p.id.serial, serial_width);
  for (const auto& p : processes) put(out, p.set, set_width);
  for (const auto at : starts) out.u32(at);
  out.raw(sets.bytes());
}

void encode_mfas(ByteWriter& out, Blocks blocks) {
  std::map<NameId, std::uint64_t> mfas;
  for (std::size_t slot = 0; slot < blocks.size(); ++slot) {
    for (const auto id : blocks[slot]->mfas) mfas[id] |= 1ULL << slot;
  }
  out.u32(static_cast<std::uint32_t>(mfas.size()));
  for (const auto& [id, bits] : mfas) out.u32(id);
  for (const auto& [id, bits] : mfas) out.u64(bits);
}

void encode_hashes(ByteWriter& out, Blocks blocks,
                   std::vector<std::uint64_t> BlockIndex::* hashes) {
  std::size_t count = 0;
  for (const auto& b : blocks) count += ((*b).*hashes).size();
  const auto log2 = static_cast<unsigned>(std::bit_width(count / 16 + 1));
  const auto bucket = [log2](std::uint64_t hash) {
    return static_cast<std::size_t>(hash >> (64 - log2));
  };
  std::vector<std::uint32_t> starts((std::size_t{1} << log2) + 1);
  for (const auto& b : blocks) {
    for (const auto hash : (*b).*hashes) ++starts[bucket(hash) + 1];
  }
  for (std::size_t i = 1; i < starts.size(); ++i) starts[i] += starts[i - 1];
  auto next = starts;
  std::vector<std::uint16_t> entries(count);
  for (std::size_t slot = 0; slot < blocks.size(); ++slot) {
    for (const auto hash : (*blocks[slot]).*hashes)
      entries[next[bucket(hash)]++] =
          static_cast<std::uint16_t>((hash & ((1U << kPrintBits) - 1)) << kBlockBits | slot);
  }
  out.u8(log2);
  for (const auto at : starts) out.u32(at);
  for (const auto e : entries) out.fixed(e);
}

void encode_text(ByteWriter& out, Blocks blocks) {
  std::vector<std::uint64_t> piece(kPieceTrigrams);
  ByteWriter pieces;
  for (unsigned first = 0; first < kTextCodes; ++first) {
    std::ranges::fill(piece, 0);
    const auto before = pieces.size();
    for (std::size_t slot = 0; first != 0 && slot < blocks.size(); ++slot) {
      const auto& text = blocks[slot]->text;
      const auto base = first * kPieceTrigrams;
      for (std::size_t word = base / 64; word <= (base + kPieceTrigrams - 1) / 64; ++word) {
        for (auto bits = text[word]; bits != 0; bits &= bits - 1) {
          const auto t = word * 64 + static_cast<unsigned>(std::countr_zero(bits));
          if (t < base || t >= base + kPieceTrigrams) continue;
          const auto rest = t - base;
          if (rest / kTextCodes != 0 && rest % kTextCodes != 0) piece[rest] |= 1ULL << slot;
        }
      }
    }
    if (first != 0) add_zstd(pieces, std::as_bytes(std::span(piece)));
    out.u32(static_cast<std::uint32_t>(pieces.size() - before));
  }
  out.raw(pieces.bytes());
}

void encode_cells(ByteWriter& out, Blocks blocks) {
  std::vector<BlockIndex::Cell> all;
  for (const auto& b : blocks) all.insert(all.end(), b->cells.begin(), b->cells.end());
  std::ranges::sort(all, {}, &BlockIndex::Cell::key);
  ByteWriter cells;
  for (std::size_t i = 0, j = 0; i < all.size(); i = j) {
    cells.clear();
    std::uint64_t count = 0, rows = 0;
    std::int64_t before = all[i].second;
    for (j = i; j < all.size() && all[j].incarnation == all[i].incarnation &&
                all[j].type == all[i].type && all[j].mfa == all[i].mfa;) {
      std::uint64_t here = 0;
      const auto second = all[j].second;
      for (; j < all.size() && all[j].incarnation == all[i].incarnation &&
             all[j].type == all[i].type && all[j].mfa == all[i].mfa && all[j].second == second;
           ++j)
        here += all[j].rows;
      cells.varint(static_cast<std::uint64_t>(second) - static_cast<std::uint64_t>(before));
      cells.varint(here);
      before = second;
      rows += here;
      ++count;
    }
    out.varint(all[i].incarnation);
    out.u8(static_cast<unsigned>(all[i].type));
    out.varint(all[i].mfa);
    out.varint(rows);
    out.varint(zigzag(all[i].second));
    out.varint(static_cast<std::uint64_t>(before) - static_cast<std::uint64_t>(all[i].second));
    out.varint(count);
    out.varint(cells.size());
    out.raw(cells.bytes());
  }
}

// Answers which blocks it covers: all or none.
std::uint64_t encode_edges(ByteWriter& out, Blocks blocks) {
  std::vector<BlockIndex::Edge> all;
  for (const auto& b : blocks) {
    if (!b->edges_kept) return 0;
    all.insert(all.end(), b->edges.begin(), b->edges.end());
  }
  std::ranges::sort(all, {}, &BlockIndex::Edge::key);
  ByteWriter raw;
  std::size_t count = 0;
  for (std::size_t i = 0, j = 0; i < all.size(); i = j) {
    auto edge = all[i];
    for (j = i + 1; j < all.size() && all[j].key() == edge.key(); ++j) {
      edge.rows += all[j].rows;
      edge.oldest = std::min(edge.oldest, all[j].oldest);
      edge.newest = std::max(edge.newest, all[j].newest);
    }
    if (++count > kMostSegmentEdges) return 0;
    raw.varint(edge.sender.incarnation);
    raw.varint(edge.sender.id);
    raw.varint(edge.sender.serial);
    raw.u8(static_cast<unsigned>(edge.kind));
    raw.varint(edge.node);
    raw.varint(edge.name);
    raw.varint(edge.creation);
    raw.varint(edge.id);
    raw.varint(edge.serial);
    raw.i64(edge.oldest.ns);
    raw.varint(static_cast<std::uint64_t>(edge.newest.ns) -
               static_cast<std::uint64_t>(edge.oldest.ns));
    raw.varint(edge.rows);
  }
  add_zstd(out, raw.bytes());
  return ~0ULL;
}

}  // namespace

std::vector<std::byte> encode_segment(char kind, Blocks blocks) {
  SCOPE_CHECK(!blocks.empty() && blocks.size() <= kSegmentBlocks);
  ByteWriter out;
  out.u8(kVersion);
  out.u64(0);
  out.u64(0);
  auto covered = ~0ULL >> (kSegmentBlocks - blocks.size());
  switch (kind) {
    case 'p':
      encode_processes(out, blocks);
      break;
    case 'm':
      encode_mfas(out, blocks);
      break;
    case 'h':
      encode_hashes(out, blocks, &BlockIndex::hashes);
      break;
    case 'i':
      encode_hashes(out, blocks, &BlockIndex::traces);
      break;
    case 't':
      encode_text(out, blocks);
      break;
    case 'r':
      encode_cells(out, blocks);
      break;
    default:
      covered &= encode_edges(out, blocks);
  }
  std::memcpy(out.data() + kHashFrom, &covered, sizeof covered);
  const std::uint64_t hash = XXH3_64bits(out.data() + kHashFrom, out.size() - kHashFrom);
  std::memcpy(out.data() + 1, &hash, sizeof hash);
  return std::move(out.vector());
}

Result<SegmentValue> SegmentValue::open(Bytes value, bool checked) {
  if (value.size() < kBodyFrom || std::to_integer<unsigned>(value[0]) != kVersion) return damaged();
  if (!checked && XXH3_64bits(value.data() + kHashFrom, value.size() - kHashFrom) !=
                      load<std::uint64_t>(value.data() + 1))
    return damaged();
  return SegmentValue{load<std::uint64_t>(value.data() + kHashFrom), value.subspan(kBodyFrom)};
}

namespace {

// The body of 'p', its lengths checked.
struct ProcessTable {
  std::size_t incarnations = 0, processes = 0, sets = 0;
  unsigned serial_width = 0, set_width = 0;
  const std::byte *whose = nullptr, *ids = nullptr, *serials = nullptr, *numbers = nullptr,
                  *starts = nullptr;
  Bytes all_sets;

  static Result<ProcessTable> open(Bytes body) {
    ByteReader in(body);
    ProcessTable t;
    t.incarnations = in.u32();
    t.processes = in.u32();
    t.sets = in.u32();
    const std::size_t set_bytes = in.u32();
    t.serial_width = in.u8();
    t.set_width = in.u8();
    if (!in.ok() || t.serial_width > 4 || t.set_width > 4 ||
        in.left() != t.incarnations * 8 + t.processes * (4 + t.serial_width + t.set_width) +
                         t.sets * 4 + set_bytes)
      return damaged();
    t.whose = in.raw(t.incarnations * 8).data();
    t.ids = in.raw(t.processes * 4).data();
    t.serials = in.raw(t.processes * t.serial_width).data();
    t.numbers = in.raw(t.processes * t.set_width).data();
    t.starts = in.raw(t.sets * 4).data();
    t.all_sets = in.rest();
    return t;
  }
  Incarnation incarnation(std::size_t i) const { return get(whose, i * 2, 4); }
  // The places of its processes; false: damaged.
  bool range(std::size_t i, std::size_t& begin, std::size_t& end) const {
    begin = get(whose, i * 2 + 1, 4);
    end = i + 1 < incarnations ? get(whose, i * 2 + 3, 4) : processes;
    return begin <= end && end <= processes;
  }
  std::pair<std::uint32_t, std::uint32_t> process(std::size_t at) const {
    return {get(ids, at, 4), get(serials, at, serial_width)};
  }
  // The blocks that hold events of one of the classes.
  Result<std::uint64_t> blocks(std::size_t at, unsigned classes) const {
    const auto set = get(numbers, at, set_width);
    if (set >= sets || get(starts, set, 4) > all_sets.size()) return damaged();
    ByteReader one(all_sets.subspan(get(starts, set, 4)));
    const auto has = one.u8();
    std::uint64_t out = 0;
    for (unsigned c = 0; c < 8; ++c) {
      if ((has >> c & 1) == 0) continue;
      const auto bits = one.u64();
      if ((classes >> c & 1) != 0) out |= bits;
    }
    if (!one.ok()) return damaged();
    return out;
  }
};

}  // namespace

Result<std::uint64_t> blocks_of_processes(const SegmentValue& value, const RowFilter& filter) {
  ASSIGN_OR_RETURN(const auto table, ProcessTable::open(value.body));
  const auto classes = classes_of(filter.types);
  std::uint64_t out = 0;
  for (std::size_t i = 0; i < table.incarnations; ++i) {
    std::size_t begin = 0, end = 0;
    if (!table.range(i, begin, end)) return damaged();
    const auto wanted = std::ranges::equal_range(filter.processes, table.incarnation(i), {},
                                                 &ProcessId::incarnation);
    for (const auto& p : wanted) {
      const auto id = std::pair(p.id, p.serial);
      std::size_t low = begin, high = end;
      while (low < high) {
        const auto middle = (low + high) / 2;
        if (table.process(middle) < id) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      if (low == end || table.process(low) != id) continue;
      ASSIGN_OR_RETURN(const auto blocks, table.blocks(low, classes));
      out |= blocks;
    }
  }
  return out;
}

Status visit_states(const SegmentValue& value, const StateVisitor& visitor) {
  ASSIGN_OR_RETURN(const auto table, ProcessTable::open(value.body));
  const auto classes = class_of(codec::EventType::state_change);
  for (std::size_t i = 0; i < table.incarnations; ++i) {
    std::size_t begin = 0, end = 0;
    if (!table.range(i, begin, end)) return damaged();
    for (auto at = begin; at < end; ++at) {
      ASSIGN_OR_RETURN(const auto blocks, table.blocks(at, classes));
      const auto [id, serial] = table.process(at);
      visitor({table.incarnation(i), id, serial}, blocks);
    }
  }
  return {};
}

Result<std::uint64_t> blocks_of_mfas(const SegmentValue& value, std::span<const NameId> ascending) {
  ByteReader in(value.body);
  const std::size_t n = in.u32();
  if (!in.ok() || in.left() != n * 12) return damaged();
  const auto* ids = in.raw(n * 4).data();
  const auto* blocks = in.raw(n * 8).data();
  std::uint64_t out = 0;
  for (const auto id : ascending) {
    std::size_t low = 0, high = n;
    while (low < high) {
      const auto middle = (low + high) / 2;
      if (get(ids, middle, 4) < id) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    if (low < n && get(ids, low, 4) == id) out |= load<std::uint64_t>(blocks + low * 8);
  }
  return out;
}

Result<std::uint64_t> blocks_of_hashes(const SegmentValue& value,
                                       std::span<const std::uint64_t> hashes) {
  ByteReader in(value.body);
  const unsigned log2 = in.u8();
  if (!in.ok() || log2 < 1 || log2 > 30) return damaged();
  const auto buckets = std::size_t{1} << log2;
  const auto starts = in.raw((buckets + 1) * 4);
  const auto entries = in.rest();
  if (!in.ok() || get(starts.data(), buckets, 4) * std::uint64_t{2} != entries.size())
    return damaged();
  std::uint64_t out = 0;
  for (const auto hash : hashes) {
    const auto bucket = static_cast<std::size_t>(hash >> (64 - log2));
    const std::size_t begin = get(starts.data(), bucket, 4),
                      end = get(starts.data(), bucket + 1, 4);
    if (begin > end || end * 2 > entries.size()) return damaged();
    for (auto i = begin; i < end; ++i) {
      const auto e = load<std::uint16_t>(entries.data() + i * 2);
      if (e >> kBlockBits == (hash & ((1U << kPrintBits) - 1)))
        out |= 1ULL << (e & (kSegmentBlocks - 1));
    }
  }
  return out;
}

Result<std::uint64_t> blocks_of_texts(const SegmentValue& value,
                                      std::span<const std::uint32_t> trigrams) {
  ByteReader in(value.body);
  const auto sizes = in.raw(std::size_t{kTextCodes} * 4);
  if (!in.ok()) return damaged();
  std::uint64_t out = ~0ULL;
  std::vector<std::uint64_t> piece(kPieceTrigrams);
  std::size_t i = 0;
  for (unsigned first = 0; first < kTextCodes && i < trigrams.size(); ++first) {
    const auto packed = in.raw(get(sizes.data(), first, 4));
    if (!in.ok()) return damaged();
    if (trigrams[i] / kPieceTrigrams != first) continue;
    const auto size =
        ZSTD_decompress(piece.data(), kPieceTrigrams * 8, packed.data(), packed.size());
    if (ZSTD_isError(size) || size != kPieceTrigrams * 8) return damaged();
    for (; i < trigrams.size() && trigrams[i] / kPieceTrigrams == first; ++i)
      out &= piece[trigrams[i] % kPieceTrigrams];
  }
  return out;
}

Status visit_cells(const SegmentValue& value, const std::function<bool(const CellRun&)>& wanted,
                   const std::function<Status(const BlockIndex::Cell&)>& sink) {
  ByteReader in(value.body);
  while (in.left() > 0) {
    CellRun run;
    auto& cell = run.total;
    cell.incarnation = static_cast<Incarnation>(in.varint());
    cell.type = static_cast<codec::EventType>(in.u8());
    cell.mfa = static_cast<NameId>(in.varint());
    cell.rows = static_cast<std::uint32_t>(in.varint());
    cell.second = unzigzag(in.varint());
    run.last_second =
        static_cast<std::int64_t>(static_cast<std::uint64_t>(cell.second) + in.varint());
    const auto count = in.varint();
    ByteReader cells(in.raw(in.varint()));
    if (!in.ok()) return damaged();
    if (!wanted(run)) continue;
    for (std::uint64_t i = 0; i < count; ++i) {
      cell.second =
          static_cast<std::int64_t>(static_cast<std::uint64_t>(cell.second) + cells.varint());
      cell.rows = static_cast<std::uint32_t>(cells.varint());
      if (!cells.ok()) return damaged();
      RETURN_IF_ERROR(sink(cell));
    }
  }
  return {};
}

Status visit_edges(const SegmentValue& value, std::span<const ProcessId> senders,
                   const std::function<Status(const BlockIndex::Edge&)>& sink) {
  std::vector<std::byte> raw(kMostEdgeBytes);
  const auto size = ZSTD_decompress(raw.data(), raw.size(), value.body.data(), value.body.size());
  if (ZSTD_isError(size)) return damaged();
  ByteReader in(Bytes(raw).first(size));
  while (in.left() > 0) {
    BlockIndex::Edge e;
    e.sender.incarnation = static_cast<Incarnation>(in.varint());
    e.sender.id = static_cast<std::uint32_t>(in.varint());
    e.sender.serial = static_cast<std::uint32_t>(in.varint());
    const auto kind = in.u8();
    e.node = static_cast<NameId>(in.varint());
    e.name = static_cast<NameId>(in.varint());
    e.creation = static_cast<std::uint32_t>(in.varint());
    e.id = static_cast<std::uint32_t>(in.varint());
    e.serial = static_cast<std::uint32_t>(in.varint());
    e.oldest = {in.i64()};
    e.newest = {static_cast<std::int64_t>(static_cast<std::uint64_t>(e.oldest.ns) + in.varint())};
    e.rows = static_cast<std::uint32_t>(in.varint());
    if (!in.ok() || kind > static_cast<unsigned>(codec::Peer::Kind::port)) return damaged();
    e.kind = static_cast<codec::Peer::Kind>(kind);
    if (senders.empty() || std::ranges::binary_search(senders, e.sender)) RETURN_IF_ERROR(sink(e));
  }
  return {};
}

}  // namespace scope::store
