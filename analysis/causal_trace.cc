#include "analysis/causal_trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <set>

#include "analysis/completeness.h"
#include "analysis/cursor.h"
#include "analysis/resolve.h"
#include "analysis/trace_outward.h"

namespace scope::analysis {
namespace {

// Without these there are no edges: where nothing traces them, an empty list means nothing.
constexpr std::uint32_t kMessages = 1u << static_cast<unsigned>(codec::EventType::message_send) |
                                    1u << static_cast<unsigned>(codec::EventType::message_fetch);

// Rows whose payload may hold a trace id.
constexpr std::uint32_t kWithContext =
    1u << static_cast<unsigned>(codec::EventType::message_fetch) |
    1u << static_cast<unsigned>(codec::EventType::message_take) |
    1u << static_cast<unsigned>(codec::EventType::function_entry) |
    1u << static_cast<unsigned>(codec::EventType::seq_receive);

// A trace has ended when nothing of it was recorded for one of so many parts of the time that was looked at.
constexpr std::int64_t kQuiet = 4;
// Of a list: rows for each trace that it may hold, for a first window; how long is looked ahead of it.
constexpr std::size_t kRowsPerTrace = 20;
constexpr std::int64_t kFirstAheadNs = 250'000'000;
constexpr std::int64_t kLongestWindowNs =
    std::numeric_limits<std::int64_t>::max() / 4;  // rows bound it

ScanSpec spec_of(ClusterTime since, ClusterTime until, std::optional<store::Lsn> upper) {
  ScanSpec spec;
  spec.types = Causality::kTypes;
  spec.since = since;
  spec.until = until;
  spec.order = Order::oldest_first;
  spec.upper = upper;
  spec.payload = true;
  spec.payloads = Causality::kPayloads;
  return spec;
}

struct Forest {
  std::unique_ptr<Causality> causality;
  ClusterTime until;  // rows were read until then
  bool rows_cut = false, deadline_cut = false;
  std::uint64_t corrupt = 0;
};

// A range that may grow at its end: what lies before is not read again.
class Reading {
 public:
  Reading(const Context& context, const ClockModel& clock)
      : context_(context), clock_(clock), causality_(std::make_unique<Causality>(context, clock)) {}

  // REQUIRES that only spec.until differs from the call before, and is later.
  void read(ScanSpec spec) {
    if (read_until_) spec.since = ClusterTime{read_until_->ns + 1};
    read_until_ = until_ = *spec.until;
    RowStream rows(context_, clock_, std::move(spec));
    for (RowStream::Item item; rows.next(item);) {
      if (++seen_ > kMaxRows) {
        rows_cut_ = true;
        until_ = item.at.time;
        break;
      }
      causality_->add(item);
      if (rows.cut()) until_ = item.at.time;
    }
    deadline_cut_ = rows.cut();
    corrupt_.insert(rows.corrupt_units().begin(), rows.corrupt_units().end());
  }
  bool cut() const { return rows_cut_ || deadline_cut_; }
  // What the rows tell. REQUIRES last = false if read() is called again.
  Forest forest(bool last) {
    if (last) causality_->finish();
    return {last ? std::move(causality_) : causality_->finished(), until_, rows_cut_, deadline_cut_,
            corrupt_.size()};
  }

