// At what rate rows were sampled when they were captured: by the gap rows `sampled` (a start's sample), `fewer_tracees`
// (what the budget's ladder left) and, of messages sent and fetched, `fan_out` (the share of their receivers), each with the
// time that it tells of. Several at once multiply. Where starts with different samples run at once, `flags` says what
// counts for the events of each trace flag, the largest of those that set it: no row counts for more than it may. Where a
// sample's row has not come yet, the newest few seconds, the daemon's present word holds (Coverage).
// Thread: pure.
#pragma once

#include <map>
#include <span>
#include <string_view>
#include <vector>

#include "analysis/clock_model.h"
#include "analysis/query.h"
#include "ei_codec/trace_event.h"

namespace scope::analysis {

// The event types that a process's trace flag (call, send, 'receive', procs) makes, as bits; 0: none that we know.
std::uint32_t types_of_flag(std::string_view flag);

class SampleRates {
 public:
  // Of these incarnations (empty: all), in the range and a little beyond.
  SampleRates(const Context& context, const ClockModel& clock,
              std::span<const Incarnation> incarnations, std::optional<ClusterTime> from);

  // What one row of that kind and raw time stands for: 1 or more.
  double weight(codec::EventType type, Incarnation incarnation, RawTime at) const;
  // Is each row one row, as far as the range goes?
  bool none() const { return of_.empty(); }
  // Is it the same from one time to the other?
  bool uniform(Incarnation incarnation, RawTime from, RawTime until) const;

 private:
  struct Told {
    std::int64_t from, until;
    double rate;
    std::uint32_t types;
  };
  struct Of {
    std::vector<Told> sampled, fewer, fan_out;  // ascending by `until`
    std::vector<Share> present;
    double present_fan_out = 1;
  };
  static double rate_at(const std::vector<Told>& told, std::uint32_t type, std::int64_t at,
                        double after);

  std::map<Incarnation, Of> of_;
};

}  // namespace scope::analysis
