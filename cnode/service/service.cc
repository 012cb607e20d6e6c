#include "cnode/service/service.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "cnode/service/parse.h"
#include "cnode/service/reply.h"
#include "cnode/service/requests.h"
#include "cnode/service/subscribe_request.h"

namespace scope::node {
namespace {

using codec::TermBuilder;
using codec::TermView;

// {ok, Value} as far as Value; the value follows.
TermBuilder ok_reply() {
  TermBuilder out;
  out.tuple(2).atom("ok");
  return out;
}

// What a caller's atom table can bear. An atom takes two bytes at least, so that most replies need no count.
TermBuilder checked(TermBuilder reply) {
  if (reply.bytes().size() < 2 * kMaxAtoms || count_atoms(reply.bytes()) <= kMaxAtoms) return reply;
  return error_reply(
      {Code::too_many_atoms, "narrow the filter: a smaller limit or a shorter time", "filter", {}});
}

void write_nodes(TermBuilder& out, const std::vector<NodeOutcome>& nodes) {
  out.map(static_cast<std::uint32_t>(nodes.size()));
  for (const auto& node : nodes) {
    out.atom(node.node);
    if (!node.error) {
      out.atom("ok");
    } else {
      out.tuple(2).atom("error");
      write_error(out, *node.error);
    }
  }
}

// #{Node => what the agent predicts | unknown}; a node that could not say is {error, ..}.
void write_predictions(TermBuilder& out, const std::vector<NodeOutcome>& nodes) {
  out.map(static_cast<std::uint32_t>(nodes.size()));
  for (const auto& node : nodes) {
    out.atom(node.node);
    if (node.error) {
      out.tuple(2).atom("error");
      write_error(out, *node.error);
    } else if (node.prediction.empty()) {
      unknown(out);
    } else {
      out.raw(node.prediction);
    }
  }
}

// #{Node => [{What, Why}]}: asked for and not traced.
void write_left_out(TermBuilder& out, const std::vector<NodeOutcome>& nodes) {
  MapWriter map;
  for (const auto& node : nodes) {
    if (!node.left_out.empty()) map.key(node.node).raw(node.left_out);
  }
  map.write(out);
}

Result<std::vector<std::string>> read_path(const TermView& value) {
  std::vector<std::string> path;
  for (const auto& item : one_or_many(value)) {
    std::string name;
    ASSIGN_OR_RETURN(name, read_name(item, "path"));
    for (std::size_t begin = 0; begin <= name.size();) {
      const auto end = std::min(name.find('.', begin), name.size());
      path.push_back(name.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  if (path.empty())
    return bad_value("path", value, "must name a setting, for example [store, retain_bytes]");
  return path;
}

// One bounded queue and its threads.
class LanePool {
 public:
  using Job = std::move_only_function<void(bool stopped)>;

  LanePool(unsigned threads, std::size_t max_queue) : max_queue_(max_queue) {
    for (unsigned i = 0; i < std::max(threads, 1u); ++i) threads_.emplace_back([this] { work(); });
  }
  ~LanePool() { stop(); }

  // False when the queue is full; the job is untouched then.
  bool add(Job& job) {
    {
      const std::lock_guard lock(mutex_);
      if (stopped_ || jobs_.size() >= max_queue_) return false;
      jobs_.push_back(std::move(job));
    }
    wake_.notify_one();
    return true;
  }

  std::size_t waiting() const {
    const std::lock_guard lock(mutex_);
    return jobs_.size();
  }

  void stop() {
    std::deque<Job> left;
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
      left.swap(jobs_);
    }
    wake_.notify_all();
    for (auto& job : left) job(true);
    for (auto& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }

 private:
  void work() {
    while (true) {
      Job job;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return stopped_ || !jobs_.empty(); });
        if (jobs_.empty()) return;
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
      job(false);
    }
  }

  const std::size_t max_queue_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

TermBuilder error_reply(const Error& error) {
  TermBuilder out;
  out.tuple(2).atom("error");
  write_error(out, error);
  return out;
}

struct Service::Impl {
  Impl(store::TraceStore& s, Controls& c, ServiceOptions o)
      : store(s),
        controls(c),
        options(std::move(o)),
        jobs(store.upkeep(), options.edges),
        points(options.point_threads, options.max_queue),
        scans(options.scan_threads, options.max_queue),
        upkeep(1, 8) {}

  void count(const Error& error) {
    ++errors;
    if (error.code == Code::busy) ++busy;
  }
  TermBuilder failed(const Error& error) {
    count(error);
    return error_reply(error);
  }

  TermBuilder answer(const RequestDef& def, const Request& request,
                     std::chrono::steady_clock::time_point received);
  void control(const RequestDef& def, const Request& request, Reply reply);

  store::TraceStore& store;
  Controls& controls;
  const ServiceOptions options;
  std::atomic<std::shared_ptr<const analysis::Coverage>> coverage;
  std::atomic<std::uint64_t> received{0}, errors{0}, busy{0}, cancelled{0}, cuts{0};
  std::atomic<bool> stopped{false};
  StoreJobs jobs;
  LanePool points, scans, upkeep;  // last: their threads use what is above
};

TermBuilder Service::Impl::answer(const RequestDef& def, const Request& request,
                                  std::chrono::steady_clock::time_point at) {
  if (request.cancelled && request.cancelled->load(std::memory_order_relaxed)) {
    ++cancelled;
    return failed({Code::closed, "the caller went away", {}, {}});
  }
  Env env{{store.snapshot(),
           store.now(),
           {at + options.deadline, request.cancelled.get()},
           coverage.load(),
           options.edges ? options.edges->kept() : nullptr},
          store,
          options,
          at,
          jobs};
  if (env.context.budget.spent()) {
    ++cuts;
    return failed({Code::deadline, "it waited too long behind other requests; try again", {}, {}});
  }
  try {
    TermBuilder out = ok_reply();
    const Status done = def.run(request.term, env, out);
    if (!done) return failed(done.error());
    if (env.context.budget.spent()) ++cuts;
    return checked(std::move(out));
  } catch (const std::exception& e) {
    return failed({Code::internal, e.what(), std::string(def.name), {}});
  }
}

void Service::Impl::control(const RequestDef& def, const Request& request, Reply reply) {
  const TermView& term = request.term;
  const std::string by = request.caller + " on " + request.caller_node;
  const auto outcome = [this]<typename T>(Reply r, auto write) -> Controls::Reply<T> {
    return [this, r = std::move(r), write](Result<T> result) mutable {
      if (!result) return r(failed(result.error()));
      TermBuilder out = ok_reply();
      write(out, *result);
      r(checked(std::move(out)));
    };
  };
  if (def.name == "status") {
    return controls.status(outcome.operator()<StatusInfo>(
        std::move(reply), [this](TermBuilder& out, const StatusInfo& info) {
          write_status(out, info, store, options);
        }));
  }
  if (def.name == "start") {
    auto spec = parse_trace_spec(term.element(1), options.profiles);
    if (!spec) return reply(failed(spec.error()));
    return controls.start(*std::move(spec), by,
                          outcome.operator()<StartOutcome>(
                              std::move(reply), [](TermBuilder& out, const StartOutcome& started) {
                                MapWriter map;
                                map.key("id").unsigned_integer(started.id);
                                write_nodes(map.key("nodes"), started.nodes);
                                auto begun = started.nodes;
                                std::erase_if(begun, [](const auto& n) { return !!n.error; });
                                write_predictions(map.key("predictions"), begun);
                                write_left_out(map.key("left_out"), begun);
                                started.expires
                                    ? void(map.key("expires").integer(started.expires->ns))
                                    : void(map.key("expires").atom("infinity"));
                                map.write(out);
                              }));
  }
  if (def.name == "profiles") {
    return controls.profiles(outcome.operator()<std::vector<ProfileOutcome>>(
        std::move(reply), [](TermBuilder& out, const std::vector<ProfileOutcome>& profiles) {
          MapWriter map;
          for (const auto& p : profiles) {
            MapWriter item;
            item.key("help").binary(std::string_view(p.profile.help));
            item.key("continuous").boolean(p.profile.continuous);
            item.key("sample").real(p.profile.sample);
            item.key("fan_out").real(p.profile.fan_out);
            write_predictions(item.key("nodes"), p.nodes);
            item.write(map.key(p.profile.name));
          }
          map.write(out);
        }));
  }
  if (def.name == "stop") {
    std::optional<std::uint64_t> id;
    if (!term.element(1).is_atom("all")) {
      id = term.element(1).unsigned_integer();
      if (!id) {
        return reply(
            failed(bad_value("id", term.element(1), "must be the id that start returned, or all")
                       .error()));
      }
    }
    return controls.stop(
        id, by,
        outcome.operator()<StopOutcome>(
            std::move(reply), [](TermBuilder& out, const StopOutcome& result) {
              MapWriter map;
              auto& ids = map.key("stopped").list(static_cast<std::uint32_t>(result.ids.size()));
              for (const auto n : result.ids) ids.unsigned_integer(n);
              ids.nil();
              write_nodes(map.key("nodes"), result.nodes);
              map.write(out);
            }));
  }
  const auto encoded = [&] {
    return outcome.operator()<std::vector<std::byte>>(
        std::move(reply), [](TermBuilder& out, const std::vector<std::byte>& v) { out.raw(v); });
  };
  if (def.name == "subscribe") {
    auto wanted = read_subscribe(term);
    if (!wanted) return reply(failed(wanted.error()));
    return controls.subscribe(std::move(wanted->filter), wanted->demand, wanted->to, request.asker,
                              encoded());
  }
  if (def.name == "demand" || def.name == "unsubscribe") {
    const auto wanted = read_demand(term);
    if (!wanted) return reply(failed(wanted.error()));
    return def.name == "demand" ? controls.demand(wanted->subscription, wanted->more, encoded())
                                : controls.unsubscribe(wanted->subscription, encoded());
  }
  auto path = read_path(term.element(1));
  if (!path) return reply(failed(path.error()));
  controls.update_config(
      *std::move(path), term.element(2), by,
      outcome.operator()<std::monostate>(std::move(reply),
                                         [](TermBuilder& out, std::monostate) { out.atom("ok"); }));
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): an override keeps them
void Controls::subscribe(analysis::Filter, std::uint64_t, std::optional<codec::PidParts>, std::any,
                         Reply<std::vector<std::byte>> reply) {
  reply(fail(Code::not_available, "there are no subscriptions here"));
}
void Controls::demand(const codec::RefParts&, std::uint64_t, Reply<std::vector<std::byte>> reply) {
  reply(fail(Code::not_available, "there are no subscriptions here"));
}
void Controls::unsubscribe(const codec::RefParts&, Reply<std::vector<std::byte>> reply) {
  reply(fail(Code::not_available, "there are no subscriptions here"));
}

Service::Service(store::TraceStore& store, Controls& controls, ServiceOptions options)
    : impl_(std::make_unique<Impl>(store, controls, std::move(options))) {}

Service::~Service() { stop(); }

void Service::handle(Request request, Reply reply) {
  const auto received = std::chrono::steady_clock::now();
  ++impl_->received;
  if (impl_->stopped) return reply(impl_->failed({Code::closed, "the daemon is stopping", {}, {}}));
  const auto def = find_request(request.term);
  if (!def) return reply(impl_->failed(def.error()));
  if ((*def)->lane == Lane::control) return impl_->control(**def, request, std::move(reply));

  // The reply is shared so that it survives a queue that is full.
  const auto answer = std::make_shared<Reply>(std::move(reply));
  LanePool::Job job = [impl = impl_.get(), def = *def, request = std::move(request), answer,
                       received](bool stopped) {
    (*answer)(stopped ? impl->failed({Code::closed, "the daemon is stopping", {}, {}})
                      : impl->answer(*def, request, received));
  };
  auto& lane = (*def)->lane == Lane::points   ? impl_->points
               : (*def)->lane == Lane::upkeep ? impl_->upkeep
                                              : impl_->scans;
  if (!lane.add(job)) {
    (*answer)(impl_->failed({Code::busy, "too many requests wait; try again", {}, {}}));
  }
}

void Service::follow(std::shared_ptr<analysis::Follow> follow, std::uint32_t limit,
                     std::move_only_function<void(Result<FollowPage>)> done) {
  using Done = std::move_only_function<void(Result<FollowPage>)>;
  const auto shared = std::make_shared<Done>(std::move(done));
  LanePool::Job job = [impl = impl_.get(), follow = std::move(follow), limit,
                       shared](bool stopped) {
    if (stopped) return (*shared)(fail(Code::closed, "the daemon is stopping"));
    try {
      (*shared)(follow_page(*follow, limit,
                            {impl->store.snapshot(),
                             impl->store.now(),
                             {std::chrono::steady_clock::now() + kFollowDeadline, nullptr},
                             impl->coverage.load()}));
    } catch (const std::exception& e) {
      (*shared)(fail(Code::internal, e.what()));
    }
  };
  if (impl_->stopped) return (*shared)(fail(Code::closed, "the daemon is stopping"));
  if (!impl_->scans.add(job)) (*shared)(fail(Code::busy, "too many requests wait; try again"));
}

void Service::set_coverage(std::shared_ptr<const analysis::Coverage> coverage) {
  impl_->coverage.store(std::move(coverage));
}

ServiceStats Service::stats() const {
  return {
      impl_->received, impl_->errors,
      impl_->busy,     impl_->cancelled,
      impl_->cuts,     impl_->points.waiting() + impl_->scans.waiting() + impl_->upkeep.waiting()};
}

void Service::stop() {
  impl_->stopped = true;
  impl_->points.stop();
  impl_->scans.stop();
  impl_->jobs.stop();
  impl_->upkeep.stop();
}

}  // namespace scope::node
