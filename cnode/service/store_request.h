// {store, Verb}: looking after the store's files (store/maintenance.h). The same verbs, values and encodings serve the daemon
// and the command line, which does them itself where no daemon has the folder.
//
//   {store, info | verify | rebuild | {archive, Folder, Until} | {attach, Folder} | {detach, Folder}
//           | {protect, Since, Until} | {protect, Since, Until, Bytes} | {unprotect, Since, Until}}
//
// Folders are absolute paths where the daemon runs; times are cluster time, now or {ago, N, Unit}.
// rebuild drops what is derived from the events, the edges of messages, and derives it again.
// Long    verify, archive and rebuild run on a thread of their own, one at a time, and go on when their caller's deadline passes: the
//         answer is then #{done => false, partition => N}; the same request asked again waits on, and gets the result.
//         Another one meanwhile is busy. A result that nobody fetched within 30 s is forgotten.
// Thread  StoreJobs: any.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "cnode/service/edge_deriver.h"
#include "ei_codec/term_builder.h"
#include "ei_codec/term_view.h"
#include "store/maintenance.h"

namespace scope::node {

struct StoreVerb {
  enum class Kind : std::uint8_t { info, verify, rebuild, archive, attach, detach, protect };
  Kind kind = Kind::info;
  std::string folder;
  ClusterTime from{}, until{};
  bool keep = true;
  std::uint64_t budget = store::kProtectBudget;

  bool is_long() const {
    return kind == Kind::verify || kind == Kind::rebuild || kind == Kind::archive;
  }
};

// `verb`: what follows `store` in the request. Errors: bad_value.
Result<StoreVerb> read_store_verb(const codec::TermView& verb, ClusterTime now);
void write_store_verb(codec::TermBuilder& out, const StoreVerb& verb);  // the whole request

// What is derived from the events, where there is any.
struct Derived {
  const store::EdgeStore* edges = nullptr;
  EdgeDeriver* deriver = nullptr;  // for rebuild
};

// Does it and writes its value.
Status run_store_verb(store::Upkeep& upkeep, const Derived& derived, const StoreVerb& verb,
                      const store::Progress& progress, codec::TermBuilder& out);

class StoreJobs {
 public:
  using Clock = std::chrono::steady_clock;
  // `deriver` may be null.
  StoreJobs(store::Upkeep& upkeep, std::shared_ptr<EdgeDeriver> deriver)
      : upkeep_(upkeep), deriver_(std::move(deriver)) {}
  ~StoreJobs() { stop(); }

  // Answers by `deadline`.
  Status run(const StoreVerb& verb, Clock::time_point deadline, codec::TermBuilder& out);
  void stop();  // ends what runs, waits for it; later calls get `closed`

 private:
  Derived derived() const;

  store::Upkeep& upkeep_;
  const std::shared_ptr<EdgeDeriver> deriver_;
  std::mutex mutex_;
  std::condition_variable finished_;
  std::string running_;  // the request that the thread is for; empty: none
  bool done_ = false;
  Clock::time_point done_at_;
  Status result_;
  codec::TermBuilder value_;
  std::atomic<std::uint32_t> partition_ = 0;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace scope::node
