#include "analysis/clock_messages.h"

#include <algorithm>

#include "analysis/clock_cone.h"

namespace scope::analysis {
namespace {

using store::ClockVersion;

constexpr int kBoundPasses = 4, kOffsetPasses = 200;
constexpr std::size_t kLooseCorners = 32;  // more are reduced to their hull
constexpr int kRounds = 3;                 // of adding points
constexpr std::size_t kMostPoints = 512;
constexpr std::int64_t kApartNs = 20'000'000;  // points are not added nearer to others
constexpr std::int64_t kSpareNs = 500;  // by how much a pair that did not hold holds afterwards
constexpr double kFarthest = 1e15;      // ns that a point moves at once: no overflow
constexpr std::int64_t kWorthNs = 100;  // a change smaller than that is none

}  // namespace

// The points of one incarnation that are refined.
struct MessageClocks::Track {
  std::vector<ClockVersion> points;
  std::vector<ClockVersion> was;  // as they came; of an added one its version is 0
  bool older = false;  // there are versions before the first point, which then does not move

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
    if (!inside) return f(after == 0 ? 0 : after - 1, 1.0);
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
};

void MessageClocks::hull(std::vector<Corner>& corners) {
  std::ranges::sort(corners, [](const Corner& a, const Corner& b) {
    return std::pair(a.sent, a.fetched) < std::pair(b.sent, b.fetched);
  });
  std::vector<Corner> out;
  const auto took = [](const Corner& c) { return static_cast<double>(c.fetched - c.sent); };
  for (const Corner& c : corners) {
    if (!out.empty() && out.back().sent == c.sent) continue;
    while (out.size() >= 2) {
      const Corner &a = out[out.size() - 2], &b = out.back();
      const double straight = took(a) + (took(c) - took(a)) * static_cast<double>(b.sent - a.sent) /
                                            static_cast<double>(c.sent - a.sent);
      if (took(b) < straight) break;
      out.pop_back();
    }
    out.push_back(c);
  }
  corners = std::move(out);
}

void MessageClocks::add(const EventId& send, const EventId& arrival, bool exact) {
  const auto a = send.process.incarnation, b = arrival.process.incarnation;
  if (a == b) return;
  ++stats_.pairs;
  if (count_ >= kMaxCorners) {
    ++stats_.left_out;
    return;
  }
  auto& slice = corners_[{a, b, exact}][send.time.ns / kSliceNs];
  slice.push_back({send.time.ns, arrival.time.ns});
  ++count_;
  if (slice.size() % kLooseCorners != 0) return;
  count_ -= slice.size();
  hull(slice);
  count_ += slice.size();
}

std::map<Incarnation, MessageClocks::Track> MessageClocks::tracks(
    std::span<const ClockVersion> clocks) {
  std::map<Incarnation, Track> out;
  for (auto first = clocks.begin(); first != clocks.end();) {
    const auto last = std::partition_point(first, clocks.end(), [&](const ClockVersion& v) {
      return v.incarnation == first->incarnation;
    });
    const std::int64_t from = std::prev(last)->raw_at.ns - kRefinedNs;
    const auto begin = std::partition_point(
        first, last, [&](const ClockVersion& v) { return v.raw_at.ns < from; });
    Track track;
    track.older = begin != first;
    for (auto v = begin; v != last; ++v) {
      if (!track.points.empty() && track.points.back().raw_at == v->raw_at) {
        track.points.back() = *v;  // a revision
      } else {
        track.points.push_back(*v);
      }
    }
    track.was = track.points;
    out.emplace(first->incarnation, std::move(track));
    first = last;
  }
  return out;
}

void MessageClocks::forget(const std::map<Incarnation, Track>& tracks) {
  count_ = 0;
  for (auto direction = corners_.begin(); direction != corners_.end();) {
    auto& [key, slices] = *direction;
    const auto a = tracks.find(std::get<0>(key));
    if (a == tracks.end() || !tracks.contains(std::get<1>(key))) {
      slices.clear();
    } else {
      const std::int64_t oldest = a->second.points.back().raw_at.ns - kRefinedNs;
      std::erase_if(slices, [&](const auto& s) { return (s.first + 1) * kSliceNs < oldest; });
    }
    for (auto& [slice, corners] : slices) {
      hull(corners);
      count_ += corners.size();
    }
    direction = slices.empty() ? corners_.erase(direction) : std::next(direction);
  }
}

std::vector<MessageClocks::Pair> MessageClocks::pairs(std::map<Incarnation, Track>& tracks) {
  std::vector<Pair> out;
  for (auto& [key, slices] : corners_) {
    const auto [from, to, exact] = key;
    Track &a = tracks.at(from), &b = tracks.at(to);
    for (auto& [slice, corners] : slices) {
      for (Corner& c : corners) {
        if (c.dropped || !a.covers(c.sent) || !b.covers(c.fetched)) continue;
        out.push_back({c, Side(a, c.sent), Side(b, c.fetched), exact});
      }
    }
  }
  return out;
}

void MessageClocks::tighten(std::span<Pair> pairs) {
  bool changed = true;
  for (int pass = 0; changed && pass < kBoundPasses; ++pass) {
    changed = false;
    for (auto& [c, a, b, exact] : pairs) {
      if (!exact || c.dropped) continue;
      const std::int64_t took = c.fetched - c.sent;
      const std::int64_t lowest = a.offset().range.low - took;    // of b at the fetch
      const std::int64_t highest = b.offset().range.high + took;  // of a at the send
      const auto carried = [](const Side& side, std::int64_t limit, std::size_t i, int sign) {
        const ClockVersion& v = side.track.points[i];
        const std::int64_t way = v.raw_at.ns - side.raw;
        return limit + part(v.drift_ppb, way) + sign * part(side.bound(), std::abs(way));
      };
      bool room = true;
      b.points([&](std::size_t i, double) {
        room = room && carried(b, lowest, i, -1) <= b.track.points[i].upper_ns;
      });
      a.points([&](std::size_t i, double) {
        room = room && carried(a, highest, i, 1) >= a.track.points[i].lower_ns;
      });
      if (!room) {
        c.dropped = true;
        ++stats_.contradict;
        continue;
      }
      const auto set = [&](std::int64_t& bound, std::int64_t to) {
        changed = true;
        bound = to;
      };
      b.points([&](std::size_t i, double) {
        auto& v = b.track.points[i];
        const auto low = carried(b, lowest, i, -1);
        if (b.track.moves(i) && low >= v.lower_ns + kWorthNs) set(v.lower_ns, low);
      });
      a.points([&](std::size_t i, double) {
        auto& v = a.track.points[i];
        const auto high = carried(a, highest, i, 1);
        if (a.track.moves(i) && high <= v.upper_ns - kWorthNs) set(v.upper_ns, high);
      });
    }
  }
}

void MessageClocks::project(std::span<Pair> pairs) {
  stats_.unresolved = 1;
  for (int pass = 0; stats_.unresolved > 0 && pass < kOffsetPasses; ++pass) {
    stats_.unresolved = 0;
    for (auto& [c, a, b, exact] : pairs) {
      if (c.dropped) continue;
      const std::int64_t early = c.sent + a.offset().ns - c.fetched - b.offset().ns;
      if (early <= 0) continue;
      ++stats_.unresolved;
      double norm = 0;
      const auto width = [](const ClockVersion& v) {
        return static_cast<double>(v.upper_ns - v.lower_ns + 1);
      };
      for (const Side* side : {&a, &b}) {
        side->points([&](std::size_t i, double weight) {
          if (side->track.moves(i)) norm += weight * weight * width(side->track.points[i]);
        });
      }
      if (norm <= 0) continue;
      const double step = static_cast<double>(early + kSpareNs) / norm;
      const auto move = [&](const Side& side, double sign) {
        side.points([&](std::size_t i, double weight) {
          auto& v = side.track.points[i];
          if (!side.track.moves(i)) return;
          const double by = std::clamp(sign * step * weight * width(v), -kFarthest, kFarthest);
          v.offset_ns =
              std::clamp(v.offset_ns + static_cast<std::int64_t>(by), v.lower_ns, v.upper_ns);
        });
      };
      move(a, -1);
      move(b, 1);
    }
  }
}

// Where straight lines from point to point do not let the pairs hold, a point between: the rate changed there, or this is
// beyond the last one. False: no more are needed, or may be had.
bool MessageClocks::add_points(std::map<Incarnation, Track>& tracks, std::span<const Pair> pairs) {
  std::map<Track*, std::vector<std::int64_t>> wanted;
  std::map<Track*, std::int64_t> last;  // the last raw time that any pair speaks of
  for (const auto& p : pairs) {
    for (const Side* side : {&p.a, &p.b}) {
      const auto at = last.try_emplace(&side->track, side->raw).first;
      at->second = std::max(at->second, side->raw);
    }
  }
  for (const auto& [c, a, b, exact] : pairs) {
    if (c.dropped || c.sent + a.offset().ns <= c.fetched + b.offset().ns) continue;
    for (const Side* side : {&a, &b}) {
      if (side->alone() < kApartNs) continue;
      const bool beyond = side->after == side->track.points.size();
      wanted[&side->track].push_back(beyond ? last.at(&side->track) : side->raw);
    }
  }
  bool added = false;
  for (auto& [incarnation, track] : tracks) {
    auto& times = wanted[&track];
    std::ranges::sort(times);
    for (const auto raw : times) {
      if (track.points.size() >= kMostPoints) break;
      const Side side(track, raw);
      if (side.alone() < kApartNs) continue;  // one was added next to it
      const auto [ns, range] = side.offset();
      ClockVersion v = track.points[side.after == 0 ? 0 : side.after - 1];
      v.drift_bound_ppb = static_cast<std::int32_t>(side.bound());
      v.raw_at = RawTime{raw};
      v.lower_ns = range.low;
      v.upper_ns = range.high;
      v.offset_ns = std::clamp(ns, range.low, range.high);
      v.version = 0;
      const auto at = static_cast<std::ptrdiff_t>(side.after);
      track.points.insert(track.points.begin() + at, v);
      track.was.insert(track.was.begin() + at, v);
      added = true;
    }
  }
  return added;
}

std::vector<ClockVersion> MessageClocks::refine(std::span<const ClockVersion> clocks) {
  auto all = tracks(clocks);
  forget(all);
  auto known = pairs(all);
  tighten(known);
  for (auto& [incarnation, track] : all) {
    for (auto& v : track.points) v.offset_ns = std::clamp(v.offset_ns, v.lower_ns, v.upper_ns);
  }
  project(known);
  for (int round = 0; stats_.unresolved > 0 && round < kRounds && add_points(all, known); ++round) {
    known = pairs(all);
    project(known);
  }
  std::vector<ClockVersion> out;
  for (auto& [incarnation, track] : all) {
    bool ordered = true;
    for (std::size_t i = 1; i < track.points.size(); ++i) {
      const auto &a = track.points[i - 1], &b = track.points[i];
      ordered = ordered && b.offset_ns - a.offset_ns > (a.raw_at.ns - b.raw_at.ns) / 2;
    }
    if (!ordered) continue;
    for (std::size_t i = 0; i < track.points.size(); ++i) {
      auto &now = track.points[i], &was = track.was[i];
      const std::int64_t changed =
          std::max({std::abs(now.offset_ns - was.offset_ns), now.lower_ns - was.lower_ns,
                    was.upper_ns - now.upper_ns});
      if (changed < kWorthNs && was.version != 0) continue;
      now.source = 2;
      out.push_back(now);
    }
  }
  return out;
}

}  // namespace scope::analysis
