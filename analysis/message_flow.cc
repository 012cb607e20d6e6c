#include "analysis/message_flow.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include "analysis/completeness.h"
#include "analysis/cursor.h"
#include "analysis/event_scan.h"
#include "analysis/kept_edges.h"
#include "analysis/row_stream.h"
#include "analysis/state_history.h"
#include "analysis/token_match.h"

namespace scope::analysis {
namespace {

using codec::EventType;
using codec::TraceRecord;

// Around the page's sends, what else is looked at: older sends of the same content, later fetches.
constexpr std::int64_t kBeforeNs = 1'000'000'000;
constexpr std::int64_t kAfterNs = 5'000'000'000;
constexpr std::size_t kMaxContextRows = 50'000;

// What the matcher found: by send, and by fetch.
struct Found : MatchSink {
  struct Arrival {
    Message message;
    Matched how = Matched::unknown;
    std::uint32_t candidates = 0;
  };
  void matched(const Message& send, const Message& arrival, Matched how,
               std::uint32_t candidates) override {
    if (settled.contains(send.id)) return;
    by_send[send.id] = {arrival, how, candidates};
    sender_of[arrival.id] = send.id;
  }
  void taken(const Message& fetch, const Message& take) override {
    by_fetch[fetch.id] = take;
    fetch_of[take.id] = fetch;
  }

  // A token says so. Who was thought to have sent it gets what this one was thought to have become.
  void exactly(const EventId& send, Message arrival) {
    if (const auto fetch = fetch_of.find(arrival.id); fetch != fetch_of.end()) {
      arrival = fetch->second;
    }
    const auto known = by_send.find(send);
    if (known != by_send.end() && known->second.how == Matched::exact) return;
    const auto other = sender_of.find(arrival.id);
    if (other != sender_of.end() && other->second != send) {
      const auto others = by_send.find(other->second);
      if (others->second.how == Matched::exact) return;
      if (known == by_send.end()) {
        by_send.erase(others);
      } else {
        others->second.message = known->second.message;
        others->second.how = Matched::ambiguous;
        sender_of[others->second.message.id] = others->first;
      }
    }
    by_send[send] = {arrival, Matched::exact, 1};
    sender_of[arrival.id] = send;
  }

  std::map<EventId, Arrival> by_send;
  std::map<EventId, EventId> sender_of;  // by arrival
  std::map<EventId, Message> by_fetch, fetch_of;
  std::set<EventId>
      settled;  // sends whose edges are kept, or of which it is kept that there is none
};

// What is kept of these sends. Answers those of which nothing is.
std::vector<Hit> use_kept(const ClockModel& clock, std::span<const Hit> hits, KeptEdges& kept,
                          Found& found) {
  std::vector<AskedEvent> asked;
  for (const auto& hit : hits) asked.push_back({hit.id, hit.at.time});
  const auto answers = kept.of_sends(asked);
  std::vector<Hit> rest;
  const auto message = [&](EventType type, const EventId& id) {
    Message m;
    m.type = type;
    m.id = id;
    m.at = clock.cluster(id.process.incarnation, id.time);
    return m;
  };
  for (std::size_t i = 0; i < hits.size(); ++i) {
    if (!answers[i].settled) {
      rest.push_back(hits[i]);
      continue;
    }
    found.settled.insert(hits[i].id);
    if (!answers[i].edge) continue;
    const auto& edge = *answers[i].edge;
    const auto arrival = message(
        edge.arrival_is_take ? EventType::message_take : EventType::message_fetch, edge.arrival);
    found.by_send[edge.send] = {arrival, static_cast<Matched>(edge.how), edge.candidates};
    if (edge.take) found.by_fetch[edge.arrival] = message(EventType::message_take, *edge.take);
  }
  return rest;
}

}  // namespace

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
  constexpr std::uint32_t kTokens = bit(EventType::seq_send) | bit(EventType::seq_receive);
  const bool tokens_there = std::ranges::any_of(
      context.view->units(), [&](const store::Unit& u) { return (u.types & kTokens) != 0; });
  sends.types = bit(EventType::message_send) | bit(EventType::seq_send);
  sends.since = walk.since;
  sends.until = walk.until;
  sends.order = filter.order;
  sends.limit = tokens_there ? 2 * filter.limit : filter.limit;  // a message may have two rows
  sends.after = walk.after;
  sends.upper = walk.upper;
  std::set<EventId> perhaps;  // to an alias of the peer's VM: counts only if the peer fetched it
  sends.accept = [&](const store::StoredRow& row, Hit& hit) {
    const auto m = means(row, hit.at.time);
    if (m == Means::perhaps && row.record.has(TraceRecord::kHashed)) perhaps.insert(hit.id);
    return m == Means::yes || (m == Means::perhaps && row.record.has(TraceRecord::kHashed));
  };
  auto page = scan(context, clock, sends);

