#include "cnode/service/subscribe_request.h"

#include "cnode/service/parse.h"
#include "cnode/service/reply.h"

namespace scope::node {
namespace {

using codec::TermView;

constexpr std::int64_t kMostDemand = 1'000'000'000;

constexpr OptionReader<SubscribeRequest> kOptions[] = {
    {"demand",
     [](SubscribeRequest& r, const TermView& v, std::string_view f) -> Status {
       std::int64_t n = 0;
       ASSIGN_OR_RETURN(n, read_integer(v, f, 0, kMostDemand));
       r.demand = static_cast<std::uint64_t>(n);
       return {};
     }},
    {"to",
     [](SubscribeRequest& r, const TermView& v, std::string_view f) -> Status {
       r.to = v.pid();
       if (!r.to) return bad_value(f, v, "must be a pid");
       return {};
     }},
};

}  // namespace

Result<SubscribeRequest> read_subscribe(const TermView& request) {
  SubscribeRequest out;
  FilterRequest wanted;
  ASSIGN_OR_RETURN(wanted, read_filter(request.element(1)));
  const auto& f = wanted.filter;
  const auto refused = [&](std::string_view key, std::string_view why) {
    return bad_value(key, request.element(1), std::string(why));
  };
  if (f.since) return refused("since", "a subscription begins now; ask get_events for the past");
  if (f.until) return refused("until", "a subscription ends with unsubscribe");
  if (wanted.limit) return refused("limit", "the demand says how many");
  if (f.order != analysis::Order::newest_first || !f.cursor.empty())
    return refused("order", "events come as they arrive");
  if (f.explain) return refused("explain", "only get_events is explained");
  out.filter = std::move(wanted.filter);
  RETURN_IF_ERROR(read_options<SubscribeRequest>(request.element(2), kOptions, out));
  return out;
}

Result<DemandRequest> read_demand(const TermView& request) {
  DemandRequest out;
  const auto ref = request.element(1).reference();
  if (!ref) return bad_value("ref", request.element(1), "must be what subscribe answered");
  out.subscription = *ref;
  if (request.arity() == 3u) {
    std::int64_t n = 0;
    ASSIGN_OR_RETURN(n, read_integer(request.element(2), "demand", 1, kMostDemand));
    out.more = static_cast<std::uint64_t>(n);
  }
  return out;
}

Result<Service::FollowPage> follow_page(analysis::Follow& follow, std::uint32_t limit,
                                        const analysis::Context& context) {
  analysis::Follow::Page page;
  ASSIGN_OR_RETURN(page, follow.next(context, limit, kFollowBytes));
  Service::FollowPage out;
  const analysis::ClockModel clock(*context.view);
  out.count = static_cast<std::uint32_t>(page.events.size());
  out.events.list(out.count);
  for (const auto& event : page.events) write_event(out.events, *context.view, clock, event);
  out.events.nil();
  write_completeness(out.missing, page.completeness);
  out.incomplete = !page.completeness.complete();
  out.more = page.more;
  return out;
}

}  // namespace scope::node
