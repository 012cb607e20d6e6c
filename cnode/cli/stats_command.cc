// scope stats
#include <CLI/CLI.hpp>

#include "cnode/cli/answer.h"
#include "cnode/cli/command.h"
#include "cnode/cli/filter_flags.h"

namespace scope::node::cli {
namespace {

class StatsCommand : public Question {
 public:
  std::string_view name() const override { return "stats"; }
  std::string_view summary() const override {
    return "how many events, how long calls took, how long messages waited; by group";
  }
  std::string_view examples() const override {
    return "stats --by type --since -1m\n"
           "stats --of duration --by mfa --module Shop.Stock --since -10m\n"
           "stats --of queue_time --by pid --since -1m --limit 10\n"
           "stats --type calls --by node --every 10s --since -5m";
  }

 protected:
  void add_own_flags(CLI::App& app) override {
    app.add_option("--by", by_, "node, mfa, module, pid, edge, type; several with commas");
    app.add_option("--every", every_, "in buckets of time: 1s, 1m");
    app.add_option("--of", of_,
                   "duration (of calls) or queue_time (of messages); else events are counted")
        ->check(CLI::IsMember({"duration", "queue_time"}));
    rows_.add_to(app);
    range_.add_range_to(app);
    app.add_option("--limit", limit_,
                   "at most so many groups, those with the most events (default 50)")
        ->check(CLI::Range(1, 10'000));
  }
  Status check_own() override {
    by_ = split_commas(by_);
    if (!every_.empty()) {
      ASSIGN_OR_RETURN(bucket_, parse_duration(every_));
    }
    RETURN_IF_ERROR(rows_.check());
    return range_.check();
  }
  void write_request(codec::TermBuilder& out) const override {
    out.tuple(4).atom("aggregate");
    Keywords k(out);
    rows_.write(k);
    range_.write(k);
    k.key("limit").unsigned_integer(limit_);
    k.end();
    for (const auto& key : by_) out.list_cons().atom(key);
    if (bucket_) out.list_cons().tuple(3).atom("time").integer(*bucket_).atom("nanosecond");
    out.nil();
    out.list_cons().atom("count");
    if (!of_.empty()) out.list_cons().atom(of_);
    out.nil();
  }
  std::string render(const codec::TermView& value, const Screen& screen) const override {
    return render_stats(value, screen);
  }

 private:
  std::vector<std::string> by_;
  std::string every_, of_;
  std::optional<std::int64_t> bucket_;
  std::uint32_t limit_ = 50;
  RowFlags rows_;
  PageFlags range_;
};

}  // namespace

std::unique_ptr<Command> make_stats() { return std::make_unique<StatsCommand>(); }

}  // namespace scope::node::cli
