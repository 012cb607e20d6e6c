// scope verify-clean
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "cnode/cli/answer.h"
#include "cnode/cli/arguments.h"
#include "cnode/cli/command.h"
#include "cnode/cli/verify_clean.h"

namespace scope::node::cli {
namespace {

struct Outcome {
  std::string node;
  std::optional<NodeReport> report;
  Error error;
};

class VerifyCleanCommand : public Command {
 public:
  std::string_view name() const override { return "verify-clean"; }
  std::string_view summary() const override {
    return "check from outside that nothing of ElixirScope is left on nodes";
  }
  std::string_view examples() const override {
    return "verify-clean                                 every node that the daemon knows, or else "
           "the local epmd\n"
           "verify-clean rabbit1@localhost rabbit2@localhost\n"
           "verify-clean --json shop1@localhost";
  }

  void add_flags(CLI::App& app) override {
    app.add_option("nodes", nodes_,
                   "the nodes (default: those that the daemon knows; without a daemon, those of "
                   "the local epmd)");
    common_.add_to(app);
  }
  Status check() override {
    for (auto& n : nodes_ = split_commas(nodes_)) {
      ASSIGN_OR_RETURN(n, parse_node(n));
    }
    return common_.check();
  }

  int run() override {
    const auto screen = common_.screen();
    auto client = Client::make(common_.access, nodes_);
    if (!client) return no_connection(screen, "scope verify-clean", nullptr, {}, client.error());
    if (nodes_.empty()) {
      if (auto found = find_nodes(**client, screen); !found) {
        return no_connection(screen, "scope verify-clean", client->get(), {}, found.error());
      }
    }
    std::vector<Outcome> outcomes;
    for (const auto& node : nodes_) {
      Outcome outcome{node, std::nullopt, {}};
      if (auto connected = (*client)->connect(node); !connected) {
        outcome.error = connected.error();
      } else if (auto report = verify_node(**client, node); !report) {
        outcome.error = report.error();
      } else {
        outcome.report = *std::move(report);
      }
      if (!screen.json) print(outcome, screen);
      outcomes.push_back(std::move(outcome));
    }
    if (screen.json) print_json(outcomes, screen);
    int status = kExitOk;
    for (const auto& o : outcomes) {
      if (!o.report && status == kExitOk) status = kExitNoConnection;
      if (o.report && !o.report->clean()) status = kExitNotClean;
    }
    return status;
  }

 private:
  Status find_nodes(Client& client, const Screen& screen) {
    if (client.find_daemon()) {
      codec::TermBuilder request;
      request.atom("status");
      if (const auto reply = client.ask(request)) {
        if (const auto status = unwrap(reply->term)) {
          if (const auto nodes = get(*status, "nodes"); nodes && nodes->map()) {
            for (auto it = *nodes->map(); !it.done(); it.next()) {
              if (const auto name = it.key().atom()) nodes_.emplace_back(*name);
            }
          }
        }
      }
      if (!nodes_.empty()) return {};
    }
    screen.remark("no daemon that knows nodes: checking those that the local epmd knows");
    ASSIGN_OR_RETURN(const auto names, client.local_names());
    for (const auto& n : names) {
      if (n == "scope" || is_command_line(n)) continue;
      auto node = client.connect_local(n);
      nodes_.push_back(node ? *node : n + "@localhost");
    }
    if (nodes_.empty())
      return fail(Code::unknown_node,
                  "the local epmd knows no node; name them: scope verify-clean NAME@HOST", "scope");
    return {};
  }

  static void print(const Outcome& o, const Screen& screen) {
    if (!o.report) {
      screen.print(fmt::format("{}  {}  {}\n", o.node,
                               paint(Paint::yellow, "not checked", screen.out),
                               printable(o.error.message)));
      return;
    }
    const auto& r = *o.report;
    const auto verdict = r.clean() ? paint(Paint::green, "clean", screen.out)
                                   : paint(Paint::red, "not clean", screen.out);
    screen.print(fmt::format(
        "{}  {}  {}\n", o.node, verdict,
        paint(Paint::dim,
              fmt::format("({} processes, {} ports, {} modules, {} functions looked at)",
                          r.processes, r.ports, r.modules, r.functions),
              screen.out)));
    for (const auto& f : r.findings) {
      const auto line =
          wrap(fmt::format("{}: {}", kind_name(f.kind), printable(f.what)), screen.out.width, 2);
      screen.print(paint(f.note ? Paint::dim : Paint::red, line, screen.out) + "\n");
    }
  }

  static void print_json(const std::vector<Outcome>& outcomes, const Screen& screen) {
    codec::TermBuilder b;
    b.map(static_cast<std::uint32_t>(outcomes.size()));
    const auto list = [&](const NodeReport& r, bool notes) {
      for (const auto& f : r.findings) {
        if (f.note == notes)
          b.list_cons()
              .map(2)
              .atom("check")
              .atom(kind_name(f.kind))
              .atom("what")
              .binary(std::string_view(f.what));
      }
      b.nil();
    };
    for (const auto& o : outcomes) {
      b.atom(o.node);
      if (!o.report) {
        b.map(2).atom("checked").boolean(false).atom("error").map(2);
        b.atom("code")
            .atom(code_name(o.error.code))
            .atom("message")
            .binary(std::string_view(o.error.message));
        continue;
      }
      const auto& r = *o.report;
      b.map(8).atom("checked").boolean(true).atom("clean").boolean(r.clean());
      b.atom("processes").unsigned_integer(r.processes).atom("ports").unsigned_integer(r.ports);
      b.atom("modules").unsigned_integer(r.modules).atom("functions").unsigned_integer(r.functions);
      b.atom("found");
      list(r, false);
      b.atom("notes");
      list(r, true);
    }
    if (const auto view = codec::view(b.bytes())) screen.print_json(*view);
  }

  std::vector<std::string> nodes_;
  Common common_;
};

}  // namespace

std::unique_ptr<Command> make_verify_clean() { return std::make_unique<VerifyCleanCommand>(); }

}  // namespace scope::node::cli
