#include "analysis/state_at.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "analysis/completeness.h"
#include "analysis/event_scan.h"

namespace scope::analysis {
namespace {

using codec::EventType;
using codec::TraceRecord;

// All that this node's agents recorded before that time is in the view; nullopt: not known.
std::optional<ClusterTime> final_until(const Context& context, const ClockModel& clock,
                                       const Process& process) {
  std::optional<ClusterTime> out;
  for (const auto& id : process.ids) {
    const auto raw = context.view->complete_until(id.incarnation);
    if (!raw) continue;
    const auto at = clock.cluster(id.incarnation, *raw);
    if (at.error_ns == kUnknownError) continue;
    const ClusterTime surely{at.time.ns - at.error_ns};
    if (!out || *out < surely) out = surely;
  }
  return out;
}

struct Lifetime {
  std::optional<Corrected> spawned, exited;
};

Result<Lifetime> lifetime(const Context& context, const ClockModel& clock, const Process& process) {
  Lifetime out;
  std::shared_ptr<const void> owner;
  std::vector<store::Life> lives;
  ASSIGN_OR_RETURN(lives, context.view->lives(process.ids.front(), owner));
  for (const auto& life : lives) {
    if (life.spawned) out.spawned = clock.cluster(life.process.incarnation, *life.spawned);
    if (life.exited) out.exited = clock.cluster(life.process.incarnation, *life.exited);
  }
  return out;
}

std::string age(std::int64_t ns) { return fmt::format("{:.3f} s", static_cast<double>(ns) * 1e-9); }

}  // namespace

std::string_view name(Doubt doubt) {
  switch (doubt) {
    case Doubt::gap:
      return "gap";
    case Doubt::clock:
      return "clock";
    case Doubt::not_final:
      return "not_final";
    case Doubt::checkpoint:
      return "checkpoint";
    case Doubt::sampled:
      return "sampled";
    case Doubt::corrupt:
      return "corrupt";
    case Doubt::deadline:
      return "deadline";
  }
  return "unknown";
}

std::string_view name(Certainty certainty) {
  switch (certainty) {
    case Certainty::proven:
      return "proven";
    case Certainty::inferred:
      return "inferred";
    case Certainty::truncated:
      return "truncated";
  }
  return "unknown";
}

namespace {

// The newest state of a process at or before a time.
struct Newest {
  std::optional<Event> event;
  Owners owners;
  std::uint64_t corrupt_blocks = 0;
  bool cut = false;
  bool dropped = false;  // where it stood is not in the store any more
};

class NewestState {
 public:
  NewestState(const Context& context, const ClockModel& clock, const Process& process,
              ClusterTime until)
      : context_(context), view_(*context.view), clock_(clock), process_(process) {
    const auto units = view_.units();
    for (const auto& id : process.ids) {
      const RawTime raw_until = clock.raw(id.incarnation, until).time;
      for (std::uint32_t i = 0; i < units.size(); ++i) {
        if ((units[i].types & kStates) == 0) continue;
        for (const auto& range : units[i].ranges) {
          if (range.incarnation != id.incarnation || range.oldest > raw_until) continue;
          places_.push_back({clock.cluster(id.incarnation, range.newest).time, i, id, raw_until});
        }
      }
    }
    std::ranges::sort(places_, std::greater{},
                      [](const Place& p) { return std::tuple(p.newest, p.unit); });
  }

  // Units from the newest on, each asked for its newest state only. Nearly always the first few answer; else the indexes
  // say where to go on.
  Newest find() {
    std::size_t read = 0;
    for (const auto& place : places_) {
      const auto& unit = view_.units()[place.unit];
      if (out_.event && place.newest < out_.event->at.time) break;
      if (read >= kReadFirst && !may_hold(place)) continue;
      if (!out_.event && passed_over(place, unit)) continue;
      if (read++ > 0 && context_.budget.spent()) {
        out_.cut = true;
        break;
      }
      look(place, unit);
    }
    if (!out_.event && !out_.cut) out_.dropped = was_dropped();
    return std::move(out_);
  }

