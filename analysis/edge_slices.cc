#include "analysis/edge_slices.h"

#include <algorithm>
#include <optional>

namespace scope::analysis {
namespace {

std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

// The batches and the rows tell blocks apart that another store, or a restored copy, gave the same numbers.
std::uint64_t fingerprint(const store::Unit& unit) {
  const auto place = mixed(std::uint64_t{unit.partition} << 32 | unit.block);
  return mixed(place ^ mixed(unit.first * 31 + unit.last) ^ unit.rows);
}

struct Span {  // slices that a unit's rows of one incarnation may be in the windows of
  std::int64_t first = 0, last = 0;
  const store::UnitRange* range = nullptr;
  ClusterTime low, high;
};

Span span_of(const ClockModel& clock, const store::UnitRange& range) {
  constexpr std::int64_t kFar = std::int64_t{1} << 61;
  const auto at = [&](RawTime raw) {
    raw.ns = std::clamp(raw.ns, -kFar, kFar);
    return ClusterTime{std::clamp(clock.cluster(range.incarnation, raw).time.ns, -kFar, kFar)};
  };
  Span out{0, 0, &range, at(range.oldest), at(range.newest)};
  // Ends that were taken by an older model are elsewhere, but not by a slice.
  out.first = slice_of({out.low.ns - kEdgeAfterNs}) - 1;
  out.last = slice_of({out.high.ns + kEdgeBeforeNs}) + 1;
  return out;
}

bool overlaps(const Span& span, std::int64_t slice, const store::SliceState* state) {
  if (const auto* cut = state == nullptr ? nullptr : state->cut(span.range->incarnation)) {
    return span.range->newest.ns >= cut->from.ns - kEdgeBeforeNs &&
           span.range->oldest.ns < cut->until.ns + kEdgeAfterNs;
  }
  const auto start = slice_start(slice);
  return span.high.ns >= start.ns - kEdgeBeforeNs &&
         span.low.ns < start.ns + kSliceNs + kEdgeAfterNs;
}

void add(Window& window, const store::Unit& unit) {
  window.units += fingerprint(unit);
  if (unit.tail) {
    window.tail = true;
  } else {
    ++window.blocks;
    window.partition = unit.partition;
  }
}

}  // namespace

bool in_window(const store::SliceCut& cut, RawTime time) {
  return time.ns >= cut.from.ns - kEdgeBeforeNs && time.ns < cut.until.ns + kEdgeAfterNs;
}

std::map<std::int64_t, Window> windows(const Context& context, const ClockModel& clock,
                                       const Slices& known, bool only_known) {
  std::map<std::int64_t, Window> out;
  std::vector<std::pair<const store::Unit*, Span>> wide;
  std::vector<std::int64_t> of_unit;
  const auto among = [&](const Span& span, const auto& slices, const auto& state_of) {
    for (auto s = slices.lower_bound(span.first); s != slices.end() && s->first <= span.last; ++s) {
      if (overlaps(span, s->first, state_of(s->first))) of_unit.push_back(s->first);
    }
  };
  const auto state_of = [&](std::int64_t slice) {
    const auto found = known.find(slice);
    return found == known.end() ? nullptr : found->second;
  };
  const auto take = [&](const store::Unit& unit) {
    std::ranges::sort(of_unit);
    const auto twice = std::ranges::unique(of_unit);
    of_unit.erase(twice.begin(), twice.end());
    for (const auto slice : of_unit) add(out[slice], unit);
    of_unit.clear();
  };
  if (only_known && known.empty()) return out;
  // Few slices of many blocks: most are told apart by their raw times.
  std::vector<std::optional<std::pair<RawTime, RawTime>>> reach;
  const auto far = [&](const store::UnitRange& range) {
    if (range.incarnation >= reach.size()) reach.resize(range.incarnation + 1);
    auto& at = reach[range.incarnation];
    if (!at) {
      const auto first = slice_start(known.begin()->first - 1).ns - kEdgeBeforeNs;
      const auto last = slice_start(known.rbegin()->first + 2).ns + kEdgeAfterNs;
      at = std::pair(clock.raw(range.incarnation, {first}).time,
                     clock.raw(range.incarnation, {last}).time);
    }
    return range.newest < at->first || range.oldest > at->second;
  };
  for (const auto& unit : context.view->units()) {
    if ((unit.types & kEdgeTypes) == 0) continue;
    bool is_wide = false;
    for (const auto& range : unit.ranges) {
      if (only_known && far(range)) continue;
      const auto span = span_of(clock, range);
      if (only_known) {
        among(span, known, state_of);
      } else if (span.last - span.first > kMostSlicesOfUnit) {
        is_wide = true;
      } else {
        for (auto slice = span.first; slice <= span.last; ++slice) {
          if (overlaps(span, slice, state_of(slice))) of_unit.push_back(slice);
        }
      }
    }
    if (is_wide) {
      of_unit.clear();
      for (const auto& range : unit.ranges) wide.emplace_back(&unit, span_of(clock, range));
    } else {
      take(unit);
    }
  }
  if (wide.empty()) return out;
  for (const auto& [slice, state] : known) out[slice];
  for (std::size_t i = 0; i < wide.size(); ++i) {
    among(wide[i].second, out, state_of);
    if (i + 1 == wide.size() || wide[i + 1].first != wide[i].first) take(*wide[i].first);
  }
  return out;
}

}  // namespace scope::analysis
