// scope store VERB: looking after a store's files. The daemon that has the folder does it; where none has, this process does
// (store/maintenance.h, service/store_request.h).
#include <fmt/format.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <utility>

#include "cnode/cli/answer.h"
#include "cnode/cli/command.h"
#include "cnode/cli/table.h"
#include "cnode/cli/times.h"
#include "cnode/config.h"
#include "cnode/service/store_request.h"
#include "store/maintenance.h"
#include "store/trace_store.h"

namespace scope::node::cli {
namespace {

using codec::TermBuilder;
using codec::TermView;
using store::StoreFolder;

std::int64_t at(const TimeArg& time) {
  timespec t{};
  ::clock_gettime(CLOCK_REALTIME, &t);
  const auto now = t.tv_sec * 1'000'000'000LL + t.tv_nsec;
  return time.kind == TimeArg::Kind::at ? time.ns
                                        : now - (time.kind == TimeArg::Kind::ago ? time.ns : 0);
}

std::uint64_t number(const TermView& map, std::string_view key) {
  const auto value = get(map, key);
  return value ? value->unsigned_integer().value_or(0) : 0;
}

class StoreCommand : public Command {
 public:
  std::string_view name() const override { return "store"; }
  std::string_view summary() const override {
    return "look at, check and move the files of a store, with or without its daemon";
  }
  std::string_view examples() const override {
    return "store info --db /var/lib/scope\n"
           "store verify                                    read and check everything\n"
           "store archive /backup/scope --until '7d ago'    move older partitions there\n"
           "store attach /backup/scope                      and have them beside live data again\n"
           "store detach /backup/scope\n"
           "store rebuild\n"
           "store protect --since '2h ago' --until '1h ago' retention leaves that alone\n"
           "store protect --off";
  }

  void add_flags(CLI::App& app) override {
    app.require_subcommand(1);
    const auto verb = [&](const char* name, const char* help) {
      auto* sub = app.add_subcommand(name, help);
      sub->add_option("--db", db_,
                      fmt::format("the folder of the store (default {}, else the daemon's)", kDb));
      common_.add_to(*sub);
      sub->callback([this, name] { verb_ = name; });
      return sub;
    };
    verb("info", "its partitions: size, time, what is protected or attached");
    verb("verify", "read and check every block, index and batch");
    verb("rebuild", "derive again what is kept beside the events: where each message arrived");
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
    named_ = !common_.access.scope.empty();  // check() takes $SCOPE_NODE, too
    return common_.check();
  }

  int run() override {
    const auto screen = common_.screen();
    const auto asked = verb();
    // --scope names a daemon. Else the folder says who has it; a folder that is not there is the daemon's affair, too.
    if (!named_) {
      const auto db = db_.empty() ? kDb : db_;
      auto folder = StoreFolder::open(db);
      if (folder) {
        TermBuilder value;
        std::uint32_t last = 0;
        const store::Progress progress{[&](std::uint32_t n) {
                                         if (std::exchange(last, n) != n) remark(screen, n);
                                       },
                                       nullptr};
        const auto done = run_here(*std::move(folder), db, asked, progress, value);
        return done ? answer(*codec::view(value.bytes()), screen) : trouble(done.error(), screen);
      }
      const bool absent = folder.error().code == Code::bad_value;
      if (folder.error().code != Code::owned_by && !(absent && db_.empty()))
        return trouble(folder.error(), screen);
      return ask_daemon(asked, absent ? std::string() : db, screen);
    }
    return ask_daemon(asked, db_, screen);
  }

