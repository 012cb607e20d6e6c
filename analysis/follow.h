// Follow: the rows that match a filter in the order in which their batches arrived, each once, by pages: for subscriptions.
//
// What   Begins behind the newest batch of the view it was made with. Sealed blocks are taken one after the other, each in
//        order of corrected time; then what is in no block yet, as one. A block also holds batches that were looked at before it
//        was sealed: the ids of rows given out of the tail are kept until they are passed (at most about two blocks' rows).
//        So a follower that lags loses nothing and holds nothing of the store; if retention was faster, the page says so.
// Life   The contexts' views are not kept.
// Thread One at a time.
// Errors Those of get_events().
#pragma once

#include <map>
#include <optional>

#include "analysis/event_scan.h"
#include "analysis/query.h"

namespace scope::analysis {

class Follow {
 public:
  Follow(Filter filter, const store::View& view, ClusterTime now);

  struct Page {
    std::vector<Event> events;
    Owners owners;
    Completeness completeness;  // of the time since the page before
    bool more = false;          // there is, or may be, more already
  };
  // At most `limit` rows and about `max_bytes` of payload.
  Result<Page> next(const Context& context, std::uint32_t limit, std::size_t max_bytes);
  // Would next() find batches that it has not passed?
  bool behind(const store::View& view) const { return view.upper() > after_; }

 private:
  void prune(store::Lsn up_to);

  const Filter filter_;
  store::Lsn after_;                     // batches up to here are passed
  std::optional<store::Lsn> block_;      // the last batch of the block that is being given ...
  std::optional<Position> position_;     // ... up to here
  std::map<EventId, store::Lsn> given_;  // out of the tail
  std::uint32_t partition_ = 0;          // the newest one seen
  ClusterTime told_;                     // completeness was told up to here
};

}  // namespace scope::analysis
