#include "analysis/get_events.h"

#include <algorithm>
#include <limits>

#include "analysis/call_duration.h"
#include "analysis/completeness.h"
#include "analysis/cursor.h"
#include "analysis/event_scan.h"

namespace scope::analysis {

bool matches(const MfaSpec& spec, const codec::Mfa& mfa) {
  return spec.module == mfa.module && (spec.function.empty() || spec.function == mfa.function) &&
         (!spec.arity || *spec.arity == mfa.arity);
}

Result<EventsPage> get_events(const Context& context, const Filter& filter) {
  EventsPage page;
  Walk walk;
  ASSIGN_OR_RETURN(walk, begin_walk(context, filter, Question::get_events));
  const ClockModel clock(*context.view, walk.clock_version);

  const ClusterTime from =
      walk.since.value_or(ClusterTime{std::numeric_limits<std::int64_t>::min()});
  const ClusterTime until = walk.until.value_or(context.now);
  ScanSpec spec;
  if (!filter.nodes.empty()) {
    ASSIGN_OR_RETURN(spec.incarnations, incarnations_of(*context.view, filter.nodes));
  }
  if (filter.pid) {
    ASSIGN_OR_RETURN(page.pid, resolve(context, clock, *filter.pid, from, until, "pid"));
    spec.processes = page.pid->ids;
  }
  std::optional<Process> peer;
  std::optional<PeerMatcher> peer_matcher;
  if (filter.peer) {
    ASSIGN_OR_RETURN(peer, resolve(context, clock, *filter.peer, from, until, "peer"));
    peer_matcher.emplace(context, clock, *peer);
    RETURN_IF_ERROR(peer_matcher->status());
  }
  std::optional<CallDuration> durations;
  std::uint32_t types = filter.types;
  spec.types = types;
  if (filter.min_duration_ns) {
    durations.emplace(context);
    types &= kExitTypes;
    spec.types = types | kEntryType | kExitTypes;
    spec.on_unit = [&](std::uint32_t unit, const store::Rows& rows) {
      durations->read(unit, rows);
    };
  }
  spec.since = walk.since;
  spec.until = walk.until;
  spec.order = filter.order;
  spec.limit = filter.limit;
  spec.after = walk.after;
  spec.upper = walk.upper;
  spec.accept = [&](const store::StoredRow& row, Hit& hit) {
    if ((types & 1u << static_cast<unsigned>(row.record.type)) == 0) return false;
    const auto& mfa = row.record.mfa;
    if (filter.mfa && !matches(*filter.mfa, mfa)) return false;
    if (!filter.modules.empty() && std::find(filter.modules.begin(), filter.modules.end(),
                                             mfa.module) == filter.modules.end()) {
      return false;
    }
    if (peer_matcher && peer_matcher->means(row, hit.at.time) != Means::yes) return false;
    if (durations) {
      hit.duration_ns = durations->of(row);
      return hit.duration_ns && *hit.duration_ns >= *filter.min_duration_ns;
    }
    return true;
  };

  auto found = scan(context, clock, spec);
  auto loaded = load(context, found.hits, kMaxAnswerBytes);
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
  std::vector<Incarnation> concerned = spec.incarnations;
  if (page.pid) {
    std::vector<Incarnation> own;
    for (const auto& id : page.pid->ids) {
      if (concerned.empty() ||
          std::binary_search(concerned.begin(), concerned.end(), id.incarnation)) {
        own.push_back(id.incarnation);
      }
    }
    concerned = std::move(own);
  }
  page.completeness = certify(context, clock, concerned, low, high, walk.upper);
  page.completeness.corrupt_blocks += found.corrupt_blocks + loaded.corrupt_blocks;
  page.completeness.truncated = loaded.truncated;
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
