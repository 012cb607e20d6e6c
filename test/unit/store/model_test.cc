// Random operations against a model that keeps everything in a plain list.
#include <deque>
#include <random>

#include "test/unit/store/store_fixture.h"

namespace scope::test {
namespace {

using codec::TraceRecord;

// What a store that does nothing clever would hold.
class Model final : public codec::RecordSink {
 public:
  void add(const store::IncomingBatch& batch, const BatchMaker& m, const codec::HashKey& key) {
    buffers_.push_back(batch.buffer);
    incarnation_ = batch.incarnation;
    maker_ = &m;
    const auto header = codec::read_batch_header(batch.message);
    ASSERT_TRUE(header);
    (void)codec::decode_records(*header, {key, m.node(), m.creation()}, strings_.emplace_back(),
                                *this);
  }
  void record(const TraceRecord& record) override {
    auto& row = rows_.emplace_back();
    row.process = {incarnation_, record.pid.id, record.pid.serial};
    row.record = record;
    row.record.ordinal = next_[{row.process, record.time}]++;
    auto& peer = row.record.peer;
    if (peer.kind == codec::Peer::Kind::pid && peer.node.empty()) peer.node = maker_->node();
  }
  std::vector<std::string> rows(const store::RowFilter& f) const {
    std::vector<const store::StoredRow*> found;
    for (const auto& row : rows_) {
      const auto& r = row.record;
      if ((f.types >> static_cast<unsigned>(r.type) & 1U) == 0 || (f.until && r.time > *f.until) ||
          (f.from && r.time < *f.from))
        continue;
      if (!f.processes.empty() && !std::ranges::binary_search(f.processes, row.process)) continue;
      if (!f.incarnations.empty() &&
          !std::ranges::binary_search(f.incarnations, row.process.incarnation))
        continue;
      found.push_back(&row);
    }
    std::ranges::sort(found, {}, [](const auto* row) { return row->id(); });
    std::vector<std::string> out;
    for (const auto* row : found) out.push_back(to_text(*row));
    return out;
  }
  std::size_t size() const { return rows_.size(); }
  const store::StoredRow& at(std::size_t i) const { return rows_[i]; }

 private:
  std::vector<std::shared_ptr<const void>> buffers_;
  std::deque<codec::BatchStrings> strings_;
  std::vector<store::StoredRow> rows_;
  std::map<std::pair<ProcessId, RawTime>, std::uint32_t> next_;
  Incarnation incarnation_ = 0;
  const BatchMaker* maker_ = nullptr;
};

void random_events(BatchMaker& m, std::mt19937& random, std::int64_t& clock) {
  const auto pid = [&] { return m.own(static_cast<unsigned>(random() % 25)); };
  for (auto count = random() % 80; count > 0; --count) {
    clock += random() % 3 ? random() % 20 : 0;
    const auto t = clock;
    switch (random() % 9) {
      case 0:
        m.call(pid(), {"shop", "call", static_cast<std::uint8_t>(random() % 4)}, t);
        break;
      case 1:
        m.state(pid(), server_state(t, std::string(random() % 100, 's')), t);
        break;
      case 2:
        m.send(pid(), pid(), gen_call(pid(), static_cast<unsigned>(random()), "m"), t);
        break;
      case 3:
        m.send(pid(), BatchMaker::far("far@host", static_cast<unsigned>(1 + random() % 3), 5),
               atom_term("x"), t);
        break;
      case 4:
        m.fetch(pid(), gen_call(pid(), 1, "m"), t);
        break;
      case 5:
        m.spawn(pid(), pid(), {"w", "init", 1}, t);
        break;
      case 6:
        m.exit(pid(), atom_term("normal"), t);
        break;
      case 7:
        m.registered(pid(), "name", t, random() % 2);
        break;
      default:
        m.send_to(pid(), atom_term("stock"), int_term(t), t);
        break;
    }
  }
  if (random() % 10 == 0) m.gap("overload", 3, clock, clock);
}

TEST_F(StoreTest, AgreesWithAPlainList) {
  for (unsigned seed = 0; seed < 6; ++seed) {
    std::mt19937 random(seed);
    store_.reset();
    std::filesystem::remove_all(options_.path);
    options_.block_rows = static_cast<std::uint32_t>(1 + random() % 600);
    options_.partition_bytes = 200'000 + random() % 400'000;
    options_.sync = false;
    open();
    Model model;
    std::vector<BatchMaker> makers;
    std::vector<std::uint64_t> seqs(3);
    std::vector<std::int64_t> clocks(3);
    std::vector<Incarnation> numbers;
    for (int i = 0; i < 3; ++i) {
      makers.emplace_back(fmt::format("n{}@host", i), 7 + i, 100 + i);
      numbers.push_back(incarnation(makers.back()));
    }
    for (int step = 0; step < 250; ++step) {
      const auto k = random() % 3;
      switch (random() % 12) {
        case 0:
          flush();
          break;
        case 1:
          if (random() % 4 == 0) reopen();
          break;
        default: {
          // Equal times may meet across one boundary of batches, not across a whole batch (tail.h).
          if (seqs[k] % 2 == 0) ++clocks[k];
          random_events(makers[k], random, clocks[k]);
          auto batch = makers[k].batch(numbers[k], ++seqs[k]);
          model.add(batch, makers[k], store_->hash_key());
          if (random() % 2) {  // both kinds of payload, the same events
            const auto compact = makers[k].compact(batch.message.bytes(), store_->hash_key());
            batch = BatchMaker::incoming(numbers[k], seqs[k], compact);
          }
          append(batch);
          if (random() % 5 == 0) append(batch);  // again: must not count
        }
      }
      if (step % 25 != 24) continue;
      flush();
      store::RowFilter f;
      ASSERT_EQ(rows_of(*store_->snapshot(), f), model.rows(f))
          << "seed " << seed << " step " << step;
      const ProcessId p = model.at(random() % model.size()).process;
      f.processes = {&p, 1};
      f.types = static_cast<std::uint32_t>(random());
      f.until = RawTime{static_cast<std::int64_t>(random() % 5000)};
      ASSERT_EQ(rows_of(*store_->snapshot(), f), model.rows(f))
          << "seed " << seed << " step " << step;
    }
    EXPECT_EQ(store_->stats().malformed, 0U);
    EXPECT_EQ(store_->stats().events_stored, model.size());
  }
}

}  // namespace
}  // namespace scope::test
