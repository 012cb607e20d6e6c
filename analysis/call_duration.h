// How long the call that a function_exit or function_exception ends took: the time since its function_entry in the same
// process. nullopt where the entry was not recorded (or the budget ran out while looking for it).
// Thread: one object per query, one thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include "analysis/clock_model.h"
#include "analysis/event_scan.h"

namespace scope::analysis {

inline constexpr std::uint32_t kEntryType =
    1u << static_cast<unsigned>(codec::EventType::function_entry);
inline constexpr std::uint32_t kExitTypes =
    1u << static_cast<unsigned>(codec::EventType::function_exit) |
    1u << static_cast<unsigned>(codec::EventType::function_exception);

// The entry of the call that `exit` ends, in units before place `before` in View::units(); `passed` exits of the same
// function, whose entries are to be passed over, lie between. nullopt: not recorded, or the budget ran out.
std::optional<RawTime> entry_before(const Context& context, const store::StoredRow& exit,
                                    std::size_t before, std::size_t passed);

class CallDuration {
 public:
  explicit CallDuration(const Context& context) : context_(context) {}

  // The calls of a unit (entries and exits), before of() is asked about its rows.
  void read(std::uint32_t unit, const store::Rows& rows);
  // `exit` is a row of the unit read last.
  std::optional<std::int64_t> of(const store::StoredRow& exit) const;

 private:
  struct Found {
    std::optional<RawTime> entry;
    std::size_t older =
        0;  // exits of the same function before this one whose entries, too, are in older units
  };
  const Context& context_;
  std::uint32_t unit_ = 0;
  std::map<EventId, Found> exits_;
};

}  // namespace scope::analysis
