// Incarnations: the permanent table of (node, creation, agent id), with small numbers that are never reused. The
// writer owns it; readers get copies (all()). Rows travel to each new partition at a roll, so no drop loses one.
//
//   row = version:1 (2) home:4 creation:4 agent_id:8 last_seq:8 first_seen:8 node:text [complete_until:8]
//         (version 1 had no complete_until)
//
// Life   The text of a node's name, as node() gives it, lives as long as the NodePool: batches of the tail hold it.
// Bound  Nodes that are only heard of (agent id 0) are numbered up to kMaxHeardOf; more get no number, and are counted.
// Thread The writer's.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "store/lmdb.h"
#include "store/view.h"

namespace scope::store {

inline constexpr std::size_t kMaxHeardOf = 16384;

// Texts with permanent addresses. Only grows: nodes are few.
class NodePool {
 public:
  std::string_view intern(std::string_view text);

 private:
  std::set<std::string, std::less<>> texts_;
};

class Incarnations {
 public:
  Incarnations() : pool_(std::make_shared<NodePool>()) {}

  // REQUIRES a fresh table. Reads the rows of `dbi`.
  Status load(const lmdb::Txn& txn, lmdb::Dbi dbi);
  // Writes what changed since the last mark_stored(); all of it when `everything`.
  Status store(lmdb::Txn& txn, lmdb::Dbi dbi, bool everything = false) const;
  void mark_stored() { dirty_.clear(); }
  bool dirty() const { return !dirty_.empty(); }

  // kNoIncarnation: not there.
  Incarnation find(std::string_view node, std::uint32_t creation, std::uint64_t agent_id) const;
  Incarnation find_or_make(std::string_view node, std::uint32_t creation, std::uint64_t agent_id,
                           ClusterTime now);
  // The home of (node, creation), which is made if nobody heard of it before; kNoIncarnation beyond the bound.
  Incarnation home_of(std::string_view node, std::uint32_t creation, ClusterTime now);

  bool exists(Incarnation n) const { return n >= 1 && n <= entries_.size(); }
  const IncarnationInfo& info(Incarnation n) const {
    return entries_[n - 1];
  }  // REQUIRES exists(n)
  std::string_view node(Incarnation n) const { return names_[n - 1]; }  // REQUIRES exists(n)
  // A later VM of that node was heard of. REQUIRES exists(home).
  bool vm_replaced(Incarnation home) const { return newest_home_.at(names_[home - 1]) != home; }
  void set_committed(Incarnation n, std::uint64_t seq);
  void set_complete(Incarnation n,
                    RawTime until);  // never goes back; stored with the next set_committed
  const std::vector<IncarnationInfo>& all() const { return entries_; }  // by number, ascending
  std::shared_ptr<const NodePool> pool() const { return pool_; }
  std::uint64_t refused() const { return refused_; }

 private:
  void add(IncarnationInfo info);

  std::shared_ptr<NodePool> pool_;
  std::vector<IncarnationInfo> entries_;
  std::vector<std::string_view> names_;
  std::map<std::tuple<std::string_view, std::uint32_t, std::uint64_t>, Incarnation> numbers_;
  std::map<std::tuple<std::string_view, std::uint32_t>, Incarnation> homes_;
  std::map<std::string_view, Incarnation> newest_home_;  // of each node
  std::set<Incarnation> dirty_;
  std::size_t heard_of_ = 0;
  std::uint64_t refused_ = 0;
};

}  // namespace scope::store
