// Where an offset can be: the arithmetic that the clock model, its estimator and its refinement by messages share.
#pragma once

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

}  // namespace scope::analysis
