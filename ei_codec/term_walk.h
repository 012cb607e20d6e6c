// TermWalk: the check that nearly all terms pass, in one loop without recursion that only counts the terms still awaited.
// What is rare, nested deeply or wrong it leaves to validate()'s whole check (term_validate.cc), which says why.
// For the codec's own sources: its readers keep one for a batch.
#pragma once

#include <algorithm>
#include <array>

#include "ei_codec/batch_strings.h"
#include "ei_codec/term_tags.h"

namespace scope::codec::etf {

// Is every byte of [p, p + n) below 128? Overlapping words, because atoms are short and many.
inline bool ascii(const std::byte* p, std::size_t n) {
  constexpr std::uint64_t kHigh = 0x8080808080808080ULL;
  std::uint64_t seen = 0;
  if (n >= 8) {
    seen = le64(p) | le64(p + n - 8);
    for (std::size_t i = 8; i + 8 < n; i += 8) seen |= le64(p + i);
  } else if (n >= 4) {
    seen = le32(p) | le32(p + n - 4);
  } else if (n > 0) {
    seen = static_cast<std::uint64_t>(u8(p) | u8(p + n / 2) | u8(p + n - 1));
  }
  return (seen & kHigh) == 0;
}

// The same. REQUIRES n <= 16, and that 16 bytes are readable.
inline bool short_ascii(const std::byte* p, std::size_t n) {
  constexpr std::uint64_t kHigh = 0x8080808080808080ULL;
  static constexpr auto kMasks = [] {
    std::array<std::array<std::uint64_t, 2>, 17> masks{};
    for (std::size_t i = 0; i <= 16; ++i) {
      masks[i][0] = i >= 8 ? kHigh : kHigh & ((1ULL << 8 * i) - 1);
      masks[i][1] = i <= 8 ? 0 : i == 16 ? kHigh : kHigh & ((1ULL << 8 * (i - 8)) - 1);
    }
    return masks;
  }();
  return ((le64(p) & kMasks[n][0]) | (le64(p + 8) & kMasks[n][1])) == 0;
}

// Is that UTF-8 of at most kMaxAtomChars characters? REQUIRES that it is not ascii().
bool utf8_atom(const std::byte* p, std::size_t n);

// `Strings`: the table's own type where it is known, so that asking it is no virtual call.
template <typename Strings>
class TermWalk {
 public:
  // So many bytes from a term's start on are read without asking for the end, where `readable` allows it.
  static constexpr std::ptrdiff_t kRoom = 48;

  // Bytes up to `readable` may be looked at, whatever the end of the term's own bytes. No strings, no local atoms.
  TermWalk(const std::byte* readable, const Strings* strings, bool local_allowed)
      : readable_(readable), strings_(strings), local_allowed_(local_allowed) {}

  // The end of the term at `at`, which is not beyond `end`; nullptr: ask validate(). REQUIRES end <= readable.
  const std::byte* end_of(const std::byte* at, const std::byte* end) {
    std::size_t pending = 1, containers = 0;
    if (readable_ - at > kRoom) {
      const std::byte* const until = end > readable_ - kRoom ? readable_ - kRoom : end;
      if (!steps<true>(at, until, end, pending, containers)) return nullptr;
    }
    if (pending != 0 && !steps<false>(at, end, end, pending, containers)) return nullptr;
    return at <= end && containers <= kMaxDepth ? at : nullptr;
  }
  // Did a walk, since this was last set to false, meet an atom by number?
  bool local_atoms = false;

 private:
  template <bool kFast>
  bool steps(const std::byte*& from, const std::byte* until, const std::byte* end,
             std::size_t& pending_terms, std::size_t& all_containers);

  template <bool kFast>
  static const std::byte* text_end(const std::byte* text, std::size_t length,
                                   const std::byte* end) {
    if (kFast && length <= 16 && short_ascii(text, length)) return text + length;
    const bool good = end - text >= static_cast<std::ptrdiff_t>(length) &&
                      (ascii(text, length) || utf8_atom(text, length));
    return good ? text + length : nullptr;
  }
  const std::byte* local_end(const std::byte* p, const std::byte* end) {
    if (!local_allowed_ || end - p < 5) return nullptr;
    if (strings_) {
      if constexpr (requires { strings_->find(0); }) {
        if (!strings_->find(be32(p + 1))) return nullptr;
      } else {
        if (!strings_->atom(be32(p + 1))) return nullptr;
      }
    }
    local_atoms = true;
    return p + 5;
  }
  // An atom inside a pid, a port or a reference, and `after` bytes.
  template <bool kFast>
  const std::byte* node_end(const std::byte* p, std::ptrdiff_t after, const std::byte* end) {
    if (end - p < 2) return nullptr;
    if (u8(p) == kLocalAtom) {
      p = local_end(p, end);
    } else {
      p = u8(p) == kSmallAtomUtf8 ? text_end<kFast>(p + 2, u8(p + 1), end) : nullptr;
    }
    return p && end - p >= after ? p + after : nullptr;
  }

