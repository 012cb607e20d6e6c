// A term as the encoder writes it (encode.h), read again. Only what the encoder made: nothing is checked but its tags.
#pragma once

#include <cstddef>
#include <cstdint>

#include "erl/c_src/encode.h"
#include "erl/c_src/layout.h"

namespace scope::tracer {

inline std::uint32_t be32(const std::byte* p) { return __builtin_bswap32(load<std::uint32_t>(p)); }
inline std::uint32_t be16(const std::byte* p) {
  return std::to_integer<std::uint32_t>(p[0]) << 8 | std::to_integer<std::uint32_t>(p[1]);
}

struct WireItem {
  std::uint8_t tag;                 // 0: none that is known
  std::uint32_t children;           // terms that follow: elements, a list's tail, keys and values
  const std::byte *body, *next;     // of a binary: its bytes
  const std::byte* atom = nullptr;  // the node in a pid, port or reference
};

inline WireItem wire_item(const std::byte* p) {
  const auto tag = std::to_integer<std::uint8_t>(*p);
  const auto at = [&](std::size_t size, std::uint32_t children = 0) {
    return WireItem{tag, children, p + 1, p + size};
  };
  switch (tag) {
    case etf::kLocalAtom:
    case etf::kInteger:
      return at(5);
    case etf::kNewFloat:
      return at(9);
    case etf::kSmallInteger:
      return at(2);
    case etf::kSmallTuple:
      return at(2, std::to_integer<std::uint32_t>(p[1]));
    case etf::kLargeTuple:
      return at(5, be32(p + 1));
    case etf::kList:
      return at(5, be32(p + 1) + 1);
    case etf::kMap:
      return at(5, 2 * be32(p + 1));
    case etf::kNil:
      return at(1);
    case etf::kExport:
      return at(1, 3);
    case kCutBinary:
    case etf::kBinary:
      return {tag, 0, p + 5, p + 5 + be32(p + 1)};
    case etf::kSmallBig:
      return at(3 + std::to_integer<std::size_t>(p[1]));
    case etf::kLargeBig:
      return at(6 + be32(p + 1));
    case etf::kNewPid:
    case etf::kV4Port:
    case etf::kNewPort:
    case etf::kNewerReference: {
      const bool reference = tag == etf::kNewerReference;
      const std::byte* const atom = p + (reference ? 3 : 1);
      const std::size_t rest = reference ? 4 + 4 * be16(p + 1) : tag == etf::kNewPort ? 8 : 12;
      return {tag, 0, p + 1, wire_item(atom).next + rest, atom};
    }
    case 100:
    case etf::kAtomUtf8:
      return at(3 + be16(p + 1));
    case 115:
    case etf::kSmallAtomUtf8:
      return at(2 + std::to_integer<std::size_t>(p[1]));
    default:
      return {0, 0, p, p};
  }
}

// Behind the whole term.
inline const std::byte* wire_skip(const std::byte* p) {
  for (std::uint64_t terms = 1; terms > 0; --terms) {
    const WireItem item = wire_item(p);
    if (item.tag == 0) return p;
    terms += item.children;
    p = item.next;
  }
  return p;
}

}  // namespace scope::tracer
