// The tables of answer.h.
#include <fmt/format.h>

#include <algorithm>

#include "cnode/cli/answer.h"
#include "cnode/cli/table.h"
#include "cnode/cli/time_column.h"
#include "cnode/cli/times.h"
#include "ei_codec/base/counters.h"

namespace scope::node::cli {
namespace {

using codec::TermView;

std::string shown(const TermView& map, std::string_view key, const Screen& screen) {
  const auto value = get(map, key);
  return value ? screen.term(*value) : "?";
}

std::string mfa_of(const TermView& map, const Screen& screen) {
  const auto value = get(map, "mfa");
  return value ? screen.mfa(*value) : "?";
}

// "lists:map(F, [1])" of an MFA and its arguments.
std::string call_of(const TermView& map, const Screen& screen) {
  auto text = mfa_of(map, screen);
  const auto args = get(map, "args");
  if (!args || !args->list()) return text;
  text = text.substr(0, text.rfind('/'));
  std::string inside;
  for (auto it = *args->list(); !it.done() && inside.size() < 4096; it.next()) {
    inside += (inside.empty() ? "" : ", ") + screen.term(it.item());
  }
  return fmt::format("{}({})", text, inside);
}

Paint paint_of(std::string_view type) {
  if (type == "function_exception" || type == "process_exit" || type == "gap" ||
      type == "node_down") {
    return Paint::red;
  }
  if (type.starts_with("message")) return Paint::green;
  if (type.starts_with("state")) return Paint::yellow;
  if (type.starts_with("function")) return Paint::cyan;
  return Paint::none;
}

Paint paint_of_state(std::string_view state) {
  if (state == "tracing" || state == "connected" || state == "live") return Paint::green;
  return state == "down" || state == "refused" ? Paint::red : Paint::yellow;
}

std::string percent(const TermView& map, std::string_view key) {
  const auto value = get(map, key);
  if (value && value->real()) return fmt::format("{:.2f} %", *value->real());
  if (value && value->integer()) return fmt::format("{} %", *value->integer());
  return {};
}

std::string count_of(const TermView& map, std::string_view key) {
  const auto n = get_integer(map, key);
  return n && *n >= 0 ? format_count(static_cast<std::uint64_t>(*n)) : "?";
}

std::string span_of(const TermView& map, std::string_view key) {
  const auto ns = get_integer(map, key);
  return ns ? format_duration(*ns) : "?";
}

void add_outcome(const TermView& node, const TermView& answer, Table& table, const Screen& screen) {
  const bool ok = answer.is_atom("ok");
  std::string why;
  if (answer.is_tuple("error", 2)) {
    const auto trouble = unwrap(answer);
    why = printable(trouble.error().message);
  } else if (!ok) {
    why = screen.term(answer);
  }
  table.add({screen.term(node), {ok ? "ok" : "error", ok ? Paint::green : Paint::red}, why});
}

void add_outcomes(const TermView& nodes, Table& table, const Screen& screen) {
  if (const auto pairs = nodes.map()) {
    for (auto it = *pairs; !it.done(); it.next()) add_outcome(it.key(), it.value(), table, screen);
  }
}

std::string heading(std::string_view text, const Screen& screen) {
  return "\n" + paint(Paint::bold, text, screen.out) + "\n";
}

std::string node_clock(const TermView& node) {
  const auto clock = get(node, "clock");
  if (!clock || !clock->map()) return {};
  const auto offset = get_integer(*clock, "offset_ns");
  if (!offset) return {};
  const auto lower = get_integer(*clock, "lower_ns"), upper = get_integer(*clock, "upper_ns");
  std::optional<std::int64_t> error;
  if (lower && upper) error = (*upper - *lower) / 2;
  return fmt::format("{} {}", format_duration(*offset), format_error(error));
}

std::string join(const std::vector<TermView>& items, const Screen& screen) {
  std::string out;
  for (const auto& i : items) out += (out.empty() ? "" : ", ") + screen.term(i);
  return out;
}

}  // namespace

std::string footer(const TermView& value, std::size_t rows, std::string_view what,
                   const Screen& screen) {
  std::string out = rows == 0 ? fmt::format("no {}\n", what) : "";
  out += completeness_text(value, screen);
  if (const auto cursor = cursor_text(value); !cursor.empty()) {
    out += paint(Paint::dim, fmt::format("more: --cursor {}", cursor), screen.out) + "\n";
  }
  out += explain_text(value, screen);
  return out;
}

std::string describe(const TermView& event, const Screen& screen) {
  const auto type = get_text(event, "type");
  const auto term = [&](std::string_view key) { return shown(event, key, screen); };
  std::string out;
  if (type == "function_entry") {
    out = call_of(event, screen);
  } else if (type == "function_exit") {
    out = fmt::format("{} -> {}", mfa_of(event, screen), term("result"));
  } else if (type == "function_exception") {
    out = fmt::format("{} raised {}: {}", mfa_of(event, screen), term("class"), term("reason"));
  } else if (type == "message_send") {
    out = fmt::format("to {}: {}", term("to"), term("message"));
    if (get_flag(event, "dead_receiver")) out += " (the receiver was dead)";
  } else if (type == "seq_send" || type == "seq_receive") {
    const std::string_view peer = type == "seq_send" ? "to" : "from";
    out = fmt::format("{} {}: {} (token {} {})", peer, term(peer), term("message"), term("label"),
                      term("serial"));
  } else if (type == "message_fetch" || type == "message_take") {
    out = get_flag(event, "timeout") ? "timeout of a receive expression" : term("message");
    if (type == "message_take") out += fmt::format(" ({})", term("behaviour"));
  } else if (type == "state_change") {
    out = term("state");
    if (get_flag(event, "final")) out += " (final)";
  } else if (type == "process_spawn") {
    out = fmt::format("{} spawned {}: {}", term("parent"), term("child"), call_of(event, screen));
  } else if (type == "process_exit") {
    out = term("reason");
  } else if (type == "process_link" || type == "process_unlink" || type == "node_up" ||
             type == "node_down") {
    out = term("peer");
  } else if (type == "process_register" || type == "process_unregister") {
    out = term("name");
  } else if (type == "gap") {
    out = fmt::format("{} dropped until {} ({})", count_of(event, "dropped"),
                      when(event, "until", ""), term("reason"));
  } else if (const auto pairs = event.map()) {
    for (auto it = *pairs; !it.done(); it.next()) {
      const auto key = it.key().atom().value_or("");
      if (key == "id" || key == "node" || key == "pid" || key == "type" || key == "time" ||
          key == "time_error" || it.value().is_atom("unknown")) {
        continue;
      }
      out += fmt::format("{}{}: {}", out.empty() ? "" : ", ", printable(key),
                         key == "mfa" ? screen.mfa(it.value()) : screen.term(it.value()));
    }
  }
  if (const auto ns = get_integer(event, "duration_ns"))
    out += fmt::format(" in {}", format_duration(*ns));
  if (const auto whole = get_integer(event, "truncated")) {
    out += fmt::format(" [captured in part: {} in whole]",
                       format_bytes(static_cast<std::uint64_t>(*whole)));
  }
  return out;
}

std::string event_rows(const TermView& value, const Screen& screen, bool titles) {
  const auto events = get_list(value, "events");
  const TimeColumn times("time", events, "time", screen);
  Table table({times.column(), {"error"}, {"process"}, {"type"}, {"what", false, true}});
  for (const auto& e : events) {
    const auto type = get_text(e, "type");
    const auto pid = get(e, "pid");
    const bool process = pid && pid->pid();
    table.add({times.cell(e),
               {format_error(get_integer(e, "time_error")), Paint::dim},
               process ? screen.term(*pid) : get_text(e, "node"),
               {type, paint_of(type)},
               describe(e, screen)});
  }
  return table.render(screen.out, titles);
}

std::string render_events(const TermView& value, const Screen& screen, bool titles) {
  return event_rows(value, screen, titles) +
         footer(value, get_list(value, "events").size(), "events", screen);
}

std::string render_status(const TermView& value, const Screen& screen) {
  std::string out =
      fmt::format("{} {}, version {}, up {}\n", paint(Paint::bold, "scope", screen.out),
                  get_text(value, "node"), get_text(value, "version"),
                  format_duration(get_integer(value, "uptime_ms").value_or(0) * 1'000'000));
  if (const auto store = get(value, "store")) {
    out += fmt::format("store: {} events, {}", count_of(*store, "events"),
                       format_bytes(static_cast<std::uint64_t>(
                           std::max<std::int64_t>(0, get_integer(*store, "bytes").value_or(0)))));
    if (const auto n = get_integer(*store, "partitions"))
      out += fmt::format(" in {} partition{}", *n, *n == 1 ? "" : "s");
    if (get_integer(*store, "oldest")) {
      out += fmt::format(", from {} to {}", when(*store, "oldest", ""), when(*store, "newest", ""));
    }
    out += '\n';
    const auto edges = get(*store, "edges");
    if (edges && get_integer(*edges, "until")) {
      out += fmt::format("edges of messages: kept up to {}, {}", when(*edges, "until", ""),
                         format_bytes(static_cast<std::uint64_t>(
                             std::max<std::int64_t>(0, get_integer(*edges, "bytes").value_or(0)))));
      out += '\n';
    }
    if (edges && !get_text(*edges, "trouble").empty())
      out += fmt::format("{}: edges of messages: {}\n", paint(Paint::red, "trouble", screen.out),
                         printable(get_text(*edges, "trouble")));
  }
  Table nodes({{"node"},
               {"state"},
               {"otp"},
               {"capture"},
               {"budget", true},
               {"spent", true},
               {"dropped", true},
               {"hold", true},
               {"clock"},
               {"detail", false, true}});
  if (const auto map = get(value, "nodes"); map && map->map()) {
    for (auto it = *map->map(); !it.done(); it.next()) {
      const auto n = it.value();
      const auto state = get_text(n, "state");
      const auto dropped = get_integer(n, "dropped");
      const auto hold = get(n, "hold_seconds");
      nodes.add({screen.term(it.key()),
                 {state, paint_of_state(state)},
                 get_text(n, "otp"),
                 get_text(n, "capture"),
                 percent(n, "budget"),
                 percent(n, "spent"),
                 {dropped ? count_of(n, "dropped") : "",
                  dropped.value_or(0) > 0 ? Paint::red : Paint::none},
                 hold && hold->real() ? fmt::format("{:.0f} s", *hold->real()) : "",
                 node_clock(n),
                 get_text(n, "detail")});
    }
  }
  out +=
      heading("nodes", screen) +
      (nodes.empty() ? "none: scope start --node NAME@HOST joins one\n" : nodes.render(screen.out));
  Table tracing({{"id", true}, {"by"}, {"until"}, {"what", false, true}});
  for (const auto& t : get_list(value, "tracing")) {
    const auto opts = get(t, "opts");
    tracing.add({shown(t, "id", screen), get_text(t, "by"),
                 get_integer(t, "expires") ? when(t, "expires", "") : "stopped",
                 opts ? screen.term(*opts) : ""});
  }
  out += heading("tracing", screen) +
         (tracing.empty() ? "nothing: scope trace --help\n" : tracing.render(screen.out));
  Table counted({{"counted", true}, {"what", false, true}});
  for (const auto& counter : kCounterInfo) {
    const auto counters = get(value, "counters");
    const auto n = counters ? get_integer(*counters, counter.name).value_or(0) : 0;
    if (n == 0 || counter.severity == Severity::info) continue;
    counted.add(
        {{std::to_string(n), counter.severity == Severity::data_loss ? Paint::red : Paint::yellow},
         std::string(counter.help)});
  }
  if (!counted.empty())
    out += heading("not as it should be, since the daemon's start", screen) +
           counted.render(screen.out);
  return out;
}

PredictionText prediction_text(const TermView& said, const Screen& screen) {
  const auto cpu = get(said, "cpu"), budget = get(said, "budget");
  const auto most = budget ? get(*budget, "cpu") : std::nullopt;
  const auto percent = [](const std::optional<TermView>& value) {
    if (value && value->real()) return fmt::format("{:.2g} %", *value->real());
    return value && value->integer() ? fmt::format("{} %", *value->integer()) : std::string("?");
  };
  const auto events = get_integer(said, "events_per_s");
  const auto bound = get_text(said, "bound");
  std::string words = bound == "about" ? "" : bound == "at_least" ? "at least " : "at most ";
  for (const auto& what : get_list(said, "unknown")) {
    words += fmt::format("({} cannot be counted before)", screen.term(what));
  }
  return {events ? std::to_string(*events) : "?", percent(cpu) + " of " + percent(most), words};
}

std::string render_started(const TermView& value, const Screen& screen) {
  std::string out = fmt::format(
      "tracing with id {}, {}\n", paint(Paint::bold, shown(value, "id", screen), screen.out),
      get_integer(value, "expires") ? "until " + when(value, "expires", "")
                                    : "until it is stopped");
  const auto nodes = get(value, "nodes");
  const auto predictions = get(value, "predictions");
  Table begun({{"node"}, {"answer"}, {"events/s", true}, {"cost", true}, {"predicted"}});
  Table failed({{"node"}, {"answer"}, {"why", false, true}});
  for (auto it = nodes ? nodes->map() : std::nullopt; it && !it->done(); it->next()) {
    if (!it->value().is_atom("ok")) {
      add_outcome(it->key(), it->value(), failed, screen);
      continue;
    }
    PredictionText text{"?", "?", ""};
    for (auto p = predictions ? predictions->map() : std::nullopt; p && !p->done(); p->next()) {
      if (p->key().bytes().size() == it->key().bytes().size() &&
          std::ranges::equal(p->key().bytes(), it->key().bytes()) && p->value().map()) {
        text = prediction_text(p->value(), screen);
      }
    }
    begun.add(
        {screen.term(it->key()), {"ok", Paint::green}, text.events_per_s, text.cost, text.known});
  }
  if (begun.empty() && failed.empty()) out += "no node yet: nodes that join get it\n";
  if (!begun.empty()) out += begun.render(screen.out);
  if (!failed.empty()) out += failed.render(screen.out);
  Table missing({{"node"}, {"not traced"}, {"why", false, true}});
  const auto left_out = get(value, "left_out");
  for (auto it = left_out ? left_out->map() : std::nullopt; it && !it->done(); it->next()) {
    for (auto items = it->value().list(); items && !items->done(); items->next()) {
      const auto item = items->item();
      if (item.arity() != 2u) continue;
      missing.add({screen.term(it->key()),
                   {screen.term(item.element(0)), Paint::yellow},
                   screen.term(item.element(1))});
    }
  }
  if (!missing.empty()) out += missing.render(screen.out);
  out += paint(Paint::dim, fmt::format("stop: scope untrace {}", shown(value, "id", screen)),
               screen.out) +
         "\n";
  return out;
}

std::string render_stopped(const TermView& value, const Screen& screen) {
  const auto ids = get_list(value, "stopped");
  std::string out = ids.empty() ? "stopped\n" : fmt::format("stopped {}\n", join(ids, screen));
  Table table({{"node"}, {"answer"}, {"why", false, true}});
  if (const auto nodes = get(value, "nodes")) add_outcomes(*nodes, table, screen);
  return out + table.render(screen.out);
}

std::string render_state(const TermView& value, const Screen& screen) {
  const auto certainty = get_text(value, "certainty");
  std::string out;
  if (const auto state = get(value, "state")) {
    out += paint(Paint::bold, screen.term(*state, 1u << 20), screen.out) + "\n";
  } else {
    out += "unknown\n";
  }
  out += fmt::format(
      "since {}, {}", when(value, "time", "time_error"),
      paint(certainty == "proven" ? Paint::green : Paint::yellow, certainty, screen.out));
  if (const auto why = get_list(value, "why"); !why.empty())
    out += fmt::format(" ({})", join(why, screen));
  if (const auto whole = get_integer(value, "truncated")) {
    out += fmt::format(", captured in part: {} in whole",
                       format_bytes(static_cast<std::uint64_t>(*whole)));
  }
  return out + "\n" + completeness_text(value, screen);
}

namespace {

// "+a.b = 1, -c = 2, d: 1 -> 2"
std::string diff_text(const TermView& diff, const Screen& screen) {
  std::string out;
  const auto path = [&](const TermView& p) {
    std::string text;
    if (!p.list()) return screen.term(p);
    for (auto it = *p.list(); !it.done(); it.next())
      text += (text.empty() ? "" : ".") + screen.term(it.item(), 100);
    return text.empty() ? std::string("state") : text;
  };
  const auto put = [&](const std::string& text) { out += (out.empty() ? "" : ", ") + text; };
  for (const auto& c : get_list(diff, "changed")) {
    if (c.arity() == 3u) {
      put(fmt::format("{}: {} -> {}", path(c.element(0)), screen.term(c.element(1), 1000),
                      screen.term(c.element(2), 1000)));
    }
  }
  for (const auto& a : get_list(diff, "added")) {
    if (a.arity() == 2u)
      put(fmt::format("+{}: {}", path(a.element(0)), screen.term(a.element(1), 1000)));
  }
  for (const auto& r : get_list(diff, "removed")) {
    if (r.arity() == 2u)
      put(fmt::format("-{}: {}", path(r.element(0)), screen.term(r.element(1), 1000)));
  }
  return out;
}

}  // namespace

std::string render_history(const TermView& value, const Screen& screen) {
  const auto transitions = get_list(value, "transitions");
  const TimeColumn times("time", transitions, "time", screen);
  Table table({times.column(),
               {"error"},
               {"certainty"},
               {"from"},
               {"cause", false, true},
               {"change", false, true}});
  for (const auto& t : transitions) {
    const auto cause = get(t, "cause");
    const auto diff = get(t, "diff");
    auto change = diff ? diff_text(*diff, screen) : "";
    if (change.empty()) change = shown(t, "state", screen);
    const auto certainty = get_text(t, "certainty");
    table.add({times.cell(t),
               {format_error(get_integer(t, "time_error")), Paint::dim},
               {certainty, certainty == "proven" ? Paint::green : Paint::yellow},
               cause ? shown(*cause, "from", screen) : "?",
               cause ? shown(*cause, "message", screen) : "?",
               change});
  }
  return table.render(screen.out) + footer(value, transitions.size(), "states recorded", screen);
}

std::string render_flow(const TermView& value, const Screen& screen) {
  const auto messages = get_list(value, "messages");
  const TimeColumn times("sent", messages, "sent", screen);
  Table table({times.column(),
               {"from"},
               {"to"},
               {"latency", true},
               {"queue", true},
               {"error"},
               {"matched"},
               {"message", false, true}});
  for (const auto& m : messages) {
    const auto matched = get_text(m, "matched");
    table.add(
        {{when(m, "sent", ""), Paint::dim},
         shown(m, "from", screen),
         shown(m, "to", screen),
         span_of(m, "latency_ns"),
         span_of(m, "queue_ns"),
         {format_error(get_integer(m, "error_ns")), Paint::dim},
         {matched.empty() ? "?" : matched, matched == "ambiguous" ? Paint::yellow : Paint::green},
         shown(m, "message", screen)});
  }
  return table.render(screen.out) + footer(value, messages.size(), "messages", screen);
}

std::string render_clocks(const TermView& value, const Screen& screen) {
  Table table({{"node"},
               {"offset", true},
               {"error"},
               {"drift", true},
               {"age", true},
               {"from"},
               {"version", true}});
  if (const auto nodes = get(value, "nodes"); nodes && nodes->map()) {
    for (auto it = *nodes->map(); !it.done(); it.next()) {
      const auto n = it.value();
      const auto lower = get_integer(n, "lower_ns"), upper = get_integer(n, "upper_ns");
      std::optional<std::int64_t> error;
      if (lower && upper) error = (*upper - *lower + 1) / 2;
      const auto drift = get(n, "drift_ppm");
      const auto age = get_integer(n, "age_ms");
      std::string ppm = "?";
      if (drift && drift->real()) ppm = fmt::format("{:.2f} ppm", *drift->real());
      if (drift && drift->integer()) ppm = fmt::format("{} ppm", *drift->integer());
      const auto wander = get(n, "drift_bound_ppm");
      if (wander && wander->real()) ppm += fmt::format(" ± {:.0f}", *wander->real());
      const auto source = get(n, "source");
      const auto version = get_integer(n, "version");
      table.add({screen.term(it.key()), span_of(n, "offset_ns"), format_error(error), ppm,
                 age ? format_duration(*age * 1'000'000) : "?",
                 source ? std::string(source->atom().value_or("?")) : "?",
                 version ? std::to_string(*version) : "?"});
    }
  }
  std::string out = table.empty() ? "no node's clock was measured yet\n" : table.render(screen.out);
  if (const auto reference = get(value, "reference")) {
    out += paint(Paint::dim, fmt::format("offsets from {}", screen.term(*reference)), screen.out) +
           "\n";
  }
  return out;
}

}  // namespace scope::node::cli
