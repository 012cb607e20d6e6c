#include "analysis/follow.h"

#include <algorithm>
#include <limits>

#include "analysis/completeness.h"
#include "analysis/row_test.h"

namespace scope::analysis {
namespace {

// The tail is in none yet.
std::uint32_t newest_partition(const store::View& view) {
  std::uint32_t newest = 0;
  for (const auto& unit : view.units()) newest = std::max(newest, unit.partition);
  return newest;
}

}  // namespace

Follow::Follow(Filter filter, const store::View& view, ClusterTime now)
    : filter_(std::move(filter)),
      after_(view.upper()),
      partition_(newest_partition(view)),
      told_(now) {}

void Follow::prune(store::Lsn up_to) {
  std::erase_if(given_, [&](const auto& row) { return row.second <= up_to; });
}

Result<Follow::Page> Follow::next(const Context& context, std::uint32_t limit,
                                  std::size_t max_bytes) {
  Page page;
  const auto& view = *context.view;
  const auto units = view.units();
  const ClockModel clock(view);
  RowTest test(context, clock, filter_);
  ScanSpec spec;
  if (const auto prepared = test.prepare(told_, context.now, spec); !prepared) {
    if (prepared.error().code != Code::no_such_process) return std::unexpected(prepared.error());
    // Nothing is known of it yet, so nothing of it has come.
    after_ = view.upper();
    block_.reset();
    position_.reset();
    told_ = context.now;
    return page;
  }

  // Of [first, last) the units that are not passed.
  const auto first =
      std::ranges::partition_point(units, [&](const store::Unit& u) { return u.last <= after_; });
  const auto sealed = std::ranges::find(units, true, &store::Unit::tail);
  if (sealed != units.begin()) {
    if (const auto last = std::prev(sealed)->last; last <= after_) prune(last);
  }
  if (first == units.end()) return page;
  std::optional<ClusterTime> low = told_;
  const bool overtaken = first->partition > partition_ && first->first > after_ + 1;
  partition_ = newest_partition(view);
  if (overtaken) {
    after_ = first->first - 1;
    block_.reset();
    position_.reset();
  }
  for (auto u = first; u != units.end(); ++u) {
    for (const auto& range : u->ranges)
      low = std::min(*low, clock.cluster(range.incarnation, range.oldest).time);
  }

  const bool tail = first->tail;
  if (tail || block_ != first->last) {
    block_ = tail ? std::nullopt : std::optional(first->last);
    position_.reset();
  }
  spec.order = Order::oldest_first;
  spec.limit = limit;
  spec.lower = after_;
  spec.upper = tail ? view.upper() : *block_;
  spec.after = position_;
  std::uint64_t undecided = 0;
  spec.accept = [&](const store::StoredRow& row, Hit& hit) {
    if (given_.contains(hit.id)) return false;
    const Verdict verdict = test.accept(row, hit);
    if (verdict == Verdict::unknown) ++undecided;
    return verdict == Verdict::yes;
  };
  auto found = scan(context, clock, spec);
  auto loaded = load(context, found.hits, max_bytes);
  if (loaded.size_cut) {
    const auto& last = loaded.events.back();
    found.resume = Position{last.at.time, last.row.id()};
  }
  if (tail) {
    auto hit = found.hits.begin();  // in the events' order, and those of damaged blocks besides
    for (const auto& event : loaded.events) {
      while (hit->id != event.row.id()) ++hit;
      given_.emplace(hit->id, units[hit->unit].last);
    }
    if (!found.resume) after_ = view.upper();
  } else if (!found.resume) {
    after_ = *block_;
    prune(after_);
    block_.reset();
    position_.reset();
  } else {
    position_ = found.resume;
  }
  page.more = found.resume.has_value() || after_ < view.upper();
  page.events = std::move(loaded.events);
  page.owners = std::move(loaded.owners);
  page.completeness = certify(context, clock, test.concerned(spec), test.asked(), low, context.now);
  page.completeness.corrupt_blocks += found.corrupt_blocks + loaded.corrupt_blocks;
  page.completeness.truncated = loaded.truncated;
  page.completeness.redacted = loaded.redacted;
  page.completeness.undecided = undecided;
  if (overtaken && !page.completeness.retention) page.completeness.retention = low;
  if (!page.more) told_ = context.now;
  return page;
}

}  // namespace scope::analysis
