// View: an immutable snapshot of everything stored, as readers see it.
//
// What   A view lists *units*: the sealed blocks of every open partition and the batches of the hot tail. A reader picks
//        units by their statistics (per incarnation: smallest and largest raw time, rows), then reads the rows that it
//        wants out of one unit at a time. Nothing here knows cluster time, names' owners or questions: analysis/ does.
// Life   Held by shared_ptr; keeps its partitions' files alive (retention unlinks them when the last reference goes).
//        A view taken before a commit never shows rows that came later. Read transactions inside read() are short
//        (<= 50 ms) and never leave it.
// Thread Any number of threads may read one view at once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ei_codec/base/ids.h"
#include "ei_codec/trace_event.h"

namespace scope::store {

using Lsn = std::uint64_t;  // arrival number of a batch; starts at 1, gapless, permanent

// One incarnation: (node, creation, agent id). `home` is the smallest number with the same node and creation, used for
// peers: two incarnations with one home are one VM.
struct IncarnationInfo {
  Incarnation number = kNoIncarnation;
  Incarnation home = kNoIncarnation;
  std::string node;
  std::uint32_t creation = 0;
  std::uint64_t agent_id = 0;  // 0: only heard of
  std::uint64_t last_committed_seq = 0;
  ClusterTime first_seen;
  std::optional<RawTime> complete_until =
      {};  // as of the last commit; View::complete_until knows more
};

// One version of the clock model of one incarnation:  cluster = raw + offset, and the true offset lies in
// [lower, upper] at raw time `raw_at`; away from it the bound widens by drift_bound_ppb.
struct ClockVersion {
  Incarnation incarnation = kNoIncarnation;
  std::uint32_t version = 0;  // set by the store: 1, 2, ... per incarnation
  RawTime raw_at;
  std::int64_t offset_ns = 0, lower_ns = 0, upper_ns = 0;
  std::int32_t drift_ppb = 0, drift_bound_ppb = 0;
  std::int64_t raw_to_system_ns =
      0;  // system = raw + this, on that node at raw_at ({at, Node, SystemNs})
  ClusterTime measured_at;
  std::uint8_t source = 0;  // 1: ping midpoint; 2: messages
};

// What is known of a process's life. Times are raw times of its own incarnation.
struct Life {
  ProcessId process;
  std::optional<RawTime> spawned, exited;
  std::optional<RawTime> seen_alive;  // earliest baseline that found it alive
  codec::Mfa initial_call;            // views into the Lives that holds it
  std::optional<codec::Peer> parent;
};

// A name held by a process during a time. `until` empty: still held as far as known.
struct NameSpell {
  ProcessId process;
  std::string_view name;
  RawTime from;
  bool from_baseline = false;  // held already when tracing began
  std::optional<RawTime> until;
};

// A row: the canonical event, whose it is, and where it came from. Views point into the Rows that holds it.
struct StoredRow {
  ProcessId process;
  codec::TraceRecord record;
  EventId id() const { return {process, record.time, record.ordinal}; }
};

// Rows read from one unit, sorted by (process, raw time, ordinal). Owns what the rows point to.
struct Rows {
  std::vector<StoredRow> rows;
  std::shared_ptr<const void> owner;
};

struct UnitRange {
  Incarnation incarnation = kNoIncarnation;
  RawTime oldest, newest;
  std::uint32_t rows = 0;
};

// A sealed block or one batch of the tail.
struct Unit {
  Lsn first = 0, last = 0;  // the batches that it holds
  std::uint32_t rows = 0;
  std::uint32_t types = 0;                 // bit (1 << EventType) set for each type that occurs
  bool tail = false;                       // received, in memory; committed or not
  std::span<const UnitRange> ranges;       // by incarnation, ascending
  std::uint32_t partition = 0, block = 0;  // for View's own use and for `explain`
};

// Functions: an empty `function` means all of the module; no arity means any.
struct MfaPattern {
  std::string_view module, function;
  std::optional<std::uint8_t> arity;
  bool matches(const codec::Mfa& mfa) const {
    return mfa.module == module && (function.empty() || mfa.function == function) &&
           (!arity || mfa.arity == *arity);
  }
};

struct TimeRange {  // raw times of one incarnation, both inclusive
  Incarnation incarnation = kNoIncarnation;
  RawTime from, until;
};

// What a unit knows of a row before it makes it, and what the reader says to that.
struct RowKey {
  EventId id;
  codec::EventType type{};
  std::uint16_t flags = 0;
};
enum class Choice : std::uint8_t {
  make,
  leave,
  leave_older,  // nor what its process has before it
};

// All conditions hold together; spans outlive the call.
struct RowFilter {
  std::span<const ProcessId> processes;         // ascending; empty: all
  std::span<const Incarnation> incarnations;    // ascending; empty: all
  std::uint32_t types = ~0u;                    // bits as in Unit::types
  std::span<const MfaPattern> mfas;             // any of them; empty: all rows
  std::span<const std::uint64_t> match_hashes;  // ascending; any of them; empty: all rows
  std::optional<RawTime> from,
      until;  // inclusive, on the row's raw time; only for a single-incarnation filter
  std::span<const TimeRange>
      times;  // ascending, one per incarnation, others match no row; empty: all times
  // Keys of trace ids (trace_ids.h): rows whose payload holds none of them may be left out, where a unit knows which those
  // are; who must be sure looks at the payload. Empty: all rows.
  std::span<const std::uint64_t> traces = {};
  bool payload = true;           // false: payload stays empty (fewer bytes to decompress)
  std::uint32_t payloads = ~0u;  // so does that of types that are not in here
  bool newest_only = false;      // per process only its newest matching row
  // The last condition, asked of rows that meet all others, in any order. A row that is left costs a block its type and
  // time only. Empty: all are made.
  std::function<Choice(const RowKey&)> choose = {};
};

// ---- the indexes ----------------------------------------------------------------------------------------------------

// What rows are looked for. Which units can hold one: View::candidates.
struct Selection {
  RowFilter rows;                    // payload, newest_only and choose do not matter here
  std::span<const TimeRange> times;  // as in RowFilter
  // Each occurs, as these bytes (ASCII letters in either case), inside one binary, atom or string of the row's payload.
  // Fewer than three letters or digits in a row skip nothing.
  std::span<const std::string_view> texts;
  // Asked between segments; true: units of the rest are judged by their statistics only. Empty: never.
  std::function<bool()> stop = {};
};

// Never too few: every matching row is in one of `units`. Those may hold none, too.
struct Candidates {
  struct Step {  // for `explain`
    std::string_view
        index;  // "time", "process", "type", "mfa", "hash", "text", "trace": the order of use
    std::uint32_t before = 0, after = 0;  // units
  };
  std::vector<std::uint32_t> units;  // places in View::units(), ascending
  std::vector<Step> steps;
  std::uint32_t unindexed = 0;  // of `units`: judged by their statistics only (tail, damaged index)
};

// Rows of one type and function within whole seconds of one incarnation's raw clock. mfa: none for rows without one.
struct RollupCell {
  Incarnation incarnation = kNoIncarnation;
  std::int64_t second = 0,
               last_second = 0;  // rows with second * 10^9 <= raw time < (last_second + 1) * 10^9
  codec::EventType type = codec::EventType::gap;
  codec::Mfa mfa;  // its text is valid during the call
  std::uint64_t rows = 0;
};
// Sends of one process to one receiver, as it was named by the sender.
struct EdgeCell {
  ProcessId sender;
  codec::Peer
      receiver;  // its texts are valid during the call; of an alias only its node: aliases share a cell
  RawTime oldest, newest;
  std::uint64_t rows = 0;
};
using RollupSink = std::function<void(const RollupCell&)>;
using EdgeSink = std::function<void(const EdgeCell&)>;

// Which cells are wanted. A range's ends need not be whole seconds: only cells of seconds that lie wholly inside it are
// given; the caller counts the rest, less than a second at each end, from rows.
struct RollupSpec {
  std::uint32_t types = ~0u;
  std::span<const Incarnation> incarnations;  // ascending; empty: all
  std::span<const MfaPattern> mfas;           // any of them; empty: all
  std::span<const TimeRange> times;           // as in Selection
  bool by_second =
      true;  // a cell is of one second; false: most are summed over all that are wanted
  // Asked between segments, and between units whose rows are read; true: that is enough. Empty: never.
  std::function<bool()> stop = {};
};
struct RollupInfo {
  std::vector<std::uint32_t>
      missing;  // units whose rows are in no cell (damaged): a part of the answer is unknown
  std::uint32_t read = 0;  // units of which rows were read because no rollup was stored
  bool stopped = false;    // by `stop`: the rest is unknown
};

// A block, whether it is still there or not.
struct StatePlace {
  std::uint32_t partition = 0, block = 0;
};

class View {
 public:
  virtual ~View() = default;