 private:
  StoreVerb verb() const {
    using enum StoreVerb::Kind;
    StoreVerb out;
    out.kind = verb_ == "info"      ? info
               : verb_ == "verify"  ? verify
               : verb_ == "rebuild" ? rebuild
               : verb_ == "archive" ? archive
               : verb_ == "attach"  ? attach
               : verb_ == "detach"  ? detach
                                    : protect;
    std::error_code error;
    if (!folder_.empty()) out.folder = std::filesystem::absolute(folder_, error).string();
    if (!since_.empty()) out.from = {at(from_)};
    out.until = {at(to_)};
    out.keep = !off_;
    out.budget = budget_mb_ << 20;
    return out;
  }
  // In a folder that no daemon has.
  static Status run_here(StoreFolder folder, const std::string& db, const StoreVerb& asked,
                         const store::Progress& progress, TermBuilder& out) {
    std::shared_ptr<store::EdgeStore> edges;
    if (asked.kind != StoreVerb::Kind::rebuild) {
      // Made by the daemon. What cannot be read of it is begun anew, as the daemon would.
      std::error_code error;
      if (std::filesystem::exists(store::EdgeStore::path_of(db), error)) {
        ASSIGN_OR_RETURN(const auto manifest, folder.manifest());
        auto opened =
            store::EdgeStore::open(db, manifest.store_id, analysis::kEdgeRules, true, nullptr);
        if (opened) edges = *std::move(opened);
      }
      return run_store_verb(folder, {edges.get(), nullptr}, asked, progress, out);
    }
    // Deriving reads as the daemon does, so the store is opened as by it, which takes the folder's lock anew.
    {
      const StoreFolder closed = std::move(folder);
    }
    store::StoreOptions options;
    options.path = db;
    ASSIGN_OR_RETURN(const auto opened, store::TraceStore::open(options, nullptr));
    ASSIGN_OR_RETURN(const auto deriver, EdgeDeriver::open(*opened, db, nullptr, {.alone = true}));
    return run_store_verb(opened->upkeep(), {deriver->kept().get(), deriver.get()}, asked, progress,
                          out);
  }
  std::string command() const { return fmt::format("scope store {}", verb_); }
  int trouble(const Error& error, const Screen& screen) const {
    auto t = Trouble::of(error);
    if (error.field == "db")
      t.next = "name the store's folder with --db, or its daemon with --scope";
    show(screen, command(), t);
    return kExitError;
  }
  static void remark(const Screen& screen, std::uint64_t partition) {
    if (!screen.json) screen.remark(fmt::format("partition {} ...", partition));
  }

  // `db`: the folder that the daemon must have; empty: whatever it has.
  int ask_daemon(const StoreVerb& asked, const std::string& db, const Screen& screen) const {
    auto client = Client::make(common_.access);
    if (!client)
      return no_connection(screen, command(), nullptr, common_.access.scope, client.error());
    if (auto found = (*client)->find_daemon(); !found)
      return no_connection(screen, command(), client->get(), (*client)->daemon(), found.error());
    const auto ask = [&](const StoreVerb& v) {
      TermBuilder request;
      write_store_verb(request, v);
      return (*client)->ask(request);
    };
    const auto failed = [&](const Error& error) {
      return no_connection(screen, command(), client->get(), (*client)->daemon(), error);
    };
    const auto ours = db.empty() ? std::nullopt : store_id(db);
    if (ours) {
      const auto reply = ask({});
      if (!reply) return failed(reply.error());
      const auto value = unwrap(reply->term);
      if (value && number(*value, "store_id") != *ours) {
        Trouble t;
        t.code = "owned_by";
        t.message = fmt::format("another daemon than {} has {}", (*client)->daemon(), db);
        t.next = "name that daemon with --scope NAME@HOST";
        show(screen, command(), t);
        return kExitError;
      }
    }
    for (std::uint64_t last = 0;;) {
      const auto reply = ask(asked);
      if (!reply) return failed(reply.error());
      const auto value = unwrap(reply->term);
      if (!value) {
        show(screen, command(), value.error());
        return kExitError;
      }
      // What takes long is asked for until it is done.
      if (get(*value, "done") && !get_flag(*value, "done")) {
        const auto at = number(*value, "partition");
        if (at != last) remark(screen, at);
        last = at;
        continue;
      }
      return answer(*value, screen);
    }
  }
  static std::optional<std::uint64_t> store_id(const std::string& db) {
    const auto manifest = store::Manifest::read(db);
    if (!manifest || !*manifest) return std::nullopt;
    return (*manifest)->store_id;
  }

  int answer(const TermView& value, const Screen& screen) const {
    const bool bad = verb_ == "verify" && number(value, "damaged") > 0;
    if (screen.json) {
      screen.print_json(value);
    } else {
      screen.print(verb_ == "info"      ? render_info(value, screen)
                   : verb_ == "verify"  ? render_report(value, screen)
                   : verb_ == "rebuild" ? render_rebuilt(value)
                                        : render_done(value));
    }
    return bad ? kExitError : kExitOk;
  }

