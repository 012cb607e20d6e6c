// BlockIndex: what one block adds to the indexes of its segment (segment.h), in memory until the segment is complete.
//
// What   Made from the block's rows when it is sealed, or again from the stored block at a restart.
// Text   A trigram is three letters (ASCII, either case), digits or '_' in a row: kTextCodes^3 of them, a bit each, set
//        if the bytes of a payload or the text of an atom that it names hold it. Bytes between texts set some bits too:
//        a bit says "perhaps", its absence "no".
// Bounds Edges: beyond kMostEdges none are kept, and `edges_kept` says so.
// Thread Immutable once made.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

#include "store/names.h"
#include "store/view.h"

namespace scope::store {

inline constexpr std::size_t kMostEdges = 1024;  // of a block
inline constexpr unsigned kTextCodes = 38;       // 0: no letter
inline constexpr std::size_t kTrigrams = std::size_t{kTextCodes} * kTextCodes * kTextCodes;

unsigned text_code(unsigned char byte);
inline std::size_t trigram(unsigned a, unsigned b, unsigned c) {
  return (std::size_t{a} * kTextCodes + b) * kTextCodes + c;
}
// All trigrams of the fragments; a row that holds each fragment has them all.
std::vector<std::uint32_t> trigrams_of(std::span<const std::string_view> texts);

struct BlockIndex {
  struct Process {
    ProcessId id;
    std::uint8_t classes = 0;  // class_of, block.h
    bool operator==(const Process&) const = default;
  };
  struct Cell {
    Incarnation incarnation = kNoIncarnation;
    codec::EventType type = codec::EventType::gap;
    NameId mfa = 0;
    std::int64_t second = 0;
    std::uint32_t rows = 0;
    auto key() const { return std::tuple(incarnation, type, mfa, second); }
    bool operator==(const Cell&) const = default;
  };
  struct Edge {
    ProcessId sender;
    codec::Peer::Kind kind = codec::Peer::Kind::none;
    NameId node = 0, name = 0;
    std::uint32_t creation = 0, id = 0, serial = 0;
    RawTime oldest, newest;
    std::uint32_t rows = 0;
    auto key() const { return std::tuple(sender, kind, node, name, creation, id, serial); }
    bool operator==(const Edge&) const = default;
  };
  std::vector<Process> processes;     // ascending
  std::vector<NameId> mfas;           // ascending
  std::vector<std::uint64_t> hashes;  // ascending
  std::vector<std::uint64_t> traces;  // ascending: trace_key (trace_ids.h) of the ids in payloads
  std::vector<std::uint64_t> text;    // a bit per trigram
  std::vector<Cell> cells;            // ascending by key()
  std::vector<Edge> edges;            // ascending by key()
  bool edges_kept = true;

  bool has_process(const RowFilter& filter) const;  // REQUIRES !filter.processes.empty()
  bool has_mfa(std::span<const NameId> ascending) const;
  bool has_hash(std::span<const std::uint64_t> ascending) const;
  bool has_trace(std::span<const std::uint64_t> keys) const;
  bool has_text(std::span<const std::uint32_t> trigrams) const;
};

// The classes that a filter's types are in.
std::uint8_t classes_of(std::uint32_t types);

using AtomNumber = std::function<NameId(std::string_view)>;

// Rows come sorted by process; `mfa`: the number of the row's function; `atom`: answers that of a text; `repeats`: a row that
// was added has the same match hash and payload. Answers the keys of the trace ids that it looked for, so none of one that
// repeats; valid until the next. One block each.
class BlockIndexBuilder {
 public:
  explicit BlockIndexBuilder(AtomNumber atom);
  ~BlockIndexBuilder();
  std::span<const std::uint64_t> add(const StoredRow& row, NameId mfa, bool repeats = false);
  std::shared_ptr<const BlockIndex> finish();

 private:
  struct Work;
  AtomNumber atom_;
  std::unique_ptr<Work> work_;
};

}  // namespace scope::store
