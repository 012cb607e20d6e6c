// When a clock stepped, as messages tell it (clock_messages.h, Steps).
#include <algorithm>
#include <map>
#include <utility>

#include "analysis/clock_tracks.h"

namespace scope::analysis {

using store::ClockVersion;

void MessageClocks::find_steps(std::span<const Pair> pairs) {
  struct Found {  // raw times: the last before the step, the first after it
    std::int64_t after = INT64_MIN, before = INT64_MAX;
    bool use() const { return after < before; }
  };
  struct Step {
    ClockVersion a, b;
    Found proven, likely;
  };
  std::map<std::pair<Track*, std::int64_t>, Step> steps;  // by the raw time of `a`
  const auto judge = [&](const Side& side, bool exact, std::int64_t limit, bool least) {
    if (!side.torn()) return;
    const auto& points = side.track.points;
    auto before = side.after - 1, after = side.after;
    while (before > 0 && within_step(points[before])) --before;
    while (after + 1 < points.size() && within_step(points[after])) ++after;
    const auto &a = points[before], &b = points[after];
    if (within_step(a) || within_step(b)) return;  // it began before what is still refined
    auto& step = steps.try_emplace({&side.track, a.raw_at.ns}, Step{a, b, {}, {}}).first->second;
    const auto holds = [&](const ClockVersion& v) {
      const auto range = cone(v, side.raw - v.raw_at.ns, bound_between(a, b));
      return least ? range.high >= limit : range.low <= limit;
    };
    const bool old = holds(a), now = holds(b);
    if (old == now) return;
    for (Found* found : {&step.likely, exact ? &step.proven : &step.likely}) {
      if (old) found->after = std::max(found->after, side.raw);
      if (now) found->before = std::min(found->before, side.raw);
    }
  };
  for (const auto& [c, a, b, exact, early] : pairs) {
    if (&a.track == &b.track) continue;
    const std::int64_t took = c.fetched - c.sent;
    judge(a, exact, b.offset().range.high + took, false);
    judge(b, exact, a.offset().range.low - took, true);
  }
  for (auto& [place, step] : steps) {
    auto& track = *place.first;
    const auto& [a, b, proven, likely] = step;
    if (!proven.use()) continue;  // they contradict each other
    const Found& line = likely.use() ? likely : proven;
    const Found ends{std::max(line.after, a.raw_at.ns), std::min(line.before, b.raw_at.ns)};
    for (const auto raw : {proven.after, proven.before, ends.after, ends.before}) {
      if (raw > a.raw_at.ns && raw < b.raw_at.ns) track.point(raw);
    }
    const auto by = [&](const ClockVersion& v, std::int64_t raw) {
      return std::pair(v.offset_ns + part(v.drift_ppb, raw - v.raw_at.ns),
                       cone(v, raw - v.raw_at.ns, bound_between(a, b)));
    };
    for (auto& v : track.points) {
      const auto raw = v.raw_at.ns;
      if (raw <= a.raw_at.ns || raw >= b.raw_at.ns) continue;
      const auto [old_ns, old] = by(a, raw);
      const auto [new_ns, now] = by(b, raw);
      const auto share = std::clamp(
          static_cast<double>(raw - ends.after) / static_cast<double>(ends.before - ends.after),
          0.0, 1.0);
      OffsetRange range{std::min(old.low, now.low), std::max(old.high, now.high)};
      v.drift_bound_ppb = kWithinStepPpb;
      if (raw <= proven.after || raw >= proven.before) {
        const bool before = raw <= proven.after;
        range = before ? old : now;
        v.drift_ppb = (before ? a : b).drift_ppb;
        v.drift_bound_ppb = static_cast<std::int32_t>(bound_between(a, b));
      }
      v.lower_ns = range.low;
      v.upper_ns = range.high;
      v.offset_ns = std::clamp(
          old_ns + static_cast<std::int64_t>(static_cast<double>(new_ns - old_ns) * share),
          range.low, range.high);
    }
  }
}

}  // namespace scope::analysis
