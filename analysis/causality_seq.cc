// What Causality makes of tokens (causality.h, Token).
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "analysis/causality.h"
#include "analysis/token_match.h"
#include "ei_codec/term_print.h"

namespace scope::analysis {
namespace {

constexpr std::size_t kMaxRecent = 4;

}  // namespace

void Causality::seq(const RowStream::Item& item) {
  const auto token = read_token(item, view_, receivers_);
  if (!token) return;
  RowStream::Item alone = item;  // as the message's own
  alone.row = &token->row;
  auto& process = processes_[token->message.process];
  if (token->send) return seq_sent(process, alone, token->message, token->key, token->link);
  seq_received(process, alone, token->message, token->key, token->link,
               codec::print(token->label, codec::Syntax::erlang, kMaxSpanText));
}

// `after`: of the message that the sender had taken with its token.
void Causality::seq_sent(Process& process, const RowStream::Item& item, const Message& message,
                         std::uint64_t key, std::uint64_t after) {
  Recent* const own = twin(process.sends, message, false);
  if (own == nullptr) act(process);
  Sent sent{process.activity, item.row->process, item.at};
  if (const auto taken = token_taken_.find(after);
      !process.behaviour && taken != token_taken_.end()) {
    sent.activity = taken->second;
  }
  auto id = message.id;
  if (own != nullptr) {
    own->paired = true;
    id = own->id;
    const auto call = began_.find(id);
    if (call != began_.end() && spans_[call->second].kind == SpanKind::call) {
      auto& span = spans_[call->second];
      if (!process.behaviour && sent.activity != kNoSpan && process.frames.empty()) {
        span.parent = sent.activity;
        span.root = RootKind::none;
      }
      sent.activity = call->second;
    }
  } else {
    if (sent.activity != kNoSpan) spans_[sent.activity].stop = item.at;
    if (message.identity.kind == Identity::Kind::request) {
      const auto caller = sent.activity;
      sent.activity = begin(SpanKind::call, message.id, item.at);
      auto& span = spans_[sent.activity];
      span.parent = caller;
      if (caller == kNoSpan) span.root = RootKind::process;
      span.name = message_label(item.row->record);
      calls_[{message.identity.ref, message.process}] = sent.activity;
    }
    remember(process.sends, {.hash = message.hash, .id = message.id, .token = true});
  }
  sends_.emplace(message.id, sent);
  token_sends_[key] = {sent, id};
}

// `taken`: under which what this process sends next finds its cause.
void Causality::seq_received(Process& process, const RowStream::Item& item, const Message& message,
                             std::uint64_t key, std::uint64_t taken, std::string label) {
  using Kind = Identity::Kind;
  Recent arrival{.hash = message.hash, .id = message.id, .token = true, .key = key};
  const auto remember = [&] { Causality::remember(process.arrivals, std::move(arrival)); };
  if (message.identity.kind == Kind::reply || message.identity.kind == Kind::spawned) {
    // It goes on with what it was at when it asked.
    auto activity = process.activity;
    const auto call = calls_.find({message.identity.ref, message.process});
    if (call != calls_.end()) activity = spans_[call->second].parent;
    (void)answered(process, item, message);
    token_taken_[taken] = activity;
    return remember();
  }
  if (item.row->record.term().is_tuple("spawn_request", 8)) {
    token_taken_[taken] = spawned_with_token(item, message, key, std::move(label));
    return;
  }
  if (process.behaviour) {
    Recent* const own = twin(process.arrivals, message, false);
    if (own == nullptr) {  // its taking comes, or it was received within a callback
      arrival.label = std::move(label);
      return remember();
    }
    own->paired = true;
    began_[message.id] = own->span;
    spans_[own->span].events.push_back(message.id);
    return give_token(own->span, key, std::move(label));
  }
  const auto span = begin(kind_of(message, item.row->record), message.id, item.at);
  spans_[span].name = message_label(item.row->record);
  spans_[span].context = store::first_traceparent(item.row->record.payload);
  spans_[span].stop = item.at;
  causes_.push_back({span, message.id, message.identity, false, 1});
  give_token(span, key, std::move(label));
  const auto fetch = std::ranges::find(process.fetched, message.hash, &Fetched::hash);
  process.guess.reset();
  if (!process.fetched.empty() && fetch != std::prev(process.fetched.end())) {
    process.guess =
        Differs{process.fetched.back().id,
                process.fetched_count > 1 ? EdgeCertainty::ambiguous : EdgeCertainty::inferred};
  }
  if (message.hash != 0 && fetch != process.fetched.end()) {
    arrives_as(span, fetch->id);
    arrival.fetched = true;
    process.fetched.erase(fetch);
    --process.fetched_count;
  }
  process.activity = span;
  process.by_token = true;
  token_taken_[taken] = span;
  arrival.span = span;
  remember();
}

// The VM passes a token on to a child as if the spawning were a message.
std::uint32_t Causality::spawned_with_token(const RowStream::Item& item, const Message& message,
                                            std::uint64_t key, std::string label) {
  if (const auto known = children_.find(message.process); known != children_.end())
    return known->second;
  const auto span = begin(SpanKind::spawn, message.id, item.at);
  const auto mfa = item.row->record.term().element(4);
  if (mfa.arity() == 3u && mfa.element(0).atom() && mfa.element(1).atom()) {
    spans_[span].module = *mfa.element(0).atom();
    spans_[span].name = fmt::format("{}:{}/{}", *mfa.element(0).atom(), *mfa.element(1).atom(),
                                    mfa.element(2).integer().value_or(0));
  }
  causes_.push_back({span, message.id, {}, false, 1});
  give_token(span, key, std::move(label));
  children_.emplace(message.process, span);
  auto& process = processes_[message.process];
  if (process.activity == kNoSpan) process.activity = span;
  return span;
}
void Causality::remember(Recents& recents, Recent recent) const {
  if (!tokens_) return;
  auto& [rows, next] = recents;
  if (rows.size() < kMaxRecent) {
    rows.push_back(std::move(recent));
  } else {
    rows[next++ % kMaxRecent] = std::move(recent);
  }
}

// The newest row of that content that is not paired yet.
Causality::Recent* Causality::twin(Recents& recents, const Message& message, bool token) {
  Recent* best = nullptr;
  std::int64_t best_ns = kTwinNs;
  for (auto& r : recents.rows) {
    if (message.hash == 0 || r.hash != message.hash || r.token != token || r.paired ||
        r.id.process != message.id.process) {
      continue;
    }
    const auto apart = std::abs(r.id.time.ns - message.id.time.ns);
    if (apart > best_ns) continue;
    best = &r;
    best_ns = apart;
  }
  return best;
}

void Causality::give_token(std::uint32_t span, std::uint64_t key, std::string label) {
  spans_[span].token = std::move(label);
  for (auto cause = causes_.rbegin(); cause != causes_.rend(); ++cause) {
    if (cause->span != span) continue;
    cause->token = key;
    return;
  }
}
// A row of the message itself, which tells who sent it where no token does.
void Causality::arrives_as(std::uint32_t span, const EventId& arrival) {
  began_[arrival] = span;
  spans_[span].events.push_back(arrival);
  for (auto cause = causes_.rbegin(); cause != causes_.rend(); ++cause) {
    if (cause->span != span) continue;
    cause->arrival = arrival;
    return;
  }
}

// The token's word after everything else.
void Causality::by_token(const Cause& cause) {
  const auto known = token_sends_.find(cause.token);
  if (known == token_sends_.end()) return;
  const auto& [sent, id] = known->second;
  auto& span = spans_[cause.span];
  const auto parent = alive(sent.activity);
  if (span.parent != kNoSpan && span.parent != parent)
    span.differs = Differs{spans_[span.parent].id, span.certainty};
  waited(span, sent.at, id);
  if (std::ranges::find(span.events, id) == span.events.end())
    span.events.insert(span.events.begin(), id);
  set_parent(cause.span, parent, EdgeCertainty::exact, 1);
  if (parent != kNoSpan) return;
  span.root = RootKind::process;
  span.sender = sent.from;
}

}  // namespace scope::analysis
