#include "analysis/event_order.h"

#include <algorithm>
#include <set>
#include <unordered_set>

#include "analysis/completeness.h"
#include "analysis/event_scan.h"
#include "analysis/resolve.h"
#include "ei_codec/term_print.h"

namespace scope::analysis {
namespace {

using codec::EventType;
using codec::TraceRecord;

// What else is looked at of a content: older sends of it, later arrivals.
constexpr std::int64_t kBeforeNs = 1'000'000'000, kAfterNs = 5'000'000'000;
// How wide the search is where a clock was never measured.
constexpr std::int64_t kUnknownSpanNs = 1'000'000'000;
constexpr std::size_t kMaxReason = 4096;

constexpr std::uint32_t kArrivals = bit(EventType::message_fetch) | bit(EventType::message_take);
constexpr std::uint32_t kMessages = bit(EventType::message_send) | bit(EventType::message_fetch);
constexpr std::uint32_t kSteps = kArrivals | bit(EventType::process_spawn) |
                                 bit(EventType::process_exit) | bit(EventType::process_link) |
                                 bit(EventType::process_unlink);

struct Point {
  EventId id;
  Corrected at;
};

// Is it certain by time alone?
bool certainly_before(const Point& a, const Point& b) {
  if (a.id.process.incarnation == b.id.process.incarnation) return a.id.time < b.id.time;
  const auto s = slack(a.at, a.id, b.at, b.id);
  return s != kUnknownError && a.at.time.ns + s < b.at.time.ns;
}

auto place(const EventId& id) { return std::pair(id.time, id.ordinal); }

std::string reason_of(const codec::TermView& term) {
  return codec::print(term, codec::Syntax::erlang, kMaxReason);
}

// What led to `later` since `earlier`, process by process.
class Past : MatchSink {
 public:
  Past(const Context& context, const ClockModel& clock, const Point& earlier, const Point& later,
       bool prove_none)
      : context_(context),
        clock_(clock),
        receivers_(context, clock),
        earlier_(earlier),
        later_(later),
        prove_none_(prove_none) {}

  // Does a chain lead from `earlier` to `later`?
  bool search();

  std::vector<EventId> path() const;
  EdgeCertainty certainty() const { return entries_[*found_].certainty; }
  std::uint32_t doubts() const { return doubts_; }
  std::uint64_t corrupt() const { return corrupt_; }
  const std::set<ProcessId>& processes() const { return processes_; }

 private:
  // All of `upto`'s process as far as `upto` led to `later`, by way of `arrival` in the process of entry `to`.
  struct Entry {
    EventId upto, arrival;
    std::uint32_t to = 0;
    EdgeCertainty certainty = EdgeCertainty::exact;
  };
  struct Arrival {
    EventId id;
    std::uint32_t entry;
    std::uint64_t hash;
  };
  struct Match {
    Point send;
    Matched how;
  };

  void doubt(OrderDoubt d) { doubts_ |= 1u << static_cast<unsigned>(d); }
  void matched(const Message& send, const Message& arrival, Matched how, std::uint32_t) override {
    matches_[arrival.id] = {{send.id, send.at}, how};
  }
  void taken(const Message&, const Message& take) override { taken_.insert(take.id); }

  std::int64_t error_at(Incarnation incarnation) const;
  void reach(const Point& event, const EventId& arrival, std::uint32_t to, EdgeCertainty edge);
  void expand(const std::vector<std::uint32_t>& entries);
  void step(const RowStream::Item& item, std::uint32_t entry);
  void came_from_runtime(const RowStream::Item& item, const Identity& identity,
                         std::uint32_t entry);
  void began(const RowStream::Item& item, std::uint32_t entry);
  void match_contents();
  void was_alive(const ProcessId& process);
  template <typename Accept>
  std::optional<Point> find(const std::vector<ProcessId>& processes, EventType type, Accept accept);

