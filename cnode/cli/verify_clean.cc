#include "cnode/cli/verify_clean.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <map>
#include <set>

#include "ei_codec/term_print.h"
#include "ei_codec/term_view.h"

namespace scope::node::cli {
namespace {

using codec::TermBuilder;
using codec::TermView;

constexpr std::string_view kAgentModules[] = {
    "scope_agent",      "scope_sup",      "scope_guard",  "scope_trace", "scope_tracer",
    "scope_behaviours", "scope_hold",     "scope_cut",    "scope_beat",  "scope_hash",
    "scope_patterns",   "scope_baseline", "scope_budget", "scope_probe", "scope_spent",
    "scope_nif",        "scope_drain",    "scope_ask",    "scope_flags", "scope_ladder",
    "scope_watch",      "scope_session",  "scope_redact", "scope_text",  "scope_follow",
    "scope_lease"};
// Asking for what a function's calls take stops all schedulers for 5 us, so fewer at once.
constexpr std::size_t kChunk = 4000, kStopping = 500, kExamples = 3;

std::string text(const TermView& term) { return codec::print(term, codec::Syntax::erlang, 300); }

std::string mfa_text(const TermView& mfa) {
  if (mfa.arity() != 3u) return text(mfa);
  return fmt::format("{}:{}/{}", text(mfa.element(0)), text(mfa.element(1)), text(mfa.element(2)));
}

// "a, b, c and 7 more"
class Examples {
 public:
  void add(const TermView& term) { add(text(term)); }
  void add(const std::string& one) {
    if (++count_ <= kExamples) text_ += (text_.empty() ? "" : ", ") + one;
  }
  std::size_t count() const { return count_; }
  std::string str() const {
    return count_ > kExamples ? fmt::format("{} and {} more", text_, count_ - kExamples) : text_;
  }

 private:
  std::string text_;
  std::size_t count_ = 0;
};

class Check {
 public:
  Check(Client& client, const std::string& node) : client_(client), node_(node) {
    report_.node = node;
  }

  Result<NodeReport> run() {
    ASSIGN_OR_RETURN(const auto release, call("erlang", "system_info", 1,
                                              [](TermBuilder& b) { b.atom("otp_release"); }));
    otp_ = std::atoi(release.term.text().value_or("0").c_str());
    RETURN_IF_ERROR(modules());
    RETURN_IF_ERROR(names());
    RETURN_IF_ERROR(processes());
    RETURN_IF_ERROR(defaults());
    RETURN_IF_ERROR(functions());
    RETURN_IF_ERROR(sessions());
    RETURN_IF_ERROR(handlers());
    RETURN_IF_ERROR(files());
    RETURN_IF_ERROR(owners());
    RETURN_IF_ERROR(links());
    return std::move(report_);
  }

 private:
  using Kind = Finding::Kind;

  void found(Kind kind, std::string what) {
    report_.findings.push_back({kind, std::move(what), false});
  }
  void note(Kind kind, std::string what) {
    report_.findings.push_back({kind, std::move(what), true});
  }

  Result<Message> call(std::string_view module, std::string_view function) {
    TermBuilder args;
    args.nil();
    return client_.rpc(node_, module, function, args);
  }
  template <typename Write>
  Result<Message> call(std::string_view module, std::string_view function, std::uint32_t arity,
                       Write write) {
    TermBuilder args;
    args.list(arity);
    write(args);
    args.nil();
    return client_.rpc(node_, module, function, args);
  }

  // erlang:Function(Item, Key) for every item: visit(item, result).
  template <typename Visit>
  Status each(std::string_view function, const std::vector<TermView>& items, const TermBuilder& key,
              Visit visit, std::size_t chunk = kChunk) {
    static const auto kExport = [](TermBuilder& b, std::string_view f) {
      TermBuilder parts;
      parts.atom("erlang").atom(f).integer(2);
      constexpr std::byte kExportTag[] = {std::byte{113}};
      b.raw(kExportTag).raw(parts.bytes());
    };
    for (std::size_t at = 0; at < items.size(); at += chunk) {
      const auto n = std::min(chunk, items.size() - at);
      auto answer = call("lists", "zipwith", 3, [&](TermBuilder& b) {
        kExport(b, function);
        b.list(static_cast<std::uint32_t>(n));
        for (std::size_t i = at; i < at + n; ++i) b.term(items[i]);
        b.nil().list(static_cast<std::uint32_t>(n));
        for (std::size_t i = 0; i < n; ++i) b.raw(key.bytes());
        b.nil();
      });
      if (!answer) return std::unexpected(std::move(answer).error());
      auto results = answer->term.list();
      if (!results || results->left() != n) {
        return fail(Code::malformed,
                    fmt::format("{} answered a check of {} with something else", node_, function));
      }
      for (std::size_t i = at; !results->done(); results->next(), ++i)
        visit(items[i], results->item());
    }
    return {};
  }

