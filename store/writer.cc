// The writer's thread: its queue, the sequence of each agent, and when to do what. What a commit writes: commit.cc.
#include "store/writer.h"

#include <spdlog/spdlog.h>
#include <time.h>

#include <algorithm>

#include "store/gap_batch.h"

namespace scope::store {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kCommitBytes =
    4u << 20;  // of messages; agents wait for what is not acknowledged
constexpr auto kFastest = 40ms, kSlowest = 1000ms;
constexpr double kSlowRate = 2000, kFastRate = 10000;  // rows per second
constexpr auto kRetry = 1s;
constexpr std::size_t kTakeMost = 32;  // items between two views

}  // namespace

ClusterTime ClusterClock::now() const {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return {anchor_ns + t.tv_sec * 1'000'000'000LL + t.tv_nsec};
}

Writer::Writer(const StoreOptions& options, StoreState state, ClusterClock clock,
               StoreListener* listener)
    : options_(options),
      state_(std::move(state)),
      clock_(clock),
      listener_(listener),
      counters_(options.counters ? options.counters : std::make_shared<Counters>()),
      publisher_(counters_) {
  for (const auto& p : state_.partitions) publisher_.add_partition(p);
  state_.partitions.clear();  // the publisher holds them
  open_ = std::move(state_.open);
  publisher_.set_open(open_);
  for (const auto& batch : state_.tail) {
    publisher_.push_tail(batch);
    tail_rows_ += batch->rows.size();
    tail_bytes_ += batch->bytes();
  }
  committed_ = state_.tail.size();
  for (const auto& info : state_.incarnations.all())
    received_[info.number] = info.last_committed_seq;
  for (const auto& unit : publisher_.sealed().units) gauges_.events_stored += unit.rows;
  gauges_.events_stored += tail_rows_;
  gauges_.tail_rows = tail_rows_;
  publisher_.set_incarnations(state_.incarnations);
  publisher_.set_clocks(state_.clocks);
  publisher_.publish(state_.last_lsn);
  rate_since_ = house_at_ = Clock::now();
  update_sizes();
  tell_lost();
  thread_ = std::thread([this] { run(); });
}

// Cluster time less this is the node's raw time, by what the clock model knows last; nullopt: it was never measured.
std::optional<std::int64_t> Writer::newest_offset(Incarnation n) const {
  const auto clocks = state_.clocks.all();
  const auto next = std::ranges::upper_bound(*clocks, n, {}, &ClockVersion::incarnation);
  if (next == clocks->begin() || std::prev(next)->incarnation != n) return std::nullopt;
  return std::prev(next)->offset_ns;
}

// A batch of which not even the header could be read: it says nothing of its times, so the gap is from the batch before
// (else from when the agent was first heard of) until it came. In a batch of its own, so that a replay finds the same
// times. Without a clock there is no time to tell: then it waits for the first one.
void Writer::tell_unreadable(Incarnation n, ClusterTime received) {
  const auto before = state_.ordinals[n].earliest();
  const auto offset = newest_offset(n);
  if (!before && !offset) {
    unreadable_[n] = received;
    return;
  }
  const RawTime until = offset ? RawTime{received.ns - *offset} : *before;
  const RawTime from =
      before ? *before : RawTime{state_.incarnations.info(n).first_seen.ns - *offset};
  if (auto gap = gap_batch(n, "unreadable", from, std::max(from, until))) handle(*gap);
}

// Gap rows for partitions that were found to be missing or unusable, of every agent that may have something in them. Their
// times come from what the clock model knows last.
void Writer::tell_lost() {
  for (const auto& lost : state_.lost) {
    for (const auto& info : std::vector(state_.incarnations.all())) {
      const auto offset = newest_offset(info.number);
      if (info.agent_id == 0 || info.first_seen.ns > lost.closed_ns || !offset) continue;
      auto batch = gap_batch(info.number, "partition_lost", {lost.made_ns - *offset},
                             {lost.closed_ns - *offset});
      if (batch) handle(*batch);
    }
  }
  if (state_.lost.empty()) return;
  state_.lost.clear();
  commit_now_ = save_manifest_ = true;
  publisher_.publish(state_.last_lsn);
}

Writer::~Writer() { close(); }

Status Writer::push(Item item, std::size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    if (closing_) return fail(Code::closed, "the store is closed");
    if (queue_bytes_ > 0 && queue_bytes_ + bytes > options_.queue_bytes)
      return fail(Code::busy, "the store's queue is full");
    queue_.emplace_back(std::move(item), bytes);
    queue_bytes_ += bytes;
  }
  wake_.notify_one();
  return {};
}