  // The tags as numbers without holes: a switch over the tags themselves becomes a dozen comparisons.
  enum Step : std::uint8_t {
    kOther,
    kByteStep,
    kIntegerStep,
    kNilStep,
    kAtomStep,
    kLocalAtomStep,
    kTupleStep,
    kBigStep,
    kBinaryStep,
    kStringStep,
    kListStep,
    kMapStep,
    kLargeTupleStep,
    kPidStep,
    kReferenceStep,
    kFloatStep,
  };
  static constexpr std::array<Step, 256> kSteps = [] {
    std::array<Step, 256> steps{};
    steps[kSmallInteger] = kByteStep;
    steps[kInteger] = kIntegerStep;
    steps[kNil] = kNilStep;
    steps[kSmallAtomUtf8] = kAtomStep;
    steps[kLocalAtom] = kLocalAtomStep;
    steps[kSmallTuple] = kTupleStep;
    steps[kSmallBig] = kBigStep;
    steps[kBinary] = kBinaryStep;
    steps[kString] = kStringStep;
    steps[kList] = kListStep;
    steps[kMap] = kMapStep;
    steps[kLargeTuple] = kLargeTupleStep;
    steps[kNewPid] = steps[kV4Port] = kPidStep;
    steps[kNewerReference] = kReferenceStep;
    steps[kNewFloat] = kFloatStep;
    return steps;
  }();

  const std::byte* const readable_;
  const Strings* const strings_;
  const bool local_allowed_;
};

// Terms that begin before `until`. Fast: kRoom bytes from there on are readable, so that what is short needs no check of its
// length here; that it passed the end is seen at the next step or after the last.
template <typename Strings>
template <bool kFast>
bool TermWalk<Strings>::steps(const std::byte*& from, const std::byte* until, const std::byte* end,
                              std::size_t& pending_terms, std::size_t& all_containers) {
  const std::byte* at = from;
  std::size_t pending = pending_terms, containers = all_containers;
  const auto left = [&] { return static_cast<std::size_t>(end - at); };
  do {
    if (at >= until) {
      if (kFast) break;
      return false;
    }
    --pending;
    if (!kFast && left() < 2) {
      if (u8(at) != kNil) return false;
      ++at;
      continue;
    }
    switch (kSteps[u8(at)]) {
      case kByteStep:
        at += 2;
        break;
      case kNilStep:
        ++at;
        break;
      case kAtomStep:
        at = text_end<kFast>(at + 2, u8(at + 1), end);
        if (!at) return false;
        break;
      case kLocalAtomStep:
        at = local_end(at, end);
        if (!at) return false;
        break;
      case kTupleStep:
        pending += u8(at + 1);
        ++containers;
        at += 2;
        break;
      case kIntegerStep:
        if (!kFast && left() < 5) return false;
        at += 5;
        break;
      case kBigStep: {
        const std::size_t size = std::size_t{3} + u8(at + 1);
        if (left() < size) return false;
        at += size;
        break;
      }
      case kBinaryStep: {
        if (!kFast && left() < 5) return false;
        const std::size_t size = std::size_t{5} + be32(at + 1);
        if (left() < size) return false;
        at += size;
        break;
      }
      case kStringStep: {
        if (!kFast && left() < 3) return false;
        const std::size_t size = std::size_t{3} + be16(at + 1);
        if (left() < size) return false;
        at += size;
        break;
      }
      case kListStep: {
        if (!kFast && left() < 5) return false;
        const std::size_t count = be32(at + 1);
        if (count == 0) return false;
        pending += count + 1;
        ++containers;
        at += 5;
        break;
      }
      case kMapStep:
        if (!kFast && left() < 5) return false;
        pending += std::size_t{be32(at + 1)} * 2;
        ++containers;
        at += 5;
        break;
      case kLargeTupleStep:
        if (!kFast && left() < 5) return false;
        pending += be32(at + 1);
        ++containers;
        at += 5;
        break;
      case kPidStep:
        at = node_end<kFast>(at + 1, 12, end);
        if (!at) return false;
        break;
      case kReferenceStep: {
        if (!kFast && left() < 3) return false;
        const std::size_t words = be16(at + 1);
        if (words < 1 || words > 5) return false;
        at = node_end<kFast>(at + 3, static_cast<std::ptrdiff_t>(4 + 4 * words), end);
        if (!at) return false;
        break;
      }
      case kFloatStep:
        if ((!kFast && left() < 9) || !finite(be64(at + 1))) return false;
        at += 9;
        break;
      default:
        return false;
    }
  } while (pending != 0);
  from = at;
  pending_terms = pending;
  all_containers = containers;
  return true;
}

}  // namespace scope::codec::etf
