// EdgeDeriver: keeps edges of messages derived behind the writer (analysis/edge_builder.h), in the store's folder.
//
// What   A thread of its own looks every kPeriod what is complete and derives it, oldest first. It takes at most `share` of one
//        core, and only what others leave (nice): under more load it falls behind, and status() says up to when edges are kept. The writer never waits for it; its
//        only transactions on partitions are those of any reader.
//        rebuild() drops everything and derives it again at full speed, on the caller's thread.
// Errors A step that fails (disk full, a file that is) is counted (`edges_not_kept`) and tried again.
// Life   The store outlives it. stop() or the destructor end what runs, at the latest after kPaceRows rows and a block.
// Thread Any. open() makes the file; `store`'s folder must not have an EdgeStore open elsewhere.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "analysis/edge_builder.h"
#include "store/maintenance.h"
#include "store/trace_store.h"

namespace scope::node {

struct EdgeStatus {
  analysis::EdgeProgress progress;
  std::uint64_t bytes = 0;            // of the file
  std::uint64_t rows = 0, edges = 0;  // derived since it was opened
  std::string trouble;                // why the last step failed; empty: it did not
  std::int64_t cpu_ns = 0;            // for these
};

struct EdgesRebuilt {
  std::uint64_t slices = 0, rows = 0, edges = 0, bytes = 0;  // bytes: of the edges
  analysis::EdgeProgress progress;
};

class EdgeDeriver {
 public:
  static constexpr std::chrono::milliseconds kPeriod{5000};
  static constexpr double kShare = 0.1;

  static Result<std::unique_ptr<EdgeDeriver>> open(store::TraceStore& store,
                                                   const std::string& folder,
                                                   std::shared_ptr<Counters> counters,
                                                   analysis::EdgeLimits limits = {});
  ~EdgeDeriver() { stop(); }

  void start(double share = kShare);
  void stop();

  std::shared_ptr<const store::EdgeStore> kept() const { return kept_; }
  EdgeStatus status() const;
  // Errors: closed (stopped), and those of EdgeBuilder.
  Result<EdgesRebuilt> rebuild(const store::Progress& progress);

 private:
  EdgeDeriver(store::TraceStore& store, std::shared_ptr<store::EdgeStore> kept,
              std::shared_ptr<Counters> counters, analysis::EdgeLimits limits);
  void run();
  void pace();
  void wait(std::chrono::nanoseconds time);
  // REQUIRES that working_ is held.
  Result<analysis::EdgeStep> step();

  store::TraceStore& store_;
  const std::shared_ptr<store::EdgeStore> kept_;
  const std::shared_ptr<Counters> counters_;
  analysis::EdgeBuilder builder_;  // under working_
  std::mutex working_;
  double share_ = 1;                                 // under working_; 1: no pauses
  const std::atomic<bool>* rebuild_stop_ = nullptr;  // under working_
  std::int64_t cpu_from_ = 0;                        // where the present step began
  std::chrono::steady_clock::time_point wall_from_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<bool> stopping_ = false, end_ = false;
  EdgeStatus status_;  // under mutex_
  std::thread thread_;
};

}  // namespace scope::node
