#include "cnode/cli/cli.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "cnode/cli/command.h"
#include "cnode/version.h"
#include "ei_codec/base/nearest.h"

namespace scope::node {
namespace cli {
namespace {

constexpr std::string_view kExitCodes =
    "Exit status: 0 well; 1 the answer is an error; 2 the command line is wrong; 3 no connection;\n"
    "4 verify-clean found something.";

std::string footer(const Command& command) {
  std::string out = "Examples:";
  std::string_view left = command.examples();
  while (!left.empty()) {
    const auto end = left.find('\n');
    out += fmt::format("\n  scope {}", left.substr(0, end));
    left.remove_prefix(end == std::string_view::npos ? left.size() : end + 1);
  }
  return out;
}

int usage_error(std::string_view command, std::string_view what) {
  Screen screen;
  screen.err = terminal_of(STDERR_FILENO, false);
  show(screen, command, {"usage", std::string(what), {}, {}, fmt::format("{} --help", command)});
  return kExitUsage;
}

// "10s ago" and "-10s" look like a flag to the parser: --since -10s becomes --since=-10s.
std::vector<std::string> joined(int argc, const char* const* argv) {
  std::vector<std::string> out;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    const bool time = arg.size() > 1 && arg[0] == '-' && arg[1] >= '0' && arg[1] <= '9';
    if (time && !out.empty() && out.back().starts_with("--") &&
        out.back().find('=') == std::string::npos) {
      out.back() += fmt::format("={}", arg);
    } else {
      out.emplace_back(arg);
    }
  }
  std::ranges::reverse(out);  // as CLI11 wants it
  return out;
}

// "--sinc: no such flag; did you mean --since?"; empty: no flag is unknown.
std::string unknown_flag(const CLI::App& app) {
  for (const auto& given : app.remaining()) {
    if (!given.starts_with('-')) continue;
    const auto flag = given.substr(0, given.find('='));
    std::vector<std::string> known;
    for (const auto* group :
         app.get_subcommands([](const CLI::App* a) { return a->get_name().empty(); })) {
      for (const auto* o : group->get_options()) known.push_back("--" + o->get_single_name());
    }
    for (const auto* o : app.get_options()) known.push_back("--" + o->get_single_name());
    const std::vector<std::string_view> names(known.begin(), known.end());
    const auto near = nearest(flag, names);
    return fmt::format("no such flag: {}{}", printable(flag),
                       near.empty() ? "" : fmt::format("; did you mean {}?", near));
  }
  return {};
}

int run(int argc, const char* const* argv, const StartFn& start) {
  CLI::App app(
      "Records what the processes of an Erlang or Elixir cluster do, and answers questions about "
      "it.",
      "scope");
  app.set_version_flag("--version", fmt::format("scope {}", kVersion));
  app.require_subcommand(0, 1);
  app.failure_message([](const CLI::App*, const CLI::Error&) { return std::string(); });
  app.footer(fmt::format("Each command has its own help and examples: scope events --help\n\n{}",
                         kExitCodes));
  app.get_formatter()->column_width(26);

  const auto all = commands(start);
  std::vector<std::pair<CLI::App*, Command*>> parsers;
  std::vector<std::string_view> names;
  for (const auto& command : all) {
    auto* sub = app.add_subcommand(std::string(command->name()), std::string(command->summary()));
    sub->footer(fmt::format("{}\n\n{}", footer(*command), kExitCodes));
    command->add_flags(*sub);
    parsers.emplace_back(sub, command.get());
    names.push_back(command->name());
  }
  const auto chosen = [&]() -> std::pair<CLI::App*, Command*> {
    for (const auto& p : parsers) {
      if (p.first->parsed()) return p;
    }
    return {nullptr, nullptr};
  };
  try {
    app.parse(joined(argc, argv));
  } catch (const CLI::Success& e) {
    return app.exit(e) == 0 ? kExitOk : kExitUsage;  // --help, --version
  } catch (const CLI::ParseError& e) {
    const auto* sub = chosen().first;
    std::string what = e.what();
    if (sub == nullptr && argc > 1 && argv[1][0] != '-') {
      what = fmt::format("no such command: {}", printable(argv[1]));
      if (const auto near = nearest(argv[1], names); !near.empty())
        what += fmt::format("; did you mean {}?", near);
    }
    if (sub != nullptr) {
      const auto extra = unknown_flag(*sub);
      if (!extra.empty()) what = extra;
    }
    return usage_error(sub == nullptr ? "scope" : fmt::format("scope {}", sub->get_name()), what);
  }
  const auto [sub, command] = chosen();
  if (command == nullptr) {
    std::fputs(app.help().c_str(), argc > 1 ? stderr : stdout);
    return argc > 1 ? kExitUsage : kExitOk;
  }
  if (auto checked = command->check(); !checked) {
    const auto& e = checked.error();
    auto what = e.message;
    if (!e.field.empty()) what = fmt::format("{}: {}", e.field, what);
    if (!e.got.empty()) what += fmt::format(" (got {})", e.got);
    return usage_error(fmt::format("scope {}", sub->get_name()), what);
  }
  return command->run();
}

}  // namespace
}  // namespace cli

int run_cli(int argc, const char* const* argv, const StartFn& start) {
  try {
    return cli::run(argc, argv, start);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "scope: %s\n", e.what());
    return kExitError;
  }
}

}  // namespace scope::node
