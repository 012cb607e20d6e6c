// Causality: what caused what among the rows of a range, as a forest of spans (model.md, Taking, handling and state).
//
// Activity   What a process does from one cause to the next: a handling of a behaviour (from its taking to the next one; it
//            stops at its last loop entry, so that continue and internal events belong to it), the life of a process from
//            its spawning to its first taking, or what a plain process does after it fetched a message. What it sends,
//            spawns or calls is caused by it.
// Plain processes  nobody sees which message they took. One fetched since they last did something: `inferred`; several:
//            `ambiguous`, with their number, and the newest is taken for it. Answers to their own calls are no new cause; nor
//            is an answer that is the first that is seen of a process: its call was before the range.
// Token      What seq_trace says outweighs all this: a message is the send with its label, sender and serial, `exact`. It is
//            said beside the rows of sends, fetches and takings, and instead of them where a process is not traced. A plain
//            process's sends belong to what it took the token with. (A timer leaves a token where it is: what a process
//            whose takings are not recorded sends after one counts as caused by the message before.) If what would be
//            inferred without the token is another parent, the span says so (`differs`).
// Span       An activity, a call as its caller sees it (from the request's sending to the reply's fetch), or a traced
//            function that returned. A handled request is the child of its call.
// Root       A span that nothing recorded caused: a timer, a port, an untraced sender, or a process that was busy
//            already (`process`): each thing that one sends is a root of its own.
// Life       Refers to context and clock. Owns the rows that its spans need later (EventIds only).
// Bounds     One Span per activity, call and returned function; the caller bounds the rows. Thread: one.
#pragma once

#include <array>
#include <boost/unordered/unordered_flat_map.hpp>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "analysis/message_match.h"
#include "analysis/row_stream.h"
#include "store/trace_ids.h"

namespace scope::analysis {

enum class SpanKind : std::uint8_t { call, handle, cast, info, spawn, timer, function };
std::string_view name(SpanKind kind);

// How sure the edge from the parent is, the surest first. A root's is exact: it claims nothing.
enum class EdgeCertainty : std::uint8_t { exact, unique, inferred, ambiguous };
std::string_view name(EdgeCertainty certainty);

enum class RootKind : std::uint8_t { none, process, port, timer, untraced, system };
std::string_view name(RootKind kind);

inline constexpr std::uint32_t kNoSpan = UINT32_MAX;

struct EventIdHash {
  std::size_t operator()(const EventId& id) const {
    return std::hash<ProcessId>()(id.process) ^
           static_cast<std::size_t>(static_cast<std::uint64_t>(id.time.ns) * 0x9E3779B97F4A7C15ULL +
                                    id.ordinal);
  }
};

// What a token contradicts: the span that would be the parent, by its event, or the message that a plain process would
// be thought to act on.
struct Differs {
  EventId cause;
  EdgeCertainty certainty = EdgeCertainty::exact;
};

struct Span {
  EventId id;  // the event that began it
  SpanKind kind = SpanKind::info;
  std::uint32_t parent = kNoSpan;  // place in spans()
  RootKind root = RootKind::none;  // only where there is no parent
  EdgeCertainty certainty = EdgeCertainty::exact;
  std::uint32_t candidates = 1;
  ProcessId process;                // as its events name it
  std::optional<ProcessId> sender;  // of a root of kind process: who was busy
  Corrected start;
  std::optional<Corrected> stop;
  std::optional<std::int64_t> queue_ns;  // from its cause to its start
  std::int64_t queue_error_ns = 0;       // 0 on one node, whose clock cancels out
  std::string name;                      // what was asked, or the function
  std::string module;                    // the behaviour or function's module
  std::string error;                     // empty: none
  std::string token;                     // the label of the token that its message had; empty: none
  std::optional<store::TraceContext> context;  // in the message that began it, or a call in it
  std::optional<Differs> differs;              // what would be inferred without, if it is another
  std::vector<EventId> events;                 // cause, start, reply: where they were recorded
  bool waits =
      false;  // a message of it has not arrived, or its call was not answered, by the end of the range
};

struct SpanLink {
  std::uint32_t from = 0, to = 0;
  // "reply": `from` answered the call `to`; "timer": `from` came before it in its process; "exit": the error that ended `to`
  // was `from`'s, by a link.
  std::string_view why;
};

class Causality : MatchSink {
 public:
  Causality(const Context& context, const ClockModel& clock);
  // What finish() would make of the rows until now. This one goes on.
  std::unique_ptr<Causality> finished() const;

