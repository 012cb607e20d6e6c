// What a store that does nothing clever would hold: every row in one list, and answers by looking at all of them.
//
// It knows which batch (LSN) each row came with, so that partitions that were dropped or archived can be left out. Rows are
// judged by the same predicates as the store's readers (wants_record, MatchSpec, TextSearch: those have tests of
// their own); where they are, which index leads there, how they are merged and paged is what the model knows nothing of.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <set>

#include "analysis/clock_model.h"
#include "store/block.h"
#include "test/unit/store/store_fixture.h"

namespace scope::test {

struct ModelRow {
  store::Lsn lsn = 0;
  store::StoredRow row;
  std::string text;  // to_text(row)
};

class StoreModel final : public codec::RecordSink {
 public:
  // A batch as the store is to take it, once. Its LSN is the next one.
  void add(const store::IncomingBatch& batch, const BatchMaker& m, const codec::HashKey& key) {
    buffers_.push_back(batch.buffer);
    incarnation_ = batch.incarnation;
    maker_ = &m;
    ++lsn_;
    const auto header = codec::read_batch_header(batch.message);
    SCOPE_CHECK(header.has_value());
    (void)codec::decode_records(*header, {key, m.node(), m.creation()}, strings_.emplace_back(),
                                *this);
    auto& cut = cuts_.try_emplace(incarnation_, header->cut).first->second;
    cut = std::max(cut, header->cut);
  }
  void record(const codec::TraceRecord& record) override {
    auto& row = rows_.emplace_back();
    row.lsn = lsn_;
    row.row.process = {incarnation_, record.pid.id, record.pid.serial};
    row.row.record = record;
    row.row.record.ordinal = next_[{row.row.process, record.time}]++;
    auto& peer = row.row.record.peer;
    if (peer.kind == codec::Peer::Kind::pid && peer.node.empty()) peer.node = maker_->node();
    row.text = to_text(row.row);
  }

  using Wanted = std::function<bool(const ModelRow&)>;
  std::vector<const ModelRow*> rows(const Wanted& wanted) const {
    std::vector<const ModelRow*> out;
    for (const auto& row : rows_) {
      if (present(row.lsn) && wanted(row)) out.push_back(&row);
    }
    std::ranges::sort(out, {}, [](const auto* row) { return row->row.id(); });
    return out;
  }
  std::vector<std::string> texts(const store::RowFilter& f) const {
    std::vector<std::string> out;
    const auto found = rows([&](const ModelRow& r) { return wants(f, r.row); });
    for (std::size_t i = 0; i < found.size(); ++i) out.push_back(found[i]->text);
    return out;
  }
  static bool wants(const store::RowFilter& f, const store::StoredRow& row) {
    const auto& r = row.record;
    return (f.types >> static_cast<unsigned>(r.type) & 1U) != 0 &&
           (!f.until || r.time <= *f.until) && (!f.from || r.time >= *f.from) &&
           (f.times.empty() || std::ranges::any_of(f.times,
                                                   [&](const store::TimeRange& t) {
                                                     return t.incarnation ==
                                                                row.process.incarnation &&
                                                            r.time >= t.from && r.time <= t.until;
                                                   })) &&
           store::wants_process(f, row.process) && store::wants_record(f, r);
  }

  // The batches of partitions that are not there. Intervals [first, end).
  void set_absent(std::vector<std::pair<store::Lsn, store::Lsn>> absent) {
    absent_ = std::move(absent);
  }
  bool present(store::Lsn lsn) const {
    return std::ranges::none_of(absent_,
                                [lsn](const auto& a) { return lsn >= a.first && lsn < a.second; });
  }
  bool whole() const { return absent_.empty(); }
  store::Lsn last_lsn() const { return lsn_; }
  const std::deque<ModelRow>& all() const { return rows_; }
  std::optional<RawTime> cut(Incarnation n) const {
    const auto it = cuts_.find(n);
    return it == cuts_.end() ? std::nullopt : std::optional(it->second);
  }

 private:
  std::vector<std::shared_ptr<const void>> buffers_;
  std::deque<codec::BatchStrings> strings_;
  std::deque<ModelRow> rows_;
  std::map<std::pair<ProcessId, RawTime>, std::uint32_t> next_;
  std::map<Incarnation, RawTime> cuts_;
  std::vector<std::pair<store::Lsn, store::Lsn>> absent_;
  store::Lsn lsn_ = 0;
  Incarnation incarnation_ = 0;
  const BatchMaker* maker_ = nullptr;
};

}  // namespace scope::test
