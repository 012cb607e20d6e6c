// A small recorded cluster for tests: a real store in a folder of its own, and nodes with clocks that record into it.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "analysis/query.h"
#include "store/trace_store.h"
#include "test/unit/store/batch_maker.h"

namespace scope::test {

inline analysis::PidSpec spec(const PidParts& p) {
  return {std::string(p.node), p.creation, p.id, p.serial};
}

struct Node : BatchMaker {
  using BatchMaker::BatchMaker;
  Incarnation incarnation = kNoIncarnation;
  std::uint64_t seq = 0;
};

class World {
 public:
  explicit World(const std::function<void(store::StoreOptions&)>& change = {}) {
    std::string pattern = (std::filesystem::temp_directory_path() / "scope-test-XXXXXX").string();
    SCOPE_CHECK(mkdtemp(pattern.data()) != nullptr);
    folder_ = pattern;
    store::StoreOptions options;
    options.path = folder_;
    options.sync = false;
    options.map_bytes = 1u << 30;
    if (change) change(options);
    auto opened = store::TraceStore::open(options, nullptr);
    SCOPE_CHECK(opened.has_value());
    store = *std::move(opened);
  }
  ~World() {
    store.reset();
    std::filesystem::remove_all(folder_);
  }

  // A node whose raw clock is `behind` ns behind cluster time, measured to +- half.
  Node& node(const std::string& name, std::uint32_t creation, std::int64_t behind = 0,
             std::int64_t half = 1000) {
    Node& node =
        nodes_.emplace_back(name, creation, std::uint64_t{creation} * 1000 + nodes_.size());
    const auto info = store->incarnation(name, creation, node.agent_id());
    SCOPE_CHECK(info.has_value());
    node.incarnation = info->number;
    store::ClockVersion v;
    v.incarnation = info->number;
    v.raw_at = RawTime{-behind};  // cluster time 0
    v.offset_ns = behind;
    v.lower_ns = behind - half;
    v.upper_ns = behind + half;
    v.raw_to_system_ns = behind;
    v.measured_at = ClusterTime{1};
    v.source = 1;
    SCOPE_CHECK(store->add_clock(v).has_value());
    return node;
  }

  // What the node has gathered, as its next batch: as the native tracer sends it, where that has a form for it, so that
  // what is asked here meets atoms by number; else, and with `etf`, as the Erlang tracer sends it.
  void append(Node& node, bool etf = false) {
    const std::uint64_t seq = ++node.seq;
    auto batch = etf || !node.has_compact_form()
                     ? node.batch(node.incarnation, seq)
                     : node.compact_batch(node.incarnation, seq, store->hash_key());
    for (int tries = 0;; ++tries) {
      const auto done = store->append(batch);
      if (done) return;
      SCOPE_CHECK(done.error().code == Code::busy && tries < 100);
      SCOPE_CHECK(store->flush(10'000).has_value());
    }
  }

  // Everything appended so far, as of cluster time `now`.
  analysis::Context context(std::int64_t now) {
    SCOPE_CHECK(store->flush(10'000).has_value());
    return {store->snapshot(), ClusterTime{now}, {}, nullptr};
  }

  std::unique_ptr<store::TraceStore> store;

 private:
  std::string folder_;
  std::list<Node> nodes_;
};

// Another view's answers, for those that change some of them. Not the rollups and edges: the base counts them from its rows.
class ViewOf : public store::View {
 public:
  explicit ViewOf(std::shared_ptr<const store::View> of) : of_(std::move(of)) {}

  std::span<const store::Unit> units() const override { return of_->units(); }
  store::Lsn upper() const override { return of_->upper(); }
  std::span<const store::IncarnationInfo> incarnations() const override {
    return of_->incarnations();
  }
  std::span<const store::ClockVersion> clocks() const override { return of_->clocks(); }
  store::Candidates candidates(const store::Selection& s) const override {
    return of_->candidates(s);
  }
  Result<store::Rows> read(const store::Unit& unit, const store::RowFilter& f) const override {
    return of_->read(unit, f);
  }
  using Keep = std::shared_ptr<const void>;
  Result<std::vector<store::Life>> lives(ProcessId p, Keep& keep) const override {
    return of_->lives(p, keep);
  }
  Result<std::vector<store::NameSpell>> name_spells(std::string_view node, std::string_view name,
                                                    Keep& keep) const override {
    return of_->name_spells(node, name, keep);
  }
  Result<std::vector<store::NameSpell>> names_of(ProcessId p, Keep& keep) const override {
    return of_->names_of(p, keep);
  }

 private:
  std::shared_ptr<const store::View> of_;
};

}  // namespace scope::test
