// What an answer lacks (api.md, completeness): from the gap rows of the range, and from what the daemon says of the present.
// Thread: pure.
#pragma once

#include <optional>
#include <span>

#include "analysis/clock_model.h"
#include "analysis/query.h"

namespace scope::analysis {

// The gaps of these incarnations (empty: all) that overlap [from, until] (open where empty), plus the coverage of their
// nodes. Gaps of unknown time (a clock never measured) are always listed. What was `asked` for by name must be traced for
// an empty answer to mean anything: each kind of event, each process, the function.
struct Asked {
  Asked(std::uint32_t t, std::span<const ProcessId> p = {}) : types(t), processes(p) {}

  std::uint32_t types;  // all: whatever is traced
  std::span<const ProcessId> processes;
  const MfaSpec* function = nullptr;  // null: any
  std::span<const std::string> modules = {};
};
Completeness certify(const Context& context, const ClockModel& clock,
                     std::span<const Incarnation> incarnations, const Asked& asked,
                     std::optional<ClusterTime> from, std::optional<ClusterTime> until,
                     std::optional<store::Lsn> upper = {});

}  // namespace scope::analysis
