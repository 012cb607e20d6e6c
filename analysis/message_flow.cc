#include "analysis/message_flow.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <tuple>

#include "analysis/completeness.h"
#include "analysis/cursor.h"
#include "analysis/event_scan.h"
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

// How far apart two corrected times may really be; 0 on one clock.
std::int64_t slack(const Hit& a, const Hit& b) {
  if (a.id.process.incarnation == b.id.process.incarnation) return 0;
  if (a.at.error_ns == kUnknownError || b.at.error_ns == kUnknownError) return kUnknownError;
  return a.at.error_ns + b.at.error_ns;
}

// Can `later` have happened after `earlier`?
bool possible(const Hit& earlier, const Hit& later) {
  const std::int64_t s = slack(earlier, later);
  return s == kUnknownError || later.at.time.ns + s >= earlier.at.time.ns;
}

struct Match {
  std::optional<Hit> fetch, take;
  std::uint32_t candidates = 0;
};

// All sends of one content in one direction, all fetches and takings of it at the receiver; each in time order.
struct Content {
  std::vector<Hit> sends, fetches, takes;
};

// Pairs in order within the clusters that time separates: a cluster ends where as many were fetched as were sent, and the
// next send is certainly later than the last fetch.
void match(const Content& content, std::map<EventId, Match>& out) {
  const bool by_take = content.fetches.empty();
  const auto& arrivals = by_take ? content.takes : content.fetches;
  std::size_t s = 0, f = 0;
  while (s < content.sends.size()) {
    // Arrivals that precede every send still open came from elsewhere, or from before the window.
    while (f < arrivals.size() && !possible(content.sends[s], arrivals[f])) ++f;
    const std::size_t s_begin = s, f_begin = f;
    ++s;
    while (true) {
      // Everything fetched that cannot be after the next send belongs to this cluster.
      while (f < arrivals.size() &&
             (s == content.sends.size() || arrivals[f].at.time < content.sends[s].at.time)) {
        ++f;
      }
      if (s == content.sends.size()) break;
      const bool even = f - f_begin == s - s_begin;
      const bool apart = f == f_begin || !possible(content.sends[s], arrivals[f - 1]);
      if (even && apart) break;
      ++s;
    }
    const auto sent = s - s_begin, arrived = f - f_begin;
    for (std::size_t i = s_begin, j = f_begin; i < s; ++i) {
      Match m;
      m.candidates = static_cast<std::uint32_t>(std::max(sent, arrived));
      while (j < f && !possible(content.sends[i], arrivals[j])) ++j;
      if (j < f) {
        (by_take ? m.take : m.fetch) = arrivals[j++];
      }
      out.emplace(content.sends[i].id, m);
    }
  }
  if (by_take) return;
  // Takings follow fetches in the receiver's own order.
  std::map<EventId, Hit> taking;
  std::size_t t = 0;
  for (const auto& fetch : content.fetches) {
    while (t < content.takes.size() && std::tie(content.takes[t].at.time, content.takes[t].id) <
                                           std::tie(fetch.at.time, fetch.id)) {
      ++t;
    }
    if (t < content.takes.size()) taking.emplace(fetch.id, content.takes[t++]);
  }
  for (const auto& send : content.sends) {
    auto& m = out.at(send.id);
    if (!m.fetch) continue;
    const auto at = taking.find(m.fetch->id);
    if (at != taking.end()) m.take = at->second;
  }
}

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
      const auto since_sent = [&](const Hit& hit) {
        if (hit.id.process.incarnation == sent.id.process.incarnation) {
          return hit.id.time.ns - sent.id.time.ns;
        }
        return hit.at.time.ns - sent.at.time.ns;
      };
      if (m.fetch) {
        message.fetch = FlowPoint{m.fetch->at, m.fetch->id};
        message.latency_ns = since_sent(*m.fetch);
        message.error_ns = slack(sent, *m.fetch);
      }
      if (m.take) {
        message.take = FlowPoint{m.take->at, m.take->id};
        message.queue_ns = since_sent(*m.take);
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
  out.completeness.size_cut = loaded.size_cut;
  out.completeness.deadline_cut = out.completeness.deadline_cut || page.cut || context_cut;
  return out;
}

}  // namespace scope::analysis
