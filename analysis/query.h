// What can be asked, typed: filters, times, processes, budgets; and what every answer says about its own limits.
//
// What   Plain values between whoever asks (cnode/service, tests, benchmarks) and the questions of this folder. Nothing
//        here knows Erlang terms of requests: cnode/service parses those into these and encodes the answers.
// Life   Values own their text. Answers own what their views point to (`owners`).
// Thread Plain data; a Budget's stop flag may be set from any thread.
// Units  cluster time in ns since 1970 (ids.h); durations in ns.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "analysis/match_spec.h"
#include "ei_codec/base/ids.h"
#include "ei_codec/base/result.h"
#include "store/trace_ids.h"
#include "store/view.h"

namespace scope::store {
class EdgeStore;
}

namespace scope::analysis {

// ---- time -----------------------------------------------------------------------------------------------------------

struct Now {};
struct Ago {
  std::int64_t ns = 0;
};
struct AtNode {  // that node's own system clock
  std::string node;
  std::int64_t system_ns = 0;
};
// An ISO 8601 text has become a ClusterTime already.
using TimeSpec = std::variant<ClusterTime, Now, Ago, AtNode>;

// ---- processes ------------------------------------------------------------------------------------------------------

struct PidSpec {
  std::string node;
  std::uint32_t creation = 0, id = 0, serial = 0;
};
struct NameSpec {
  std::string name;
  std::string node;  // empty: any node
};
struct TextSpec {  // "<0.123.0>"
  std::uint32_t id = 0, serial = 0;
  std::string node;  // empty: any node
};
using ProcessSpec = std::variant<PidSpec, NameSpec, TextSpec>;

// ---- filter ---------------------------------------------------------------------------------------------------------

struct MfaSpec {
  std::string module;
  std::string function;  // empty: any
  std::optional<std::uint8_t> arity;
};

enum class Order : std::uint8_t { newest_first, oldest_first };

inline constexpr std::uint32_t kDefaultLimit = 100;
inline constexpr std::uint32_t kMaxLimit = 10'000;
inline constexpr std::size_t kMaxAnswerBytes = 8u << 20;  // payload bytes of one answer
// Of one that asks for more. With what an answer says beside payloads it still fits a packet of 72 MB.
inline constexpr std::size_t kMostAnswerBytes = 64u << 20;

struct Filter {
  std::optional<ProcessSpec> pid, peer;
  std::vector<std::string> nodes;  // empty: all
  std::uint32_t types = ~0u;       // bits 1 << EventType
  std::optional<MfaSpec> mfa;
  std::vector<std::string> modules;  // empty: all
  std::optional<TimeSpec> since, until;
  std::optional<std::int64_t> min_duration_ns;  // only exits of calls that lasted at least so long
  std::shared_ptr<const MatchSpec> match;       // null: any term
  std::string text;                             // empty: any (text_search.h)
  std::optional<store::TraceId> trace_id;       // that the payload holds (trace_ids.h)
  bool explain = false;                         // how it was answered, too
  std::uint32_t limit = kDefaultLimit;
  std::size_t max_bytes = kMaxAnswerBytes;
  Order order = Order::newest_first;
  std::string cursor;  // opaque bytes of an earlier answer; empty: from the start
};

// ---- how long, and whether still wanted -----------------------------------------------------------------------------

struct Budget {
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
  const std::atomic<bool>* stop = nullptr;  // set when the caller went away; outlives the query

