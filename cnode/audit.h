// Audit: what others had changed, written into the store's audit log; in front of the daemon's own Controls.
//
// What   Notes each start, stop and setting with who asked, when, the options as they were understood, and what came of
//        it; and, told by the daemon, the ends that nobody asked for. An entry is written before its outcome is known
//        (`pending`) and completed then: what is `pending` for ever was cut off by the daemon's end.
//        A start waits until it is noted, and is refused if it cannot be: nobody traces unseen. A stop never waits.
// Entry  #{action => start | stop | update_config | ended | daemon_start | daemon_stop, by => text, via => node |
//          command_line | daemon, options => map | id | all | {Path, Value} | why, traces => [id],
//          outcome => ok | pending | {error, {Code, #{..}}}, nodes => #{Node => ok | {error, ..}}}
// Life   The store, `inner` and the io_context outlive it; close() writes what waits.
// Thread The io_context's; the disk is waited for on a thread of its own.
// Bounds kMostWaiting entries wait for the disk; beyond, and where writing fails, they are lost and counted (audit_lost).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cnode/dist/awaitable.h"
#include "cnode/service/service.h"
#include "ei_codec/base/counters.h"
#include "store/trace_store.h"

namespace boost::asio {
class thread_pool;
}

namespace scope::node {

class Audit : public Controls {
 public:
  static constexpr std::size_t kMostWaiting = 1000;

  Audit(boost::asio::io_context& io, store::TraceStore& store, Controls& inner,
        std::shared_ptr<Counters> counters);
  ~Audit() override;

  void status(Reply<StatusInfo> reply) override { inner_.status(std::move(reply)); }
  void profiles(Reply<std::vector<ProfileOutcome>> reply) override {
    inner_.profiles(std::move(reply));
  }
  void subscribe(analysis::Filter filter, std::uint64_t demand, std::optional<codec::PidParts> to,
                 std::any asker, Reply<std::vector<std::byte>> reply) override {
    inner_.subscribe(std::move(filter), demand, to, std::move(asker), std::move(reply));
  }
  void demand(const codec::RefParts& subscription, std::uint64_t more,
              Reply<std::vector<std::byte>> reply) override {
    inner_.demand(subscription, more, std::move(reply));
  }
  void unsubscribe(const codec::RefParts& subscription,
                   Reply<std::vector<std::byte>> reply) override {
    inner_.unsubscribe(subscription, std::move(reply));
  }
  void start(TraceSpec spec, std::string by, Reply<StartOutcome> reply) override;
  void stop(std::optional<std::uint64_t> id, std::string by, Reply<StopOutcome> reply) override;
  void update_config(std::vector<std::string> path, codec::TermView value, std::string by,
                     Reply<std::monostate> reply) override;

  // What the daemon did by itself, or an agent on `node` (empty: none).
  void note(std::string_view action, std::string_view why, std::vector<std::uint64_t> traces,
            std::string_view node = {});
  void close();

 private:
  struct Note;
  using Shared = std::shared_ptr<Note>;

  Shared make(std::string_view action, std::string by) const;
  // Writes it as it is now, after what was given before. Never waits.
  void write(const Shared& note);
  Awaitable<void> start_noted(TraceSpec spec, std::string by, Reply<StartOutcome> reply);

  boost::asio::io_context& io_;
  store::TraceStore& store_;
  Controls& inner_;
  const std::shared_ptr<Counters> counters_;
  std::size_t waiting_ = 0;  // writes
  std::unique_ptr<boost::asio::thread_pool> disk_;
};

}  // namespace scope::node
