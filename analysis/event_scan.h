// The rows of many units in order of corrected time: how every question over events reads.
//
// Plan   The view's indexes leave the units that can hold a row of all conditions (View::candidates); of these, units are
//        taken by time, as follows.
// What   scan() finds the first `limit` rows after a position, in (time, id) order, without their payloads: units are
//        taken in order of their largest (smallest, for oldest first) corrected time, and the search ends when no unread
//        unit can hold a better row than the worst kept. load() then reads the payloads of chosen rows only.
//        Memory is bounded by `limit` and one unit's rows; one unit is read at a time.
// Partial  When the budget is spent, only rows that no unread unit can precede are given, and `resume` says where to go
//        on. At least one unit is read in every call, so a walk by cursors always ends.
// Errors  A block that cannot be read is counted, not fatal.
// Thread  Pure functions over an immutable view.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "analysis/clock_model.h"
#include "analysis/explain.h"
#include "analysis/query.h"

namespace scope::analysis {

// Where a walk stands. With an id: strictly beyond (time, id). Without: `time` itself is still to come.
struct Position {
  ClusterTime time;
  std::optional<EventId> id;
};

struct Hit {
  Corrected at;
  EventId id;
  std::uint32_t unit = 0;  // index into View::units()
  codec::EventType type{};
  std::uint16_t flags = 0;
  std::uint64_t match_hash = 0;  // of scans with `accept` only
  std::optional<std::int64_t> duration_ns;
};

// In the order of answers?
bool before(Order order, const Hit& a, const Hit& b);

struct ScanSpec {
  std::vector<ProcessId> processes;       // ascending; empty: all
  std::vector<Incarnation> incarnations;  // ascending; empty: all
  std::uint32_t types = ~0u;
  std::vector<store::MfaPattern> mfas;      // any of them; empty: all rows
  std::vector<std::uint64_t> match_hashes;  // ascending; any of them; empty: all rows
  std::vector<std::uint64_t> traces;  // keys; choose units and rows: `accept` looks for the id
  std::string_view text;              // chooses units only: `accept` looks for it
  std::optional<ClusterTime> since, until;  // inclusive, on corrected time
  Order order = Order::newest_first;
  std::size_t limit = kDefaultLimit;
  std::optional<Position> after;
  std::optional<store::Lsn> upper;  // batches that came later are not looked at
  store::Lsn lower = 0;             // nor units that hold only batches up to this one
  bool payload = false;             // has `accept` to see it?
  std::uint32_t payloads = ~0u;     // of which types
  Explain* explain = nullptr;
  // Looks at the row; may fill the hit's duration. Empty: every row, and then none is made to find the best.
  std::function<bool(const store::StoredRow&, Hit&)> accept;
  // Called before the rows of a unit are judged, with all of its rows of these processes, types and functions, also those
  // outside since and until. Empty: not wanted.
  std::function<void(std::uint32_t unit, const store::Rows&)> on_unit;
};

struct ScanResult {
  std::vector<Hit> hits;           // in order, at most limit
  std::optional<Position> resume;  // there is, or may be, more
  std::uint64_t corrupt_blocks = 0;
  std::uint64_t units_read = 0;
  bool skipped_by_text = false;  // an index for text or trace ids left units or rows out
  bool cut = false;              // the budget ended it
};

// A unit that may hold rows of the answer, and the corrected times between which its rows are.
struct Candidate {
  std::uint32_t unit = 0;  // index into View::units()
  std::int64_t oldest = 0, newest = 0;
};
struct Plan {
  std::vector<Candidate> units;  // by `spec.order`: the one with the newest (oldest) row first
  std::vector<store::TimeRange> times;  // raw times that the rows can have; empty: all
  bool skipped_by_text = false;
};
Plan make_plan(const Context& context, const ClockModel& clock, const ScanSpec& spec);

// What a unit is asked for. Views into `spec` and `plan`.
store::RowFilter row_filter(const ScanSpec& spec, const Plan& plan);

ScanResult scan(const Context& context, const ClockModel& clock, const ScanSpec& spec);

struct Loaded {
  std::vector<Event>
      events;  // in the order of the hits; fewer when bytes ran out or a block is corrupt
  Owners owners;
  bool size_cut = false;  // hits beyond events.back() were left out
  std::uint64_t corrupt_blocks = 0;
  std::uint64_t truncated = 0, redacted = 0;
};

// Reads the rows of these hits, in order, until `max_bytes` of payload (at least one row).
Loaded load(const Context& context, std::span<const Hit> hits, std::size_t max_bytes);

}  // namespace scope::analysis
