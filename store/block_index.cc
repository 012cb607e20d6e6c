#include "store/block_index.h"

#include <algorithm>
#include <boost/unordered/unordered_flat_map.hpp>
#include <boost/unordered/unordered_flat_set.hpp>
#include <numeric>
#include <utility>

#include "ei_codec/term_tags.h"
#include "store/block.h"
#include "store/bytes.h"
#include "store/trace_ids.h"
#include "store/unit_filter.h"

namespace scope::store {
namespace {

using codec::EventType;
using codec::Peer;
using codec::TraceRecord;

// Without branches and tables, so that the compiler makes vectors of it.
constexpr std::uint8_t code_of(std::uint8_t byte) {
  const auto letter = static_cast<std::uint8_t>((byte | 0x20) - 'a');
  const auto digit = static_cast<std::uint8_t>(byte - '0');
  return static_cast<std::uint8_t>((letter < 26 ? 1 + letter : 0) | (digit < 10 ? 27 + digit : 0) |
                                   (byte == '_' ? 37 : 0));
}

class TextBits {
 public:
  // A byte each while they are gathered: a store, where a bit would be a load, an or and a store for every byte.
  TextBits() : seen_((kTrigrams + 63) / 64 * 64) {}

  // A payload of the stream of its kind. Rows come by process and time, so much of it was in the one before (a message
  // that is fetched and then taken, a state and the next one): what both begin and end with is there already.
  void add_next(Bytes bytes, Bytes& before) {
    constexpr std::size_t kReach = 2;  // bytes of a trigram beside the one that differs
    const Bytes last = std::exchange(before, bytes);
    const std::size_t most = std::min(bytes.size(), last.size());
    std::size_t front = 0, back = 0;
    while (front + 8 <= most && same8(bytes.data() + front, last.data() + front)) front += 8;
    if (front + 8 > most && bytes.size() == last.size() &&
        std::equal(bytes.begin() + static_cast<std::ptrdiff_t>(front), bytes.end(),
                   last.begin() + static_cast<std::ptrdiff_t>(front)))
      return;
    while (front + back + 8 <= most &&
           same8(bytes.data() + bytes.size() - back - 8, last.data() + last.size() - back - 8))
      back += 8;
    front -= std::min(front, kReach);
    back -= std::min(back, kReach);
    add(bytes.subspan(front, bytes.size() - front - back));
  }
  // Steps overlap at the end. The bytes are read, and their codes made, once for each place in a trigram: what was just
  // stored byte by byte could not be loaded as a vector without waiting.
  void add(Bytes bytes) {
    if (bytes.size() < 3) return;
    const auto* from = reinterpret_cast<const std::uint8_t*>(bytes.data());
    std::size_t cells = bytes.size() - 2;
    if (cells < kStep) {
      std::uint8_t padded[kStep + 2] = {};
      std::memcpy(padded, from, bytes.size());
      return step(padded, cells);
    }
    for (; cells > kStep; cells -= kStep, from += kStep) step(from, kStep);
    step(from + cells - kStep, kStep);
  }
  static_assert(kTrigrams <= 1U << 16);
  // Atoms that the payload names by number: any place that looks like one counts.
  void add_named(Bytes payload, const codec::StringTable& strings) {
    const auto* at = payload.data();
    const auto* end = at + payload.size();
    while (end - at >= 5) {
      at = static_cast<const std::byte*>(
          std::memchr(at, codec::etf::kLocalAtom, static_cast<std::size_t>(end - at - 4)));
      if (at == nullptr) return;
      std::uint32_t id = 0;
      for (int i = 1; i <= 4; ++i) id = id << 8 | std::to_integer<std::uint32_t>(at[i]);
      if (const auto text = strings.atom(id); text && named_.insert(text->data()).second)
        add(as_bytes(*text));
      ++at;
    }
  }
  std::vector<std::uint64_t> take() const {
    std::vector<std::uint64_t> bits((kTrigrams + 63) / 64);
    for (std::size_t i = 0; i < bits.size() * 8; ++i) {
      std::uint64_t eight =
          0;  // bytes of 0 or 1, whose bits the product moves into its highest byte
      std::memcpy(&eight, seen_.data() + 8 * i, sizeof eight);
      bits[i / 8] |= (eight * 0x0102040810204080ULL >> 56) << 8 * (i % 8);
    }
    return bits;
  }

