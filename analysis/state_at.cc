#include "analysis/state_at.h"

#include <fmt/format.h>

#include <algorithm>

#include "analysis/completeness.h"
#include "analysis/event_scan.h"

namespace scope::analysis {
namespace {

using codec::EventType;
using codec::TraceRecord;

constexpr std::uint32_t bit(EventType type) { return 1u << static_cast<unsigned>(type); }

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

Newest newest_of(const Context& context, const ClockModel& clock, const Process& process,
                 std::uint32_t types, ClusterTime until) {
  Newest out;
  // The units of these incarnations, newest first; each is asked for its newest row only.
  struct Place {
    ClusterTime newest;
    std::uint32_t unit;
    ProcessId process;
    RawTime until;
  };
  std::vector<Place> places;
  const auto units = context.view->units();
  for (const auto& id : process.ids) {
    const RawTime raw_until = clock.raw(id.incarnation, until).time;
    for (std::uint32_t i = 0; i < units.size(); ++i) {
      if ((units[i].types & types) == 0) continue;
      for (const auto& range : units[i].ranges) {
        if (range.incarnation != id.incarnation || range.oldest > raw_until) continue;
        places.push_back({clock.cluster(id.incarnation, range.newest).time, i, id, raw_until});
      }
    }
  }
  std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
    return std::tie(a.newest, a.unit) > std::tie(b.newest, b.unit);
  });
  bool first = true;
  for (const auto& place : places) {
    if (out.event && place.newest < out.event->at.time) break;
    if (!std::exchange(first, false) && context.budget.spent()) {
      out.cut = true;
      break;
    }
    store::RowFilter filter;
    filter.processes = {&place.process, 1};
    filter.types = types;
    filter.until = place.until;
    filter.newest_only = true;
    const auto rows = context.view->read(units[place.unit], filter);
    if (!rows) {
      ++out.corrupt_blocks;
      continue;
    }
    for (const auto& row : rows->rows) {
      const auto at = clock.cluster(row.process.incarnation, row.record.time);
      if (out.event && std::tie(at.time, row.record.ordinal) <=
                           std::tie(out.event->at.time, out.event->row.record.ordinal)) {
        continue;
      }
      out.event = Event{row, at, {}};
      out.owners.assign(1, rows->owner);
    }
  }
  return out;
}

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
  auto found = newest_of(context, clock, out.process, bit(EventType::state_change), out.asked);
  if (!found.event) {
    if (found.cut) return fail(Code::deadline, "the deadline passed before a state was found");
    if (life.spawned && life.spawned->time > out.asked) {
      return fail(Code::not_recorded,
                  fmt::format("the process was spawned only later, at {}", life.spawned->time.ns),
                  "time", std::to_string(out.asked.ns));
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
  out.completeness = certify(context, clock, incarnations, out.state.at.time, out.asked);
  out.completeness.corrupt_blocks += found.corrupt_blocks;

  const auto& record = out.state.row.record;
  const auto doubt = [&](bool so, Doubt d) {
    if (so) out.why.push_back(d);
  };
  doubt(!out.completeness.gaps.empty() || out.completeness.gaps_not_listed > 0, Doubt::gap);
  doubt(!out.completeness.sampled.empty(), Doubt::sampled);
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
