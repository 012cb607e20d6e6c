#include "cnode/cli/command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>

#include "cnode/cli/answer.h"
#include "cnode/cli/arguments.h"
#include "cnode/cli/times.h"

namespace scope::node::cli {

void Common::add_to(CLI::App& app) {
  auto* group = app.add_option_group("Connection and output");
  group->add_option("--scope", access.scope,
                    "the daemon's node, name@host (default: $SCOPE_NODE, or the only scope node "
                    "that the local epmd knows)");
  group->add_option(
      "--cookie", access.cookie,
      "the cluster's cookie; other users can see it in the process list: prefer --cookie-file");
  group->add_option("--cookie-file", access.cookie_file,
                    "a file that holds the cookie (default ~/.erlang.cookie)");
  auto& tls = access.tls.files;
  group->add_option("--tls-cert", tls.cert, "over TLS: our certificate, PEM");
  group->add_option("--tls-key", tls.key, "its key, PEM (default: in the file of --tls-cert)");
  group->add_option("--tls-ca", tls.ca, "whose certificates are believed, PEM");
  group
      ->add_option_function<std::string>(
          "--tls-verify", [&tls](const std::string& how) { tls.verify = how == "peer"; },
          "peer (the default) or none")
      ->check(CLI::IsMember({"peer", "none"}));
  group->add_option("--ssl-dist-optfile", access.tls.optfile,
                    "as for erl, in place of the --tls options");
  group->add_flag("--longnames", access.longnames,
                  "the cluster uses long names (known by itself when the host has a dot)");
  group->add_option("--timeout", timeout, "how long to wait for an answer")->capture_default_str();
  group->add_flag("--json", json, "one JSON document, for programs");
  group->add_option("--syntax", syntax,
                    "how terms are written: erlang or elixir (default: $SCOPE_SYNTAX, or erlang)");
  group->add_flag("--no-color", no_color,
                  "no colour, also on a terminal ($NO_COLOR does the same)");
}

Status Common::check() {
  auto ns = parse_duration(timeout);
  if (!ns) return fail(Code::bad_value, ns.error().message, "--timeout", timeout);
  access.timeout = std::chrono::milliseconds(std::max<std::int64_t>(1, *ns / 1'000'000));
  if (access.scope.empty()) {
    if (const char* env = std::getenv("SCOPE_NODE")) access.scope = env;
  }
  if (!access.scope.empty()) {
    auto node = parse_node(access.scope);
    if (!node) return fail(Code::bad_value, node.error().message, "--scope", access.scope);
    access.scope = *std::move(node);
  }
  if (syntax.empty()) {
    if (const char* env = std::getenv("SCOPE_SYNTAX")) syntax = env;
  }
  if (!syntax.empty() && syntax != "erlang" && syntax != "elixir") {
    return fail(Code::bad_value, "the syntax is erlang or elixir", "--syntax", syntax);
  }
  return {};
}

Screen Common::screen() const {
  Screen s;
  s.out = terminal_of(STDOUT_FILENO, no_color);
  s.err = terminal_of(STDERR_FILENO, no_color);
  s.json = json;
  s.syntax = syntax == "elixir" ? codec::Syntax::elixir : codec::Syntax::erlang;
  return s;
}

int no_connection(const Screen& screen, std::string_view command, Client* client,
                  const std::string& node, const Error& error) {
  auto trouble = Trouble::of(error);
  trouble.message =
      fmt::format("no connection to {}: {}", node.empty() ? "the daemon" : node, error.message);
  trouble.got.clear();
  trouble.field.clear();
  switch (error.code) {
    case Code::unknown_node: {
      trouble.next =
          "start one with `scope start --node NAME@HOST`, or say which one you mean with --scope "
          "NAME@HOST";
      if (error.field == "scope" || client == nullptr) break;
      if (const auto names = client->local_names(); names && !names->empty()) {
        trouble.next =
            fmt::format("the local epmd knows {}; {}", fmt::join(*names, ", "), trouble.next);
      }
      break;
    }
    case Code::auth_failed:
      trouble.next =
          "the cookie must be the cluster's: give it with --cookie-file FILE (the default is "
          "~/.erlang.cookie)";
      break;
    case Code::no_such_process:
      trouble.next = fmt::format(
          "{} is a node, but nothing is registered there as elixir_scope: it is no scope daemon",
          node);
      break;
    case Code::timeout:
      trouble.next = "it may be stopped or overloaded; wait longer with --timeout 30s";
      break;
    case Code::bad_value:
      trouble.next =
          "a node has one name, and only under that name it answers; --longnames if its host has a "
          "dot";
      break;
    case Code::io:
      trouble.next =
          "epmd runs where an Erlang node runs; $ERL_EPMD_PORT and $ERL_EPMD_ADDRESS say where it "
          "is asked";
      break;
    default:
      break;
  }
  show(screen, command, trouble);
  return kExitNoConnection;
}

void Question::add_flags(CLI::App& app) {
  add_own_flags(app);
  common_.add_to(app);
}

Status Question::check() {
  RETURN_IF_ERROR(common_.check());
  return check_own();
}

std::unique_ptr<Client> Question::connect(const Screen& screen) const {
  auto client = Client::make(common_.access);
  const auto command = fmt::format("scope {}", name());
  if (!client) {
    no_connection(screen, command, nullptr, common_.access.scope, client.error());
    return nullptr;
  }
  if (auto found = (*client)->find_daemon(); !found) {
    no_connection(screen, command, client->get(), (*client)->daemon(), found.error());
    return nullptr;
  }
  return *std::move(client);
}

int Question::run() {
  const auto screen = common_.screen();
  const auto client = connect(screen);
  if (!client) return kExitNoConnection;
  codec::TermBuilder request;
  write_request(request);
  const auto command = fmt::format("scope {}", name());
  const auto reply = client->ask(request);
  if (!reply) return no_connection(screen, command, client.get(), client->daemon(), reply.error());
  const auto value = unwrap(reply->term);
  if (!value) {
    show(screen, command, value.error());
    return kExitError;
  }
  if (screen.json) {
    screen.print_json(*value);
  } else {
    screen.print(render(*value, screen));
  }
  return kExitOk;
}

std::vector<std::unique_ptr<Command>> commands(StartFn start) {
  std::vector<std::unique_ptr<Command>> out;
  out.push_back(make_start(std::move(start)));
  out.push_back(make_status());
  out.push_back(make_trace());
  out.push_back(make_untrace());
  out.push_back(make_profiles());
  out.push_back(make_events());
  out.push_back(make_tail());
  out.push_back(make_state());
  out.push_back(make_flow());
  out.push_back(make_traces());
  out.push_back(make_order());
  out.push_back(make_export());
  out.push_back(make_stats());
  out.push_back(make_clocks());
  out.push_back(make_verify_clean());
  out.push_back(make_store());
  out.push_back(make_audit());
  out.push_back(make_config());
  return out;
}

}  // namespace scope::node::cli