 private:
  const Context& context_;
  const ClockModel& clock_;
  std::unique_ptr<Causality> causality_;
  std::optional<ClusterTime> read_until_;
  ClusterTime until_;
  std::size_t seen_ = 0;
  bool rows_cut_ = false, deadline_cut_ = false;
  std::set<std::uint32_t> corrupt_;  // units
};

// How many rows a range may hold, from the units' statistics.
std::size_t rows_in(const Context& context, const ClockModel& clock, const ScanSpec& spec) {
  double rows = 0;
  for (const auto& unit : make_plan(context, clock, spec).units) {
    const auto all = static_cast<double>(context.view->units()[unit.unit].rows);
    const double length = static_cast<double>(std::max<std::int64_t>(1, unit.newest - unit.oldest));
    const auto from = std::max(unit.oldest, spec.since->ns),
               to = std::min(unit.newest, spec.until->ns);
    rows += all * std::clamp(static_cast<double>(to - from) / length, 0.0, 1.0);
  }
  return static_cast<std::size_t>(rows);
}

// The times of the oldest row and of the newest; the first is after the second if there are none.
std::pair<ClusterTime, ClusterTime> recorded(const Context& context, const ClockModel& clock) {
  auto low = ClusterTime{std::numeric_limits<std::int64_t>::max()}, high = ClusterTime{0};
  for (const auto& unit : context.view->units()) {
    for (const auto& range : unit.ranges) {
      low = std::min(low, clock.cluster(range.incarnation, range.oldest).time);
      high = std::max(high, clock.cluster(range.incarnation, range.newest).time);
    }
  }
  return {low, high};
}

std::int64_t end_of(const Span& span) { return (span.stop ? *span.stop : span.start).time.ns; }

// Does a trace that began in the window wait for something, or was it still at work when the time read ended?
bool under_way(const std::vector<Span>& spans, ClusterTime from, ClusterTime until,
               ClusterTime read_until) {
  const auto roots = roots_of(spans);
  const auto quiet = (read_until.ns - until.ns) / kQuiet;
  for (std::uint32_t i = 0; i < spans.size(); ++i) {
    const auto start = spans[roots[i]].start.time;
    if (start < from || start > until) continue;
    if (spans[i].waits || end_of(spans[i]) + quiet > read_until.ns) return true;
  }
  return false;
}

struct Stretch {  // of cluster time
  ClusterTime from, until;
};

// Where roots of the traces that the filter asks for can begin, in its order, apart from each other: all the time, or
// what lies up to kLookAheadNs before (and, for the clocks, a little after) rows that the index of trace ids names.
std::vector<Stretch> stretches(const Context& context, const ClockModel& clock,
                               const Filter& filter, const Walk& walk, Stretch all) {
  if (all.from > all.until) return {};
  if (!filter.trace_id) return {all};
  auto spec = spec_of(all.from, {all.until.ns + kLookAheadNs}, walk.upper);
  spec.types = spec.payloads = kWithContext;
  spec.traces = {store::trace_key(*filter.trace_id)};
  std::vector<Stretch> out;
  for (const auto& unit :
       make_plan(context, clock, spec).units) {  // the one with the oldest row first
    const Stretch s{std::max(all.from, ClusterTime{unit.oldest - kLookAheadNs}),
                    std::min(all.until, ClusterTime{unit.newest + kLookBackNs})};
    if (s.from > s.until) continue;
    if (out.empty() || out.back().until < s.from) {
      out.push_back(s);
    } else {
      out.back().until = std::max(out.back().until, s.until);
    }
  }
  if (filter.order == Order::newest_first) std::ranges::reverse(out);
  return out;
}

struct Wanted {
  const Context& context;
  const Filter& filter;
  std::optional<bool> errors;
  std::optional<Process> process;