 private:
  static constexpr std::uint32_t kStates = bit(EventType::state_change);
  static constexpr std::size_t kReadFirst = 16;
  struct Place {
    ClusterTime newest;
    std::uint32_t unit;
    ProcessId process;
    RawTime until;
  };

  bool may_hold(const Place& place) {
    if (!candidates_) {
      store::Selection selection;
      selection.rows.processes = process_.ids;
      selection.rows.types = kStates;
      candidates_ = view_.candidates(selection).units;
    }
    return std::ranges::binary_search(*candidates_, place.unit);
  }

  // This unit stands before the partition that was read last, and the process's last state before that one elsewhere.
  bool passed_over(const Place& place, const store::Unit& unit) {
    if (unit.tail) return false;
    auto& lowest = lowest_[place.process];
    if (lowest == 0 || unit.partition == lowest) {
      lowest = unit.partition;
      return false;
    }
    if (unit.partition > lowest) return false;
    auto& from = passed_[place.process];
    if (from.partition == 0 || unit.partition < from.partition) {
      const auto before = view_.state_before(lowest, place.process);
      if (!before || !*before) {
        lowest = unit.partition;
        return false;
      }
      from = **before;
    }
    if (unit.partition > from.partition) return true;
    if (unit.partition == from.partition && unit.block > from.block) return true;
    lowest = unit.partition;
    return false;
  }

  // A partition that is there knows of a state in one that is not.
  bool was_dropped() const {
    std::set<std::uint32_t> there;
    for (const auto& unit : view_.units()) {
      if (!unit.tail) there.insert(unit.partition);
    }
    for (const auto& id : process_.ids) {
      if (const auto it = passed_.find(id);
          it != passed_.end() && it->second.partition != 0 && !there.contains(it->second.partition))
        return true;
      if (there.empty()) continue;
      const auto before = view_.state_before(*there.begin(), id);
      if (before && *before) return true;
    }
    return false;
  }

  void look(const Place& place, const store::Unit& unit) {
    store::RowFilter filter;
    filter.processes = {&place.process, 1};
    filter.types = kStates;
    filter.until = place.until;
    filter.newest_only = true;
    const auto rows = view_.read(unit, filter);
    if (!rows) {
      ++out_.corrupt_blocks;
      return;
    }
    for (const auto& row : rows->rows) {
      const auto at = clock_.cluster(row.process.incarnation, row.record.time);
      if (out_.event && std::tie(at.time, row.record.ordinal) <=
                            std::tie(out_.event->at.time, out_.event->row.record.ordinal))
        continue;
      out_.event = Event{row, at, {}};
      out_.owners.assign(1, rows->owner);
    }
  }

