// The versions of the clock model, as rows (`clock`). Each partition holds those made while it was the active one, and
// the newest of each incarnation from before.
//
//   row = version:1 (1) raw_at:8 offset:8 lower:8 upper:8 drift_ppb:4 drift_bound_ppb:4 raw_to_system:8 measured_at:8 source:1
//
// Thread The writer's; all() is immutable once given away.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "store/lmdb.h"
#include "store/view.h"

namespace scope::store {

class Clocks {
 public:
  Status load(const lmdb::Txn& txn, lmdb::Dbi dbi);  // adds to what is there; doubles are fine
  void add(ClockVersion version);                    // sets its number
  Status write_new(lmdb::Txn& txn, lmdb::Dbi dbi) const;
  void mark_stored() { new_.clear(); }
  bool dirty() const { return !new_.empty(); }
  Status write_newest(lmdb::Txn& txn, lmdb::Dbi dbi) const;  // of each incarnation
  void forget_before(ClusterTime time);                      // but the newest of each incarnation
  std::shared_ptr<const std::vector<ClockVersion>> all() const;  // by incarnation, then raw_at

 private:
  std::map<std::pair<Incarnation, std::uint32_t>, ClockVersion> versions_;
  std::vector<std::pair<Incarnation, std::uint32_t>> new_;
  mutable std::shared_ptr<const std::vector<ClockVersion>> all_;  // null: to be made again
};

}  // namespace scope::store
