#include "analysis/clock_estimator.h"

#include <algorithm>
#include <cstdlib>

namespace scope::analysis {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kObserveNs = 5 * kSecond;
constexpr std::int64_t kWindowNs = 30 * kSecond;
constexpr std::int64_t kSteadyIntervalNs = 10 * kSecond;
constexpr std::size_t kMaxWindow = 256;

std::int64_t half(const Ping& p) { return (p.received.ns - p.sent.ns + 1) / 2; }
std::int64_t offset(const Ping& p) {
  return p.sent.ns + (p.received.ns - p.sent.ns) / 2 - p.raw.ns;
}

std::int64_t part(std::int64_t ppb, std::int64_t distance) {
  return static_cast<std::int64_t>(static_cast<double>(ppb) * static_cast<double>(distance) * 1e-9);
}

bool contradicts(const store::ClockVersion& v, const Ping& p) {
  const std::int64_t distance = p.raw.ns - v.raw_at.ns;
  const std::int64_t moved = part(v.drift_ppb, distance);
  const std::int64_t wide = part(v.drift_bound_ppb, std::abs(distance));
  return p.received.ns - p.raw.ns < v.lower_ns + moved - wide ||
         p.sent.ns - p.raw.ns > v.upper_ns + moved + wide;
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

// The steepest and flattest line through this ping's interval and any far enough older one's.
void ClockEstimator::observe_drift(store::ClockVersion& version, const Ping& ping) const {
  std::optional<double> low, high;
  for (const Ping& old : window_) {
    const std::int64_t distance = ping.raw.ns - old.raw.ns;
    if (distance < kObserveNs) break;
    const double mid =
        static_cast<double>(offset(ping) - offset(old)) / static_cast<double>(distance);
    const double unsure =
        static_cast<double>(half(ping) + half(old)) / static_cast<double>(distance);
    low = std::max(low.value_or(mid - unsure), mid - unsure);
    high = std::min(high.value_or(mid + unsure), mid + unsure);
  }
  if (!low || *low > *high)
    return;  // not long enough, or no constant rate explains it: the wide bound stays
  const double drift = (*low + *high) / 2 * 1e9;
  const double bound = (*high - *low) / 2 * 1e9 + kWanderPpb;
  if (std::abs(drift) + bound > kWideDriftPpb) return;
  version.drift_ppb = static_cast<std::int32_t>(drift);
  version.drift_bound_ppb = static_cast<std::int32_t>(bound) + 1;
}

std::vector<store::ClockVersion> ClockEstimator::add(const Ping& ping) {
  if (ping.received < ping.sent) return {};
  if (!window_.empty() && ping.raw <= window_.back().raw)
    return {};  // answered out of order: no news
  std::vector<store::ClockVersion> out;
  if (!last_) {
    out.push_back(version_of(ping, ping.received));
  } else if (contradicts(*last_, ping)) {
    // The last two pings that agreed: a change of rate may have begun between them and not yet have been noticed.
    for (std::size_t back = std::min<std::size_t>(2, window_.size()); back > 0; --back) {
      const Ping& old = window_[window_.size() - back];
      if (old.raw <= last_->raw_at) continue;
      auto agreed = version_of(old, ping.received);
      if (out.empty()) {
        agreed.drift_ppb = last_->drift_ppb;
        agreed.drift_bound_ppb = last_->drift_bound_ppb;
      }
      out.push_back(agreed);
    }
    window_.clear();  // what was seen of the rate holds no longer
    out.push_back(version_of(ping, ping.received));
  } else {
    const std::int64_t elapsed = ping.raw.ns - last_->raw_at.ns;
    if (last_->drift_bound_ppb == kWideDriftPpb && elapsed >= kSecond) {
      auto v = version_of(ping, ping.received);
      observe_drift(v, ping);
      // While the rate is unknown, one point a second; but for ever only if that says something new.
      if (v.drift_bound_ppb < kWideDriftPpb || elapsed >= kSteadyIntervalNs || window_.empty() ||
          ping.raw.ns - window_.front().raw.ns < kWindowNs / 2) {
        out.push_back(v);
      }
    } else if (ping.received.ns - last_->measured_at.ns >= kSteadyIntervalNs) {
      const Ping* best = &ping;
      for (const Ping& p : window_) {
        const bool recent =
            p.raw > last_->raw_at && ping.raw.ns - p.raw.ns <= kSteadyIntervalNs / 2;
        if (recent && half(p) < half(*best)) best = &p;
      }
      auto v = version_of(*best, ping.received);
      observe_drift(v, *best);
      out.push_back(v);
    }
  }
  window_.push_back(ping);
  while (window_.size() > kMaxWindow || ping.raw.ns - window_.front().raw.ns > kWindowNs) {
    window_.pop_front();
  }
  if (!out.empty()) last_ = out.back();
  return out;
}

}  // namespace scope::analysis
