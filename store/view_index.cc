#include "store/view_index.h"

#include <algorithm>
#include <boost/unordered/unordered_flat_map.hpp>
#include <limits>
#include <tuple>
#include <utility>

#include "store/block.h"
#include "store/unit_filter.h"

namespace scope::store {
namespace {

// One partition, open for a question.
struct Source {
  const Partition* partition = nullptr;
  PartitionTxn file;
  Arena arena;
  std::optional<NameReader> names;
  std::vector<NameId> mfas;  // those that the question's patterns mean
  bool mfas_known = true;

  static std::unique_ptr<Source> open(const Published& shown, std::uint32_t number,
                                      std::span<const MfaPattern> patterns) {
    auto out = std::make_unique<Source>();
    const auto& partitions = shown.sealed->partitions;
    const auto it =
        std::ranges::lower_bound(partitions, number, {}, [](const auto& p) { return p->number(); });
    if (it == partitions.end() || (*it)->number() != number) return nullptr;
    out->partition = it->get();
    auto file = out->partition->read();
    if (!file) return nullptr;
    out->file = std::move(*file);
    out->names.emplace(out->file.txn, out->file.db().names, out->arena);
    if (!patterns.empty()) {
      auto found = out->names->find_mfas(patterns);
      out->mfas_known = found.has_value();
      if (found) out->mfas = std::move(*found);
    }
    return out;
  }
  // A new transaction if this one is old. REQUIRES that nothing points into what was read.
  void renew() {
    if (file.txn.get() != nullptr && !file.old()) return;
    if (auto again = partition->read()) file = std::move(*again);
  }
  void release() {  // while rows are read; renew() before what follows
    file.txn = {};
    file.watch = {};
  }
  // A name is about to be looked up.
  void tick() {
    if (++given % 256 == 0 || file.txn.get() == nullptr) renew();
  }
  // A value that outlives the transaction, where a partition that is being written must not be read for long.
  SegmentValue keep(const SegmentValue& value, bool active) {
    if (!active) return value;
    copy.assign(value.body.begin(), value.body.end());
    auto out = value;
    out.body = copy;
    return out;
  }
  std::vector<std::byte> copy;
  std::uint32_t given = 0;  // cells

  bool wants_mfa(std::span<const MfaPattern> patterns, NameId id) const {
    return patterns.empty() || std::ranges::binary_search(mfas, id);
  }
};

// Calls back for each run of `places` (into units) that are in one segment of one partition, or are one tail unit.
template <typename OnTail, typename OnSegment>
void by_segment(std::span<const Unit> units, std::span<const std::uint32_t> places, OnTail on_tail,
                OnSegment on_segment) {
  for (std::size_t i = 0, j = 0; i < places.size(); i = j) {
    j = i + 1;
    const auto& first = units[places[i]];
    if (first.tail) {
      on_tail(places[i]);
      continue;
    }
    while (j < places.size() && !units[places[j]].tail &&
           units[places[j]].partition == first.partition &&
           segment_of(units[places[j]].block) == segment_of(first.block))
      ++j;
    on_segment(places.subspan(i, j - i));
  }
}

const TailBatch* tail_batch(const Published& shown, const Unit& unit) {
  const auto it =
      std::ranges::lower_bound(shown.tail, unit.first, {}, [](const auto& b) { return b->lsn; });
  return it == shown.tail.end() || (*it)->lsn != unit.first ? nullptr : it->get();
}

// The indexes in the order of their use.
class Finder {
 public:
  Finder(const View& view, const Published& shown, const Selection& selection)
      : units_(view.units()),
        shown_(shown),
        filter_(selection.rows),
        traces_(selection.rows.traces),
        stop_(selection.stop),
        trigrams_(trigrams_of(selection.texts)) {
    used_[0] = !filter_.processes.empty();
    used_[1] = !filter_.mfas.empty();
    used_[2] = !filter_.match_hashes.empty();
    used_[3] = !trigrams_.empty();
    used_[4] = !traces_.empty();
  }

  void run(Candidates& out) {
    if (std::ranges::find(used_, true) == std::end(used_)) return;
    const auto places = std::exchange(out.units, {});
    out.unindexed = 0;
    by_segment(
        units_, places, [&](std::uint32_t i) { judge_tail(i, out); },
        [&](std::span<const std::uint32_t> here) { judge_segment(here, out); });
    static constexpr std::string_view kNames[] = {"process", "mfa", "hash", "text", "trace"};
    for (std::size_t k = 0; k < kIndexes; ++k) {
      if (used_[k]) out.steps.push_back({kNames[k], before_[k], after_[k]});
    }
  }

