#include "store/view_impl.h"

#include <fmt/format.h>

#include <algorithm>

#include "store/block.h"
#include "store/key_format.h"
#include "store/last_states.h"
#include "store/lives.h"
#include "store/view_index.h"

namespace scope::store {
namespace {

using codec::EventType;

// What answers about lives and names point to.
struct LifeOwner {
  Arena arena;
  std::shared_ptr<const TailArray> tail;
};

class ViewImpl final : public View {
 public:
  explicit ViewImpl(Published published) : p_(std::move(published)) {}

  const Published& published() const { return p_; }
  std::span<const Unit> units() const override;
  Lsn upper() const override { return p_.upper; }
  std::span<const IncarnationInfo> incarnations() const override { return *p_.incarnations; }
  std::span<const ClockVersion> clocks() const override { return *p_.clocks; }
  Result<Rows> read(const Unit& unit, const RowFilter& filter) const override;
  std::optional<RawTime> complete_until(Incarnation n) const override;
  Candidates candidates(const Selection& selection) const override {
    return find_candidates(*this, p_, selection);
  }
  Result<RollupInfo> rollup(const RollupSpec& spec, const RollupSink& sink) const override {
    return sum_cells(*this, p_, spec, sink);
  }
  Result<RollupInfo> edges(std::span<const ProcessId> senders, const EdgeSink& sink,
                           const std::function<bool()>& stop) const override {
    return sum_edges(*this, p_, senders, sink, stop);
  }
  Result<std::optional<StatePlace>> state_before(std::uint32_t partition,
                                                 const ProcessId& process) const override;
  Result<std::vector<Life>> lives(ProcessId process,
                                  std::shared_ptr<const void>& owner) const override;
  Result<std::vector<NameSpell>> name_spells(std::string_view node, std::string_view name,
                                             std::shared_ptr<const void>& owner) const override;
  Result<std::vector<NameSpell>> names_of(ProcessId process,
                                          std::shared_ptr<const void>& owner) const override;

 private:
  Result<Rows> read_tail(const Unit& unit, const RowFilter& filter) const;
  Result<Rows> read_sealed(const Unit& unit, const RowFilter& filter) const;
  Incarnation home(Incarnation n) const {
    return n >= 1 && n <= p_.incarnations->size() ? (*p_.incarnations)[n - 1].home : kNoIncarnation;
  }
  // Lifecycle rows of the tail on these VMs, in time order within an incarnation.
  template <typename Wanted>
  std::vector<const StoredRow*> tail_lifecycle(Wanted wanted) const;