  // The same contents around them, whoever sent them.
  Found found;
  TokenMatcher tokens;
  Receivers receivers(context, clock);
  bool context_cut = false;
  std::uint64_t corrupt = page.corrupt_blocks;
  KeptEdges kept(context);
  std::vector<Hit> young;  // of which nothing is kept
  if (!page.hits.empty()) {
    const auto [low, high] = std::minmax(page.hits.front().at.time, page.hits.back().at.time);
    ScanSpec near;
    near.types = kTokens;
    near.since = ClusterTime{low.ns - kBeforeNs};
    near.until = ClusterTime{high.ns + kAfterNs};
    const bool tokens_near = tokens_there && !make_plan(context, clock, near).units.empty();
    young = tokens_near ? page.hits : use_kept(clock, page.hits, kept, found);
    corrupt += kept.corrupt_blocks();
  }
  if (!young.empty()) {
    ScanSpec around;
    const auto [low, high] = std::minmax(young.front().at.time, young.back().at.time);
    for (const auto& hit : young) {
      if (hit.flags & TraceRecord::kHashed) around.match_hashes.push_back(hit.match_hash);
    }
    std::ranges::sort(around.match_hashes);
    const auto twice = std::ranges::unique(around.match_hashes);
    around.match_hashes.erase(twice.begin(), twice.end());
    around.types = sends.types | bit(EventType::message_fetch) | bit(EventType::message_take) |
                   bit(EventType::seq_receive);
    around.since = ClusterTime{low.ns - kBeforeNs};
    around.until = ClusterTime{high.ns + kAfterNs};
    around.upper = walk.upper;
    around.payload = true;
    RowStream rows(context, clock, around);
    MessageMatcher matcher(found);
    std::size_t seen = 0;
    for (RowStream::Item item; !around.match_hashes.empty() && rows.next(item);) {
      if (++seen > kMaxContextRows) {
        context_cut = true;
        break;
      }
      if ((bit(item.row->record.type) & kTokens) != 0) {
        if (const auto token = read_token(item, *context.view, receivers)) tokens.add(*token);
        continue;
      }
      const auto message = receivers.message(*item.row, item.at);
      matcher.add(message);
      if (tokens_there) tokens.add(message);
    }
    matcher.finish();
    for (const auto& edge : tokens.edges()) found.exactly(edge.send, edge.arrival);
    context_cut |= rows.cut();
    corrupt += rows.corrupt_blocks();
  }

  std::erase_if(page.hits, [&](const Hit& hit) {
    if (tokens.beside().contains(hit.id)) return true;
    if (!perhaps.contains(hit.id)) return false;
    const auto m = found.by_send.find(hit.id);
    const auto& peer = out.a.holds(hit.id.process) ? out.b : out.a;
    return m == found.by_send.end() || !peer.holds(m->second.message.id.process);
  });
  if (page.hits.size() > filter.limit) {
    page.hits.resize(filter.limit);
    page.resume = Position{page.hits.back().at.time, page.hits.back().id};
  }
  auto loaded = load(context, page.hits, filter.max_bytes);
  std::optional<Position> resume = page.resume;
  if (loaded.size_cut) {
    resume = Position{loaded.events.back().at.time, loaded.events.back().row.id()};
  }
  if (resume) out.next = next_cursor(walk, Question::get_message_flow, clock.version(), *resume);
  out.owners = std::move(loaded.owners);

  for (auto& event : loaded.events) {
    if (event.row.record.type == EventType::seq_send) {
      const auto token = read_token({&event.row, event.at, 0, nullptr}, *context.view, receivers);
      if (token) event.row = token->row;
    }
    FlowMessage message;
    message.a_to_b = out.a.holds(event.row.process);
    message.send = event;
    const auto sent = event.row.id();
    const auto point = [&](const Message& m) {
      const auto error = slack(event.at, sent, m.at, m.id);
      message.error_ns = error;
      return FlowPoint{m.at, m.id};
    };
    const auto took = [&](const Message& m) {
      return sent.process.incarnation == m.id.process.incarnation ? m.id.time.ns - sent.time.ns
                                                                  : m.at.time.ns - event.at.time.ns;
    };
    const auto match = found.by_send.find(sent);
    if (match != found.by_send.end()) {
      const auto& arrival = match->second.message;
      std::optional<Message> take;
      if (arrival.type == EventType::message_fetch) {
        message.fetch = point(arrival);
        message.latency_ns = took(arrival);
        const auto taking = found.by_fetch.find(arrival.id);
        if (taking != found.by_fetch.end()) take = taking->second;
      } else {
        take = arrival;
      }
      if (take) {
        message.take = point(*take);
        message.queue_ns = took(*take);
      }
      message.candidates = match->second.candidates;
      const bool unsure = context_cut && !found.settled.contains(sent);
      message.matched =
          unsure && match->second.how == Matched::unique ? Matched::ambiguous : match->second.how;
    }
    out.messages.push_back(message);
  }

  std::optional<ClusterTime> low = walk.since, high = walk.until;
  const bool newest = filter.order == Order::newest_first;
  if (walk.after) (newest ? high : low) = walk.after->time;
  if (resume) (newest ? low : high) = resume->time;
  std::set<Incarnation> concerned;
  for (const auto& id : sends.processes) concerned.insert(id.incarnation);
  const std::vector<Incarnation> incarnations(concerned.begin(), concerned.end());
  out.completeness =
      certify(context, clock, incarnations,
              {bit(EventType::message_send) | bit(EventType::message_fetch), sends.processes}, low,
              high, walk.upper);
  out.completeness.corrupt_blocks += corrupt + loaded.corrupt_blocks;
  out.completeness.truncated = loaded.truncated;
  out.completeness.redacted = loaded.redacted;
  out.completeness.size_cut = loaded.size_cut;
  out.completeness.deadline_cut = out.completeness.deadline_cut || page.cut || context_cut;
  return out;
}

}  // namespace scope::analysis