 private:
  // A tail batch is small and in memory: it is looked through, but for its text.
  void judge_tail(std::uint32_t i, Candidates& out) {
    const auto* batch = tail_batch(shown_, units_[i]);
    bool holds = batch == nullptr || std::ranges::any_of(batch->rows, [&](const auto& row) {
                   return (filter_.types & type_bit(row.record.type)) != 0 &&
                          wants_process(filter_, row.process) && wants_record(filter_, row.record);
                 });
    bool first = true;
    for (std::size_t k = 0; k < kIndexes; ++k) {
      if (!used_[k] || (!holds && !first)) continue;
      ++before_[k];
      if (k == kTrace) holds = holds && (batch == nullptr || batch->has_trace(traces_));
      if (holds) ++after_[k];
      first = false;
    }
    if (!holds) return;
    ++out.unindexed;
    out.units.push_back(i);
  }

  void judge_segment(std::span<const std::uint32_t> here, Candidates& out) {
    if (stop_ && !stopped_) stopped_ = stop_();
    if (stopped_) {
      out.unindexed += static_cast<std::uint32_t>(here.size());
      out.units.insert(out.units.end(), here.begin(), here.end());
      return;
    }
    const auto& first = units_[here.front()];
    if (!source_ || source_->partition->number() != first.partition)
      source_ = Source::open(shown_, first.partition, filter_.mfas);
    if (source_) source_->renew();
    std::uint64_t blocks = 0, indexed = 0;
    for (const auto i : here) blocks |= 1ULL << slot_of(units_[i].block);
    for (std::size_t k = 0; k < kIndexes; ++k) {
      if (!used_[k] || blocks == 0) continue;
      before_[k] += static_cast<std::uint32_t>(std::popcount(blocks));
      if (source_) blocks &= judge(k, here, indexed);
      after_[k] += static_cast<std::uint32_t>(std::popcount(blocks));
    }
    for (const auto i : here) {
      const auto bit = 1ULL << slot_of(units_[i].block);
      if ((blocks & bit) == 0) continue;
      out.units.push_back(i);
      if ((indexed & bit) == 0) ++out.unindexed;
    }
  }

  // The blocks that index `k` does not rule out; `indexed` gets those that it knows.
  std::uint64_t judge(std::size_t k, std::span<const std::uint32_t> here, std::uint64_t& indexed) {
    const auto& first = units_[here.front()];
    const auto& open = *shown_.open;
    if (k == 1 && !source_->mfas_known) return ~0ULL;
    if (first.partition == open.partition && first.block >= open.first_block) {
      std::uint64_t out = ~0ULL;
      for (const auto i : here) {
        const auto* index = open.find(units_[i]);
        if (index == nullptr) continue;
        const auto bit = 1ULL << slot_of(units_[i].block);
        indexed |= bit;
        const bool holds = k == 0   ? index->has_process(filter_)
                           : k == 1 ? index->has_mfa(source_->mfas)
                           : k == 2 ? index->has_hash(filter_.match_hashes)
                           : k == 3 ? index->has_text(trigrams_)
                                    : index->has_trace(traces_);
        if (!holds) out &= ~bit;
      }
      return out;
    }
    auto& bad = *shown_.counters;
    const auto value =
        source_->partition->segment(source_->file, kSegmentKinds[k], segment_of(first.block), bad);
    if (!value) return ~0ULL;
    const auto found = k == 0   ? blocks_of_processes(*value, filter_)
                       : k == 1 ? blocks_of_mfas(*value, source_->mfas)
                       : k == 2 ? blocks_of_hashes(*value, filter_.match_hashes)
                       : k == 3 ? blocks_of_texts(*value, trigrams_)
                                : blocks_of_hashes(*value, traces_);
    if (!found) {
      bad.add(Counter::corrupt_indexes);
      return ~0ULL;
    }
    indexed |= value->covered;
    return *found | ~value->covered;
  }

