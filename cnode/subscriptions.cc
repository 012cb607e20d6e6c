#include "cnode/subscriptions.h"

#include <boost/asio/post.hpp>

#include "analysis/follow.h"
#include "cnode/agents/signal.h"
#include "cnode/dist/spawn.h"
#include "cnode/service/reply.h"

namespace scope::node {
namespace {

using namespace std::chrono_literals;
using codec::TermBuilder;

constexpr std::uint64_t kMostRows = 1000;
constexpr auto kLook = 20ms;  // how often one that has seen everything looks for more
constexpr auto kFull = 50ms;  // and one whose link's queue is full tries again

}  // namespace

struct Subscriptions::Subscription {
  Subscription(boost::asio::io_context& io, analysis::Filter filter, store::TraceStore& store)
      : follow(
            std::make_shared<analysis::Follow>(std::move(filter), *store.snapshot(), store.now())),
        changed(io) {}
  Ref ref, monitor;
  Pid subscriber;
  std::uint64_t demand = 0;
  const std::shared_ptr<analysis::Follow> follow;
  std::optional<Result<Service::FollowPage>> page;
  std::vector<std::byte> missing;  // as told last
  bool over = false;
  Signal changed;
};

Subscriptions::Subscriptions(boost::asio::io_context& io, Node& node, store::TraceStore& store,
                             Service& service, Pid watcher)
    : io_(io), node_(node), store_(store), service_(service), watcher_(std::move(watcher)) {}

Subscriptions::~Subscriptions() {
  *alive_ = false;
  for (auto& [ref, s] : all_) {
    s->over = true;
    s->changed.notify();
  }
}

Result<Ref> Subscriptions::subscribe(analysis::Filter filter, std::uint64_t demand,
                                     const Pid& subscriber) {
  if (all_.size() >= kMost)
    return fail(Code::busy, "there are too many subscriptions; end one", "subscribe");
  auto s = std::make_shared<Subscription>(io_, std::move(filter), store_);
  s->ref = node_.make_ref();
  s->subscriber = subscriber;
  s->demand = demand;
  s->monitor = node_.monitor(watcher_, subscriber);
  all_.emplace(s->ref, s);
  monitors_.emplace(s->monitor, s);
  spawn(io_, "a subscription", run(alive_, *this, s));
  return s->ref;
}

Result<std::uint64_t> Subscriptions::demand(const Ref& ref, std::uint64_t more) {
  const auto it = all_.find(ref);
  if (it == all_.end())
    return fail(Code::bad_value, "there is no such subscription; it has ended", "ref");
  it->second->demand = std::min(it->second->demand + more, kMostDemand);
  it->second->changed.notify();
  return it->second->demand;
}

Status Subscriptions::unsubscribe(const Ref& ref) {
  const auto it = all_.find(ref);
  if (it == all_.end())
    return fail(Code::bad_value, "there is no such subscription; it has ended", "ref");
  const Shared s = it->second;
  node_.demonitor(s->monitor);
  end(s);
  return {};
}

bool Subscriptions::on_down(const Ref& monitor) {
  const auto it = monitors_.find(monitor);
  if (it == monitors_.end()) return false;
  const Shared s = it->second;
  end(s);
  return true;
}

void Subscriptions::end(const Shared& s) {
  s->over = true;
  s->changed.notify();
  all_.erase(s->ref);
  monitors_.erase(s->monitor);
}

Awaitable<void> Subscriptions::run(std::shared_ptr<bool> alive, Subscriptions& all, Shared s) {
  const auto message = [&](std::string_view kind) {
    TermBuilder out;
    out.tuple(3).atom(kind).reference(s->ref.parts());
    return out;
  };
  bool more = false;
  while (!s->over) {
    if (s->demand == 0) {
      co_await s->changed.wait_for(1h);
      continue;
    }
    if (!more && !s->follow->behind(*all.store_.snapshot())) {
      co_await s->changed.wait_for(kLook);
      continue;
    }
    s->page.reset();
    all.service_.follow(
        s->follow, static_cast<std::uint32_t>(std::min(s->demand, kMostRows)),
        [&io = all.io_, s](Result<Service::FollowPage> page) {
          boost::asio::post(
              io, [s, made = std::make_shared<Result<Service::FollowPage>>(std::move(page))] {
                s->page.emplace(std::move(*made));
                s->changed.notify();
              });
        });
    while (!s->page && *alive) co_await s->changed.wait_for(1s);
    if (s->over) break;
    auto& page = *s->page;
    if (!page && page.error().code == Code::busy) {
      co_await s->changed.wait_for(kFull);
      continue;
    }
    if (!page) {
      auto last = message("scope_end");
      write_error(last, page.error());
      (void)all.node_.send(s->subscriber, last.bytes());
      all.node_.demonitor(s->monitor);
      all.end(s);
      break;
    }
    more = page->more;
    std::vector<std::vector<std::byte>> out;
    if (const auto missing = page->missing.bytes();
        page->incomplete && !std::ranges::equal(missing, s->missing)) {
      s->missing.assign(missing.begin(), missing.end());
      auto term = message("scope_missing");
      term.raw(missing);
      out.emplace_back(term.bytes().begin(), term.bytes().end());
    }
    if (page->count > 0) {
      auto term = message("scope_events");
      term.raw(page->events.bytes());
      out.emplace_back(term.bytes().begin(), term.bytes().end());
      s->demand -= page->count;
    }
    for (const auto& term : out) {
      while (!s->over) {
        const auto sent = all.node_.send(s->subscriber, term);
        if (sent || sent.error().code != Code::busy) break;
        co_await s->changed.wait_for(kFull);
      }
    }
  }
}

}  // namespace scope::node
