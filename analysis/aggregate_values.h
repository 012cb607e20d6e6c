// The two values of an aggregate: how long calls took, how long messages waited in the queue. For aggregate.cc.
// Thread: one object per query, one thread.
#pragma once

#include <boost/unordered/unordered_flat_map.hpp>
#include <functional>
#include <map>
#include <vector>

#include "analysis/call_duration.h"
#include "analysis/event_scan.h"

namespace scope::analysis {

inline constexpr std::uint32_t kTakeType = 1u
                                           << static_cast<unsigned>(codec::EventType::message_take);

// The durations of calls (call_duration.h) in a range of time: rows of it pass by in the order in which they arrived, and what
// began before it is looked for. At most kMaxOpen calls are kept, beyond which all are forgotten, and at most kMaxLookBacks
// are looked for: others are counted and not measured.
class CallTimes {
 public:
  static constexpr std::size_t kMaxOpen = 500'000, kMaxLookBacks = 2000;

  // `asked`: the functions whose rows pass by; empty: all. Outlives this.
  CallTimes(const Context& context, std::span<const store::MfaPattern> asked)
      : context_(context), asked_(asked) {}
  void next_unit();  // before its rows
  // How long the call took that this row ends, if its entry has passed by.
  std::optional<std::int64_t> pass(const store::StoredRow& row);
  // Of the row passed last, where pass() did not know: looks for the entry among rows before raw time `since`.
  std::optional<std::int64_t> look_back(const store::StoredRow& row, RawTime since);

 private:
  const Context& context_;
  const std::span<const store::MfaPattern> asked_;
  FunctionNumbers functions_;
  boost::unordered_flat_map<ProcessId, OpenCalls, std::hash<ProcessId>> processes_;
  std::size_t open_ = 0, look_backs_ = 0;
  std::size_t passed_ = 0;  // of the row passed last
  bool looks_back_ = false, forgot_ = false;
};

// Finds the sends of messages that were taken: by content, among all sends and takings of that content around.
class QueueTimes {
 public:
  static constexpr std::int64_t kLookBack = 60'000'000'000;  // longer in a queue: not measured
  static constexpr std::size_t kChunk = 20'000, kMaxRows = 200'000;
  using Sink = std::function<void(std::uint32_t group, std::int64_t ns)>;

  QueueTimes(const Context& context, const ClockModel& clock, Sink sink)
      : context_(context), clock_(clock), sink_(std::move(sink)) {}
  void taken(const store::StoredRow& row, const Hit& hit, std::uint32_t group);
  // Between units: measures what has gathered, if it is much. `all`: whatever it is.
  void settle(bool all);

  std::uint64_t corrupt_blocks() const { return corrupt_; }
  bool cut() const { return cut_; }

 private:
  struct Take {
    Hit hit;
    std::uint32_t group;
  };
  const Context& context_;
  const ClockModel& clock_;
  const Sink sink_;
  std::vector<Take> takes_;
  std::uint64_t corrupt_ = 0;
  bool cut_ = false;
};

}  // namespace scope::analysis