  virtual std::span<const Unit> units() const = 0;  // oldest first by LSN
  virtual Lsn upper() const = 0;                    // the last LSN that the view shows
  virtual std::span<const IncarnationInfo> incarnations() const = 0;  // by number, ascending
  virtual std::span<const ClockVersion> clocks() const = 0;           // by incarnation, then raw_at

  // All that this incarnation's agent recorded before that raw time is in the view: nothing older will come. It never
  // goes back. nullopt: not known.
  virtual std::optional<RawTime> complete_until(Incarnation incarnation) const;

  // The units that can hold rows which meet all of the selection.
  virtual Candidates candidates(const Selection& selection) const;

  // Sums over what the view shows. One key may come in several cells (of several segments, of late batches): add them
  // up. Cells are keyed by the rows' own times, so late batches change nothing but their cells.
  virtual Result<RollupInfo> rollup(const RollupSpec& spec, const RollupSink& sink) const;
  // Edges out of `senders` (ascending; empty: all); cells are not cut at times: one that lies only partly in a range of
  // the caller's must be recounted from the sender's rows. `stop`: as in RollupSpec.
  virtual Result<RollupInfo> edges(std::span<const ProcessId> senders, const EdgeSink& sink,
                                   const std::function<bool()>& stop = {}) const;

  // Where the last state of this process stands that was sealed before that partition began. nullopt: not known; look for it.
  virtual Result<std::optional<StatePlace>> state_before(std::uint32_t partition,
                                                         const ProcessId& process) const;

  // The rows of `unit` that match. Errors: corrupt (the block is named; callers count it as a gap), closed.
  virtual Result<Rows> read(const Unit& unit, const RowFilter& filter) const = 0;

  // Lives and names, merged from partitions and tail. The lives of one pid in one VM (all incarnations of `home`).
  virtual Result<std::vector<Life>> lives(ProcessId process,
                                          std::shared_ptr<const void>& owner) const = 0;
  // All spells of `name` on the VMs of node `node` (all nodes if empty), oldest first.
  virtual Result<std::vector<NameSpell>> name_spells(std::string_view node, std::string_view name,
                                                     std::shared_ptr<const void>& owner) const = 0;
  // Names that this process held.
  virtual Result<std::vector<NameSpell>> names_of(ProcessId process,
                                                  std::shared_ptr<const void>& owner) const = 0;
};

}  // namespace scope::store
