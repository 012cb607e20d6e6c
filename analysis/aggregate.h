// aggregate: how many rows match a filter, and how long calls took or messages waited, by group.
//
// Value   Without one, rows are counted. `duration` is of function calls: the rows counted are the exits, and min .. p99 are
//         over those whose entry was recorded. `queue_time` is of messages: the rows counted are the takings, and min .. p99
//         are over those whose sending is known beyond doubt (one send and one taking of that content in question).
//         `measured` says over how many.
// Exact   Counts are exact, whatever clocks say and however late data came. They come from the store's rollups where whole
//         seconds lie within a group, else from rows. min, max and mean are exact, quantiles within 1.3 %.
// Scaled  Rows of a node that is sampled at rate r count 1/r each; `rows` says how many there were.
// Bounds  At most kMaxGroups groups: rows of further ones go into `other`. Open calls, and takings whose sending is looked
//         for, are bounded too: beyond, they are counted and not measured. A deadline gives what was counted until then.
// Thread  Pure.
#pragma once

#include <boost/histogram/axis/regular.hpp>
#include <boost/histogram/make_histogram.hpp>
#include <boost/histogram/unlimited_storage.hpp>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "analysis/explain.h"
#include "analysis/query.h"
#include "analysis/resolve.h"

namespace scope::analysis {

enum class GroupKey : std::uint8_t { node, mfa, module, pid, edge, type, time };
enum class ValueOf : std::uint8_t { nothing, duration, queue_time };

struct Grouping {
  GroupKey key{};
  std::int64_t bucket_ns = 0;  // of time: buckets of cluster time that begin at multiples of it
};

// Times of a group. Bins of 2.5 % from 100 ns to 10,000 s; made when the first value comes.
class Distribution {
 public:
  void add(std::int64_t ns);
  std::uint64_t count() const { return count_; }
  std::int64_t min() const { return min_; }
  std::int64_t max() const { return max_; }
  double mean() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }
  double quantile(double q) const;  // REQUIRES count() > 0

 private:
  using Log = boost::histogram::axis::regular<double, boost::histogram::axis::transform::log>;
  using Histogram =
      boost::histogram::histogram<std::tuple<Log>, boost::histogram::unlimited_storage<>>;
  std::unique_ptr<Histogram> bins_;
  std::uint64_t count_ = 0;
  std::int64_t min_ = std::numeric_limits<std::int64_t>::max();
  std::int64_t max_ = std::numeric_limits<std::int64_t>::min();
  double sum_ = 0;
};

struct Measured {
  std::uint64_t rows = 0;
  double count = 0;  // rows, scaled
  Distribution values;
};

// What the rows of a group have in common; of each Grouping its part.
struct Group {
  std::string node;
  std::string module, function;
  std::uint8_t arity = 0;
  ProcessId pid;            // of the VM's home incarnation
  store::StoredRow sender;  // edge: a row of it; its texts are in `texts`
  codec::EventType type{};
  ClusterTime time;  // where the bucket begins
  std::shared_ptr<const std::vector<std::string>> texts;
  Measured measured;
};

struct AggregateSpec {
  Filter filter;  // order and cursor do not matter
  std::vector<Grouping> by;
  ValueOf value = ValueOf::nothing;
  std::size_t limit = 0;  // groups given, those with the highest counts; 0: all
};

struct Aggregate {
  std::vector<Group> groups;  // by time if there are buckets, then by count, highest first
  std::optional<Measured> other;
  std::size_t not_listed = 0;  // groups beyond the limit
  double seconds = 0;          // that the rates are over: the range, or the bucket
  bool scaled = false;
  std::optional<Explain> explain;
  Completeness completeness;
};

inline constexpr std::size_t kMaxGroups = 10'000;

// Errors: those of resolve() and resolve_time(), bad_value.
Result<Aggregate> aggregate(const Context& context, const AggregateSpec& spec);

}  // namespace scope::analysis
