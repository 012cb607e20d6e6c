// Command: one verb of the command line, with its table of flags. commands() lists them all.
//
// Life   add_flags() binds fields of the command to the parser, which the command outlives. Then check(), then run().
// Thread One.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cnode/cli/cli.h"
#include "cnode/cli/client.h"
#include "cnode/cli/screen.h"
#include "ei_codec/term_builder.h"

namespace CLI {
class App;
}

namespace scope::node::cli {

class Command {
 public:
  virtual ~Command() = default;
  virtual std::string_view name() const = 0;
  virtual std::string_view summary() const = 0;
  virtual std::string_view examples() const = 0;  // one a line, without "scope "
  virtual void add_flags(CLI::App& app) = 0;
  // Reads the values of the flags: an error is a wrong command line. No I/O.
  virtual Status check() { return {}; }
  virtual int run() = 0;
};

// The flags of every command that speaks to nodes.
struct Common {
  Access access;
  std::string timeout = "10s", syntax;
  bool json = false, no_color = false;

  void add_to(CLI::App& app);
  Status check();
  Screen screen() const;
};

// Explains why the daemon (or `node`) was not reached, and returns the exit status.
int no_connection(const Screen& screen, std::string_view command, Client* client,
                  const std::string& node, const Error& error);

// A command that asks the daemon one question and shows the answer.
class Question : public Command {
 public:
  void add_flags(CLI::App& app) final;
  Status check() final;
  int run() override;

 protected:
  virtual void add_own_flags(CLI::App& app) = 0;
  virtual Status check_own() { return {}; }
  virtual void write_request(codec::TermBuilder& out) const = 0;
  virtual std::string render(const codec::TermView& value, const Screen& screen) const = 0;

  // Connected to the daemon, or null after saying why not.
  std::unique_ptr<Client> connect(const Screen& screen) const;

  Common common_;
};

std::vector<std::unique_ptr<Command>> commands(StartFn start);

std::unique_ptr<Command> make_start(StartFn start);
std::unique_ptr<Command> make_config();
std::unique_ptr<Command> make_status();
std::unique_ptr<Command> make_clocks();
std::unique_ptr<Command> make_trace();
std::unique_ptr<Command> make_untrace();
std::unique_ptr<Command> make_profiles();
std::unique_ptr<Command> make_events();
std::unique_ptr<Command> make_state();
std::unique_ptr<Command> make_flow();
std::unique_ptr<Command> make_traces();
std::unique_ptr<Command> make_order();
std::unique_ptr<Command> make_export();
std::unique_ptr<Command> make_stats();
std::unique_ptr<Command> make_verify_clean();
std::unique_ptr<Command> make_store();
std::unique_ptr<Command> make_audit();
std::unique_ptr<Command> make_tail();

}  // namespace scope::node::cli
