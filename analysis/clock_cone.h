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
  // A wide bound on one side says that the rate may have changed in this segment: it holds for both cones.
  const std::int64_t bound = std::max(a.drift_bound_ppb, b.drift_bound_ppb);
  const OffsetRange from_a = cone(a, raw - a.raw_at.ns, bound);
  const OffsetRange from_b = cone(b, raw - b.raw_at.ns, bound);
  OffsetRange range{std::max(from_a.low, from_b.low), std::min(from_a.high, from_b.high)};
  if (range.low > range.high) {
    range = {std::min(from_a.low, from_b.low), std::max(from_a.high, from_b.high)};
  }
  return {a.offset_ns +
              static_cast<std::int64_t>(static_cast<double>(b.offset_ns - a.offset_ns) * share),
          range};
}

}  // namespace scope::analysis
