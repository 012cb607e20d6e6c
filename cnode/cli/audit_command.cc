// scope audit
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "cnode/cli/answer.h"
#include "cnode/cli/command.h"
#include "cnode/cli/filter_flags.h"
#include "cnode/cli/table.h"
#include "cnode/cli/times.h"

namespace scope::node::cli {
namespace {

using codec::TermView;

Cell outcome_of(const TermView& entry, const Screen& screen) {
  const auto outcome = get(entry, "outcome");
  if (!outcome) return "?";
  if (!outcome->is_tuple("error", 2)) {
    return {screen.term(*outcome), outcome->is_atom("ok") ? Paint::green : Paint::yellow};
  }
  return {printable(unwrap(*outcome).error().message), Paint::red};
}

std::string text_of(const TermView& entry, std::string_view key, const Screen& screen) {
  const auto value = get(entry, key);
  if (!value) return "?";
  const auto text = value->binary_text();
  return text ? printable(*text) : screen.term(*value);
}

std::string nodes_of(const TermView& entry, const Screen& screen) {
  std::string out;
  const auto nodes = get(entry, "nodes");
  for (auto it = nodes ? nodes->map() : std::nullopt; it && !it->done(); it->next()) {
    if (!out.empty()) out += " ";
    out += screen.term(it->key());
    if (it->value().is_tuple("error", 2))
      out += fmt::format("({})", screen.term(it->value().element(1)));
  }
  return out;
}

class AuditCommand : public Question {
 public:
  std::string_view name() const override { return "audit"; }
  std::string_view summary() const override {
    return "who started and stopped which trace, or changed a setting, and what came of it";
  }
  std::string_view examples() const override {
    return "audit\naudit --since -1d --limit 20\naudit --json";
  }

 protected:
  void add_own_flags(CLI::App& app) override {
    range_.add_range_to(app);
    app.add_option("--limit", limit_, "so many entries, the newest first (default 100)")
        ->check(CLI::Range(1, 1000));
    app.add_option("--cursor", range_.cursor, "go on where an earlier answer ended");
  }
  Status check_own() override { return range_.check(); }
  void write_request(codec::TermBuilder& out) const override {
    out.tuple(2).atom("audit");
    Keywords k(out);
    range_.write(k);
    if (limit_ > 0) k.key("limit").integer(limit_);
    k.end();
  }
  std::string render(const TermView& value, const Screen& screen) const override {
    Table table({{"time"},
                 {"what"},
                 {"trace"},
                 {"outcome", false, true},
                 {"by", false, true},
                 {"nodes", false, true},
                 {"options", false, true}});
    for (const auto& entry : get_list(value, "entries")) {
      std::string ids;
      for (const auto& id : get_list(entry, "traces"))
        ids += (ids.empty() ? "" : " ") + screen.term(id);
      auto by = text_of(entry, "by", screen);
      if (get_text(entry, "via") == "command_line") by.insert(0, "command line, ");
      table.add({{when(entry, "time", ""), Paint::dim},
                 text_of(entry, "action", screen),
                 ids,
                 outcome_of(entry, screen),
                 by,
                 nodes_of(entry, screen),
                 text_of(entry, "options", screen)});
    }
    std::string out = table.empty() ? "nothing was noted\n" : table.render(screen.out);
    const auto lacks = [&](std::string_view key, std::string_view what) {
      if (const auto n = get_integer(value, key); n && *n > 0)
        out += paint(Paint::yellow, fmt::format("{} {}", *n, what), screen.out) + "\n";
    };
    lacks("dropped", "older entries are gone");
    lacks("damaged", "entries cannot be read");
    if (const auto cursor = cursor_text(value); !cursor.empty())
      out += paint(Paint::dim, fmt::format("more: --cursor {}", cursor), screen.out) + "\n";
    return out;
  }

 private:
  PageFlags range_;
  int limit_ = 0;
};

}  // namespace

std::unique_ptr<Command> make_audit() { return std::make_unique<AuditCommand>(); }

}  // namespace scope::node::cli