  const Context& context_;
  const ClockModel& clock_;
  Receivers receivers_;
  const Point earlier_, later_;
  const bool prove_none_;
  std::vector<Entry> entries_;
  std::vector<std::uint32_t> next_;
  std::optional<std::uint32_t> found_;
  std::unordered_map<ProcessId, std::pair<RawTime, std::uint32_t>> done_;
  std::set<ProcessId> processes_;
  std::vector<Arrival> arrivals_;
  std::set<std::uint64_t> matched_contents_;
  std::unordered_map<EventId, Match, EventIdHash> matches_;
  std::unordered_set<EventId, EventIdHash> taken_;
  std::size_t rows_ = 0;
  std::uint32_t doubts_ = 0;
  std::uint64_t corrupt_ = 0;
};

std::int64_t Past::error_at(Incarnation incarnation) const {
  return clock_.cluster(incarnation, clock_.raw(incarnation, earlier_.at.time).time).error_ns;
}

void Past::reach(const Point& event, const EventId& arrival, std::uint32_t to, EdgeCertainty edge) {
  if (found_ || certainly_before(event, earlier_)) return;
  const auto number = static_cast<std::uint32_t>(entries_.size());
  entries_.push_back({event.id, arrival, to, std::max(edge, entries_[to].certainty)});
  if (event.id.process == earlier_.id.process && place(event.id) >= place(earlier_.id)) {
    found_ = number;
    return;
  }
  const auto done = done_.find(event.id.process);
  if (done == done_.end() || done->second < place(event.id)) next_.push_back(number);
}

bool Past::search() {
  entries_.push_back({later_.id, later_.id, 0, EdgeCertainty::exact});
  next_.push_back(0);
  for (unsigned round = 0; !next_.empty() && !found_; ++round) {
    if (round == kOrderRounds || rows_ >= kOrderRows || context_.budget.spent()) {
      doubt(OrderDoubt::search);
      break;
    }
    expand(std::exchange(next_, {}));
    match_contents();
  }
  if (!found_ && prove_none_) {
    for (const auto& process : processes_) was_alive(process);
    for (const auto& [process, upto] : done_) {
      const auto complete = context_.view->complete_until(process.incarnation);
      if (!complete || *complete < upto.first) doubt(OrderDoubt::not_final);
    }
  }
  return found_.has_value();
}

// The rows of these entries' processes that may lie after `earlier`.
void Past::expand(const std::vector<std::uint32_t>& entries) {
  std::unordered_map<ProcessId, std::uint32_t> furthest;
  std::int64_t error = 0;
  for (const auto e : entries) {
    const auto [known, added] = furthest.emplace(entries_[e].upto.process, e);
    if (!added && place(entries_[known->second].upto) < place(entries_[e].upto)) known->second = e;
  }
  ScanSpec spec;
  spec.types = kSteps;
  spec.payload = true;
  std::int64_t until = earlier_.at.time.ns;
  for (const auto& [process, e] : furthest) {
    spec.processes.push_back(process);
    const auto own = error_at(process.incarnation);
    if (own == kUnknownError) doubt(OrderDoubt::clock);
    error = std::max(error, own == kUnknownError ? kUnknownSpanNs : own);
    until = std::max(until, clock_.cluster(process.incarnation, entries_[e].upto.time).time.ns);
    processes_.insert(process);
  }
  std::ranges::sort(spec.processes);
  const auto known = earlier_.at.error_ns == kUnknownError ? kUnknownSpanNs : earlier_.at.error_ns;
  spec.since = ClusterTime{earlier_.at.time.ns - known - error};
  spec.until = ClusterTime{until};
  RowStream rows(context_, clock_, spec);
  for (RowStream::Item item; rows.next(item);) {
    if (++rows_ > kOrderRows) {
      doubt(OrderDoubt::search);
      break;
    }
    const auto id = item.row->id();
    const auto entry = furthest.at(id.process);
    const auto done = done_.find(id.process);
    if (place(id) > place(entries_[entry].upto)) continue;
    if (done != done_.end() && place(id) <= done->second) continue;
    if (!certainly_before({id, item.at}, earlier_)) step(item, entry);
  }
  if (rows.cut()) doubt(OrderDoubt::search);
  corrupt_ += rows.corrupt_blocks();
  for (const auto& [process, e] : furthest) {
    auto& done = done_.try_emplace(process, place(entries_[e].upto)).first->second;
    done = std::max(done, place(entries_[e].upto));
  }
}

void Past::step(const RowStream::Item& item, std::uint32_t entry) {
  const auto& row = *item.row;
  switch (row.record.type) {
    case EventType::process_spawn:
      if (row.record.has(TraceRecord::kChildSide)) began(item, entry);
      return;
    case EventType::process_exit: {
      const bool own = row.record.payload.empty() || row.record.term().is_atom("normal");
      if (!own) doubt(OrderDoubt::signal);
      return;
    }
    case EventType::process_link:
    case EventType::process_unlink:  // one's own, or as the other end saw it
      return doubt(OrderDoubt::signal);
    default:
      break;
  }
  if (row.record.has(TraceRecord::kTimeoutNotMessage)) return;
  const auto message = receivers_.message(row, item.at);
  using Kind = Identity::Kind;
  switch (message.identity.kind) {
    case Kind::down:
    case Kind::exit:
    case Kind::spawned:
      return came_from_runtime(item, message.identity, entry);
    case Kind::timer:
    case Kind::port:
      return doubt(OrderDoubt::signal);
    default:
      break;
  }
  if (message.hash == 0) return doubt(OrderDoubt::untraced);
  arrivals_.push_back({message.id, entry, message.hash});
}

template <typename Accept>
std::optional<Point> Past::find(const std::vector<ProcessId>& processes, EventType type,
                                Accept accept) {
  ScanSpec spec;
  spec.processes = processes;
  spec.types = bit(type);
  spec.limit = 1;
  spec.payload = true;
  spec.accept = [&](const store::StoredRow& row, Hit&) { return accept(row); };
  const auto found = scan(context_, clock_, spec);
  corrupt_ += found.corrupt_blocks;
  if (found.cut) doubt(OrderDoubt::search);
  if (found.hits.empty()) return std::nullopt;
  return Point{found.hits.front().id, found.hits.front().at};
}

// A 'DOWN' or 'EXIT' after its process's end, a spawn's reply after its child's beginning.
void Past::came_from_runtime(const RowStream::Item& item, const Identity& identity,
                             std::uint32_t entry) {
  const auto& record = item.row->record;
  if (!identity.process)
    return doubt(OrderDoubt::signal);  // no process, or the connection was lost
  const auto who = process_of(*context_.view, identity.process).ids;
  std::optional<Point> cause;
  auto edge = EdgeCertainty::exact;
  if (identity.kind == Identity::Kind::spawned) {
    cause = find(who, EventType::process_spawn, [](const store::StoredRow& row) {
      return row.record.has(TraceRecord::kChildSide);
    });
  } else {
    // An 'EXIT' may come of exit/2 by a process that lives on: only with the same reason is it that one's end.
    const bool down = identity.kind == Identity::Kind::down;
    const auto reason = reason_of(record.term().element(down ? 4 : 2));
    if (!down) edge = EdgeCertainty::unique;
    cause = find(who, EventType::process_exit, [&](const store::StoredRow& row) {
      return down || (!row.record.payload.empty() && reason_of(row.record.term()) == reason);
    });
  }
  const Point came{item.row->id(), item.at};
  if (!cause || certainly_before(came, *cause)) return doubt(OrderDoubt::signal);
  reach(*cause, came.id, entry, edge);
}

// The parent's own spawn event, if it was recorded.
void Past::began(const RowStream::Item& item, std::uint32_t entry) {
  const auto& row = *item.row;
  const auto& peer = row.record.peer;
  const auto* own = info_of(*context_.view, row.process.incarnation);
  if (peer.kind != codec::Peer::Kind::pid || own == nullptr) return doubt(OrderDoubt::untraced);
  const std::string_view node = peer.node.empty() ? std::string_view(own->node) : peer.node;
  const auto parent = receivers_.home(
      codec::PidParts{node, peer.id, peer.serial,
                      peer.creation == 0 && node == own->node ? own->creation : peer.creation});
  // Across nodes the parent has no event of its own.
  if (parent.incarnation != own->home) return doubt(OrderDoubt::untraced);
  const auto spawn = find(process_of(*context_.view, parent).ids, EventType::process_spawn,
                          [&](const store::StoredRow& other) {
                            const auto& p = other.record.peer;
                            return !other.record.has(TraceRecord::kChildSide) &&
                                   p.kind == codec::Peer::Kind::pid && p.id == row.process.id &&
                                   p.serial == row.process.serial &&
                                   (p.node.empty() || p.node == own->node);
                          });
  if (!spawn) return doubt(OrderDoubt::untraced);
  reach(*spawn, row.id(), entry, EdgeCertainty::exact);
}

// Who sent what arrived. All sends and arrivals of the same contents are looked at, whoever's they are.
void Past::match_contents() {
  ScanSpec spec;
  for (const auto& a : arrivals_) {
    if (matched_contents_.insert(a.hash).second) spec.match_hashes.push_back(a.hash);
  }
  bool whole = true;
  if (!spec.match_hashes.empty() && !found_) {
    std::ranges::sort(spec.match_hashes);
    spec.types = bit(EventType::message_send) | kArrivals;
    spec.since = ClusterTime{std::min(earlier_.at.time, later_.at.time).ns - kBeforeNs};
    spec.until = ClusterTime{std::max(earlier_.at.time, later_.at.time).ns + kAfterNs};
    spec.payload = true;
    RowStream rows(context_, clock_, spec);
    MessageMatcher matcher(*this);
    for (RowStream::Item item; rows.next(item);) {
      if (++rows_ > kOrderRows) {
        whole = false;
        break;
      }
      matcher.add(receivers_.message(*item.row, item.at));
    }
    matcher.finish();
    corrupt_ += rows.corrupt_blocks();
    if (rows.cut()) whole = false;
    if (!whole) doubt(OrderDoubt::search);
  }
  for (const auto& a : std::exchange(arrivals_, {})) {
    if (found_) return;
    const auto match = matches_.find(a.id);
    if (match == matches_.end()) {
      if (!taken_.contains(a.id)) doubt(OrderDoubt::untraced);
      continue;
    }
    const auto& [send, how] = match->second;
    if (how == Matched::ambiguous || (how == Matched::unique && !whole)) {
      doubt(OrderDoubt::ambiguous);
    } else {
      reach(send, a.id, a.entry,
            how == Matched::exact ? EdgeCertainty::exact : EdgeCertainty::unique);
    }
  }
}

// A process of which nothing tells that it lived before `earlier` may have been begun by it.
void Past::was_alive(const ProcessId& process) {
  const auto begun_before = [&](RawTime raw) {
    const EventId at{process, raw, 0};
    return certainly_before({at, clock_.cluster(process.incarnation, raw)}, earlier_);
  };
  ScanSpec spec;
  spec.processes = {process};
  spec.order = Order::oldest_first;
  spec.limit = 1;
  const auto first = scan(context_, clock_, spec);
  if (!first.hits.empty()) {
    const auto& hit = first.hits.front();
    const bool begins =
        hit.type == EventType::process_spawn && (hit.flags & TraceRecord::kChildSide);
    if (begins || begun_before(hit.id.time)) return;
  }
  std::shared_ptr<const void> owner;
  const auto lives = context_.view->lives(process, owner);
  for (const auto& life : lives ? *lives : std::vector<store::Life>{}) {
    if (life.process != process) continue;
    if ((life.seen_alive && begun_before(*life.seen_alive)) ||
        (life.spawned && begun_before(*life.spawned))) {
      return;
    }
  }
  doubt(OrderDoubt::untraced);
}

std::vector<EventId> Past::path() const {
  std::vector<EventId> out{earlier_.id};
  const auto add = [&](const EventId& id) {
    if (out.back() != id) out.push_back(id);
  };
  for (auto e = *found_;; e = entries_[e].to) {
    add(entries_[e].upto);
    add(entries_[e].arrival);
    if (e == 0) return out;
  }
}

Result<Point> recorded_event(const Context& context, const ClockModel& clock, const EventId& id,
                             std::string_view field) {
  constexpr std::int64_t kFar = std::int64_t{1} << 62;  // ids come from callers
  if (info_of(*context.view, id.process.incarnation) != nullptr && id.time.ns < kFar &&
      id.time.ns > -kFar) {
    const Point point{id, clock.cluster(id.process.incarnation, id.time)};
    ScanSpec spec;
    spec.processes = {id.process};
    spec.since = spec.until = point.at.time;
    spec.limit = 1;
    spec.accept = [&](const store::StoredRow& row, Hit&) { return row.id() == id; };
    const auto found = scan(context, clock, spec);
    if (!found.hits.empty()) return point;
    if (found.cut) return fail(Code::deadline, "the deadline passed before the event was found");
  }
  return fail(Code::not_recorded, "no event has that id: take one of get_events or get_trace",
              std::string(field));
}

}  // namespace

std::string_view name(EventOrder order) {
  constexpr std::string_view kNames[] = {"before", "after", "concurrent", "same", "unknown"};
  return kNames[static_cast<std::size_t>(order)];
}
std::string_view name(OrderWhy why) {
  constexpr std::string_view kNames[] = {"none", "process", "messages", "time"};
  return kNames[static_cast<std::size_t>(why)];
}
std::string_view name(OrderDoubt doubt) {
  constexpr std::string_view kNames[kOrderDoubts] = {"ambiguous", "untraced",  "signal",
                                                     "search",    "not_final", "clock"};
  return kNames[static_cast<std::size_t>(doubt)];
}

Result<OrderAnswer> get_order(const Context& context, const EventId& id_a, const EventId& id_b) {
  const ClockModel clock(*context.view);
  OrderAnswer out;
  Point a, b;
  ASSIGN_OR_RETURN(a, recorded_event(context, clock, id_a, "id_a"));
  ASSIGN_OR_RETURN(b, recorded_event(context, clock, id_b, "id_b"));
  out.a = a.at;
  out.b = b.at;
  std::set<ProcessId> processes{id_a.process, id_b.process};
  std::uint64_t corrupt = 0;
  const auto certified = [&] {
    std::set<Incarnation> concerned;
    for (const auto& p : processes) concerned.insert(p.incarnation);
    const std::vector<Incarnation> incarnations(concerned.begin(), concerned.end());
    const std::vector<ProcessId> all(processes.begin(), processes.end());
    const auto wide = [&](const Point& p, std::int64_t sign) {
      return p.at.time.ns + sign * (p.at.error_ns == kUnknownError ? 0 : p.at.error_ns);
    };
    out.completeness = certify(context, clock, incarnations, {kMessages, all},
                               ClusterTime{std::min(wide(a, -1), wide(b, -1))},
                               ClusterTime{std::max(wide(a, 1), wide(b, 1))});
    out.completeness.corrupt_blocks += corrupt;
  };
  if (id_a.process == id_b.process) {
    out.order = id_a == id_b                ? EventOrder::same
                : place(id_a) < place(id_b) ? EventOrder::before
                                            : EventOrder::after;
    if (id_a != id_b) out.why = OrderWhy::process;
    certified();
    return out;
  }
  const bool a_first = certainly_before(a, b), b_first = certainly_before(b, a);
  const auto chain = [&](const Point& earlier, const Point& later, EventOrder order) {
    Past past(context, clock, earlier, later, !a_first && !b_first);
    const bool found = past.search();
    processes.insert(past.processes().begin(), past.processes().end());
    corrupt += past.corrupt();
    if (!found) {
      out.doubts |= past.doubts();
      return false;
    }
    out.order = order;
    out.why = OrderWhy::messages;
    out.path = past.path();
    out.certainty = past.certainty();
    out.doubts = 0;
    return true;
  };
  if (!(!b_first && chain(a, b, EventOrder::before)) &&
      !(!a_first && chain(b, a, EventOrder::after)) && (a_first || b_first)) {
    out.order = a_first ? EventOrder::before : EventOrder::after;
    out.why = OrderWhy::time;
  }
  certified();
  // Truncated or redacted terms hide no step: none were counted.
  if (out.why == OrderWhy::none && out.doubts == 0 && out.completeness.complete()) {
    out.order = EventOrder::concurrent;
  }
  return out;
}

}  // namespace scope::analysis
