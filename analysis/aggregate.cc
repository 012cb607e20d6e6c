#include "analysis/aggregate.h"

#include <algorithm>
#include <map>

#include "analysis/aggregate_groups.h"
#include "analysis/aggregate_values.h"
#include "analysis/completeness.h"
#include "analysis/row_test.h"
#include "analysis/sample_rates.h"

namespace scope::analysis {
namespace {

using Limits = std::numeric_limits<std::int64_t>;
constexpr std::int64_t kSecond = 1'000'000'000;

std::int64_t second_of(RawTime time) { return time.ns / kSecond - (time.ns % kSecond < 0 ? 1 : 0); }

// The raw times of an incarnation whose corrected times lie in [since, until], exactly.
class Inside {
 public:
  Inside(const ClockModel& clock, const ScanSpec& range) : clock_(clock), range_(range) {}

  bool holds(Incarnation i, RawTime raw) const {
    const auto at = clock_.cluster(i, raw).time;
    return (!range_.since || at >= *range_.since) && (!range_.until || at <= *range_.until);
  }
  store::TimeRange of(Incarnation i) const {
    store::TimeRange out{i, {Limits::min()}, {Limits::max()}};
    if (range_.since && plain(*range_.since)) out.from = RawTime{first_at(i, *range_.since)};
    if (range_.until && plain(*range_.until)) {
      out.until = RawTime{first_at(i, ClusterTime{range_.until->ns + 1}) - 1};
    }
    return out;
  }

 private:
  static bool plain(ClusterTime t) { return t.ns > Limits::min() / 2 && t.ns < Limits::max() / 2; }
  // The first raw time that is not corrected to before `t`. Corrected time keeps the order of raw time.
  std::int64_t first_at(Incarnation i, ClusterTime t) const {
    const std::int64_t near = clock_.raw(i, t).time.ns;
    const auto early = [&](std::int64_t raw) { return clock_.cluster(i, RawTime{raw}).time < t; };
    std::int64_t low = near, high = near;
    for (std::int64_t step = 1000; !early(low); step *= 16) low -= step;
    for (std::int64_t step = 1000; early(high); step *= 16) high += step;
    while (high - low > 1) {
      const std::int64_t middle = low + (high - low) / 2;
      (early(middle) ? low : high) = middle;
    }
    return high;
  }

  const ClockModel& clock_;
  const ScanSpec& range_;
};

class Aggregation {
 public:
  Aggregation(const Context& context, const ClockModel& clock, const AggregateSpec& spec,
              Aggregate& out)
      : context_(context),
        clock_(clock),
        spec_(spec),
        out_(out),
        groups_(context, spec),
        test_(context, clock, filter_of(spec)) {}

  Status run();

 private:
  // min_duration is held against the durations that are found here; edges are those of sends.
  const Filter& filter_of(const AggregateSpec& spec) {
    filter_ = spec.filter;
    if (std::ranges::find(spec.by, GroupKey::edge, &Grouping::key) != spec.by.end()) {
      filter_.types &= 1u << static_cast<unsigned>(codec::EventType::message_send);
    }
    filter_.min_duration_ns.reset();
    return filter_;
  }
  bool rollups_serve() const;
  Status from_rollups();
  void from_rows();
  std::uint32_t count_row(const store::StoredRow& row, const Hit& hit);  // its group
  Facts facts(const store::StoredRow& row, ClusterTime at) const {
    const auto& r = row.record;
    return {row.process, r.type, r.mfa, r.peer.kind == codec::Peer::Kind::none ? nullptr : &r.peer,
            at};
  }
  // Gaps are told whole, whatever is sampled.
  double stands_for(codec::EventType type, Incarnation incarnation, RawTime at) const {
    return type == codec::EventType::gap ? 1 : rates_->weight(type, incarnation, at);
  }
  // The rows of these units that `wanted` lets through, as the filter has them. False: the budget is spent.
  template <typename Each>
  bool each_row(std::span<const Candidate> units, const store::RowFilter& filter, Each each);

