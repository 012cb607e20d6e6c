// What a view answers without an index: by the units' statistics, and from their rows.
#include "store/view.h"

#include <algorithm>
#include <limits>
#include <map>

#include "store/unit_filter.h"

namespace scope::store {
namespace {

// Peers have no order of their own.
struct EdgeKey {
  ProcessId sender;
  codec::Peer::Kind kind;
  std::string_view node, name;
  std::uint32_t creation, id, serial;
  auto operator<=>(const EdgeKey&) const = default;
};

}  // namespace

constexpr std::int64_t kSecond = 1'000'000'000;

std::int64_t second_of(RawTime time) { return time.ns / kSecond - (time.ns % kSecond < 0 ? 1 : 0); }

bool whole_second_inside(std::span<const TimeRange> times, Incarnation incarnation,
                         std::int64_t second) {
  if (times.empty()) return true;
  const auto it = std::ranges::lower_bound(times, incarnation, {}, &TimeRange::incarnation);
  if (it == times.end() || it->incarnation != incarnation) return false;
  // The first and last second that begin and end inside. A range may begin at the least number there is.
  const auto first = second_of(it->from) + (it->from.ns % kSecond == 0 ? 0 : 1);
  const auto last = it->until.ns == std::numeric_limits<std::int64_t>::max()
                        ? std::numeric_limits<std::int64_t>::max()
                        : second_of({it->until.ns + 1}) - 1;
  return first <= second && second <= last;
}

bool range_may_match(const UnitRange& range, const Selection& s) {
  const auto& f = s.rows;
  if (!f.incarnations.empty() && !std::ranges::binary_search(f.incarnations, range.incarnation))
    return false;
  if (!f.processes.empty()) {
    const auto it =
        std::ranges::lower_bound(f.processes, range.incarnation, {}, &ProcessId::incarnation);
    if (it == f.processes.end() || it->incarnation != range.incarnation) return false;
  }
  if ((f.from && range.newest < *f.from) || (f.until && range.oldest > *f.until)) return false;
  if (s.times.empty()) return true;
  const auto it = std::ranges::lower_bound(s.times, range.incarnation, {}, &TimeRange::incarnation);
  return it != s.times.end() && it->incarnation == range.incarnation && range.newest >= it->from &&
         range.oldest <= it->until;
}

Candidates by_statistics(std::span<const Unit> units, const Selection& selection) {
  Candidates out;
  for (std::uint32_t i = 0; i < units.size(); ++i) {
    const auto matches = [&](const UnitRange& r) { return range_may_match(r, selection); };
    if (std::ranges::any_of(units[i].ranges, matches)) out.units.push_back(i);
  }
  const auto all = static_cast<std::uint32_t>(units.size());
  const auto in_time = static_cast<std::uint32_t>(out.units.size());
  out.steps.push_back({"time", all, in_time});
  if (selection.rows.types != ~0u) {
    std::erase_if(out.units,
                  [&](std::uint32_t i) { return (units[i].types & selection.rows.types) == 0; });
    out.steps.push_back({"type", in_time, static_cast<std::uint32_t>(out.units.size())});
  }
  out.unindexed = static_cast<std::uint32_t>(out.units.size());
  return out;
}

Status roll_up_rows(const View& view, const Unit& unit, const RollupSpec& spec,
                    const RollupSink& sink) {
  RowFilter filter;
  filter.types = spec.types;
  filter.incarnations = spec.incarnations;
  filter.mfas = spec.mfas;
  filter.payload = false;
  ASSIGN_OR_RETURN(const auto rows, view.read(unit, filter));
  struct Key {
    Incarnation incarnation;
    std::int64_t second;
    codec::EventType type;
    std::string_view module, function;
    std::uint8_t arity;
    auto operator<=>(const Key&) const = default;
  };
  struct Sum {
    std::int64_t first, last;
    std::uint64_t rows = 0;
  };
  std::map<Key, Sum> cells;
  for (const auto& row : rows.rows) {
    const auto& r = row.record;
    const auto second = second_of(r.time);
    if (!whole_second_inside(spec.times, row.process.incarnation, second)) continue;
    auto& sum = cells
                    .try_emplace({row.process.incarnation, spec.by_second ? second : 0, r.type,
                                  r.mfa.module, r.mfa.function, r.mfa.arity},
                                 Sum{second, second})
                    .first->second;
    sum.first = std::min(sum.first, second);
    sum.last = std::max(sum.last, second);
    ++sum.rows;
  }
  for (const auto& [k, n] : cells)
    sink({k.incarnation, n.first, n.last, k.type, {k.module, k.function, k.arity}, n.rows});
  return {};
}

Status edges_of_rows(const View& view, const Unit& unit, std::span<const ProcessId> senders,
                     const EdgeSink& sink) {
  RowFilter filter;
  filter.types = 1u << static_cast<unsigned>(codec::EventType::message_send);
  filter.processes = senders;
  filter.payload = false;
  ASSIGN_OR_RETURN(const auto rows, view.read(unit, filter));
  std::map<EdgeKey, EdgeCell> cells;
  for (const auto& row : rows.rows) {
    auto peer = row.record.peer;
    peer.alias = {};
    auto& cell = cells
                     .try_emplace({row.process, peer.kind, peer.node, peer.name, peer.creation,
                                   peer.id, peer.serial},
                                  EdgeCell{row.process, peer, row.record.time, row.record.time, 0})
                     .first->second;
    cell.oldest = std::min(cell.oldest, row.record.time);
    cell.newest = std::max(cell.newest, row.record.time);
    ++cell.rows;
  }
  for (const auto& [key, cell] : cells) sink(cell);
  return {};
}

std::optional<RawTime> View::complete_until(Incarnation) const { return std::nullopt; }

Result<std::optional<StatePlace>> View::state_before(std::uint32_t, const ProcessId&) const {
  return std::nullopt;
}

Candidates View::candidates(const Selection& selection) const {
  return by_statistics(units(), selection);
}

Result<RollupInfo> View::rollup(const RollupSpec& spec, const RollupSink& sink) const {
  Selection selection;
  selection.rows.types = spec.types;
  selection.rows.incarnations = spec.incarnations;
  selection.times = spec.times;
  RollupInfo info;
  for (const auto i : candidates(selection).units) {
    if (info.read > 0 && spec.stop && spec.stop()) {
      info.stopped = true;
      break;
    }
    ++info.read;
    if (!roll_up_rows(*this, units()[i], spec, sink)) info.missing.push_back(i);
  }
  return info;
}

Result<RollupInfo> View::edges(std::span<const ProcessId> senders, const EdgeSink& sink,
                               const std::function<bool()>& stop) const {
  Selection selection;
  selection.rows.types = 1u << static_cast<unsigned>(codec::EventType::message_send);
  selection.rows.processes = senders;
  RollupInfo info;
  selection.stop = stop;
  for (const auto i : candidates(selection).units) {
    if (info.read > 0 && stop && stop()) {
      info.stopped = true;
      break;
    }
    ++info.read;
    if (!edges_of_rows(*this, units()[i], senders, sink)) info.missing.push_back(i);
  }
  return info;
}

}  // namespace scope::store
