// What the writer's commits, seals and rolls write.
#include <spdlog/spdlog.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <ranges>

#include "store/edge_store.h"
#include "store/key_format.h"
#include "store/last_states.h"
#include "store/lives.h"
#include "store/segment.h"
#include "store/writer.h"

namespace scope::store {
namespace {

constexpr std::uint64_t kSealBytes = 8u << 20;  // of tail: bounds what large events keep in memory
constexpr std::size_t kSealRowsMost = 65536;    // per commit: bounds a transaction's dirty pages
constexpr std::size_t kNameBytesMost = 16u << 20;  // of interned names: then a new partition begins
constexpr std::size_t kCarryRows = 16384;          // per transaction of a roll

class Names final : public BlockNames {
 public:
  Names(NameTable& names, Incarnations& incarnations, ClusterTime now)
      : names_(names), incarnations_(incarnations), now_(now) {}
  NameId atom(std::string_view text) override { return names_.atom(text); }
  NameId mfa(const codec::Mfa& mfa) override { return names_.mfa(mfa); }
  const IncarnationInfo& incarnation(Incarnation n) override { return incarnations_.info(n); }
  Incarnation home_of(std::string_view node, std::uint32_t creation) override {
    return creation == 0 ? kNoIncarnation : incarnations_.home_of(node, creation, now_);
  }

