#include "analysis/call_duration.h"

#include <algorithm>
#include <limits>

namespace scope::analysis {
namespace {

bool is_entry(const store::StoredRow& row) {
  return row.record.type == codec::EventType::function_entry;
}
bool is_exit(const store::StoredRow& row) {
  return (1u << static_cast<unsigned>(row.record.type) & kExitTypes) != 0;
}
store::MfaPattern exactly(const codec::Mfa& mfa) { return {mfa.module, mfa.function, mfa.arity}; }

// Rows of calls of one process backwards, in units before place `before`, until `each` says that it is enough.
// False: the budget ran out.
template <typename Each>
bool backwards(const Context& context, std::span<const store::MfaPattern> mfas,
               const ProcessId& process, std::size_t before, RawTime from, RawTime until,
               Each each) {
  const store::TimeRange range{process.incarnation, from, until};
  store::Selection selection;
  auto& filter = selection.rows;
  filter.processes = {&process, 1};
  filter.types = kEntryType | kExitTypes;
  filter.mfas = mfas;
  filter.from = from;
  filter.until = until;
  filter.payload = false;
  selection.times = {&range, 1};
  const auto found = context.view->candidates(selection);
  for (auto i = found.units.rbegin(); i != found.units.rend(); ++i) {
    if (*i >= before) continue;
    if (context.budget.spent()) return false;
    const auto rows = context.view->read(context.view->units()[*i], filter);
    if (!rows) continue;
    for (auto row = rows->rows.rbegin(); row != rows->rows.rend(); ++row) {
      if (each(*row)) return true;
    }
  }
  return true;
}

}  // namespace

std::uint32_t FunctionNumbers::of(const codec::Mfa& mfa) {
  key_.assign(mfa.module);
  key_ += '\0';
  key_ += mfa.function;
  key_ += '\0';
  key_ += static_cast<char>(mfa.arity);
  return numbers_.emplace(key_, static_cast<std::uint32_t>(numbers_.size())).first->second;
}

void OpenCalls::enter(std::uint32_t function, RawTime at) {
  if (open_.size() == kMostOpen) open_.erase(open_.begin(), open_.begin() + kMostOpen / 2);
  open_.push_back({function, at, true});
}

OpenCalls::Ended OpenCalls::leave(std::uint32_t function) {
  const auto top = std::find_if(open_.rbegin(), open_.rend(),
                                [&](const Open& o) { return o.function == function; });
  // What is open since then has lost its exit, or this one its entry.
  for (auto inside = open_.rbegin(); inside != top; ++inside) inside->sure = false;
  if (top == open_.rend()) {
    without_entry_.push_back(function);
    return {};
  }
  const Ended ended{top->at, top->sure};
  open_.erase(std::prev(top.base()));
  return ended;
}

std::optional<RawTime> entry_before(const Context& context,
                                    std::span<const store::MfaPattern> asked,
                                    const store::StoredRow& exit, std::size_t before, RawTime until,
                                    std::span<const std::uint32_t> passed,
                                    FunctionNumbers& functions) {
  const auto own = functions.of(exit.record.mfa);
  const auto mfa = exactly(exit.record.mfa);
  // Each exit on the way takes an entry of its function.
  auto taken = static_cast<std::size_t>(std::ranges::count(passed, own));
  std::optional<RawTime> entry;
  constexpr RawTime kEver{std::numeric_limits<std::int64_t>::min()};
  if (!backwards(context, {&mfa, 1}, exit.process, before, kEver, until,
                 [&](const store::StoredRow& row) {
                   if (is_exit(row)) {
                     ++taken;
                   } else if (taken == 0) {
                     entry = row.record.time;
                   } else {
                     --taken;
                   }
                   return entry.has_value();
                 })) {
    return std::nullopt;
  }
  const bool alone = asked.size() == 1 && !asked[0].function.empty() && asked[0].arity;
  if (!entry || alone) return entry;
  // The same over all functions, back to that entry: have all exits between theirs?
  boost::unordered_flat_map<std::uint32_t, std::size_t> exits;
  std::size_t open = 0;
  for (const auto function : passed) {
    ++exits[function];
    ++open;
  }
  bool sure = false;
  if (!backwards(context, asked, exit.process, before, *entry, until,
                 [&](const store::StoredRow& row) {
                   const auto function = functions.of(row.record.mfa);
                   auto& pending = exits[function];
                   if (is_exit(row)) {
                     ++pending;
                     ++open;
                   } else if (pending > 0) {
                     --pending;
                     --open;
                   } else if (function == own) {
                     sure = open == 0;
                     return true;
                   }
                   return false;
                 }) ||
      !sure) {
    return std::nullopt;
  }
  return entry;
}

void CallDuration::read(std::uint32_t unit, const store::Rows& rows) {
  unit_ = unit;
  exits_.clear();
  processes_.clear();
  for (const auto& row : rows.rows) {
    if (!is_entry(row) && !is_exit(row)) continue;
    auto& calls = processes_[row.process];
    const auto function = functions_.of(row.record.mfa);
    if (is_entry(row)) {
      calls.enter(function, row.record.time);
    } else {
      auto& found = exits_[row.id()];
      found.passed = calls.without_entry().size();
      found.ended = calls.leave(function);
    }
  }
}

std::optional<std::int64_t> CallDuration::of(const store::StoredRow& exit) {
  const auto at = exits_.find(exit.id());
  if (at == exits_.end()) return std::nullopt;
  const auto& found = at->second;
  auto entry = found.ended.entry;
  if (!found.ended.sure) return std::nullopt;
  if (!entry) {
    const auto& passed = processes_[exit.process].without_entry();
    entry = entry_before(context_, asked_, exit, unit_, exit.record.time,
                         std::span(passed).first(found.passed), functions_);
  }
  if (!entry) return std::nullopt;
  return exit.record.time.ns - entry->ns;
}

}  // namespace scope::analysis
