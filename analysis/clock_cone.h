// Where an offset can be: the arithmetic that the clock model, its estimator and its refinement by messages share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "store/view.h"

namespace scope::analysis {

// `ppb` parts per billion of `distance` ns, without overflow for any distance of a node's life.
inline std::int64_t part(std::int64_t ppb, std::int64_t distance) {
  return static_cast<std::int64_t>(static_cast<double>(ppb) * static_cast<double>(distance) * 1e-9);
}

struct OffsetRange {
  std::int64_t low = 0, high = 0;
};

// Where the offset can be `distance` ns of raw time after (before, if negative) the version was measured.
inline OffsetRange cone(const store::ClockVersion& v, std::int64_t distance,
                        std::int64_t bound_ppb) {
  const std::int64_t moved = part(v.drift_ppb, distance);
  const std::int64_t wide = part(bound_ppb, std::abs(distance));
  return {v.lower_ns + moved - wide, v.upper_ns + moved + wide};
}

// What erts and a crystal do together at most.
inline constexpr std::int32_t kWideDriftPpb = 10'500'000;
// The drift bound of a point within a step: its range holds all that may be there, its neighbours' cones say nothing of it.
inline constexpr std::int32_t kWithinStepPpb = INT32_MAX;

inline bool within_step(const store::ClockVersion& v) {
  return v.drift_bound_ppb == kWithinStepPpb;
}

// A wide bound on one side says that the rate may have changed in this segment: it holds for both cones.
inline std::int64_t bound_between(const store::ClockVersion& a, const store::ClockVersion& b) {
  const auto most = std::max(a.drift_bound_ppb, b.drift_bound_ppb);
  return most == kWithinStepPpb ? kWideDriftPpb : most;
}

// REQUIRES a before b. No drift leads from one to the other: the raw clock stepped somewhere between, or may have.
inline bool stepped(const store::ClockVersion& a, const store::ClockVersion& b) {
  if (within_step(a) || within_step(b)) return true;
  const OffsetRange from_a = cone(a, b.raw_at.ns - a.raw_at.ns, bound_between(a, b));
  return from_a.low > b.upper_ns || from_a.high < b.lower_ns;
}

// The offset taken at a raw time, and where it can be.
struct OffsetAt {
  std::int64_t ns = 0;
  OffsetRange range;
};

// From the versions before and after that time; one of them may be null.
inline OffsetAt offset_between(const store::ClockVersion* before, const store::ClockVersion* after,
                               std::int64_t raw) {
  if (before == nullptr || after == nullptr) {
    const auto& v = before == nullptr ? *after : *before;
    const std::int64_t distance = raw - v.raw_at.ns;
    return {v.offset_ns + part(v.drift_ppb, distance), cone(v, distance, v.drift_bound_ppb)};
  }
  const auto &a = *before, &b = *after;
  const std::int64_t span = b.raw_at.ns - a.raw_at.ns;  // REQUIRES > 0
  const double share = static_cast<double>(raw - a.raw_at.ns) / static_cast<double>(span);
  const std::int64_t bound = bound_between(a, b);
  const OffsetRange from_a = cone(a, raw - a.raw_at.ns, bound);
  const OffsetRange from_b = cone(b, raw - b.raw_at.ns, bound);
  OffsetRange range{std::max(from_a.low, from_b.low), std::min(from_a.high, from_b.high)};
  if (range.low > range.high || within_step(a) || within_step(b)) {
    // Before the step or after it; where `a` was measured, before.
    range = raw == a.raw_at.ns
                ? from_a
                : OffsetRange{std::min(from_a.low, from_b.low), std::max(from_a.high, from_b.high)};
  }
  return {a.offset_ns +
              static_cast<std::int64_t>(static_cast<double>(b.offset_ns - a.offset_ns) * share),
          range};
}

}  // namespace scope::analysis
