#include "analysis/edge_builder.h"

#include <algorithm>
#include <boost/unordered/unordered_flat_map.hpp>
#include <deque>
#include <limits>

#include "analysis/message_match.h"
#include "analysis/row_stream.h"

namespace scope::analysis {
namespace {

constexpr std::int64_t kAdvanceNs = 100'000'000;
// How long after a taking the match of its fetch may be found: a send waits for the window, its cluster for its neighbours.
constexpr std::int64_t kTakeWaitsNs = MatchLimits{}.window_ns + 2'000'000'000;
constexpr std::size_t kDropForRoom = 16;  // slices
// Rows of the window are chosen by raw time; the stream is asked for somewhat more by cluster time.
constexpr std::int64_t kMarginNs = 1'000'000'000;

struct EventHash {
  std::size_t operator()(const EventId& id) const {
    return std::hash<ProcessId>{}(id.process) ^
           (static_cast<std::size_t>(id.time.ns) * 0x9E3779B97F4A7C15ULL + id.ordinal);
  }
};

// What the matcher finds, in parts. Edges whose sending is not in the slice are its neighbour's.
class Parts final : public MatchSink {
 public:
  Parts(store::EdgeStore& kept, const store::SliceState& state, const EdgeLimits& limits)
      : kept_(kept), state_(state), limits_(limits) {}

  void matched(const Message& send, const Message& arrival, Matched how,
               std::uint32_t candidates) override {
    const auto* cut = state_.cut(send.id.process.incarnation);
    if (cut == nullptr || send.id.time < cut->from || send.id.time >= cut->until) {
      takes_.erase(arrival.id);
      return;
    }
    store::MessageEdge edge{send.id, arrival.id, arrival.type == codec::EventType::message_take,
                            static_cast<std::uint8_t>(how), candidates};
    if (!edge.arrival_is_take) {
      if (const auto take = takes_.find(arrival.id); take != takes_.end()) {
        if (take->second.process == arrival.id.process) {
          edge.take = take->second;
        } else {
          late_.push_back({arrival.id, take->second});
        }
        takes_.erase(take);
      } else {
        waiting_.emplace(arrival.id, edges_.size());
      }
    }
    edges_.push_back(edge);
    if (edges_.size() >= limits_.part_edges) write();
  }

  // Before its match was found, as a rule; or long after, where a process is busy.
  void taken(const Message& fetch, const Message& take) override {
    if (const auto at = waiting_.find(fetch.id); at != waiting_.end()) {
      if (take.id.process == fetch.id.process) {
        edges_[at->second].take = take.id;
      } else {
        late_.push_back({fetch.id, take.id});
      }
      waiting_.erase(at);
      return;
    }
    if (written_.contains(fetch.id)) {
      late_.push_back({fetch.id, take.id});
      written_.erase(fetch.id);
      return;
    }
    takes_.emplace(fetch.id, take.id);
    order_.emplace_back(fetch.id, take.at.time.ns);
    while (order_.size() > limits_.max_takes ||
           order_.front().second + kTakeWaitsNs < take.at.time.ns)
      forget_take(order_.size() > limits_.max_takes || forgot_);
  }

  Status finish() {
    while (forgot_ && !order_.empty()) forget_take(true);
    if (!edges_.empty() || !late_.empty()) write();
    return status_;
  }
  const Status& status() const { return status_; }
  std::uint32_t parts() const { return parts_; }
  std::uint64_t edges() const { return total_; }
  std::uint64_t bytes() const { return bytes_; }

 private:
  // A taking whose fetch was not matched so far. Perhaps it will be, or was in a part before: then it is told apart from it.
  void forget_take(bool keep) {
    const auto take = takes_.find(order_.front().first);
    if (take != takes_.end()) {
      if (keep) late_.push_back({take->first, take->second});
      takes_.erase(take);
      if (late_.size() >= limits_.part_edges) write();
    }
    order_.pop_front();
  }

  void write() {
    // Those whose taking may still come are remembered, the newest ones.
    for (const auto& [fetch, edge] : waiting_) {
      written_.emplace(fetch, true);
      written_order_.push_back(fetch);
    }
    for (; written_order_.size() > limits_.max_takes; written_order_.pop_front())
      forgot_ |= written_.erase(written_order_.front()) > 0;
    waiting_.clear();
    total_ += edges_.size();
    const auto bytes = store::encode_edges(edges_, late_);
    bytes_ += bytes.size();
    if (status_) status_ = kept_.put(state_.slice, parts_, bytes);
    ++parts_;
    edges_.clear();
    late_.clear();
  }

