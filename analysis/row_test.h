// RowTest: what a filter asks of a row beyond what units are asked for, and the scan that serves it. For get_events and
// aggregate.
//
// Life   Refers to the context, the clock and the filter, which outlive it; scan() specs refer to it.
// Thread One object per query, one thread.
#pragma once

#include <optional>
#include <vector>

#include "analysis/call_duration.h"
#include "analysis/completeness.h"
#include "analysis/event_scan.h"
#include "analysis/query.h"
#include "analysis/resolve.h"
#include "analysis/text_search.h"

namespace scope::analysis {

class RowTest {
 public:
  RowTest(const Context& context, const ClockModel& clock, const Filter& filter);
  RowTest(const RowTest&) = delete;

  // Resolves names within [from, until] and fills everything of `spec` that comes from the filter, but times, order, limit
  // and position. Call once, first.
  Status prepare(ClusterTime from, ClusterTime until, ScanSpec& spec);

  Verdict accept(const store::StoredRow& row, Hit& hit);
  // Does prepare()'s scan say it all, so that accept() is `yes` of every row?
  bool by_scan() const;
  // The rows of a unit before they are judged: min_duration needs the calls around them.
  void read(std::uint32_t unit, const store::Rows& rows);

  const std::optional<Process>& pid() const { return pid_; }
  // What is asked for by name; refers to this object and the filter.
  Asked asked() const;
  // Of the rows asked for, whose incarnations? Empty: all.
  std::vector<Incarnation> concerned(const ScanSpec& spec) const;

 private:
  const Context& context_;
  const ClockModel& clock_;
  const Filter& filter_;
  std::optional<Process> pid_, peer_;
  std::optional<PeerMatcher> peer_matcher_;
  std::optional<CallDuration> durations_;
  std::optional<TextSearch> text_;
  std::uint32_t types_ = ~0u;
};

bool matches(const MfaSpec& spec, const codec::Mfa& mfa);

}  // namespace scope::analysis
