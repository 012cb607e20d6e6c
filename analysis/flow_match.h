// Pairing sends of one content with its arrivals at one receiver (model.md, Matching content). For message_flow and
// aggregate. Thread: pure.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "analysis/event_scan.h"

namespace scope::analysis {

// How far apart two corrected times may really be; 0 on one clock.
std::int64_t slack(const Hit& a, const Hit& b);
// From `earlier` to `later`, by one clock where both have it.
std::int64_t elapsed(const Hit& earlier, const Hit& later);

struct Match {
  std::optional<Hit> fetch, take;
  std::uint32_t candidates = 0;  // sends or arrivals in question, whichever are more
};

// All sends of one content in one direction, all fetches and takings of it at the receiver; each in time order.
struct Content {
  std::vector<Hit> sends, fetches, takes;
};

// Pairs in order within the clusters that time separates: a cluster ends where as many arrived as were sent, and the
// next send is certainly later than the last arrival. By send. Without any fetch, takings are the arrivals.
void match(const Content& content, std::map<EventId, Match>& out);

}  // namespace scope::analysis
