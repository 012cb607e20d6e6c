#include "analysis/call_duration.h"

#include <algorithm>
#include <vector>

namespace scope::analysis {
namespace {

bool is_entry(const store::StoredRow& row) {
  return row.record.type == codec::EventType::function_entry;
}
bool is_exit(const store::StoredRow& row) {
  return (1u << static_cast<unsigned>(row.record.type) & kExitTypes) != 0;
}

}  // namespace

void CallDuration::read(std::uint32_t unit, const store::Rows& rows) {
  unit_ = unit;
  exits_.clear();
  std::vector<const store::StoredRow*> open, older;
  ProcessId process;
  for (const auto& row : rows.rows) {
    if (row.process != process) {
      open.clear();
      older.clear();
      process = row.process;
    }
    if (is_entry(row)) open.push_back(&row);
    if (!is_exit(row)) continue;
    const auto same = [&](const auto* other) { return other->record.mfa == row.record.mfa; };
    const auto entry = std::find_if(open.rbegin(), open.rend(), same);
    if (entry == open.rend()) {
      exits_[row.id()].older =
          static_cast<std::size_t>(std::count_if(older.begin(), older.end(), same));
      older.push_back(&row);
    } else {
      exits_[row.id()].entry = (*entry)->record.time;
      open.erase(std::prev(entry.base()), open.end());  // what was called inside has ended too
    }
  }
}

std::optional<std::int64_t> CallDuration::of(const store::StoredRow& exit) const {
  const auto found = exits_.find(exit.id());
  if (found == exits_.end()) return std::nullopt;
  if (found->second.entry) return exit.record.time.ns - found->second.entry->ns;
  // Backwards through older units: every exit of the same function on the way belongs to an entry before it.
  std::size_t passed = found->second.older;
  store::RowFilter filter;
  filter.processes = {&exit.process, 1};
  filter.types = kEntryType | kExitTypes;
  filter.until = exit.record.time;
  filter.payload = false;
  const auto units = context_.view->units();
  for (std::size_t i = unit_; i-- > 0;) {
    const auto& unit = units[i];
    if ((unit.types & kEntryType) == 0) continue;
    const bool here = std::any_of(unit.ranges.begin(), unit.ranges.end(), [&](const auto& range) {
      return range.incarnation == exit.process.incarnation && range.oldest <= exit.record.time;
    });
    if (!here) continue;
    if (context_.budget.spent()) return std::nullopt;
    const auto rows = context_.view->read(unit, filter);
    if (!rows) continue;
    for (auto row = rows->rows.rbegin(); row != rows->rows.rend(); ++row) {
      if (row->record.mfa != exit.record.mfa) continue;
      if (is_exit(*row)) {
        ++passed;
      } else if (passed == 0) {
        return exit.record.time.ns - row->record.time.ns;
      } else {
        --passed;
      }
    }
  }
  return std::nullopt;
}

}  // namespace scope::analysis
