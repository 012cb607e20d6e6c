#include "analysis/event_scan.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "analysis/text_search.h"

namespace scope::analysis {
namespace {

constexpr std::size_t kLoadSlice = 512;  // rows loaded before the byte cap is looked at

auto key(const Hit& h) { return std::tie(h.at.time, h.id); }

// The raw times of each incarnation that may fall between since, until and the walk's position; empty: all. A margin for
// the clock's rounding is added.
std::vector<store::TimeRange> raw_times(const Context& context, const ClockModel& clock,
                                        const ScanSpec& spec) {
  constexpr std::int64_t kRounding = 1'000'000;
  std::optional<ClusterTime> from = spec.since, until = spec.until;
  if (spec.after) {
    const ClusterTime at = spec.after->time;
    if (spec.order == Order::newest_first) {
      until = until ? std::min(*until, at) : at;
    } else {
      from = from ? std::max(*from, at) : at;
    }
  }
  std::vector<store::TimeRange> out;
  if (!from && !until) return out;
  using Limits = std::numeric_limits<std::int64_t>;
  const auto add = [&](Incarnation i) {
    store::TimeRange range{i, {Limits::min()}, {Limits::max()}};
    // Far ends stay open: they need no correction, and it could overflow.
    const auto plain = [](ClusterTime t) {
      return t.ns > Limits::min() / 2 && t.ns < Limits::max() / 2;
    };
    if (from && plain(*from)) range.from = RawTime{clock.raw(i, *from).time.ns - kRounding};
    if (until && plain(*until)) range.until = RawTime{clock.raw(i, *until).time.ns + kRounding};
    out.push_back(range);
  };
  if (!spec.processes.empty()) {
    for (const auto& p : spec.processes) {
      if (out.empty() || out.back().incarnation != p.incarnation) add(p.incarnation);
    }
  } else if (!spec.incarnations.empty()) {
    for (const Incarnation i : spec.incarnations) add(i);
  } else {
    for (const auto& info : context.view->incarnations()) {
      if (info.agent_id != 0) add(info.number);  // others recorded nothing
    }
  }
  return out;
}

// The functions whose text holds what is looked for, as far as the rollups know.
void functions_with(const Context& context, const ScanSpec& spec, std::vector<std::string>& texts,
                    std::vector<store::MfaPattern>& out) {
  std::set<std::tuple<std::string, std::string, std::uint8_t>> found;
  store::RollupSpec rollup;
  rollup.types = spec.types;
  rollup.mfas = spec.mfas;
  rollup.incarnations = spec.incarnations;
  const TextSearch search(spec.text);
  const auto all = context.view->rollup(rollup, [&](const store::RollupCell& cell) {
    if (!search.in(cell.mfa)) return;
    found.emplace(cell.mfa.module, cell.mfa.function, cell.mfa.arity);
  });
  if (!all) return;
  texts.reserve(found.size() * 2);
  for (const auto& [module, function, arity] : found) {
    texts.push_back(module);
    texts.push_back(function);
    out.push_back({texts[texts.size() - 2], texts.back(), arity});
  }
}

// Is the row at or before the position where the walk stands, so already given?
bool given(const ScanSpec& spec, const Hit& hit) {
  if (!spec.after) return false;
  const auto& after = *spec.after;
  if (hit.at.time != after.time) {
    return spec.order == Order::newest_first ? hit.at.time > after.time : hit.at.time < after.time;
  }
  if (!after.id) return false;
  return spec.order == Order::newest_first ? hit.id >= *after.id : hit.id <= *after.id;
}

// The best hits so far, at most `want`.
class Best {
 public:
  Best(Order order, std::size_t want) : order_{order}, want_(want) {}
  bool full() const { return hits_.size() == want_; }
  const Hit& worst() const { return hits_.front(); }
  bool takes(const Hit& hit) const { return !full() || before(order_.order, hit, worst()); }
  // REQUIRES takes(hit)
  void add(const Hit& hit) {
    if (full()) {
      std::pop_heap(hits_.begin(), hits_.end(), order_);
      hits_.back() = hit;
    } else {
      hits_.push_back(hit);
    }
    std::push_heap(hits_.begin(), hits_.end(), order_);
  }
  std::vector<Hit> take() { return std::exchange(hits_, {}); }

