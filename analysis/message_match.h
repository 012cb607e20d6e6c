// MessageMatcher: which fetch or taking belongs to which send (model.md, A message has three times; Matching content).
//
// How    1. By identity: a request's or reply's reference and the same content: `exact`.
//        2. By content: sends to a receiver and its arrivals of the same match hash are cut into clusters where as many
//           arrived as were sent and the next send is certainly later. One send and one arrival are `unique`.
//        3. In larger clusters the order that the VM keeps for each pair of processes helps: a send lies between its
//           sender's neighbouring sends to that receiver whose arrivals are known, and so does its arrival. What that
//           separates is `unique` again; the rest is paired in order and `ambiguous`, with its number of candidates.
//        Sends whose receiver is not known (an alias, a name without a recorded owner) look among the arrivals of that
//        VM which nothing else claims. A hash whose walk was bounded never makes more than `ambiguous`.
//        Messages that no process sent (timers, 'DOWN', 'EXIT', ports) are counted and not looked for.
//        Takings are paired with fetches of the same process in order. A taking without a fetch is an arrival itself.
// Streaming  Rows come in order of corrected time; advance() says up to when all have come. Clusters are settled
//        `settle_ns` after their last row, sends wait for `window_ns`. Both, and `max_open`, bound the memory; what they
//        push out before it was matched is counted (`fell_out`). finish() settles what is left.
// Not here  Priority messages of OTP 28, which overtake: their anchors contradict each other and are then not used.
// Life   The sink outlives the matcher. A copy is for finish() alone, with the same sink until it is given its own.
//        Thread: one.
#pragma once

#include <boost/unordered/unordered_flat_map.hpp>
#include <boost/unordered/unordered_flat_set.hpp>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <queue>
#include <span>
#include <string_view>
#include <vector>

#include "analysis/message.h"

namespace scope::analysis {

enum class Matched : std::uint8_t {
  exact,      // an identity in the message proves it
  unique,     // one send and one arrival of that content were in question
  ambiguous,  // several were, or the content was compared only in part; paired in order
  unknown,    // no fetch or taking of that content was recorded at the receiver
};
std::string_view name(Matched matched);

// How far apart two corrected times may really be: 0 on one clock, kUnknownError where either was never measured.
std::int64_t slack(const Corrected& a, const EventId& of_a, const Corrected& b,
                   const EventId& of_b);

class MatchSink {
 public:
  virtual ~MatchSink() = default;
  // `arrival` is a fetch, or a taking where no fetch was recorded. Candidates: the sends or arrivals in question,
  // whichever are more.
  virtual void matched(const Message& send, const Message& arrival, Matched how,
                       std::uint32_t candidates) = 0;
  virtual void taken(const Message& fetch, const Message& take) = 0;
};

struct MatchLimits {
  std::int64_t window_ns = 60'000'000'000;  // how long after its sending a message may arrive
  std::int64_t settle_ns = 200'000'000;     // how long after a cluster's last row it is settled
  std::size_t max_open = 500'000;           // rows waiting for their other end
};
inline constexpr std::int64_t kPatienceNs = 5'000'000'000;

struct MatchStats {
  std::uint64_t sends = 0, arrivals = 0, exact = 0, unique = 0, ambiguous = 0;
  std::uint64_t unmatched_sends = 0, unmatched_arrivals = 0;
  std::uint64_t system = 0;    // arrivals that no process sent
  std::uint64_t unhashed = 0;  // neither hash nor identity: cannot be matched
  std::uint64_t fell_out = 0;  // of the window or of max_open, before they were matched
  // Because of max_open alone, before kPatienceNs had passed: contents settled early, and fetches of processes whose takings
  // are seen that are no longer known. Something may be missing then, or less sure.
  std::uint64_t pushed_out = 0;
};

// What a copy does not need: it begins empty there.
template <typename T>
struct LeftOut : T {
  LeftOut() = default;
  LeftOut(const LeftOut&) : T() {}
};

class MessageMatcher {
 public:
  explicit MessageMatcher(MatchSink& sink, MatchLimits limits = {});
  void set_sink(MatchSink& sink) { sink_ = &sink; }

  // REQUIRES not older than the message before; a send, fetch or take.
  void add(const Message& message);
  void advance(ClusterTime watermark);
  void finish();

  const MatchStats& stats() const { return stats_; }
  // Was step 3 needed for this hash?
  bool narrowed(std::uint64_t hash) const { return narrowed_.contains(hash); }

 private:
  using Key = std::array<std::uint64_t, 2>;
  struct KeyHash {
    std::size_t operator()(const Key& k) const { return static_cast<std::size_t>(k[0] ^ k[1]); }
  };
  struct Bucket {
    std::vector<Message> sends, arrivals;  // by time
    bool identity = false;
    bool whole_vm = false;  // sends to some process of a VM
    bool queued = false;
    std::int64_t newest = 0;
  };
  template <typename T>
  using ByKey = boost::unordered_flat_map<Key, T, KeyHash>;
  using Buckets = ByKey<Bucket>;
  struct Cluster {
    std::vector<Message> sends, arrivals;
    bool whole_vm = false;
  };
  struct Position {  // in a process's own order
    std::int64_t raw = 0;
    std::uint32_t ordinal = 0;
    auto operator<=>(const Position&) const = default;
  };
  struct Due {
    std::int64_t at = 0;
    Key key{};
    bool operator>(const Due& other) const { return at > other.at; }
  };

  static Key key_of(const Message& message, const ProcessId& receiver, bool identity);
  static Position position(const Message& m) { return {m.id.time.ns, m.id.ordinal}; }
  void put(const Key& key, const Message& message, bool identity, bool whole_vm);
  void take(const Message& message);
  void settle(Bucket& bucket, std::int64_t now, bool last);
  void settle_identity(Bucket& bucket, bool last);
  void close(std::span<const Message> sends, std::span<const Message> arrivals, bool whole_vm,
             std::int64_t now);
  void narrow(const Cluster& cluster);
  void emit(const Message& send, const Message& arrival, Matched how, std::uint32_t candidates);
  void orphan(const Message& arrival, bool of_whole_vm);
  void lost(const Message& send);
  void queue(const Key& key, Bucket& bucket, std::int64_t at);
  void run_due(std::int64_t now, bool last);
  void forget_old(std::int64_t now);

  MatchSink* sink_;
  const MatchLimits limits_;
  MatchStats stats_;
  std::int64_t watermark_;
  Buckets buckets_;
  std::size_t open_ = 0;  // rows in buckets
  std::priority_queue<Due, std::vector<Due>, std::greater<>> due_;
  std::deque<std::pair<std::int64_t, Cluster>> deferred_;  // for narrow(), by time

  boost::unordered_flat_set<std::uint64_t> narrowed_;

  // Fetches whose taking may come, and in which order they were added.
  LeftOut<ByKey<std::list<Message>>> fetched_;
  LeftOut<std::deque<std::pair<Key, EventId>>> fetched_order_;
  LeftOut<boost::unordered_flat_set<ProcessId, std::hash<ProcessId>>> takers_;  // at most max_open
  // Sends of a pair of processes whose arrivals are known, as they were found. Most are never asked for: the first
  // `sorted_` of them are in anchors_, too, by the sends' order.
  struct Anchor {
    Key pair;
    Position send, arrival;
  };
  std::deque<Anchor> found_;
  std::size_t sorted_ = 0;
  ByKey<std::map<Position, Position>> anchors_;
};

}  // namespace scope::analysis
