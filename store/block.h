// A block: about 16k rows of all nodes as columns; immutable; one value of `blk`.
//
//   block       = header head body                                       everything little-endian
//   header      = magic:4 "SBLK" version:2 (4) flags:2 head_xxh3:8 (of the bytes from `first` to the end of head, the flags
//                 its seed)
//                 first:8 last:8 (LSNs) rows:4 types:4 head_end:4 end:4 processes:4 incarnations:4 nodes:4 frames:4
//                 serial_width:1 row_width:1 state_chunks:4 other_chunks:4 state_bytes:4 other_bytes:4
//                 id_width:1 messages:4 message_chunks:4 message_bytes:4 message_table: piece
//                 trace_rows:4 (2^32-1: not told) trace_table: piece
//   head        = incarnation* node* directory frame* chunk* (of the streams: states, others, messages)
//   incarnation = number:4 first_process:4 rows:4 node:4 oldest:8 newest:8       ascending; the base of its times is `oldest`
//   node        = incarnation:4 (its home; 0: not numbered) creation:4 atom:4
//   directory   = id:id_width* serial:serial_width* first_row:row_width* classes:1*     a column each, by process ascending:
//                 searched in place. `classes`: which classes of events the process has here (class_of)
//   frame       = kinds times rest state_at:4 other_at:4 (where its payloads begin in the streams) first_message:4;
//                 2,048 rows each
//   message_table = zstd: columns match hash, bytes (in the stream of messages); each message once, though it is sent,
//                 fetched and taken
//   trace_table = zstd: columns print (16 bits of a trace id's key, trace_ids.h), row (minus the one before): which rows
//                 hold which ids of others, by row. Not told if there are more than 4 a row, all in all
//   kinds, times, rest, chunk = piece: offset:4 bytes:4 raw:4 xxh3:4 (low half, of the stored bytes)
//   kinds       zstd: columns type, flags, mfa, ordinal
//   times       plain: a varint per row: of a process's first row here, and of a frame's first: time - oldest;
//               else time - the row's before
//   rest        zstd: columns payload bytes (what the row has in the streams of states and of others), peer kind, peer node (0: the event's own, or none of a name; else 1 + index),
//               peer id (a pid's or port's; a name's atom; an alias's place in `aliases`), peer serial, original bytes,
//               message (of the rows with kHashed); aliases: (count:1 id:4*)*
//   message     which message of the table gives the row its hash, times 2; odd: but its payload is the row's own.
//               0: the next that no row had before (first_message is the frame's first); 1: that of the row with kHashed
//               before it in the frame; else its place + 2
//   column      = width:1 plane*    of width bytes per value, one plane for each byte, the lowest first; width 0: all 0
//   chunk       zstd, 32 KB of a stream each but the last
//   flags       1: payloads may name atoms by number (etf_tags.h, kLocalAtom); the number is the partition's NameId
// Older versions are read, too. The header of version 3 ends with message_table.
// Headers of versions 1 and 2 end with other_bytes, their frames with other_at; ids have 4 bytes, and
// `message` is the match hash itself; the payloads of messages are among the others. Version 1 has no flags, hence no
// numbered atoms.
//
// Rows are sorted by (process, time, ordinal). What is stored was observed; inferences live elsewhere.
// Rejected: one compressed directory (a process is found without decompressing anything: state_at), dictionaries
// (1.6 bytes/event, later), messages in the stream of others (whoever asks for a receiver would unpack its senders' chunks).
//
// Reading checks every piece's hash and every length against its end: a damaged block is `corrupt`, never a crash.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "store/block_index.h"
#include "store/names.h"
#include "store/view.h"

namespace scope::store {

inline constexpr std::size_t kFrameRows = 2048;
inline constexpr std::size_t kChunkBytes = 32768;
inline constexpr std::size_t kMaxBlockRows = 1u << 20;  // a reader's bound

// What the encoder asks of the partition.
class BlockNames {
 public:
  virtual ~BlockNames() = default;
  virtual NameId atom(std::string_view text) = 0;
  virtual NameId mfa(const codec::Mfa& mfa) = 0;
  virtual const IncarnationInfo& incarnation(Incarnation n) = 0;
  virtual Incarnation home_of(std::string_view node, std::uint32_t creation) = 0;  // 0: none
};

struct EncodedBlock {
  std::vector<std::byte> bytes;
  Unit unit;  // without its place and ranges
  std::vector<UnitRange> ranges;
  std::shared_ptr<const BlockIndex> index;
};

class BlockEncoder {
 public:
  BlockEncoder();
  ~BlockEncoder();
  // `rows` in arrival order; at least one, at most kMaxBlockRows.
  EncodedBlock encode(std::span<const StoredRow* const> rows, Lsn first, Lsn last,
                      BlockNames& names);

 private:
  struct Work;
  std::unique_ptr<Work> work_;
};

// The rows of `block` that match `filter`, sorted by (process, time, ordinal). What they point to is in `rows.owner`;
// `names` must copy into `arena`, which becomes part of it. `block` need not outlive the call.
Result<Rows> read_block(Bytes block, const RowFilter& filter, NameSource& names,
                        std::shared_ptr<Arena> arena);

// The raw times that the filter takes of an incarnation. nullopt: none.
std::optional<TimeRange> wanted_times(const RowFilter& filter, Incarnation incarnation);
// Is this process wanted by the filter? Are this record's function and match hash?
bool wants_process(const RowFilter& filter, const ProcessId& process);
bool wants_record(const RowFilter& filter, const codec::TraceRecord& record);

// A process's events in eight classes, for the directory.
constexpr std::uint8_t class_of(codec::EventType type) {
  using enum codec::EventType;
  switch (type) {
    case state_change:
      return 1;
    case function_entry:
      return 2;
    case function_exit:
    case function_exception:
      return 4;
    case message_send:
      return 8;
    case message_fetch:
      return 16;
    case message_take:
      return 32;
    case process_spawn:
    case process_exit:
    case process_link:
    case process_unlink:
    case process_register:
    case process_unregister:
    case process_alive:
      return 64;
    default:
      return 128;
  }
}

}  // namespace scope::store
