// The match hash (model.md, Matching content): SipHash-2-4 keyed per cluster session, over at most kHashNodes visited
// nodes, computed before truncation and redaction. The same golden vectors (test/golden/match_hash.txt) hold here, in
// the Erlang agent and in the native tracer.
//
// The bytes that are hashed, a preorder walk; every node is one tag byte and its content, integers little-endian:
//   'a' len:32 utf8            atom                      'i' int64                       integer that fits 64 bits
//   'I' sign:8 len:32 le-bytes other integers (no leading zero bytes)
//   'f' ieee754:64             float (-0.0 kept apart)   'p' len:32 node creation:32 id:32 serial:32   pid
//   'r' len:32 node creation:32 n:8 ids:32*n   reference 'o' len:32 node creation:32 id:64   port
//   'b' len:64 first <=64 bytes, last <=64 bytes (whole when <= 128 bytes)   binary;  'B' bits:64 likewise   bitstring
//   't' arity:32 elements..    tuple                     'n'                             nil
//   'l' elements.. then the tail's node   list: each cons cell is 'l' item tail; STRING_EXT is the list of its bytes
//   'm' size:32 sum:64         map of <= 32 pairs: sum (wrapping) over pairs of SipHash(key-bytes, value-bytes)
//   'M' size:32                larger maps
//   'F' len:32 module index:32 uniq:16 bytes   local fun  'e' module function arity   external fun (atoms as 'a', arity:32)
// When a further node would exceed the budget, or is a native record (OTP 29), into which no tracer can look, the walk
// writes 'z' once and ends; `bounded` is set. What counts: every
// term, every cons cell, the nil at a list's end; a pair's nodes too. If the budget ends inside a map of <= 32 pairs,
// 'm' size:32 of the outermost such map stays and 'z' takes the place of its sum, because the pairs' order is chance.
// A bitstring's unused bits are written as 0. Long binaries and large maps are abbreviated without `bounded`.
// The node name of a pid, reference or port is what the term carries; on its own node an encoder writes the node's name.
#pragma once

#include <array>
#include <cstdint>

#include "ei_codec/term_view.h"

namespace scope::codec {

inline constexpr std::size_t kHashNodes = 64;
using HashKey = std::array<std::byte, 16>;

struct MatchHash {
  std::uint64_t value = 0;
  bool bounded = false;
};

MatchHash match_hash(const TermView& term, const HashKey& key);

// The same walk with no budget and nothing abbreviated, with a fixed key: equal terms have equal hashes, however they
// are encoded, and others differ. For indexes in memory: never stored, never sent.
std::uint64_t structural_hash(const TermView& term);

}  // namespace scope::codec
