// The messages that the clocks are refined by: read from the view and matched.
//
// When was it sent?  The VM traces a message to another node after it has handed it to the connection (remote_send in OTP's
// bif.c; one to a process of its own node before). Another thread may write it and its receiver fetch it meanwhile, if the
// sender's loses the processor there: the time of its row is then late, by 100 us where that was seen. So a bound takes it as
// sent when its process's row before it was made, as it certainly was later; and is not there without such a row.
#include <algorithm>
#include <boost/unordered/unordered_flat_map.hpp>
#include <utility>

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
    const bool proves = how == Matched::exact && pinged(send.id) && pinged(arrival.id);
    clocks.add(send.id, arrival.id, proves ? send.follows : std::nullopt);
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
  boost::unordered_flat_map<ProcessId, RawTime, std::hash<ProcessId>>
      newest;  // row of each process
  PairsRead read{range.until, std::max(range.since, ClusterTime{range.until.ns - kOverlapNs})};
  ClusterTime last = range.since;
  std::vector<ClusterTime> marks;  // of every kAdvanceEvery'th row
  for (RowStream::Item item; rows.next(item);) {
    last = item.at.time;
    if (++read.rows > range.max_rows) break;
    if (read.rows % kAdvanceEvery == 0) {
      matcher.advance(last);
      marks.push_back(last);
    }
    auto message = receivers.message(*item.row, item.at);
    const auto [before, first] = newest.try_emplace(message.id.process, message.id.time);
    if (!first) message.follows = std::exchange(before->second, message.id.time);
    matcher.add(message);
  }
  if (rows.cut() || read.rows > range.max_rows) {
    const auto before = marks.empty() ? last : marks[marks.size() * 3 / 4];
    read.until = last;
    read.next = std::max(before, ClusterTime{last.ns - kOverlapNs});
  }
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