  const Context& context_;
  const store::View& view_;
  const ClockModel& clock_;
  const Process& process_;
  std::vector<Place> places_;
  std::optional<std::vector<std::uint32_t>> candidates_;
  std::map<ProcessId, std::uint32_t> lowest_;      // the oldest partition that was looked into
  std::map<ProcessId, store::StatePlace> passed_;  // where the state before it stands
  Newest out_;
};

}  // namespace

Result<StateAt> state_at(const Context& context, const ProcessSpec& spec, const TimeSpec& time) {
  StateAt out;
  const ClockModel clock(*context.view);
  ASSIGN_OR_RETURN(out.asked, resolve_time(context, clock, time));
  if (out.asked.ns > context.now.ns + kFutureSlackNs) {
    return fail(Code::time_in_future,
                fmt::format("that is {} ahead; times are nanoseconds since 1970 (now is {})",
                            age(out.asked.ns - context.now.ns), context.now.ns),
                "time", std::to_string(out.asked.ns));
  }
  out.asked = std::min(out.asked, context.now);
  ASSIGN_OR_RETURN(out.process, resolve(context, clock, spec, out.asked, out.asked, "pid"));
  const std::string who = pid_text(out.process.id, out.process.serial) + " on " + out.process.node;

  Lifetime life;
  ASSIGN_OR_RETURN(life, lifetime(context, clock, out.process));
  if (life.exited && life.exited->time <= out.asked) {
    return fail(Code::not_recorded,
                fmt::format("the process had exited {} before that time, at {}",
                            age(out.asked.ns - life.exited->time.ns), life.exited->time.ns),
                "time", std::to_string(out.asked.ns));
  }
  auto found = NewestState(context, clock, out.process, out.asked).find();
  if (!found.event) {
    if (found.cut) return fail(Code::deadline, "the deadline passed before a state was found");
    if (life.spawned && life.spawned->time > out.asked) {
      return fail(Code::not_recorded,
                  fmt::format("the process was spawned only later, at {}", life.spawned->time.ns),
                  "time", std::to_string(out.asked.ns));
    }
    if (found.dropped) {
      return fail(Code::not_recorded,
                  "a state of that process was recorded, and is no longer in the store: retention "
                  "dropped it, or it was archived (`scope store attach` shows an archive)",
                  "pid", who);
    }
    bool seen = !!life.spawned || !!life.exited;
    if (!seen) {
      ASSIGN_OR_RETURN(seen, recorded(context, out.process));
    }
    if (!seen) {
      return fail(Code::no_such_process, "nothing was ever recorded of that process", "pid", who);
    }
    return fail(Code::not_recorded,
                "no state of that process was captured before that time: is its state traced?",
                "pid", who);
  }
  out.state = *found.event;
  out.owners = std::move(found.owners);

  std::vector<Incarnation> incarnations;
  for (const auto& id : out.process.ids) incarnations.push_back(id.incarnation);
  out.completeness =
      certify(context, clock, incarnations, {bit(EventType::state_change), out.process.ids},
              out.state.at.time, out.asked);
  out.completeness.corrupt_blocks += found.corrupt_blocks;

  const auto& record = out.state.row.record;
  const auto doubt = [&](bool so, Doubt d) {
    if (so) out.why.push_back(d);
  };
  doubt(!out.completeness.gaps.empty() || out.completeness.gaps_not_listed > 0, Doubt::gap);
  doubt(std::ranges::any_of(out.completeness.sampled, std::not_fn(&Sampled::receivers)),
        Doubt::sampled);
  doubt(out.completeness.corrupt_blocks > 0, Doubt::corrupt);
  doubt(found.cut || out.completeness.deadline_cut, Doubt::deadline);
  doubt(record.has(TraceRecord::kInferred), Doubt::checkpoint);
  out.final_until = final_until(context, clock, out.process);
  doubt(!out.final_until || *out.final_until < out.asked, Doubt::not_final);
  // Asked through the cluster's clock: a change as near as its error may belong to the other side of that time. `now`
  // and what lies beyond the last row have no other side.
  const auto error = clock.raw(out.state.row.process.incarnation, out.asked).error_ns;
  bool near = error == kUnknownError || out.asked.ns - out.state.at.time.ns < error;
  if (!near) {
    ScanSpec later;
    later.processes = out.process.ids;
    later.types = bit(EventType::state_change);
    later.since = ClusterTime{out.asked.ns + 1};
    later.until = ClusterTime{out.asked.ns + error};
    later.order = Order::oldest_first;
    later.limit = 1;
    const auto hits = scan(context, clock, later);
    near = !hits.hits.empty() || hits.cut;
  }
  doubt(near && !std::holds_alternative<Now>(time), Doubt::clock);

  if (record.has(TraceRecord::kTruncated)) {
    out.certainty = Certainty::truncated;
    out.completeness.truncated = 1;
  } else if (!out.why.empty()) {
    out.certainty = Certainty::inferred;
  }
  if (record.has(TraceRecord::kRedacted)) out.completeness.redacted = 1;
  return out;
}

}  // namespace scope::analysis
