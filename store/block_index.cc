#include "store/block_index.h"

#include <algorithm>
#include <array>
#include <boost/unordered/unordered_flat_map.hpp>
#include <boost/unordered/unordered_flat_set.hpp>

#include "ei_codec/term_tags.h"
#include "store/block.h"
#include "store/unit_filter.h"

namespace scope::store {
namespace {

using codec::EventType;
using codec::Peer;
using codec::TraceRecord;

constexpr std::array<std::uint8_t, 256> kCodes = [] {
  std::array<std::uint8_t, 256> out{};
  for (unsigned i = 0; i < 26; ++i) out['a' + i] = out['A' + i] = static_cast<std::uint8_t>(1 + i);
  for (unsigned i = 0; i < 10; ++i) out['0' + i] = static_cast<std::uint8_t>(27 + i);
  out['_'] = 37;
  return out;
}();

class TextBits {
 public:
  TextBits() : bits_((kTrigrams + 63) / 64) {}

  void add(Bytes bytes) {
    unsigned a = 0, b = 0;
    auto* bits = bits_.data();
    for (const auto byte : bytes) {
      const unsigned c = kCodes[std::to_integer<unsigned>(byte)];
      const auto at = trigram(a, b, c);
      bits[at / 64] |= 1ULL << (at % 64);
      a = b;
      b = c;
    }
  }
  // Atoms that the payload names by number: any place that looks like one counts.
  void add_named(Bytes payload, const codec::StringTable& strings) {
    const auto* at = payload.data();
    const auto* end = at + payload.size();
    while (end - at >= 5) {
      at = static_cast<const std::byte*>(
          std::memchr(at, codec::kTagLocalAtom, static_cast<std::size_t>(end - at - 4)));
      if (at == nullptr) return;
      std::uint32_t id = 0;
      for (int i = 1; i <= 4; ++i) id = id << 8 | std::to_integer<std::uint32_t>(at[i]);
      if (const auto text = strings.atom(id); text && seen_.insert(text->data()).second)
        add(as_bytes(*text));
      ++at;
    }
  }
  std::vector<std::uint64_t> take() { return std::move(bits_); }

 private:
  std::vector<std::uint64_t> bits_;
  boost::unordered_flat_set<const char*> seen_;
};

struct CellKey {
  std::uint64_t whose, when;
  bool operator==(const CellKey&) const = default;
  friend std::size_t hash_value(const CellKey& k) {
    const auto h = (k.whose ^ k.when * 0x9E3779B97F4A7C15ULL) * 0xBF58476D1CE4E5B9ULL;
    return static_cast<std::size_t>(h ^ h >> 32);
  }
};

void add_cells(BlockIndex& out, std::span<const StoredRow* const> rows,
               std::span<const NameId> mfas) {
  boost::unordered_flat_map<CellKey, std::uint32_t> cells;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& row = *rows[i];
    const auto second = static_cast<std::uint64_t>(second_of(row.record.time));
    ++cells[{std::uint64_t{row.process.incarnation} << 32 | mfas[i],
             second << 8 | static_cast<std::uint64_t>(row.record.type)}];
  }
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

void add_edge(BlockIndex& out, EdgeMap& places, const StoredRow& row,
              const std::function<NameId(std::string_view)>& atom) {
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

unsigned text_code(unsigned char byte) { return kCodes[byte]; }

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
bool BlockIndex::has_text(std::span<const std::uint32_t> trigrams) const {
  return std::ranges::all_of(trigrams, [&](auto t) { return (text[t / 64] >> t % 64 & 1) != 0; });
}

std::shared_ptr<const BlockIndex> make_block_index(
    std::span<const StoredRow* const> rows, std::span<const NameId> mfas,
    const std::function<NameId(std::string_view)>& atom) {
  auto out = std::make_shared<BlockIndex>();
  TextBits text;
  EdgeMap places;
  for (const auto* row : rows) {
    const auto& r = row->record;
    if (out->processes.empty() || out->processes.back().id != row->process)
      out->processes.push_back({row->process, 0});
    out->processes.back().classes |= class_of(r.type);
    if (r.has(TraceRecord::kHashed)) out->hashes.push_back(r.match_hash);
    if (r.type == EventType::message_send) add_edge(*out, places, *row, atom);
    text.add(r.payload);
    if (r.strings != nullptr) text.add_named(r.payload, *r.strings);
  }
  std::ranges::sort(out->hashes);
  out->hashes.erase(std::ranges::unique(out->hashes).begin(), out->hashes.end());
  out->hashes.shrink_to_fit();
  out->processes.shrink_to_fit();
  out->edges.shrink_to_fit();
  std::ranges::sort(out->edges, {}, &BlockIndex::Edge::key);
  out->text = text.take();
  add_cells(*out, rows, mfas);
  return out;
}

}  // namespace scope::store
