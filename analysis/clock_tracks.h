// What MessageClocks refines: the points of each incarnation, and where a message's ends lie among them. Its sources' alone.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <vector>

#include "analysis/clock_cone.h"
#include "analysis/clock_messages.h"

namespace scope::analysis {

// The points of one incarnation that are refined.
struct MessageClocks::Track {
  std::vector<store::ClockVersion> points;
  std::vector<store::ClockVersion> was;  // as they came; of an added one its version is 0
  bool older = false;  // there are versions before the first point, which then does not move
  std::vector<const store::ClockVersion*> pings;  // of each point as it came: the newest, or null
  // From each point to the next, as rows of one node keep their order: after a step any time later, else after a third of
  // their distance at least.
  std::deque<Corner> order;

  // The index of the point at that raw time; a new one is as the point before it.
  std::size_t point(std::int64_t raw) {
    const auto next = std::partition_point(points.begin(), points.end(),
                                           [&](const auto& v) { return v.raw_at.ns < raw; });
    const auto i = next - points.begin();
    if (next != points.end() && next->raw_at.ns == raw) return static_cast<std::size_t>(i);
    store::ClockVersion v = points[static_cast<std::size_t>(std::max<std::ptrdiff_t>(i - 1, 0))];
    v.raw_at = RawTime{raw};
    v.version = 0;
    points.insert(next, v);
    was.insert(was.begin() + i, v);
    return static_cast<std::size_t>(i);
  }
  // By the pings alone, as if no message had been seen.
  void begin_again() {
    std::size_t after = 0;
    const store::ClockVersion* before = nullptr;
    for (std::size_t i = 0; i < points.size(); ++i) {
      if (pings[i] != nullptr) before = pings[i];
      if (!moves(i)) continue;
      if (pings[i] != nullptr) {
        points[i] = *pings[i];
        continue;
      }
      for (after = std::max(after, i); after < pings.size() && pings[after] == nullptr;) ++after;
      if (before == nullptr) continue;
      const auto* next = after == pings.size() ? nullptr : pings[after];
      auto& v = points[i];
      const auto [ns, range] = offset_between(before, next, v.raw_at.ns);
      v.lower_ns = range.low;
      v.upper_ns = range.high;
      v.offset_ns = std::clamp(ns, range.low, range.high);
      v.drift_ppb = before->drift_ppb;
      v.drift_bound_ppb = before->drift_bound_ppb;
      if (next != nullptr) {
        v.drift_bound_ppb = stepped(*before, *next)
                                ? kWithinStepPpb
                                : static_cast<std::int32_t>(bound_between(*before, *next));
      }
    }
  }
  bool moves(std::size_t i) const { return i > 0 || !older; }
  bool covers(std::int64_t raw) const { return !older || raw >= points.front().raw_at.ns; }
};

// A raw time of an incarnation between (or beyond) its points.
struct MessageClocks::Side {
  Side(Track& of, std::int64_t at) : track(of), raw(at) {
    const auto next = std::partition_point(of.points.begin(), of.points.end(),
                                           [&](const auto& v) { return v.raw_at.ns <= at; });
    after = static_cast<std::size_t>(next - of.points.begin());
    if (after == 0 || after == of.points.size()) return;
    const auto &a = of.points[after - 1], &b = of.points[after];
    share = static_cast<double>(at - a.raw_at.ns) / static_cast<double>(b.raw_at.ns - a.raw_at.ns);
    inside = true;
  }
  OffsetAt offset() const {
    const auto& p = track.points;
    return offset_between(after > 0 ? &p[after - 1] : nullptr,
                          after < p.size() ? &p[after] : nullptr, raw);
  }
  // f(index, weight) of the one or two points that the offset here is made of.
  template <typename F>
  void points(F f) const {
    if (!inside || share == 0) return f(after == 0 ? 0 : after - 1, 1.0);
    f(after - 1, 1 - share);
    f(after, share);
  }
  // How far the nearest point is.
  std::int64_t alone() const {
    std::int64_t least = INT64_MAX;
    points([&](std::size_t i, double) {
      least = std::min(least, std::abs(track.points[i].raw_at.ns - raw));
    });
    return least;
  }
  // A step lies between the points: what is known here is known of neither of them.
  bool torn() const {
    return inside && raw != track.points[after - 1].raw_at.ns &&
           stepped(track.points[after - 1], track.points[after]);
  }
  std::int64_t bound() const {
    std::int64_t most = 0;
    points([&](std::size_t i, double) {
      most = std::max<std::int64_t>(most, track.points[i].drift_bound_ppb);
    });
    return most;
  }

  Track& track;
  std::int64_t raw;
  std::size_t after = 0;
  double share = 0;
  bool inside = false;
};

struct MessageClocks::Pair {
  Corner& corner;
  Side a, b;
  bool exact;
  std::int64_t early;  // how long before it was sent it was fetched: project()'s last pass
};

}  // namespace scope::analysis