std::uint64_t Writer::queue_bytes() const {
  const std::lock_guard lock(mutex_);
  return queue_bytes_;
}

void Writer::close() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

std::vector<Writer::Item> Writer::take(Clock::time_point until) {
  std::vector<Item> items;
  std::unique_lock lock(mutex_);
  // While commits fail the queue is left alone: it fills, and append() says busy.
  wake_.wait_until(lock, until, [this] { return closing_ || (!failing_ && !queue_.empty()); });
  if (failing_) return items;
  while (!queue_.empty() && items.size() < kTakeMost) {
    items.push_back(std::move(queue_.front().first));
    queue_bytes_ -= queue_.front().second;
    queue_.pop_front();
  }
  return items;
}

Writer::Clock::time_point Writer::next_event() const {
  if (failing_) return retry_at_;
  auto at = house_at_;
  if (commit_now_) return Clock::now();
  if (committed_ < state_.tail.size() || state_.clocks.dirty() || state_.incarnations.dirty())
    at = std::min(at,
                  pending_since_ + std::chrono::duration_cast<Clock::duration>(commit_interval()));
  return at;
}

void Writer::run() {
  int attempts_at_close = 0;
  for (;;) {
    auto items = take(next_event());
    for (auto& item : items) std::visit([this](auto& i) { handle(i); }, item);
    if (!items.empty()) {
      publisher_.publish(state_.last_lsn);
      if (listener_) listener_->on_published();
    }
    const auto now = Clock::now();
    bool closing = false, drained = false;
    {
      const std::lock_guard lock(mutex_);
      closing = closing_;
      drained = queue_.empty();
    }
    if (closing && drained) commit_now_ = true;
    if (failing_ ? (closing || now >= retry_at_) : commit_due(now)) try_commit();
    if (closing && failing_ && ++attempts_at_close >= 3)
      break;  // never acknowledged: will be sent again
    if (closing && drained && !failing_) break;
    if (now >= house_at_) keep_house();
  }
}

void Writer::handle(IncomingBatch& batch) {
  const auto n = batch.incarnation;
  if (!state_.incarnations.exists(n)) {
    counters_->add(Counter::events_malformed);
    return;
  }
  auto& last = received_[n];
  if (batch.seq != 0) {  // 0: the store's own
    if (batch.seq <= last) {
      counters_->add(Counter::batches_duplicate);
      const auto done = state_.incarnations.info(n).last_committed_seq;
      if (listener_ && batch.seq <= done) listener_->on_committed(n, done);
      return;
    }
    // An agent that was never heard of may begin anywhere: it may have been recorded by another store before.
    if (last != 0 && batch.seq != last + 1) {
      counters_->add(Counter::batches_out_of_order);
      auto& told = out_of_order_[n];
      if (listener_ && told != last + 1) listener_->on_out_of_order(n, last + 1, batch.seq);
      told = last + 1;
      return;
    }
    last = batch.seq;
  }
  const TailInput input{state_.last_lsn + 1, n, batch.seq, clock_.now(), std::move(batch.buffer),
                        batch.message};
  auto decoded =
      decode_batch(input, state_.manifest.hash_key, state_.incarnations, state_.ordinals[n]);
  const bool readable = decoded.has_value();
  auto entry = readable ? std::move(*decoded) : empty_batch(input);
  ++state_.last_lsn;
  if (committed_ == state_.tail.size()) pending_since_ = Clock::now();
  tail_rows_ += entry->rows.size();
  tail_bytes_ += entry->bytes();
  pending_rows_ += entry->rows.size();
  pending_bytes_ += entry->message.size();
  rate_rows_ += entry->rows.size();
  counters_->add(Counter::batches);
  counters_->add(Counter::events, entry->rows.size());
  gauges_.events_stored += entry->rows.size();
  counters_->add(Counter::events_malformed, entry->malformed);
  counters_->add(Counter::gaps, entry->gaps);
  gauges_.tail_rows = tail_rows_;
  publisher_.push_tail(entry);
  state_.tail.push_back(std::move(entry));
  if (!readable) tell_unreadable(n, clock_.now());
}

