#include "analysis/aggregate_values.h"

#include <algorithm>

#include "analysis/message_match.h"
#include "analysis/row_stream.h"

namespace scope::analysis {

using codec::EventType;
using codec::TraceRecord;

// ---- CallTimes ------------------------------------------------------------------------------------------------------

void CallTimes::next_unit() {
  if (open_ <= kMaxOpen) return;
  processes_.clear();
  open_ = 0;
  forgot_ = true;
}

std::optional<std::int64_t> CallTimes::pass(const store::StoredRow& row) {
  const std::uint32_t bit = 1u << static_cast<unsigned>(row.record.type);
  looks_back_ = false;
  if ((bit & (kEntryType | kExitTypes)) == 0) return std::nullopt;
  auto& calls = processes_[row.process];
  const auto function = functions_.of(row.record.mfa);
  const auto before = calls.size();
  std::optional<std::int64_t> took;
  if (bit == kEntryType) {
    calls.enter(function, row.record.time);
  } else {
    passed_ = calls.without_entry().size();
    const auto ended = calls.leave(function);
    looks_back_ = !ended.entry;
    if (ended.entry && ended.sure) took = row.record.time.ns - ended.entry->ns;
  }
  open_ += calls.size() - before;
  return took;
}

std::optional<std::int64_t> CallTimes::look_back(const store::StoredRow& row, RawTime since) {
  if (!looks_back_ || forgot_ || since.ns == std::numeric_limits<std::int64_t>::min() ||
      look_backs_ == kMaxLookBacks) {
    return std::nullopt;
  }
  ++look_backs_;
  const auto& passed = processes_[row.process].without_entry();
  const auto entry =
      entry_before(context_, asked_, row, context_.view->units().size(), RawTime{since.ns - 1},
                   std::span(passed).first(passed_), functions_);
  if (!entry) return std::nullopt;
  return row.record.time.ns - entry->ns;
}

// ---- QueueTimes -----------------------------------------------------------------------------------------------------

void QueueTimes::taken(const store::StoredRow& row, const Hit& hit, std::uint32_t group) {
  const auto& r = row.record;
  if (!r.has(TraceRecord::kHashed) || r.has(TraceRecord::kHashBounded) ||
      r.has(TraceRecord::kSystem)) {
    return;
  }
  Take take{hit, group};
  take.hit.match_hash = r.match_hash;
  takes_.push_back(take);
}

namespace {

// How long those messages waited whose sends are certain.
struct Waits : MatchSink {
  void matched(const Message& send, const Message& arrival, Matched how, std::uint32_t) override {
    if (how == Matched::ambiguous) return;
    const auto group = group_of.find(arrival.id);
    if (group == group_of.end()) return;
    const bool one_clock = send.id.process.incarnation == arrival.id.process.incarnation;
    found.emplace_back(group->second, one_clock ? arrival.id.time.ns - send.id.time.ns
                                                : arrival.at.time.ns - send.at.time.ns);
  }
  void taken(const Message&, const Message&) override {}

  std::map<EventId, std::uint32_t> group_of;  // by taking
  std::vector<std::pair<std::uint32_t, std::int64_t>> found;
};

}  // namespace

void QueueTimes::settle(bool all) {
  if (takes_.empty() || (!all && takes_.size() < kChunk)) return;
  const auto takes = std::exchange(takes_, {});
  Waits waits;
  ScanSpec spec;
  spec.types = kTakeType | bit(EventType::message_send);
  ClusterTime low = takes.front().hit.at.time, high = low;
  for (const auto& take : takes) {
    waits.group_of.emplace(take.hit.id, take.group);
    spec.match_hashes.push_back(take.hit.match_hash);
    low = std::min(low, take.hit.at.time);
    high = std::max(high, take.hit.at.time);
  }
  std::ranges::sort(spec.match_hashes);
  spec.match_hashes.erase(std::unique(spec.match_hashes.begin(), spec.match_hashes.end()),
                          spec.match_hashes.end());
  spec.since = ClusterTime{low.ns - kLookBack};
  spec.until = ClusterTime{high.ns + 1'000'000'000};
  // By content alone: what a taking waited from is its own message's send, whose content no other has, or it is not certain.
  spec.payload = false;
  RowStream rows(context_, clock_, spec);
  Receivers receivers(context_, clock_);
  MessageMatcher matcher(waits);
  std::size_t seen = 0;
  for (RowStream::Item item; rows.next(item);) {
    if (++seen > kMaxRows) return;  // of these takings nothing is known for certain
    matcher.add(receivers.message(*item.row, item.at));
  }
  corrupt_ += rows.corrupt_blocks();
  cut_ = cut_ || rows.cut();
  if (rows.cut()) return;
  matcher.finish();
  for (const auto& [group, ns] : waits.found) sink_(group, ns);
}

}  // namespace scope::analysis
