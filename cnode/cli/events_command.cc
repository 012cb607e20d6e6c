// scope events
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "cnode/cli/answer.h"
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
           "events --type message_take --match \"{{reserve, '_', '$1'}, [{'>', '$1', 100}]}\"\n"
           "events --text out_of_stock --since -10m\n"
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
    rows_.add_to(app);
    page_.add_to(app);
    app.add_flag("--all", all_, "follow the cursor to the end: all pages, one after another");
  }

  Status check_own() override {
    RETURN_IF_ERROR(rows_.check());
    return page_.check();
  }

  void write_request(codec::TermBuilder& out) const override {
    out.tuple(2).atom("get_events");
    Keywords k(out);
    rows_.write(k);
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

  RowFlags rows_;
  PageFlags page_;
  bool all_ = false;
};

}  // namespace

std::unique_ptr<Command> make_events() { return std::make_unique<EventsCommand>(); }

}  // namespace scope::node::cli