  bool span_of_mfa(const Span& s) const {
    if (!filter.mfa) return true;
    if (s.module != filter.mfa->module) return false;
    const auto& f = *filter.mfa;
    if (f.function.empty()) return true;
    const auto start = fmt::format("{}:{}/", f.module, f.function);
    return s.name.starts_with(start) && (!f.arity || s.name == start + std::to_string(*f.arity));
  }
  bool trace(const std::vector<Span>& spans, const std::vector<std::uint32_t>& members,
             const TraceSummary& summary) const {
    if (errors && *errors != (summary.errors > 0)) return false;
    if (filter.min_duration_ns && summary.duration_ns.value_or(0) < *filter.min_duration_ns) {
      return false;
    }
    const auto any = [&](auto holds) {
      return std::ranges::any_of(members, [&](auto i) { return holds(spans[i]); });
    };
    if (!filter.nodes.empty() && std::ranges::none_of(filter.nodes, [&](const std::string& n) {
          return std::ranges::find(summary.nodes, n) != summary.nodes.end();
        })) {
      return false;
    }
    if (filter.trace_id &&
        !any([&](const Span& s) { return s.context && s.context->trace == *filter.trace_id; })) {
      return false;
    }
    if (process && !any([&](const Span& s) { return process->holds(s.process); })) return false;
    if (filter.mfa && !any([&](const Span& s) { return span_of_mfa(s); })) return false;
    if (!filter.modules.empty() && !any([&](const Span& s) {
          return std::ranges::find(filter.modules, s.module) != filter.modules.end();
        })) {
      return false;
    }
    return filter.text.empty() || any([&](const Span& s) {
             return s.name.find(filter.text) != std::string::npos ||
                    s.module.find(filter.text) != std::string::npos ||
                    s.error.find(filter.text) != std::string::npos;
           });
  }
};

Status check_filter(const Filter& filter) {
  if (filter.peer || filter.match || filter.types != ~0u || filter.explain) {
    return fail(Code::bad_value,
                "traces are chosen by pid, node, module, mfa, text, trace_id, min_duration, errors "
                "and time",
                filter.peer      ? "peer"
                : filter.match   ? "match"
                : filter.explain ? "explain"
                                 : "type");
  }
  return {};
}

}  // namespace

std::string_view name(TraceCut cut) {
  constexpr std::string_view kNames[] = {"time", "spans", "depth", "rows"};
  return kNames[static_cast<std::size_t>(cut)];
}

Result<TraceList> get_traces(const Context& context, const Filter& filter,
                             std::optional<bool> errors) {
  RETURN_IF_ERROR(check_filter(filter));
  Walk walk;
  ASSIGN_OR_RETURN(walk, begin_walk(context, filter, Question::get_traces));
  const ClockModel clock(*context.view, walk.clock_version);
  const bool newest = filter.order == Order::newest_first;
  const auto [oldest, newest_row] = recorded(context, clock);
  ClusterTime low = walk.since.value_or(std::min(oldest, context.now));
  ClusterTime high = walk.until.value_or(context.now);
  if (walk.after) (newest ? high : low) = walk.after->time;
  Wanted wanted{context, filter, errors, {}};
  if (filter.pid) {
    ASSIGN_OR_RETURN(wanted.process, resolve(context, clock, *filter.pid, low, high, "pid"));
  }
  TraceList out;
  std::optional<Position> resume;
  const ClusterTime covered_low = low, covered_high = high;
  low = std::max(low, oldest);  // nothing is outside
  high = std::min(high, newest_row);
  bool read_any = false;
  std::vector<Missing> unread;
  std::int64_t longest = 0;  // the next window
  const auto wanted_times = stretches(context, clock, filter, walk, {low, high});
  for (auto stretch = wanted_times.begin(); stretch != wanted_times.end();) {
    (newest ? high : low) = newest ? std::min(high, stretch->until) : std::max(low, stretch->from);
    const ClusterTime last = newest ? stretch->from : stretch->until;
    // As long a window as its rows allow.
    std::int64_t length = newest ? high.ns - last.ns : last.ns - low.ns;
    ClusterTime from, until;
    const auto choose = [&](std::int64_t back, std::int64_t ahead) {
      from = newest ? ClusterTime{high.ns - length} : low;
      until = newest ? high : ClusterTime{low.ns + length};
      auto spec = spec_of({from.ns - back}, {until.ns + ahead}, walk.upper);
      if (filter.trace_id) spec.payloads |= kWithContext;  // a list does not show them
      return spec;
    };
    while (length > 100'000'000 &&
           rows_in(context, clock, choose(kLookBackNs, kLookAheadNs)) > kMaxRows) {
      length /= 2;
    }
    if (longest == 0) {
      const auto rows = rows_in(context, clock, choose(0, 0));
      const auto room = std::max<std::size_t>(1, kRowsPerTrace * filter.limit);
      longest = rows <= room ? length
                             : static_cast<std::int64_t>(static_cast<double>(length) *
                                                         static_cast<double>(room) /
                                                         static_cast<double>(rows));
      longest = std::max<std::int64_t>(longest, 20'000'000);
    }
    length = std::min(length, longest);
    longest = 4 * std::min(longest, kLongestWindowNs);
    Forest forest;
    Reading reading(context, clock);
    for (std::int64_t ahead = kFirstAheadNs;; ahead = std::min(4 * ahead, kLookAheadNs)) {
      const auto spec = choose(kLookBackNs, ahead);
      reading.read(spec);
      const bool more = ahead < kLookAheadNs && *spec.until < newest_row && !reading.cut() &&
                        !context.budget.spent();
      forest = reading.forest(!more);
      if (more && under_way(forest.causality->spans(), from, until, *spec.until)) continue;
      out.completeness.corrupt_blocks += forest.corrupt;
      // Traces may be longer than shown, or missing.
      if (forest.rows_cut) unread.push_back({"", forest.until, *spec.until, {}, "too_many_rows"});
      break;
    }
    if (forest.deadline_cut) {
      // Half a window tells nothing: it is the next page's.
      if (!read_any) {
        return fail(Code::deadline,
                    "the deadline passed within the first window: give since and until, or a "
                    "longer deadline");
      }
      out.completeness.deadline_cut = true;
      resume = Position{newest ? high : low, {}};
      break;
    }
    read_any = true;
    const auto& spans = forest.causality->spans();
    const auto roots = roots_of(spans);
    std::vector<std::vector<std::uint32_t>> members(spans.size());
    for (std::uint32_t i = 0; i < spans.size(); ++i) members[roots[i]].push_back(i);
    std::vector<TraceSummary> found;
    for (std::uint32_t r = 0; r < spans.size(); ++r) {
      if (members[r].empty()) continue;
      const auto& root = spans[r];
      const auto start = root.start.time;
      // A window's last end belongs to the next one, if there is one.
      if (start > until || start < from) continue;
      if (newest ? start == from && from > last : start == until && until < last) continue;
      if (walk.after && walk.after->id && start == walk.after->time &&
          (newest ? root.id >= *walk.after->id : root.id <= *walk.after->id)) {
        continue;
      }
      TraceSummary summary;
      std::set<std::string> nodes;
      std::int64_t end = start.ns;
      bool known = false;
      for (const auto i : members[r]) {
        ++summary.spans;
        if (!spans[i].error.empty()) ++summary.errors;
        if (!spans[i].token.empty()) ++summary.tokens;
        if (spans[i].differs) ++summary.differs;
        known |= spans[i].stop.has_value();
        end = std::max(end, end_of(spans[i]));
        if (i != r) summary.certainty = std::max(summary.certainty, spans[i].certainty);
        if (const auto* info = info_of(*context.view, spans[i].process.incarnation)) {
          nodes.insert(info->node);
        }
      }
      if (known) summary.duration_ns = end - start.ns;
      summary.nodes.assign(nodes.begin(), nodes.end());
      if (!wanted.trace(spans, members[r], summary)) continue;
      summary.root = root;
      found.push_back(std::move(summary));
    }
    std::ranges::sort(found, [&](const TraceSummary& a, const TraceSummary& b) {
      const auto x = std::tie(a.root.start.time, a.root.id),
                 y = std::tie(b.root.start.time, b.root.id);
      return newest ? x > y : x < y;
    });
    for (auto& summary : found) {
      if (out.traces.size() == filter.limit) {
        resume = Position{out.traces.back().root.start.time, out.traces.back().root.id};
        break;
      }
      out.traces.push_back(std::move(summary));
    }
    if (resume) break;
    (newest ? high : low) = newest ? from : until;
    if (newest ? from <= last : until >= last) ++stretch;
    if (stretch == wanted_times.end()) break;
    const bool spent = context.budget.spent();
    if (out.traces.size() == filter.limit || spent) {
      out.completeness.deadline_cut |= spent;
      resume = Position{newest ? high : low, {}};
      break;
    }
  }
  auto certified_low = covered_low, certified_high = covered_high;
  if (resume) (newest ? certified_low : certified_high) = resume->time;
  const auto seen = std::exchange(
      out.completeness,
      certify(context, clock, {}, kMessages, certified_low, certified_high, walk.upper));
  out.completeness.corrupt_blocks += seen.corrupt_blocks;
  out.completeness.deadline_cut |= seen.deadline_cut;
  for (auto& gap : unread) {
    if (out.completeness.gaps.size() < kMaxGapsListed) {
      out.completeness.gaps.push_back(std::move(gap));
    } else {
      ++out.completeness.gaps_not_listed;
    }
  }
  if (resume) out.next = next_cursor(walk, Question::get_traces, clock.version(), *resume);
  return out;
}

namespace {

// What decided how long the trace took, from its end backwards.
class CriticalPath {
 public:
  CriticalPath(std::vector<TraceSpan>& spans,
               const std::vector<std::vector<std::uint32_t>>& children)
      : spans_(spans), children_(children), end_(spans.size()) {
    // Children come after their parents.
    for (std::size_t i = spans.size(); i-- > 0;) {
      end_[i] = std::max(end_[i], end_of(spans[i].span));
      const auto parent = spans[i].span.parent;
      if (parent != kNoSpan) end_[parent] = std::max(end_[parent], end_[i]);
    }
  }
  // Of the first span, the root.
  void mark() {
    if (!spans_.empty()) mark(0, end_[0]);
  }