  Status modules() {
    ASSIGN_OR_RETURN(const auto loaded, call("code", "all_loaded"));
    if (!loaded.term.list()) return fail(Code::malformed, "code:all_loaded() is no list");
    for (auto it = *loaded.term.list(); !it.done(); it.next()) {
      if (it.item().arity() != 2u || !it.item().element(0).atom()) continue;
      const auto module = it.item().element(0);
      module_terms_.push_back(module);
      const auto name = *module.atom();
      has_sessions_ |= name == "trace" && otp_ >= 27;
      // The daemon gives the code a file name without a folder; a user's own scope_* module has one.
      const auto file = it.item().element(1).text();
      if (is_agent_module(name) ||
          (name.starts_with("scope_") && file == fmt::format("{}.beam", name))) {
        found(Kind::modules, fmt::format("module {} is loaded", name));
      }
    }
    kept_.push_back(loaded);
    report_.modules = module_terms_.size();
    TermBuilder names;  // code that was deleted but not purged
    for (const auto name : kAgentModules) {
      ASSIGN_OR_RETURN(const auto old,
                       call("erlang", "check_old_code", 1, [&](TermBuilder& b) { b.atom(name); }));
      if (old.term.is_atom("true"))
        found(Kind::modules, fmt::format("old code of module {} is left", name));
    }
    return {};
  }

  Status names() {
    ASSIGN_OR_RETURN(const auto registered, call("erlang", "registered"));
    if (!registered.term.list()) return {};
    for (auto it = *registered.term.list(); !it.done(); it.next()) {
      if (const auto name = it.item().atom();
          name && (is_agent_module(*name) || *name == "elixir_scope")) {
        found(Kind::names, fmt::format("the name {} is registered", *name));
      }
    }
    return {};
  }

  Status processes() {
    ASSIGN_OR_RETURN(const auto list, call("erlang", "processes"));
    const auto pids = items_of(list);
    report_.processes = pids.size();
    TermBuilder keys;
    keys.list(5).atom("registered_name").atom("initial_call").atom("current_function");
    keys.atom("monitored_by").atom("sequential_trace_token").nil();
    Examples tokens;
    RETURN_IF_ERROR(
        each("process_info", pids, keys, [&](const TermView& pid, const TermView& info) {
          std::string name, of, by;
          if (!info.list()) return;  // it has ended
          for (auto it = *info.list(); !it.done(); it.next()) {
            const auto pair = it.item();
            if (pair.arity() != 2u) continue;
            const auto value = pair.element(1);
            if (pair.element(0).is_atom("registered_name")) {
              if (const auto atom = value.atom()) name = *atom;
            } else if (pair.element(0).is_atom("monitored_by")) {
              by = daemon_among(value);
            } else if (pair.element(0).is_atom("sequential_trace_token")) {
              if (value.arity() == 5u && is_our_label(value.element(1))) tokens.add(pid);
            } else if (value.arity() == 3u && value.element(0).atom() &&
                       is_agent_module(*value.element(0).atom())) {
              of = mfa_text(value);
            }
          }
          if (!name.empty()) named_[text(pid)] = name;
          if (!by.empty()) {
            found(Kind::monitors, fmt::format("process {}{} is monitored by {}", text(pid),
                                              name.empty() ? "" : fmt::format(" ({})", name), by));
          }
          if (!of.empty()) {
            ours_.insert(text(pid));
            found(Kind::processes, fmt::format("process {}{} runs {}", text(pid),
                                               name.empty() ? "" : fmt::format(" ({})", name), of));
          }
        }));
    if (tokens.count() > 0) {
      note(Kind::seq_trace,
           fmt::format("{} process{} a token of a request that was followed, which goes with the "
                       "next message "
                       "that is taken: {}",
                       tokens.count(), tokens.count() == 1 ? " has" : "es have", tokens.str()));
    }
    ASSIGN_OR_RETURN(const auto port_list, call("erlang", "ports"));
    auto traced = pids;
    const auto ports = items_of(port_list);
    report_.ports = ports.size();
    traced.insert(traced.end(), ports.begin(), ports.end());
    std::map<std::string, Examples> by_tracer;
    TermBuilder key;
    key.atom("tracer");
    RETURN_IF_ERROR(each("trace_info", traced, key, [&](const TermView& who, const TermView& info) {
      if (info.is_tuple("tracer", 2) && info.element(1).kind() != codec::TermKind::nil) {
        by_tracer[owner(info.element(1))].add(who);
      }
    }));
    for (const auto& [tracer, who] : by_tracer) {
      found(Kind::tracing, fmt::format("{} process{} traced by {}: {}", who.count(),
                                       who.count() == 1 ? " is" : "es are", tracer, who.str()));
    }
    return {};
  }

