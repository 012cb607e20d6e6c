#include "analysis/row_stream.h"

#include <algorithm>
#include <tuple>

namespace scope::analysis {
namespace {

ScanSpec oldest_first(ScanSpec spec) {
  spec.order = Order::oldest_first;
  return spec;
}

}  // namespace

RowStream::RowStream(const Context& context, const ClockModel& clock, ScanSpec spec)
    : context_(context),
      clock_(clock),
      spec_(oldest_first(std::move(spec))),
      plan_(make_plan(context, clock, spec_)),
      filter_(row_filter(spec_, plan_)) {}

bool RowStream::later(const Open& a, const Open& b) const {
  const auto& x = a.order[a.next];
  const auto& y = b.order[b.next];
  if (x.at.time != y.at.time) return x.at.time > y.at.time;
  return a.rows.rows[x.row].id() > b.rows.rows[y.row].id();
}

// All units that may hold a row at or before the oldest that is open.
void RowStream::open_units() {
  const auto order = [this](const auto& a, const auto& b) { return later(*a, *b); };
  while (next_unit_ < plan_.units.size() && !cut_) {
    const auto& candidate = plan_.units[next_unit_];
    if (!open_.empty()) {
      const auto& top = *open_.front();
      if (top.order[top.next].at.time.ns < candidate.oldest) return;
    }
    if (next_unit_ > 0 && context_.budget.spent()) {
      cut_ = true;
      return;
    }
    ++next_unit_;
    auto rows = context_.view->read(context_.view->units()[candidate.unit], filter_);
    if (!rows) {
      corrupt_.push_back(candidate.unit);
      continue;
    }
    auto open = std::make_unique<Open>();
    open->rows = *std::move(rows);
    open->unit = candidate.unit;
    for (std::uint32_t i = 0; i < open->rows.rows.size(); ++i) {
      const auto& row = open->rows.rows[i];
      const auto at = clock_.cluster(row.process.incarnation, row.record.time);
      if ((spec_.since && at.time < *spec_.since) || (spec_.until && at.time > *spec_.until))
        continue;
      open->order.push_back({at, i});
    }
    if (open->order.empty()) continue;
    // Rows of a unit are sorted by id, so equal times stand in that order.
    std::ranges::sort(open->order, {}, [](const Place& p) { return std::tuple(p.at.time, p.row); });
    open_.push_back(std::move(open));
    std::ranges::push_heap(open_, order);
  }
}

bool RowStream::next(Item& out) {
  const auto order = [this](const auto& a, const auto& b) { return later(*a, *b); };
  if (given_ && given_->next < given_->order.size()) {
    open_.push_back(std::move(given_));
    std::ranges::push_heap(open_, order);
  }
  given_.reset();
  open_units();
  // Where it was cut, an unread unit may hold rows older than those still open.
  if (open_.empty() || cut_) return false;
  std::ranges::pop_heap(open_, order);
  given_ = std::move(open_.back());
  open_.pop_back();
  const auto& place = given_->order[given_->next++];
  out.row = &given_->rows.rows[place.row];
  out.at = place.at;
  out.unit = given_->unit;
  if (out.owner != given_->rows.owner) out.owner = given_->rows.owner;
  return true;
}

}  // namespace scope::analysis