 private:
  struct Less {
    Order order;
    bool operator()(const Hit& a, const Hit& b) const { return before(order, a, b); }
  };
  Less order_;
  std::size_t want_;
  std::vector<Hit> hits_;  // a heap, the worst on top
};

// Can a row of that (unread) unit come before `worst`?
bool can_precede(Order order, const Candidate& unit, const Hit& worst) {
  return order == Order::newest_first ? unit.newest >= worst.at.time.ns
                                      : unit.oldest <= worst.at.time.ns;
}

// Would a walk that stops before this unit stand further on than it began?
bool moves_on(const ScanSpec& spec, const Candidate& unread) {
  if (!spec.after) return true;
  return spec.order == Order::newest_first ? unread.newest < spec.after->time.ns
                                           : unread.oldest > spec.after->time.ns;
}

}  // namespace

bool before(Order order, const Hit& a, const Hit& b) {
  return order == Order::newest_first ? key(b) < key(a) : key(a) < key(b);
}

Plan make_plan(const Context& context, const ClockModel& clock, const ScanSpec& spec) {
  const Timed timed(spec.explain, "plan");
  Plan out;
  out.times = raw_times(context, clock, spec);
  store::Selection selection;
  selection.rows.processes = spec.processes;
  selection.rows.incarnations = spec.incarnations;
  selection.rows.types = spec.types;
  selection.rows.mfas = spec.mfas;
  selection.rows.match_hashes = spec.match_hashes;
  selection.times = out.times;
  if (!spec.text.empty()) selection.texts = {&spec.text, 1};
  selection.rows.traces = spec.traces;
  selection.stop = [&] { return context.budget.spent(); };
  auto found = context.view->candidates(selection);
  for (const auto& step : found.steps) {
    if (step.index == "text" && step.after < step.before) out.skipped_by_text = true;
  }
  const bool by_text = out.skipped_by_text;
  if (!spec.traces.empty()) out.skipped_by_text = true;  // units, and rows of those that are read
  if (by_text) {
    // The index knows payloads only; rows whose function holds the text are found by their functions.
    std::vector<std::string> texts;
    std::vector<store::MfaPattern> functions;
    functions_with(context, spec, texts, functions);
    if (!functions.empty()) {
      selection.texts = {};
      selection.rows.mfas = functions;
      const auto more = context.view->candidates(selection);
      std::vector<std::uint32_t> both;
      std::ranges::set_union(found.units, more.units, std::back_inserter(both));
      found.units = std::move(both);
    }
  }
  const auto units = context.view->units();
  const auto wanted = [&](Incarnation i) {
    if (!spec.incarnations.empty() && !std::ranges::binary_search(spec.incarnations, i))
      return false;
    if (spec.processes.empty()) return true;
    const auto p = std::ranges::lower_bound(spec.processes, i, {}, &ProcessId::incarnation);
    return p != spec.processes.end() && p->incarnation == i;
  };
  for (const std::uint32_t i : found.units) {
    const auto& unit = units[i];
    if (spec.upper && unit.first > *spec.upper) continue;
    if (unit.last <= spec.lower) continue;
    Candidate c{i, std::numeric_limits<std::int64_t>::max(),
                std::numeric_limits<std::int64_t>::min()};
    for (const auto& range : unit.ranges) {
      if (!wanted(range.incarnation)) continue;
      // Corrected time keeps the order of raw time within an incarnation, so the ends bound what is between.
      c.oldest = std::min(c.oldest, clock.cluster(range.incarnation, range.oldest).time.ns);
      c.newest = std::max(c.newest, clock.cluster(range.incarnation, range.newest).time.ns);
    }
    if (c.oldest > c.newest) continue;
    if ((spec.since && c.newest < spec.since->ns) || (spec.until && c.oldest > spec.until->ns)) {
      continue;
    }
    if (spec.after && (spec.order == Order::newest_first ? c.oldest > spec.after->time.ns
                                                         : c.newest < spec.after->time.ns)) {
      continue;
    }
    out.units.push_back(c);
  }
  std::ranges::sort(out.units, [&](const Candidate& a, const Candidate& b) {
    return spec.order == Order::newest_first
               ? std::tie(a.newest, a.unit) > std::tie(b.newest, b.unit)
               : std::tie(a.oldest, a.unit) < std::tie(b.oldest, b.unit);
  });
  if (spec.explain != nullptr) {
    spec.explain->plan = std::move(found.steps);
    spec.explain->units = static_cast<std::uint32_t>(units.size());
    spec.explain->candidates = static_cast<std::uint32_t>(out.units.size());
  }
  return out;
}

store::RowFilter row_filter(const ScanSpec& spec, const Plan& plan) {
  store::RowFilter filter;
  filter.processes = spec.processes;
  filter.incarnations = spec.incarnations;
  filter.types = spec.types;
  filter.match_hashes = spec.match_hashes;
  filter.payload = spec.payload;
  filter.payloads = spec.payloads;
  filter.mfas = spec.mfas;
  if (!spec.on_unit) {
    filter.times = plan.times;
    filter.traces = spec.traces;
  }
  return filter;
}

ScanResult scan(const Context& context, const ClockModel& clock, const ScanSpec& spec) {
  ScanResult out;
  const auto plan = make_plan(context, clock, spec);
  const auto& units = plan.units;
  out.skipped_by_text = plan.skipped_by_text;
  auto filter = row_filter(spec, plan);
  const Timed timed(spec.explain, "read");

  // One more than asked for tells whether there is more.
  Best best(spec.order, spec.limit + 1);
  std::size_t next = 0;
  std::uint64_t rows_read = 0;
  // Where the row stands in time, if it is between all bounds.
  const auto place = [&](const EventId& id, Hit& hit) {
    hit.at = clock.cluster(id.process.incarnation, id.time);
    if ((spec.since && hit.at.time < *spec.since) || (spec.until && hit.at.time > *spec.until)) {
      return false;
    }
    hit.id = id;
    hit.unit = units[next].unit;
    return !given(spec, hit);
  };
  // Where keys decide, rows are not made at all. A unit's hits count once all of it was read: it may be damaged.
  Best fresh(spec.order, spec.limit + 1);
  if (!spec.accept && !spec.on_unit) {
    // Corrected time keeps the order of raw time, ids have the rest: what a process did before a row comes after it here.
    const auto worse =
        spec.order == Order::newest_first ? store::Choice::leave_older : store::Choice::leave;
    filter.choose = [&, worse](const store::RowKey& key) {
      ++rows_read;
      Hit hit;
      if (!place(key.id, hit)) return store::Choice::leave;
      if (!best.takes(hit) || !fresh.takes(hit)) return worse;
      hit.type = key.type;
      hit.flags = key.flags;
      fresh.add(hit);
      return store::Choice::leave;
    };
  }
  for (; next < units.size(); ++next) {
    if (best.full() && !can_precede(spec.order, units[next], best.worst())) break;
    if (out.units_read > 0 && moves_on(spec, units[next]) && context.budget.spent()) {
      out.cut = true;
      break;
    }
    const auto& unit = context.view->units()[units[next].unit];
    const auto rows = context.view->read(unit, filter);
    ++out.units_read;
    if (spec.explain != nullptr) {
      ++(unit.tail ? spec.explain->tail_read : spec.explain->blocks_read);
    }
    const auto keys = fresh.take();
    if (!rows) {
      ++out.corrupt_blocks;
      continue;
    }
    for (const auto& hit : keys) {
      if (best.takes(hit)) best.add(hit);
    }
    rows_read += rows->rows.size();
    if (spec.on_unit) spec.on_unit(units[next].unit, *rows);
    for (const auto& row : rows->rows) {
      Hit hit;
      if (!place(row.id(), hit) || !best.takes(hit)) continue;
      hit.type = row.record.type;
      hit.flags = row.record.flags;
      hit.match_hash = row.record.match_hash;
      if (spec.accept && !spec.accept(row, hit)) continue;
      best.add(hit);
    }
  }
  if (spec.explain != nullptr) spec.explain->rows_read += rows_read;
  out.hits = best.take();
  std::ranges::sort(out.hits, [&](const Hit& a, const Hit& b) { return before(spec.order, a, b); });
  if (out.cut) {
    // What an unread unit may still precede is left for the next call.
    const auto& unread = units[next];
    while (!out.hits.empty() && can_precede(spec.order, unread, out.hits.back()))
      out.hits.pop_back();
    out.resume = Position{
        ClusterTime{spec.order == Order::newest_first ? unread.newest : unread.oldest}, {}};
  }
  if (out.hits.size() > spec.limit) {
    out.hits.resize(spec.limit);
    out.resume = Position{out.hits.back().at.time, out.hits.back().id};
  }
  return out;
}

Loaded load(const Context& context, std::span<const Hit> hits, std::size_t max_bytes) {
  Loaded out;
  std::size_t bytes = 0;
  for (std::size_t begin = 0; begin < hits.size() && !out.size_cut; begin += kLoadSlice) {
    const auto slice = hits.subspan(begin, std::min(kLoadSlice, hits.size() - begin));
    std::map<std::uint32_t, std::vector<std::size_t>> by_unit;
    for (std::size_t i = 0; i < slice.size(); ++i) by_unit[slice[i].unit].push_back(i);

    std::vector<std::optional<store::StoredRow>> rows(slice.size());
    for (const auto& [unit, indexes] : by_unit) {
      std::vector<ProcessId> processes;
      std::map<EventId, std::size_t> wanted;
      store::RowFilter filter;
      filter.types = 0;
      std::vector<store::TimeRange> times;
      for (const std::size_t i : indexes) {
        const Hit& hit = slice[i];
        processes.push_back(hit.id.process);
        wanted.emplace(hit.id, i);
        filter.types |= 1u << static_cast<unsigned>(hit.type);
      }
      std::sort(processes.begin(), processes.end());
      processes.erase(std::unique(processes.begin(), processes.end()), processes.end());
      filter.processes = processes;
      for (const auto& [id, i] : wanted) {  // by process, so by incarnation
        if (times.empty() || times.back().incarnation != id.process.incarnation)
          times.push_back({id.process.incarnation, id.time, id.time});
        times.back().from = std::min(times.back().from, id.time);
        times.back().until = std::max(times.back().until, id.time);
      }
      filter.times = times;
      filter.choose = [&](const store::RowKey& key) {
        return wanted.contains(key.id) ? store::Choice::make : store::Choice::leave;
      };
      const auto read = context.view->read(context.view->units()[unit], filter);
      if (!read) {
        ++out.corrupt_blocks;
        continue;
      }
      out.owners.push_back(read->owner);
      for (const auto& row : read->rows) {
        const auto at = wanted.find(row.id());
        if (at != wanted.end()) rows[at->second] = row;
      }
    }
    for (std::size_t i = 0; i < slice.size(); ++i) {
      if (!rows[i]) continue;
      bytes += rows[i]->record.payload.size() + 64;
      if (bytes > max_bytes && !out.events.empty()) {
        out.size_cut = true;
        break;
      }
      if (rows[i]->record.has(codec::TraceRecord::kTruncated)) ++out.truncated;
      if (rows[i]->record.has(codec::TraceRecord::kRedacted)) ++out.redacted;
      out.events.push_back({*rows[i], slice[i].at, slice[i].duration_ns});
    }
  }
  return out;
}

}  // namespace scope::analysis
