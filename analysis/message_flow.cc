#include "analysis/message_flow.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <tuple>

#include "analysis/completeness.h"
#include "analysis/cursor.h"
#include "analysis/event_scan.h"
#include "analysis/flow_match.h"
#include "analysis/state_history.h"

namespace scope::analysis {
namespace {

using codec::EventType;
using codec::TraceRecord;

constexpr std::uint32_t bit(EventType type) { return 1u << static_cast<unsigned>(type); }

// Around the page's sends, what else is looked at: older sends of the same content, later fetches.
constexpr std::int64_t kBeforeNs = 1'000'000'000;
constexpr std::int64_t kAfterNs = 5'000'000'000;
constexpr std::size_t kMaxContextRows = 50'000;

}  // namespace

std::string_view name(Matched matched) {
  switch (matched) {
    case Matched::exact:
      return "exact";
    case Matched::unique:
      return "unique";
    case Matched::ambiguous:
      return "ambiguous";
    case Matched::unknown:
      return "unknown";
  }
  return "unknown";
}

Result<MessageFlow> message_flow(const Context& context, const ProcessSpec& spec_a,
                                 const ProcessSpec& spec_b, const Filter& filter) {
  RETURN_IF_ERROR(check_only_range(filter));
  MessageFlow out;
  Walk walk;
  ASSIGN_OR_RETURN(walk, begin_walk(context, filter, Question::get_message_flow, &spec_a, &spec_b));
  const ClockModel clock(*context.view, walk.clock_version);
  const ClusterTime from =
      walk.since.value_or(ClusterTime{std::numeric_limits<std::int64_t>::min()});
  const ClusterTime until = walk.until.value_or(context.now);
  ASSIGN_OR_RETURN(out.a, resolve(context, clock, spec_a, from, until, "pid_a"));
  ASSIGN_OR_RETURN(out.b, resolve(context, clock, spec_b, from, until, "pid_b"));
  const PeerMatcher to_a(context, clock, out.a), to_b(context, clock, out.b);
  RETURN_IF_ERROR(to_a.status());
  RETURN_IF_ERROR(to_b.status());
  const auto means = [&](const store::StoredRow& row, ClusterTime at) {
    if (out.a.holds(row.process)) return to_b.means(row, at);
    return to_a.means(row, at);
  };

  ScanSpec sends;
  sends.processes = out.a.ids;
  for (const auto& id : out.b.ids) {
    if (!out.a.holds(id)) sends.processes.push_back(id);
  }
  std::sort(sends.processes.begin(), sends.processes.end());
  sends.types = bit(EventType::message_send);
  sends.since = walk.since;
  sends.until = walk.until;
  sends.order = filter.order;
  sends.limit = filter.limit;
  sends.after = walk.after;
  sends.upper = walk.upper;
  std::set<EventId> perhaps;  // to an alias of the peer's VM: counts only if the peer fetched it
  sends.accept = [&](const store::StoredRow& row, Hit& hit) {
    const auto m = means(row, hit.at.time);
    if (m == Means::perhaps && row.record.has(TraceRecord::kHashed)) perhaps.insert(hit.id);
    return m == Means::yes || (m == Means::perhaps && row.record.has(TraceRecord::kHashed));
  };
  auto page = scan(context, clock, sends);

  // The same contents around them, at both.
  std::map<EventId, Match> matches;
  bool context_cut = false;
  std::uint64_t corrupt = page.corrupt_blocks;
  if (!page.hits.empty()) {
    std::set<std::uint64_t> wanted;
    auto [low, high] = std::minmax(page.hits.front().at.time, page.hits.back().at.time);
    for (const auto& hit : page.hits) {
      if (hit.flags & TraceRecord::kHashed) wanted.insert(hit.match_hash);
    }
    ScanSpec around;
    around.processes = sends.processes;
    around.types = sends.types | bit(EventType::message_fetch) | bit(EventType::message_take);
    around.since = ClusterTime{low.ns - kBeforeNs};
    around.until = ClusterTime{high.ns + kAfterNs};
    around.order = Order::oldest_first;
    around.limit = kMaxContextRows;
    around.accept = [&](const store::StoredRow& row, Hit& hit) {
      const auto& r = row.record;
      if (!r.has(TraceRecord::kHashed) || !wanted.contains(r.match_hash)) return false;
      if (r.type == EventType::message_send) return means(row, hit.at.time) != Means::no;
      return !r.has(TraceRecord::kSystem) && !r.has(TraceRecord::kTimeoutNotMessage);
    };
    const auto found = scan(context, clock, around);
    context_cut = found.resume.has_value();
    corrupt += found.corrupt_blocks;
    std::map<std::tuple<std::uint64_t, bool>, Content> contents;  // by content and direction
    const bool self = out.a == out.b;
    for (const auto& hit : found.hits) {
      const bool at_a = out.a.holds(hit.id.process);
      if (hit.type == EventType::message_send) {
        contents[{hit.match_hash, at_a}].sends.push_back(hit);
      } else {
        auto& content = contents[{hit.match_hash, self || !at_a}];
        (hit.type == EventType::message_fetch ? content.fetches : content.takes).push_back(hit);
      }
    }
    for (const auto& [key, content] : contents) match(content, matches);
  }

  std::erase_if(page.hits, [&](const Hit& hit) {
    const auto m = matches.find(hit.id);
    const bool arrived = m != matches.end() && (m->second.fetch || m->second.take);
    return perhaps.contains(hit.id) && !arrived;
  });
  auto loaded = load(context, page.hits, kMaxAnswerBytes);
  std::optional<Position> resume = page.resume;
  if (loaded.size_cut) {
    resume = Position{loaded.events.back().at.time, loaded.events.back().row.id()};
  }
  if (resume) out.next = next_cursor(walk, Question::get_message_flow, clock.version(), *resume);
  out.owners = std::move(loaded.owners);

  for (const auto& event : loaded.events) {
    FlowMessage message;
    message.a_to_b = out.a.holds(event.row.process);
    message.send = event;
    Hit sent;
    sent.at = event.at;
    sent.id = event.row.id();
    const auto found = matches.find(sent.id);
    if (found != matches.end() && (found->second.fetch || found->second.take)) {
      const Match& m = found->second;
      if (m.fetch) {
        message.fetch = FlowPoint{m.fetch->at, m.fetch->id};
        message.latency_ns = elapsed(sent, *m.fetch);
        message.error_ns = slack(sent, *m.fetch);
      }
      if (m.take) {
        message.take = FlowPoint{m.take->at, m.take->id};
        message.queue_ns = elapsed(sent, *m.take);
        message.error_ns = slack(sent, *m.take);
      }
      message.candidates = m.candidates;
      const bool sure =
          m.candidates == 1 && !context_cut && !event.row.record.has(TraceRecord::kHashBounded);
      message.matched = sure ? Matched::unique : Matched::ambiguous;
    }
    out.messages.push_back(std::move(message));
  }

  std::optional<ClusterTime> low = walk.since, high = walk.until;
  const bool newest = filter.order == Order::newest_first;
  if (walk.after) (newest ? high : low) = walk.after->time;
  if (resume) (newest ? low : high) = resume->time;
  std::set<Incarnation> concerned;
  for (const auto& id : sends.processes) concerned.insert(id.incarnation);
  const std::vector<Incarnation> incarnations(concerned.begin(), concerned.end());
  out.completeness = certify(context, clock, incarnations, low, high, walk.upper);
  out.completeness.corrupt_blocks += corrupt + loaded.corrupt_blocks;
  out.completeness.truncated = loaded.truncated;
  out.completeness.redacted = loaded.redacted;
  out.completeness.size_cut = loaded.size_cut;
  out.completeness.deadline_cut = out.completeness.deadline_cut || page.cut || context_cut;
  return out;
}

}  // namespace scope::analysis
