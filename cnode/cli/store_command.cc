// scope store VERB: what is done to a store's files while no daemon has it open (store/maintenance.h).
#include <fmt/format.h>
#include <time.h>

#include <CLI/CLI.hpp>

#include "cnode/cli/command.h"
#include "cnode/cli/table.h"
#include "cnode/cli/times.h"
#include "cnode/config.h"
#include "store/maintenance.h"

namespace scope::node::cli {
namespace {

using store::StoreFolder;

std::int64_t at(const TimeArg& time) {
  timespec t{};
  ::clock_gettime(CLOCK_REALTIME, &t);
  const auto now = t.tv_sec * 1'000'000'000LL + t.tv_nsec;
  return time.kind == TimeArg::Kind::at ? time.ns
                                        : now - (time.kind == TimeArg::Kind::ago ? time.ns : 0);
}

std::string numbers(const std::vector<std::uint32_t>& list) {
  return fmt::format("{} partition{}{}{}", list.size(), list.size() == 1 ? "" : "s",
                     list.empty() ? "" : ": ", fmt::join(list, ", "));
}

class StoreCommand : public Command {
 public:
  std::string_view name() const override { return "store"; }
  std::string_view summary() const override {
    return "look at, check and move the files of a store that no daemon has open";
  }
  std::string_view examples() const override {
    return "store info --db /var/lib/scope\n"
           "store verify                                    read and check everything\n"
           "store archive /backup/scope --until '7d ago'    move older partitions there\n"
           "store attach /backup/scope                      and have them beside live data again\n"
           "store detach /backup/scope\n"
           "store protect --since '2h ago' --until '1h ago' retention leaves that alone\n"
           "store protect --off";
  }

  void add_flags(CLI::App& app) override {
    app.require_subcommand(1);
    const auto verb = [&](const char* name, const char* help) {
      auto* sub = app.add_subcommand(name, help);
      sub->add_option("--db", db_, fmt::format("the folder of the store (default {})", db_));
      common_.add_to(*sub);
      sub->callback([this, name] { verb_ = name; });
      return sub;
    };
    verb("info", "its partitions: size, time, what is protected or attached");
    verb("verify", "read and check every block, index and batch");
    auto* archive = verb("archive", "move closed partitions to another folder");
    archive->add_option("to", folder_, "the folder, made if absent")->required();
    archive->add_option("--until", until_, "those that ended at or before this time (default now)");
    for (auto* sub : {verb("attach", "take an archive of this store in, from where it lies"),
                      verb("detach", "forget an archive that was taken in")})
      sub->add_option("archive", folder_, "the archive's folder")->required();
    auto* protect = verb("protect", "keep retention away from partitions of a time");
    protect->add_option("--since", since_, "from this time (default: the beginning)");
    protect->add_option("--until", until_, "to this time (default: now)");
    protect->add_flag("--off", off_, "no longer");
    protect->add_option("--budget", budget_mb_,
                        fmt::format("most that may be protected, in MB (default {})", budget_mb_));
  }
  Status check() override {
    if (!since_.empty()) {
      ASSIGN_OR_RETURN(from_, parse_time(since_));
    }
    if (!until_.empty()) {
      ASSIGN_OR_RETURN(to_, parse_time(until_));
    }
    return common_.check();
  }

  int run() override {
    const auto screen = common_.screen();
    const auto command = fmt::format("scope store {}", verb_);
    auto folder = StoreFolder::open(db_);
    if (!folder) {
      auto trouble = Trouble::of(folder.error());
      trouble.next = folder.error().code == Code::owned_by
                         ? "stop that daemon first, and start it again afterwards"
                         : "name the store's folder with --db";
      show(screen, command, trouble);
      return kExitError;
    }
    if (verb_ == "info") return info(*folder, screen);
    if (verb_ == "verify") return verify(*folder, screen);
    const auto done = verb_ == "archive"  ? folder->archive({at(to_)}, folder_)
                      : verb_ == "attach" ? folder->attach(folder_)
                      : verb_ == "detach"
                          ? folder->detach(folder_)
                          : folder->protect({since_.empty() ? INT64_MIN : at(from_)}, {at(to_)},
                                            !off_, budget_mb_ << 20);
    if (!done) {
      show(screen, command, Trouble::of(done.error()));
      return kExitError;
    }
    if (screen.json) {
      codec::TermBuilder b;
      b.map(1).atom("partitions");
      for (const auto n : *done) b.list_cons().unsigned_integer(n);
      b.nil();
      print(b, screen);
    } else {
      const auto* what = verb_ == "archive"  ? "moved"
                         : verb_ == "attach" ? "attached"
                         : verb_ == "detach" ? "detached"
                         : off_              ? "no longer protected"
                                             : "protected";
      screen.print(fmt::format("{}: {}\n", what, numbers(*done)));
    }
    return kExitOk;
  }