  const std::span<const Unit> units_;
  const Published& shown_;
  const RowFilter& filter_;
  const std::span<const std::uint64_t> traces_;
  const std::function<bool()>& stop_;
  const std::vector<std::uint32_t> trigrams_;
  static constexpr std::size_t kIndexes = 5, kTrace = 4;
  bool used_[kIndexes] = {}, stopped_ = false;
  std::uint32_t before_[kIndexes] = {}, after_[kIndexes] = {};
  std::unique_ptr<Source> source_;
};

struct CellKey {  // of a batch in the tail
  std::int64_t second;
  codec::EventType type;
  codec::Mfa mfa;
  bool operator==(const CellKey&) const = default;
  friend std::size_t hash_value(const CellKey& k) {
    std::size_t h = 0;
    boost::hash_combine(h, k.second);
    boost::hash_combine(h, static_cast<int>(k.type));
    boost::hash_combine(h, k.mfa.module);
    boost::hash_combine(h, k.mfa.function);
    return h;
  }
};
struct SumKey {  // of a partition's cells whose seconds do not matter
  Incarnation incarnation;
  codec::EventType type;
  NameId mfa;
  bool operator==(const SumKey&) const = default;
  friend std::size_t hash_value(const SumKey& k) {
    std::size_t h = k.mfa;
    boost::hash_combine(h, k.incarnation << 8 | static_cast<unsigned>(k.type));
    return h;
  }
};
struct Sum {
  std::int64_t first, last;  // second
  std::uint64_t rows = 0;
  void add(std::int64_t from, std::int64_t until, std::uint64_t more) {
    first = std::min(first, from);
    last = std::max(last, until);
    rows += more;
  }
};
constexpr std::size_t kMostSums = 65536;  // as many wait; then they are given

// Asked before each piece of work: a segment's value, a unit's rows. The first is always done.
class Stop {
 public:
  Stop(const std::function<bool()>& asked, bool& stopped) : asked_(asked), stopped_(stopped) {}
  bool go_on() {
    if (!std::exchange(first_, false) && asked_ && !stopped_) stopped_ = asked_();
    return !stopped_;
  }

 private:
  const std::function<bool()>& asked_;
  bool& stopped_;
  bool first_ = true;
};

class Sums {
 public:
  Sums(const View& view, const Published& shown, const RollupSpec& spec, const RollupSink& sink)
      : view_(view), shown_(shown), spec_(spec), sink_(sink) {}

  Result<RollupInfo> run() {
    Selection selection;
    selection.rows.types = spec_.types;
    selection.rows.incarnations = spec_.incarnations;
    selection.times = spec_.times;
    const auto units = view_.units();
    const auto places = by_statistics(units, selection).units;
    by_segment(
        units, places,
        [&](std::uint32_t i) {
          if (stop_.go_on()) add_tail(i);
        },
        [&](std::span<const std::uint32_t> here) {
          if (!info_.stopped) add_segment(units, here);
        });
    give_sums();
    std::ranges::sort(info_.missing);
    info_.missing.erase(std::unique(info_.missing.begin(), info_.missing.end()),
                        info_.missing.end());
    return std::move(info_);
  }

 private:
  bool wants(Incarnation incarnation, codec::EventType type) const {
    return (spec_.types & type_bit(type)) != 0 &&
           (spec_.incarnations.empty() ||
            std::ranges::binary_search(spec_.incarnations, incarnation));
  }
  bool inside(Incarnation incarnation, std::int64_t second) const {
    return whole_second_inside(spec_.times, incarnation, second);
  }

  void add_tail(std::uint32_t i) {
    const auto* batch = tail_batch(shown_, view_.units()[i]);
    if (batch == nullptr) return;
    ++info_.read;
    boost::unordered_flat_map<CellKey, Sum> cells;
    const auto incarnation = batch->incarnation();
    for (const auto& row : batch->rows) {
      const auto& r = row.record;
      const auto second = second_of(r.time);
      if (!wants(incarnation, r.type) || !inside(incarnation, second)) continue;
      if (!spec_.mfas.empty() &&
          std::ranges::none_of(spec_.mfas, [&](const auto& p) { return p.matches(r.mfa); }))
        continue;
      cells.try_emplace({spec_.by_second ? second : 0, r.type, r.mfa}, Sum{second, second})
          .first->second.add(second, second, 1);
    }
    for (const auto& [k, sum] : cells)
      sink_({incarnation, sum.first, sum.last, k.type, k.mfa, sum.rows});
  }

