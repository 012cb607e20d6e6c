#include "analysis/get_events.h"

#include <algorithm>
#include <limits>

#include "analysis/completeness.h"
#include "analysis/cursor.h"
#include "analysis/event_scan.h"
#include "analysis/row_test.h"

namespace scope::analysis {
namespace {

constexpr std::size_t kMaxUndecided = 100'000;  // of which the places are kept

// Has a page that ends at `resume` (nowhere: at the end) passed that row?
bool passed(Order order, const std::optional<Position>& resume, const Hit& row) {
  if (!resume) return true;
  if (!resume->id) {
    return order == Order::newest_first ? row.at.time > resume->time : row.at.time < resume->time;
  }
  Hit last;
  last.at.time = resume->time;
  last.id = *resume->id;
  return !before(order, last, row);
}

}  // namespace

Result<EventsPage> get_events(const Context& context, const Filter& filter) {
  EventsPage page;
  if (filter.explain) page.explain.emplace();
  Explain* const explain = page.explain ? &*page.explain : nullptr;
  Walk walk;
  ScanSpec spec;
  std::optional<ClockModel> model;
  std::optional<RowTest> test;
  {
    const Timed timed(explain, "resolve");
    ASSIGN_OR_RETURN(walk, begin_walk(context, filter, Question::get_events));
    model.emplace(*context.view, walk.clock_version);
    test.emplace(context, *model, filter);
    const ClusterTime from =
        walk.since.value_or(ClusterTime{std::numeric_limits<std::int64_t>::min()});
    RETURN_IF_ERROR(test->prepare(from, walk.until.value_or(context.now), spec));
  }
  const ClockModel& clock = *model;
  page.pid = test->pid();
  spec.since = walk.since;
  spec.until = walk.until;
  spec.order = filter.order;
  spec.limit = filter.limit;
  spec.after = walk.after;
  spec.upper = walk.upper;
  spec.explain = explain;
  std::vector<Hit> undecided;
  bool undecided_more = false;
  const auto accept = [&](const store::StoredRow& row, Hit& hit) {
    const Verdict verdict = test->accept(row, hit);
    if (verdict == Verdict::unknown) {
      if (undecided.size() < kMaxUndecided) {
        undecided.push_back(hit);
      } else {
        undecided_more = true;
      }
    }
    return verdict == Verdict::yes;
  };
  if (!test->by_scan()) spec.accept = accept;

  auto found = scan(context, clock, spec);
  Loaded loaded;
  {
    const Timed timed(explain, "load");
    loaded = load(context, found.hits, filter.max_bytes);
  }
  std::optional<Position> resume = found.resume;
  if (loaded.size_cut) {
    const auto& last = loaded.events.back();
    resume = Position{last.at.time, last.row.id()};
  }
  if (resume) page.next = next_cursor(walk, Question::get_events, clock.version(), *resume);
  page.events = std::move(loaded.events);
  page.owners = std::move(loaded.owners);

  // The range that this page covers: from where it began to where it ended.
  std::optional<ClusterTime> low = walk.since, high = walk.until;
  const bool newest = filter.order == Order::newest_first;
  if (walk.after) (newest ? high : low) = walk.after->time;
  if (resume) (newest ? low : high) = resume->time;
  {
    const Timed timed(explain, "completeness");
    page.completeness =
        certify(context, clock, test->concerned(spec), test->asked(), low, high, walk.upper);
  }
  page.completeness.corrupt_blocks += found.corrupt_blocks + loaded.corrupt_blocks;
  page.completeness.truncated = loaded.truncated;
  page.completeness.redacted = loaded.redacted;
  page.completeness.undecided = static_cast<std::uint64_t>(std::ranges::count_if(
      undecided, [&](const Hit& h) { return passed(filter.order, resume, h); }));
  page.completeness.undecided_at_least = undecided_more || found.skipped_by_text;
  page.completeness.size_cut = loaded.size_cut;
  page.completeness.deadline_cut = page.completeness.deadline_cut || found.cut;

  if (page.pid && page.events.empty() && page.next.empty() && !walk.after) {
    bool seen = false;
    ASSIGN_OR_RETURN(seen, recorded(context, *page.pid));
    if (!seen) {
      return fail(Code::no_such_process, "nothing was ever recorded of that process", "pid",
                  pid_text(page.pid->id, page.pid->serial) + " on " + page.pid->node);
    }
  }
  return page;
}

}  // namespace scope::analysis