  // In the stream's order; all types that kTypes names.
  void add(const RowStream::Item& item);
  void finish();

  // For who adds the rows of some processes only (trace_outward.h): a message of another one, as far as it takes part in
  // matching; and that all messages until then have been added.
  void add_message(const RowStream::Item& item) { (void)match(item); }
  void advance(ClusterTime until);

  static const std::uint32_t kTypes, kPayloads;  // of which types it looks at the payload

  // After finish(). Merged spans have been taken out; parents come before or after their children.
  const std::vector<Span>& spans() const { return spans_; }
  const std::vector<SpanLink>& links() const { return links_; }
  const MatchStats& matching() const { return matcher_.stats(); }
  // Were messages of this content told apart by others between the same processes?
  bool narrowed(std::uint64_t hash) const { return matcher_.narrowed(hash); }
  // The span that an event belongs to; kNoSpan: none.
  std::uint32_t span_of(const EventId& event) const;

 private:
  Causality(const Causality&) = default;  // for finish() alone

  struct Fetched {  // by a plain process
    EventId id;
    Corrected at;
    Identity identity;
    SpanKind kind;
    std::string name;
    std::uint64_t hash;
    std::optional<store::TraceContext> context;
  };
  // A message of a process, as its own row says it or the token's: which is the other's is found by content and time.
  struct Recent {
    std::uint64_t hash = 0;  // 0: nothing
    EventId id;
    std::uint32_t span = kNoSpan;  // an arrival's
    bool token = false, paired = false, fetched = false;
    std::uint64_t key = 0;  // of the message, by its token
    std::string label{};
  };
  struct Recents {  // the newest kMaxRecent; none are kept where no token was recorded
    std::vector<Recent> rows;
    unsigned next = 0;
  };
  // By who asked, too: whoever passes a request on to another process sends the same reference.
  using CallKey = std::pair<Identity::Ref, ProcessId>;
  struct Frame {  // a function that was entered
    std::string mfa;
    EventId id;
    Corrected at;
    std::vector<std::uint32_t> inside;
  };
  struct Process {
    std::uint32_t activity = kNoSpan;
    std::uint32_t before_plain = kNoSpan;  // the activity before the first one of `plain`
    bool behaviour = false;
    bool seen = false;             // anything of it, before the present row
    std::vector<Fetched> fetched;  // since it last did something; at most kMaxFetched
    std::uint32_t fetched_count = 0;
    std::vector<std::uint32_t> plain;  // activities that fetches began
    std::vector<Frame> frames;
    bool by_token =
        false;  // the activity is what a token's message began, and nothing was fetched since
    std::optional<Differs> guess;  // without the token: what it would be thought to act on
    Recents sends, arrivals;
  };
  struct Sent {
    std::uint32_t activity = kNoSpan;  // or the call
    ProcessId from;
    Corrected at;
    bool arrived = false;
  };
  struct Cause {  // of a span that a message began
    std::uint32_t span = 0;
    EventId arrival;
    Identity identity;
    bool plain = false;
    std::uint32_t candidates = 1;
    std::uint64_t token = 0;  // 0: none
  };
  struct Match {
    EventId send;
    Matched how = Matched::unknown;
    std::uint32_t candidates = 0;
  };
  struct Exit {
    std::uint32_t activity = kNoSpan;
    EventId id;
    Corrected at;
    std::string error;  // empty: none
  };
  template <typename T>
  using ByEvent = boost::unordered_flat_map<EventId, T, EventIdHash>;

