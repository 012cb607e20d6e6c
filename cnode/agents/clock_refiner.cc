#include "cnode/agents/clock_refiner.h"

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <utility>

#include "cnode/agents/signal.h"
#include "cnode/dist/spawn.h"

namespace scope::node {
namespace {

using namespace std::chrono_literals;

constexpr auto kPeriod = 2s;
constexpr auto kMaxPass = 500ms, kLastPass = 2000ms;
constexpr std::size_t kMaxRows = 50'000, kLastRows = 1'000'000;  // of the last: all it can
constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kBehindNs = 30 * kSecond;
constexpr std::int64_t kFreshNs =
    5 * kSecond;  // a clock measured since then is of a node that is there
static_assert(kBehindNs < analysis::MessageClocks::kRefinedNs);

}  // namespace

struct ClockRefiner::State {
  State(boost::asio::io_context& context, store::TraceStore& s, std::shared_ptr<Counters> c)
      : io(context), store(s), counters(std::move(c)), changed(context) {}

  // On the pool's thread, one at a time.
  std::vector<store::ClockVersion> work() {
    analysis::Context context{store.snapshot(), store.now(), {}, nullptr};
    context.budget = {std::chrono::steady_clock::now() + (closing ? kLastPass : kMaxPass),
                      &stopped};
    // At the end the agents have gone: nothing more will come.
    const std::optional<ClusterTime> complete =
        closing ? context.now : analysis::all_complete_until(context, kFreshNs);
    if (!complete || *complete <= until) return {};
    const ClusterTime from{std::max(next.ns, context.now.ns - kBehindNs)};
    const auto read =
        analysis::read_pairs(context, {from, *complete, closing ? kLastRows : kMaxRows}, clocks);
    until = std::max(until, read.until);
    next = read.next;
    auto out = clocks.refine(context.view->clocks());
    const auto& now = clocks.stats();
    counters->add(Counter::clock_contradictions, now.contradict - told.contradict);
    told = now;
    return out;
  }

  boost::asio::io_context& io;
  store::TraceStore& store;
  const std::shared_ptr<Counters> counters;
  boost::asio::thread_pool pool{1};
  Signal changed;
  std::atomic<bool> stopped = false;
  std::atomic<bool> closing = false;
  bool passing = false;

  analysis::MessageClocks clocks{store.now()};
  analysis::RefineStats told;
  ClusterTime until, next;  // up to when messages were matched, from where they will be
};

ClockRefiner::ClockRefiner(boost::asio::io_context& io, store::TraceStore& store,
                           std::shared_ptr<Counters> counters)
    : state_(std::make_shared<State>(io, store, std::move(counters))) {}

ClockRefiner::~ClockRefiner() {
  state_->closing = true;
  state_->stopped = true;
  state_->pool.join();
}

void ClockRefiner::start() { spawn(state_->io, "clock refinement", run(state_)); }

Awaitable<void> ClockRefiner::run(std::shared_ptr<State> s) {
  while (!s->closing) {
    co_await s->changed.wait_for(kPeriod);
    if (!s->closing) co_await pass(s);
  }
}

Awaitable<void> ClockRefiner::pass(std::shared_ptr<State> s) {
  s->passing = true;
  auto work = [state = s.get()] { return state->work(); };
  auto versions = co_await offload(s->pool, work);
  s->passing = false;
  s->changed.notify();
  if (s->stopped) co_return;
  for (auto& version : versions) {
    // Decided now, on the thread that also stores what pings say: no model in use was pinned later than that.
    version.measured_at = s->store.now();
    if (auto stored = s->store.add_clock(version); !stored)
      s->counters->add(Counter::clock_not_stored);
  }
}

Awaitable<void> ClockRefiner::finish(ClockRefiner& refiner) {
  auto s = refiner.state_;
  s->closing = true;
  s->changed.notify();
  while (s->passing) co_await s->changed.wait_for(50ms);
  co_await pass(s);
}

}  // namespace scope::node
