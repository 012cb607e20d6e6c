// scope trace, scope untrace
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>

#include "cnode/cli/answer.h"
#include "cnode/cli/arguments.h"
#include "cnode/cli/command.h"
#include "cnode/cli/filter_flags.h"
#include "cnode/cli/table.h"
#include "cnode/cli/times.h"

namespace scope::node::cli {
namespace {

Status flag_error(Error error, std::string_view flag, std::string_view got) {
  return fail(Code::bad_value, std::move(error.message), std::string(flag), std::string(got));
}

// A node's prediction in a line.
void add_prediction(Table& table, const std::string& profile, const std::string& node,
                    const codec::TermView& said, const std::string& help, const Screen& screen) {
  if (!said.map()) {
    table.add({profile, node, "", "", screen.term(said), help});
    return;
  }
  const auto text = prediction_text(said, screen);
  table.add({profile, node, text.events_per_s, text.cost, text.known, help});
}

std::string render_profiles(const codec::TermView& value, const Screen& screen) {
  Table table({{"profile"},
               {"node"},
               {"events/s", true},
               {"cost", true},
               {"known"},
               {"what", false, true}});
  for (auto it = *value.map(); !it.done(); it.next()) {
    const auto nodes = get(it.value(), "nodes");
    const auto name = screen.term(it.key());
    const auto help = get_text(it.value(), "help");
    bool first = true;
    for (auto n = nodes ? nodes->map() : std::nullopt; n && !n->done(); n->next()) {
      add_prediction(table, first ? name : "", screen.term(n->key()), n->value(), first ? help : "",
                     screen);
      first = false;
    }
    if (first) table.add({name, "no node is connected", "", "", "", help});
  }
  return table.render(screen.out);
}

class TraceCommand : public Question {
 public:
  std::string_view name() const override { return "trace"; }
  std::string_view summary() const override { return "start a trace"; }
  std::string_view examples() const override {
    return "trace --profile balanced --for 10m                   messages, lifecycle and state of "
           "every process\n"
           "trace --module Shop.Stock,Shop.Orders --args         calls of these modules, with "
           "their arguments\n"
           "trace --mfa Shop.Stock.take/2 --mfa gen_server:call  calls of these functions\n"
           "trace --name stock@shop2@localhost --state           one process's state\n"
           "trace --follow front@shop1@localhost --shots 5      the next five messages it takes, "
           "to wherever they lead\n"
           "trace --pid 0.123.0@shop1@localhost --events messages\n"
           "trace --module Shop.Stock --sample 0.1 --budget 0.5 --for 1h";
  }

 protected:
  void add_own_flags(CLI::App& app) override {
    app.add_option(
        "--profile", profile_,
        "the defaults of everything below; `scope profiles` lists them with their costs");
    app.add_option("--node,--nodes", nodes_,
                   "only on these nodes (default: on all, also on those that join later)");
    app.add_option("--module,--modules", modules_, "all functions of these modules");
    app.add_option("--mfa", mfas_, "functions: m:f/a, Mod.f/a, m:f, Mod");
    app.add_option("--pid", pids_, "processes: 0.123.0@node, <0.123.0>@node");
    app.add_option("--name", names_, "registered processes: NAME, NAME@node");
    app.add_option(
        "--follow", follow_,
        "whose next messages get a token of seq_trace, that all nodes follow: NAME@node, "
        "0.123.0@node, or a function m:f/a for its next calls");
    app.add_option("--shots", shots_, "how many messages or calls are followed (default 1)");
    app.add_option(
        "--events", events_,
        "calls, messages, state, lifecycle, links, names, or event types such as message_send");
    app.add_flag("--state", state_, "the same as --events state");
    app.add_flag("--args,!--no-args", args_,
                 "calls with their arguments, or only with their number");
    app.add_flag("--all", all_, "every process");
    app.add_option("--sample", sample_,
                   "the share of the processes that is traced, over 0 and at most 1");
    app.add_option("--fan-out", fan_out_,
                   "messages only to this share of their receivers, at least 0.001");
    app.add_flag("--force", force_,
                 "even if it is predicted to cost more than the budget, or would never end");
    app.add_option("--budget", budget_,
                   "the share of the node's schedulers it may take, in per cent");
    app.add_option("--for", for_, "how long: 30s, 10m, 2h, or infinity");
    app.add_option("--cap", cap_,
                   "bytes captured of each argument list, message, state and result");
  }