  static std::string render_rebuilt(const TermView& value) {
    auto out =
        fmt::format("derived again: {} edges of messages, {}\n",
                    format_count(number(value, "edges")), format_bytes(number(value, "bytes")));
    if (const auto until = get_integer(value, "until"))
      out += fmt::format("kept up to {}; what is younger is matched when it is asked for\n",
                         format_time(*until));
    return out;
  }

  std::string render_done(const TermView& value) const {
    const auto list = get_list(value, "partitions");
    std::vector<std::int64_t> numbers;
    for (const auto& n : list) numbers.push_back(n.integer().value_or(0));
    const auto* what = verb_ == "archive"  ? "moved"
                       : verb_ == "attach" ? "attached"
                       : verb_ == "detach" ? "detached"
                       : off_              ? "no longer protected"
                                           : "protected";
    return fmt::format("{}: {} partition{}{}{}\n", what, numbers.size(),
                       numbers.size() == 1 ? "" : "s", numbers.empty() ? "" : ": ",
                       fmt::join(numbers, ", "));
  }

  static std::string render_info(const TermView& value, const Screen& screen) {
    Table table({{"partition", true},
                 {"from"},
                 {"until"},
                 {"size", true},
                 {"blocks", true},
                 {"events", true},
                 {"state", false, true}});
    std::uint64_t bytes = 0, rows = 0;
    for (const auto& p : get_list(value, "partitions")) {
      bytes += number(p, "bytes");
      rows += number(p, "events");
      const auto until = get_integer(p, "until").value_or(0);
      table.add({std::to_string(number(p, "number")),
                 format_time(get_integer(p, "from").value_or(0)),
                 until == 0 ? std::string() : format_time(until), format_bytes(number(p, "bytes")),
                 format_count(number(p, "blocks")), format_count(number(p, "events")),
                 Cell(printable(get_text(p, "state")),
                      get_flag(p, "damaged") ? Paint::red : Paint::none)});
    }
    return table.render(screen.out) +
           fmt::format("store {:016x}: {}, {} events in blocks, {} agents recorded\n",
                       number(value, "store_id"), format_bytes(bytes), format_count(rows),
                       get_list(value, "agents").size()) +
           render_edges(get(value, "edges"));
  }

  static std::string render_edges(const std::optional<TermView>& edges) {
    if (!edges) return {};
    auto out = fmt::format("edges of messages: {}, {} edges", format_bytes(number(*edges, "bytes")),
                           format_count(number(*edges, "edges")));
    if (number(*edges, "slices") > 0)
      out += fmt::format(", up to {}", format_time(get_integer(*edges, "until").value_or(0)));
    return out + "\n";
  }

  static std::string render_report(const TermView& value, const Screen& screen) {
    std::string out;
    for (const auto& d : get_list(value, "found"))
      out += fmt::format("{}  partition {}: {}\n", paint(Paint::red, "damaged", screen.out),
                         number(d, "partition"), printable(get_text(d, "what")));
    const auto damaged = number(value, "damaged");
    return out +
           fmt::format(
               "{}: {} events in {} blocks of {} partitions, {} indexes, {} batches not in blocks "
               "yet\n",
               damaged == 0 ? paint(Paint::green, "all is well", screen.out)
                            : paint(Paint::red, fmt::format("{} damaged", damaged), screen.out),
               format_count(number(value, "events")), format_count(number(value, "blocks")),
               number(value, "partitions"), format_count(number(value, "indexes")),
               format_count(number(value, "batches"))) +
           render_checked(value);
  }

  static std::string render_checked(const TermView& value) {
    if (!get(value, "edges")) return {};
    const auto damaged = number(value, "edges_damaged");
    return fmt::format("{} edges of messages{}\n", format_count(number(value, "edges")),
                       damaged == 0 ? ""
                                    : fmt::format("; {} minutes of them are damaged and not used: "
                                                  "scope store rebuild",
                                                  damaged));
  }

  static inline const std::string kDb = Config{}.db;
  std::string db_, verb_, folder_, since_, until_;
  std::uint64_t budget_mb_ = store::kProtectBudget >> 20;
  bool off_ = false, named_ = false;
  TimeArg from_, to_;
  Common common_;
};

}  // namespace

std::unique_ptr<Command> make_store() { return std::make_unique<StoreCommand>(); }

}  // namespace scope::node::cli
