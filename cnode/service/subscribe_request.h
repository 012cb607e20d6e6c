// {subscribe, Filter, Opts}, {demand, Ref, N}, {unsubscribe, Ref} (cnode/subscriptions.h says what is sent). Opts: demand (0),
// to (a pid; else the caller). A subscription begins now and has no end: since, until, limit, order, cursor and explain are
// refused in its filter. Thread: any.
#pragma once

#include "analysis/follow.h"
#include "cnode/service/service.h"

namespace scope::node {

inline constexpr std::chrono::milliseconds kFollowDeadline{500};
inline constexpr std::size_t kFollowBytes = 1u << 20;  // payload bytes of one message

struct SubscribeRequest {
  analysis::Filter filter;
  std::uint64_t demand = 0;
  std::optional<codec::PidParts> to;  // lives as long as the request
};
Result<SubscribeRequest> read_subscribe(const codec::TermView& request);

struct DemandRequest {
  codec::RefParts subscription;  // lives as long as the request
  std::uint64_t more = 0;
};
Result<DemandRequest> read_demand(const codec::TermView& request);  // of unsubscribe, too

Result<Service::FollowPage> follow_page(analysis::Follow& follow, std::uint32_t limit,
                                        const analysis::Context& context);

}  // namespace scope::node