  Status check_own() override {
    for (auto& n : nodes_ = split_commas(nodes_)) {
      auto node = parse_node(n);
      if (!node) return flag_error(node.error(), "--node", n);
      n = *node;
    }
    for (auto& m : modules_ = split_commas(modules_)) {
      auto module = parse_atom(m);
      if (!module) return flag_error(module.error(), "--module", m);
      m = *module;
    }
    for (const auto& text : split_commas(mfas_)) {
      auto mfa = parse_mfa(text);
      if (!mfa) return flag_error(mfa.error(), "--mfa", text);
      parsed_mfas_.push_back(*mfa);
    }
    const std::string node = nodes_.size() == 1 ? nodes_.front() : "";
    for (const auto* given : {&pids_, &names_}) {
      for (const auto& text : *given) {
        auto process = parse_process(text, node);
        if (!process)
          return flag_error(process.error(), given == &pids_ ? "--pid" : "--name", text);
        if (process->name.empty() && process->node.empty()) {
          return fail(Code::bad_value, "a pid needs its node: 0.123.0@name@host, or one --node",
                      "--pid", text);
        }
        (process->name.empty() ? parsed_pids_ : parsed_names_).push_back(*process);
      }
    }
    for (const auto& text : follow_) {
      if (text.find('/') != text.npos) {
        auto mfa = parse_mfa(text);
        if (!mfa) return flag_error(mfa.error(), "--follow", text);
        followed_mfas_.push_back(*mfa);
        continue;
      }
      auto process = parse_process(text, node);
      if (!process) return flag_error(process.error(), "--follow", text);
      if (process->name.empty() && process->node.empty()) {
        return fail(Code::bad_value, "a pid needs its node: 0.123.0@name@host, or one --node",
                    "--follow", text);
      }
      followed_.push_back(*process);
    }
    if (shots_ && followed_.empty() && followed_mfas_.empty()) {
      return fail(Code::bad_value, "shots of what? Give --follow", "--shots",
                  std::to_string(*shots_));
    }
    events_ = split_commas(events_);
    if (state_) events_.emplace_back("state");
    if (sample_ && (*sample_ <= 0 || *sample_ > 1)) {
      return fail(Code::bad_value, "a share over 0 and at most 1", "--sample",
                  std::to_string(*sample_));
    }
    if (fan_out_ && !(*fan_out_ >= 0.001 && *fan_out_ <= 1)) {
      return fail(Code::bad_value, "a share of at least 0.001 and at most 1", "--fan-out",
                  std::to_string(*fan_out_));
    }
    if (!budget_.empty()) {
      double percent = 0;
      const auto [end, ec] =
          std::from_chars(budget_.data(), budget_.data() + budget_.size(), percent);
      const std::string_view rest(end,
                                  static_cast<std::size_t>(budget_.data() + budget_.size() - end));
      if (ec != std::errc{} || (!rest.empty() && rest != "%") || !(percent > 0 && percent <= 100)) {
        return fail(Code::bad_value, "per cent of the schedulers, over 0 and at most 100",
                    "--budget", budget_);
      }
      budget_percent_ = percent;
    }
    if (!for_.empty() && for_ != "infinity") {
      auto ns = parse_duration(for_);
      if (!ns) return flag_error(ns.error(), "--for", for_);
      if (*ns < 1'000'000) return fail(Code::bad_value, "at least 1ms", "--for", for_);
      for_ms_ = *ns / 1'000'000;
    }
    return {};
  }

