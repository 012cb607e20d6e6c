// RowStream: the rows of a range, all processes together, in order of corrected time: for what must see events as they
// happened (matching messages, causal traces) and keeps little of each.
//
// What   Units are read by their oldest row; at any time those are held whose rows overlap the present one, which is as
//        many as there are nodes, as a rule. Of the ScanSpec are used: processes, incarnations, types, mfas, match_hashes,
//        since, until, upper, payload.
// Life   Refers to context and clock. A row's views live as long as `owner`, which is cheap to keep.
// Cut    When the budget is spent it ends early (cut()); what was given until then is everything before its last row.
// Errors A block that cannot be read is counted, not fatal.
// Thread One.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "analysis/event_scan.h"

namespace scope::analysis {

class RowStream {
 public:
  RowStream(const Context& context, const ClockModel& clock, ScanSpec spec);
  RowStream(const RowStream&) = delete;
  RowStream& operator=(const RowStream&) = delete;

  struct Item {
    const store::StoredRow* row = nullptr;
    Corrected at;
    std::uint32_t unit = 0;  // index into View::units()
    std::shared_ptr<const void> owner;
  };
  // The next row; valid until the next call. False: that was all, or the budget is spent.
  bool next(Item& out);

  bool cut() const { return cut_; }
  std::uint64_t corrupt_blocks() const { return corrupt_.size(); }
  std::span<const std::uint32_t> corrupt_units() const { return corrupt_; }

 private:
  struct Place {  // one row of an open unit
    Corrected at;
    std::uint32_t row = 0;
  };
  struct Open {
    store::Rows rows;
    std::vector<Place> order;
    std::size_t next = 0;
    std::uint32_t unit = 0;
  };
  bool later(const Open& a, const Open& b) const;
  void open_units();

  const Context& context_;
  const ClockModel& clock_;
  const ScanSpec spec_;
  const Plan plan_;
  const store::RowFilter filter_;
  std::size_t next_unit_ = 0;
  std::vector<std::unique_ptr<Open>> open_;  // a heap: the unit with the oldest next row on top
  std::unique_ptr<Open> given_;              // holds the row given last
  bool cut_ = false;
  std::vector<std::uint32_t> corrupt_;
};

}  // namespace scope::analysis
