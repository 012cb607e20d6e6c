// ClockEstimator: pings of one session in, versions of the clock model out. The daemon keeps one per incarnation.
//
// Rule   A ping that left at S and came back at R (cluster time of the daemon's monotonic clock), answered by the agent at
//        raw time A, proves that the offset at A lies in [S - A, R - A]: midpoint +- half the round trip.
// Combine Any number of pings bound the offset at one time together: each one's interval, widened by how far the clock can
//        have drifted since (or until). So the quickest of a burst give the bound, however slow the others were.
// When   A version is worth storing: the first; then at growing distances (a quarter of the session's age, kFirstIntervalNs to
//        kSteadyIntervalNs); under round trips of kFarNs and more before drift has widened the last one by a sixteenth, as
//        they tell little of the rate; and at once when a ping contradicts what the last version allows (a step, or another rate):
//        then also all pings among which the new rate may have begun, so that the kink lies between close points.
// Revise As soon as the rate is known twice as well, the versions of the window are given anew with that rate (same raw_at;
//        clock_model.h): the first second of a session is bounded as well as what follows. Revisions come before the newest.
// Drift  Erlang's monotonic time is no plain crystal: erts corrects its rate, by 20/2048 (9,766 ppm) when Erlang system
//        time is far off the OS's, by 1/2048 (488 ppm) otherwise, and decides so every 15 to 60 s (erl_time_sup.c).
//        - kWideDriftPpb (1.05 %) bounds everything that erts and a crystal do together. It is used as long as the rate
//          was not observed for kObserveNs.
//        - Later the rate is measured over all of the last 30 s, and the bound is the measurement's own uncertainty plus
//          kWanderPpb, what crystals and NTP (which slews by up to 500 ppm, but slowly) change meanwhile.
//        What this cannot see: between two pings erts may turn its large correction on. Until the next ping contradicts
//        (at once, if it moved by more than the bound) the error is understated, by at most 1.05 % of the time between
//        two pings. Afterwards the model is right for that time too. What pings of that time had told of earlier times is
//        taken back.
// Thread One. No I/O: the caller stores what comes back (TraceStore::add_clock).
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "analysis/clock_cone.h"
#include "ei_codec/base/ids.h"
#include "store/view.h"

namespace scope::analysis {

inline constexpr std::int32_t kWanderPpb = 50'000;

struct Ping {
  ClusterTime sent, received;  // the daemon's monotonic clock as cluster time
  RawTime raw;                 // the agent's clocks, read together
  std::int64_t system_ns = 0;
};

class ClockEstimator {
 public:
  explicit ClockEstimator(Incarnation incarnation) : incarnation_(incarnation) {}

  // The versions to store now, oldest first: revisions, then what is new. Pings must come in order of `received`; one whose
  // round trip is negative is ignored.
  std::vector<store::ClockVersion> add(const Ping& ping);

 private:
  struct Rate {
    std::int32_t drift_ppb = 0, bound_ppb = kWideDriftPpb;
  };
  store::ClockVersion version_of(const Ping& ping, ClusterTime now) const;
  std::optional<Rate> observe() const;
  bool combine(store::ClockVersion& version, Rate rate) const;
  std::vector<store::ClockVersion> contradicted(const Ping& ping);
  std::vector<store::ClockVersion> grown(const Ping& ping);

  Incarnation incarnation_;
  std::deque<Ping> window_;                 // the last kWindowNs since the last contradiction
  std::deque<store::ClockVersion> stored_;  // what was stored of that time, the last at least
};

}  // namespace scope::analysis
