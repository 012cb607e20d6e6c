#include "analysis/aggregate_values.h"

#include <algorithm>

#include "analysis/flow_match.h"
#include "analysis/resolve.h"

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

// Who takes messages of one content, and what of it was sent to whom.
struct Receiver {
  Process process;
  std::optional<PeerMatcher> matcher;  // made when a send names no pid
  Content content;
};

Hit hit_of(const ClockModel& clock, const store::StoredRow& row) {
  Hit hit;
  hit.at = clock.cluster(row.process.incarnation, row.record.time);
  hit.id = row.id();
  hit.type = row.record.type;
  hit.flags = row.record.flags;
  hit.match_hash = row.record.match_hash;
  return hit;
}

}  // namespace

void QueueTimes::settle(bool all) {
  if (takes_.empty() || (!all && takes_.size() < kChunk)) return;
  const auto takes = std::exchange(takes_, {});
  std::map<EventId, std::uint32_t> group_of;
  ScanSpec spec;
  spec.types = kTakeType | 1u << static_cast<unsigned>(EventType::message_send);
  ClusterTime low = takes.front().hit.at.time, high = low;
  for (const auto& take : takes) {
    group_of.emplace(take.hit.id, take.group);
    spec.match_hashes.push_back(take.hit.match_hash);
    low = std::min(low, take.hit.at.time);
    high = std::max(high, take.hit.at.time);
  }
  std::ranges::sort(spec.match_hashes);
  spec.match_hashes.erase(std::unique(spec.match_hashes.begin(), spec.match_hashes.end()),
                          spec.match_hashes.end());
  spec.since = ClusterTime{low.ns - kLookBack};
  spec.until = ClusterTime{high.ns + 1'000'000'000};
  spec.order = Order::oldest_first;

  // First the takings, for they say who the receivers are.
  std::map<std::uint64_t, std::vector<Receiver>> contents;
  std::size_t kept = 0;
  const auto plan = make_plan(context_, clock_, spec);
  const auto filter = row_filter(context_, clock_, spec);
  std::vector<std::pair<Hit, store::StoredRow>> sends;
  Owners owners;
  for (const auto& candidate : plan.units) {
    if (context_.budget.spent() || kept > kMaxRows) {
      cut_ = cut_ || kept <= kMaxRows;
      return;  // of these takings nothing is known for certain
    }
    const auto rows = context_.view->read(context_.view->units()[candidate.unit], filter);
    if (!rows) {
      ++corrupt_;
      continue;
    }
    owners.push_back(rows->owner);
    for (const auto& row : rows->rows) {
      const Hit hit = hit_of(clock_, row);
      ++kept;
      if (row.record.type == EventType::message_send) {
        sends.emplace_back(hit, row);
        continue;
      }
      auto& receivers = contents[row.record.match_hash];
      auto who = std::ranges::find_if(
          receivers, [&](const Receiver& r) { return r.process.holds(row.process); });
      if (who == receivers.end()) {
        receivers.push_back({process_of(*context_.view, row.process), {}, {}});
        who = std::prev(receivers.end());
      }
      who->content.takes.push_back(hit);
    }
  }
  for (auto& [hit, row] : sends) {
    auto& receivers = contents[row.record.match_hash];
    std::vector<Receiver*> meant;
    for (auto& receiver : receivers) {
      if (!receiver.matcher) receiver.matcher.emplace(context_, clock_, receiver.process);
      if (receiver.matcher->means(row, hit.at.time) != Means::no) meant.push_back(&receiver);
    }
    // An alias may mean any process of its VM: if several took that content, nobody knows whose it was.
    if (meant.size() == 1) {
      meant.front()->content.sends.push_back(hit);
    } else {
      for (auto* receiver : meant) receiver->content.takes.clear();
    }
  }
  const auto by_time = [](const Hit& a, const Hit& b) { return before(Order::oldest_first, a, b); };
  std::map<EventId, Match> matches;
  for (auto& [hash, receivers] : contents) {
    for (auto& receiver : receivers) {
      auto& content = receiver.content;
      std::ranges::sort(content.sends, by_time);
      std::ranges::sort(content.takes, by_time);
      matches.clear();
      match(content, matches);
      for (const auto& sent : content.sends) {
        const auto m = matches.find(sent.id);
        if (m == matches.end() || !m->second.take || m->second.candidates != 1) continue;
        const auto group = group_of.find(m->second.take->id);
        if (group != group_of.end()) sink_(group->second, elapsed(sent, *m->second.take));
      }
    }
  }
}

}  // namespace scope::analysis