 private:
  static constexpr std::size_t kStep = 32;
  // REQUIRES kStep + 2 readable bytes
  void step(const std::uint8_t* from, std::size_t count) {
    std::uint16_t cells[kStep];
    for (std::size_t i = 0; i < kStep; ++i)
      cells[i] = static_cast<std::uint16_t>((code_of(from[i]) * kTextCodes + code_of(from[i + 1])) *
                                                kTextCodes +
                                            code_of(from[i + 2]));
    auto* seen = seen_.data();
    for (std::size_t i = 0; i < count; ++i) seen[cells[i]] = 1;
  }
  static bool same8(const std::byte* a, const std::byte* b) {
    return load<std::uint64_t>(a) == load<std::uint64_t>(b);
  }
  std::vector<std::uint8_t> seen_;
  boost::unordered_flat_set<const char*> named_;
};

struct CellKey {
  std::uint64_t whose, when;
  bool operator==(const CellKey&) const = default;
  friend std::size_t hash_value(const CellKey& k) {
    const auto h = (k.whose ^ k.when * 0x9E3779B97F4A7C15ULL) * 0xBF58476D1CE4E5B9ULL;
    return static_cast<std::size_t>(h ^ h >> 32);
  }
};

using CellMap = boost::unordered_flat_map<CellKey, std::uint32_t>;

void take_cells(BlockIndex& out, const CellMap& cells) {
  out.cells.reserve(cells.size());
  for (const auto& [key, count] : cells)
    out.cells.push_back({static_cast<Incarnation>(key.whose >> 32),
                         static_cast<EventType>(key.when & 0xFF),
                         static_cast<NameId>(key.whose & 0xFFFFFFFF),
                         static_cast<std::int64_t>(key.when) >> 8, count});
  std::ranges::sort(out.cells, {}, &BlockIndex::Cell::key);
  for (const auto& cell : out.cells) {
    if (cell.mfa != 0) out.mfas.push_back(cell.mfa);
  }
  std::ranges::sort(out.mfas);
  out.mfas.erase(std::ranges::unique(out.mfas).begin(), out.mfas.end());
  out.mfas.shrink_to_fit();
}

// Ascending. They are random bits, so their first ones tell nearly where each belongs; the rest is a look at neighbours.
void sort_hashes(std::vector<std::uint64_t>& hashes) {
  constexpr unsigned kShift = 64 - 12;
  std::vector<std::uint32_t> next((1U << 12) + 1);
  for (const auto h : hashes) ++next[(h >> kShift) + 1];
  std::partial_sum(next.begin(), next.end(), next.begin());
  std::vector<std::uint64_t> out(hashes.size());
  for (const auto h : hashes) out[next[h >> kShift]++] = h;
  for (std::size_t begin = 0, i = 0; i + 1 < next.size(); begin = next[i++])
    std::sort(out.begin() + static_cast<std::ptrdiff_t>(begin),
              out.begin() + static_cast<std::ptrdiff_t>(next[i]));
  hashes.swap(out);
}

using EdgeKey = decltype(std::declval<BlockIndex::Edge>().key());
struct EdgeHash {
  std::size_t operator()(const EdgeKey& k) const {
    const auto& [sender, kind, node, name, creation, id, serial] = k;
    auto h = (std::uint64_t{node} << 32 | name) + (std::uint64_t{id} << 32 | serial) * 31;
    h = (h ^ h >> 29) * 0x9E3779B97F4A7C15ULL + creation + static_cast<std::uint64_t>(kind);
    return std::hash<ProcessId>()(sender) ^ static_cast<std::size_t>(h ^ h >> 32);
  }
};
using EdgeMap = boost::unordered_flat_map<EdgeKey, std::uint32_t, EdgeHash>;

void add_edge(BlockIndex& out, EdgeMap& places, const StoredRow& row, const AtomNumber& atom) {
  if (!out.edges_kept) return;
  const auto& r = row.record;
  const bool named = r.peer.kind == Peer::Kind::name || r.peer.kind == Peer::Kind::remote_name;
  const BlockIndex::Edge edge{row.process,
                              r.peer.kind,
                              r.peer.node.empty() ? 0 : atom(r.peer.node),
                              named ? atom(r.peer.name) : 0,
                              r.peer.creation,
                              r.peer.id,
                              r.peer.serial,
                              r.time,
                              r.time,
                              1};
  const auto [it, fresh] =
      places.try_emplace(edge.key(), static_cast<std::uint32_t>(out.edges.size()));
  if (!fresh) {
    auto& same = out.edges[it->second];
    ++same.rows;
    same.oldest = std::min(same.oldest, r.time);
    same.newest = std::max(same.newest, r.time);
  } else if (out.edges.size() < kMostEdges) {
    out.edges.push_back(edge);
  } else {
    out.edges_kept = false;
    out.edges = {};
  }
}

}  // namespace

unsigned text_code(unsigned char byte) { return code_of(byte); }

std::vector<std::uint32_t> trigrams_of(std::span<const std::string_view> texts) {
  std::vector<std::uint32_t> out;
  for (const auto text : texts) {
    unsigned a = 0, b = 0;
    for (const char byte : text) {
      const unsigned c = text_code(static_cast<unsigned char>(byte));
      if (a != 0 && b != 0 && c != 0) out.push_back(static_cast<std::uint32_t>(trigram(a, b, c)));
      a = b;
      b = c;
    }
  }
  std::ranges::sort(out);
  out.erase(std::ranges::unique(out).begin(), out.end());
  return out;
}

std::uint8_t classes_of(std::uint32_t types) {
  std::uint8_t out = 0;
  for (unsigned t = 0; t < 32; ++t) {
    if ((types >> t & 1U) != 0) out |= class_of(static_cast<EventType>(t));
  }
  return out;
}

bool BlockIndex::has_process(const RowFilter& filter) const {
  const auto classes = classes_of(filter.types);
  return std::ranges::any_of(filter.processes, [&](const ProcessId& p) {
    const auto it = std::ranges::lower_bound(processes, p, {}, &Process::id);
    return it != processes.end() && it->id == p && (it->classes & classes) != 0;
  });
}
bool BlockIndex::has_mfa(std::span<const NameId> ascending) const {
  return std::ranges::any_of(ascending,
                             [&](NameId id) { return std::ranges::binary_search(mfas, id); });
}
bool BlockIndex::has_hash(std::span<const std::uint64_t> ascending) const {
  return std::ranges::any_of(ascending,
                             [&](auto h) { return std::ranges::binary_search(hashes, h); });
}
bool BlockIndex::has_trace(std::span<const std::uint64_t> keys) const {
  return std::ranges::any_of(keys, [&](auto k) { return std::ranges::binary_search(traces, k); });
}
bool BlockIndex::has_text(std::span<const std::uint32_t> trigrams) const {
  return std::ranges::all_of(trigrams, [&](auto t) { return (text[t / 64] >> t % 64 & 1) != 0; });
}

struct BlockIndexBuilder::Work {
  std::shared_ptr<BlockIndex> out = std::make_shared<BlockIndex>();
  TextBits text;
  Bytes before[2];  // the payload before, of states and of others: the rows outlive the builder
  EdgeMap places;
  CellMap cells;
};

BlockIndexBuilder::BlockIndexBuilder(AtomNumber atom)
    : atom_(std::move(atom)), work_(std::make_unique<Work>()) {}
BlockIndexBuilder::~BlockIndexBuilder() = default;

std::span<const std::uint64_t> BlockIndexBuilder::add(const StoredRow& row, NameId mfa,
                                                      bool repeats) {
  auto& out = *work_->out;
  const auto& r = row.record;
  if (out.processes.empty() || out.processes.back().id != row.process)
    out.processes.push_back({row.process, 0});
  out.processes.back().classes |= class_of(r.type);
  if (r.type == EventType::message_send) add_edge(out, work_->places, row, atom_);
  const auto second = static_cast<std::uint64_t>(second_of(r.time));
  ++work_->cells[{std::uint64_t{row.process.incarnation} << 32 | mfa,
                  second << 8 | static_cast<std::uint64_t>(r.type)}];
  if (repeats) return {};
  if (r.has(TraceRecord::kHashed)) out.hashes.push_back(r.match_hash);
  work_->text.add_next(r.payload, work_->before[r.type == EventType::state_change ? 0 : 1]);
  if (r.strings != nullptr) work_->text.add_named(r.payload, *r.strings);
  const auto before = out.traces.size();
  add_trace_keys(r.payload, out.traces);
  return std::span(out.traces).subspan(before);
}

std::shared_ptr<const BlockIndex> BlockIndexBuilder::finish() {
  auto& out = *work_->out;
  sort_hashes(out.hashes);
  out.hashes.erase(std::ranges::unique(out.hashes).begin(), out.hashes.end());
  out.hashes.shrink_to_fit();
  std::ranges::sort(out.traces);
  out.traces.erase(std::ranges::unique(out.traces).begin(), out.traces.end());
  out.traces.shrink_to_fit();
  out.processes.shrink_to_fit();
  out.edges.shrink_to_fit();
  std::ranges::sort(out.edges, {}, &BlockIndex::Edge::key);
  out.text = work_->text.take();
  take_cells(out, work_->cells);
  return std::move(work_->out);
}

}  // namespace scope::store
