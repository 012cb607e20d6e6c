#include "analysis/clock_messages.h"

#include <algorithm>
#include <functional>

#include "analysis/clock_cone.h"
#include "analysis/clock_tracks.h"

namespace scope::analysis {
namespace {

using store::ClockVersion;

constexpr int kBoundPasses = 4;
constexpr std::size_t kOffsetPasses = 200, kMostSteps = 4'000'000;  // of one projection
constexpr std::size_t kLooseCorners = 32;  // more are reduced to their hull
// Rounds of adding corners and points: how near to others the latter are added. At erts' 1 % the last is 0.4 us.
constexpr std::int64_t kApartNs[] = {20'000'000, 20'000'000, 5'000'000, 1'000'000,
                                     200'000,    40'000,     40'000,    40'000};
constexpr std::size_t kMostPoints = 512;
// By how much a pair that did not hold holds afterwards; less in later passes: two pairs may leave less room.
constexpr std::int64_t kSpareNs = 500;
constexpr double kFarthest = 1e15;      // ns that a point moves at once: no overflow
constexpr std::int64_t kWorthNs = 100;  // a change smaller than that is none

}  // namespace

void MessageClocks::hull(std::vector<Corner>& corners) {
  std::ranges::sort(corners, [](const Corner& a, const Corner& b) {
    return std::pair(a.sent, a.fetched) < std::pair(b.sent, b.fetched);
  });
  std::vector<Corner> out;
  const auto took = [](const Corner& c) { return static_cast<double>(c.fetched - c.sent); };
  for (const Corner& c : corners) {
    if (!out.empty() && out.back().sent == c.sent) {
      out.back().stays = out.back().stays || c.stays;
      continue;
    }
    while (out.size() >= 2 && !out.back().stays) {
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

void MessageClocks::add(const EventId& send, const EventId& arrival,
                        std::optional<RawTime> proven) {
  const auto a = send.process.incarnation, b = arrival.process.incarnation;
  if (a == b) return;
  ++stats_.pairs;
  if (count_ >= kMaxCorners) {
    ++stats_.left_out;
    return;
  }
  const Corner pair{send.time.ns, arrival.time.ns};
  keep({a, b, false}, pair);
  recent_.push_back({{a, b, false}, pair});
  if (recent_.size() > kMaxRecent) recent_.pop_front();
  if (proven) keep({a, b, true}, {proven->ns, arrival.time.ns});
}

void MessageClocks::keep(const Direction& direction, const Corner& corner) {
  auto& slice = corners_[direction][corner.sent / kSliceNs];
  slice.push_back(corner);
  ++count_;
  if (slice.size() % kLooseCorners != 0) return;
  count_ -= slice.size();
  hull(slice);
  count_ += slice.size();
}

std::map<Incarnation, MessageClocks::Track> MessageClocks::tracks(
    std::span<const ClockVersion> clocks) {
  std::map<Incarnation, Track> out;
  bool contradicted = false;
  for (auto first = clocks.begin(); first != clocks.end();) {
    const auto last = std::partition_point(first, clocks.end(), [&](const ClockVersion& v) {
      return v.incarnation == first->incarnation;
    });
    const std::int64_t from = std::prev(last)->raw_at.ns - kRefinedNs;
    auto begin = std::partition_point(first, last,
                                      [&](const ClockVersion& v) { return v.raw_at.ns < from; });
    begin =
        std::find_if(begin, last, [&](const ClockVersion& v) { return v.measured_at >= begun_; });
    if (begin == last) {
      first = last;
      continue;
    }
    if (begin != first && std::prev(begin)->measured_at < begun_) --begin;  // the one that stays
    Track track;
    track.older = begin != first;
    auto& judged = judged_[first->incarnation];
    const auto known = judged;
    RawTime until{INT64_MIN};  // up to when anything was said of this clock before
    for (auto v = begin; v != last; ++v) {
      if (v->source == 2 || v->version <= known) until = v->raw_at;
    }
    for (auto v = begin; v != last; ++v) {
      if (track.points.empty() || track.points.back().raw_at != v->raw_at) {
        track.points.emplace_back();
        track.pings.push_back(nullptr);
      }
      track.points.back() = *v;
      if (v->source != 1) continue;
      track.pings.back() = &*v;
      contradicted = contradicted || (v->version > known && v->raw_at <= until &&
                                      v->drift_bound_ppb == kWideDriftPpb);
      judged = std::max(judged, v->version);
    }
    track.was = track.points;
    out.emplace(first->incarnation, std::move(track));
    first = last;
  }
  if (contradicted) {
    for (auto& [incarnation, track] : out) track.begin_again();
  }
  return out;
}

void MessageClocks::forget(const std::map<Incarnation, Track>& tracks) {
  count_ = 0;
  std::erase_if(judged_, [&](const auto& j) { return !tracks.contains(j.first); });
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
        if (!a.covers(c.sent) || !b.covers(c.fetched)) continue;
        c.dropped = false;
        out.push_back({c, Side(a, c.sent), Side(b, c.fetched), exact, 0});
      }
    }
  }
  for (auto& [incarnation, track] : tracks) {
    track.order.clear();
    for (std::size_t i = 1; i < track.points.size(); ++i) {
      const auto a = track.points[i - 1].raw_at.ns, b = track.points[i].raw_at.ns;
      const bool step = stepped(track.points[i - 1], track.points[i]);
      auto& row = track.order.emplace_back(Corner{step ? a + 1 : b - (b - a) / 3, b});
      out.push_back({row, Side(track, a), Side(track, b), step, 0});
    }
  }
  return out;
}

void MessageClocks::tighten(std::span<Pair> pairs) {
  const auto drop = [&](Corner& c) {
    c.dropped = true;
    stats_.contradict += !c.counted;
    c.counted = true;
  };
  bool changed = true;
  for (int pass = 0; changed && pass < kBoundPasses; ++pass) {
    changed = false;
    for (auto& [c, a, b, exact, early] : pairs) {
      if (!exact || c.dropped) continue;
      const std::int64_t took = c.fetched - c.sent;
      const std::int64_t lowest = a.offset().range.low - took;    // of b at the fetch
      const std::int64_t highest = b.offset().range.high + took;  // of a at the send
      const auto carried = [](const Side& side, std::int64_t limit, std::size_t i, int sign) {
        const ClockVersion& v = side.track.points[i];
        const std::int64_t way = v.raw_at.ns - side.raw;
        return limit + part(v.drift_ppb, way) + sign * part(side.bound(), std::abs(way));
      };
      const bool torn_a = a.torn(), torn_b = b.torn();
      bool room = true;
      if (torn_b) {
        room = lowest <= b.offset().range.high;
      } else {
        b.points([&](std::size_t i, double) {
          room = room && carried(b, lowest, i, -1) <= b.track.points[i].upper_ns;
        });
      }
      if (torn_a) {
        room = room && highest >= a.offset().range.low;
      } else {
        a.points([&](std::size_t i, double) {
          room = room && carried(a, highest, i, 1) >= a.track.points[i].lower_ns;
        });
      }
      if (!room) {
        drop(c);
        continue;
      }
      const auto set = [&](std::int64_t& bound, std::int64_t to) {
        changed = true;
        bound = to;
      };
      if (!torn_b)
        b.points([&](std::size_t i, double) {
          auto& v = b.track.points[i];
          const auto low = carried(b, lowest, i, -1);
          if (b.track.moves(i) && low >= v.lower_ns + kWorthNs) set(v.lower_ns, low);
        });
      if (!torn_a)
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
  const std::size_t passes = std::min(kOffsetPasses, kMostSteps / (pairs.size() + 1) + 1);
  for (std::size_t pass = 0; stats_.unresolved > 0 && pass < passes; ++pass) {
    stats_.unresolved = 0;
    const std::int64_t spare = kSpareNs >> (8 * pass / passes);
    for (auto& [c, a, b, exact, early] : pairs) {
      early = c.dropped ? 0 : c.sent + a.offset().ns - c.fetched - b.offset().ns;
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
      const double step = static_cast<double>(early + spare) / norm;
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

// Where straight lines from point to point do not let the pairs hold, a point between, the worst first: the rate changed
// there, or this is beyond the last one. False: no more are needed, or may be had.
bool MessageClocks::add_points(std::map<Incarnation, Track>& tracks, std::span<const Pair> pairs,
                               std::int64_t apart) {
  std::map<Track*, std::vector<std::pair<std::int64_t, std::int64_t>>> wanted;  // how early, raw
  std::map<Track*, std::int64_t> last;  // the last raw time that any pair speaks of
  for (const auto& p : pairs) {
    for (const Side* side : {&p.a, &p.b}) {
      const auto at = last.try_emplace(&side->track, side->raw).first;
      at->second = std::max(at->second, side->raw);
    }
  }
  for (const auto& [c, a, b, exact, early] : pairs) {
    if (early <= 0) continue;
    for (const Side* side : {&a, &b}) {
      if (side->alone() < apart || side->torn()) continue;
      const bool beyond = side->after == side->track.points.size();
      wanted[&side->track].emplace_back(early, beyond ? last.at(&side->track) : side->raw);
    }
  }
  bool added = false;
  for (auto& [incarnation, track] : tracks) {
    auto& times = wanted[&track];
    std::ranges::sort(times, std::greater());
    for (const auto& [early, raw] : times) {
      if (track.points.size() >= kMostPoints) break;
      const Side side(track, raw);
      if (side.alone() < apart) continue;  // one was added next to it
      const auto [ns, range] = side.offset();
      const auto bound = side.bound();
      const auto i = track.point(raw);
      for (auto* v : {&track.points[i], &track.was[i]}) {
        v->drift_bound_ppb = static_cast<std::int32_t>(bound);
        v->lower_ns = range.low;
        v->upper_ns = range.high;
        v->offset_ns = std::clamp(ns, range.low, range.high);
      }
      added = true;
    }
  }
  return added;
}

// False: of the newest pairs, too, no fetch stands before its send, or there is no room for more.
bool MessageClocks::look_again(std::map<Incarnation, Track>& tracks) {
  bool added = false;
  std::erase_if(recent_, [&](const Recent& r) {
    const auto a = tracks.find(std::get<0>(r.direction)), b = tracks.find(std::get<1>(r.direction));
    if (a == tracks.end() || b == tracks.end()) return true;
    const auto [sent, fetched] = std::pair(r.pair.sent, r.pair.fetched);
    if (!a->second.covers(sent) || !b->second.covers(fetched)) return true;
    const auto early =
        sent + Side(a->second, sent).offset().ns - fetched - Side(b->second, fetched).offset().ns;
    if (early <= 0 || count_ >= kMaxCorners) return false;
    auto& slice = corners_[r.direction][sent / kSliceNs];
    const auto same = std::ranges::find_if(
        slice, [&](const Corner& c) { return c.sent == sent && c.fetched == fetched; });
    if (same != slice.end()) return false;  // cannot be had
    slice.push_back(r.pair);
    slice.back().stays = true;
    ++count_;
    return added = true;
  });
  return added;
}

// Until all pairs hold, with corners and points added where they do not.
void MessageClocks::settle(std::map<Incarnation, Track>& tracks, std::vector<Pair> known) {
  project(known);
  for (const auto apart : kApartNs) {
    const bool points = stats_.unresolved > 0 && add_points(tracks, known, apart);
    const bool corners = look_again(tracks);
    if (stats_.unresolved == 0 && !corners) return;
    if (!points && !corners) continue;  // nearer
    known = pairs(tracks);
    if (corners) tighten(known);
    project(known);
  }
  // What contradicts each other took turns to the last, and moved what is near: that holds without them.
  const auto unresolved = stats_.unresolved;
  for (auto& p : known)
    p.corner.dropped = p.corner.dropped || (p.early > 0 && &p.a.track != &p.b.track);
  project(known);
  stats_.unresolved += unresolved;
}

std::vector<ClockVersion> MessageClocks::refine(std::span<const ClockVersion> clocks) {
  auto all = tracks(clocks);
  forget(all);
  find_steps(pairs(all));
  auto known = pairs(all);
  tighten(known);
  for (auto& [incarnation, track] : all) {
    for (auto& v : track.points) v.offset_ns = std::clamp(v.offset_ns, v.lower_ns, v.upper_ns);
  }
  settle(all, std::move(known));
  // A small change is none, where no pair needs it.
  const auto changed = [](const ClockVersion& now, const ClockVersion& was) {
    return std::max({std::abs(now.offset_ns - was.offset_ns), std::abs(now.lower_ns - was.lower_ns),
                     std::abs(was.upper_ns - now.upper_ns)});
  };
  for (auto& [incarnation, track] : all) {
    for (std::size_t i = 0; i < track.points.size(); ++i) {
      auto &now = track.points[i], &was = track.was[i];
      if (was.version != 0 && changed(now, was) < kWorthNs) now = was;
    }
  }
  settle(all, pairs(all));
  std::vector<ClockVersion> out;
  for (auto& [incarnation, track] : all) {
    bool ordered = true;
    for (std::size_t i = 1; i < track.points.size(); ++i) {
      const auto &a = track.points[i - 1], &b = track.points[i];
      const std::int64_t most = (b.raw_at.ns - a.raw_at.ns) / (stepped(a, b) ? 1 : 2);
      ordered = ordered && b.offset_ns - a.offset_ns > -most;
    }
    if (!ordered) continue;
    for (std::size_t i = 0; i < track.points.size(); ++i) {
      auto &now = track.points[i], &was = track.was[i];
      if (was.version != 0 && changed(now, was) == 0) continue;
      now.source = 2;
      out.push_back(now);
    }
  }
  return out;
}

}  // namespace scope::analysis
