// What Causality makes of its spans once all rows were added: why each began, and the forest of those that stand.
#include <algorithm>
#include <utility>

#include "analysis/causality.h"

namespace scope::analysis {
namespace {

std::int64_t sum_of_errors(std::int64_t a, std::int64_t b) {
  return a == kUnknownError || b == kUnknownError ? kUnknownError : a + b;
}

EdgeCertainty certainty_of(Matched how) {
  return how == Matched::exact    ? EdgeCertainty::exact
         : how == Matched::unique ? EdgeCertainty::unique
                                  : EdgeCertainty::ambiguous;
}

}  // namespace

std::uint32_t Causality::alive(std::uint32_t span) const {
  while (span != kNoSpan && merged_[span] != span) span = merged_[span];
  return span;
}

void Causality::set_parent(std::uint32_t child, std::uint32_t parent, EdgeCertainty certainty,
                           std::uint32_t candidates) {
  auto& span = spans_[child];
  span.parent = parent;
  span.certainty = certainty;
  span.candidates = candidates;
  span.root = RootKind::none;
}

void Causality::waited(Span& span, const Corrected& since, const EventId& cause) {
  if (cause.process.incarnation == span.id.process.incarnation) {
    span.queue_ns = span.id.time.ns - cause.time.ns;
  } else {
    span.queue_ns = span.start.time.ns - since.time.ns;
    span.queue_error_ns = sum_of_errors(span.start.error_ns, since.error_ns);
  }
}

// Why a message came: whoever sent it, whoever died, or nobody that was recorded.
void Causality::resolve(const Cause& cause) {
  auto& span = spans_[cause.span];
  const auto waited_since = [&](const Corrected& at, const EventId& id) { waited(span, at, id); };
  using Kind = Identity::Kind;
  const auto kind = cause.identity.kind;
  if (kind == Kind::down || kind == Kind::exit) {
    span.root = RootKind::system;
    const auto exit = exits_.find(cause.identity.process);
    if (exit == exits_.end()) return;
    // Of a process that ended later an 'EXIT' came by exit/2.
    const auto s = slack(span.start, span.id, exit->second.at, exit->second.id);
    if (s != kUnknownError && span.start.time.ns + s < exit->second.at.time.ns) return;
    waited_since(exit->second.at, exit->second.id);
    span.events.insert(span.events.begin(), exit->second.id);
    if (exit->second.activity == kNoSpan) return;
    auto certainty = kind == Kind::down ? EdgeCertainty::exact : EdgeCertainty::unique;
    if (cause.plain)
      certainty = cause.candidates > 1 ? EdgeCertainty::ambiguous : EdgeCertainty::inferred;
    set_parent(cause.span, exit->second.activity, certainty, cause.candidates);
    return;
  }
  if (kind == Kind::timer || kind == Kind::port) {
    span.root = kind == Kind::timer ? RootKind::timer : RootKind::port;
    return;
  }
  span.root = RootKind::untraced;
  auto arrival = cause.arrival;
  if (const auto fetch = takes_.find(arrival); fetch != takes_.end()) arrival = fetch->second;
  const auto match = matches_.find(arrival);
  if (match == matches_.end()) return;
  const auto send = sends_.find(match->second.send);
  if (send == sends_.end()) return;
  waited_since(send->second.at, match->second.send);
  span.events.insert(span.events.begin(), match->second.send);
  auto certainty = certainty_of(match->second.how);
  auto candidates = match->second.candidates;
  if (cause.plain) {
    candidates = std::max(candidates, cause.candidates);
    certainty = cause.candidates > 1 || certainty == EdgeCertainty::ambiguous
                    ? EdgeCertainty::ambiguous
                    : EdgeCertainty::inferred;
  }
  const auto parent = alive(send->second.activity);
  if (parent == kNoSpan) {
    span.root = RootKind::process;
    span.sender = send->second.from;
    return;
  }
  set_parent(cause.span, parent, certainty, candidates);
}

void Causality::finish() {
  matcher_.finish();
  for (std::uint32_t i = 0; i < spans_.size(); ++i) spans_[i].parent = alive(spans_[i].parent);
  for (const auto& cause : causes_) {
    if (alive(cause.span) != cause.span) continue;
    resolve(cause);
    if (cause.token != 0) by_token(cause);
  }
  const auto wait = [&](std::uint32_t span) {
    if (const auto s = alive(span); s != kNoSpan) spans_[s].waits = true;
  };
  for (const auto& [id, sent] : sends_) {
    if (!sent.arrived) wait(sent.activity);
  }
  for (const auto& [ref, call] : calls_) wait(call);
  // Who answered a call, if it was not its own handling.
  for (const auto& reply : replies_) {
    const auto match = matches_.find(reply.fetch);
    if (match == matches_.end()) continue;
    const auto send = sends_.find(match->second.send);
    if (send == sends_.end()) continue;
    const auto by = alive(send->second.activity);
    if (by != kNoSpan && spans_[by].parent != reply.call)
      links_.push_back({by, reply.call, "reply"});
  }
  ends_passed_on();
  for (auto& link : links_) link = {alive(link.from), alive(link.to), link.why};
  std::erase_if(links_, [](const SpanLink& l) {
    return l.from == kNoSpan || l.to == kNoSpan || l.from == l.to;
  });
  break_circles();
  for (auto& span : spans_) {
    if (span.parent != kNoSpan || span.root != RootKind::none) continue;
    span.root = RootKind::process;
    if (!span.sender) span.sender = span.process;
  }
  compact();
}

// Edges lead back in time, except within the clocks' error: there ambiguous ones can close a circle. It is cut at the
// span that began first.
void Causality::break_circles() {
  std::vector<std::uint32_t> seen(spans_.size(), 0);  // in which walk; 0: in none
  for (std::uint32_t i = 0; i < spans_.size(); ++i) {
    auto at = i;
    while (at != kNoSpan && seen[at] == 0) {
      seen[at] = i + 1;
      at = spans_[at].parent;
    }
    if (at == kNoSpan || seen[at] != i + 1) continue;
    auto first = at;
    for (auto next = spans_[at].parent; next != at; next = spans_[next].parent) {
      if (spans_[next].start.time < spans_[first].start.time) first = next;
    }
    spans_[first].parent = kNoSpan;
    spans_[first].certainty = EdgeCertainty::exact;
    spans_[first].root = RootKind::untraced;
  }
}

void Causality::compact() {
  std::vector<std::uint32_t> place(spans_.size(), kNoSpan);
  std::uint32_t kept = 0;
  for (std::uint32_t i = 0; i < spans_.size(); ++i) {
    if (merged_[i] == i) place[i] = kept++;
  }
  const auto moved = [&](std::uint32_t span) { return span == kNoSpan ? kNoSpan : place[span]; };
  for (std::uint32_t i = 0; i < spans_.size(); ++i) {
    if (place[i] == kNoSpan) continue;
    spans_[i].parent = moved(spans_[i].parent);
    if (place[i] != i) spans_[place[i]] = std::move(spans_[i]);
  }
  for (auto& [event, span] : began_) span = moved(alive(span));
  for (auto& [event, sent] : sends_) sent.activity = moved(alive(sent.activity));
  for (auto& link : links_) link = {moved(link.from), moved(link.to), link.why};
  spans_.resize(kept);
}

std::uint32_t Causality::span_of(const EventId& event) const {
  if (const auto at = began_.find(event); at != began_.end()) return at->second;
  if (const auto at = sends_.find(event); at != sends_.end()) return at->second.activity;
  return kNoSpan;
}

}  // namespace scope::analysis
