// Lives of processes and the spells during which they held names (`lives`), derived from spawn, exit, alive, register
// and unregister rows: at each seal into the partition, and in memory for the tail.
//
//   life  = version:1 (1) flags:1 [spawned:8] [exited:8] [seen_alive:8] mfa:varint
//           [parent: node-atom:varint creation:varint id:varint serial:varint]
//           flags: 1 spawned, 2 exited, 4 seen_alive, 8 parent
//   spell = version:1 (1) flags:1 [until:8]       flags: 1 until, 2 from_baseline; process, name and `from` are in its keys
//
// A spell ends with its unregister, its process's exit, or another process's register of that name.
// Memory is bounded by what one seal holds: a process that came and went costs a row on disk and nothing else.
#pragma once

#include <vector>

#include "store/names.h"
#include "store/partition.h"
#include "store/tail.h"

namespace scope::store {

// Which process a lifecycle row tells about: the child of a spawn, else its own. `row` is of the tail.
ProcessId life_subject(const StoredRow& row);
// The name that a register, unregister or alive row speaks of; empty: none. It points into the row's payload.
std::string_view row_name(const codec::TraceRecord& record);

// Rows in the order of arrival are put in that of their incarnations and times; of equal times the first to arrive stays
// first, so that it does not matter where a seal came between.
void by_time(std::vector<const StoredRow*>& rows);

// REQUIRES life_subject(row) == life.process.
void apply_to_life(Life& life, const StoredRow& row);
// `spells`: all that are known of the row's name or process, oldest first. Answers whether something changed.
bool apply_to_spells(std::vector<NameSpell>& spells, const StoredRow& row);

// The writer's: adds what the rows of these batches tell, in one transaction with their seal.
Status store_lives(lmdb::Txn& txn, const Databases& db, std::span<const TailBatch* const> batches,
                   const Incarnations& incarnations, NameTable& names);

// Readers'. What the answers point to belongs to `names`.
Result<std::vector<Life>> read_lives(const lmdb::Txn& txn, const Databases& db, Incarnation home,
                                     const ProcessId& process, NameSource& names);
Result<std::vector<NameSpell>> read_spells_of(const lmdb::Txn& txn, const Databases& db,
                                              Incarnation home, const ProcessId& process,
                                              NameSource& names);
Result<std::vector<NameSpell>> read_spells_named(const lmdb::Txn& txn, const Databases& db,
                                                 Incarnation home, NameId atom, NameSource& names);

// At a roll: copies lives that go on and names still held, at most `limit` rows of lives from `from_key` (empty: the start);
// answers the key to go on from, empty when done. Processes of VMs that were replaced are left behind.
Result<std::vector<std::byte>> carry_lives(const lmdb::Txn& old_txn, const Databases& old_db,
                                           NameSource& old_names, Bytes from_key, std::size_t limit,
                                           lmdb::Txn& txn, const Databases& db, NameTable& names,
                                           const Incarnations& incarnations);

}  // namespace scope::store