  const Context& context_;
  const ClockModel& clock_;
  const AggregateSpec& spec_;
  Aggregate& out_;
  Filter filter_;
  Groups groups_;
  RowTest test_;
  std::optional<SampleRates> rates_;
  ScanSpec scan_;
  std::optional<ClusterTime> oldest_, newest_;  // of the rows counted
  std::uint64_t undecided_ = 0, corrupt_ = 0;
  bool cut_ = false, skipped_by_text_ = false;
};

template <typename Each>
bool Aggregation::each_row(std::span<const Candidate> units, const store::RowFilter& filter,
                           Each each) {
  const Timed timed(scan_.explain, "read");
  bool first = true;
  for (const auto& candidate : units) {
    if (!std::exchange(first, false) && context_.budget.spent()) return false;
    const auto& unit = context_.view->units()[candidate.unit];
    const auto rows = context_.view->read(unit, filter);
    if (scan_.explain != nullptr) {
      ++(unit.tail ? scan_.explain->tail_read : scan_.explain->blocks_read);
      if (rows) scan_.explain->rows_read += rows->rows.size();
    }
    if (!rows) {
      ++corrupt_;
      continue;
    }
    each(candidate.unit, *rows);
  }
  return true;
}

std::uint32_t Aggregation::count_row(const store::StoredRow& row, const Hit& hit) {
  if (!oldest_ || hit.at.time < *oldest_) oldest_ = hit.at.time;
  if (!newest_ || hit.at.time > *newest_) newest_ = hit.at.time;
  const auto group = groups_.find(facts(row, hit.at.time));
  groups_.count(group, stands_for(row.record.type, row.process.incarnation, row.record.time), 1);
  return group;
}

// Counts by what a rollup knows, of all rows that a rollup knows.
bool Aggregation::rollups_serve() const {
  const auto& f = spec_.filter;
  return spec_.value == ValueOf::nothing && !groups_.needs_processes() && !f.pid && !f.peer &&
         !f.match && f.text.empty() && !f.trace_id && !f.min_duration_ns;
}

Status Aggregation::from_rollups() {
  const Inside inside(clock_, scan_);
  std::vector<store::TimeRange> times;
  std::vector<Incarnation> concerned = scan_.incarnations;
  if (concerned.empty()) {
    for (const auto& info : context_.view->incarnations()) {
      if (info.agent_id != 0) concerned.push_back(info.number);
    }
  }
  // Raw times, of each incarnation, that must be counted from rows.
  std::map<Incarnation, std::vector<std::pair<std::int64_t, std::int64_t>>> holes;
  for (const Incarnation i : concerned) {
    const auto range = times.emplace_back(inside.of(i));
    if (range.from > range.until) {
      times.pop_back();
      continue;
    }
    // What lies in a second that begins before the range or ends after it.
    const auto end_of = [](std::int64_t second) { return second * kSecond + (kSecond - 1); };
    const auto first = second_of(range.from), last = second_of(range.until);
    if (range.from.ns != Limits::min() && first * kSecond != range.from.ns) {
      holes[i].emplace_back(range.from.ns, std::min(end_of(first), range.until.ns));
    }
    if (range.until.ns != Limits::max() && end_of(last) != range.until.ns) {
      holes[i].emplace_back(std::max(last * kSecond, range.from.ns), range.until.ns);
    }
  }
  if (times.empty()) return {};

  store::RollupSpec rollup;
  rollup.types = scan_.types;
  rollup.incarnations = concerned;
  rollup.mfas = scan_.mfas;
  rollup.times = times;
  rollup.by_second = groups_.in_buckets() || !rates_->none();
  rollup.stop = [this] { return context_.budget.spent(); };
  const auto& modules = spec_.filter.modules;
  Result<store::RollupInfo> info;
  {
    const Timed timed(scan_.explain, "rollups");
    info = context_.view->rollup(rollup, [&](const store::RollupCell& cell) {
      if (scan_.explain != nullptr) ++scan_.explain->rollup_cells;
      if (!modules.empty() && std::ranges::find(modules, cell.mfa.module) == modules.end()) return;
      const RawTime begins{cell.second * kSecond}, ends{cell.last_second * kSecond + kSecond - 1};
      const auto low = clock_.cluster(cell.incarnation, begins).time;
      const auto high = clock_.cluster(cell.incarnation, ends).time;
      if (!groups_.one_bucket(low, high) || !rates_->uniform(cell.incarnation, begins, ends)) {
        auto& list = holes[cell.incarnation];
        if (list.empty() || list.back().first != begins.ns) list.emplace_back(begins.ns, ends.ns);
        return;
      }
      if (!oldest_ || low < *oldest_) oldest_ = low;
      if (!newest_ || high > *newest_) newest_ = high;
      const Facts facts{{cell.incarnation, 0, 0}, cell.type, cell.mfa, nullptr, low};
      groups_.count(groups_.find(facts), stands_for(cell.type, cell.incarnation, begins),
                    cell.rows);
    });
  }
  if (!info) return std::unexpected(info.error());
  corrupt_ += info->missing.size();
  if (info->stopped) {
    cut_ = true;
    return {};
  }

  std::vector<store::TimeRange> around;
  for (auto& [i, list] : holes) {
    // Cells of one second come for each type and function, and from several units.
    std::ranges::sort(list);
    list.erase(std::unique(list.begin(), list.end()), list.end());
    around.push_back({i, {list.front().first}, {list.back().second}});
  }
  if (around.empty()) return {};
  store::Selection selection;
  selection.rows.types = scan_.types;
  selection.rows.mfas = scan_.mfas;
  selection.times = around;
  const auto in_hole = [&](Incarnation i, RawTime raw) {
    const auto list = holes.find(i);
    if (list == holes.end()) return false;
    auto at = std::ranges::upper_bound(list->second, std::pair(raw.ns, Limits::max()));
    return at != list->second.begin() && raw.ns <= std::prev(at)->second;
  };
  const auto touches = [&](const store::UnitRange& range) {
    const auto list = holes.find(range.incarnation);
    return list != holes.end() && std::ranges::any_of(list->second, [&](const auto& hole) {
             return hole.first <= range.newest.ns && hole.second >= range.oldest.ns;
           });
  };
  std::vector<Candidate> units;
  for (const auto i : context_.view->candidates(selection).units) {
    if (std::ranges::any_of(context_.view->units()[i].ranges, touches)) units.push_back({i, 0, 0});
  }
  store::RowFilter filter;
  filter.types = scan_.types;
  filter.mfas = scan_.mfas;
  filter.payload = false;
  cut_ = !each_row(units, filter, [&](std::uint32_t, const store::Rows& rows) {
    for (const auto& row : rows.rows) {
      if (!in_hole(row.process.incarnation, row.record.time)) continue;
      Hit hit;
      hit.at = clock_.cluster(row.process.incarnation, row.record.time);
      if (test_.accept(row, hit) == Verdict::yes) count_row(row, hit);
    }
  });
  return {};
}

void Aggregation::from_rows() {
  const bool durations = spec_.value == ValueOf::duration || spec_.filter.min_duration_ns;
  const std::uint32_t wanted = spec_.value == ValueOf::duration || spec_.filter.min_duration_ns
                                   ? scan_.types & kExitTypes
                               : spec_.value == ValueOf::queue_time ? scan_.types & kTakeType
                                                                    : scan_.types;
  scan_.types = durations ? wanted | kEntryType | kExitTypes : wanted;
  auto plan = make_plan(context_, clock_, scan_);
  skipped_by_text_ = plan.skipped_by_text;
  const auto filter = row_filter(scan_, plan);
  CallTimes calls(context_, scan_.mfas);
  QueueTimes queue(context_, clock_,
                   [this](std::uint32_t group, std::int64_t ns) { groups_.measure(group, ns); });
  if (durations) {
    // Entries are paired with exits as they come.
    std::ranges::sort(plan.units, {}, &Candidate::unit);
  }
  const Inside inside(clock_, scan_);
  const auto seen = [&](std::uint32_t, const store::Rows& rows) {
    if (durations) calls.next_unit();
    for (const auto& row : rows.rows) {
      Hit hit;
      hit.at = clock_.cluster(row.process.incarnation, row.record.time);
      if ((scan_.since && hit.at.time < *scan_.since) ||
          (scan_.until && hit.at.time > *scan_.until)) {
        continue;
      }
      std::optional<std::int64_t> took;
      if (durations) took = calls.pass(row);
      if ((wanted & 1u << static_cast<unsigned>(row.record.type)) == 0) continue;
      hit.id = row.id();
      const Verdict verdict = test_.accept(row, hit);
      if (verdict == Verdict::unknown) ++undecided_;
      if (verdict != Verdict::yes) continue;
      if (durations && !took) {
        took = calls.look_back(row, inside.of(row.process.incarnation).from);
      }
      if (spec_.filter.min_duration_ns && (!took || *took < *spec_.filter.min_duration_ns))
        continue;
      const auto group = count_row(row, hit);
      if (spec_.value == ValueOf::duration && took) groups_.measure(group, *took);
      if (spec_.value == ValueOf::queue_time) queue.taken(row, hit, group);
    }
    queue.settle(false);
  };
  cut_ = !each_row(plan.units, filter, seen);
  queue.settle(true);
  corrupt_ += queue.corrupt_blocks();
  cut_ = cut_ || queue.cut();
}

Status Aggregation::run() {
  if (spec_.filter.explain) scan_.explain = &out_.explain.emplace();
  {
    const Timed timed(scan_.explain, "resolve");
    const auto time = [&](const std::optional<TimeSpec>& t,
                          std::optional<ClusterTime>& out) -> Status {
      if (!t) return {};
      ASSIGN_OR_RETURN(out, resolve_time(context_, clock_, *t));
      return {};
    };
    auto* const explain = scan_.explain;
    RETURN_IF_ERROR(time(spec_.filter.since, scan_.since));
    RETURN_IF_ERROR(time(spec_.filter.until, scan_.until));
    if (scan_.since && scan_.until && *scan_.since > *scan_.until) {
      return fail(Code::bad_value, "since is later than until", "since");
    }
    RETURN_IF_ERROR(test_.prepare(scan_.since.value_or(ClusterTime{Limits::min()}),
                                  scan_.until.value_or(context_.now), scan_));
    scan_.explain = explain;
  }
  rates_.emplace(context_, clock_, test_.concerned(scan_), scan_.since);
  if (rollups_serve()) {
    RETURN_IF_ERROR(from_rollups());
  } else {
    from_rows();
  }
  {
    const Timed timed(scan_.explain, "completeness");
    out_.completeness =
        certify(context_, clock_, test_.concerned(scan_), test_.asked(), scan_.since, scan_.until);
  }
  out_.completeness.corrupt_blocks += corrupt_;
  out_.completeness.undecided = undecided_;
  out_.completeness.undecided_at_least = skipped_by_text_;
  out_.completeness.deadline_cut = out_.completeness.deadline_cut || cut_;
  // A rate is over the range asked for, as far as it goes; else over that of the rows.
  for (const auto& by : spec_.by) {
    if (by.key == GroupKey::time) out_.seconds = static_cast<double>(by.bucket_ns) / 1e9;
  }
  if (out_.seconds == 0 && oldest_) {
    const auto from = scan_.since.value_or(*oldest_);
    const auto until = std::min(scan_.until.value_or(scan_.since ? context_.now : *newest_),
                                std::max(context_.now, *newest_));
    out_.seconds = std::max(static_cast<double>(until.ns - from.ns) / 1e9, 1e-9);
  }
  groups_.finish(out_);
  return {};
}

}  // namespace

Result<Aggregate> aggregate(const Context& context, const AggregateSpec& spec) {
  if (!spec.filter.cursor.empty()) {
    return fail(Code::bad_value, "an aggregate is given whole: it takes no cursor", "cursor");
  }
  const auto buckets = std::ranges::find(spec.by, GroupKey::time, &Grouping::key);
  if (buckets != spec.by.end() && buckets->bucket_ns < 1'000'000) {
    return fail(Code::bad_value, "a bucket of time is a millisecond at least", "group_by");
  }
  const bool edges = std::ranges::find(spec.by, GroupKey::edge, &Grouping::key) != spec.by.end();
  if (edges && spec.value != ValueOf::nothing) {
    return fail(Code::bad_value, "by edge only sends are counted", "group_by", "edge");
  }
  const ClockModel clock(*context.view);
  Aggregate out;
  Aggregation aggregation(context, clock, spec, out);
  RETURN_IF_ERROR(aggregation.run());
  return out;
}

}  // namespace scope::analysis
