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

// Pairs entries with exits as rows of calls pass by, in the order in which they arrived. What stays open is kept by process:
// at most kMaxOpen calls, beyond which all are forgotten (their exits are then not measured).
class CallTimes {
 public:
  static constexpr std::size_t kMaxOpen = 500'000, kMaxLookBacks = 2000;

  explicit CallTimes(const Context& context) : context_(context) {}
  void enter(std::uint32_t unit);  // before its rows
  // How long the call took that this row ends, if its entry has passed by.
  std::optional<std::int64_t> pass(const store::StoredRow& row);
  // Of the row passed last, where pass() did not know: looks for the entry before the first unit.
  std::optional<std::int64_t> look_back(const store::StoredRow& row);

 private:
  std::uint32_t number_of(const codec::Mfa& mfa);
  struct Open {
    std::uint32_t mfa;
    RawTime at;
  };
  struct Process {
    std::vector<Open> open;
    std::vector<std::uint32_t> without_entry;  // functions of exits whose entries did not pass by
  };

  const Context& context_;
  std::optional<std::uint32_t> first_unit_;
  boost::unordered_flat_map<std::string, std::uint32_t> numbers_;
  boost::unordered_flat_map<ProcessId, Process, std::hash<ProcessId>> processes_;
  std::string key_;
  std::size_t open_ = 0, look_backs_ = 0, older_ = 0;
  bool forgot_ = false;
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