  const Published p_;
  mutable std::once_flag units_once_;
  mutable std::vector<Unit> units_;
};

std::span<const Unit> ViewImpl::units() const {
  std::call_once(units_once_, [this] {
    units_.reserve(p_.blocks.size() + p_.tail.size());
    units_.assign(p_.blocks.begin(), p_.blocks.end());
    for (const auto& batch : p_.tail) {
      Unit unit;
      unit.first = unit.last = batch->lsn;
      unit.rows = batch->range.rows;
      unit.types = batch->types;
      unit.tail = true;
      if (unit.rows > 0) unit.ranges = {&batch->range, 1};
      units_.push_back(unit);
    }
  });
  return units_;
}

// As of the last commit, and what the tail says beyond.
std::optional<RawTime> ViewImpl::complete_until(Incarnation n) const {
  if (n < 1 || n > p_.incarnations->size()) return std::nullopt;
  auto out = (*p_.incarnations)[n - 1].complete_until;
  for (const auto& batch : p_.tail) {
    if (batch->incarnation() == n && batch->cut && (!out || *out < *batch->cut)) out = batch->cut;
  }
  return out;
}

Result<Rows> ViewImpl::read(const Unit& unit, const RowFilter& filter) const {
  if (unit.tail) return read_tail(unit, filter);
  auto rows = read_sealed(unit, filter);
  if (!rows && rows.error().code == Code::corrupt) {
    p_.counters->add(Counter::corrupt_blocks);
    rows.error().message =
        fmt::format("block {} of partition {} (batches {} to {}): {}", unit.block, unit.partition,
                    unit.first, unit.last, rows.error().message);
  }
  return rows;
}

Result<Rows> ViewImpl::read_tail(const Unit& unit, const RowFilter& filter) const {
  const auto it =
      std::ranges::lower_bound(p_.tail, unit.first, {}, [](const auto& b) { return b->lsn; });
  if (it == p_.tail.end() || (*it)->lsn != unit.first)
    return fail(Code::closed, "a unit of another view");
  const auto& batch = **it;
  const auto times = wanted_times(filter, batch.incarnation());
  if (!times) return Rows{{}, *it};
  std::vector<const StoredRow*> found;
  for (const auto i : batch.by_id()) {
    const auto& row = batch.rows[i];
    const auto& r = row.record;
    if ((filter.types & type_bit(r.type)) == 0 || r.time > times->until || r.time < times->from ||
        !wants_process(filter, row.process) || !wants_record(filter, r) ||
        (filter.choose && filter.choose({row.id(), r.type, r.flags}) != Choice::make))
      continue;
    found.push_back(&row);
  }
  Rows out;
  if (!filter.newest_only) out.rows.reserve(found.size());
  out.owner = *it;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (filter.newest_only && i + 1 < found.size() && found[i + 1]->process == found[i]->process)
      continue;
    out.rows.push_back(*found[i]);
    auto& record = out.rows.back().record;
    if (!filter.payload || (filter.payloads & type_bit(record.type)) == 0) record.payload = {};
  }
  return out;
}

Result<Rows> ViewImpl::read_sealed(const Unit& unit, const RowFilter& filter) const {
  const auto& partitions = p_.sealed->partitions;
  const auto it = std::ranges::lower_bound(partitions, unit.partition, {},
                                           [](const auto& p) { return p->number(); });
  if (it == partitions.end() || (*it)->number() != unit.partition)
    return fail(Code::closed, "a unit of another view");
  const Partition& partition = **it;
  ASSIGN_OR_RETURN(const auto here, partition.read());
  ASSIGN_OR_RETURN(const auto block, here.txn.get(here.db().blk, block_key(unit.block)));
  if (!block) return fail(Code::corrupt, "the block is missing");
  auto arena = std::make_shared<Arena>();
  NameReader names(here.txn, here.db().names, *arena);
  return read_block(*block, filter, names, arena);
}

template <typename Wanted>
std::vector<const StoredRow*> ViewImpl::tail_lifecycle(Wanted wanted) const {
  std::vector<const StoredRow*> out;
  for (const auto& batch : p_.tail) {
    for (const auto i : batch->lifecycle) {
      if (wanted(batch->rows[i])) out.push_back(&batch->rows[i]);
    }
  }
  by_time(out);
  return out;
}

void merge(Life& into, const Life& from) {
  const auto least = [](std::optional<RawTime>& a, const std::optional<RawTime>& b) {
    if (b && (!a || *b < *a)) a = b;
  };
  least(into.spawned, from.spawned);
  least(into.seen_alive, from.seen_alive);
  if (from.exited) into.exited = into.exited ? std::max(*into.exited, *from.exited) : *from.exited;
  if (!into.initial_call) into.initial_call = from.initial_call;
  if (!into.parent) into.parent = from.parent;
}

Result<std::optional<StatePlace>> ViewImpl::state_before(std::uint32_t partition,
                                                         const ProcessId& process) const {
  const auto h = home(process.incarnation);
  const auto& all = p_.sealed->partitions;
  const auto it = std::ranges::lower_bound(all, partition, {}, &Partition::number);
  if (h == kNoIncarnation || it == all.end() || (*it)->number() != partition) return std::nullopt;
  ASSIGN_OR_RETURN(const auto here, (*it)->read());
  return read_state_before(here, h, process);
}

Result<std::vector<Life>> ViewImpl::lives(ProcessId process,
                                          std::shared_ptr<const void>& owner) const {
  auto kept = std::make_shared<LifeOwner>();
  kept->tail = p_.tail_array;
  std::vector<Life> out;
  const auto of = [&out](const ProcessId& id) -> Life& {
    const auto it = std::ranges::find(out, id, &Life::process);
    if (it != out.end()) return *it;
    out.emplace_back().process = id;
    return out.back();
  };
  const auto h = home(process.incarnation);
  if (h == kNoIncarnation) return out;
  for (const auto& partition : p_.sealed->partitions) {
    ASSIGN_OR_RETURN(const auto file, partition->read());
    NameReader names(file.txn, file.db().names, kept->arena);
    ASSIGN_OR_RETURN(const auto here, read_lives(file.txn, file.db(), h, process, names));
    for (const auto& life : here) merge(of(life.process), life);
  }
  const auto rows = tail_lifecycle([&](const StoredRow& row) {
    const auto subject = life_subject(row);
    const auto type = row.record.type;
    return subject.id == process.id && subject.serial == process.serial &&
           home(subject.incarnation) == h && type != EventType::process_register &&
           type != EventType::process_unregister;
  });
  for (const auto* row : rows) apply_to_life(of(life_subject(*row)), *row);
  std::ranges::sort(out, {}, &Life::process);
  owner = std::move(kept);
  return out;
}

// A partition that begins with a name still held repeats its spell: the newer one knows more.
void merge(std::vector<NameSpell>& into, const std::vector<NameSpell>& from) {
  for (const auto& spell : from) {
    const auto it = std::ranges::find_if(into, [&](const NameSpell& s) {
      return s.process == spell.process && s.name == spell.name && s.from == spell.from;
    });
    if (it == into.end()) {
      into.push_back(spell);
    } else {
      *it = spell;
    }
  }
}

Result<std::vector<NameSpell>> ViewImpl::name_spells(std::string_view node, std::string_view name,
                                                     std::shared_ptr<const void>& owner) const {
  auto kept = std::make_shared<LifeOwner>();
  kept->tail = p_.tail_array;
  std::vector<Incarnation> homes;
  for (const auto& info : *p_.incarnations) {
    if (info.home == info.number && (node.empty() || info.node == node)) homes.push_back(info.home);
  }
  std::vector<NameSpell> out;
  for (const auto& partition : p_.sealed->partitions) {
    ASSIGN_OR_RETURN(const auto file, partition->read());
    NameReader names(file.txn, file.db().names, kept->arena);
    ASSIGN_OR_RETURN(const auto atom, names.find(name));
    if (atom == 0) continue;
    for (const auto h : homes) {
      ASSIGN_OR_RETURN(const auto here, read_spells_named(file.txn, file.db(), h, atom, names));
      merge(out, here);
    }
  }
  const auto rows = tail_lifecycle([&](const StoredRow& row) {
    return std::ranges::binary_search(homes, home(row.process.incarnation)) &&
           (row.record.type == EventType::process_exit || row_name(row.record) == name);
  });
  for (const auto* row : rows) apply_to_spells(out, *row);
  std::ranges::sort(out, {}, [](const NameSpell& s) {
    return std::tuple(s.process.incarnation, s.from, s.process, s.name);
  });
  owner = std::move(kept);
  return out;
}

Result<std::vector<NameSpell>> ViewImpl::names_of(ProcessId process,
                                                  std::shared_ptr<const void>& owner) const {
  auto kept = std::make_shared<LifeOwner>();
  kept->tail = p_.tail_array;
  std::vector<NameSpell> out;
  const auto h = home(process.incarnation);
  if (h == kNoIncarnation) return out;
  for (const auto& partition : p_.sealed->partitions) {
    ASSIGN_OR_RETURN(const auto file, partition->read());
    NameReader names(file.txn, file.db().names, kept->arena);
    ASSIGN_OR_RETURN(const auto here, read_spells_of(file.txn, file.db(), h, process, names));
    merge(out, here);
  }
  const auto ours = [&](const ProcessId& p) {
    return p.id == process.id && p.serial == process.serial && home(p.incarnation) == h;
  };
  const auto rows = tail_lifecycle([&](const StoredRow& row) {
    return ours(row.process) || row.record.type == EventType::process_register ||
           row.record.type == EventType::process_alive;  // with a name, it took that over
  });
  for (const auto* row : rows) {
    // Others matter only where they took a name over.
    if (!ours(row->process) &&
        std::ranges::find(out, row_name(row->record), &NameSpell::name) == out.end())
      continue;
    apply_to_spells(out, *row);
  }
  std::erase_if(out, [&](const NameSpell& s) { return !ours(s.process); });
  std::ranges::sort(out, {}, [](const NameSpell& s) {
    return std::tuple(s.process.incarnation, s.from, s.process, s.name);
  });
  owner = std::move(kept);
  return out;
}

}  // namespace

