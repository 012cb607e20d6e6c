#include "analysis/completeness.h"

#include <algorithm>

#include "analysis/event_scan.h"
#include "analysis/resolve.h"
#include "ei_codec/capture_record.h"

namespace scope::analysis {
namespace {

// Batches are numbered from 1 without a gap: where the first ones are not there, retention took them. What they held is
// older than what is left, as far as anybody knows.
std::optional<ClusterTime> dropped_before(const Context& context, const ClockModel& clock,
                                          std::optional<ClusterTime> from) {
  const auto units = context.view->units();
  const store::Lsn first = units.empty() ? context.view->upper() + 1 : units.front().first;
  if (first <= 1) return std::nullopt;
  std::optional<ClusterTime> oldest;
  for (const auto& unit : units) {
    for (const auto& range : unit.ranges) {
      const auto at = clock.cluster(range.incarnation, range.oldest).time;
      if (from && at <= *from) return std::nullopt;
      if (!oldest || at < *oldest) oldest = at;
    }
  }
  return oldest ? oldest : context.now;
}

constexpr std::uint32_t kFunctions = bit(codec::EventType::function_entry) |
                                     bit(codec::EventType::function_exit) |
                                     bit(codec::EventType::function_exception);

bool names(const TraceScope& trace, const store::IncarnationInfo& life, const ProcessId& process) {
  return trace.every_process || trace.by_name ||
         std::ranges::any_of(trace.processes, [&](const PidSpec& pid) {
           return pid.id == process.id && pid.serial == process.serial && pid.node == life.node &&
                  (pid.creation == 0 || pid.creation == life.creation);
         });
}

enum class Named : std::uint8_t { no, in_part, all };

Named names(const TraceScope& trace, const MfaSpec& wanted) {
  if (std::ranges::find(trace.modules, wanted.module) != trace.modules.end()) return Named::all;
  auto most = Named::no;
  for (const auto& traced : trace.functions) {
    if (traced.module != wanted.module) continue;
    const bool apart = (!traced.function.empty() && !wanted.function.empty() &&
                        traced.function != wanted.function) ||
                       (traced.arity && wanted.arity && traced.arity != wanted.arity);
    if (apart) continue;
    const bool whole =
        (traced.function.empty() || !wanted.function.empty()) && (!traced.arity || wanted.arity);
    most = std::max(most, whole ? Named::all : Named::in_part);
  }
  return most;
}

// The processes and functions that were asked for, and that no trace of that node names.
void say_unnamed(const store::View& view, const NodeScope& scope, const Asked& asked,
                 Completeness& out) {
  const auto say = [&](const std::string& what) {
    const std::string reason = "no trace there names " + what;
    if (std::ranges::none_of(out.not_traced, [&](const NotTraced& n) {
          return n.node == scope.node && n.reason == reason;
        })) {
      out.not_traced.push_back({scope.node, reason, scope.since});
    }
  };
  for (const auto& process : asked.processes) {
    const auto* life = info_of(view, process.incarnation);
    if (life == nullptr || life->node != scope.node) continue;
    const auto relevant = [&](const TraceScope& t) { return (t.types & asked.types) != 0; };
    if (std::ranges::any_of(scope.traces, relevant) &&
        std::ranges::none_of(scope.traces, [&](const TraceScope& t) {
          return relevant(t) && names(t, *life, process);
        })) {
      say(pid_text(process.id, process.serial));
    }
  }
  const auto function = [&](const MfaSpec& wanted) {
    auto named = Named::no;
    for (const auto& t : scope.traces) {
      if ((t.types & asked.types & kFunctions) != 0) named = std::max(named, names(t, wanted));
    }
    if (named == Named::all) return;
    std::string what = (named == Named::in_part ? "all of " : "") + wanted.module;
    if (!wanted.function.empty()) what += ":" + wanted.function;
    if (wanted.arity) what += "/" + std::to_string(*wanted.arity);
    say(what);
  };
  if ((asked.types & kFunctions) == 0) return;
  if (asked.function != nullptr) function(*asked.function);
  for (const auto& module : asked.modules) function({module, {}, {}});
}

void add(const Sampled& sampled, Completeness& out) {
  if (std::ranges::find(out.sampled, sampled) == out.sampled.end()) out.sampled.push_back(sampled);
}

}  // namespace

Completeness certify(const Context& context, const ClockModel& clock,
                     std::span<const Incarnation> incarnations, const Asked& asked,
                     std::optional<ClusterTime> from, std::optional<ClusterTime> until,
                     std::optional<store::Lsn> upper) {
  Completeness out;
  ScanSpec spec;
  spec.incarnations.assign(incarnations.begin(), incarnations.end());
  spec.types = 1u << static_cast<unsigned>(codec::EventType::gap);
  spec.since = from;  // a gap's row carries its end
  spec.limit = kMaxLimit;
  spec.upper = upper;
  const auto found = scan(context, clock, spec);
  out.deadline_cut = found.cut;
  out.corrupt_blocks = found.corrupt_blocks;
  const auto loaded = load(context, found.hits, kMaxAnswerBytes);
  for (const auto& event : loaded.events) {
    const auto payload = codec::view(event.row.record.payload);
    const auto gap = payload ? codec::read_gap(*payload) : std::nullopt;
    if (!gap) continue;
    const auto began = clock.cluster(event.row.process.incarnation, gap->from);
    if (until && began.time > *until && began.error_ns != kUnknownError) continue;
    const bool receivers = gap->reason == "fan_out";
    if ((gap->reason == "sampled" || receivers) && gap->figures) {
      const auto rate = gap->figures->map()->find("rate");
      const auto* of = info_of(*context.view, event.row.process.incarnation);
      add({of ? of->node : std::string(), rate ? rate->real().value_or(0) : 0, receivers}, out);
      continue;
    }
    if (out.gaps.size() == kMaxGapsListed) {
      ++out.gaps_not_listed;
      continue;
    }
    const auto* info = info_of(*context.view, event.row.process.incarnation);
    out.gaps.push_back({info ? info->node : std::string(), began.time,
                        clock.cluster(event.row.process.incarnation, gap->until).time, gap->count,
                        std::string(gap->reason)});
  }
  if (found.resume && !found.cut) ++out.gaps_not_listed;  // at least one more
  out.retention = dropped_before(context, clock, from);
  if (context.coverage) {
    const auto concerned = [&](const std::string& node) {
      if (incarnations.empty()) return true;
      return std::any_of(incarnations.begin(), incarnations.end(), [&](Incarnation i) {
        const auto* info = info_of(*context.view, i);
        return info != nullptr && info->node == node;
      });
    };
    for (const auto& n : context.coverage->not_traced) {
      const bool later = n.since && until && *until <= *n.since;
      if (concerned(n.node) && !later) out.not_traced.push_back(n);
    }
    for (const auto& kind : context.coverage->kinds) {
      const bool later = kind.since && until && *until <= *kind.since;
      const bool named =
          asked.types != ~0u && (asked.types >> static_cast<unsigned>(kind.type) & 1) != 0;
      if (!named || !concerned(kind.node) || later) continue;
      out.not_traced.push_back(
          {kind.node, "no trace there asks for " + std::string(codec::event_type_name(kind.type)),
           kind.since});
    }
    for (const auto& scope : context.coverage->scopes) {
      const bool later = scope.since && until && *until <= *scope.since;
      if (concerned(scope.node) && !later) say_unnamed(*context.view, scope, asked, out);
    }
    for (const auto& s : context.coverage->sampled) {
      if (concerned(s.node)) add(s, out);
    }
  }
  return out;
}

}  // namespace scope::analysis
