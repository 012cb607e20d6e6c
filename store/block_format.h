// The fixed parts of block.h's grammar, shared by the encoder and the reader. No other file needs it.
#pragma once

#include <array>
#include <cstdint>

namespace scope::store::block_format {

inline constexpr std::uint32_t kMagic = 0x4B4C4253;  // "SBLK"
inline constexpr std::uint16_t kVersion = 4;         // what older ones lack: block.h
enum Flag : std::uint16_t { kLocalAtoms = 1, kAllFlags = kLocalAtoms };
inline constexpr std::size_t kHashFrom = 16;  // `first`

#pragma pack(push, 1)
struct Piece {
  std::uint32_t offset = 0, bytes = 0, raw = 0, xxh3 = 0;
};
struct Header {
  std::uint32_t magic = kMagic;
  std::uint16_t version = kVersion;
  std::uint16_t flags = 0;
  std::uint64_t head_xxh3 = 0;
  std::uint64_t first = 0, last = 0;
  std::uint32_t rows = 0, types = 0, head_end = 0, end = 0, processes = 0;
  std::uint32_t incarnations = 0, nodes = 0, frames = 0;
  std::uint8_t serial_width = 0, row_width = 0;
  std::uint32_t state_chunks = 0, other_chunks = 0, state_bytes = 0, other_bytes = 0;
  std::uint8_t id_width = 4;  // version 3 begins here
  std::uint32_t messages = 0, message_chunks = 0, message_bytes = 0;
  Piece message_table;
  std::uint32_t trace_rows = 0;  // version 4 begins here
  Piece trace_table;
};
struct IncarnationEntry {
  std::uint32_t number = 0, first_process = 0, rows = 0, node = 0;
  std::int64_t oldest = 0, newest = 0;
};
struct NodeEntry {
  std::uint32_t incarnation = 0, creation = 0, atom = 0;
};
struct FrameEntry {
  Piece kinds, times, rest;
  std::uint32_t state_at = 0, other_at = 0;
  std::uint32_t first_message = 0;  // version 3
};
#pragma pack(pop)
static_assert(sizeof(Header) == 131 && sizeof(IncarnationEntry) == 32 && sizeof(FrameEntry) == 60);
// Of older versions: the first bytes of today's.
inline constexpr std::size_t kOldHeader = 82, kOldFrame = 56;  // versions 1 and 2
inline constexpr std::size_t kHeader3 = 111;

enum Stream : std::uint8_t { kStates, kOthers, kMessages, kStreams };
constexpr std::size_t header_size(unsigned version) {
  return version < 3 ? kOldHeader : version < 4 ? kHeader3 : sizeof(Header);
}
constexpr std::size_t frame_size(unsigned version) {
  return version < 3 ? kOldFrame : sizeof(FrameEntry);
}

// Columns of `kinds` and `rest`, in stored order.
enum KindColumn : std::uint8_t { kType, kFlags, kMfa, kOrdinal, kKindColumns };
enum RestColumn : std::uint8_t {
  kPayload,
  kPeerKind,
  kPeerNode,
  kPeerId,
  kPeerSerial,
  kOriginal,
  kMessage,  // before version 3 the match hash
  kRestColumns
};

enum MessageColumn : std::uint8_t { kHash, kBytes, kMessageColumns };
enum TraceColumn : std::uint8_t { kPrint, kRow, kTraceColumns };

inline constexpr std::uint32_t kTraceRowsUnknown = UINT32_MAX, kMostTraceRows = 4;  // times rows
// The index of segments tells keys apart by their lowest and highest bits (segment.h).
constexpr std::uint16_t trace_print(std::uint64_t key) {
  return static_cast<std::uint16_t>(key >> 16);
}

// The values of kMessage, halved.
enum MessageRef : std::uint8_t { kNextMessage, kSameMessage, kPlaceFrom };

}  // namespace scope::store::block_format