  bool spent() const {
    return (stop != nullptr && stop->load(std::memory_order_relaxed)) ||
           (deadline != std::chrono::steady_clock::time_point::max() &&
            std::chrono::steady_clock::now() >= deadline);
  }
};

// ---- what an answer lacks -------------------------------------------------------------------------------------------

struct Missing {  // a gap in what was recorded
  std::string node;
  ClusterTime from, until;
  std::optional<std::uint64_t> dropped;  // nullopt: unknown how many
  std::string reason;
};
struct NotTraced {  // now; what was not traced before is a gap
  std::string node;
  std::string reason;
  std::optional<ClusterTime> since = {};  // nullopt: not known
};
struct KindNotTraced {  // of a node where other kinds of events are traced
  std::string node;
  codec::EventType type = codec::EventType::gap;
  std::optional<ClusterTime> since = {};
};
// What one trace looks at.
struct TraceScope {
  std::uint32_t types = 0;           // bits 1 << EventType
  bool every_process = true;         // else `processes`, and perhaps others by their names
  bool by_name = false;              // who has a name, only its node knows
  std::vector<PidSpec> processes;    // creation 0: of any life of the node
  std::vector<std::string> modules;  // of calls: all functions of these, and
  std::vector<MfaSpec> functions;    // these
};
struct NodeScope {  // a node where something is traced
  std::string node;
  std::optional<ClusterTime> since = {};  // when its traces changed last; nullopt: not known
  std::vector<TraceScope> traces;
};
struct Sampled {
  std::string node;
  double rate = 1.0;
  bool receivers = false;  // of messages' receivers, not of processes
  bool operator==(const Sampled&) const = default;
};

// Of the events of these types the traces that run now record about so much, the largest share that one of them asks for.
struct Share {
  std::string node;
  std::uint32_t types = 0;  // bits
  double rate = 1.0;
};

// What the daemon knows about the cluster and the store does not: published to the service whenever it changes.
struct Coverage {
  std::vector<NotTraced> not_traced;
  std::vector<KindNotTraced> kinds;
  std::vector<NodeScope> scopes;
  std::vector<Sampled> sampled;
  std::vector<Share> shares;
};

inline constexpr std::size_t kMaxGapsListed = 200;

struct Completeness {
  std::vector<Missing> gaps;  // at most kMaxGapsListed, newest first
  std::uint64_t gaps_not_listed = 0;
  std::vector<NotTraced> not_traced;
  std::vector<Sampled> sampled;
  std::uint64_t truncated = 0;  // rows of the answer whose term was captured only in part
  std::uint64_t redacted = 0;   // rows of the answer in which something is hidden
  std::uint64_t undecided =
      0;  // rows left out of which the captured part does not tell whether they match
  bool undecided_at_least = false;  // there may be more of them: in units that an index skipped
  std::optional<ClusterTime>
      retention;  // what was recorded before is dropped, as it was to be; the range reaches back
  std::uint64_t corrupt_blocks = 0;
  bool deadline_cut = false;  // the deadline ended the search; `next` goes on from there
  bool size_cut = false;      // the answer would have been too large; `next` goes on from there

  bool complete() const {
    return gaps.empty() && gaps_not_listed == 0 && not_traced.empty() && sampled.empty() &&
           truncated == 0 && redacted == 0 && undecided == 0 && !undecided_at_least && !retention &&
           corrupt_blocks == 0 && !deadline_cut && !size_cut;
  }
};

// A time on the cluster's timeline and how far it may be off; kUnknownError when the node's clock was never measured.
inline constexpr std::int64_t kUnknownError = INT64_MAX;
struct Corrected {
  ClusterTime time;
  std::int64_t error_ns = kUnknownError;
};

// One row of an answer. Views of `row` live as long as the answer's owners.
struct Event {
  store::StoredRow row;
  Corrected at;
  std::optional<std::int64_t> duration_ns;  // of calls, when min_duration was asked for
};

using Owners = std::vector<std::shared_ptr<const void>>;

// What every question gets: the snapshot, the time it was taken, how long it may run, and what is known to be missing.
struct Context {
  std::shared_ptr<const store::View> view;
  ClusterTime now;
  Budget budget;
  std::shared_ptr<const Coverage> coverage;            // may be null
  std::shared_ptr<const store::EdgeStore> edges = {};  // kept edges (kept_edges.h); may be null
};

}  // namespace scope::analysis
