// KeptEdges: what was derived before of the messages asked about, as far as it is what the view would give now.
//
// What   Answers per event: `settled` with its edge or without one (nothing of that content arrived, or nobody sent it), or
//        nothing: that slice is not kept, stale, crowded or damaged, and the caller matches for itself.
// Life   Refers to the context. Thread: one.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "analysis/edge_slices.h"

namespace scope::analysis {

struct AskedEvent {
  EventId id;
  ClusterTime at;  // by the caller's clock model
};

struct KeptAnswer {
  bool settled = false;
  std::optional<store::MessageEdge> edge;
};

class KeptEdges {
 public:
  explicit KeptEdges(const Context& context) : context_(context) {}

  // Where did these sendings arrive? In the order asked.
  std::vector<KeptAnswer> of_sends(std::span<const AskedEvent> sends);
  // Who sent what these fetches (or takings without a fetch) are?
  std::vector<KeptAnswer> of_arrivals(std::span<const AskedEvent> arrivals);

  // Blocks that could not be read when the slices used here were derived: the largest number of them in one.
  std::uint64_t corrupt_blocks() const { return corrupt_; }

 private:
  std::vector<KeptAnswer> answer(std::span<const AskedEvent> events, bool by_arrival);

  const Context& context_;
  std::uint64_t corrupt_ = 0;
};

}  // namespace scope::analysis
