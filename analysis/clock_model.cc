#include "analysis/clock_model.h"

#include <algorithm>
#include <cstdlib>
#include <tuple>
#include <utility>

#include "analysis/clock_cone.h"

namespace scope::analysis {
namespace {

using store::ClockVersion;

constexpr std::int64_t kRoundingNs = 4;

}  // namespace

ClockModel::ClockModel(const store::View& view, std::optional<std::int64_t> pinned)
    : pinned_(pinned) {
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
    Versions all(first, last);
    while (!all.empty() && !visible(all.back())) all = all.first(all.size() - 1);
    by_incarnation_[info.number] = all;
    for (auto v = all.rbegin(); v != all.rend(); ++v) {
      if (v->raw_at.ns + kRevisedNs < all.back().raw_at.ns) break;
      if (visible(*v)) version_ = std::max(version_, v->measured_at.ns);
    }
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

ClockModel::Neighbours ClockModel::around(Versions all, std::int64_t raw) const {
  const auto next = std::partition_point(all.begin(), all.end(),
                                         [&](const ClockVersion& v) { return v.raw_at.ns <= raw; });
  Neighbours out;
  // Of versions of one raw time the newest stands last.
  for (auto v = next; v != all.begin() && out.before == nullptr;) {
    if (visible(*--v)) out.before = &*v;
  }
  for (auto v = next; v != all.end(); ++v) {
    if (out.after != nullptr && v->raw_at != out.after->raw_at) break;
    if (visible(*v)) out.after = &*v;
  }
  return out;
}

const ClockVersion* ClockModel::newest(Incarnation incarnation) const {
  return around(versions(incarnation), INT64_MAX).before;
}

ClockModel::Offset ClockModel::offset(Incarnation incarnation, std::int64_t raw) const {
  const auto all = versions(incarnation);
  if (all.empty()) {
    if (incarnation >= guessed_offset_.size()) return {};
    return {guessed_offset_[incarnation], kUnknownError};
  }
  const auto [before, after] = around(all, raw);
  const auto [at, range] = offset_between(before, after, raw);
  return {at, std::max({range.high - at, at - range.low, std::int64_t{0}})};
}

Corrected ClockModel::cluster(Incarnation incarnation, RawTime raw) const {
  const Offset o = offset(incarnation, raw.ns);
  return {ClusterTime{raw.ns + o.ns}, o.error_ns};
}

ClockModel::Raw ClockModel::raw(Incarnation incarnation, ClusterTime time) const {
  const auto all = versions(incarnation);
  // offset() changes by at most 1 % of the way, so this converges by a factor of 100 a step, but for where the clock stepped.
  std::int64_t raw =
      time.ns - (all.empty() ? offset(incarnation, 0).ns : newest(incarnation)->offset_ns);
  const auto try_one = [&] {
    const Offset o = offset(incarnation, raw);
    const std::int64_t missed = time.ns - o.ns - raw;
    return std::pair(missed, o.error_ns);
  };
  auto [missed, error] = try_one();
  for (int step = 0; step < 6 && missed != 0; ++step) {
    raw += missed;
    std::tie(missed, error) = try_one();
  }
  if (std::abs(missed) <= kRoundingNs) return {RawTime{raw}, error};
  // Corrected time keeps the order of raw time: halve where it can be.
  std::int64_t low = raw, high = raw;
  for (const auto& v : all) {
    low = std::min(low, time.ns - v.offset_ns);
    high = std::max(high, time.ns - v.offset_ns);
  }
  const std::int64_t beyond = (high - low) / 50 + kRoundingNs;
  low -= beyond;
  high += beyond;
  while (low < high) {
    raw = low + (high - low) / 2;
    std::tie(missed, error) = try_one();
    if (missed <= 0)
      high = raw;
    else
      low = raw + 1;
  }
  raw = low;
  error = try_one().second;
  return {RawTime{raw}, error};
}

std::optional<ClusterTime> ClockModel::from_system(Incarnation incarnation,
                                                   std::int64_t system_ns) const {
  const auto all = versions(incarnation);
  if (all.empty()) return std::nullopt;
  // The newest version whose own system time is not after the time asked for; else the first.
  const ClockVersion* chosen = &all.front();
  for (const ClockVersion& v : all) {
    if (visible(v) && v.raw_at.ns + v.raw_to_system_ns <= system_ns) chosen = &v;
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
