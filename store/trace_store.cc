#include "store/trace_store.h"

#include <fmt/format.h>
#include <sodium.h>
#include <time.h>

#include <filesystem>

#include "store/audit_log.h"
#include "store/folder_lock.h"
#include "store/gap_batch.h"
#include "store/open_upkeep.h"

namespace scope::store {
namespace {

namespace fs = std::filesystem;

std::int64_t clock_ns(clockid_t id) {
  timespec t{};
  ::clock_gettime(id, &t);
  return t.tv_sec * 1'000'000'000LL + t.tv_nsec;
}

template <typename T>
Result<T> wait(std::future<T>& answer, int timeout_ms) {
  if (answer.wait_for(std::chrono::milliseconds(timeout_ms)) != std::future_status::ready)
    return fail(Code::timeout, "the store did not commit in time; is its disk full?");
  try {
    if constexpr (std::is_void_v<T>) {
      answer.get();
      return {};
    } else {
      return answer.get();
    }
  } catch (const std::future_error&) {
    return fail(Code::closed, "the store was closed before it could commit");
  }
}

class TraceStoreImpl final : public TraceStore {
 public:
  TraceStoreImpl(FolderLock lock, const StoreOptions& options, StoreState state, ClusterClock clock,
                 std::unique_ptr<AuditLog> audit, StoreListener* listener)
      : lock_(std::move(lock)),
        audit_(std::move(audit)),
        store_id_(state.manifest.store_id),
        hash_key_(state.manifest.hash_key),
        clock_(clock),
        files_(state.files),
        writer_(options, std::move(state), clock, listener),
        upkeep_(options, files_, writer_) {}

  std::uint64_t store_id() const override { return store_id_; }
  codec::HashKey hash_key() const override { return hash_key_; }
  ClusterTime now() const override { return clock_.now(); }
  ClusterTime at_monotonic(std::int64_t ns) const override { return {clock_.anchor_ns + ns}; }

  Result<IncarnationInfo> incarnation(std::string_view node, std::uint32_t creation,
                                      std::uint64_t agent_id) override;
  Status append(IncomingBatch batch) override;
  Status add_gap(Incarnation incarnation, std::string_view reason, RawTime from,
                 RawTime until) override;
  Status add_clock(ClockVersion version) override { return writer_.push(version, sizeof version); }
  Status add_cut(Incarnation incarnation, RawTime until) override {
    return writer_.push(Writer::Cut{incarnation, until}, sizeof(Writer::Cut));
  }
  Upkeep& upkeep() override { return upkeep_; }
  AuditLog& audit() override { return *audit_; }
  std::shared_ptr<const View> snapshot() const override { return writer_.view(); }
  StoreStats stats() const override;
  Status flush(int timeout_ms) override;
  void close() override { writer_.close(); }