const SealedUnits& sealed_of(const View& view) {
  return *static_cast<const ViewImpl&>(view).published().sealed;
}

std::shared_ptr<const View> make_view(Published published) {
  return std::make_shared<ViewImpl>(std::move(published));
}

Publisher::Publisher(std::shared_ptr<Counters> counters)
    : counters_(std::move(counters)),
      sealed_(std::make_shared<SealedUnits>()),
      open_(std::make_shared<OpenSegment>()),
      tail_(std::make_shared<TailArray>()),
      incarnations_(std::make_shared<std::vector<IncarnationInfo>>()),
      clocks_(std::make_shared<std::vector<ClockVersion>>()) {}

void Publisher::replace_sealed(std::size_t capacity) {
  auto next = std::make_shared<SealedUnits>();
  next->units.reserve(capacity);
  next->units.assign(sealed_->units.begin(), sealed_->units.end());
  next->partitions = sealed_->partitions;
  sealed_ = std::move(next);
}

void Publisher::add_partition(std::shared_ptr<Partition> partition) {
  const auto& more = partition->units_at_open();
  replace_sealed((sealed_->units.size() + more.size()) * 2 + 64);
  auto& units = sealed_->units;
  auto& all = sealed_->partitions;
  const auto number = partition->number();  // an attached one comes before those that are there
  units.insert(std::ranges::upper_bound(units, number, {}, &Unit::partition), more.begin(),
               more.end());
  all.insert(std::ranges::upper_bound(all, number, {}, [](const auto& p) { return p->number(); }),
             std::move(partition));
}

