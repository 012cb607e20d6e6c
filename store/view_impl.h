// How views are made and published. The writer calls Publisher on each receipt and each commit, so publishing is cheap:
// blocks and tail batches stand in arrays that only grow at their end, a view is a prefix of them and some references,
// and what costs more (one list of all units) is made by the view that is asked for it.
//
// Thread Publisher: the writer's, but current(). An array's elements are never changed once a view shows them; a full
//        array is replaced by a larger copy.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "ei_codec/base/counters.h"
#include "store/clocks.h"
#include "store/partition.h"
#include "store/tail.h"
#include "store/view.h"

namespace scope::store {

struct SealedUnits {
  std::vector<Unit> units;  // oldest first; never moves: capacity is reserved
  std::vector<std::shared_ptr<Partition>> partitions;  // by number
};
struct TailArray {
  std::vector<std::shared_ptr<const TailBatch>> batches;  // never moves
};

// Sealed blocks of the active partition whose segment is not complete yet.
struct OpenSegment {
  std::uint32_t partition = 0, first_block = 1;
  std::vector<std::shared_ptr<const BlockIndex>> blocks;  // null: not indexed

  const BlockIndex* find(const Unit& unit) const {
    const auto i = unit.block - first_block;
    return unit.partition == partition && unit.block >= first_block && i < blocks.size()
               ? blocks[i].get()
               : nullptr;
  }
};

// What one view shows.
struct Published {
  std::shared_ptr<const SealedUnits> sealed;
  std::span<const Unit> blocks;
  std::shared_ptr<const OpenSegment> open;
  std::shared_ptr<const TailArray> tail_array;
  std::span<const std::shared_ptr<const TailBatch>> tail;
  std::shared_ptr<const std::vector<IncarnationInfo>> incarnations;
  std::shared_ptr<const std::vector<ClockVersion>> clocks;
  std::shared_ptr<Counters> counters;
  Lsn upper = 0;
};

std::shared_ptr<const View> make_view(Published published);
// The partitions of a view that make_view() made; live as long as it.
const SealedUnits& sealed_of(const View& view);

class Publisher {
 public:
  explicit Publisher(std::shared_ptr<Counters> counters);

  void add_partition(std::shared_ptr<Partition> partition);  // its units too
  void drop_partition(std::uint32_t number);
  void add_unit(const Unit& unit);  // REQUIRES that its ranges live with its partition
  void set_open(OpenSegment open) { open_ = std::make_shared<const OpenSegment>(std::move(open)); }
  void push_tail(std::shared_ptr<const TailBatch> batch);
  void drop_tail(std::size_t count);  // the oldest ones: they are in blocks now
  void set_incarnations(const Incarnations& incarnations);
  void set_clocks(const Clocks& clocks) { clocks_ = clocks.all(); }
  void publish(Lsn upper);

  std::span<const std::shared_ptr<const TailBatch>> tail() const;
  const SealedUnits& sealed() const { return *sealed_; }
  std::shared_ptr<const View> current() const;  // any thread

 private:
  void replace_sealed(std::size_t capacity);

  std::shared_ptr<Counters> counters_;
  std::shared_ptr<SealedUnits> sealed_;
  std::shared_ptr<const OpenSegment> open_;
  std::shared_ptr<TailArray> tail_;
  std::shared_ptr<const std::vector<IncarnationInfo>> incarnations_;
  std::shared_ptr<const std::vector<ClockVersion>> clocks_;
  mutable std::mutex mutex_;
  std::shared_ptr<const View> current_;
};

}  // namespace scope::store
