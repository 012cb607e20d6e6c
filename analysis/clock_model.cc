#include "analysis/clock_model.h"

#include <algorithm>
#include <cstdlib>

namespace scope::analysis {
namespace {

using store::ClockVersion;

// `ppb` parts per billion of `distance` ns, without overflow for any distance of a node's life.
std::int64_t part(std::int64_t ppb, std::int64_t distance) {
  return static_cast<std::int64_t>(static_cast<double>(ppb) * static_cast<double>(distance) * 1e-9);
}

struct Range {
  std::int64_t low, high;
};

// Where the offset can be `distance` ns of raw time after (before, if negative) the version was measured.
Range cone(const ClockVersion& v, std::int64_t distance, std::int64_t bound_ppb) {
  const std::int64_t moved = part(v.drift_ppb, distance);
  const std::int64_t wide = part(bound_ppb, std::abs(distance));
  return {v.lower_ns + moved - wide, v.upper_ns + moved + wide};
}

}  // namespace

ClockModel::ClockModel(const store::View& view, std::optional<std::int64_t> pinned) {
  const auto clocks = view.clocks();
  const auto infos = view.incarnations();
  Incarnation largest = 0;
  for (const auto& info : infos) largest = std::max(largest, info.number);
  by_incarnation_.resize(largest + 1);
  guessed_offset_.resize(largest + 1, 0);
  for (const auto& info : infos) {
    const auto first = std::partition_point(
        clocks.begin(), clocks.end(), [&](const auto& v) { return v.incarnation < info.number; });
    const auto last = std::partition_point(
        first, clocks.end(), [&](const auto& v) { return v.incarnation == info.number; });
    auto end = last;
    if (pinned) {
      end = std::partition_point(
          first, last, [&](const ClockVersion& v) { return v.measured_at.ns <= *pinned; });
    }
    by_incarnation_[info.number] = {first, end};
    if (end != first) version_ = std::max(version_, std::prev(end)->measured_at.ns);
  }
  if (pinned) version_ = *pinned;
  for (const auto& info : infos) {
    if (info.agent_id == 0 || !by_incarnation_[info.number].empty()) continue;
    std::optional<std::int64_t> oldest;
    for (const auto& unit : view.units()) {
      for (const auto& range : unit.ranges) {
        if (range.incarnation != info.number) continue;
        oldest = oldest ? std::min(*oldest, range.oldest.ns) : range.oldest.ns;
      }
    }
    if (oldest) guessed_offset_[info.number] = info.first_seen.ns - *oldest;
  }
}

std::span<const ClockVersion> ClockModel::versions(Incarnation incarnation) const {
  if (incarnation >= by_incarnation_.size()) return {};
  return by_incarnation_[incarnation];
}

const ClockVersion* ClockModel::newest(Incarnation incarnation) const {
  const auto all = versions(incarnation);
  return all.empty() ? nullptr : &all.back();
}

ClockModel::Offset ClockModel::offset(Incarnation incarnation, std::int64_t raw) const {
  const auto all = versions(incarnation);
  if (all.empty()) {
    if (incarnation >= guessed_offset_.size()) return {};
    return {guessed_offset_[incarnation], kUnknownError};
  }
  const auto after = std::partition_point(
      all.begin(), all.end(), [&](const ClockVersion& v) { return v.raw_at.ns <= raw; });
  if (after == all.begin() || after == all.end()) {
    const ClockVersion& v = after == all.begin() ? all.front() : all.back();
    const std::int64_t distance = raw - v.raw_at.ns;
    const std::int64_t at = v.offset_ns + part(v.drift_ppb, distance);
    const Range range = cone(v, distance, v.drift_bound_ppb);
    return {at, std::max(range.high - at, at - range.low)};
  }
  const ClockVersion& a = *std::prev(after);
  const ClockVersion& b = *after;
  const std::int64_t span =
      b.raw_at.ns - a.raw_at.ns;  // > 0, or partition_point would have passed b
  const double share = static_cast<double>(raw - a.raw_at.ns) / static_cast<double>(span);
  const std::int64_t at = a.offset_ns + static_cast<std::int64_t>(
                                            static_cast<double>(b.offset_ns - a.offset_ns) * share);
  // A wide bound on one side says that the rate may have changed in this segment: it holds for both cones.
  const std::int64_t bound = std::max(a.drift_bound_ppb, b.drift_bound_ppb);
  const Range from_a = cone(a, raw - a.raw_at.ns, bound);
  const Range from_b = cone(b, raw - b.raw_at.ns, bound);
  Range range{std::max(from_a.low, from_b.low), std::min(from_a.high, from_b.high)};
  if (range.low > range.high) {
    range = {std::min(from_a.low, from_b.low), std::max(from_a.high, from_b.high)};
  }
  return {at, std::max({range.high - at, at - range.low, std::int64_t{0}})};
}

Corrected ClockModel::cluster(Incarnation incarnation, RawTime raw) const {
  const Offset o = offset(incarnation, raw.ns);
  return {ClusterTime{raw.ns + o.ns}, o.error_ns};
}

ClockModel::Raw ClockModel::raw(Incarnation incarnation, ClusterTime time) const {
  const auto all = versions(incarnation);
  // offset() changes by at most 1 % of the way, so this converges by a factor of 100 a step.
  std::int64_t raw = time.ns - (all.empty() ? offset(incarnation, 0).ns : all.back().offset_ns);
  Offset o;
  for (int step = 0; step < 6; ++step) {
    o = offset(incarnation, raw);
    const std::int64_t next = time.ns - o.ns;
    if (next == raw) break;
    raw = next;
  }
  return {RawTime{raw}, o.error_ns};
}

std::optional<ClusterTime> ClockModel::from_system(Incarnation incarnation,
                                                   std::int64_t system_ns) const {
  const auto all = versions(incarnation);
  if (all.empty()) return std::nullopt;
  // The newest version whose own system time is not after the time asked for; else the first.
  const ClockVersion* chosen = &all.front();
  for (const ClockVersion& v : all) {
    if (v.raw_at.ns + v.raw_to_system_ns <= system_ns) chosen = &v;
  }
  return cluster(incarnation, RawTime{system_ns - chosen->raw_to_system_ns}).time;
}

Result<ClusterTime> resolve_time(const Context& context, const ClockModel& clock,
                                 const TimeSpec& time) {
  if (const auto* at = std::get_if<ClusterTime>(&time)) return *at;
  if (std::holds_alternative<Now>(time)) return context.now;
  if (const auto* ago = std::get_if<Ago>(&time)) return ClusterTime{context.now.ns - ago->ns};
  const auto& at = std::get<AtNode>(time);
  // Of the node's incarnations, the last whose clock puts that time after it was first heard of.
  std::optional<ClusterTime> found;
  bool known = false;
  for (const auto& info : context.view->incarnations()) {
    if (info.node != at.node) continue;
    known = true;
    const auto converted = clock.from_system(info.number, at.system_ns);
    if (converted && (!found || converted->ns >= info.first_seen.ns)) found = converted;
  }
  if (!known) return fail(Code::unknown_node, "no node of that name was seen", "time", at.node);
  if (!found) {
    return fail(Code::not_recorded, "the clock of that node was never measured", "time", at.node);
  }
  return *found;
}

}  // namespace scope::analysis
