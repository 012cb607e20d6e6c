// The messages that the clocks are refined by: read from the view and matched.
#include <algorithm>

#include "analysis/clock_messages.h"
#include "analysis/message_match.h"
#include "analysis/row_stream.h"

namespace scope::analysis {
namespace {

struct Sure : MatchSink {
  Sure(const store::View& v, MessageClocks& to) : view(v), clocks(to) {}
  // Cuts come with pings (AgentSession::on_pong): up to one, the clock is what was stored.
  bool pinged(const EventId& id) const {
    const auto until = view.complete_until(id.process.incarnation);
    return until && id.time <= *until;
  }
  void matched(const Message& send, const Message& arrival, Matched how, std::uint32_t) override {
    if (how != Matched::exact && how != Matched::unique) return;
    clocks.add(send.id, arrival.id, how == Matched::exact && pinged(send.id) && pinged(arrival.id));
  }
  void taken(const Message&, const Message&) override {}
  const store::View& view;
  MessageClocks& clocks;
};

constexpr std::size_t kAdvanceEvery = 1024;

}  // namespace

PairsRead read_pairs(const Context& context, const PairRange& range, MessageClocks& out) {
  const ClockModel clock(*context.view);
  ScanSpec spec;
  spec.types = codec::bit(codec::EventType::message_send) |
               codec::bit(codec::EventType::message_fetch) |
               codec::bit(codec::EventType::message_take);
  spec.order = Order::oldest_first;
  spec.since = range.since;
  spec.until = range.until;
  spec.payload = true;
  RowStream rows(context, clock, spec);
  Receivers receivers(context, clock);
  Sure sure(*context.view, out);
  MessageMatcher matcher(sure);
  PairsRead read{range.until};
  ClusterTime last = range.since;
  for (RowStream::Item item; rows.next(item);) {
    last = item.at.time;
    if (++read.rows > range.max_rows) break;
    if (read.rows % kAdvanceEvery == 0) matcher.advance(item.at.time);
    matcher.add(receivers.message(*item.row, item.at));
  }
  if (rows.cut() || read.rows > range.max_rows) read.until = last;
  matcher.finish();
  return read;
}

std::optional<ClusterTime> all_complete_until(const Context& context, std::int64_t fresh_ns) {
  const ClockModel clock(*context.view);
  std::optional<ClusterTime> least;
  int measured = 0;
  for (const auto& info : context.view->incarnations()) {
    const auto* newest = clock.newest(info.number);
    if (newest == nullptr || newest->measured_at.ns < context.now.ns - fresh_ns) continue;
    ++measured;
    const auto complete = context.view->complete_until(info.number);
    if (!complete) return std::nullopt;
    const auto at = clock.cluster(info.number, *complete);
    const ClusterTime until{at.time.ns - at.error_ns};
    if (!least || until < *least) least = until;
  }
  return measured < 2 ? std::nullopt : least;
}

}  // namespace scope::analysis