 private:
  FolderLock lock_;
  const std::unique_ptr<AuditLog> audit_;
  const std::uint64_t store_id_;
  const codec::HashKey hash_key_;
  const ClusterClock clock_;
  const std::shared_ptr<OpenFiles> files_;
  Writer writer_;
  OpenUpkeep upkeep_;
};

Result<IncarnationInfo> TraceStoreImpl::incarnation(std::string_view node, std::uint32_t creation,
                                                    std::uint64_t agent_id) {
  const auto view = snapshot();
  for (const auto& info : view->incarnations()) {
    if (info.agent_id == agent_id && info.creation == creation && info.node == node) return info;
  }
  auto promise = std::make_shared<std::promise<IncarnationInfo>>();
  auto answer = promise->get_future();
  RETURN_IF_ERROR(writer_.push(
      Writer::IncarnationRequest{std::string(node), creation, agent_id, std::move(promise)},
      node.size() + 128));
  return wait(answer, 10'000);
}

Status TraceStoreImpl::append(IncomingBatch batch) {
  if (batch.incarnation == kNoIncarnation || batch.seq == 0 || !batch.buffer)
    return fail(Code::bad_value, "a batch needs an incarnation, a number and a buffer");
  const auto bytes = batch.message.size();
  return writer_.push(std::move(batch), bytes);
}

Status TraceStoreImpl::add_gap(Incarnation incarnation, std::string_view reason, RawTime from,
                               RawTime until) {
  ASSIGN_OR_RETURN(auto batch, gap_batch(incarnation, reason, from, until));
  const auto bytes = batch.message.size();
  return writer_.push(std::move(batch), bytes);
}

StoreStats TraceStoreImpl::stats() const {
  const auto& c = writer_.counters();
  const auto& g = writer_.gauges();
  StoreStats s;
  s.batches = c.get(Counter::batches);
  s.duplicates = c.get(Counter::batches_duplicate);
  s.out_of_order = c.get(Counter::batches_out_of_order);
  s.events = c.get(Counter::events);
  s.malformed = c.get(Counter::events_malformed);
  s.gaps = c.get(Counter::gaps);
  s.events_stored = g.events_stored;
  s.bytes_on_disk = g.bytes_on_disk;
  s.partitions = g.partitions;
  s.blocks = g.blocks;
  s.tail_rows = g.tail_rows;
  s.commits = c.get(Counter::commits);
  s.commit_failures = c.get(Counter::commit_failures);
  s.corrupt_blocks = c.get(Counter::corrupt_blocks);
  s.corrupt_indexes = c.get(Counter::corrupt_indexes);
  s.queue_bytes = writer_.queue_bytes();
  s.commit_ns_last = g.commit_ns_last;
  s.longest_read_ns = files_->longest_read_ns;
  return s;
}

Status TraceStoreImpl::flush(int timeout_ms) {
  auto promise = std::make_shared<std::promise<void>>();
  auto answer = promise->get_future();
  RETURN_IF_ERROR(writer_.push(Writer::FlushRequest{std::move(promise)}, 0));
  return wait(answer, timeout_ms);
}

Manifest new_manifest() {
  Manifest m;
  ::randombytes_buf(&m.store_id, sizeof m.store_id);
  ::randombytes_buf(m.hash_key.data(), m.hash_key.size());
  m.partitions.push_back({1, 1, clock_ns(CLOCK_REALTIME), 0, false, false, {}});
  return m;
}

bool has_partitions(const std::string& folder) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().filename().string().starts_with("p-")) return true;
  }
  return false;
}

}  // namespace

Result<std::unique_ptr<TraceStore>> TraceStore::open(const StoreOptions& options,
                                                     StoreListener* listener) {
  if (::sodium_init() < 0) return fail(Code::internal, "libsodium cannot be used here");
  std::error_code error;
  fs::create_directories(options.path, error);
  if (error) return fail(Code::io, fmt::format("{}: {}", options.path, error.message()));
  ASSIGN_OR_RETURN(auto lock, FolderLock::take(options.path));
  ASSIGN_OR_RETURN(auto found, Manifest::read(options.path));
  if (!found) {
    if (has_partitions(options.path))
      return fail(Code::corrupt, options.path +
                                     " holds partitions but no manifest; restore it, or "
                                     "choose another folder");
    // First the manifest, then its first partition: recovery makes that if it is missing.
    found = new_manifest();
    RETURN_IF_ERROR(found->write(options.path));
  }
  ASSIGN_OR_RETURN(auto state, recover(options, std::move(*found)));

  // Cluster time follows the system's clock anew, but never goes back behind what was written.
  const auto monotonic = clock_ns(CLOCK_MONOTONIC);
  const auto system = clock_ns(CLOCK_REALTIME);
  const auto start = std::max(system, state.newest.ns + 1);
  const ClusterClock clock{start - monotonic};
  state.manifest.anchors.push_back({clock.anchor_ns, start, start - system});
  // A partition is told to be lost when its gap rows are on disk: the writer does that.
  auto manifest = state.manifest;
  for (auto& p : manifest.partitions) {
    for (const auto& l : state.lost) p.lost = p.lost && p.number != l.number;
  }
  RETURN_IF_ERROR(manifest.write(options.path));
  ASSIGN_OR_RETURN(auto audit, AuditLog::open(options.path, options.sync));
  return std::make_unique<TraceStoreImpl>(std::move(lock), options, std::move(state), clock,
                                          std::move(audit), listener);
}

}  // namespace scope::store
