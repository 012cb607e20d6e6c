// Upkeep of a store that is open: reads through its views, and hands what changes the list of partitions to the writer.
#pragma once

#include "store/maintenance.h"
#include "store/writer.h"

namespace scope::store {

class OpenUpkeep final : public Upkeep {
 public:
  // `writer` outlives it; `files` are those of the store.
  OpenUpkeep(const StoreOptions& options, std::shared_ptr<OpenFiles> files, Writer& writer)
      : options_(options), files_(std::move(files)), writer_(writer) {}

  Result<Manifest> manifest() const override;
  Result<std::vector<PartitionReport>> info() const override;
  std::vector<IncarnationInfo> agents() const override;
  Result<VerifyReport> verify(const Progress& progress = {}) const override;
  Result<Numbers> archive(ClusterTime until, const std::string& to,
                          const Progress& progress = {}) override;
  Result<Numbers> attach(const std::string& archive) override;
  Result<Numbers> detach(const std::string& archive) override;
  Result<Numbers> protect(ClusterTime from, ClusterTime until, bool keep,
                          std::uint64_t budget = kProtectBudget) override;

 private:
  Result<Numbers> edit(Writer::EditRequest request);

  const StoreOptions options_;
  const std::shared_ptr<OpenFiles> files_;
  Writer& writer_;
};

}  // namespace scope::store
