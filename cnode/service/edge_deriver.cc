#include "cnode/service/edge_deriver.h"

#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <utility>

namespace scope::node {
namespace {

constexpr int kNice = 10;

std::int64_t thread_cpu_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec * 1'000'000'000LL + t.tv_nsec;
}

}  // namespace

Result<std::unique_ptr<EdgeDeriver>> EdgeDeriver::open(store::TraceStore& store,
                                                       const std::string& folder,
                                                       std::shared_ptr<Counters> counters,
                                                       analysis::EdgeLimits limits) {
  std::shared_ptr<store::EdgeStore> kept;
  ASSIGN_OR_RETURN(
      kept, store::EdgeStore::open(folder, store.store_id(), analysis::kEdgeRules, true, counters));
  return std::unique_ptr<EdgeDeriver>(
      new EdgeDeriver(store, std::move(kept), std::move(counters), limits));
}

EdgeDeriver::EdgeDeriver(store::TraceStore& store, std::shared_ptr<store::EdgeStore> kept,
                         std::shared_ptr<Counters> counters, analysis::EdgeLimits limits)
    : store_(store),
      kept_(std::move(kept)),
      counters_(std::move(counters)),
      builder_(*kept_, [this] { pace(); }, limits) {
  status_.bytes = kept_->bytes();
}

void EdgeDeriver::start(double share) {
  {
    const std::lock_guard work(working_);
    share_ = share;
  }
  thread_ = std::thread([this] { run(); });
}

void EdgeDeriver::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = end_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

EdgeStatus EdgeDeriver::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

void EdgeDeriver::wait(std::chrono::nanoseconds time) {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, time, [this] { return stopping_.load(); });
}

// Called between rows: sleeps off what was taken beyond the share, and sees whether it is to end.
void EdgeDeriver::pace() {
  if (rebuild_stop_ != nullptr) {
    if (*rebuild_stop_) end_ = true;
    return;
  }
  const auto cpu = static_cast<double>(thread_cpu_ns() - cpu_from_);
  const auto wall = std::chrono::steady_clock::now() - wall_from_;
  const auto ahead = cpu / share_ - static_cast<double>(wall.count());
  if (ahead > 1e6) wait(std::chrono::nanoseconds(static_cast<std::int64_t>(ahead)));
}

Result<analysis::EdgeStep> EdgeDeriver::step() {
  analysis::Context context{store_.snapshot(), store_.now(), {}, nullptr};
  context.budget.stop = &end_;
  cpu_from_ = thread_cpu_ns();
  wall_from_ = std::chrono::steady_clock::now();
  auto done = builder_.step(context);
  const std::lock_guard lock(mutex_);
  status_.progress = builder_.progress();
  status_.bytes = kept_->bytes();
  status_.cpu_ns += thread_cpu_ns() - cpu_from_;
  status_.trouble = done || end_ ? std::string() : to_string(done.error());
  if (done) {
    status_.rows += done->rows;
    status_.edges += done->edges;
    if (counters_) counters_->add(Counter::edges_derived, done->edges);
  }
  return done;
}

void EdgeDeriver::run() {
  // Of this thread alone (setpriority(2), C library/kernel differences). If it may not, the share still holds.
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNice);
  while (!stopping_) {
    bool more = false;
    {
      const std::lock_guard work(working_);
      const auto done = step();
      more = done && done->derived;
      if (!done && !stopping_ && counters_) counters_->add(Counter::edges_not_kept);
    }
    if (!more) wait(kPeriod);
  }
}

Result<EdgesRebuilt> EdgeDeriver::rebuild(const store::Progress& progress) {
  static constexpr std::atomic<bool> kNever = false;
  const std::lock_guard work(working_);
  if (stopping_) return fail(Code::closed, "the daemon is stopping");
  rebuild_stop_ = progress.stop != nullptr ? progress.stop : &kNever;
  const auto all = [&]() -> Result<EdgesRebuilt> {
    RETURN_IF_ERROR(builder_.clear());
    EdgesRebuilt out;
    while (true) {
      if (progress.stopped() || end_) return fail(Code::closed, "it was stopped before its end");
      ASSIGN_OR_RETURN(const auto done, step());
      if (!done.derived) break;
      ++out.slices;
      out.rows += done.rows;
      out.edges += done.edges;
      out.bytes += done.bytes;
      progress.at(done.partition);
    }
    out.progress = builder_.progress();
    return out;
  };
  auto out = all();
  rebuild_stop_ = nullptr;
  if (!stopping_) end_ = false;
  return out;
}

}  // namespace scope::node