 private:
  bool waits_for(std::uint32_t parent, std::uint32_t child) const {
    const auto kind = spans_[child].span.kind;
    return kind == SpanKind::call || kind == SpanKind::function ||
           spans_[parent].span.kind == SpanKind::call;
  }
  void mark(std::uint32_t span, std::int64_t until) {
    spans_[span].critical = true;
    if (end_of(spans_[span].span) < until) {
      // It had ended: something that it set going went on.
      std::uint32_t last = kNoSpan;
      for (const auto c : children_[span]) {
        if (!waits_for(span, c) || end_[c] == until) {
          if (end_[c] <= until && (last == kNoSpan || end_[c] > end_[last])) last = c;
        }
      }
      if (last != kNoSpan && end_[last] > end_of(spans_[span].span)) {
        mark(last, end_[last]);
        until = spans_[last].span.start.time.ns - spans_[last].span.queue_ns.value_or(0);
      }
    }
    while (true) {
      std::uint32_t best = kNoSpan;
      std::int64_t best_end = 0;
      for (const auto c : children_[span]) {
        const auto start = spans_[c].span.start.time.ns;
        if (!waits_for(span, c) || start >= until || spans_[c].critical) continue;
        const auto end = std::min(until, end_of(spans_[c].span));
        if (best == kNoSpan || end > best_end) {
          best = c;
          best_end = end;
        }
      }
      if (best == kNoSpan) return;
      mark(best, best_end);
      until = spans_[best].span.start.time.ns;
    }
  }

