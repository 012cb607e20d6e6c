// scope state
#include <CLI/CLI.hpp>

#include "cnode/cli/answer.h"
#include "cnode/cli/arguments.h"
#include "cnode/cli/command.h"
#include "cnode/cli/filter_flags.h"
#include "cnode/cli/times.h"

namespace scope::node::cli {
namespace {

class StateCommand : public Question {
 public:
  std::string_view name() const override { return "state"; }
  std::string_view summary() const override {
    return "a process's state, now or at a time, or how it came to be";
  }
  std::string_view examples() const override {
    return "state stock@shop2@localhost\n"
           "state Shop.Stock --at \"5s ago\"\n"
           "state 0.123.0 --node shop1@localhost --at 12:00:00.250\n"
           "state stock --history --since -1m --limit 20";
  }

 protected:
  void add_own_flags(CLI::App& app) override {
    app.add_option("process", process_, "0.123.0@node, NAME@node, NAME")->required();
    app.add_option("--node", node_, "the process's node");
    app.add_option("--at", at_,
                   "at this time (default now): 10s ago, -10s, 2024-05-01T12:00:00Z, 12:00:00");
    app.add_flag("--history", history_,
                 "the transitions, with what caused them and what they changed");
    page_.add_to(app);
  }

  Status check_own() override {
    if (!node_.empty()) {
      ASSIGN_OR_RETURN(node_, parse_node(node_));
    }
    ASSIGN_OR_RETURN(parsed_, parse_process(process_, node_));
    if (!at_.empty()) {
      if (history_)
        return fail(Code::bad_value, "--history takes --since and --until, not --at", "--at");
      auto time = parse_time(at_);
      if (!time) return fail(Code::bad_value, time.error().message, "--at", at_);
      time_ = *time;
    }
    return page_.check();
  }

  void write_request(codec::TermBuilder& out) const override {
    out.tuple(3).atom(history_ ? "get_state_history" : "get_state_at");
    parsed_.encode(out);
    if (history_) {
      Keywords k(out);
      page_.write(k);
      k.end();
    } else {
      time_.encode(out);
    }
  }

  std::string render(const codec::TermView& value, const Screen& screen) const override {
    return history_ ? render_history(value, screen) : render_state(value, screen);
  }

 private:
  std::string process_, node_, at_;
  bool history_ = false;
  PageFlags page_;
  ProcessArg parsed_;
  TimeArg time_;
};

}  // namespace

std::unique_ptr<Command> make_state() { return std::make_unique<StateCommand>(); }

}  // namespace scope::node::cli