 private:
  NameTable& names_;
  Incarnations& incarnations_;
  ClusterTime now_;
};

}  // namespace

struct Writer::Group {
  std::size_t begin = 0, end = 0;  // of the tail
  std::vector<EncodedBlock> blocks;
};

// A small map (tests) must hold a few blocks.
std::uint64_t Writer::seal_bytes() const {
  return std::min<std::uint64_t>(kSealBytes, options_.map_bytes / 8);
}

std::vector<Writer::Group> Writer::plan_groups() {
  std::vector<Group> groups;
  std::size_t rows = 0, bytes = 0, begin = 0;
  std::size_t all_rows = 0, all_bytes = 0;
  for (std::size_t i = 0; i < state_.tail.size(); ++i) {
    rows += state_.tail[i]->rows.size();
    bytes += state_.tail[i]->bytes();
    if (rows < options_.block_rows && bytes < seal_bytes()) continue;
    groups.push_back({begin, i + 1, {}});
    all_rows += rows;
    all_bytes += bytes;
    if (all_rows >= kSealRowsMost || all_bytes >= 2 * seal_bytes()) break;
    rows = bytes = 0;
    begin = i + 1;
  }
  Names names(*state_.names, state_.incarnations, clock_.now());
  for (auto& group : groups) {
    std::vector<const StoredRow*> all;
    for (auto i = group.begin; i < group.end; ++i) {
      for (const auto& row : state_.tail[i]->rows) all.push_back(&row);
    }
    const auto first = state_.tail[group.begin]->lsn, last = state_.tail[group.end - 1]->lsn;
    // One batch may hold more than a block should: several blocks then share their LSNs.
    const auto parts = std::max<std::size_t>(1, all.size() / options_.block_rows);
    for (std::size_t p = 0; p < parts && !all.empty(); ++p) {
      const auto from = all.size() * p / parts, to = all.size() * (p + 1) / parts;
      group.blocks.push_back(
          encoder_.encode(std::span(all).subspan(from, to - from), first, last, names));
    }
  }
  return groups;
}

Status Writer::write_hot(lmdb::Txn& txn, std::span<const std::shared_ptr<TailBatch>> batches,
                         const Databases& db) const {
  for (const auto& batch : batches) {
    const auto size = kHotHeaderBytes + batch->message.size();
    ASSIGN_OR_RETURN(std::byte * to, txn.reserve(db.hot, hot_key(batch->lsn), size, true));
    const auto put = [&to](const auto& value) {
      std::memcpy(to, &value, sizeof value);
      to += sizeof value;
    };
    put(static_cast<std::uint8_t>(kHotVersion));
    put(batch->incarnation());
    put(batch->seq);
    put(batch->received_ns);
    put(std::uint64_t{XXH3_64bits(batch->message.data(), batch->message.size())});
    std::memcpy(to, batch->message.data(), batch->message.size());
  }
  return {};
}

Status Writer::write_group(lmdb::Txn& txn, Group& group) {
  const auto& db = state_.active->db();
  std::map<Incarnation, const TailBatch*> newest;
  std::vector<const TailBatch*> batches;
  for (auto i = group.begin; i < group.end; ++i) {
    const auto& batch = *state_.tail[i];
    batches.push_back(&batch);
    if (batch.seq != 0 && !batch.rows.empty()) newest[batch.incarnation()] = &batch;
    if (i < committed_) RETURN_IF_ERROR(txn.del(db.hot, hot_key(batch.lsn)));
  }
  for (const auto& [n, batch] : newest)
    RETURN_IF_ERROR(txn.put(db.agents, ordinals_key(n), OrdinalMemory::encode_after(*batch)));
  for (auto& block : group.blocks) {
    RETURN_IF_ERROR(txn.append(db.blk, block_key(block.unit.block), block.bytes));
    RETURN_IF_ERROR(txn.put(db.seg, unit_key(block.unit.block),
                            encode_unit(block.unit, block.ranges, block.bytes.size())));
  }
  return store_lives(txn, db, batches, state_.incarnations, *state_.names);
}

Status put_segment(lmdb::Txn& txn, const Databases& db, const OpenSegment& open) {
  for (const char kind : kSegmentKinds)
    RETURN_IF_ERROR(txn.put(db.seg, segment_key(kind, segment_of(open.first_block)),
                            encode_segment(kind, open.blocks)));
  return {};
}

// Adds the new blocks to `open`; what becomes complete is written.
Status Writer::write_segments(lmdb::Txn& txn, std::span<Group> groups, OpenSegment& open) const {
  for (const auto& group : groups) {
    for (const auto& block : group.blocks) {
      open.blocks.push_back(block.index);
      if (open.blocks.size() < kSegmentBlocks) continue;
      if (std::ranges::find(open.blocks, nullptr) == open.blocks.end())
        RETURN_IF_ERROR(put_segment(txn, state_.active->db(), open));
      open.first_block += kSegmentBlocks;
      open.blocks.clear();
    }
  }
  return {};
}

// The last segment of a partition that ends. Without it these blocks are judged by their statistics.
void Writer::end_segment() {
  if (open_.blocks.empty() || std::ranges::find(open_.blocks, nullptr) != open_.blocks.end())
    return;
  const auto write = [&]() -> Status {
    ASSIGN_OR_RETURN(auto txn, lmdb::Txn::begin(state_.active->env(), true));
    RETURN_IF_ERROR(put_segment(txn, state_.active->db(), open_));
    return txn.commit();
  };
  if (const auto written = write(); !written)
    spdlog::warn("store: the last {} blocks of partition {} stay without an index: {}",
                 open_.blocks.size(), state_.active->number(), to_string(written.error()));
}

Status Writer::commit() {
  auto groups = plan_groups();
  auto next_block = state_.last_block;
  for (auto& group : groups) {
    for (auto& block : group.blocks) {
      block.unit.block = ++next_block;
      block.unit.partition = state_.active->number();
    }
  }
  const auto sealed = groups.empty() ? 0 : groups.back().end;
  // What is acknowledged: put back if the transaction fails.
  std::map<Incarnation, std::uint64_t> before;
  for (auto i = committed_; i < state_.tail.size(); ++i) {
    const auto& batch = *state_.tail[i];
    if (batch.seq == 0) continue;
    before.try_emplace(batch.incarnation(),
                       state_.incarnations.info(batch.incarnation()).last_committed_seq);
    state_.incarnations.set_committed(batch.incarnation(), batch.seq);
    if (batch.cut) state_.incarnations.set_complete(batch.incarnation(), *batch.cut);
  }

  auto open = open_;
  const auto write = [&]() -> Status {
    const auto& db = state_.active->db();
    ASSIGN_OR_RETURN(auto txn, lmdb::Txn::begin(state_.active->env(), true));
    for (auto& group : groups) RETURN_IF_ERROR(write_group(txn, group));
    RETURN_IF_ERROR(write_segments(txn, groups, open));
    RETURN_IF_ERROR(
        write_hot(txn, std::span(state_.tail).subspan(std::max(sealed, committed_)), db));
    RETURN_IF_ERROR(state_.incarnations.store(txn, db.agents));
    RETURN_IF_ERROR(state_.clocks.write_new(txn, db.clock));
    RETURN_IF_ERROR(state_.names->write_new(txn, db.names));
    RETURN_IF_ERROR(txn.put(db.agents, meta_key(), encode_meta(state_.last_lsn, clock_.now())));
    return txn.commit();
  };
  if (auto written = write(); !written) {
    for (const auto& [n, seq] : before) state_.incarnations.set_committed(n, seq);
    return written;
  }
  committed(groups, std::move(open));
  for (const auto& [n, seq] : before) {
    if (listener_) listener_->on_committed(n, state_.incarnations.info(n).last_committed_seq);
  }
  return {};
}

void Writer::committed(std::vector<Group>& groups, OpenSegment open) {
  counters_->add(Counter::commits);
  fresh_partition_ = false;
  state_.names->mark_stored();
  state_.incarnations.mark_stored();
  state_.clocks.mark_stored();
  for (auto& group : groups) {
    for (auto& block : group.blocks) {
      block.unit.ranges = state_.active->keep(std::move(block.ranges));
      publisher_.add_unit(block.unit);
      state_.last_block = block.unit.block;
    }
  }
  const auto sealed = groups.empty() ? 0 : groups.back().end;
  if (sealed > 0) {
    open_ = std::move(open);
    publisher_.set_open(open_);
    for (std::size_t i = 0; i < sealed; ++i) {
      tail_rows_ -= state_.tail[i]->rows.size();
      tail_bytes_ -= state_.tail[i]->bytes();
    }
    state_.tail.erase(state_.tail.begin(),
                      state_.tail.begin() + static_cast<std::ptrdiff_t>(sealed));
    publisher_.drop_tail(sealed);
  }
  committed_ = state_.tail.size();
  pending_rows_ = pending_bytes_ = 0;
  gauges_.tail_rows = tail_rows_;
  gauges_.blocks = publisher_.sealed().units.size();
  publisher_.set_incarnations(state_.incarnations);
  publisher_.publish(state_.last_lsn);
  if (listener_) listener_->on_published();
}

bool Writer::roll_due() const {
  if (state_.last_block == 0) return false;  // nothing sealed in it
  const auto used = state_.active->used_bytes();
  if (used >= options_.partition_bytes || used >= options_.map_bytes / 10 * 9) return true;
  if (state_.names->bytes() >= kNameBytesMost) return true;
  return clock_.now().ns - state_.manifest.partitions.back().made_ns >= options_.partition_age_ns;
}

// A new active partition. Nothing is written to the old one, so a full map is no obstacle: the hot batches move.
Status Writer::roll() {
  const auto number = state_.manifest.partitions.back().number + 1;
  ASSIGN_OR_RETURN(auto fresh, Partition::open(options_.path, number,
                                               {.map_bytes = options_.map_bytes,
                                                .writable = true,
                                                .sync = options_.sync,
                                                .files = state_.files}));
  auto names = std::make_unique<NameTable>();
  auto manifest = state_.manifest;
  const auto now = clock_.now();
  manifest.partitions.back().closed_ns = now.ns;
  const auto first = state_.tail.empty() ? state_.last_lsn + 1 : state_.tail.front()->lsn;
  manifest.partitions.push_back({number, first, now.ns, 0, false, false, {}});
  auto done = fill_partition(*fresh, *names);
  if (done) done = manifest.write(options_.path);
  if (!done) {
    fresh->unlink_when_closed();
    return done;
  }
  end_segment();
  state_.active->end_writing();
  state_.manifest = std::move(manifest);
  state_.active = std::move(fresh);
  state_.names = std::move(names);
  open_ = {number, 1, {}};
  publisher_.set_open(open_);
  state_.last_block = 0;
  fresh_partition_ = true;
  publisher_.add_partition(state_.active);
  publisher_.publish(state_.last_lsn);
  update_sizes();
  return {};
}

Status Writer::fill_partition(const Partition& fresh, NameTable& names) {
  const auto& db = fresh.db();
  const auto& old = *state_.active;
  {
    ASSIGN_OR_RETURN(auto txn, lmdb::Txn::begin(fresh.env(), true));
    RETURN_IF_ERROR(write_hot(txn, std::span(state_.tail).first(committed_), db));
    RETURN_IF_ERROR(state_.incarnations.store(txn, db.agents, true));
    RETURN_IF_ERROR(state_.clocks.write_newest(txn, db.clock));
    RETURN_IF_ERROR(txn.put(db.agents, meta_key(), encode_meta(state_.last_lsn, clock_.now())));
    ASSIGN_OR_RETURN(const auto old_file, old.read());
    const auto& old_txn = old_file.txn;
    for (const auto& info : state_.incarnations.all()) {
      ASSIGN_OR_RETURN(const auto row,
                       old_txn.get(old_file.db().agents, ordinals_key(info.number)));
      if (row) RETURN_IF_ERROR(txn.put(db.agents, ordinals_key(info.number), *row));
    }
    RETURN_IF_ERROR(txn.commit());
  }
  std::vector<std::byte> at;
  do {
    ASSIGN_OR_RETURN(auto txn, lmdb::Txn::begin(fresh.env(), true));
    ASSIGN_OR_RETURN(const auto old_file, old.read());
    ASSIGN_OR_RETURN(at, carry_lives(old_file.txn, old_file.db(), *state_.names, at, kCarryRows,
                                     txn, db, names, state_.incarnations));
    RETURN_IF_ERROR(names.write_new(txn, db.names));
    RETURN_IF_ERROR(txn.commit());
    names.mark_stored();
  } while (!at.empty());
  return carry_states(fresh);
}

// Without them the states are searched for: damage in the old partition is no obstacle.
Status Writer::carry_states(const Partition& fresh) {
  const auto look = [&]() -> Result<std::vector<CarriedState>> {
    ASSIGN_OR_RETURN(const auto old, state_.active->read());
    return states_to_carry(*state_.active, old, open_, state_.last_block, state_.incarnations,
                           *state_.names, *counters_);
  };
  const auto states = look();
  if (!states) {
    spdlog::warn("store: where last states stand in partition {} is not known: {}",
                 state_.active->number(), to_string(states.error()));
    return {};
  }
  for (std::size_t i = 0; i < states->size(); i += kCarryRows) {
    ASSIGN_OR_RETURN(auto txn, lmdb::Txn::begin(fresh.env(), true));
    RETURN_IF_ERROR(put_states(
        txn, fresh.db(), std::span(*states).subspan(i, std::min(kCarryRows, states->size() - i))));
    RETURN_IF_ERROR(txn.commit());
  }
  return {};
}

void Writer::update_sizes() {
  std::uint64_t bytes = 0;
  for (const auto& p : publisher_.sealed().partitions) bytes += p->used_bytes();
  gauges_.bytes_on_disk = bytes;
  gauges_.partitions = publisher_.sealed().partitions.size();
  gauges_.blocks = publisher_.sealed().units.size();
}

void Writer::drop_old() {
  std::vector<std::uint64_t> bytes(state_.manifest.partitions.size());
  for (const auto& p : publisher_.sealed().partitions) {
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      if (state_.manifest.partitions[i].number == p->number()) bytes[i] = p->used_bytes();
    }
  }
  std::error_code none;
  const auto edges = std::filesystem::file_size(EdgeStore::path_of(options_.path), none);
  const auto drop =
      partitions_to_drop(options_, state_.manifest, bytes, none ? 0 : edges, clock_.now());
  if (drop.empty()) return;
  auto manifest = state_.manifest;
  for (const auto i : std::views::reverse(drop))
    manifest.partitions.erase(manifest.partitions.begin() + static_cast<std::ptrdiff_t>(i));
  if (auto done = replace_manifest(std::move(manifest), true); !done)
    spdlog::error("store: retention waits: {}", to_string(done.error()));
}

