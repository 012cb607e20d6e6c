// ClockModel: raw time of a node <-> cluster time, with an error bound (model.md, Time).
//
// What   The versions of each incarnation (View::clocks) are points; between two points the offset is interpolated, before
//        the first and after the last it goes on with that version's drift. The true offset lies in a cone around each
//        point that widens by drift_bound_ppb; the error of an answer is the distance to the far side of what both cones
//        allow (or of both together where they contradict each other: a step of the node's clock).
//        Within one incarnation corrected time keeps the order of raw time.
// Revision  A version with the same raw_at as an older one takes its place: what was learnt later bounds an earlier time
//        better, for at most kRevisedNs back.
// Version  A model is named by one number, the largest measured_at of its versions; made with that number it gives the
//        same correction for ever, whatever was measured or revised since. Cursors carry it.
// Life   Refers to the view, which must outlive it. Thread: immutable.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "analysis/query.h"
#include "ei_codec/base/ids.h"
#include "store/view.h"

namespace scope::analysis {

// How far behind the newest version of its incarnation one may be revised.
inline constexpr std::int64_t kRevisedNs = 60'000'000'000;

class ClockModel {
 public:
  // `pinned`: only versions measured until then.
  explicit ClockModel(const store::View& view, std::optional<std::int64_t> pinned = {});

  Corrected cluster(Incarnation incarnation, RawTime raw) const;

  struct Raw {
    RawTime time;
    std::int64_t error_ns = kUnknownError;
  };
  Raw raw(Incarnation incarnation, ClusterTime time) const;

  // The node's own system clock at that time, by the newest version at or before it. nullopt: never measured.
  std::optional<ClusterTime> from_system(Incarnation incarnation, std::int64_t system_ns) const;

  // The newest version of an incarnation in this model; null: never measured.
  const store::ClockVersion* newest(Incarnation incarnation) const;

  std::int64_t version() const { return version_; }

 private:
  struct Offset {
    std::int64_t ns = 0, error_ns = kUnknownError;
  };
  struct Neighbours {  // null: none on that side
    const store::ClockVersion *before = nullptr, *after = nullptr;
  };
  using Versions = std::span<const store::ClockVersion>;
  Offset offset(Incarnation incarnation, std::int64_t raw) const;
  Neighbours around(Versions all, std::int64_t raw) const;
  bool visible(const store::ClockVersion& v) const {
    return !pinned_ || v.measured_at.ns <= *pinned_;
  }
  Versions versions(Incarnation incarnation) const;

  std::optional<std::int64_t> pinned_;
  std::vector<Versions> by_incarnation_;  // the last of each is visible
  std::vector<std::int64_t>
      guessed_offset_;  // where nothing was measured: first heard of = its first row
  std::int64_t version_ = 0;
};

// The time that a TimeSpec means. Errors: unknown_node, not_recorded ({at, Node, _} of a node whose clock was never
// measured).
Result<ClusterTime> resolve_time(const Context& context, const ClockModel& clock,
                                 const TimeSpec& time);

}  // namespace scope::analysis
