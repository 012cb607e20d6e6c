#include "cnode/cli/filter_flags.h"

#include <CLI/CLI.hpp>

#include "cnode/cli/answer.h"
#include "cnode/cli/term_text.h"

namespace scope::node::cli {

void Keywords::atoms(std::string_view name, const std::vector<std::string>& values) {
  if (values.empty()) return;
  auto& b = key(name).list(static_cast<std::uint32_t>(values.size()));
  for (const auto& v : values) b.atom(v);
  b.nil();
}

void RowFlags::add_to(CLI::App& app) {
  app.add_option("--pid", who_.pid, "of one process: 0.123.0@node, NAME@node, NAME");
  app.add_option("--node,--nodes", who_.nodes, "of these nodes");
  app.add_option("--type,--types", types_,
                 "of these types, such as message_send, state_change, function_entry; or calls, "
                 "messages, ...");
  app.add_option("--mfa", who_.mfa, "of a function: m:f/a, Mod.f/a, m:f");
  app.add_option("--module,--modules", who_.modules, "of functions in these modules");
  app.add_option("--peer", peer_, "with this process at the other end");
  app.add_option("--min-duration", who_.duration, "calls that took at least so long: 10ms");
  app.add_option("--match", match_,
                 "whose message, arguments, state, result or reason matches, in Erlang's syntax: "
                 "\"{add, '_'}\", or with guards \"{{add, '$1'}, [{'>', '$1', 100}]}\"");
  app.add_option("--text", text_,
                 "with this text in an atom, binary or string, or in the function");
  app.add_flag("--explain", explain_, "how it was found, too: indexes, blocks read, times");
}

Status WhoFlags::check() {
  for (auto& n : nodes = split_commas(nodes)) {
    ASSIGN_OR_RETURN(n, parse_node(n));
  }
  for (auto& m : modules = split_commas(modules)) {
    ASSIGN_OR_RETURN(m, parse_atom(m));
  }
  if (!pid.empty()) {
    ASSIGN_OR_RETURN(process, parse_process(pid, nodes.size() == 1 ? nodes.front() : ""));
  }
  if (!mfa.empty()) {
    ASSIGN_OR_RETURN(function, parse_mfa(mfa));
  }
  if (!duration.empty()) {
    ASSIGN_OR_RETURN(min_duration, parse_duration(duration));
  }
  return {};
}

Status RowFlags::check() {
  RETURN_IF_ERROR(who_.check());
  types_ = split_commas(types_);
  if (!peer_.empty()) {
    ASSIGN_OR_RETURN(peer_process_, parse_process(peer_));
  }
  if (!match_.empty()) {
    ASSIGN_OR_RETURN(pattern_, parse_term(match_));
  }
  return {};
}

void RowFlags::write(Keywords& k) const {
  if (who_.process) who_.process->encode(k.key("pid"));
  k.atoms("node", who_.nodes);
  k.atoms("type", types_);
  k.atoms("module", who_.modules);
  if (who_.function) who_.function->encode(k.key("mfa"));
  if (peer_process_) peer_process_->encode(k.key("peer"));
  if (who_.min_duration) k.key("min_duration").integer(*who_.min_duration);
  if (pattern_) k.key("match").raw(pattern_->bytes());
  if (!text_.empty()) k.key("text").binary(std::string_view(text_));
  if (explain_) k.key("explain").boolean(true);
}

void TraceFlags::add_to(CLI::App& app) {
  app.add_option("--pid", who_.pid,
                 "that this process took part in: 0.123.0@node, NAME@node, NAME");
  app.add_option("--node,--nodes", who_.nodes, "that these nodes took part in");
  app.add_option("--mfa", who_.mfa, "with a call of this function: m:f/a, Mod.f/a, m:f");
  app.add_option("--module,--modules", who_.modules, "with these behaviours, or calls in them");
  app.add_option("--text", text_, "with this text in a message's name, a module or an error");
  app.add_option("--min-duration", who_.duration, "that took at least so long: 10ms");
  app.add_flag("--errors,!--no-errors", errors_, "with an error, or without one");
}

Status TraceFlags::check() { return who_.check(); }

void TraceFlags::write(Keywords& k) const {
  if (who_.process) who_.process->encode(k.key("pid"));
  k.atoms("node", who_.nodes);
  k.atoms("module", who_.modules);
  if (who_.function) who_.function->encode(k.key("mfa"));
  if (!text_.empty()) k.key("text").binary(std::string_view(text_));
  if (who_.min_duration) k.key("min_duration").integer(*who_.min_duration);
  if (errors_) k.key("errors").boolean(*errors_);
}

void PageFlags::add_range_to(CLI::App& app) {
  app.add_option("--since", since_,
                 "from this time on: now, 10s ago, -10s, 2024-05-01T12:00:00Z, 12:00:00, or "
                 "nanoseconds since 1970");
  app.add_option("--until", until_, "up to this time");
}

void PageFlags::add_to(CLI::App& app) {
  add_range_to(app);
  app.add_option("--limit", limit_, "at most so many (default 100)")->check(CLI::Range(1, 10'000));
  app.add_option("--order", order_, "newest (default) or oldest first")
      ->check(CLI::IsMember({"newest", "oldest"}));
  app.add_option("--cursor", cursor, "go on where an earlier answer ended");
}

Status PageFlags::check() {
  const auto read = [](const std::string& text, std::string_view flag,
                       std::optional<TimeArg>& out) -> Status {
    if (text.empty()) return {};
    auto time = parse_time(text);
    if (!time) return fail(Code::bad_value, time.error().message, std::string(flag), text);
    out = *time;
    return {};
  };
  RETURN_IF_ERROR(read(since_, "--since", since_time_));
  RETURN_IF_ERROR(read(until_, "--until", until_time_));
  if (!cursor.empty()) {
    auto bytes = cursor_bytes(cursor);
    if (!bytes)
      return fail(Code::bad_value, "not a cursor: give the one that an earlier answer ended with",
                  "--cursor", cursor);
    cursor = *std::move(bytes);
  }
  return {};
}

void PageFlags::write(Keywords& out) const {
  if (since_time_) since_time_->encode(out.key("since"));
  if (until_time_) until_time_->encode(out.key("until"));
  if (limit_ > 0) out.key("limit").unsigned_integer(limit_);
  if (!order_.empty()) out.key("order").atom(order_ == "oldest" ? "oldest_first" : "newest_first");
  if (!cursor.empty()) out.key("cursor").binary(std::string_view(cursor));
}

}  // namespace scope::node::cli