 private:
  static void print(const codec::TermBuilder& b, const Screen& screen) {
    if (const auto view = codec::view(b.bytes())) screen.print_json(*view);
  }
  static std::string state(const store::PartitionReport& r) {
    std::string out = r.active ? "active" : "";
    const auto add = [&out](std::string_view word) {
      out += fmt::format("{}{}", out.empty() ? "" : ", ", word);
    };
    if (r.listed.keep) add("protected");
    if (!r.listed.folder.empty()) add("attached: " + r.listed.folder);
    if (!r.problem.empty()) add(r.problem);
    return out;
  }

  int info(const StoreFolder& folder, const Screen& screen) const {
    const auto all = folder.info();
    const auto agents = folder.agents();
    if (screen.json) {
      codec::TermBuilder b;
      b.map(3).atom("store_id").unsigned_integer(folder.manifest().store_id).atom("partitions");
      for (const auto& r : all) {
        const auto& p = r.listed;
        b.list_cons().map(9).atom("number").unsigned_integer(p.number);
        b.atom("bytes").unsigned_integer(r.bytes).atom("blocks").unsigned_integer(r.blocks);
        b.atom("events").unsigned_integer(r.rows).atom("batches").unsigned_integer(r.hot_batches);
        b.atom("from").integer(p.made_ns).atom("until").integer(p.closed_ns);
        b.atom("protected").boolean(p.keep).atom("state").binary(std::string_view(state(r)));
      }
      b.nil().atom("agents");
      for (const auto& a : agents) {
        b.list_cons().map(3).atom("node").atom(a.node).atom("creation");
        b.unsigned_integer(a.creation).atom("batches").unsigned_integer(a.last_committed_seq);
      }
      b.nil();
      print(b, screen);
      return kExitOk;
    }
    Table table({{"partition", true},
                 {"from"},
                 {"until"},
                 {"size", true},
                 {"blocks", true},
                 {"events", true},
                 {"state", false, true}});
    std::uint64_t bytes = 0, rows = 0;
    for (const auto& r : all) {
      bytes += r.bytes;
      rows += r.rows;
      table.add({std::to_string(r.listed.number), format_time(r.listed.made_ns),
                 r.listed.closed_ns == 0 ? std::string() : format_time(r.listed.closed_ns),
                 format_bytes(r.bytes), format_count(r.blocks), format_count(r.rows),
                 Cell(printable(state(r)), r.problem.empty() ? Paint::none : Paint::red)});
    }
    screen.print(table.render(screen.out));
    screen.print(fmt::format("store {:016x}: {}, {} events in blocks, {} agents recorded\n",
                             folder.manifest().store_id, format_bytes(bytes), format_count(rows),
                             agents.size()));
    return kExitOk;
  }

  int verify(const StoreFolder& folder, const Screen& screen) const {
    const auto r = folder.verify([&](std::uint32_t n) {
      if (!screen.json) screen.remark(fmt::format("partition {} ...", n));
    });
    if (screen.json) {
      codec::TermBuilder b;
      b.map(7).atom("partitions").unsigned_integer(r.partitions);
      b.atom("blocks").unsigned_integer(r.blocks).atom("events").unsigned_integer(r.rows);
      b.atom("indexes").unsigned_integer(r.indexes).atom("batches");
      b.unsigned_integer(r.hot_batches).atom("damaged").unsigned_integer(r.damaged);
      b.atom("found");
      for (const auto& d : r.damages)
        b.list_cons()
            .map(2)
            .atom("partition")
            .unsigned_integer(d.partition)
            .atom("what")
            .binary(std::string_view(d.what));
      b.nil();
      print(b, screen);
    } else {
      for (const auto& d : r.damages)
        screen.print(fmt::format("{}  partition {}: {}\n", paint(Paint::red, "damaged", screen.out),
                                 d.partition, printable(d.what)));
      screen.print(fmt::format(
          "{}: {} events in {} blocks of {} partitions, {} indexes, {} batches not in blocks yet\n",
          r.damaged == 0 ? paint(Paint::green, "all is well", screen.out)
                         : paint(Paint::red, fmt::format("{} damaged", r.damaged), screen.out),
          format_count(r.rows), format_count(r.blocks), r.partitions, format_count(r.indexes),
          format_count(r.hot_batches)));
    }
    return r.damaged == 0 ? kExitOk : kExitError;
  }

  std::string db_ = Config{}.db, verb_, folder_, since_, until_;
  std::uint64_t budget_mb_ = store::kProtectBudget >> 20;
  bool off_ = false;
  TimeArg from_, to_;
  Common common_;
};

}  // namespace

std::unique_ptr<Command> make_store() { return std::make_unique<StoreCommand>(); }

}  // namespace scope::node::cli