  store::EdgeStore& kept_;
  const store::SliceState& state_;
  const EdgeLimits& limits_;
  Status status_;
  std::uint32_t parts_ = 0;
  std::uint64_t total_ = 0, bytes_ = 0;
  std::vector<store::MessageEdge> edges_;
  std::vector<store::LateTake> late_;
  template <typename T>
  using ByEvent = boost::unordered_flat_map<EventId, T, EventHash>;
  ByEvent<EventId> takes_;                              // of fetches that are not matched yet
  std::deque<std::pair<EventId, std::int64_t>> order_;  // of takes_, with their time
  ByEvent<std::size_t> waiting_;  // fetches that are not taken yet: their edge
  ByEvent<bool> written_;         // the same, of parts before
  std::deque<EventId> written_order_;
  bool forgot_ = false;  // one of written_
};

}  // namespace

ClusterTime settled_until(const Context& context, const ClockModel& clock) {
  ClusterTime least = context.now;
  for (const auto& info : context.view->incarnations()) {
    if (info.agent_id == 0) continue;
    const auto* newest = clock.newest(info.number);
    if (newest == nullptr || newest->measured_at.ns < context.now.ns - EdgeBuilder::kWatchedNs)
      continue;
    ClusterTime until{std::numeric_limits<std::int64_t>::min()};
    if (const auto complete = context.view->complete_until(info.number)) {
      const auto at = clock.cluster(info.number, *complete);
      if (at.error_ns != kUnknownError) until.ns = at.time.ns - at.error_ns;
    }
    least = std::min(least, until);
  }
  return std::max(least, ClusterTime{context.now.ns - EdgeBuilder::kBehindNs});
}

EdgeBuilder::EdgeBuilder(store::EdgeStore& kept, std::function<void()> pace, EdgeLimits limits)
    : kept_(kept),
      pace_(std::move(pace)),
      limits_(limits),
      floor_(std::numeric_limits<std::int64_t>::min()) {}

Status EdgeBuilder::load() {
  if (!loaded_) {
    ASSIGN_OR_RETURN(auto all, kept_.states());
    for (auto& state : all) {
      const auto slice = state.slice;
      states_.emplace(slice, std::move(state));
    }
    loaded_ = true;
  }
  for (const auto slice : kept_.damaged()) RETURN_IF_ERROR(forget(slice));
  return {};
}

Status EdgeBuilder::forget(std::int64_t slice) {
  RETURN_IF_ERROR(kept_.drop(slice));
  states_.erase(slice);
  return {};
}

Status EdgeBuilder::clear() {
  RETURN_IF_ERROR(kept_.clear());
  states_.clear();
  loaded_ = true;
  progress_ = {};
  floor_ = std::numeric_limits<std::int64_t>::min();
  return {};
}

// The oldest slice that can be derived now and is not kept as it would be.
Result<std::optional<std::int64_t>> EdgeBuilder::choose(const Context& context,
                                                        const ClockModel& clock) {
  RETURN_IF_ERROR(load());
  Slices known;
  for (const auto& [slice, state] : states_) known.emplace_hint(known.end(), slice, &state);
  const auto all = windows(context, clock, known, false);
  std::vector<std::int64_t> gone;
  for (const auto& [slice, state] : states_) {
    const auto at = all.find(slice);
    if (at == all.end() || (at->second.blocks == 0 && !at->second.tail)) gone.push_back(slice);
  }
  for (const auto slice : gone) RETURN_IF_ERROR(forget(slice));

  const auto settled = settled_until(context, clock);
  progress_ = {};
  std::optional<std::int64_t> chosen, missing, newest;
  for (const auto& [slice, window] : all) {
    if (slice < floor_ || (window.blocks == 0 && !window.tail)) continue;
    const auto state = states_.find(slice);
    const bool there = state != states_.end() && state->second.units == window.units;
    if (there) {
      ++progress_.kept;
      newest = slice;
      continue;
    }
    if (!missing) missing = slice;
    if (!limits_.alone && (window.tail || slice_start(slice + 1).ns + kEdgeAfterNs > settled.ns)) {
      ++progress_.waiting;
    } else {
      ++progress_.ready;
      if (!chosen) chosen = slice;
    }
  }
  if (missing) {
    progress_.until = slice_start(*missing);
  } else if (newest) {
    progress_.until = slice_start(*newest + 1);
  }
  return chosen;
}

// The ends that its neighbours have, else those of the clock model; of all incarnations that may have rows in the window.
std::vector<store::SliceCut> EdgeBuilder::cuts(const Context& context, const ClockModel& clock,
                                               std::int64_t slice) const {
  const auto start = slice_start(slice), end = slice_start(slice + 1);
  std::map<Incarnation, std::pair<RawTime, RawTime>> raw;
  std::vector<Incarnation> there;
  for (const auto& unit : context.view->units()) {
    if ((unit.types & kEdgeTypes) == 0) continue;
    for (const auto& range : unit.ranges) {
      const auto n = range.incarnation;
      auto at = raw.find(n);
      if (at == raw.end()) {
        at = raw.emplace(n, std::pair(clock.raw(n, {start.ns - kEdgeBeforeNs - kMarginNs}).time,
                                      clock.raw(n, {end.ns + kEdgeAfterNs + kMarginNs}).time))
                 .first;
      }
      if (range.newest < at->second.first || range.oldest > at->second.second) continue;
      if (std::ranges::find(there, n) == there.end()) there.push_back(n);
    }
  }
  std::ranges::sort(there);
  const auto of = [&](std::int64_t neighbour, Incarnation n) -> const store::SliceCut* {
    const auto state = states_.find(neighbour);
    return state == states_.end() ? nullptr : state->second.cut(n);
  };
  std::vector<store::SliceCut> out;
  for (const auto n : there) {
    const auto* before = of(slice - 1, n);
    const auto* after = of(slice + 1, n);
    const auto* own = of(slice, n);
    store::SliceCut cut{n, {}, {}};
    cut.from = before != nullptr ? before->until
               : own != nullptr  ? own->from
                                 : clock.raw(n, start).time;
    cut.until = after != nullptr ? after->from
                : own != nullptr ? own->until
                                 : clock.raw(n, end).time;
    cut.until = std::max(cut.until, cut.from);
    out.push_back(cut);
  }
  return out;
}

Result<EdgeStep> EdgeBuilder::step(const Context& context) {
  const ClockModel clock(*context.view);
  ASSIGN_OR_RETURN(const auto slice, choose(context, clock));
  if (!slice) return EdgeStep{};
  auto done = derive(context, clock, *slice);
  if (!done && done.error().code == Code::too_large) {
    for (std::size_t i = 0; i < kDropForRoom && !states_.empty(); ++i) {
      floor_ = states_.begin()->first + 1;
      RETURN_IF_ERROR(forget(states_.begin()->first));
    }
  }
  return done;
}

Result<EdgeStep> EdgeBuilder::derive(const Context& context, const ClockModel& clock,
                                     std::int64_t slice) {
  store::SliceState state;
  state.slice = slice;
  state.clock = clock.version();
  state.cuts = cuts(context, clock, slice);
  const auto window = windows(context, clock, {{slice, &state}}, true)[slice];
  state.units = window.units;
  RETURN_IF_ERROR(forget(slice));

  EdgeStep step;
  step.partition = window.partition;
  ScanSpec spec;
  spec.types = kEdgeTypes;
  spec.payload = true;
  spec.since = ClusterTime{slice_start(slice).ns - kEdgeBeforeNs - kMarginNs};
  spec.until = ClusterTime{slice_start(slice + 1).ns + kEdgeAfterNs + kMarginNs};
  RowStream rows(context, clock, spec);
  Receivers receivers(context, clock);
  Parts parts(kept_, state, limits_);
  MatchLimits limits;
  limits.max_open = limits_.max_open;
  MessageMatcher matcher(parts, limits);
  std::size_t seen = 0;
  auto advanced = spec.since->ns;
  for (RowStream::Item item; rows.next(item) && parts.status();) {
    if (++seen % kPaceRows == 0 && pace_) pace_();
    const auto* cut = state.cut(item.row->process.incarnation);
    if (cut == nullptr || !in_window(*cut, item.row->record.time)) continue;
    ++state.rows;
    if (item.at.time.ns >= advanced + kAdvanceNs) {
      matcher.advance(item.at.time);
      advanced = item.at.time.ns;
    }
    matcher.add(receivers.message(*item.row, item.at));
  }
  if (rows.cut() || context.budget.spent())
    return fail(Code::closed, "deriving was ended before its end");
  matcher.finish();
  RETURN_IF_ERROR(parts.finish());
  state.edges = parts.edges();
  state.parts = parts.parts();
  state.corrupt = static_cast<std::uint32_t>(rows.corrupt_blocks());
  state.crowded = matcher.stats().pushed_out > 0;
  RETURN_IF_ERROR(kept_.finish(state));
  step.derived = true;
  step.rows = state.rows;
  step.edges = state.edges;
  step.bytes = parts.bytes();
  states_[slice] = std::move(state);
  return step;
}

}  // namespace scope::analysis
