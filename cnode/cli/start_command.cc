// scope start, scope config: the settings of the one table (cnode/config.h).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <map>

#include "cnode/cli/answer.h"
#include "cnode/cli/command.h"
#include "cnode/cli/table.h"
#include "cnode/redaction.h"

namespace scope::node::cli {
namespace {

std::string flag_of(const Option& option) {
  std::string flag = fmt::format("--{}", option.key);
  std::ranges::replace(flag, '_', '-');
  return flag;
}

// The value as it may be written: 16M and 7d rather than 16777216 and 604800000.
std::string value_of(const Config& config, const Option& option) {
  const auto* field = std::get_if<std::uint64_t Config::*>(&option.field);
  if (field == nullptr || option.unit == Option::Unit::none) return get_option(config, option);
  struct Unit {
    std::uint64_t size;
    std::string_view name;
  };
  static constexpr Unit kBytes[] = {{1ull << 30, "G"}, {1ull << 20, "M"}, {1ull << 10, "K"}};
  static constexpr Unit kTimes[] = {
      {86'400'000, "d"}, {3'600'000, "h"}, {60'000, "m"}, {1000, "s"}};
  const bool bytes = option.unit == Option::Unit::bytes;
  const auto value = config.*(*field);
  for (const auto& unit : bytes ? std::span<const Unit>(kBytes) : std::span<const Unit>(kTimes)) {
    if (value >= unit.size && value % unit.size == 0)
      return fmt::format("{}{}", value / unit.size, unit.name);
  }
  return fmt::format("{}{}", value, bytes || value == 0 ? "" : "ms");
}

// The table as flags, and what was given as a Config: first the file, then the flags.
class Settings {
 public:
  void add_to(CLI::App& app) {
    app.add_option("--config", file_, "a TOML file of these settings; flags outweigh it");
    for (const auto& option : options()) {
      auto& given = given_[std::string(option.key)];
      const bool flag = std::holds_alternative<bool Config::*>(option.field);
      auto help = std::string(option.help);
      if (auto value = value_of(Config{}, option); !value.empty() && !flag)
        help += fmt::format(" (default {})", value);
      if (flag) {
        app.add_flag_callback(flag_of(option), [&given] { given = {"true"}; }, help);
      } else {
        // TakeLast, so that a flag given twice is not an error; a list keeps all.
        auto* o = app.add_option(flag_of(option), given, help);
        o->multi_option_policy(
            std::holds_alternative<std::vector<std::string> Config::*>(option.field)
                ? CLI::MultiOptionPolicy::TakeAll
                : CLI::MultiOptionPolicy::TakeLast);
        o->expected(1)->type_name(option.unit == Option::Unit::bytes          ? "BYTES"
                                  : option.unit == Option::Unit::milliseconds ? "TIME"
                                                                              : "VALUE");
      }
    }
  }

  Status read(Config& config) const {
    if (!file_.empty()) RETURN_IF_ERROR(load_config_file(config, file_));
    for (const auto& option : options()) {
      const auto& values = given_.at(std::string(option.key));
      if (values.empty()) continue;
      if (auto* list = std::get_if<std::vector<std::string> Config::*>(&option.field))
        (config.*(*list)).clear();
      for (const auto& value : values) {
        if (auto set = set_option(config, option.key, value); !set) {
          return fail(set.error().code, set.error().message, flag_of(option),
                      option.secret ? "***" : value);
        }
      }
    }
    return check_text_patterns(config);
  }

 private:
  std::string file_;
  std::map<std::string, std::vector<std::string>> given_;
};

class StartCommand : public Command {
 public:
  explicit StartCommand(StartFn start) : start_(std::move(start)) {}
  std::string_view name() const override { return "start"; }
  std::string_view summary() const override {
    return "run the daemon in the foreground, joined to a cluster";
  }
  std::string_view examples() const override {
    return "start --node shop1@localhost\n"
           "start --name scope@10.0.0.5 --longnames --cookie-file prod.cookie --node web@10.0.0.7 "
           "--db /var/lib/scope\n"
           "start --config scope.toml --log-level debug";
  }
  void add_flags(CLI::App& app) override { settings_.add_to(app); }
  Status check() override { return settings_.read(config_); }
  int run() override { return start_(config_); }

 private:
  StartFn start_;
  Settings settings_;
  Config config_;
};

class ConfigCommand : public Command {
 public:
  std::string_view name() const override { return "config"; }
  std::string_view summary() const override { return "every setting, its value and what it means"; }
  std::string_view examples() const override { return "config\nconfig --config scope.toml --json"; }
  void add_flags(CLI::App& app) override {
    settings_.add_to(app);
    app.add_flag("--json", json_, "one JSON document, for programs");
    app.add_flag("--no-color", no_color_, "no colour, also on a terminal");
  }
  Status check() override { return settings_.read(config_); }

  int run() override {
    Common common;
    common.json = json_;
    common.no_color = no_color_;
    const auto screen = common.screen();
    const Config defaults;
    Table table({{"setting"}, {"value", false, true}, {"live"}, {"meaning", false, true}});
    codec::TermBuilder json;
    json.map(static_cast<std::uint32_t>(options().size()));
    for (const auto& option : options()) {
      const auto value = value_of(config_, option);
      const bool changed = value != value_of(defaults, option);
      table.add({std::string(option.key),
                 {printable(value.empty() ? "-" : value), changed ? Paint::yellow : Paint::none},
                 option.live ? "yes" : "",
                 {std::string(option.help), Paint::dim}});
      json.atom(option.key).binary(std::string_view(get_option(config_, option)));
    }
    if (screen.json) {
      if (const auto view = codec::view(json.bytes())) screen.print_json(*view);
    } else {
      screen.print(table.render(screen.out));
      screen.print(paint(Paint::dim,
                         "live: update_config changes it while the daemon runs; the others are "
                         "read at its start",
                         screen.out) +
                   "\n");
    }
    return kExitOk;
  }

 private:
  Settings settings_;
  Config config_;
  bool json_ = false, no_color_ = false;
};

}  // namespace

std::unique_ptr<Command> make_start(StartFn start) {
  return std::make_unique<StartCommand>(std::move(start));
}
std::unique_ptr<Command> make_config() { return std::make_unique<ConfigCommand>(); }

}  // namespace scope::node::cli
