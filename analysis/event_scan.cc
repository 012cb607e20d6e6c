#include "analysis/event_scan.h"

#include <algorithm>
#include <limits>
#include <map>
#include <tuple>
#include <unordered_map>

namespace scope::analysis {
namespace {

constexpr std::size_t kLoadSlice = 512;  // rows loaded before the byte cap is looked at

auto key(const Hit& h) { return std::tie(h.at.time, h.id); }

// A unit that may hold rows of the answer, and the corrected times between which they are.
struct Candidate {
  std::uint32_t unit;
  std::int64_t oldest, newest;
};

std::vector<Candidate> candidates(const Context& context, const ClockModel& clock,
                                  const ScanSpec& spec) {
  std::vector<Candidate> out;
  const auto units = context.view->units();
  const bool some = !spec.processes.empty();
  for (std::uint32_t i = 0; i < units.size(); ++i) {
    const auto& unit = units[i];
    if ((unit.types & spec.types) == 0 || (spec.upper && unit.first > *spec.upper)) continue;
    Candidate c{i, std::numeric_limits<std::int64_t>::max(),
                std::numeric_limits<std::int64_t>::min()};
    for (const auto& range : unit.ranges) {
      if (!spec.incarnations.empty() &&
          !std::binary_search(spec.incarnations.begin(), spec.incarnations.end(),
                              range.incarnation)) {
        continue;
      }
      if (some && std::none_of(spec.processes.begin(), spec.processes.end(),
                               [&](const auto& p) { return p.incarnation == range.incarnation; })) {
        continue;
      }
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
    out.push_back(c);
  }
  if (spec.order == Order::newest_first) {
    std::sort(out.begin(), out.end(), [](auto& a, auto& b) {
      return std::tie(a.newest, a.unit) > std::tie(b.newest, b.unit);
    });
  } else {
    std::sort(out.begin(), out.end(), [](auto& a, auto& b) {
      return std::tie(a.oldest, a.unit) < std::tie(b.oldest, b.unit);
    });
  }
  return out;
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

// Raw times only bound a filter of one incarnation; a margin of the clock's rounding is added.
void bound_raw(const ClockModel& clock, const ScanSpec& spec, store::RowFilter& filter) {
  Incarnation one = kNoIncarnation;
  if (spec.incarnations.size() == 1) one = spec.incarnations.front();
  if (!spec.processes.empty() &&
      spec.processes.front().incarnation == spec.processes.back().incarnation) {
    one = spec.processes.front().incarnation;
  }
  if (one == kNoIncarnation) return;
  constexpr std::int64_t kRounding = 1'000'000;
  std::optional<ClusterTime> from = spec.since, until = spec.until;
  if (spec.after) {
    auto& end = spec.order == Order::newest_first ? until : from;
    if (!end ||
        (spec.order == Order::newest_first ? spec.after->time < *end : spec.after->time > *end)) {
      end = spec.after->time;
    }
  }
  if (from) filter.from = RawTime{clock.raw(one, *from).time.ns - kRounding};
  if (until) filter.until = RawTime{clock.raw(one, *until).time.ns + kRounding};
}

}  // namespace

bool before(Order order, const Hit& a, const Hit& b) {
  return order == Order::newest_first ? key(b) < key(a) : key(a) < key(b);
}

ScanResult scan(const Context& context, const ClockModel& clock, const ScanSpec& spec) {
  ScanResult out;
  const auto units = candidates(context, clock, spec);
  store::RowFilter filter;
  filter.processes = spec.processes;
  filter.incarnations = spec.incarnations;
  filter.types = spec.types;
  filter.payload = false;
  if (!spec.on_unit) bound_raw(clock, spec, filter);

  // The best rows so far, the worst of them on top. One more than asked for tells whether there is more.
  std::vector<Hit>& best = out.hits;
  const std::size_t want = spec.limit + 1;
  const auto order = [&](const Hit& a, const Hit& b) { return before(spec.order, a, b); };
  std::size_t next = 0;
  for (; next < units.size(); ++next) {
    if (best.size() == want && !can_precede(spec.order, units[next], best.front())) break;
    if (out.units_read > 0 && moves_on(spec, units[next]) && context.budget.spent()) {
      out.cut = true;
      break;
    }
    const auto rows = context.view->read(context.view->units()[units[next].unit], filter);
    ++out.units_read;
    if (!rows) {
      ++out.corrupt_blocks;
      continue;
    }
    if (spec.on_unit) spec.on_unit(units[next].unit, *rows);
    for (const auto& row : rows->rows) {
      Hit hit;
      hit.at = clock.cluster(row.process.incarnation, row.record.time);
      if ((spec.since && hit.at.time < *spec.since) || (spec.until && hit.at.time > *spec.until)) {
        continue;
      }
      hit.id = row.id();
      if (given(spec, hit)) continue;
      if (best.size() == want && !order(hit, best.front())) continue;
      hit.unit = units[next].unit;
      hit.type = row.record.type;
      hit.flags = row.record.flags;
      hit.match_hash = row.record.match_hash;
      if (spec.accept && !spec.accept(row, hit)) continue;
      best.push_back(hit);
      std::push_heap(best.begin(), best.end(), order);
      if (best.size() > want) {
        std::pop_heap(best.begin(), best.end(), order);
        best.pop_back();
      }
    }
  }
  std::sort(best.begin(), best.end(), order);
  if (out.cut) {
    // What an unread unit may still precede is left for the next call.
    const auto& unread = units[next];
    while (!best.empty() && can_precede(spec.order, unread, best.back())) best.pop_back();
    out.resume = Position{
        ClusterTime{spec.order == Order::newest_first ? unread.newest : unread.oldest}, {}};
  }
  if (best.size() > spec.limit) {
    best.resize(spec.limit);
    out.resume = Position{best.back().at.time, best.back().id};
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
      bool one = true;
      RawTime from = slice[indexes.front()].id.time, until = from;
      for (const std::size_t i : indexes) {
        const Hit& hit = slice[i];
        processes.push_back(hit.id.process);
        wanted.emplace(hit.id, i);
        filter.types |= 1u << static_cast<unsigned>(hit.type);
        one = one && hit.id.process.incarnation == slice[indexes.front()].id.process.incarnation;
        from = std::min(from, hit.id.time);
        until = std::max(until, hit.id.time);
      }
      std::sort(processes.begin(), processes.end());
      processes.erase(std::unique(processes.begin(), processes.end()), processes.end());
      filter.processes = processes;
      if (one) {
        filter.from = from;
        filter.until = until;
      }
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
      out.events.push_back({*rows[i], slice[i].at, slice[i].duration_ns});
    }
  }
  return out;
}

}  // namespace scope::analysis
