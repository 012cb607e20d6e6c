// Client: this process as one more hidden node, for as long as a command takes. Blocking calls over cnode/dist.
//
// What    Not registered with epmd and accepts no links; its name is scope_cli_<pid>_<random>@host, so that two command
//         lines never meet. The daemon is the node given, or found among the names that the local epmd knows.
// Life    Links end with the Client. Messages stay valid after it.
// Thread  One. Each call runs the event loop until it is answered or its time is over.
// Errors  Those of Node (node.h). to_advice() turns one into what a user can do about it.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cnode/dist/message.h"
#include "cnode/dist/process.h"
#include "cnode/dist/tls.h"
#include "ei_codec/base/result.h"
#include "ei_codec/term_builder.h"

namespace scope::node::cli {

struct Access {
  std::string scope;  // the daemon's node; empty: it is looked for
  std::string cookie, cookie_file;
  bool longnames = false;
  TlsSettings tls;
  std::chrono::milliseconds timeout{10'000};
};

class Client {
 public:
  // Reads the cookie; makes no connection. `nodes`: those that will be spoken to, which tell short names from long ones.
  static Result<std::unique_ptr<Client>> make(Access access,
                                              const std::vector<std::string>& nodes = {});
  ~Client();

  // Finds the daemon and connects to it. Its name afterwards: daemon().
  Status find_daemon();
  const std::string& daemon() const { return daemon_; }
  // A gen_server call to the daemon: its whole reply. REQUIRES find_daemon() went well.
  Result<Message> ask(const codec::TermBuilder& request);

  // A process here, which gets what is sent to it while one of these calls runs. It outlives the client's calls.
  Pid add_process(Process* process);
  // Until `done`, which is looked at after each thing that happens and ten times a second. False: the link to the daemon
  // was lost.
  bool run_until(const std::function<bool()>& done);

  Status connect(const std::string& node);
  // A node known only by the part before the @ (epmd tells no more), on this host: its full name, connected.
  Result<std::string> connect_local(const std::string& short_name);
  Result<Message> rpc(const std::string& node, std::string_view module, std::string_view function,
                      const codec::TermBuilder& args);
  // The names that the local epmd knows.
  Result<std::vector<std::string>> local_names();
  const std::string& name() const;

 private:
  struct Impl;
  Client(std::unique_ptr<Impl> impl, Access access);

  std::unique_ptr<Impl> impl_;
  Access access_;
  std::string daemon_;
};

// Is this the name of a node of ours that is not the daemon?
bool is_command_line(std::string_view node);

}  // namespace scope::node::cli
