#include "analysis/message_match.h"

#define XXH_INLINE_ALL  // keys are short: a call costs as much as their hash
#include <xxhash.h>

#include <algorithm>
#include <limits>

namespace scope::analysis {
namespace {

using codec::EventType;
using codec::TraceRecord;

using Key128 = std::array<std::uint64_t, 2>;

template <std::size_t N>
Key128 mix(const std::array<std::uint64_t, N>& words) {
  const auto h = XXH3_128bits(words.data(), sizeof words);
  return {h.low64, h.high64};
}
std::uint64_t word(std::uint32_t a, std::uint32_t b) { return std::uint64_t{a} << 32 | b; }

// Can `arrival` have happened after `send`?
bool possible(const Message& send, const Message& arrival) {
  const std::int64_t s = slack(send.at, send.id, arrival.at, arrival.id);
  return s == kUnknownError || arrival.at.time.ns + s >= send.at.time.ns;
}

bool meant_for(const Message& send, const Message& arrival) {
  return send.to.kind == Destination::Kind::process
             ? send.to.process == arrival.process
             : send.to.process.incarnation == arrival.process.incarnation;
}

bool from_no_process(const Message& m) {
  using Kind = Identity::Kind;
  return m.has(TraceRecord::kSystem) || m.has(TraceRecord::kTimeoutNotMessage) ||
         m.identity.kind == Kind::timer || m.identity.kind == Kind::down ||
         m.identity.kind == Kind::exit || m.identity.kind == Kind::spawned ||
         m.identity.kind == Kind::port;
}

}  // namespace

std::string_view name(Matched matched) {
  switch (matched) {
    case Matched::exact:
      return "exact";
    case Matched::unique:
      return "unique";
    case Matched::ambiguous:
      return "ambiguous";
    case Matched::unknown:
      return "unknown";
  }
  return "unknown";
}

std::int64_t slack(const Corrected& a, const EventId& of_a, const Corrected& b,
                   const EventId& of_b) {
  if (of_a.process.incarnation == of_b.process.incarnation) return 0;
  if (a.error_ns == kUnknownError || b.error_ns == kUnknownError) return kUnknownError;
  return a.error_ns + b.error_ns;
}

MessageMatcher::MessageMatcher(MatchSink& sink, MatchLimits limits)
    : sink_(&sink), limits_(limits), watermark_(std::numeric_limits<std::int64_t>::min()) {}

MessageMatcher::Key MessageMatcher::key_of(const Message& m, const ProcessId& receiver,
                                           bool identity) {
  if (identity) {
    return mix(std::array{m.identity.ref[0], m.identity.ref[1], m.hash,
                          static_cast<std::uint64_t>(m.identity.kind)});
  }
  return mix(
      std::array{std::uint64_t{receiver.incarnation}, word(receiver.id, receiver.serial), m.hash});
}

void MessageMatcher::add(const Message& m) {
  const bool identity = m.identity.of_reference();
  if (m.type == EventType::message_send) {
    ++stats_.sends;
    if (m.to.kind == Destination::Kind::nobody || m.has(TraceRecord::kDeadReceiver)) {
      ++stats_.unmatched_sends;
      return;
    }
    if (m.hash == 0 && !identity) {
      ++stats_.unhashed;
      return;
    }
    const bool whole_vm = !identity && m.to.kind == Destination::Kind::vm;
    return put(key_of(m, m.to.process, identity), m, identity, whole_vm);
  }
  if (m.type == EventType::message_take) return take(m);
  if (from_no_process(m)) {
    ++stats_.system;
  } else {
    ++stats_.arrivals;
    if (m.hash == 0 && !identity) {
      ++stats_.unhashed;
    } else {
      put(key_of(m, m.process, identity), m, identity, false);
    }
  }
  if (m.has(TraceRecord::kTimeoutNotMessage) || m.hash == 0) return;
  const Key key = key_of(m, m.process, false);
  fetched_[key].push_back(m);
  fetched_order_.emplace_back(key, m.id);
  if (fetched_order_.size() > limits_.max_open)
    forget_old(std::numeric_limits<std::int64_t>::min());
}

void MessageMatcher::take(const Message& m) {
  if (takers_.size() >= limits_.max_open) takers_.clear();
  takers_.insert(m.process);
  if (m.hash != 0) {
    const auto waiting = fetched_.find(key_of(m, m.process, false));
    if (waiting != fetched_.end()) {
      sink_->taken(waiting->second.front(), m);
      waiting->second.pop_front();
      if (waiting->second.empty()) fetched_.erase(waiting);
      return;
    }
  }
  if (from_no_process(m)) {
    ++stats_.system;
    return;
  }
  ++stats_.arrivals;
  const bool identity = m.identity.of_reference();
  if (m.hash == 0 && !identity) {
    ++stats_.unhashed;
    return;
  }
  put(key_of(m, m.process, identity), m, identity, false);
}

void MessageMatcher::put(const Key& key, const Message& m, bool identity, bool whole_vm) {
  auto& bucket = buckets_[key];
  bucket.identity = identity;
  bucket.whole_vm = bucket.whole_vm || whole_vm;
  bucket.newest = m.at.time.ns;
  (m.type == EventType::message_send ? bucket.sends : bucket.arrivals).push_back(m);
  ++open_;
  if (!bucket.queued) queue(key, bucket, m.at.time.ns + limits_.settle_ns);
  if (open_ > limits_.max_open) run_due(watermark_, false);
}

void MessageMatcher::queue(const Key& key, Bucket& bucket, std::int64_t at) {
  bucket.queued = true;
  due_.push({at, key});
}

void MessageMatcher::advance(ClusterTime watermark) {
  watermark_ = std::max(watermark_, watermark.ns);
  run_due(watermark_, false);
  while (!deferred_.empty() && deferred_.front().first <= watermark_) {
    narrow(deferred_.front().second);
    deferred_.pop_front();
  }
  forget_old(watermark_ - limits_.window_ns);
}

void MessageMatcher::finish() {
  run_due(std::numeric_limits<std::int64_t>::max(), true);
  for (const auto& [at, cluster] : deferred_) narrow(cluster);
  deferred_.clear();
  fetched_.clear();
  fetched_order_.clear();
  anchors_.clear();
  found_.clear();
  sorted_ = 0;
}

void MessageMatcher::run_due(std::int64_t now, bool last) {
  std::vector<Key> vms;  // whole VMs come last: they get what nothing else claims
  while (!due_.empty() && (due_.top().at <= now || open_ > limits_.max_open)) {
    const auto [at, key] = due_.top();
    due_.pop();
    const auto found = buckets_.find(key);
    if (found == buckets_.end()) continue;
    auto& bucket = found->second;
    if (bucket.whole_vm && last) {
      vms.push_back(key);
      continue;
    }
    bucket.queued = false;
    const std::size_t before = bucket.sends.size() + bucket.arrivals.size();
    const bool pushed_out = at > now;
    if (pushed_out && !last && bucket.newest + kPatienceNs > watermark_) ++stats_.pushed_out;
    settle(bucket, std::max(at, std::min(now, watermark_)), last || pushed_out);
    const std::size_t left = bucket.sends.size() + bucket.arrivals.size();
    open_ -= before - left;
    if (left == 0) {
      buckets_.erase(found);
    } else {
      const auto oldest = bucket.sends.empty() ? bucket.newest : bucket.sends.front().at.time.ns;
      queue(key, bucket,
            std::max(at + 1, std::min(bucket.newest + limits_.settle_ns > at
                                          ? bucket.newest + limits_.settle_ns
                                          : oldest + limits_.window_ns,
                                      oldest + limits_.window_ns)));
    }
  }
  for (const auto& key : vms) {
    const auto found = buckets_.find(key);
    const std::size_t before = found->second.sends.size() + found->second.arrivals.size();
    settle(found->second, now, true);
    open_ -= before;
    buckets_.erase(found);
  }
}

// A request or reply is sent once, as a rule, and by whom and whatever else: its reference says which it is.
void MessageMatcher::settle_identity(Bucket& bucket, bool last) {
  auto& sends = bucket.sends;
  auto& arrivals = bucket.arrivals;
  for (std::size_t s = 0; s < sends.size();) {
    const auto& send = sends[s];
    std::size_t first = 0;
    std::ptrdiff_t there = 0;
    for (std::size_t i = 0; i < arrivals.size(); ++i) {
      if (meant_for(send, arrivals[i]) && possible(send, arrivals[i]) && there++ == 0) first = i;
    }
    if (there == 0) {
      ++s;
      continue;
    }
    // Several to the same receiver: a caller that tried again with one reference.
    const auto same = std::ranges::count_if(
        sends, [&](const Message& other) { return meant_for(other, arrivals[first]); });
    const auto candidates = static_cast<std::uint32_t>(std::max(same, there));
    emit(send, arrivals[first], candidates == 1 ? Matched::exact : Matched::ambiguous, candidates);
    arrivals.erase(arrivals.begin() + static_cast<std::ptrdiff_t>(first));
    sends.erase(sends.begin() + static_cast<std::ptrdiff_t>(s));
  }
  if (!last) return;
  for (const auto& send : sends) lost(send);
  stats_.unmatched_arrivals += arrivals.size();
  sends.clear();
  arrivals.clear();
}

// Closes the clusters of this content that are complete at `now`, all if it is the last time.
void MessageMatcher::settle(Bucket& bucket, std::int64_t now, bool last) {
  const bool aged =
      !bucket.sends.empty() && bucket.sends.front().at.time.ns + limits_.window_ns <= now;
  const bool quiet = bucket.newest + limits_.settle_ns <= now;
  if (bucket.identity) {
    return settle_identity(bucket, last || (bucket.sends.empty() ? quiet : aged));
  }
  auto& sends = bucket.sends;
  auto& arrivals = bucket.arrivals;
  std::size_t s = 0, f = 0;
  while (s < sends.size()) {
    // Arrivals that precede every send still open came from elsewhere, or from before the range.
    while (f < arrivals.size() && !possible(sends[s], arrivals[f])) {
      orphan(arrivals[f++], bucket.whole_vm);
    }
    const std::size_t s_begin = s, f_begin = f;
    ++s;
    bool closed = false;
    while (true) {
      // All that arrived before the next send belongs to this cluster.
      while (f < arrivals.size() && (s == sends.size() || arrivals[f].at.time < sends[s].at.time)) {
        ++f;
      }
      const bool even = f - f_begin == s - s_begin;
      if (s == sends.size()) {
        closed = last || aged || (quiet && even);
        break;
      }
      const bool apart = f == f_begin || !possible(sends[s], arrivals[f - 1]);
      if (even && apart) {
        closed = true;
        break;
      }
      ++s;
    }
    if (!closed) {
      s = s_begin;
      f = f_begin;
      break;
    }
    close(std::span(sends).subspan(s_begin, s - s_begin),
          std::span(arrivals).subspan(f_begin, f - f_begin), bucket.whole_vm, now);
  }
  // Without a send there is nothing to wait for: it would have come before.
  if (s == sends.size() && (last || quiet)) {
    while (f < arrivals.size()) orphan(arrivals[f++], bucket.whole_vm);
  }
  sends.erase(sends.begin(), sends.begin() + static_cast<std::ptrdiff_t>(s));
  arrivals.erase(arrivals.begin(), arrivals.begin() + static_cast<std::ptrdiff_t>(f));
}

void MessageMatcher::close(std::span<const Message> sends, std::span<const Message> arrivals,
                           bool whole_vm, std::int64_t now) {
  if (arrivals.empty()) {
    for (const auto& send : sends) lost(send);
  } else if (sends.size() == 1 && arrivals.size() == 1) {
    const auto& send = sends.front();
    const bool bounded = send.has(TraceRecord::kHashBounded);
    if (possible(send, arrivals.front())) {
      emit(send, arrivals.front(), bounded ? Matched::ambiguous : Matched::unique, 1);
    } else {
      lost(send);
      orphan(arrivals.front(), whole_vm);
    }
  } else {
    // The neighbours that will tell more are settled by then.
    const auto at = now > std::numeric_limits<std::int64_t>::max() - limits_.settle_ns
                        ? now
                        : now + limits_.settle_ns;
    narrowed_.insert(sends.front().hash);
    deferred_.emplace_back(
        at, Cluster{{sends.begin(), sends.end()}, {arrivals.begin(), arrivals.end()}, whole_vm});
  }
}

// Which arrivals each send can be, as an interval of the cluster's arrivals; intervals that do not touch are apart.
void MessageMatcher::narrow(const Cluster& cluster) {
  for (; sorted_ < found_.size(); ++sorted_)
    anchors_[found_[sorted_].pair].emplace(found_[sorted_].send, found_[sorted_].arrival);
  const auto& arrivals = cluster.arrivals;
  const std::size_t m = arrivals.size();
  struct Open {
    std::size_t send, first, end;
  };
  std::vector<Open> open;
  for (std::size_t i = 0; i < cluster.sends.size(); ++i) {
    const auto& send = cluster.sends[i];
    Open o{i, 0, m};
    const auto index = [&](auto at) { return static_cast<std::size_t>(at - arrivals.begin()); };
    o.first = index(std::ranges::partition_point(
        arrivals, [&](const Message& a) { return !possible(send, a); }));
    const auto known =
        cluster.whole_vm
            ? anchors_.end()
            : anchors_.find(mix(
                  std::array{word(send.process.incarnation, send.process.id),
                             word(send.process.serial, arrivals.front().process.incarnation),
                             word(arrivals.front().process.id, arrivals.front().process.serial)}));
    if (known != anchors_.end()) {
      const auto next = known->second.upper_bound(position(send));
      auto first = o.first;
      auto end = o.end;
      if (next != known->second.begin()) {
        const auto after = std::prev(next)->second;
        first = std::max(first, index(std::ranges::partition_point(arrivals, [&](const Message& a) {
                           return position(a) <= after;
                         })));
      }
      if (next != known->second.end()) {
        const auto before = next->second;
        end = std::min(end, index(std::ranges::partition_point(
                                arrivals, [&](const Message& a) { return position(a) < before; })));
      }
      // Nothing left: they contradict each other (a priority message overtook), or it never arrived. In a cluster in
      // which something is missing the latter is as good.
      if (first < end || cluster.sends.size() > m) {
        o.first = first;
        o.end = end;
      }
    }
    if (o.first >= o.end) {
      lost(send);
      continue;
    }
    open.push_back(o);
  }
  std::ranges::sort(open, {}, [](const Open& o) { return std::tuple(o.first, o.end, o.send); });
  std::vector<bool> claimed(m, false);
  for (std::size_t begin = 0; begin < open.size();) {
    // One component: intervals that touch.
    std::size_t end = begin + 1, reach = open[begin].end;
    while (end < open.size() && open[end].first < reach) reach = std::max(reach, open[end++].end);
    const std::size_t sent = end - begin, arrived = reach - open[begin].first;
    const auto candidates = static_cast<std::uint32_t>(std::max(sent, arrived));
    // Each arrival to the send that has the fewest left to choose from: pairs as many as can be.
    using Waiting = std::pair<std::size_t, std::size_t>;  // end, send
    std::priority_queue<Waiting, std::vector<Waiting>, std::greater<>> waiting;
    std::size_t next = begin;
    for (std::size_t a = open[begin].first; a < reach; ++a) {
      while (next < end && open[next].first <= a) {
        waiting.emplace(open[next].end, open[next].send);
        ++next;
      }
      while (!waiting.empty() && waiting.top().first <= a) {
        lost(cluster.sends[waiting.top().second]);
        waiting.pop();
      }
      if (waiting.empty()) continue;
      const auto& send = cluster.sends[waiting.top().second];
      waiting.pop();
      claimed[a] = true;
      const bool sure = candidates == 1 && !send.has(TraceRecord::kHashBounded);
      emit(send, arrivals[a], sure ? Matched::unique : Matched::ambiguous, candidates);
    }
    while (!waiting.empty()) {
      lost(cluster.sends[waiting.top().second]);
      waiting.pop();
    }
    begin = end;
  }
  for (std::size_t a = 0; a < m; ++a) {
    if (!claimed[a]) ++stats_.unmatched_arrivals;
  }
}

void MessageMatcher::emit(const Message& send, const Message& arrival, Matched how,
                          std::uint32_t candidates) {
  ++(how == Matched::exact    ? stats_.exact
     : how == Matched::unique ? stats_.unique
                              : stats_.ambiguous);
  sink_->matched(send, arrival, how, candidates);
  if (how == Matched::ambiguous || arrival.type != EventType::message_fetch) return;
  const auto& r = arrival.process;
  const Key pair = mix(std::array{word(send.process.incarnation, send.process.id),
                                  word(send.process.serial, r.incarnation), word(r.id, r.serial)});
  found_.push_back({pair, position(send), position(arrival)});
  if (found_.size() <= limits_.max_open) return;
  if (sorted_ > 0) {
    --sorted_;
    const auto old = anchors_.find(found_.front().pair);
    if (old != anchors_.end()) {
      old->second.erase(found_.front().send);
      if (old->second.empty()) anchors_.erase(old);
    }
  }
  found_.pop_front();
}

// Nothing sent to this process is its send: perhaps something that was sent to an alias of its VM.
void MessageMatcher::orphan(const Message& arrival, bool of_whole_vm) {
  const Key key = key_of(arrival, {arrival.process.incarnation, 0, 0}, false);
  const auto found = buckets_.find(key);
  if (of_whole_vm || found == buckets_.end() || !found->second.whole_vm) {
    ++stats_.unmatched_arrivals;
    return;
  }
  auto& bucket = found->second;
  const auto at = std::ranges::upper_bound(bucket.arrivals, arrival.at.time, {},
                                           [](const Message& m) { return m.at.time; });
  bucket.arrivals.insert(at, arrival);
  bucket.newest = std::max(bucket.newest, arrival.at.time.ns);
  ++open_;
  if (!bucket.queued) queue(key, bucket, arrival.at.time.ns + limits_.settle_ns);
}

void MessageMatcher::lost(const Message& send) {
  ++stats_.unmatched_sends;
  if (send.at.time.ns + limits_.window_ns <= watermark_ || open_ > limits_.max_open) {
    ++stats_.fell_out;
  }
}

// Fetches that were never taken, before `now` or beyond the bound.
void MessageMatcher::forget_old(std::int64_t now) {
  while (!fetched_order_.empty()) {
    const auto& [key, id] = fetched_order_.front();
    const auto found = fetched_.find(key);
    if (found != fetched_.end() && found->second.front().id == id) {
      if (found->second.front().at.time.ns > now && fetched_order_.size() <= limits_.max_open)
        return;
      const auto& front = found->second.front();
      if (front.at.time.ns > now && front.at.time.ns + kPatienceNs > watermark_ &&
          takers_.contains(front.process))
        ++stats_.pushed_out;
      found->second.pop_front();
      if (found->second.empty()) fetched_.erase(found);
    }
    fetched_order_.pop_front();
  }
}

}  // namespace scope::analysis