  void add_segment(std::span<const Unit> units, std::span<const std::uint32_t> here) {
    const auto& first = units[here.front()];
    if (!source_ || source_->partition->number() != first.partition) {
      give_sums();
      source_ = Source::open(shown_, first.partition, spec_.mfas);
    }
    if (source_) source_->renew();
    if (!source_ || !source_->mfas_known) return add_rows(units, here);
    const auto& open = *shown_.open;
    if (first.partition == open.partition && first.block >= open.first_block) {
      for (const auto i : here) {
        const auto* index = open.find(units[i]);
        if (index == nullptr) {
          add_rows(units, {&i, 1});
          continue;
        }
        if (!stop_.go_on()) return;
        bool fine = true;
        const std::span<const BlockIndex::Cell> cells = index->cells;
        for (std::size_t c = 0; c < cells.size();) {
          const auto& cell = cells[c];
          if (!source_->wants_mfa(spec_.mfas, cell.mfa)) {
            c = next_wanted(cells, c);
            continue;
          }
          ++c;
          if (wants(cell.incarnation, cell.type) && inside(cell.incarnation, cell.second))
            fine = fine && add(cell, cell.second).has_value();
        }
        if (!fine) info_.missing.push_back(i);
        summed(i);
      }
      return;
    }
    auto& bad = *shown_.counters;
    const auto value =
        source_->partition->segment(source_->file, 'r', segment_of(first.block), bad);
    if (!value) return add_rows(units, here);
    if (!stop_.go_on()) return;
    const auto by_cell = [&](const CellRun& run) {
      const auto& cell = run.total;
      if (!wants(cell.incarnation, cell.type) || !source_->wants_mfa(spec_.mfas, cell.mfa))
        return false;
      if (spec_.by_second || !inside(cell.incarnation, cell.second) ||
          !inside(cell.incarnation, run.last_second))
        return true;
      sum(cell, run.last_second);
      return false;
    };
    const auto kept = source_->keep(*value, first.partition == open.partition);
    const auto done = visit_cells(kept, by_cell, [&](const BlockIndex::Cell& cell) -> Status {
      return inside(cell.incarnation, cell.second) ? add(cell, cell.second) : Status{};
    });
    if (!done) {  // some cells were added already: the rest is unknown
      bad.add(Counter::corrupt_indexes);
      info_.missing.insert(info_.missing.end(), here.begin(), here.end());
    }
    for (const auto i : here) summed(i);
  }

  // The first cell behind `c` of a function that is wanted, or of the next type or incarnation.
  std::size_t next_wanted(std::span<const BlockIndex::Cell> cells, std::size_t c) const {
    const auto& at = cells[c];
    const auto mfa = std::ranges::upper_bound(source_->mfas, at.mfa);
    auto from = std::tuple(at.incarnation, at.type, std::numeric_limits<NameId>::max(),
                           std::numeric_limits<std::int64_t>::max());
    if (mfa != source_->mfas.end())
      from = {at.incarnation, at.type, *mfa, std::numeric_limits<std::int64_t>::min()};
    const auto it =
        std::ranges::lower_bound(cells.subspan(c + 1), from, {}, &BlockIndex::Cell::key);
    return static_cast<std::size_t>(it - cells.subspan(c + 1).begin()) + c + 1;
  }

  Status add(const BlockIndex::Cell& cell, std::int64_t last) {
    if (spec_.by_second)
      return give({cell.incarnation, cell.type, cell.mfa}, {cell.second, last, cell.rows});
    sum(cell, last);
    return {};
  }
  void sum(const BlockIndex::Cell& cell, std::int64_t last) {
    sums_.try_emplace({cell.incarnation, cell.type, cell.mfa}, Sum{cell.second, last})
        .first->second.add(cell.second, last, cell.rows);
  }
  Status give(const SumKey& key, const Sum& sum) {
    source_->tick();
    ASSIGN_OR_RETURN(const auto mfa, source_->names->mfa(key.mfa));
    sink_({key.incarnation, sum.first, sum.last, key.type, mfa, sum.rows});
    return {};
  }

  // The cells of `unit` are among the sums.
  void summed(std::uint32_t unit) {
    if (spec_.by_second) return;
    summed_.push_back(unit);
    if (sums_.size() >= kMostSums) give_sums();
  }
  // REQUIRES that the source is still the one that they came from.
  void give_sums() {
    bool fine = true;
    for (const auto& [key, sum] : sums_) fine = give(key, sum).has_value() && fine;
    if (!fine) info_.missing.insert(info_.missing.end(), summed_.begin(), summed_.end());
    sums_.clear();
    summed_.clear();
  }

  void add_rows(std::span<const Unit> units, std::span<const std::uint32_t> here) {
    if (source_) source_->release();
    for (const auto i : here) {
      if (!stop_.go_on()) return;
      ++info_.read;
      if (!roll_up_rows(view_, units[i], spec_, sink_)) info_.missing.push_back(i);
    }
  }

