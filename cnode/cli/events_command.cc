// scope events
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "cnode/cli/answer.h"
#include "cnode/cli/arguments.h"
#include "cnode/cli/command.h"
#include "cnode/cli/filter_flags.h"

namespace scope::node::cli {
namespace {

class EventsCommand : public Question {
 public:
  std::string_view name() const override { return "events"; }
  std::string_view summary() const override { return "what was recorded, newest first"; }
  std::string_view examples() const override {
    return "events --since -10s\n"
           "events --pid stock@shop2@localhost --type state_change --limit 20\n"
           "events --module Shop.Orders --type function_exception\n"
           "events --mfa Shop.Stock.take/2 --since 12:00:00 --until 12:00:05 --order oldest\n"
           "events --node shop1@localhost --type message_send --all --json";
  }

  int run() override {
    if (!all_) return Question::run();
    const auto screen = common_.screen();
    const auto client = connect(screen);
    if (!client) return kExitNoConnection;
    return run_all(*client, screen);
  }

 protected:
  void add_own_flags(CLI::App& app) override {
    app.add_option("--pid", pid_, "of one process: 0.123.0@node, NAME@node, NAME");
    app.add_option("--node,--nodes", nodes_, "of these nodes");
    app.add_option("--type,--types", types_,
                   "of these types, such as message_send, state_change, function_entry; or calls, "
                   "messages, ...");
    app.add_option("--mfa", mfa_, "of a function: m:f/a, Mod.f/a, m:f");
    app.add_option("--module,--modules", modules_, "of functions in these modules");
    app.add_option("--peer", peer_, "with this process at the other end");
    app.add_option("--min-duration", duration_, "calls that took at least so long: 10ms");
    page_.add_to(app);
    app.add_flag("--all", all_, "follow the cursor to the end: all pages, one after another");
  }

  Status check_own() override {
    nodes_ = split_commas(nodes_);
    types_ = split_commas(types_);
    for (auto& n : nodes_) {
      ASSIGN_OR_RETURN(n, parse_node(n));
    }
    for (auto& m : modules_ = split_commas(modules_)) {
      ASSIGN_OR_RETURN(m, parse_atom(m));
    }
    if (!pid_.empty()) {
      ASSIGN_OR_RETURN(process_, parse_process(pid_, nodes_.size() == 1 ? nodes_.front() : ""));
    }
    if (!peer_.empty()) {
      ASSIGN_OR_RETURN(peer_process_, parse_process(peer_));
    }
    if (!mfa_.empty()) {
      ASSIGN_OR_RETURN(parsed_mfa_, parse_mfa(mfa_));
    }
    if (!duration_.empty()) {
      ASSIGN_OR_RETURN(min_duration_, parse_duration(duration_));
    }
    return page_.check();
  }

  void write_request(codec::TermBuilder& out) const override {
    out.tuple(2).atom("get_events");
    Keywords k(out);
    if (process_) process_->encode(k.key("pid"));
    k.atoms("node", nodes_);
    k.atoms("type", types_);
    k.atoms("module", modules_);
    if (parsed_mfa_) parsed_mfa_->encode(k.key("mfa"));
    if (peer_process_) peer_process_->encode(k.key("peer"));
    if (min_duration_) k.key("min_duration").integer(*min_duration_);
    page_.write(k);
    k.end();
  }

  std::string render(const codec::TermView& value, const Screen& screen) const override {
    return render_events(value, screen);
  }

 private:
  // One JSON document also here, written as its pages come: {"events": [...], "completeness": [one for each page]}.
  int run_all(Client& client, const Screen& screen) {
    constexpr std::size_t kWhole = std::size_t{1} << 40;
    std::string completeness;
    bool first = true;
    if (screen.json) screen.print("{\"events\":[");
    int status = kExitOk;
    for (bool more = true; more;) {
      codec::TermBuilder request;
      write_request(request);
      const auto reply = client.ask(request);
      if (!reply) {
        status = no_connection(error_screen(screen), "scope events", &client, client.daemon(),
                               reply.error());
        break;
      }
      const auto value = unwrap(reply->term);
      if (!value) {
        show(error_screen(screen), "scope events", value.error());
        status = kExitError;
        break;
      }
      if (screen.json) {
        for (const auto& event : get_list(*value, "events")) {
          screen.print((first ? "" : ",") + codec::print(event, codec::Syntax::json, kWhole));
          first = false;
        }
        if (const auto c = get(*value, "completeness")) {
          completeness +=
              (completeness.empty() ? "" : ",") + codec::print(*c, codec::Syntax::json, kWhole);
        }
      } else {
        screen.print(render_events(*value, screen, first));
        first = false;
      }
      auto next = cursor_bytes(cursor_text(*value));
      more = next && *next != page_.cursor;
      if (next) page_.cursor = *std::move(next);
    }
    if (screen.json)
      screen.print(
          fmt::format("],\"completeness\":[{}],\"whole\":{}}}\n", completeness, status == kExitOk));
    return status;
  }

  // A document has begun on stdout: errors go to stderr as text.
  static Screen error_screen(Screen screen) {
    screen.json = false;
    return screen;
  }

  std::string pid_, peer_, mfa_, duration_;
  std::vector<std::string> nodes_, types_, modules_;
  PageFlags page_;
  bool all_ = false;
  std::optional<ProcessArg> process_, peer_process_;
  std::optional<MfaArg> parsed_mfa_;
  std::optional<std::int64_t> min_duration_;
};

}  // namespace

std::unique_ptr<Command> make_events() { return std::make_unique<EventsCommand>(); }

}  // namespace scope::node::cli
