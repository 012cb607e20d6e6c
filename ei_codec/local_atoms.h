// Where a term names atoms by number: for whoever keeps terms beyond the batch whose table they were made with (the
// store's blocks have a table of their own). A local atom takes the same space whatever its number.
#pragma once

#include "ei_codec/term_tags.h"

namespace scope::codec {

// Gives each local atom of the (validated) term at `at` the number that `renumber(number)` answers. Iterative.
template <typename Renumber>
void renumber_local_atoms(std::byte* at, Renumber renumber) {
  using namespace etf;
  const auto skipped = [](std::byte* from, const std::byte* to) { return from + (to - from); };
  const auto atom = [&](std::byte* p) {
    if (u8(p) != kLocalAtom) return skipped(p, skip_atom(p));
    const std::uint32_t number = __builtin_bswap32(renumber(be32(p + 1)));
    std::memcpy(p + 1, &number, sizeof number);
    return p + 5;
  };
  std::size_t pending = 1;
  do {
    --pending;
    switch (u8(at)) {
      case kSmallTuple:
        pending += u8(at + 1);
        at += 2;
        break;
      case kLargeTuple:
        pending += be32(at + 1);
        at += 5;
        break;
      case kList:
        pending += std::size_t{be32(at + 1)} + 1;
        at += 5;
        break;
      case kMap:
        pending += std::size_t{be32(at + 1)} * 2;
        at += 5;
        break;
      case kNewPid:
      case kV4Port:
        at = atom(at + 1) + 12;
        break;
      case kPid:
        at = atom(at + 1) + 9;
        break;
      case kNewPort:
        at = atom(at + 1) + 8;
        break;
      case kPort:
      case kReference:
        at = atom(at + 1) + 5;
        break;
      case kNewerReference:
        at = atom(at + 3) + 4 + 4 * std::size_t{be16(at + 1)};
        break;
      case kNewReference:
        at = atom(at + 3) + 1 + 4 * std::size_t{be16(at + 1)};
        break;
      case kExport:
        at = atom(atom(at + 1)) + 2;
        break;
      case kNewFun: {  // module, two integers, a pid and the free variables follow its header as terms
        const std::size_t free = be32(at + kFunHeader - 4);
        pending += 4 + free;
        at += kFunHeader;
        break;
      }
      case kRecord:  // module, name, names and values follow its header as terms
        pending += 2 + std::size_t{be32(at + 1)} * 2;
        at += kRecordHeader;
        break;
      case kAtomUtf8:
      case kAtom:
      case kSmallAtomUtf8:
      case kSmallAtom:
      case kLocalAtom:
        at = atom(at);
        break;
      default:
        at += term_length(at);
    }
  } while (pending != 0);
}

}  // namespace scope::codec