  std::vector<TraceSpan>& spans_;
  const std::vector<std::vector<std::uint32_t>>& children_;
  std::vector<std::int64_t> end_;
};

struct Tree {
  Trace trace;
  std::int64_t end = 0;
  bool open = false;   // something in it has no end yet
  bool waits = false;  // Span::waits of any
};

Tree tree_of(const Causality& causality, std::uint32_t root) {
  Tree out;
  const auto& spans = causality.spans();
  std::vector<std::vector<std::uint32_t>> children(spans.size());
  for (std::uint32_t i = 0; i < spans.size(); ++i) {
    if (spans[i].parent != kNoSpan) children[spans[i].parent].push_back(i);
  }
  const auto cut = [&](TraceCut why) {
    if (std::ranges::find(out.trace.cut, why) == out.trace.cut.end()) out.trace.cut.push_back(why);
  };
  // Level by level, so that what is cut is what is furthest from the root.
  struct Next {
    std::uint32_t span, depth;
  };
  std::vector<Next> level{{root, 0}};
  std::set<std::uint32_t> kept;
  for (std::size_t i = 0; i < level.size(); ++i) {
    if (kept.size() == kMaxSpans) {
      cut(TraceCut::spans);
      break;
    }
    kept.insert(level[i].span);
    if (level[i].depth == kMaxDepth && !children[level[i].span].empty()) {
      cut(TraceCut::depth);
      continue;
    }
    for (const auto c : children[level[i].span]) level.push_back({c, level[i].depth + 1});
  }
  // Then in the order in which people read it.
  std::vector<std::uint32_t> place(spans.size(), kNoSpan);
  std::vector<Next> stack{{root, 0}};
  while (!stack.empty()) {
    const auto [span, depth] = stack.back();
    stack.pop_back();
    if (!kept.contains(span)) continue;
    place[span] = static_cast<std::uint32_t>(out.trace.spans.size());
    auto& item = out.trace.spans.emplace_back();
    item.span = spans[span];
    item.depth = depth;
    if (item.span.stop) {
      item.service_ns = item.span.stop->time.ns - item.span.start.time.ns;
    } else if (item.span.kind != SpanKind::spawn) {
      out.open = true;
    }
    out.waits |= item.span.waits;
    out.end = std::max(out.end, end_of(item.span));
    auto& below = children[span];
    std::ranges::sort(below, [&](auto a, auto b) {
      return std::tie(spans[a].start.time, spans[a].id) >
             std::tie(spans[b].start.time, spans[b].id);
    });
    for (const auto c : below) stack.push_back({c, depth + 1});
  }
  for (auto& item : out.trace.spans) {
    item.span.parent = item.span.parent == kNoSpan ? kNoSpan : place[item.span.parent];
  }
  for (const auto& link : causality.links()) {
    if (place[link.from] != kNoSpan && place[link.to] != kNoSpan) {
      out.trace.links.push_back({place[link.from], place[link.to], link.why});
    }
  }
  std::vector<std::vector<std::uint32_t>> below(out.trace.spans.size());
  for (std::uint32_t i = 0; i < out.trace.spans.size(); ++i) {
    const auto parent = out.trace.spans[i].span.parent;
    if (parent != kNoSpan) below[parent].push_back(i);
  }
  CriticalPath(out.trace.spans, below).mark();
  return out;
}

}  // namespace

Result<Trace> get_trace(const Context& context, const EventId& id, TraceReading how) {
  const ClockModel clock(*context.view);
  const auto nothing = [] {
    return fail(Code::not_recorded,
                "no span began with that event: take an id of get_traces, or of an event that was "
                "taken, fetched, spawned or sent",
                "id");
  };
  constexpr std::int64_t kFar = std::int64_t{1} << 62;  // ids come from callers
  if (info_of(*context.view, id.process.incarnation) == nullptr || id.time.ns > kFar ||
      id.time.ns < -kFar) {
    return nothing();
  }
  const auto begun = clock.cluster(id.process.incarnation, id.time);
  std::int64_t ahead = 1'000'000'000;
  Reading reading(context, clock);
  Outward outward(context, clock);
  while (true) {
    const ClusterTime from{begun.time.ns - kLookBackNs},
        until{std::min(begun.time.ns + ahead,
                       std::max(begun.time.ns, context.now.ns) + kLookAheadNs)};
    auto spec = spec_of(from, until, {});
    spec.payloads |= kWithContext;
    Forest forest;
    if (how == TraceReading::outward) forest = {outward.read(spec, id), until};
    const bool of_parties = forest.causality != nullptr;
    if (!of_parties) reading.read(spec);
    const bool more = until < context.now && !reading.cut() && ahead < kMaxTraceNs;
    if (!of_parties) forest = reading.forest(!more);
    const auto& spans = forest.causality->spans();
    auto root = forest.causality->span_of(id);
    if (root == kNoSpan) return nothing();
    while (spans[root].parent != kNoSpan) root = spans[root].parent;
    auto tree = tree_of(*forest.causality, root);
    const bool near_end =
        tree.open || tree.end + ahead / kQuiet > until.ns || (tree.waits && ahead < kLookAheadNs);
    if (near_end && more && !context.budget.spent()) {
      ahead *= 4;
      continue;
    }
    tree.trace.outward = of_parties;
    if (forest.rows_cut) tree.trace.cut.push_back(TraceCut::rows);
    if (forest.deadline_cut || (near_end && until < context.now)) {
      tree.trace.cut.push_back(TraceCut::time);
    }
    std::set<Incarnation> concerned;
    for (const auto& s : tree.trace.spans) concerned.insert(s.span.process.incarnation);
    const std::vector<Incarnation> incarnations(concerned.begin(), concerned.end());
    tree.trace.completeness =
        certify(context, clock, incarnations, kMessages, tree.trace.spans.front().span.start.time,
                ClusterTime{std::max(tree.end, tree.trace.spans.front().span.start.time.ns)});
    tree.trace.completeness.corrupt_blocks += forest.corrupt;
    tree.trace.completeness.deadline_cut |= forest.deadline_cut;
    return std::move(tree.trace);
  }
}

}  // namespace scope::analysis