  void write_request(codec::TermBuilder& out) const override {
    out.tuple(2).atom("start");
    Keywords k(out);
    if (!profile_.empty()) k.key("profile").atom(profile_);
    k.atoms("nodes", nodes_);
    k.atoms("modules", modules_);
    k.atoms("events", events_);
    const auto list = [&](std::string_view key, const auto& values) {
      if (values.empty()) return;
      auto& b = k.key(key).list(static_cast<std::uint32_t>(values.size()));
      for (const auto& v : values) v.encode(b);
      b.nil();
    };
    list("mfas", parsed_mfas_);
    list("pids", parsed_pids_);
    list("names", parsed_names_);
    if (!followed_.empty() || !followed_mfas_.empty()) {
      auto& b = k.key("follow");
      for (const auto& p : followed_) p.encode(b.list_cons());
      for (const auto& m : followed_mfas_) m.encode(b.list_cons());
      b.nil();
    }
    if (shots_) k.key("shots").unsigned_integer(*shots_);
    if (args_) k.key("args").boolean(*args_);
    if (all_) k.key("all").boolean(true);
    if (force_) k.key("force").boolean(true);
    if (sample_) k.key("sample").real(*sample_);
    if (fan_out_) k.key("fan_out").real(*fan_out_);
    if (budget_percent_) k.key("budget").real(*budget_percent_);
    if (for_ == "infinity") k.key("for").atom("infinity");
    if (for_ms_) k.key("for").integer(*for_ms_);
    if (cap_) k.key("caps").unsigned_integer(*cap_);
    k.end();
  }

  std::string render(const codec::TermView& value, const Screen& screen) const override {
    return render_started(value, screen);
  }

 private:
  std::string profile_, budget_, for_;
  std::vector<std::string> nodes_, modules_, mfas_, pids_, names_, follow_, events_;
  std::optional<double> sample_, fan_out_, budget_percent_;
  std::optional<std::int64_t> for_ms_;
  std::optional<std::uint32_t> cap_, shots_;
  std::optional<bool> args_;
  bool state_ = false, all_ = false, force_ = false;
  std::vector<MfaArg> parsed_mfas_, followed_mfas_;
  std::vector<ProcessArg> parsed_pids_, parsed_names_, followed_;
};

class ProfilesCommand : public Question {
 public:
  std::string_view name() const override { return "profiles"; }
  std::string_view summary() const override {
    return "the profiles of traces, and what each would cost on each node now";
  }
  std::string_view examples() const override { return "profiles\nprofiles --json"; }

 protected:
  void add_own_flags(CLI::App&) override {}
  void write_request(codec::TermBuilder& out) const override { out.atom("profiles"); }
  std::string render(const codec::TermView& value, const Screen& screen) const override {
    return value.map() ? render_profiles(value, screen) : std::string();
  }
};

class UntraceCommand : public Question {
 public:
  std::string_view name() const override { return "untrace"; }
  std::string_view summary() const override { return "stop a trace, or all of them"; }
  std::string_view examples() const override { return "untrace 3\nuntrace all"; }

 protected:
  void add_own_flags(CLI::App& app) override {
    app.add_option("id", id_, "the number that `scope trace` gave and `scope status` shows, or all")
        ->required();
  }
  Status check_own() override {
    if (id_ == "all") return {};
    std::uint64_t id = 0;
    const auto [end, ec] = std::from_chars(id_.data(), id_.data() + id_.size(), id);
    if (ec != std::errc{} || end != id_.data() + id_.size()) {
      return fail(Code::bad_value, "a number, or all", "id", id_);
    }
    number_ = id;
    return {};
  }
  void write_request(codec::TermBuilder& out) const override {
    out.tuple(2).atom("stop");
    if (number_) {
      out.unsigned_integer(*number_);
    } else {
      out.atom("all");
    }
  }
  std::string render(const codec::TermView& value, const Screen& screen) const override {
    return render_stopped(value, screen);
  }

 private:
  std::string id_;
  std::optional<std::uint64_t> number_;
};

}  // namespace

std::unique_ptr<Command> make_trace() { return std::make_unique<TraceCommand>(); }
std::unique_ptr<Command> make_profiles() { return std::make_unique<ProfilesCommand>(); }
std::unique_ptr<Command> make_untrace() { return std::make_unique<UntraceCommand>(); }

}  // namespace scope::node::cli
