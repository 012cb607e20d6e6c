#include "analysis/state_history.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <map>
#include <set>

#include "analysis/completeness.h"
#include "analysis/cursor.h"
#include "analysis/event_scan.h"

namespace scope::analysis {
namespace {

using codec::EventType;
using codec::TermView;
using codec::TraceRecord;

constexpr std::int64_t kSearchNs =
    10'000'000'000;  // how long before its taking a message's send is looked for

std::optional<TermView> payload(const Event& event) {
  if (event.row.record.payload.empty()) return std::nullopt;
  return event.row.record.term();
}

bool is_gen_server(const codec::Mfa& mfa) {
  return mfa.module == "gen_server" || mfa.module == "gen_server2";
}

std::string callback_of(const Event& state, const Event* cause) {
  if (state.row.record.has(TraceRecord::kEndState)) return "terminate";
  if (cause == nullptr || !is_gen_server(state.row.record.mfa)) return {};
  const auto message = payload(*cause);
  if (!message || cause->row.record.has(TraceRecord::kSystemMessage)) return {};
  if (message->is_tuple("$gen_call", 3)) return "handle_call";
  if (message->is_tuple("$gen_cast", 2)) return "handle_cast";
  return "handle_info";
}

// The caller that a '$gen_call' carries in itself.
std::optional<Process> caller_in(const store::View& view, const Event& cause) {
  const auto message = payload(cause);
  if (!message || !message->is_tuple("$gen_call", 3)) return std::nullopt;
  const TermView from = message->element(1);
  if (from.arity() != 2u) return std::nullopt;
  const auto pid = from.element(0).pid();
  if (!pid) return std::nullopt;
  if (auto known = process_of(view, pid->node, pid->creation, pid->id, pid->serial)) return known;
  return Process{{}, std::string(pid->node), pid->creation, pid->id, pid->serial};
}

// Who sent the messages that no content names: the only process that sent the same content to this one before.
void find_senders(const Context& context, const ClockModel& clock, const Process& process,
                  std::vector<Transition*> takes) {
  std::erase_if(takes, [](const Transition* t) {
    const auto& record = t->cause->row.record;
    return !record.has(TraceRecord::kHashed) || record.has(TraceRecord::kSystem);
  });
  if (takes.empty()) return;
  std::sort(takes.begin(), takes.end(),
            [](auto* a, auto* b) { return a->cause->at.time < b->cause->at.time; });
  const PeerMatcher matcher(context, clock, process);
  // At most half of the time that is left: without a sender the answer is still one.
  Context hurried = context;
  const auto now = std::chrono::steady_clock::now();
  if (context.budget.deadline != std::chrono::steady_clock::time_point::max()) {
    hurried.budget.deadline = now + (context.budget.deadline - now) / 2;
  }
  for (std::size_t begin = 0; begin < takes.size();) {
    std::size_t end = begin + 1;
    const auto time = [&](std::size_t i) { return takes[i]->cause->at.time.ns; };
    while (end < takes.size() && time(end) - time(end - 1) < kSearchNs) ++end;
    std::set<std::uint64_t> wanted;
    std::int64_t error = 0;
    for (std::size_t i = begin; i < end; ++i) {
      wanted.insert(takes[i]->cause->row.record.match_hash);
      if (takes[i]->cause->at.error_ns != kUnknownError) {
        error = std::max(error, takes[i]->cause->at.error_ns);
      }
    }
    struct Send {
      Corrected at;
      ProcessId from;
    };
    std::multimap<std::uint64_t, Send> sends;
    ScanSpec spec;
    spec.types = bit(EventType::message_send);
    spec.since = ClusterTime{time(begin) - kSearchNs};
    spec.until = ClusterTime{time(end - 1) + error + 1'000'000};
    spec.limit = kMaxLimit;
    spec.accept = [&](const store::StoredRow& row, Hit& hit) {
      return row.record.has(TraceRecord::kHashed) && wanted.contains(row.record.match_hash) &&
             matcher.means(row, hit.at.time) == Means::yes;
    };
    const auto found = scan(hurried, clock, spec);
    if (found.cut || found.resume) return;  // not all seen: "the only one" could be wrong
    for (const auto& hit : found.hits) sends.emplace(hit.match_hash, Send{hit.at, hit.id.process});
    for (std::size_t i = begin; i < end; ++i) {
      const auto& cause = *takes[i]->cause;
      std::set<ProcessId> senders;
      const auto [first, last] = sends.equal_range(cause.row.record.match_hash);
      for (auto it = first; it != last; ++it) {
        const bool same_clock = it->second.from.incarnation == cause.row.process.incarnation;
        const bool unsure =
            cause.at.error_ns == kUnknownError || it->second.at.error_ns == kUnknownError;
        const std::int64_t slack = same_clock ? 0
                                   : unsure   ? kSearchNs
                                              : cause.at.error_ns + it->second.at.error_ns;
        if (it->second.at.time.ns <= cause.at.time.ns + slack) senders.insert(it->second.from);
      }
      if (senders.size() == 1) takes[i]->sender = process_of(*context.view, *senders.begin());
    }
    begin = end;
  }
}

}  // namespace

Status check_only_range(const Filter& filter) {
  std::string_view extra;
  if (filter.pid) extra = "pid";
  if (filter.peer) extra = "peer";
  if (!filter.nodes.empty()) extra = "node";
  if (filter.types != ~0u) extra = "type";
  if (filter.mfa) extra = "mfa";
  if (!filter.modules.empty()) extra = "module";
  if (filter.min_duration_ns) extra = "min_duration";
  if (filter.trace_id) extra = "trace_id";
  if (filter.match) extra = "match";
  if (!filter.text.empty()) extra = "text";
  if (filter.explain) extra = "explain";
  if (extra.empty()) return {};
  return fail(Code::bad_value,
              "this request takes only since, until, limit, order, cursor, deadline",
              std::string(extra));
}

Result<StateHistory> state_history(const Context& context, const ProcessSpec& spec,
                                   const Filter& filter) {
  RETURN_IF_ERROR(check_only_range(filter));
  StateHistory out;
  Walk walk;
  ASSIGN_OR_RETURN(walk, begin_walk(context, filter, Question::get_state_history, &spec));
  const ClockModel clock(*context.view, walk.clock_version);
  ASSIGN_OR_RETURN(
      out.process,
      resolve(context, clock, spec,
              walk.since.value_or(ClusterTime{std::numeric_limits<std::int64_t>::min()}),
              walk.until.value_or(context.now), "pid"));

  ScanSpec states;
  states.processes = out.process.ids;
  states.types = bit(EventType::state_change);
  states.since = walk.since;
  states.until = walk.until;
  states.order = filter.order;
  states.limit = filter.limit;
  states.after = walk.after;
  states.upper = walk.upper;
  auto page = scan(context, clock, states);
  if (page.hits.empty() && !page.cut && !walk.after) {
    bool seen = false;
    ASSIGN_OR_RETURN(seen, recorded(context, out.process));
    if (!seen) {
      return fail(Code::no_such_process, "nothing was ever recorded of that process", "pid",
                  pid_text(out.process.id, out.process.serial) + " on " + out.process.node);
    }
  }
  auto loaded = load(context, page.hits, filter.max_bytes);
  std::optional<Position> resume = page.resume;
  if (loaded.size_cut) {
    resume = Position{loaded.events.back().at.time, loaded.events.back().row.id()};
  }
  if (resume) out.next = next_cursor(walk, Question::get_state_history, clock.version(), *resume);
  out.owners = std::move(loaded.owners);
  auto events = std::move(loaded.events);
  const bool newest = filter.order == Order::newest_first;
  if (newest) std::reverse(events.begin(), events.end());

  // The state before the first, to compare with.
  std::optional<Event> before_first;
  if (!events.empty()) {
    ScanSpec before = states;
    before.since.reset();
    before.order = Order::newest_first;
    before.after = Position{events.front().at.time, events.front().row.id()};
    before.limit = 1;
    const auto found = scan(context, clock, before);
    auto one = load(context, found.hits, kMaxAnswerBytes);
    if (!one.events.empty()) before_first = one.events.front();
    std::move(one.owners.begin(), one.owners.end(), std::back_inserter(out.owners));
  }

  // What was taken in between, newest first from the last state on.
  std::vector<Hit> takes;
  bool takes_cut = false;
  if (!events.empty()) {
    ScanSpec taken = states;
    taken.types = bit(EventType::message_take);
    taken.order = Order::newest_first;
    taken.after.reset();
    taken.until = events.back().at.time;
    taken.since = before_first ? std::optional(before_first->at.time) : std::nullopt;
    taken.limit = kMaxLimit;
    auto found = scan(context, clock, taken);
    takes = std::move(found.hits);
    takes_cut = found.resume.has_value();
    std::reverse(takes.begin(), takes.end());
  }

  std::optional<ClusterTime> low = walk.since, high = walk.until;
  if (walk.after) (newest ? high : low) = walk.after->time;
  if (resume) (newest ? low : high) = resume->time;
  std::vector<Incarnation> incarnations;
  for (const auto& id : out.process.ids) incarnations.push_back(id.incarnation);
  out.completeness =
      certify(context, clock, incarnations, {bit(EventType::state_change), out.process.ids}, low,
              high, walk.upper);

  // Causes: of each state, the last message taken since the state before.
  std::vector<Hit> causes;
  std::vector<std::optional<std::size_t>> cause_of(events.size());
  std::vector<std::size_t> taken_between(events.size(), 0);
  const auto earlier = [](const Corrected& a, const EventId& a_id, const Corrected& b,
                          const EventId& b_id) {
    return std::tie(a.time, a_id) < std::tie(b.time, b_id);
  };
  std::size_t t = 0;
  if (before_first) {
    while (t < takes.size() &&
           earlier(takes[t].at, takes[t].id, before_first->at, before_first->row.id()))
      ++t;
  }
  for (std::size_t i = 0; i < events.size(); ++i) {
    for (; t < takes.size() && earlier(takes[t].at, takes[t].id, events[i].at, events[i].row.id());
         ++t) {
      ++taken_between[i];
      if (taken_between[i] == 1) {
        cause_of[i] = causes.size();
        causes.push_back(takes[t]);
      } else {
        causes.back() = takes[t];
      }
    }
  }
  auto cause_rows = load(context, causes, kMaxAnswerBytes);
  std::move(cause_rows.owners.begin(), cause_rows.owners.end(), std::back_inserter(out.owners));
  std::map<EventId, const Event*> cause_by_id;
  for (const auto& event : cause_rows.events) cause_by_id[event.row.id()] = &event;

  const Event* previous = before_first ? &*before_first : nullptr;
  for (std::size_t i = 0; i < events.size(); previous = &events[i], ++i) {
    const auto& event = events[i];
    const auto& record = event.row.record;
    Transition next;
    next.state = event;
    if (cause_of[i]) {
      const auto at = cause_by_id.find(causes[*cause_of[i]].id);
      if (at != cause_by_id.end()) next.cause = *at->second;
    }
    const auto now = payload(event);
    const auto then = previous ? payload(*previous) : std::nullopt;
    // Two loop functions of the behaviour that follow each other without a message are one state (model.md).
    if (!next.cause && previous && previous->row.record.mfa != record.mfa &&
        !record.has(TraceRecord::kEndState) && now && then && codec::equal(*now, *then)) {
      continue;
    }
    next.callback = callback_of(event, next.cause ? &*next.cause : nullptr);
    if (next.cause) next.sender = caller_in(*context.view, *next.cause);
    const bool whole = !record.has(TraceRecord::kTruncated) && previous &&
                       !previous->row.record.has(TraceRecord::kTruncated);
    if (whole && now && then) next.diff = codec::diff(*then, *now);
    const auto since =
        previous ? previous->at.time : ClusterTime{std::numeric_limits<std::int64_t>::min()};
    const bool gap =
        out.completeness.gaps_not_listed > 0 ||
        std::any_of(out.completeness.gaps.begin(), out.completeness.gaps.end(),
                    [&](const Missing& m) { return m.until >= since && m.from <= event.at.time; });
    if (record.has(TraceRecord::kTruncated)) {
      next.certainty = Certainty::truncated;
      ++out.completeness.truncated;
    } else if (gap || takes_cut || taken_between[i] > 1 || record.has(TraceRecord::kInferred)) {
      next.certainty = Certainty::inferred;
    }
    if (record.has(TraceRecord::kRedacted)) ++out.completeness.redacted;
    out.transitions.push_back(std::move(next));
  }
  std::vector<Transition*> without_sender;
  for (auto& transition : out.transitions) {
    if (transition.cause && !transition.sender) without_sender.push_back(&transition);
  }
  find_senders(context, clock, out.process, std::move(without_sender));
  if (newest) std::reverse(out.transitions.begin(), out.transitions.end());
  out.completeness.corrupt_blocks +=
      page.corrupt_blocks + loaded.corrupt_blocks + cause_rows.corrupt_blocks;
  out.completeness.size_cut = loaded.size_cut;
  out.completeness.deadline_cut = out.completeness.deadline_cut || page.cut;
  return out;
}

}  // namespace scope::analysis
