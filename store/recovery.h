// What the store knows when it starts, read from disk: the manifest's partitions, the active partition's tables, and
// the hot log decoded again into the tail. Nothing is written but the removal of files that no manifest lists.
//
// Errors corrupt when the active partition cannot be used. An older one that cannot be opened is left out and logged:
//        what it holds is missing then: `lost`, from which the writer makes gap rows; the manifest keeps it.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "store/clocks.h"
#include "store/incarnations.h"
#include "store/manifest.h"
#include "store/names.h"
#include "store/partition.h"
#include "store/tail.h"
#include "store/trace_store.h"
#include "store/view_impl.h"

namespace scope::store {

struct StoreState {
  Manifest manifest;
  std::shared_ptr<OpenFiles> files = std::make_shared<OpenFiles>();
  std::vector<std::shared_ptr<Partition>> partitions;  // by number; the last one is the active one
  std::shared_ptr<Partition> active;
  Incarnations incarnations;
  Clocks clocks;
  std::unique_ptr<NameTable> names;
  std::map<Incarnation, OrdinalMemory> ordinals;
  std::vector<std::shared_ptr<TailBatch>> tail;  // all committed
  Lsn last_lsn = 0;
  ClusterTime newest;                     // the latest cluster time that was written down
  std::vector<Manifest::Partition> lost;  // found to be so just now
  std::uint32_t last_block = 0;           // of the active partition
  OpenSegment open;                       // made again from its blocks
};

Result<StoreState> recover(const StoreOptions& options, Manifest manifest);

// Meta of the active partition (key_format.h).
std::vector<std::byte> encode_meta(Lsn last_lsn, ClusterTime now);

}  // namespace scope::store
