// Causal traces as text: the list, and the tree of one.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "cnode/cli/answer.h"
#include "cnode/cli/table.h"
#include "cnode/cli/times.h"

namespace scope::node::cli {
namespace {

using codec::TermView;

std::string duration(const TermView& map, std::string_view key) {
  const auto ns = get_integer(map, key);
  return ns ? format_duration(*ns) : "?";
}

std::string shown(const TermView& map, std::string_view key, const Screen& screen) {
  const auto value = get(map, key);
  return value ? screen.term(*value) : "?";
}

Cell certainty(const TermView& map) {
  auto text = get_text(map, "certainty");
  const bool sure = text == "exact" || text == "unique";
  // Spans say their token's label, lists how many have one.
  const auto token = get(map, "token");
  const bool followed = (token && token->binary()) || get_integer(map, "tokens").value_or(0) > 0;
  const auto differs = get(map, "differs");
  if (followed) text += " (token)";
  if (differs && (differs->map() || get_integer(map, "differs").value_or(0) > 0))
    text += ", inferred otherwise";
  return {text.empty() ? "?" : printable(text), sure ? Paint::green : Paint::yellow};
}

std::string what(const TermView& span) {
  const auto name = get_text(span, "name");
  auto text = printable(get_text(span, "kind")) + " " + (name.empty() ? "?" : printable(name));
  if (const auto origin = get_text(span, "origin"); !origin.empty() && origin != "none") {
    text += fmt::format(" ({})", printable(origin));
  }
  return text;
}

}  // namespace

std::string render_traces(const TermView& value, const Screen& screen) {
  const auto traces = get_list(value, "traces");
  Table table({{"start"},
               {"error"},
               {"duration", true},
               {"spans", true},
               {"errors", true},
               {"certainty"},
               {"process"},
               {"root", false, true},
               {"nodes", false, true},
               {"id"}});
  for (const auto& t : traces) {
    const auto root = get(t, "root");
    const auto errors = get_integer(t, "errors").value_or(0);
    std::string nodes;
    for (const auto& n : get_list(t, "nodes")) nodes += (nodes.empty() ? "" : " ") + screen.term(n);
    table.add({{when(t, "start", ""), Paint::dim},
               {format_error(get_integer(t, "start_error")), Paint::dim},
               duration(t, "duration_ns"),
               shown(t, "spans", screen),
               errors > 0 ? Cell{std::to_string(errors), Paint::red} : Cell{""},
               certainty(t),
               root ? shown(*root, "pid", screen) : "?",
               root ? what(*root) : "?",
               nodes,
               {id_text(t, "id"), Paint::dim}});
  }
  std::string out = table.render(screen.out);
  if (traces.empty()) out += "no traces\n";
  out += completeness_text(value, screen);
  if (const auto cursor = cursor_text(value); !cursor.empty()) {
    out += paint(Paint::dim, fmt::format("more: --cursor {}", cursor), screen.out) + "\n";
  }
  return out;
}

std::string render_trace(const TermView& value, const Screen& screen) {
  constexpr std::int64_t kIndented = 40;  // deeper spans say their depth instead
  const auto spans = get_list(value, "spans");
  Table table({{"after", true},
               {"error"},
               {"span", false, true},
               {"process"},
               {"node"},
               {"queue", true},
               {"service", true},
               {"certainty"},
               {"failed", false, true}});
  const auto begun = spans.empty() ? std::nullopt : get_integer(spans.front(), "start");
  for (const auto& s : spans) {
    const auto depth = std::max<std::int64_t>(0, get_integer(s, "depth").value_or(0));
    const bool critical = get_flag(s, "critical");
    auto text = std::string(static_cast<std::size_t>(2 * std::min(depth, kIndented)), ' ');
    if (depth > kIndented) text += fmt::format("[{}] ", depth);
    text += (critical ? "* " : "- ") + what(s);
    const auto start = get_integer(s, "start");
    const auto error = get_text(s, "error");
    const bool failed = !error.empty() && error != "none";
    table.add({{start && begun ? format_duration(*start - *begun) : "?", Paint::dim},
               {format_error(get_integer(s, "start_error")), Paint::dim},
               {text, failed     ? Paint::red
                      : critical ? Paint::bold
                                 : Paint::none},
               shown(s, "pid", screen),
               shown(s, "node", screen),
               get(s, "queue_ns") ? duration(s, "queue_ns") : "",
               duration(s, "service_ns"),
               certainty(s),
               {failed ? printable(error) : "", Paint::red}});
  }
  std::string out;
  if (!spans.empty()) {
    out += fmt::format("trace {}, from {}\n", id_text(value, "id"),
                       when(spans.front(), "start", "start_error"));
  }
  out += table.render(screen.out);
  out += paint(Paint::dim, "* decided how long it took (critical path)", screen.out) + "\n";
  std::map<std::string, std::string> named;  // spans, by id
  for (const auto& s : spans) {
    const auto id = get(s, "id");
    if (const auto bytes = id ? id->binary_text() : std::nullopt) named.emplace(*bytes, what(s));
  }
  for (const auto& link : get_list(value, "links")) {
    if (link.arity() != 3u) continue;
    const auto end = [&](std::uint32_t i) {
      const auto found = named.find(std::string(link.element(i).binary_text().value_or("")));
      return found == named.end() ? std::string("?") : found->second;
    };
    out += fmt::format("link ({}): {} -> {}\n", screen.term(link.element(2)), end(0), end(1));
  }
  for (const auto& cut : get_list(value, "cut")) {
    out += paint(Paint::yellow, fmt::format("not whole: cut by its bound of {}", screen.term(cut)),
                 screen.out) +
           "\n";
  }
  return out + completeness_text(value, screen);
}

std::string render_order(const TermView& value, const Screen& screen) {
  const auto order = get_text(value, "order"), why = get_text(value, "why");
  const bool known = order == "before" || order == "after" || order == "same";
  std::string out = paint(known ? Paint::bold : Paint::yellow, printable(order), screen.out);
  if (order == "before" || order == "after") out = fmt::format("the first came {} the second", out);
  if (why == "process") out += ": by their process's own order";
  if (why == "time") out += ": by their times, whose errors do not overlap";
  const auto path = get_list(value, "path");
  if (why == "messages")
    out +=
        fmt::format(": a chain of {} events leads there ({})", path.size(), certainty(value).text);
  out += fmt::format("\nfirst   {}\nsecond  {}\n", when(value, "time_a", "time_a_error"),
                     when(value, "time_b", "time_b_error"));
  for (const auto& id : path) {
    if (const auto bytes = id.binary())
      out += paint(Paint::dim, "  " + codec::base64url(*bytes), screen.out) + "\n";
  }
  for (const auto& doubt : get_list(value, "doubts"))
    out += paint(Paint::yellow, fmt::format("in doubt: {}", screen.term(doubt)), screen.out) + "\n";
  return out + completeness_text(value, screen);
}

}  // namespace scope::node::cli
