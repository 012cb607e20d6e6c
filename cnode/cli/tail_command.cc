// scope tail
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <deque>

#include "cnode/cli/answer.h"
#include "cnode/cli/command.h"
#include "cnode/cli/filter_flags.h"
#include "cnode/cli/times.h"
#include "cnode/dist/process.h"

namespace scope::node::cli {
namespace {

using codec::TermView;

constexpr std::uint64_t kDemand = 10'000;  // that are under way to us at most

struct Inbox : Process {
  void on_message(Message message) override { messages.push_back(std::move(message)); }
  std::deque<Message> messages;
};

class TailCommand : public Question {
 public:
  std::string_view name() const override { return "tail"; }
  std::string_view summary() const override { return "what is recorded, as it is recorded"; }
  std::string_view examples() const override {
    return "tail --module Shop.Orders\n"
           "tail --pid stock@shop2@localhost --type state_change --count 20\n"
           "tail --type function_exception --for 10m --json       one JSON document a line";
  }

  int run() override {
    const auto screen = common_.screen();
    Inbox inbox;
    const auto client = connect(screen);
    if (!client) return kExitNoConnection;
    to_ = client->add_process(&inbox);
    const auto until = std::chrono::steady_clock::now() + for_time_;
    const auto over = [&] {
      return for_.empty() ? false : std::chrono::steady_clock::now() >= until;
    };
    codec::TermBuilder request;
    write_request(request);
    const auto reply = client->ask(request);
    if (!reply)
      return no_connection(screen, "scope tail", client.get(), client->daemon(), reply.error());
    const auto ref = unwrap(reply->term);
    if (!ref) {
      show(screen, "scope tail", ref.error());
      return kExitError;
    }
    std::uint64_t shown = 0;
    bool titles = true;
    while (count_ == 0 || shown < count_) {
      if (!client->run_until([&] { return !inbox.messages.empty() || over(); })) {
        return no_connection(screen, "scope tail", client.get(), client->daemon(),
                             Error{Code::node_down, "the link was lost", {}, {}});
      }
      if (inbox.messages.empty()) break;
      const Message message = std::move(inbox.messages.front());
      inbox.messages.pop_front();
      if (message.term.arity() != 3u) continue;
      const auto value = message.term.element(2);
      const auto kind = message.term.element(0).atom().value_or("");
      if (kind == "scope_missing") {
        for (const auto& line : completeness(value)) screen.remark(line);
      } else if (kind == "scope_end") {
        screen.remark("the daemon ended it: " + screen.term(value));
        return kExitError;
      } else if (kind == "scope_events") {
        const auto n = show_events(value, screen, titles);
        titles = false;
        shown += n;
        if (count_ > 0 || n == 0) continue;
        codec::TermBuilder more;
        more.tuple(3).atom("demand").raw(ref->bytes()).unsigned_integer(n);
        if (const auto said = client->ask(more); !said)
          return no_connection(screen, "scope tail", client.get(), client->daemon(), said.error());
      }
    }
    return kExitOk;
  }

 protected:
  void add_own_flags(CLI::App& app) override {
    rows_.add_to(app);
    app.add_option("--count", count_, "end after so many events");
    app.add_option("--for", for_, "end after this time: 30s, 10m");
  }
  Status check_own() override {
    if (!for_.empty()) {
      const auto ns = parse_duration(for_);
      if (!ns) return fail(Code::bad_value, ns.error().message, "--for", for_);
      for_time_ = std::chrono::nanoseconds(*ns);
    }
    return rows_.check();
  }
  void write_request(codec::TermBuilder& out) const override {
    out.tuple(3).atom("subscribe");
    Keywords filter(out);
    rows_.write(filter);
    filter.end();
    Keywords options(out);
    options.key("to").pid(to_.parts());
    options.key("demand").unsigned_integer(count_ > 0 ? count_ : kDemand);
    options.end();
  }
  std::string render(const TermView&, const Screen&) const override { return {}; }

 private:
  static std::uint64_t show_events(const TermView& events, const Screen& screen, bool titles) {
    codec::TermBuilder page;
    page.map(1).atom("events").term(events);
    const auto value = *codec::view(page.bytes());
    const auto list = get_list(value, "events");
    if (screen.json) {
      for (const auto& event : list) screen.print_json(event);
    } else {
      screen.print(event_rows(value, screen, titles));
    }
    return list.size();
  }

  RowFlags rows_;
  std::uint64_t count_ = 0;
  std::string for_;
  std::chrono::nanoseconds for_time_{0};
  Pid to_;
};

}  // namespace

std::unique_ptr<Command> make_tail() { return std::make_unique<TailCommand>(); }

}  // namespace scope::node::cli
