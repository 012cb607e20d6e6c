// Where the last state of a process stands that was recorded before a partition began (`lives`, kind 's').
//
// What   Written at a roll for each process that had a state and is not known to have exited. A question for the state of
//        a process that was quiet for long goes straight to that block, and knows when it went with its partition.
//   value = version:1 (1) partition:4 block:4
// Bounds The kMostCarriedStates whose states are the newest; of the others nothing is said, and they are searched for.
// Thread The writer's; readers read_state_before().
#pragma once

#include <vector>

#include "store/partition.h"
#include "store/view_impl.h"

namespace scope::store {

inline constexpr std::size_t kMostCarriedStates = 1u << 18;

struct CarriedState {
  Incarnation home = kNoIncarnation;
  ProcessId process;
  StatePlace at;
};

// What a partition that follows `old` begins with, ascending by key. `here`: a transaction on it; `open`: its segment that
// is not written yet; `last_block`: its last. A segment whose index is damaged adds nothing.
Result<std::vector<CarriedState>> states_to_carry(const Partition& old, const PartitionTxn& here,
                                                  const OpenSegment& open, std::uint32_t last_block,
                                                  const Incarnations& incarnations,
                                                  NameSource& names, Counters& bad);
Status put_states(lmdb::Txn& txn, const Databases& db, std::span<const CarriedState> states);

Result<std::optional<StatePlace>> read_state_before(const PartitionTxn& here, Incarnation home,
                                                    const ProcessId& process);

}  // namespace scope::store
