// Every key of a partition's databases, and where the grammar of its value is written. Keys are big-endian, so that
// LMDB's byte order is their order; signed numbers have their sign bit flipped.
//
//   db      key                                              value
//   hot     Lsn:8                                            hot_value below: a raw batch that is in no block yet
//   blk     Block:4                                          block.h
//   seg     'u' Block:4                                      unit_stats (partition.h): the copy of the block table
//           'p' 'm' 'h' 't' 'i' 'r' 'e', each with Segment:4     segment.h: the indexes over blocks 64*Segment+1 .. +64
//   agents  'i' Incarnation:4                                incarnations.h
//           'o' Incarnation:4                                tail.h: ordinals after the last sealed batch
//           'm'                                              meta below
//   clock   Incarnation:4 Version:4                          clocks.h
//   names   'a' Atom:4                                       the text
//           'f' Mfa:4                                        arity:1 module:text function:text
//           'h' XXH3(text):8 Atom:4                          empty: finds an atom by its text
//   lives   'p' Home:4 Id:4 Serial:4 Incarnation:4           lives.h: a life
//           'o' Home:4 Id:4 Serial:4 Incarnation:4 Atom:4 From:8     lives.h: a spell, by its owner
//           'n' Home:4 Atom:4 From:8 Incarnation:4 Id:4 Serial:4     the same spell, by its name
//           's' Home:4 Id:4 Serial:4 Incarnation:4           last_states.h: where an older partition holds its last state
//
//   hot_value = version:1 (1) incarnation:4 seq:8 received:8 (cluster ns) xxh3:8 (of the term) term
//   meta      = version:1 (1) last_lsn:8 cluster_ns:8 (when it was written)
//
// Atom, Mfa: small numbers of this partition, from 1. Block: from 1. Home: see view.h. seq 0: made by the store itself.
#pragma once

#include <array>
#include <cstdint>

#include "ei_codec/base/ids.h"
#include "store/bytes.h"
#include "store/view.h"

namespace scope::store {

inline constexpr unsigned kHotVersion = 1;
inline constexpr unsigned kMetaVersion = 1;
inline constexpr std::size_t kHotHeaderBytes = 1 + 4 + 8 + 8 + 8;

// A key under construction, and its bytes. Copy freely.
class Key {
 public:
  Key() = default;
  explicit Key(char kind) { u8(static_cast<std::uint8_t>(kind)); }
  Key& u8(std::uint8_t value) {
    bytes_[size_++] = static_cast<std::byte>(value);
    return *this;
  }
  Key& u32(std::uint32_t value) { return big_endian(value, 4); }
  Key& u64(std::uint64_t value) { return big_endian(value, 8); }
  Key& i64(std::int64_t value) { return u64(static_cast<std::uint64_t>(value) ^ (1ULL << 63)); }
  operator Bytes() const { return {bytes_.data(), size_}; }  // NOLINT(google-explicit-constructor)

 private:
  Key& big_endian(std::uint64_t value, unsigned bytes) {
    for (unsigned i = bytes; i-- > 0;) u8(static_cast<std::uint8_t>(value >> (8 * i)));
    return *this;
  }
  std::array<std::byte, 40> bytes_{};
  std::size_t size_ = 0;
};

// Reads a key back; checked like ByteReader.
class KeyReader {
 public:
  explicit KeyReader(Bytes key) : in_(key) {}
  std::uint8_t u8() { return in_.u8(); }
  std::uint32_t u32() { return static_cast<std::uint32_t>(big_endian(4)); }
  std::uint64_t u64() { return big_endian(8); }
  std::int64_t i64() { return static_cast<std::int64_t>(u64() ^ (1ULL << 63)); }
  bool done() const { return in_.done(); }

 private:
  std::uint64_t big_endian(unsigned bytes) {
    std::uint64_t value = 0;
    for (unsigned i = 0; i < bytes; ++i) value = value << 8 | in_.u8();
    return value;
  }
  ByteReader in_;
};

inline bool starts_with(Bytes key, Bytes prefix) {
  return key.size() >= prefix.size() && std::memcmp(key.data(), prefix.data(), prefix.size()) == 0;
}

inline Key hot_key(Lsn lsn) { return Key().u64(lsn); }
inline Key block_key(std::uint32_t block) { return Key().u32(block); }
inline Key unit_key(std::uint32_t block) { return Key('u').u32(block); }
inline Key segment_key(char kind, std::uint32_t segment) { return Key(kind).u32(segment); }
inline Key incarnation_key(Incarnation n) { return Key('i').u32(n); }
inline Key ordinals_key(Incarnation n) { return Key('o').u32(n); }
inline Key meta_key() { return Key('m'); }
inline Key clock_key(Incarnation n, std::uint32_t version) { return Key().u32(n).u32(version); }
inline Key atom_key(std::uint32_t id) { return Key('a').u32(id); }
inline Key mfa_key(std::uint32_t id) { return Key('f').u32(id); }
inline Key atom_hash_prefix(std::uint64_t hash) { return Key('h').u64(hash); }
inline Key atom_hash_key(std::uint64_t hash, std::uint32_t id) {
  return Key('h').u64(hash).u32(id);
}
inline Key process_prefix(char kind, Incarnation home, const ProcessId& p) {
  return Key(kind).u32(home).u32(p.id).u32(p.serial);
}
inline Key process_key(char kind, Incarnation home, const ProcessId& p) {
  return process_prefix(kind, home, p).u32(p.incarnation);
}
inline Key owner_spell_key(Incarnation home, const ProcessId& p, std::uint32_t atom, RawTime from) {
  return process_key('o', home, p).u32(atom).i64(from.ns);
}
inline Key name_spell_prefix(Incarnation home, std::uint32_t atom) {
  return Key('n').u32(home).u32(atom);
}
inline Key name_spell_key(Incarnation home, const ProcessId& p, std::uint32_t atom, RawTime from) {
  return name_spell_prefix(home, atom).i64(from.ns).u32(p.incarnation).u32(p.id).u32(p.serial);
}

}  // namespace scope::store