  void matched(const Message& send, const Message& arrival, Matched how,
               std::uint32_t candidates) override;
  void taken(const Message& fetch, const Message& take) override;

  Message match(const RowStream::Item& item);
  void sent(Process& process, const RowStream::Item& item, const Message& message);
  void fetched(Process& process, const RowStream::Item& item, const Message& message);
  void took(Process& process, const RowStream::Item& item, const Message& message);
  void seq(const RowStream::Item& item);
  void seq_sent(Process& process, const RowStream::Item& item, const Message& message,
                std::uint64_t key, std::uint64_t after);
  void seq_received(Process& process, const RowStream::Item& item, const Message& message,
                    std::uint64_t key, std::uint64_t taken, std::string label);
  std::uint32_t spawned_with_token(const RowStream::Item& item, const Message& message,
                                   std::uint64_t key, std::string label);
  void arrives_as(std::uint32_t span, const EventId& arrival);
  static Recent* twin(Recents& recents, const Message& message, bool token);
  void remember(Recents& recents, Recent recent) const;
  void give_token(std::uint32_t span, std::uint64_t key, std::string label);
  bool answered(Process& process, const RowStream::Item& item, const Message& message);
  void by_token(const Cause& cause);
  void waited(Span& span, const Corrected& since, const EventId& cause);
  void spawned(const RowStream::Item& item);
  void exited(Process& process, const RowStream::Item& item);
  void linked(const RowStream::Item& item);
  void ends_passed_on();
  void function(Process& process, const RowStream::Item& item);

  std::uint32_t begin(SpanKind kind, const EventId& id, Corrected at);
  void act(Process& process);  // it did something: what it fetched became its cause
  std::uint32_t child_of(Process& process, SpanKind kind, const EventId& id, Corrected at);
  void touch(Process& process, Corrected at);
  void is_behaviour(Process& process);
  void resolve(const Cause& cause);
  void set_parent(std::uint32_t child, std::uint32_t parent, EdgeCertainty certainty,
                  std::uint32_t candidates);
  std::uint32_t alive(std::uint32_t span) const;  // what a merged span became
  void break_circles();
  void compact();

  const store::View& view_;
  const bool tokens_;  // was any recorded?
  Receivers receivers_;
  MessageMatcher matcher_;
  std::vector<Span> spans_;
  std::vector<std::uint32_t> merged_;  // by span: into which; itself if it stands
  std::vector<SpanLink> links_;
  std::vector<Cause> causes_;
  LeftOut<std::unordered_map<ProcessId, Process>> processes_;
  std::map<CallKey, std::uint32_t> calls_;  // spans that wait for their reply
  struct Replied {
    std::uint32_t call;
    EventId fetch;
  };
  std::vector<Replied> replies_;
  ByEvent<Sent> sends_;
  ByEvent<Match> matches_;  // by arrival
  struct TokenSent {
    Sent sent;
    EventId id;
  };
  std::unordered_map<std::uint64_t, TokenSent> token_sends_;  // by label, sender and serial
  std::unordered_map<std::uint64_t, std::uint32_t>
      token_taken_;         // activity, by label, taker, serial
  ByEvent<EventId> takes_;  // take -> fetch
  std::unordered_map<ProcessId, Exit> exits_;
  std::vector<ProcessId> ended_;  // keys of exits_, in the stream's order
  std::unordered_map<ProcessId, std::vector<ProcessId>> linked_;
  LeftOut<std::unordered_map<ProcessId, std::uint32_t>> children_;  // spawn spans, by child
  ByEvent<std::uint32_t> began_;                                    // by any of a span's events
  std::optional<std::int64_t> step_;  // to which the matcher was advanced
};

// The message without its protocol, as a short name: its atom, or its tag and arity.
std::string message_label(const codec::TraceRecord& record);
// What a process does that acts on the message.
SpanKind kind_of(const Message& message, const codec::TraceRecord& record);

inline constexpr std::size_t kMaxSpanText = 200;  // of names, errors and labels, in bytes

}  // namespace scope::analysis
