#include "analysis/causality.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "analysis/call_context.h"
#include "analysis/resolve.h"
#include "ei_codec/term_print.h"

namespace scope::analysis {
namespace {

using codec::EventType;
using codec::TermView;
using codec::TraceRecord;

constexpr std::size_t kMaxFetched = 16, kMaxFrames = 64;
// By time, not by rows: a message's fate must not depend on the traffic beside it (trace_outward.h).
constexpr std::int64_t kAdvanceNs = 100'000'000;
// When nothing comes for so long, nothing waits any more (MatchLimits, and a cluster's second look).
constexpr std::int64_t kMostSteps = 700;

std::string label(const TermView& term) {
  if (const auto atom = term.atom()) return std::string(atom->substr(0, kMaxSpanText));
  if (const auto arity = term.arity(); arity && *arity > 0) {
    const auto tag = term.element(0).atom();
    return fmt::format("{}/{}", tag ? tag->substr(0, kMaxSpanText) : "_", *arity);
  }
  switch (term.kind()) {
    case codec::TermKind::map:
      return "map";
    case codec::TermKind::list:
    case codec::TermKind::nil:
    case codec::TermKind::string:
      return "list";
    case codec::TermKind::binary:
      return "binary";
    case codec::TermKind::integer:
      return std::to_string(term.integer().value_or(0));
    default:
      return "term";
  }
}

std::string mfa_text(const codec::Mfa& mfa) {
  return fmt::format("{}:{}/{}", mfa.module, mfa.function, mfa.arity);
}

// normal, shutdown and {shutdown, _} are how processes are meant to end.
std::string error_of(const TraceRecord& record) {
  if (record.payload.empty()) return {};
  const auto reason = record.term();
  if (reason.is_atom("normal") || reason.is_atom("shutdown") || reason.is_tuple("shutdown", 2)) {
    return {};
  }
  return codec::print(reason, codec::Syntax::erlang, kMaxSpanText);
}

}  // namespace

const std::uint32_t Causality::kTypes =
    bit(EventType::message_send) | bit(EventType::message_fetch) | bit(EventType::message_take) |
    bit(EventType::state_change) | bit(EventType::process_spawn) | bit(EventType::process_exit) |
    bit(EventType::function_entry) | bit(EventType::function_exit) |
    bit(EventType::function_exception) | bit(EventType::seq_send) | bit(EventType::seq_receive) |
    bit(EventType::process_link) | bit(EventType::process_unlink);

const std::uint32_t Causality::kPayloads =
    kTypes & ~(bit(EventType::state_change) | bit(EventType::process_spawn) |
               bit(EventType::process_link) | bit(EventType::process_unlink) |
               bit(EventType::function_entry) | bit(EventType::function_exit));

std::string_view name(SpanKind kind) {
  constexpr std::string_view kNames[] = {"call",  "handle", "cast",    "info",
                                         "spawn", "timer",  "function"};
  return kNames[static_cast<std::size_t>(kind)];
}
std::string_view name(EdgeCertainty certainty) {
  constexpr std::string_view kNames[] = {"exact", "unique", "inferred", "ambiguous"};
  return kNames[static_cast<std::size_t>(certainty)];
}
std::string_view name(RootKind kind) {
  constexpr std::string_view kNames[] = {"none", "process", "port", "timer", "untraced", "system"};
  return kNames[static_cast<std::size_t>(kind)];
}

SpanKind kind_of(const Message& message, const TraceRecord& record) {
  if (message.identity.kind == Identity::Kind::request) return SpanKind::handle;
  if (message.identity.kind == Identity::Kind::timer) return SpanKind::timer;
  if (!record.payload.empty() && record.term().is_tuple("$gen_cast", 2)) return SpanKind::cast;
  return SpanKind::info;
}

std::string message_label(const TraceRecord& record) {
  if (record.payload.empty()) return "?";
  const auto term = record.term();
  if (term.is_tuple("$gen_call", 3)) return label(term.element(2));
  if (term.is_tuple("$gen_cast", 2)) return label(term.element(1));
  if (term.arity() == 3u && term.element(0).is_atom("timeout")) return label(term.element(1));
  return label(term);
}

Causality::Causality(const Context& context, const ClockModel& clock)
    : view_(*context.view),
      tokens_(std::ranges::any_of(
          view_.units(),
          [](const store::Unit& unit) {
            return (unit.types & (bit(EventType::seq_send) | bit(EventType::seq_receive))) != 0;
          })),
      receivers_(context, clock),
      matcher_(*this) {}

std::unique_ptr<Causality> Causality::finished() const {
  auto out = std::unique_ptr<Causality>(new Causality(*this));
  out->matcher_.set_sink(*out);
  out->finish();
  return out;
}

void Causality::matched(const Message& send, const Message& arrival, Matched how,
                        std::uint32_t candidates) {
  matches_[arrival.id] = {send.id, how, candidates};
  if (const auto sent = sends_.find(send.id); sent != sends_.end()) sent->second.arrived = true;
}

void Causality::taken(const Message& fetch, const Message& take) { takes_[take.id] = fetch.id; }

std::uint32_t Causality::begin(SpanKind kind, const EventId& id, Corrected at) {
  const auto span = static_cast<std::uint32_t>(spans_.size());
  Span& s = spans_.emplace_back();
  s.id = id;
  s.kind = kind;
  s.process = id.process;
  s.start = at;
  s.events.push_back(id);
  merged_.push_back(span);
  began_[id] = span;
  return span;
}

void Causality::touch(Process& process, Corrected at) {
  if (process.activity != kNoSpan) spans_[process.activity].stop = at;
}

void Causality::act(Process& process) {
  if (process.by_token && process.guess) {
    spans_[process.activity].differs = std::exchange(process.guess, std::nullopt);
  }
  if (process.behaviour || process.by_token || process.fetched.empty()) return;
  const auto& newest = process.fetched.back();
  const auto span = begin(newest.kind, newest.id, newest.at);
  spans_[span].name = newest.name;
  spans_[span].context = newest.context;
  spans_[span].stop = newest.at;
  causes_.push_back({span, newest.id, newest.identity, true, process.fetched_count});
  if (process.plain.empty()) process.before_plain = process.activity;
  process.plain.push_back(span);
  process.activity = span;
  process.fetched.clear();
  process.fetched_count = 0;
}

// A span inside the present activity, and inside the function that is being called.
std::uint32_t Causality::child_of(Process& process, SpanKind kind, const EventId& id,
                                  Corrected at) {
  const auto span = begin(kind, id, at);
  spans_[span].parent = process.activity;
  if (process.activity == kNoSpan) spans_[span].root = RootKind::process;
  if (!process.frames.empty()) process.frames.back().inside.push_back(span);
  return span;
}

void Causality::add(const RowStream::Item& item) {
  const auto& row = *item.row;
  const auto type = row.record.type;
  if (type == EventType::process_spawn) return spawned(item);
  if (type == EventType::seq_send || type == EventType::seq_receive) return seq(item);
  if (type == EventType::process_link || type == EventType::process_unlink) return linked(item);
  auto& process = processes_[receivers_.home(row.process)];
  if (type != EventType::message_fetch) process.seen = true;
  switch (type) {
    case EventType::message_send:
    case EventType::message_fetch:
    case EventType::message_take: {
      const auto message = match(item);
      if (type == EventType::message_send) return sent(process, item, message);
      if (type == EventType::message_fetch) return fetched(process, item, message);
      return took(process, item, message);
    }
    case EventType::state_change:
      if (row.record.has(TraceRecord::kInferred)) return;  // asked for, not changed
      is_behaviour(process);
      if (process.activity != kNoSpan) spans_[process.activity].stop = item.at;
      return;
    case EventType::process_exit:
      return exited(process, item);
    case EventType::function_entry:
    case EventType::function_exit:
    case EventType::function_exception:
      return function(process, item);
    default:
      return;
  }
}

Message Causality::match(const RowStream::Item& item) {
  advance(item.at.time);
  auto message = receivers_.message(*item.row, item.at);
  matcher_.add(message);
  return message;
}

void Causality::advance(ClusterTime until) {
  const auto step = until.ns / kAdvanceNs;
  if (!step_ || step - *step_ > kMostSteps) {
    for (auto i = 0; step_ && i < kMostSteps; ++i) matcher_.advance({++*step_ * kAdvanceNs});
    step_ = step - 1;
  }
  while (*step_ < step) matcher_.advance({++*step_ * kAdvanceNs});
}

void Causality::sent(Process& process, const RowStream::Item& item, const Message& message) {
  if (Recent* const known = twin(process.sends, message, true)) {
    known->paired = true;
    const auto same = sends_.find(known->id);
    if (same != sends_.end()) sends_.emplace(message.id, Sent(same->second));
    return touch(process, item.at);
  }
  act(process);
  touch(process, item.at);
  Sent sent{
      process.activity, item.row->process, item.at,
      message.to.kind == Destination::Kind::nobody || message.has(TraceRecord::kDeadReceiver)};
  if (message.identity.kind == Identity::Kind::request) {
    sent.activity = child_of(process, SpanKind::call, message.id, item.at);
    spans_[sent.activity].name = message_label(item.row->record);
    calls_[{message.identity.ref, message.process}] = sent.activity;
  }
  sends_.emplace(message.id, sent);
  remember(process.sends, {.hash = message.hash, .id = message.id});
}

// A reply or the end of who was called: of a call that is known.
bool Causality::answered(Process& process, const RowStream::Item& item, const Message& message) {
  const bool answers = message.identity.kind == Identity::Kind::reply ||
                       message.identity.kind == Identity::Kind::down;
  const auto call = answers ? calls_.find({message.identity.ref, message.process}) : calls_.end();
  if (call == calls_.end()) return false;
  auto& span = spans_[call->second];
  span.stop = item.at;
  if (message.identity.kind == Identity::Kind::down) {
    const auto& record = item.row->record;
    span.error = record.payload.empty()
                     ? "down"
                     : codec::print(record.term().element(4), codec::Syntax::erlang, kMaxSpanText);
  } else {
    replies_.push_back({call->second, message.id});
    span.events.push_back(message.id);
  }
  calls_.erase(call);
  touch(process, item.at);
  return true;
}

void Causality::fetched(Process& process, const RowStream::Item& item, const Message& message) {
  const bool seen = std::exchange(process.seen, true);
  if (answered(process, item, message)) return;
  if (!seen && message.identity.kind == Identity::Kind::reply) return;
  Recent* const known = process.behaviour ? nullptr : twin(process.arrivals, message, true);
  if (known != nullptr && !known->fetched) {  // it was taken at once, as its token said already
    known->fetched = true;
    if (known->span != kNoSpan) arrives_as(known->span, message.id);
    return;
  }
  if (process.behaviour || message.has(TraceRecord::kTimeoutNotMessage) ||
      message.identity.kind == Identity::Kind::spawned) {
    return;
  }
  if (process.fetched.size() == kMaxFetched) process.fetched.erase(process.fetched.begin());
  process.fetched.push_back({message.id, item.at, message.identity,
                             kind_of(message, item.row->record), message_label(item.row->record),
                             message.hash, store::first_traceparent(item.row->record.payload)});
  process.by_token = false;
  ++process.fetched_count;
}

// What was taken for the causes of a plain process was not: a behaviour takes or enters its loop for the first time here.
void Causality::is_behaviour(Process& process) {
  if (process.behaviour) return;
  process.behaviour = true;
  process.fetched.clear();
  process.fetched_count = 0;
  if (process.plain.empty()) return;
  for (const auto span : process.plain) merged_[span] = process.before_plain;
  const std::unordered_set<std::uint32_t> undone(process.plain.begin(), process.plain.end());
  std::erase_if(causes_, [&](const Cause& c) { return undone.contains(c.span); });
  process.activity = process.before_plain;
  process.plain.clear();
}

void Causality::took(Process& process, const RowStream::Item& item, const Message& message) {
  is_behaviour(process);
  process.frames.clear();
  process.by_token = false;
  Recent* const known = twin(process.arrivals, message, true);
  if (known != nullptr && known->span != kNoSpan) {  // its token began the span before
    known->paired = true;
    auto& s = spans_[known->span];
    s.id = message.id;
    s.start = item.at;
    s.module = item.row->record.mfa.module;
    arrives_as(known->span, message.id);
    process.activity = known->span;
    return;
  }
  const auto span = begin(kind_of(message, item.row->record), message.id, item.at);
  auto& s = spans_[span];
  s.name = message_label(item.row->record);
  s.module = item.row->record.mfa.module;
  s.context = store::first_traceparent(item.row->record.payload);
  const auto before = process.activity;
  process.activity = span;
  causes_.push_back({span, message.id, message.identity, false, 1});
  if (known != nullptr) {
    known->paired = true;
    began_[known->id] = span;
    s.events.push_back(known->id);
    give_token(span, known->key, std::move(known->label));
  } else {
    remember(process.arrivals, {.hash = message.hash, .id = message.id, .span = span});
  }
  if (s.kind == SpanKind::timer && before != kNoSpan) links_.push_back({before, span, "timer"});
}

void Causality::spawned(const RowStream::Item& item) {
  const auto& row = *item.row;
  const bool child_side = row.record.has(TraceRecord::kChildSide);
  const auto other = receivers_.other_end(row);
  if (!other) return;
  const auto mine = receivers_.home(row.process);
  const auto child = child_side ? mine : other, parent = child_side ? other : mine;
  auto known = children_.find(child);
  if (known == children_.end()) {
    // Across nodes only the child tells; what its parent did at that time is a guess where its clock is another.
    const auto by = processes_.find(parent);
    std::uint32_t span;
    if (child_side && parent.incarnation != child.incarnation) {
      span = begin(SpanKind::spawn, row.id(), item.at);
      const auto activity = by == processes_.end() ? kNoSpan : by->second.activity;
      spans_[span].parent = activity;
      spans_[span].certainty = activity == kNoSpan ? EdgeCertainty::exact : EdgeCertainty::inferred;
      if (activity == kNoSpan) spans_[span].root = RootKind::untraced;
    } else {
      auto& process = processes_[parent];
      if (!child_side) {
        act(process);
        touch(process, item.at);
      }
      span = child_of(process, SpanKind::spawn, row.id(), item.at);
      if (spans_[span].root == RootKind::process) {
        spans_[span].sender =
            child_side ? ProcessId{row.process.incarnation, parent.id, parent.serial} : row.process;
      }
    }
    if (row.record.mfa) spans_[span].name = mfa_text(row.record.mfa);
    spans_[span].module = row.record.mfa.module;
    known = children_.emplace(child, span).first;
  } else {
    spans_[known->second].events.push_back(row.id());
    began_[row.id()] = known->second;
  }
  auto& span = spans_[known->second];
  auto& process = processes_[child];
  if (child_side) {
    span.process = row.process;
    span.queue_ns = std::max<std::int64_t>(0, item.at.time.ns - span.start.time.ns);
  } else if (span.process == row.process) {
    span.process = {row.process.incarnation, child.id, child.serial};
  }
  if (process.activity == kNoSpan) process.activity = known->second;
}

void Causality::exited(Process& process, const RowStream::Item& item) {
  const auto& row = *item.row;
  auto error = error_of(row.record);
  if (process.activity != kNoSpan) {
    auto& span = spans_[process.activity];
    span.stop = item.at;
    span.error = error;
  }
  const auto who = receivers_.home(row.process);
  const Exit exit{process.activity, row.id(), item.at, std::move(error)};
  if (exits_.insert_or_assign(who, exit).second) ended_.push_back(who);
}

void Causality::function(Process& process, const RowStream::Item& item) {
  const auto& record = item.row->record;
  auto mfa = mfa_text(record.mfa);
  if (record.type == EventType::function_entry) {
    act(process);
    touch(process, item.at);
    if (process.activity != kNoSpan && !spans_[process.activity].context) {
      spans_[process.activity].context = context_in_call(record);
    }
    if (process.frames.size() < kMaxFrames && process.activity != kNoSpan) {
      process.frames.push_back({std::move(mfa), item.row->id(), item.at, {}});
    }
    return;
  }
  touch(process, item.at);
  const auto frame = std::find_if(process.frames.rbegin(), process.frames.rend(),
                                  [&](const Frame& f) { return f.mfa == mfa; });
  if (frame == process.frames.rend()) return;
  const auto at = std::prev(frame.base());
  const auto span = begin(SpanKind::function, at->id, at->at);
  auto& s = spans_[span];
  s.parent = process.activity;
  s.stop = item.at;
  s.name = std::move(mfa);
  s.module = record.mfa.module;
  s.events.push_back(item.row->id());
  if (record.type == EventType::function_exception) {
    s.error = record.payload.empty()
                  ? "exception"
                  : codec::print(record.term(), codec::Syntax::erlang, kMaxSpanText);
  }
  // What was begun in it, and in functions in it whose end was not recorded.
  for (auto f = at; f != process.frames.end(); ++f) {
    for (const auto inside : f->inside) spans_[inside].parent = span;
  }
  process.frames.erase(at, process.frames.end());
  if (!process.frames.empty()) process.frames.back().inside.push_back(span);
}

}  // namespace scope::analysis
