// The fixed parts of block.h's grammar, shared by the encoder and the reader. No other file needs it.
#pragma once

#include <array>
#include <cstdint>

namespace scope::store::block_format {

inline constexpr std::uint32_t kMagic = 0x4B4C4253;  // "SBLK"
inline constexpr std::uint16_t kVersion = 2;         // 1 is read, too: it has no flags
enum Flag : std::uint16_t { kLocalAtoms = 1, kAllFlags = kLocalAtoms };
inline constexpr std::size_t kHashFrom = 16;  // `first`

#pragma pack(push, 1)
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
};
struct IncarnationEntry {
  std::uint32_t number = 0, first_process = 0, rows = 0, node = 0;
  std::int64_t oldest = 0, newest = 0;
};
struct NodeEntry {
  std::uint32_t incarnation = 0, creation = 0, atom = 0;
};
struct Piece {
  std::uint32_t offset = 0, bytes = 0, raw = 0, xxh3 = 0;
};
struct FrameEntry {
  Piece kinds, times, rest;
  std::uint32_t state_at = 0, other_at = 0;
};
#pragma pack(pop)
static_assert(sizeof(Header) == 82 && sizeof(IncarnationEntry) == 32 && sizeof(FrameEntry) == 56);

// Columns of `kinds` and `rest`, in stored order.
enum KindColumn : std::uint8_t { kType, kFlags, kMfa, kOrdinal, kKindColumns };
enum RestColumn : std::uint8_t {
  kPayload,
  kPeerKind,
  kPeerNode,
  kPeerId,
  kPeerSerial,
  kOriginal,
  kHash,
  kRestColumns
};

}  // namespace scope::store::block_format
