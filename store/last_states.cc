#include "store/last_states.h"

#include <algorithm>
#include <bit>
#include <boost/unordered/unordered_flat_map.hpp>

#include "store/block.h"
#include "store/key_format.h"
#include "store/lives.h"

namespace scope::store {
namespace {

constexpr unsigned kVersion = 1;

struct ProcessHash {
  std::size_t operator()(const ProcessId& p) const {
    return (std::uint64_t{p.incarnation} << 32 ^ std::uint64_t{p.serial} << 16 ^ p.id) *
           0x9E3779B97F4A7C15U;
  }
};
using Places = boost::unordered_flat_map<ProcessId, StatePlace, ProcessHash>;

Result<StatePlace> decode(Bytes value) {
  ByteReader in(value);
  const auto version = in.u8();
  const StatePlace place{in.u32(), in.u32()};
  if (version != kVersion || !in.done())
    return fail(Code::corrupt, "the place of a process's last state is damaged");
  return place;
}

// Newest first, so that what is known already stays and what exceeds the bound is the oldest.
void add_block(const BlockIndex& index, StatePlace place, Places& out) {
  for (const auto& p : index.processes) {
    if ((p.classes & class_of(codec::EventType::state_change)) != 0 &&
        out.size() < kMostCarriedStates)
      out.try_emplace(p.id, place);
  }
}

void add_segments(const Partition& old, const PartitionTxn& here, const OpenSegment& open,
                  std::uint32_t last_block, Counters& bad, Places& out) {
  if (last_block == 0) return;
  for (auto i = open.blocks.size(); i-- > 0;) {
    if (open.blocks[i])
      add_block(*open.blocks[i], {old.number(), open.first_block + static_cast<std::uint32_t>(i)},
                out);
  }
  const auto stored = open.partition == old.number() ? open.first_block - 1 : last_block;
  if (stored == 0) return;
  for (auto segment = segment_of(stored) + 1; segment-- > 0;) {
    const auto value = old.segment(here, 'p', segment, bad);
    if (!value) continue;
    const auto done = visit_states(*value, [&](const ProcessId& process, std::uint64_t blocks) {
      if (blocks == 0 || out.size() >= kMostCarriedStates) return;
      const auto slot = static_cast<std::uint32_t>(63 - std::countl_zero(blocks));
      out.try_emplace(process, StatePlace{old.number(), segment * kSegmentBlocks + 1 + slot});
    });
    if (!done) bad.add(Counter::corrupt_indexes);
  }
}

// What the old partition began with, and had no newer state of.
Status add_carried(const PartitionTxn& here, Places& out) {
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(here.txn, here.db().lives));
  ASSIGN_OR_RETURN(bool found, cursor.seek(Key('s')));
  while (found && starts_with(cursor.key(), Key('s')) && out.size() < kMostCarriedStates) {
    KeyReader key(cursor.key().subspan(5));
    ProcessId process;
    process.id = key.u32();
    process.serial = key.u32();
    process.incarnation = key.u32();
    ASSIGN_OR_RETURN(const auto place, decode(cursor.value()));
    if (!key.done()) return fail(Code::corrupt, "the key of a process's last state is damaged");
    out.try_emplace(process, place);
    ASSIGN_OR_RETURN(found, cursor.next());
  }
  return {};
}

}  // namespace

Result<std::vector<CarriedState>> states_to_carry(const Partition& old, const PartitionTxn& here,
                                                  const OpenSegment& open, std::uint32_t last_block,
                                                  const Incarnations& incarnations,
                                                  NameSource& names, Counters& bad) {
  Places places;
  add_segments(old, here, open, last_block, bad, places);
  RETURN_IF_ERROR(add_carried(here, places));
  std::vector<CarriedState> out;
  for (const auto& [process, at] : places) {
    if (!incarnations.exists(process.incarnation)) continue;
    const auto home = incarnations.info(process.incarnation).home;
    if (incarnations.vm_replaced(home)) continue;
    ASSIGN_OR_RETURN(const auto lives, read_lives(here.txn, here.db(), home, process, names));
    if (std::ranges::none_of(lives, [](const Life& life) { return life.exited.has_value(); }))
      out.push_back({home, process, at});
  }
  std::ranges::sort(out, {}, [](const CarriedState& s) {
    return std::tuple(s.home, s.process.id, s.process.serial, s.process.incarnation);
  });
  return out;
}

Status put_states(lmdb::Txn& txn, const Databases& db, std::span<const CarriedState> states) {
  ByteWriter out;
  for (const auto& s : states) {
    out.clear();
    out.u8(kVersion);
    out.u32(s.at.partition);
    out.u32(s.at.block);
    RETURN_IF_ERROR(txn.put(db.lives, process_key('s', s.home, s.process), out.bytes()));
  }
  return {};
}

Result<std::optional<StatePlace>> read_state_before(const PartitionTxn& here, Incarnation home,
                                                    const ProcessId& process) {
  ASSIGN_OR_RETURN(const auto value,
                   here.txn.get(here.db().lives, process_key('s', home, process)));
  if (!value) return std::nullopt;
  return decode(*value);
}

}  // namespace scope::store