void Writer::handle(ClockVersion& version) {
  if (!state_.incarnations.exists(version.incarnation)) return;
  if (committed_ == state_.tail.size() && !state_.clocks.dirty()) pending_since_ = Clock::now();
  state_.clocks.add(version);
  publisher_.set_clocks(state_.clocks);
  if (const auto waits = unreadable_.extract(version.incarnation))
    tell_unreadable(waits.key(), waits.mapped());
}

void Writer::handle(Cut& cut) {
  if (!state_.incarnations.exists(cut.incarnation)) return;
  state_.incarnations.set_complete(cut.incarnation, cut.until);
  publisher_.set_incarnations(state_.incarnations);
}

void Writer::handle(IncarnationRequest& request) {
  const auto n = state_.incarnations.find_or_make(request.node, request.creation, request.agent_id,
                                                  clock_.now());
  asked_.emplace_back(n, std::move(request));
  commit_now_ = true;
}

void Writer::handle(FlushRequest& request) {
  flushes_.push_back(std::move(request.answer));
  commit_now_ = true;
}

void Writer::handle(EditRequest& request) { request.answer->set_value(edit(request)); }

std::chrono::nanoseconds Writer::commit_interval() const {
  const double slow = std::clamp((kFastRate - rows_per_s_) / (kFastRate - kSlowRate), 0.0, 1.0);
  return kFastest +
         std::chrono::duration_cast<std::chrono::nanoseconds>((kSlowest - kFastest) * slow);
}

bool Writer::commit_due(Clock::time_point now) const {
  // A block's worth is sealed at once: what is written raw before is work done twice.
  if (commit_now_ || tail_rows_ >= options_.block_rows || tail_bytes_ >= seal_bytes()) return true;
  if (pending_bytes_ >= kCommitBytes) return true;
  const bool pending =
      committed_ < state_.tail.size() || state_.clocks.dirty() || state_.incarnations.dirty();
  return pending && now >= pending_since_ + commit_interval();
}

void Writer::try_commit() {
  const auto begin = Clock::now();
  auto done = commit();
  if (!done && done.error().code == Code::too_large && !fresh_partition_) {
    done = roll();  // the map is full
    if (done) done = commit();
  }
  gauges_.commit_ns_last = std::chrono::nanoseconds(Clock::now() - begin).count();
  if (!done) {
    if (!failing_)
      spdlog::error("store: a commit failed, tried again each second: {}", to_string(done.error()));
    counters_->add(Counter::commit_failures);
    failing_ = true;
    retry_at_ = Clock::now() + kRetry;
    return;
  }
  if (failing_) spdlog::info("store: commits succeed again");
  failing_ = commit_now_ = false;
  if (save_manifest_) save_manifest_ = !state_.manifest.write(options_.path).has_value();
  for (auto& flush : flushes_) flush->set_value();
  flushes_.clear();
  for (auto& [n, request] : asked_) request.answer->set_value(state_.incarnations.info(n));
  asked_.clear();
  if (roll_due()) {
    if (auto rolled = roll(); !rolled)
      spdlog::error("store: a new partition could not be made: {}", to_string(rolled.error()));
  }
}

// Once a second: rates, rolling by age, retention.
void Writer::keep_house() {
  const auto now = Clock::now();
  house_at_ = now + 1s;
  const double seconds = std::chrono::duration<double>(now - rate_since_).count();
  if (seconds > 0.2) {
    rows_per_s_ = static_cast<double>(rate_rows_) / seconds;
    rate_rows_ = 0;
    rate_since_ = now;
  }
  if (!failing_ && roll_due()) {
    if (auto rolled = roll(); !rolled)
      spdlog::error("store: a new partition could not be made: {}", to_string(rolled.error()));
  }
  update_sizes();
  drop_old();
}

}  // namespace scope::store