  // erl/agent/scope_follow.erl, MARKING
  static bool is_our_label(const TermView& label) {
    const auto number = label.unsigned_integer();
    return number && *number >> 22 == 23;
  }

  // A process of a daemon's, in a list of pids. (A call to the daemon is a monitor of the caller's, no daemon's.)
  static std::string daemon_among(const TermView& pids) {
    if (!pids.list()) return {};
    for (auto it = *pids.list(); !it.done(); it.next()) {
      const auto pid = it.item().pid();
      if (pid && pid->node.starts_with("scope") && !is_command_line(pid->node))
        return std::string(pid->node);
    }
    return {};
  }

  // What is set for processes to come, and the match specs of messages.
  Status defaults() {
    for (const std::string_view which : {"new_processes", "new_ports"}) {
      ASSIGN_OR_RETURN(const auto info, call("erlang", "trace_info", 2, [&](TermBuilder& b) {
                         b.atom(which).atom("tracer");
                       }));
      if (info.term.is_tuple("tracer", 2) && info.term.element(1).kind() != codec::TermKind::nil) {
        found(Kind::tracing,
              fmt::format("{} will be traced by {}", which, owner(info.term.element(1))));
      }
    }
    for (const std::string_view which : {"send", "receive"}) {
      ASSIGN_OR_RETURN(const auto info, call("erlang", "trace_info", 2, [&](TermBuilder& b) {
                         b.atom(which).atom("match_spec");
                       }));
      if (info.term.is_tuple("match_spec", 2) && !info.term.element(1).is_atom("true")) {
        found(Kind::patterns,
              fmt::format("the event {} has a match spec: {}", which, text(info.term.element(1))));
      }
    }
    ASSIGN_OR_RETURN(const auto word, call("erlang", "system_info", 1,
                                           [](TermBuilder& b) { b.atom("trace_control_word"); }));
    if (word.term.integer() != 0)
      found(Kind::patterns, fmt::format("the trace control word is {}", text(word.term)));
    ASSIGN_OR_RETURN(const auto info, call("erlang", "trace_info", 2, [&](TermBuilder& b) {
                       b.atom("on_load").atom("traced");
                     }));
    if (info.term.is_tuple("traced", 2) && !info.term.element(1).is_atom("false")) {
      found(Kind::patterns, fmt::format("modules to be loaded will have a {} trace pattern",
                                        text(info.term.element(1))));
    }
    return {};
  }