  const View& view_;
  const Published& shown_;
  const RollupSpec& spec_;
  const RollupSink& sink_;
  RollupInfo info_;
  Stop stop_{spec_.stop, info_.stopped};
  std::unique_ptr<Source> source_;
  boost::unordered_flat_map<SumKey, Sum> sums_;
  std::vector<std::uint32_t> summed_;  // units whose cells these are
};

class Edges {
 public:
  Edges(const View& view, const Published& shown, std::span<const ProcessId> senders,
        const EdgeSink& sink, const std::function<bool()>& stop)
      : view_(view), shown_(shown), senders_(senders), sink_(sink), asked_(stop) {}

  Result<RollupInfo> run() {
    Selection selection;
    selection.rows.types = type_bit(codec::EventType::message_send);
    selection.rows.processes = senders_;
    selection.stop = asked_;
    const auto units = view_.units();
    const auto places = find_candidates(view_, shown_, selection).units;
    by_segment(
        units, places, [&](std::uint32_t i) { add_rows(i); },
        [&](std::span<const std::uint32_t> here) {
          if (!info_.stopped) add_segment(units, here);
        });
    return std::move(info_);
  }

 private:
  void add_segment(std::span<const Unit> units, std::span<const std::uint32_t> here) {
    const auto& first = units[here.front()];
    if (!source_ || source_->partition->number() != first.partition)
      source_ = Source::open(shown_, first.partition, {});
    if (source_) source_->renew();
    const auto& open = *shown_.open;
    if (source_ && first.partition == open.partition && first.block >= open.first_block) {
      for (const auto i : here) {
        const auto* index = open.find(units[i]);
        if (index == nullptr || !index->edges_kept) {
          add_rows(i);
          continue;
        }
        if (!stop_.go_on()) return;
        bool fine = true;
        for (const auto& edge : index->edges) {
          if (senders_.empty() || std::ranges::binary_search(senders_, edge.sender))
            fine = fine && give(edge).has_value();
        }
        if (!fine) info_.missing.push_back(i);
      }
      return;
    }
    auto& bad = *shown_.counters;
    std::optional<SegmentValue> value;
    if (source_)
      value = source_->partition->segment(source_->file, 'e', segment_of(first.block), bad);
    if (!value || value->covered == 0) {
      for (const auto i : here) add_rows(i);
      return;
    }
    if (!stop_.go_on()) return;
    const auto kept = source_->keep(*value, first.partition == open.partition);
    if (!visit_edges(kept, senders_, [&](const BlockIndex::Edge& e) { return give(e); })) {
      bad.add(Counter::corrupt_indexes);
      info_.missing.insert(info_.missing.end(), here.begin(), here.end());
    }
  }

  Status give(const BlockIndex::Edge& edge) {
    source_->tick();
    EdgeCell cell{edge.sender, {}, edge.oldest, edge.newest, edge.rows};
    auto& peer = cell.receiver;
    peer.kind = edge.kind;
    peer.creation = edge.creation;
    peer.id = edge.id;
    peer.serial = edge.serial;
    ASSIGN_OR_RETURN(peer.node, source_->names->atom(edge.node));
    ASSIGN_OR_RETURN(peer.name, source_->names->atom(edge.name));
    sink_(cell);
    return {};
  }

  void add_rows(std::uint32_t i) {
    if (!stop_.go_on()) return;
    if (source_) source_->release();
    ++info_.read;
    if (!edges_of_rows(view_, view_.units()[i], senders_, sink_)) info_.missing.push_back(i);
  }

  const View& view_;
  const Published& shown_;
  const std::span<const ProcessId> senders_;
  const EdgeSink& sink_;
  const std::function<bool()>& asked_;
  RollupInfo info_;
  Stop stop_{asked_, info_.stopped};
  std::unique_ptr<Source> source_;
};

}  // namespace

Candidates find_candidates(const View& view, const Published& shown, const Selection& selection) {
  auto out = by_statistics(view.units(), selection);
  Finder(view, shown, selection).run(out);
  return out;
}

Result<RollupInfo> sum_cells(const View& view, const Published& shown, const RollupSpec& spec,
                             const RollupSink& sink) {
  return Sums(view, shown, spec, sink).run();
}

Result<RollupInfo> sum_edges(const View& view, const Published& shown,
                             std::span<const ProcessId> senders, const EdgeSink& sink,
                             const std::function<bool()>& stop) {
  return Edges(view, shown, senders, sink, stop).run();
}

}  // namespace scope::store