// Writes the manifest; what it lists no more leaves the view, and the disk if `unlink`.
Status Writer::replace_manifest(Manifest manifest, bool unlink) {
  RETURN_IF_ERROR(manifest.write(options_.path));
  std::vector<std::shared_ptr<Partition>> gone;
  for (const auto& p : publisher_.sealed().partitions) {
    if (std::ranges::find(manifest.partitions, p->number(), &Manifest::Partition::number) ==
        manifest.partitions.end())
      gone.push_back(p);
  }
  for (auto& p : gone) {
    std::uint64_t rows = 0;
    for (const auto& unit : publisher_.sealed().units) {
      if (unit.partition == p->number()) rows += unit.rows;
    }
    gauges_.events_stored -= std::min<std::uint64_t>(rows, gauges_.events_stored);
    publisher_.drop_partition(p->number());
  }
  state_.manifest = std::move(manifest);
  state_.clocks.forget_before({state_.manifest.partitions.front().made_ns});
  publisher_.set_clocks(state_.clocks);
  publisher_.publish(state_.last_lsn);
  for (auto& p : gone) {
    if (unlink) reaper_.bury(std::move(p));
  }
  update_sizes();
  return {};
}

Result<Numbers> Writer::edit(EditRequest& request) {
  auto manifest = state_.manifest;
  ASSIGN_OR_RETURN(auto numbers, request.change(manifest));
  RETURN_IF_ERROR(replace_manifest(std::move(manifest), request.unlink));
  for (auto& p : request.attached) {
    const auto& all = publisher_.sealed().partitions;
    if (!std::ranges::binary_search(numbers, p->number()) ||
        std::ranges::find(all, p->number(), &Partition::number) != all.end())
      continue;
    ASSIGN_OR_RETURN(const auto here, p->read());
    RETURN_IF_ERROR(state_.clocks.load(here.txn, here.db().clock));
    for (const auto& unit : p->units_at_open()) gauges_.events_stored += unit.rows;
    publisher_.add_partition(p);
  }
  publisher_.set_clocks(state_.clocks);
  publisher_.publish(state_.last_lsn);
  update_sizes();
  return numbers;
}

}  // namespace scope::store
