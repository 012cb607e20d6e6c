#include "analysis/clock_estimator.h"

#include <algorithm>
#include <cstdlib>

#include "analysis/clock_cone.h"
#include "analysis/clock_model.h"

namespace scope::analysis {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kObserveNs = kSecond / 5;
constexpr std::int64_t kWindowNs = 30 * kSecond;
constexpr std::int64_t kFirstIntervalNs = kSecond / 10, kSteadyIntervalNs = 10 * kSecond;
constexpr std::int64_t kFarNs = kSecond / 100;
constexpr std::int64_t kCoarseNs = kSecond / 1000;  // a bound as wide is revised, too
constexpr std::int64_t kFenceNs = kSecond / 1000, kLeastDoubtNs = 2 * kSecond;
// A change of rate beyond kWanderPpb is taken to be as large: NTP slews by 500, erts by 488 ppm.
constexpr std::int64_t kLeastChangePpb = 200'000;
constexpr std::size_t kMaxWindow = 256;
static_assert(kWindowNs + kSteadyIntervalNs < kRevisedNs);

std::int64_t half(const Ping& p) { return (p.received.ns - p.sent.ns + 1) / 2; }
std::int64_t offset(const Ping& p) {
  return p.sent.ns + (p.received.ns - p.sent.ns) / 2 - p.raw.ns;
}

// From one version to the next.
std::int64_t interval(const store::ClockVersion& last, std::int64_t age) {
  const std::int64_t usual = std::clamp(age / 4, kFirstIntervalNs, kSteadyIntervalNs);
  const std::int64_t width = last.upper_ns - last.lower_ns;
  if (width < kFarNs) return usual;
  const double widens = 2e-9 * static_cast<double>(last.drift_bound_ppb);
  const auto far = static_cast<std::int64_t>(static_cast<double>(width) / 16 / widens);
  return std::min(usual, std::max(far, kFirstIntervalNs));
}

bool contradicts(const store::ClockVersion& v, const Ping& p) {
  const OffsetRange allowed = cone(v, p.raw.ns - v.raw_at.ns, v.drift_bound_ppb);
  return p.received.ns - p.raw.ns < allowed.low || p.sent.ns - p.raw.ns > allowed.high;
}

}  // namespace

store::ClockVersion ClockEstimator::version_of(const Ping& ping, ClusterTime now) const {
  store::ClockVersion v;
  v.incarnation = incarnation_;
  v.raw_at = ping.raw;
  v.offset_ns = offset(ping);
  v.lower_ns = ping.sent.ns - ping.raw.ns;
  v.upper_ns = ping.received.ns - ping.raw.ns;
  v.drift_bound_ppb = kWideDriftPpb;
  v.raw_to_system_ns = ping.system_ns - ping.raw.ns;
  v.measured_at = now;  // when it was decided: a model pinned before then must not see it
  v.source = 1;
  return v;
}

// The steepest and flattest line through the interval of the best new ping and those of all that are far enough from it.
// The wide bound where that is not long enough; nullopt: no constant rate explains them.
std::optional<ClockEstimator::Rate> ClockEstimator::observe() const {
  const std::int64_t newest = window_.back().raw.ns, span = newest - window_.front().raw.ns;
  const Ping* best = &window_.back();
  for (const Ping& p : window_) {
    if (newest - p.raw.ns <= span / 4 && half(p) < half(*best)) best = &p;
  }
  std::optional<double> low, high;
  for (const Ping& old : window_) {
    const std::int64_t distance = best->raw.ns - old.raw.ns;
    if (distance < kObserveNs) break;
    const double mid =
        static_cast<double>(offset(*best) - offset(old)) / static_cast<double>(distance);
    const double unsure =
        static_cast<double>(half(*best) + half(old)) / static_cast<double>(distance);
    low = std::max(low.value_or(mid - unsure), mid - unsure);
    high = std::min(high.value_or(mid + unsure), mid + unsure);
  }
  if (!low) return Rate{};
  if (*low > *high) return std::nullopt;
  const double drift = (*low + *high) / 2 * 1e9;
  const double bound = (*high - *low) / 2 * 1e9 + kWanderPpb + 1;
  if (std::abs(drift) + bound > kWideDriftPpb) return Rate{};
  return Rate{static_cast<std::int32_t>(drift), static_cast<std::int32_t>(bound)};
}

// Bounds the offset at the version's raw time by all pings of the window. False: they contradict each other at this rate.
bool ClockEstimator::combine(store::ClockVersion& version, Rate rate) const {
  OffsetRange all{INT64_MIN, INT64_MAX};
  for (const Ping& p : window_) {
    const std::int64_t distance = version.raw_at.ns - p.raw.ns;
    const std::int64_t moved = part(rate.drift_ppb, distance);
    const std::int64_t wide = part(rate.bound_ppb, std::abs(distance));
    all.low = std::max(all.low, p.sent.ns - p.raw.ns + moved - wide);
    all.high = std::min(all.high, p.received.ns - p.raw.ns + moved + wide);
  }
  if (all.low > all.high) return false;
  version.lower_ns = all.low;
  version.upper_ns = all.high;
  version.offset_ns = all.low + (all.high - all.low) / 2;
  version.drift_ppb = rate.drift_ppb;
  version.drift_bound_ppb = rate.bound_ppb;
  return true;
}