  Status functions() {
    TermBuilder all;
    std::uint32_t count = 0;
    TermBuilder key;
    key.atom("functions");
    RETURN_IF_ERROR(each("get_module_info", module_terms_, key,
                         [&](const TermView& module, const TermView& functions) {
                           if (!functions.list()) return;
                           for (auto it = *functions.list(); !it.done(); it.next()) {
                             const auto f = it.item();
                             if (f.arity() != 2u) continue;
                             all.tuple(3).term(module).term(f.element(0)).term(f.element(1));
                             ++count;
                           }
                         }));
    report_.functions = count;
    TermBuilder list;
    list.list(count).raw(all.bytes()).nil();
    ASSIGN_OR_RETURN(const auto view, codec::view(list.bytes()));
    std::vector<TermView> mfas;
    mfas.reserve(count);
    for (auto it = *view.list(); !it.done(); it.next()) mfas.push_back(it.item());
    std::set<const std::byte*>
        traced;  // of these `meta` says [], which otherwise is a tracer that has died
    for (const std::string_view what :
         {"traced", "meta", "call_count", "call_time", "call_memory"}) {
      if (what == "call_memory" && otp_ < 26) continue;
      const bool stops = what == "call_time" || what == "call_memory";
      TermBuilder wanted;
      wanted.atom(what);
      std::map<std::string, Examples> by_value;
      RETURN_IF_ERROR(each(
          "trace_info", mfas, wanted,
          [&](const TermView& mfa, const TermView& info) {
            if (info.arity() != 2u) return;
            const auto value = info.element(1);
            if (value.is_atom("false") || value.is_atom("undefined")) return;
            std::string kind(what);
            if (what == "traced") {
              traced.insert(mfa.bytes().data());
              kind = text(value);
            } else if (what == "meta") {
              const bool nobody = value.kind() == codec::TermKind::nil;
              if (nobody && traced.contains(mfa.bytes().data())) return;
              kind = fmt::format("meta (tracer {})", nobody ? "dead" : owner(value));
            }
            by_value[kind].add(mfa_text(mfa));
          },
          stops ? kStopping : kChunk));
      for (const auto& [kind, functions] : by_value) {
        found(Kind::patterns,
              fmt::format("{} function{} a trace pattern, {}: {}", functions.count(),
                          functions.count() == 1 ? " has" : "s have", kind, functions.str()));
      }
    }
    return {};
  }

  // From OTP 27 on. What a session traces goes with it, and no other function of the VM shows it.
  Status sessions() {
    if (!has_sessions_) return {};  // whoever opens one has loaded the module
    ASSIGN_OR_RETURN(const auto all,
                     call("trace", "session_info", 1, [](TermBuilder& b) { b.atom("all"); }));
    if (!all.term.list()) return fail(Code::malformed, "trace:session_info(all) is no list");
    for (auto it = *all.term.list(); !it.done(); it.next()) {
      const auto session = it.item();
      if (session.arity() != 2u || session.element(1).is_atom("default")) continue;
      if (session.element(0).is_atom("elixir_scope")) {
        found(Kind::sessions, fmt::format("the trace session {} is open", text(session)));
      } else {
        note(Kind::sessions,
             fmt::format("the trace session {} is open, which is not of ElixirScope",
                         text(session)));
      }
    }
    return {};
  }

  // Handlers and filters of logger, and of the two event managers that every node may have.
  Status handlers() {
    for (const std::string_view which : {"get_handler_config", "get_primary_config"}) {
      ASSIGN_OR_RETURN(const auto config, call("logger", which));
      named_in("logger's configuration", config.term);
    }
    for (const std::string_view manager : {"error_logger", "alarm_handler"}) {
      ASSIGN_OR_RETURN(const auto pid,
                       call("erlang", "whereis", 1, [&](TermBuilder& b) { b.atom(manager); }));
      if (!pid.term.pid()) continue;
      ASSIGN_OR_RETURN(const auto list, call("gen_event", "which_handlers", 1,
                                             [&](TermBuilder& b) { b.atom(manager); }));
      named_in(fmt::format("the handlers of {}", manager), list.term);
    }
    return {};
  }

  void named_in(std::string_view where, const TermView& term) {
    const auto all = codec::print(term, codec::Syntax::erlang, 1 << 20);
    for (const auto module : kAgentModules) {
      const auto at = all.find(module);
      if (at == all.npos) continue;
      const auto after = at + module.size() < all.size() ? all[at + module.size()] : ' ';
      if (after == '_' || std::isalnum(static_cast<unsigned char>(after))) continue;
      found(Kind::handlers, fmt::format("{} names module {}", where, module));
    }
  }