void Publisher::drop_partition(std::uint32_t number) {
  replace_sealed(sealed_->units.capacity());
  std::erase_if(sealed_->units, [number](const Unit& u) { return u.partition == number; });
  std::erase_if(sealed_->partitions, [number](const auto& p) { return p->number() == number; });
}

void Publisher::add_unit(const Unit& unit) {
  if (sealed_->units.size() == sealed_->units.capacity())
    replace_sealed(sealed_->units.size() * 2 + 64);
  sealed_->units.push_back(unit);
}

void Publisher::push_tail(std::shared_ptr<const TailBatch> batch) {
  if (tail_->batches.size() == tail_->batches.capacity()) {
    auto next = std::make_shared<TailArray>();
    const auto live = tail();
    next->batches.reserve(live.size() * 2 + 64);
    next->batches.assign(live.begin(), live.end());
    tail_ = std::move(next);
  }
  tail_->batches.push_back(std::move(batch));
}

// A new array, so that what the old one holds is freed with the last view of it.
void Publisher::drop_tail(std::size_t count) {
  auto next = std::make_shared<TailArray>();
  const auto live = tail().subspan(count);
  next->batches.reserve(live.size() * 2 + 64);
  next->batches.assign(live.begin(), live.end());
  tail_ = std::move(next);
}

void Publisher::set_incarnations(const Incarnations& incarnations) {
  incarnations_ = std::make_shared<const std::vector<IncarnationInfo>>(incarnations.all());
}

std::span<const std::shared_ptr<const TailBatch>> Publisher::tail() const { return tail_->batches; }

void Publisher::publish(Lsn upper) {
  auto view = make_view(
      {sealed_, sealed_->units, open_, tail_, tail(), incarnations_, clocks_, counters_, upper});
  const std::lock_guard lock(mutex_);
  current_.swap(view);
}

std::shared_ptr<const View> Publisher::current() const {
  const std::lock_guard lock(mutex_);
  return current_;
}

}  // namespace scope::store
