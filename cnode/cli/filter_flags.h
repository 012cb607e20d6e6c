// The flags that become a Filter (api.md): those of time and paging are shared by events, state --history and flow.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cnode/cli/arguments.h"
#include "cnode/cli/times.h"
#include "ei_codec/base/result.h"
#include "ei_codec/term_builder.h"

namespace CLI {
class App;
}

namespace scope::node::cli {

// Writes a keyword list: key(), then one term; end() closes it.
class Keywords {
 public:
  explicit Keywords(codec::TermBuilder& out) : out_(out) {}
  codec::TermBuilder& key(std::string_view name) { return out_.list_cons().tuple(2).atom(name); }
  void atoms(std::string_view name, const std::vector<std::string>& values);
  void end() { out_.nil(); }

 private:
  codec::TermBuilder& out_;
};

// Whose: the flags that events, stats and traces share, as they were given and, after check(), as what they mean. Each
// command names them in its own words and writes them.
struct WhoFlags {
  std::string pid, mfa, duration;
  std::vector<std::string> nodes, modules;
  std::optional<ProcessArg> process;
  std::optional<MfaArg> function;
  std::optional<std::int64_t> min_duration;

  Status check();
};

// Which events: for events and stats.
class RowFlags {
 public:
  void add_to(CLI::App& app);
  Status check();
  void write(Keywords& out) const;

 private:
  WhoFlags who_;
  std::string peer_, match_, text_;
  std::vector<std::string> types_;
  bool explain_ = false;
  std::optional<ProcessArg> peer_process_;
  std::optional<codec::TermBuilder> pattern_;
};

// Which causal traces: for traces and export.
class TraceFlags {
 public:
  void add_to(CLI::App& app);
  Status check();
  void write(Keywords& out) const;

 private:
  WhoFlags who_;
  std::string text_;
  std::optional<bool> errors_;
};

class PageFlags {
 public:
  void add_to(CLI::App& app);
  void add_range_to(CLI::App& app);  // only since and until
  Status check();
  void write(Keywords& out) const;

  std::string cursor;  // bytes, after check()

 private:
  std::string since_, until_, order_;
  std::optional<TimeArg> since_time_, until_time_;
  std::uint32_t limit_ = 0;
};

}  // namespace scope::node::cli
