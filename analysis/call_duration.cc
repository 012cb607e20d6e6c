#include "analysis/call_duration.h"

#include <algorithm>
#include <limits>
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
  const auto entry = entry_before(context_, exit, unit_, found->second.older);
  if (!entry) return std::nullopt;
  return exit.record.time.ns - entry->ns;
}

std::optional<RawTime> entry_before(const Context& context, const store::StoredRow& exit,
                                    std::size_t before, std::size_t passed) {
  if (before == 0) return std::nullopt;
  // Backwards: every exit of the same function on the way belongs to an entry before it.
  const store::MfaPattern mfa{exit.record.mfa.module, exit.record.mfa.function,
                              exit.record.mfa.arity};
  const store::TimeRange until{exit.process.incarnation,
                               RawTime{std::numeric_limits<std::int64_t>::min()}, exit.record.time};
  store::Selection selection;
  auto& filter = selection.rows;
  filter.processes = {&exit.process, 1};
  filter.types = kEntryType | kExitTypes;
  filter.mfas = {&mfa, 1};
  filter.until = exit.record.time;
  filter.payload = false;
  selection.times = {&until, 1};
  const auto found = context.view->candidates(selection);
  for (auto i = found.units.rbegin(); i != found.units.rend(); ++i) {
    if (*i >= before) continue;
    if (context.budget.spent()) return std::nullopt;
    const auto rows = context.view->read(context.view->units()[*i], filter);
    if (!rows) continue;
    for (auto row = rows->rows.rbegin(); row != rows->rows.rend(); ++row) {
      if (is_exit(*row)) {
        ++passed;
      } else if (passed == 0) {
        return row->record.time;
      } else {
        --passed;
      }
    }
  }
  return std::nullopt;
}

}  // namespace scope::analysis
