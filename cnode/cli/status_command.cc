// scope status, scope clocks
#include <CLI/CLI.hpp>

#include "cnode/cli/answer.h"
#include "cnode/cli/command.h"

namespace scope::node::cli {
namespace {

class StatusCommand : public Question {
 public:
  std::string_view name() const override { return "status"; }
  std::string_view summary() const override {
    return "the daemon, its nodes, its store, and what is traced";
  }
  std::string_view examples() const override {
    return "status\n"
           "status --scope scope@10.0.0.5 --cookie-file prod.cookie\n"
           "status --json | jq .nodes";
  }

 protected:
  void add_own_flags(CLI::App&) override {}
  void write_request(codec::TermBuilder& out) const override { out.atom("status"); }
  std::string render(const codec::TermView& value, const Screen& screen) const override {
    return render_status(value, screen);
  }
};

class ClocksCommand : public Question {
 public:
  std::string_view name() const override { return "clocks"; }
  std::string_view summary() const override { return "each node's clock against the daemon's"; }
  std::string_view examples() const override { return "clocks\nclocks --json"; }

 protected:
  void add_own_flags(CLI::App&) override {}
  void write_request(codec::TermBuilder& out) const override { out.atom("clocks"); }
  std::string render(const codec::TermView& value, const Screen& screen) const override {
    return render_clocks(value, screen);
  }
};

}  // namespace

std::unique_ptr<Command> make_status() { return std::make_unique<StatusCommand>(); }
std::unique_ptr<Command> make_clocks() { return std::make_unique<ClocksCommand>(); }

}  // namespace scope::node::cli
