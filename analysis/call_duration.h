// How long the call took that a function_exit or function_exception ends: the time since its function_entry.
//
// Which  Of one process and one function, entries and exits are brackets: an exit belongs to the newest entry before it that
//        none between has taken. So it depends on the rows between the two alone: not on where blocks end, nor on where a
//        question's range begins. Rows of a process count in the order in which they arrived, which is that of their times.
// Sure   Calls nest. Where an exit (of the functions asked for) lies between the two without its entry, something was dropped,
//        and that the two belong together is not certain: no duration is told. None is told either where the entry was not
//        recorded, where more than OpenCalls::kMostOpen calls of one process are open, or where the budget ran out.
// Thread One object per query, one thread.
#pragma once

#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "analysis/clock_model.h"
#include "analysis/event_scan.h"

namespace scope::analysis {

inline constexpr std::uint32_t kEntryType =
    1u << static_cast<unsigned>(codec::EventType::function_entry);
inline constexpr std::uint32_t kExitTypes =
    1u << static_cast<unsigned>(codec::EventType::function_exit) |
    1u << static_cast<unsigned>(codec::EventType::function_exception);

// Functions by small numbers.
class FunctionNumbers {
 public:
  std::uint32_t of(const codec::Mfa& mfa);

 private:
  boost::unordered_flat_map<std::string, std::uint32_t> numbers_;
  std::string key_;
};

// The calls of one process, as its rows pass by.
class OpenCalls {
 public:
  static constexpr std::size_t kMostOpen = 10'000;  // beyond, the older half is forgotten

  struct Ended {
    std::optional<RawTime> entry;  // passed by
    bool sure = true;
  };
  void enter(std::uint32_t function, RawTime at);
  Ended leave(std::uint32_t function);
  // The functions of exits whose entries did not pass by, oldest first.
  const std::vector<std::uint32_t>& without_entry() const { return without_entry_; }
  std::size_t size() const { return open_.size() + without_entry_.size(); }

 private:
  struct Open {
    std::uint32_t function;
    RawTime at;
    bool sure;
  };
  std::vector<Open> open_;
  std::vector<std::uint32_t> without_entry_;
};

// The entry of the call that `exit` ends, in rows older than those that passed by: in units before place `before` of
// View::units(), up to raw time `until`. `passed`: OpenCalls::without_entry() of its process when `exit` came.
// `asked`: the functions whose calls are looked at; empty: all.
std::optional<RawTime> entry_before(const Context& context,
                                    std::span<const store::MfaPattern> asked,
                                    const store::StoredRow& exit, std::size_t before, RawTime until,
                                    std::span<const std::uint32_t> passed,
                                    FunctionNumbers& functions);

// Of the exits of one unit after the other, in any order of units.
class CallDuration {
 public:
  explicit CallDuration(const Context& context) : context_(context) {}

  void ask(std::vector<store::MfaPattern> functions) {
    asked_ = std::move(functions);
  }  // their text outlives this
  // The calls of a unit (entries and exits of the functions asked for), before of() is asked about its rows.
  void read(std::uint32_t unit, const store::Rows& rows);
  // `exit` is a row of the unit read last.
  std::optional<std::int64_t> of(const store::StoredRow& exit);

 private:
  struct Found {
    OpenCalls::Ended ended;
    std::size_t passed =
        0;  // if its entry is not in this unit: so many of without_entry() came before it
  };
  const Context& context_;
  std::vector<store::MfaPattern> asked_;
  std::uint32_t unit_ = 0;
  std::map<EventId, Found> exits_;
  std::map<ProcessId, OpenCalls> processes_;
  FunctionNumbers functions_;
};

}  // namespace scope::analysis
