// Subscriptions: events sent to whoever asked for them, as they arrive, never more than were asked for.
//
// What   Each follows the store (analysis/follow.h) from the moment it was made. Sends to the subscriber, a pid:
//          {scope_events, Ref, [Event]}         taken from its demand
//          {scope_missing, Ref, Completeness}   what those before and after it lack, when that has changed
//          {scope_end, Ref, {Code, #{..}}}      it cannot go on
//        Without demand nothing is read for it and nothing is kept. A link whose queue is full is waited for.
// Life   A subscription ends with unsubscribe, its subscriber (monitored) or the link to it. Node and Service outlive this.
// Thread The io_context's; pages are made on the service's threads.
// Bounds kMost subscriptions; kMostRows rows and about kMostBytes in a message, one message in the making each.
#pragma once

#include <functional>
#include <memory>
#include <unordered_map>

#include "cnode/dist/awaitable.h"
#include "cnode/dist/node.h"
#include "cnode/service/service.h"
#include "store/trace_store.h"

namespace scope::node {

class Subscriptions {
 public:
  static constexpr std::size_t kMost = 64;
  static constexpr std::uint64_t kMostDemand = 1'000'000'000;

  // `watcher`: the process whose monitors tell of the subscribers' ends; its on_down comes to on_down().
  Subscriptions(boost::asio::io_context& io, Node& node, store::TraceStore& store, Service& service,
                Pid watcher);
  ~Subscriptions();

  Result<Ref> subscribe(analysis::Filter filter, std::uint64_t demand, const Pid& subscriber);
  Result<std::uint64_t> demand(const Ref& ref, std::uint64_t more);  // all that is asked for now
  Status unsubscribe(const Ref& ref);
  bool on_down(const Ref& monitor);  // was it one of ours?
  std::size_t size() const { return all_.size(); }

 private:
  struct Subscription;
  using Shared = std::shared_ptr<Subscription>;

  static Awaitable<void> run(std::shared_ptr<bool> alive, Subscriptions& all, Shared s);
  void end(const Shared& s);

  boost::asio::io_context& io_;
  Node& node_;
  store::TraceStore& store_;
  Service& service_;
  const Pid watcher_;
  std::unordered_map<Ref, Shared> all_;       // by reference
  std::unordered_map<Ref, Shared> monitors_;  // by monitor
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace scope::node