  // The native tracer's library: the folder that it is loaded from (scope-OSPID-HEX, erl/agent/scope_nif.erl), and the
  // library itself, which goes with its module.
  Status files() {
    ASSIGN_OR_RETURN(const auto os_pid, call("os", "getpid"));
    ASSIGN_OR_RETURN(const auto tmpdir,
                     call("os", "getenv", 1, [](TermBuilder& b) { b.charlist("TMPDIR"); }));
    const auto own = os_pid.term.text().value_or("");
    std::set<std::string> folders{"/tmp", "/var/tmp", "/dev/shm"};
    if (const auto dir = tmpdir.term.text(); !tmpdir.term.atom() && dir && !dir->empty())
      folders.insert(*dir);
    for (const auto& folder : folders) {
      ASSIGN_OR_RETURN(const auto names,
                       call("file", "list_dir", 1, [&](TermBuilder& b) { b.charlist(folder); }));
      if (!names.term.is_tuple("ok", 2) || !names.term.element(1).list()) continue;
      for (auto it = *names.term.element(1).list(); !it.done(); it.next()) {
        const auto name = it.item().text().value_or("");
        if (name.starts_with(fmt::format("scope-{}-", own))) {
          found(Kind::files, fmt::format("the folder {}/{} is left", folder, name));
        }
      }
    }
    ASSIGN_OR_RETURN(const auto maps, call("file", "read_file", 1,
                                           [](TermBuilder& b) { b.charlist("/proc/self/maps"); }));
    if (!maps.term.is_tuple("ok", 2)) return {};  // no Linux
    const auto mapped = maps.term.element(1).binary_text().value_or("");
    if (mapped.find(fmt::format("/scope-{}-", own)) != mapped.npos) {
      found(Kind::files, "the native tracer's library is in memory");
    }
    return {};
  }

  Status owners() {
    ASSIGN_OR_RETURN(const auto monitor, call("erlang", "system_monitor"));
    if (monitor.term.arity() == 2u)
      owned(Kind::system_monitor, "the system monitor", monitor.term.element(0));
    // seq_trace:get_system_tracer() would load a module.
    ASSIGN_OR_RETURN(const auto tracer, call("erlang", "system_info", 1,
                                             [](TermBuilder& b) { b.atom("sequential_tracer"); }));
    if (tracer.term.arity() == 2u && !tracer.term.element(1).is_atom("false")) {
      owned(Kind::seq_trace, "the sequential tracer", tracer.term.element(1));
    }
    return {};
  }

  void owned(Kind kind, std::string_view what, const TermView& who) {
    const bool other = who.pid() && !ours_.contains(text(who)) && !owner_ours(who);
    (other ? note(kind, fmt::format("{} is {}, which is not of ElixirScope", what, owner(who)))
           : found(kind, fmt::format("{} is {}", what, owner(who))));
  }

  // A daemon that is linked to the node may be about to trace it.
  Status links() {
    ASSIGN_OR_RETURN(const auto hidden,
                     call("erlang", "nodes", 1, [](TermBuilder& b) { b.atom("hidden"); }));
    if (!hidden.term.list()) return {};
    for (auto it = *hidden.term.list(); !it.done(); it.next()) {
      const auto name = it.item().atom().value_or("");
      if (name.starts_with("scope") && !is_command_line(name)) {
        note(Kind::link, fmt::format("linked to {}, a daemon that is running", name));
      }
    }
    return {};
  }

  std::vector<TermView> items_of(const Message& list) {
    std::vector<TermView> out;
    kept_.push_back(list);
    if (const auto items = list.term.list()) {
      for (auto it = *items; !it.done(); it.next()) out.push_back(it.item());
    }
    return out;
  }

  std::string owner(const TermView& who) const {
    const auto pid = text(who);
    const auto name = named_.find(pid);
    return name == named_.end() ? pid : fmt::format("{} ({})", pid, name->second);
  }
  bool owner_ours(const TermView& who) const {
    const auto name = named_.find(text(who));
    return name != named_.end() && is_agent_module(name->second);
  }

  Client& client_;
  const std::string& node_;
  int otp_ = 0;
  bool has_sessions_ = false;
  NodeReport report_;
  std::vector<Message> kept_;  // what the views below point into
  std::vector<TermView> module_terms_;
  std::map<std::string, std::string> named_;  // pid -> registered name
  std::set<std::string> ours_;
};

}  // namespace

bool is_agent_module(std::string_view module) {
  return std::ranges::find(kAgentModules, module) != std::end(kAgentModules);
}

std::string_view kind_name(Finding::Kind kind) {
  constexpr std::string_view kNames[] = {"modules",  "names",          "processes", "tracing",
                                         "patterns", "system_monitor", "seq_trace", "link",
                                         "sessions", "monitors",       "handlers",  "files"};
  return kNames[static_cast<std::size_t>(kind)];
}

bool NodeReport::clean() const { return std::ranges::all_of(findings, &Finding::note); }

Result<NodeReport> verify_node(Client& client, const std::string& node) {
  return Check(client, node).run();
}

}  // namespace scope::node::cli
