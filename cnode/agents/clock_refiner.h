// ClockRefiner: keeps the clock model in line with the messages between the nodes (analysis/clock_messages.h).
//
// What   Every kPeriod the message rows that came complete since the last pass are matched, and what they say of the clocks
//        is stored as versions.
// Bounds kMaxRows rows and kMaxPass a pass; what a pass did not reach it takes up next time, but nothing older than kBehindNs:
//        under more load the clocks are refined by a part of the messages. The last takes up to kLastRows and kLastPass.
//        Its memory: MessageClocks, one pass's matcher.
// Life   The store and the io_context outlive it; finish() or the destructor end it and wait for a pass under way.
// Thread The io_context's; passes on a thread of its own.
#pragma once

#include <atomic>
#include <memory>

#include "analysis/clock_messages.h"
#include "cnode/dist/awaitable.h"
#include "ei_codec/base/counters.h"
#include "store/trace_store.h"

namespace boost::asio {
class io_context;
class thread_pool;
}  // namespace boost::asio

namespace scope::node {

class ClockRefiner {
 public:
  ClockRefiner(boost::asio::io_context& io, store::TraceStore& store,
               std::shared_ptr<Counters> counters);
  ~ClockRefiner();

  void start();
  // A last pass over what has come since, then no more.
  static Awaitable<void> finish(ClockRefiner& refiner);

 private:
  struct State;
  static Awaitable<void> run(std::shared_ptr<State> state);
  static Awaitable<void> pass(std::shared_ptr<State> state);

  std::shared_ptr<State> state_;
};

}  // namespace scope::node
