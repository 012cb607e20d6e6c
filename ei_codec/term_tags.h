// Unchecked readers for bytes that validate() accepted. For the codec's own sources only: everybody else reads through
// TermView.
#pragma once

#include <bit>
#include <cstring>

#include "ei_codec/term_view.h"
#include "ei_codec/wire/etf_tags.h"

namespace scope::codec {
class BatchStrings;
}

namespace scope::codec::etf {

inline constexpr std::size_t kFloatText = 31;  // FLOAT_EXT: "%.20e", padded with zero bytes
inline constexpr std::size_t kFunHeader = 30;  // tag, size:32, arity:8, uniq:128, index:32, free:32
inline constexpr std::size_t kRecordHeader = 6;  // tag, fields:32, flags:8 (1: exported)
inline constexpr std::size_t kMaxAtomChars = 255;

inline std::uint8_t u8(const std::byte* p) { return static_cast<std::uint8_t>(*p); }
inline std::uint16_t be16(const std::byte* p) {
  std::uint16_t v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_bswap16(v);
}
inline std::uint32_t be32(const std::byte* p) {
  std::uint32_t v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_bswap32(v);
}
inline std::uint64_t be64(const std::byte* p) {
  std::uint64_t v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_bswap64(v);
}
inline std::uint16_t le16(const std::byte* p) {
  std::uint16_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline std::uint32_t le32(const std::byte* p) {
  std::uint32_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline std::uint64_t le64(const std::byte* p) {
  std::uint64_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
// Of a float's bits: no infinity, and a number.
inline bool finite(std::uint64_t bits) { return (bits >> 52 & 0x7FF) != 0x7FF; }
inline const char* chars(const std::byte* p) { return reinterpret_cast<const char*>(p); }

static_assert(std::endian::native == std::endian::little, "the codec's readers assume it");

// Past the head of a tuple of that size; nullptr if it is none.
inline const std::byte* enter_tuple(const std::byte* at, std::uint8_t arity) {
  return u8(at) == kSmallTuple && u8(at + 1) == arity ? at + 2 : nullptr;
}

// The end of the atom at `at`; nullptr if there is no atom there.
inline const std::byte* skip_atom(const std::byte* at) {
  switch (u8(at)) {
    case kSmallAtomUtf8:
    case kSmallAtom:
      return at + 2 + u8(at + 1);
    case kAtomUtf8:
    case kAtom:
      return at + 3 + be16(at + 1);
    case kLocalAtom:
      return at + 5;
    default:
      return nullptr;
  }
}

// Reads the atom at `at` and returns its end; nullptr if there is no atom there.
inline const std::byte* read_atom(const std::byte* at, const StringTable* strings,
                                  std::string_view& text) {
  switch (u8(at)) {
    case kSmallAtomUtf8:
    case kSmallAtom:
      text = {chars(at + 2), u8(at + 1)};
      return at + 2 + text.size();
    case kAtomUtf8:
    case kAtom:
      text = {chars(at + 3), be16(at + 1)};
      return at + 3 + text.size();
    case kLocalAtom:
      text =
          strings ? strings->atom(be32(at + 1)).value_or(std::string_view{}) : std::string_view{};
      return at + 5;
    default:
      return nullptr;
  }
}

// Reads the pid at `at` and returns its end; nullptr if there is no pid there.
inline const std::byte* read_pid(const std::byte* at, const StringTable* strings, PidParts& pid) {
  const std::uint8_t tag = u8(at);
  if (tag != kNewPid && tag != kPid) return nullptr;
  const std::byte* p = read_atom(at + 1, strings, pid.node);
  pid.id = be32(p);
  pid.serial = be32(p + 4);
  pid.creation = tag == kNewPid ? be32(p + 8) : u8(p + 8);
  return p + (tag == kNewPid ? 12 : 9);
}

// The whole check, for those who read many terms and whose TermWalk did not know: the end of the term at the start of
// `bytes`; nullptr if it is none. Without `strings` it may name no atom by number; with them, only what they hold, and
// `local_atoms` is set if it does.
const std::byte* check_rare_term(Bytes bytes, const BatchStrings* strings, bool& local_atoms);

// Is that the text of an atom: UTF-8 of at most kMaxAtomChars characters?
bool valid_atom(const std::byte* text, std::size_t size);

// The end of the term at `at`; nullptr if it has more than `nodes` terms in it. What was used is taken off `nodes`.
const std::byte* skip_within(const std::byte* at, std::size_t& nodes);

// Appends a code point (a valid one) as UTF-8.
inline void append_utf8(std::string& out, std::uint32_t c) {
  const auto put = [&out](std::uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

inline bool valid_code_point(std::int64_t c) {
  return c >= 0 && c <= 0x10FFFF && !(c >= 0xD800 && c <= 0xDFFF);
}

// Decodes the code point at the start of `text` (not empty) and its length; length 0: not UTF-8.
struct CodePoint {
  std::uint32_t value = 0;
  std::uint32_t length = 0;
};
inline CodePoint decode_utf8(std::string_view text) {
  const auto byte = [&text](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  const std::uint32_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return {};
  std::uint32_t value = first & (0xFFu >> (length + 1));
  for (std::uint32_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0u) != 0x80u) return {};
    value = value << 6 | (byte(i) & 0x3Fu);
  }
  constexpr std::uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (value < kSmallest[length] || !valid_code_point(value)) return {};
  return {value, length};
}

}  // namespace scope::codec::etf
