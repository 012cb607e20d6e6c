// Segments: the indexes over 64 blocks of a partition, one value of `seg` per kind, written with the seal that completes
// the segment (or with the roll that ends its partition). Until then its blocks' BlockIndexes stand in memory.
//
//   value    = version:1 (1) xxh3:8 (of the rest) covered:8 (bit i: block i of the segment is in here) body
//   'p' body = incarnations:4 processes:4 sets:4 set_bytes:4 serial_width:1 set_width:1
//              (number:4 first:4)* id:4* serial:serial_width* set:set_width* set_at:4* sets
//              set = classes:1 (blocks:8)* one for each class, lowest first: which blocks hold such events of the process.
//              Searched in place, processes ascending. Equal sets are stored once: most processes of a churn have the same few.
//   'm' body = functions:4 mfa:4* blocks:8*
//   'h' body = log2_buckets:1 start:4* entry:2*          entry = 10 bits of the match hash, 6 bits of block; the bucket is
//              the hash's highest bits. One lookup in 600 finds a block that does not hold the hash.
//   'i' body = as 'h', of the keys of trace ids (trace_ids.h). Not there in segments that were written before they were looked for.
//   't' body = (bytes:4)* of 38 pieces, then the pieces: zstd of blocks:8 for each of 38*38 trigrams with that first letter
//   'r' body = (incarnation type:1 mfa rows first:zigzag last-first cells bytes (second-before rows)*)*     varints, sorted
//   'e' body = zstd of edges, varints: (incarnation id serial kind:1 node name creation id serial oldest:8 newest-oldest
//              rows)*, sorted by sender. Not covered at all when the segment has more than kMostSegmentEdges.
//
// Rejected: a Bloom filter per block for hashes (0.35 bytes/event at 2 % false per block, 64 probes); words instead of
// trigrams for text (no search for parts of words; ids of their own in every row make it 1.4 bytes/event).
// Errors corrupt: a damaged value. Its blocks are then judged by their statistics.
#pragma once

#include "store/block_index.h"

namespace scope::store {

inline constexpr std::uint32_t kSegmentBlocks = 64;
inline constexpr std::size_t kMostSegmentEdges = 16384;
inline constexpr char kSegmentKinds[] = {'p', 'm', 'h', 't', 'i', 'r', 'e'};

// Blocks are numbered from 1.
inline std::uint32_t segment_of(std::uint32_t block) { return (block - 1) / kSegmentBlocks; }
inline std::uint32_t slot_of(std::uint32_t block) { return (block - 1) % kSegmentBlocks; }

// `blocks` by slot, at most 64.
std::vector<std::byte> encode_segment(char kind,
                                      std::span<const std::shared_ptr<const BlockIndex>> blocks);

// A value, checked when it is opened; `checked`: it was before, and is not hashed again.
struct SegmentValue {
  std::uint64_t covered = 0;
  Bytes body;
  static Result<SegmentValue> open(Bytes value, bool checked);
};

// Which of the covered blocks can hold a row that matches; a bit each.
Result<std::uint64_t> blocks_of_processes(const SegmentValue& value, const RowFilter& filter);
// All processes, and which blocks hold a state of each.
using StateVisitor = std::function<void(const ProcessId&, std::uint64_t blocks)>;
Status visit_states(const SegmentValue& value, const StateVisitor& visitor);
Result<std::uint64_t> blocks_of_mfas(const SegmentValue& value, std::span<const NameId> ascending);
Result<std::uint64_t> blocks_of_hashes(const SegmentValue& value,
                                       std::span<const std::uint64_t> hashes);
Result<std::uint64_t> blocks_of_texts(const SegmentValue& value,
                                      std::span<const std::uint32_t> trigrams);

// A run of cells: those of one incarnation, type and function.
struct CellRun {
  BlockIndex::Cell total;  // second: the first one
  std::int64_t last_second = 0;
};
// `sink` gets the cells of each run that `wanted` says yes to.
Status visit_cells(const SegmentValue& value, const std::function<bool(const CellRun&)>& wanted,
                   const std::function<Status(const BlockIndex::Cell&)>& sink);
Status visit_edges(const SegmentValue& value, std::span<const ProcessId> senders,
                   const std::function<Status(const BlockIndex::Edge&)>& sink);

}  // namespace scope::store