// Each ping since the last version, and before that those within which a change of rate by kLeastChangePpb was not noticed, by
// what each alone says: it may have begun between any two of them. What they told of earlier times is taken back: those are
// as the pings before have it. Shortly before the new one a version that stays wide: what is learnt of the new rate is told of
// the new one, and does not hold before it.
std::vector<store::ClockVersion> ClockEstimator::contradicted(const Ping& ping) {
  std::vector<store::ClockVersion> out, alone;
  const store::ClockVersion& known = stored_.back();
  const std::int64_t unnoticed = known.upper_ns - known.lower_ns + ping.received.ns - ping.sent.ns;
  const std::int64_t doubt = std::max(kLeastDoubtNs, unnoticed * (kSecond / kLeastChangePpb));
  const auto doubtful = std::ranges::partition_point(window_, [&](const Ping& old) {
    return old.raw < known.raw_at && ping.raw.ns - old.raw.ns >= doubt;
  });
  for (auto old = doubtful; old != window_.end(); ++old)
    alone.push_back(version_of(*old, ping.received));
  window_.erase(doubtful, window_.end());
  const auto rate = window_.empty() ? std::nullopt : observe();
  for (auto v : stored_) {
    if (window_.empty() || v.raw_at > window_.back().raw || v.raw_at < window_.front().raw)
      continue;
    if (ping.received.ns - v.measured_at.ns >= doubt) continue;
    v.measured_at = ping.received;
    if (combine(v, rate.value_or(Rate{}))) out.push_back(v);
  }
  out.insert(out.end(), alone.begin(), alone.end());
  auto before = version_of(ping, ping.received);
  const auto last = alone.empty() ? known.raw_at : alone.back().raw_at;
  const std::int64_t way = std::min(kFenceNs, (ping.raw.ns - last.ns) / 2);
  before.raw_at.ns -= way;
  before.lower_ns -= part(kWideDriftPpb, way);
  before.upper_ns += part(kWideDriftPpb, way);
  out.push_back(before);
  window_.clear();  // what was seen of the rate holds no longer
  stored_.clear();
  window_.push_back(ping);
  out.push_back(version_of(ping, ping.received));
  return out;
}

std::vector<store::ClockVersion> ClockEstimator::grown(const Ping& ping) {
  const store::ClockVersion& last = stored_.back();
  const std::int64_t age = ping.raw.ns - window_.front().raw.ns;
  if (ping.raw.ns - last.raw_at.ns < interval(last, age)) return {};
  const auto rate = observe();
  auto newest = version_of(ping, ping.received);
  if (!rate || !combine(newest, *rate)) {
    window_.pop_back();
    return contradicted(ping);
  }
  std::vector<store::ClockVersion> out;
  for (auto& v : stored_) {
    const bool better =
        v.drift_bound_ppb >= 2 * std::int64_t{rate->bound_ppb} ||
        v.upper_ns - v.lower_ns >= std::max(kCoarseNs, 2 * (newest.upper_ns - newest.lower_ns));
    if (!better) continue;
    auto again = v;
    again.measured_at = ping.received;
    if (v.raw_at < window_.front().raw || !combine(again, *rate)) continue;
    out.push_back(v = again);
  }
  out.push_back(newest);
  stored_.push_back(newest);
  return out;
}

std::vector<store::ClockVersion> ClockEstimator::add(const Ping& ping) {
  if (ping.received < ping.sent) return {};
  if (!window_.empty() && ping.raw <= window_.back().raw)
    return {};  // answered out of order: no news
  std::vector<store::ClockVersion> out;
  if (!stored_.empty() && contradicts(stored_.back(), ping)) {
    out = contradicted(ping);
  } else {
    window_.push_back(ping);
    while (window_.size() > kMaxWindow || ping.raw.ns - window_.front().raw.ns > kWindowNs) {
      window_.pop_front();
    }
    if (stored_.empty())
      out.push_back(version_of(ping, ping.received));
    else
      out = grown(ping);
  }
  // One after the other: a model pinned at one of them must not see the next.
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i].measured_at = ClusterTime{ping.received.ns + static_cast<std::int64_t>(i)};
  }
  if (stored_.empty() && !out.empty()) stored_.push_back(out.back());
  while (stored_.size() > 1 && stored_.front().raw_at < window_.front().raw) stored_.pop_front();
  return out;
}

}  // namespace scope::analysis
