// Kept edges as bytes: which message arrived where, found by its sending and by its arrival. One value of the database
// `edges` (edge_store.h), at most kPartEdges edges of one slice.
//
//   part      = header directory arrivals late page*                               fixed numbers little-endian
//   header    = version:1 (1) head_xxh3:8 (of the rest of the header and the directory)
//               lists_xxh3:8 (of arrivals and late) edges:4 pages:4 late:4
//   directory = (id of the page's first sending, offset:4 (from the first page on) bytes:4 xxh3:4 (low half))*    by id
//   id        = incarnation:4 id:4 serial:4 time:8 ordinal:4
//   arrivals  = entry:4*, ascending; one an edge: 24 bits of the hash of the arrival's id, 8 bits of the number of its page
//   late      = (id of a fetch, id of its taking)*, by fetch: takings that the edge's own entry does not name: it may be in
//               an earlier part of the slice
//   page      = edge*, kPageEdges but the last one's; by sending
//   edge      = flags:1 [sender] [receiver] sent arrived [taken] [ordinals] [candidates]        varints, signed ones zigzag
//   flags     = bits 0-1: how (exact, unique, ambiguous); 2: another sender than the edge's before; 3: another receiver;
//               4: the arrival is a taking, its fetch was not recorded; 5: taken; 6: ordinals that are not all 0; 7: candidates
//   sender, receiver = id [incarnation serial]; the id: zigzag of what it is more than that of the edge before (0 before the
//               page's first), times 2; odd: incarnation or serial are others than there and follow
//   sent      = time less that of the edge before
//   arrived   = arrival's time - time of sending, less the same of the last edge to that incarnation in this page: raw
//               clocks of two nodes are far apart, but always by about the same
//   taken     = time of taking - time of the fetch, of the same process
//   ordinals  = of the sending, arrival and taking (0 if there is none)
//
// Rejected: (block, row) instead of event ids: about 5 bytes an edge less, but an edge of rows that are in no block yet
// could not be kept, and whoever asks would have to unpack two blocks to learn who and when. zstd: pages would have to be
// ten times as large to gain a quarter, and each look-up would unpack one.
// Reading checks hashes and lengths: a damaged part is `corrupt`, never a crash. Thread: any.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "ei_codec/base/ids.h"
#include "ei_codec/base/result.h"
#include "store/bytes.h"

namespace scope::store {

inline constexpr std::size_t kPartEdges = 32768, kPageEdges = 128;
static_assert(kPartEdges / kPageEdges <= 256);

struct MessageEdge {
  EventId send, arrival;         // a fetch, or
  bool arrival_is_take = false;  // a taking whose fetch was not recorded
  std::uint8_t how = 0;          // analysis::Matched: exact, unique, ambiguous
  std::uint32_t candidates = 1;
  std::optional<EventId> take = {};
  bool operator==(const MessageEdge&) const = default;
};

struct LateTake {
  EventId fetch, take;
};

// REQUIRES at most kPartEdges edges. Sorts both.
std::vector<std::byte> encode_edges(std::vector<MessageEdge>& edges, std::vector<LateTake>& late);

// A part in place. `bytes` outlives it. Errors: corrupt.
class EdgePart {
 public:
  static Result<EdgePart> open(Bytes bytes);

  std::size_t size() const { return edges_; }
  Result<std::optional<MessageEdge>> by_send(const EventId& send) const;
  Result<std::optional<MessageEdge>> by_arrival(const EventId& arrival) const;
  // The taking of a fetch, if it is among the late ones.
  Result<std::optional<EventId>> late_take(const EventId& fetch) const;
  // All of it, every hash checked; by sending.
  Result<std::vector<MessageEdge>> all() const;
  Result<std::vector<LateTake>> late() const;

 private:
  Result<std::vector<MessageEdge>> page(std::size_t number) const;
  Status check_lists() const;

  std::uint32_t edges_ = 0, pages_ = 0, late_ = 0;
  std::uint64_t lists_hash_ = 0;
  Bytes directory_, arrivals_, late_bytes_, data_;
  mutable bool lists_checked_ = false;
};

}  // namespace scope::store
