// The groups of an aggregate while rows come in. For aggregate*.cc.
#pragma once

#include <boost/unordered/unordered_flat_map.hpp>
#include <string>
#include <vector>

#include "analysis/aggregate.h"

namespace scope::analysis {

// What of a row decides about its group.
struct Facts {
  ProcessId process;
  codec::EventType type{};
  codec::Mfa mfa;
  const codec::Peer* peer = nullptr;  // of edges
  ClusterTime at;
};

class Groups {
 public:
  Groups(const Context& context, const AggregateSpec& spec);

  // Place of the group, made if need be. kOther: there are too many.
  static constexpr std::uint32_t kOther = ~0u;
  std::uint32_t find(const Facts& facts);
  // Rows that stand for `weight` events each.
  void count(std::uint32_t group, double weight, std::uint64_t rows);
  void measure(std::uint32_t group, std::int64_t ns) { measured(group).values.add(ns); }

  // Do all rows of that type and function between these times belong to one group?
  bool one_bucket(ClusterTime from, ClusterTime until) const;
  bool in_buckets() const { return bucket_ns_ != 0; }
  bool needs_processes() const { return needs_processes_; }
  bool scaled() const { return scaled_; }
  void finish(Aggregate& out);

 private:
  Measured& measured(std::uint32_t group) {
    if (group != kOther) return groups_[group].measured;
    if (!other_) other_.emplace();
    return *other_;
  }
  std::int64_t bucket(ClusterTime at) const;
  void append(std::string_view text);
  template <typename T>
  void append_raw(const T& value) {
    key_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  Group make(const Facts& facts) const;

  const AggregateSpec& spec_;
  const store::View& view_;
  std::vector<std::uint32_t> node_of_;  // by incarnation: the first number with that node's name
  std::int64_t bucket_ns_ = 0;
  bool needs_processes_ = false, scaled_ = false;
  std::string key_;
  boost::unordered_flat_map<std::string, std::uint32_t> places_;
  std::vector<Group> groups_;
  std::optional<Measured> other_;
};

}  // namespace scope::analysis
