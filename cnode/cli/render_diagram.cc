// The messages between two processes as a sequence diagram: as text for a terminal, and as Mermaid's source.
//
// A line is a message, at the time of its sending; an answer never stands above its question. Solid: which arrival belongs to it is sure; dashed: one of several;
// a cross: no arrival was recorded. `~`: the clocks cannot tell whether it was sent after the line above.
#include <fmt/format.h>

#include <algorithm>

#include "cnode/cli/answer.h"
#include "cnode/cli/time_column.h"
#include "cnode/cli/times.h"

namespace scope::node::cli {
namespace {

using codec::TermView;

enum class Arrival { sure, ambiguous, none };

struct Arrow {
  TermView message;
  bool forth = true;  // from the first process
  Arrival arrival = Arrival::none;
  bool order_unsure = false;
  std::string label, note;
};

struct Diagram {
  std::string first, second;  // the same: one process that sends to itself
  std::vector<Arrow> arrows;
};

std::string process_text(const TermView& message, std::string_view key, const Screen& screen) {
  const auto value = get(message, key);
  return value ? screen.term(*value) : "?";
}

// What is asked or answered, without the protocol around it: call {take,1}, cast stop, reply ok.
std::string label_of(const TermView& message, const Screen& screen) {
  const auto term = get(message, "message");
  if (!term) return "?";
  if (term->is_tuple("$gen_call", 3)) return "call " + screen.term(term->element(2));
  if (term->is_tuple("$gen_cast", 2)) return "cast " + screen.term(term->element(1));
  if (term->arity() == 2u) {
    const auto tag = term->element(0);  // a reference, or [alias | Reference]
    const auto alias = tag.kind() == codec::TermKind::list ? tag.list() : std::nullopt;
    if (tag.reference() || (alias && !alias->done() && alias->item().is_atom("alias")))
      return "reply " + screen.term(term->element(1));
  }
  return screen.term(*term);
}

bool same(const TermView& a, std::string_view key_a, const TermView& b, std::string_view key_b) {
  const auto x = get(a, key_a), y = get(b, key_b);
  return x && y && std::ranges::equal(x->bytes(), y->bytes());
}

// May `later` have been sent before `earlier`, which stands above it? Not by the same process, nor by one that had that
// message already; else the clocks must tell.
bool order_unsure(const Arrow& earlier, const TermView& later) {
  const auto& above = earlier.message;
  if (same(above, "from", later, "from")) return false;
  const auto sent = get_integer(later, "sent"), before = get_integer(above, "sent");
  const auto had = get_integer(above, "fetched");
  if (earlier.arrival == Arrival::sure && same(above, "to", later, "from") && had && sent &&
      *had <= *sent) {
    return false;
  }
  const auto a = get(above, "from"), b = get(later, "from");
  if (a && b && a->pid() && b->pid() && a->pid()->node == b->pid()->node) return false;
  const auto error = get_integer(above, "sent_error"), own_error = get_integer(later, "sent_error");
  return !sent || !before || !error || !own_error || *sent - *before <= *error + *own_error;
}

std::string note_of(const TermView& message, Arrival arrival) {
  if (arrival == Arrival::none) return "no arrival recorded";
  const auto error = format_error(get_integer(message, "error_ns"));
  const auto latency = get_integer(message, "latency_ns"), queue = get_integer(message, "queue_ns");
  std::string out = latency ? fmt::format("{} {}", format_duration(*latency), error) : "?";
  if (queue && !latency) out = fmt::format("taken after {} {}", format_duration(*queue), error);
  if (queue && latency) out += fmt::format(", taken after {}", format_duration(*queue));
  if (arrival == Arrival::ambiguous) {
    out += fmt::format(", one of {}", get_integer(message, "candidates").value_or(2));
  }
  return out;
}

Arrival arrival_of(const TermView& message) {
  if (!get_integer(message, "fetched") && !get_integer(message, "taken")) return Arrival::none;
  const auto matched = get_text(message, "matched");
  return matched == "exact" || matched == "unique" ? Arrival::sure : Arrival::ambiguous;
}

// One process's messages by its own clock, and of each and all after it when the first was fetched at the other end.
struct Sender {
  std::vector<TermView> messages;
  std::vector<std::int64_t> fetched;
  std::size_t next = 0;

  bool done() const { return next == messages.size(); }
  std::int64_t sent() const { return get_integer(messages[next], "sent").value_or(0); }
  // Has the other process, when it sends at `at`, fetched a message of ours that is not drawn yet?
  bool goes_before(std::int64_t at) const { return !done() && fetched[next] <= at; }

  void prepare() {
    std::ranges::sort(messages, {}, [](const TermView& m) {
      return std::pair(get_integer(m, "sent").value_or(0), m.start());
    });
    fetched.assign(messages.size(), INT64_MAX);
    for (std::size_t i = messages.size(); i-- > 0;) {
      if (i + 1 < fetched.size()) fetched[i] = fetched[i + 1];
      if (arrival_of(messages[i]) != Arrival::sure) continue;
      fetched[i] = std::min(fetched[i], get_integer(messages[i], "fetched").value_or(INT64_MAX));
    }
  }
};

// By time of sending, but never an answer above its question, whatever the two clocks say.
std::vector<TermView> in_order(std::vector<TermView> messages) {
  Sender a, b;
  for (const auto& m : messages)
    (same(messages.front(), "from", m, "from") ? a : b).messages.push_back(m);
  a.prepare();
  b.prepare();
  messages.clear();
  while (!a.done() || !b.done()) {
    bool take_a = b.done() || (!a.done() && a.sent() <= b.sent());
    if (!a.done() && !b.done()) {
      const bool b_first = b.goes_before(a.sent()), a_first = a.goes_before(b.sent());
      if (a_first != b_first) take_a = a_first;
    }
    auto& taken = take_a ? a : b;
    messages.push_back(taken.messages[taken.next++]);
  }
  return messages;
}

Diagram diagram_of(const TermView& value, const Screen& screen) {
  Diagram out;
  for (const auto& m : in_order(get_list(value, "messages"))) {
    Arrow arrow{.message = m, .arrival = arrival_of(m), .label = label_of(m, screen), .note = {}};
    const auto from = process_text(m, "from", screen), to = process_text(m, "to", screen);
    if (out.arrows.empty()) {
      out.first = from;
      out.second = to;
    }
    arrow.forth = from == out.first;
    arrow.order_unsure = !out.arrows.empty() && order_unsure(out.arrows.back(), m);
    arrow.note = note_of(m, arrow.arrival);
    out.arrows.push_back(std::move(arrow));
  }
  return out;
}

std::string repeated(std::string_view what, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += what;
  return out;
}

// A line from lifeline to lifeline, `width` columns with them.
std::string arrow_text(const Arrow& arrow, bool to_itself, int width) {
  const std::string_view dash = arrow.arrival == Arrival::sure ? "─" : "╌";
  const std::string_view head = arrow.arrival == Arrival::none ? "✗" : arrow.forth ? "▶" : "◀";
  if (to_itself) return fmt::format("├{}↩ {}", dash, fit(arrow.label, width - 4));
  const auto label = fit(arrow.label, width - 7);
  const auto rest = repeated(dash, width - 6 - display_width(label));
  return arrow.forth ? fmt::format("├{} {} {}{}│", dash, label, rest, head)
                     : fmt::format("│{}{} {} {}┤", head, rest, label, dash);
}

Paint paint_of(Arrival arrival) {
  if (arrival == Arrival::sure) return Paint::green;
  return arrival == Arrival::ambiguous ? Paint::yellow : Paint::red;
}

std::string legend(const Diagram& diagram) {
  const auto any = [&](auto&& which) { return std::ranges::any_of(diagram.arrows, which); };
  std::string out;
  if (any([](const Arrow& a) { return a.arrival == Arrival::ambiguous; }))
    out += "╌╌▶ which arrival is its own is not sure; ";
  if (any([](const Arrow& a) { return a.arrival == Arrival::none; }))
    out += "✗ no arrival recorded; ";
  if (any([](const Arrow& a) { return a.order_unsure; }))
    out += "~ may have been sent before the line above; ";
  if (!out.empty()) out.resize(out.size() - 2);
  return out;
}

constexpr int kGap = 2;

std::string blanks(int n) { return std::string(static_cast<std::size_t>(std::max(0, n)), ' '); }

struct Widths {
  int time = 0, arrow = 0, note = 0;  // time 0: left out
};

// As wide as the texts, or on a terminal no wider than it: the arrows give way first, then the notes, then the times.
Widths widths_of(const Diagram& diagram, const TimeColumn& times, int terminal) {
  constexpr int kLeastArrow = 14, kMostArrow = 100, kLeastNote = 10;
  Widths w{display_width(times.column().title), display_width(diagram.first) + kGap, 0};
  for (const auto& a : diagram.arrows) {
    w.time = std::max(w.time, 1 + display_width(times.cell(a.message).text));
    w.arrow = std::max(w.arrow, display_width(a.label) + 9);
    w.note = std::max(w.note, display_width(a.note));
  }
  w.arrow = std::clamp(w.arrow, kLeastArrow, kMostArrow);
  if (terminal <= 0) return w;
  const auto left = [&](int other) { return terminal - w.time - other - 2 * kGap; };
  w.arrow = std::clamp(left(w.note), kLeastArrow, w.arrow);
  w.note = std::clamp(left(w.arrow), kLeastNote, std::max(kLeastNote, w.note));
  if (left(w.arrow) < w.note) {
    w.time = 0;
    w.note = std::max(0, terminal - w.arrow - kGap);
  }
  return w;
}

// Mermaid ends statements at ; and line ends, begins comments with %% and entities with #.
std::string mermaid_text(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool plain = static_cast<unsigned char>(c) >= 0x80 || (c >= '0' && c <= '9') ||
                       (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                       std::string_view(" _,.'()[]/+-=").contains(c);
    out += plain ? std::string(1, c) : fmt::format("#{};", static_cast<int>(c));
  }
  return out;
}

}  // namespace

std::string render_flow_diagram(const TermView& value, const Screen& screen) {
  const auto diagram = diagram_of(value, screen);
  auto foot = footer(value, diagram.arrows.size(), "messages", screen);
  if (diagram.arrows.empty()) return foot;
  std::vector<TermView> rows;
  for (const auto& a : diagram.arrows) rows.push_back(a.message);
  const TimeColumn times("sent", rows, "sent", screen);
  const bool to_itself = diagram.first == diagram.second;
  const auto w = widths_of(diagram, times, screen.out.width);
  const auto cell = [&](std::string_view text, int width, Paint color) {
    const auto shown = fit(text, width);
    return paint(color, shown, screen.out) + blanks(width - display_width(shown));
  };
  std::string out;
  if (w.time > 0) out += cell(times.column().title, w.time, Paint::bold) + blanks(kGap);
  // The second name ends at its lifeline, or later if the first one is in its way.
  const int room = w.arrow + kGap + w.note;
  const auto first = fit(diagram.first, std::max(1, (room - kGap) / 2));
  out += paint(Paint::bold, first, screen.out);
  if (!to_itself) {
    const int begin =
        std::max(display_width(first) + kGap, w.arrow - display_width(diagram.second));
    out += blanks(begin - display_width(first)) +
           paint(Paint::bold, fit(diagram.second, std::max(1, room - begin)), screen.out);
  }
  out += '\n';
  for (const auto& a : diagram.arrows) {
    if (w.time > 0) {
      out += cell((a.order_unsure ? "~" : " ") + times.cell(a.message).text, w.time, Paint::dim) +
             blanks(kGap);
    }
    out += cell(arrow_text(a, to_itself, w.arrow), w.arrow, paint_of(a.arrival)) + blanks(kGap) +
           fit(a.note, w.note) + "\n";
  }
  if (const auto text = legend(diagram); !text.empty())
    out += paint(Paint::dim, wrap(text, screen.out.width), screen.out) + "\n";
  return out + foot;
}

std::string render_flow_mermaid(const TermView& value, const Screen& screen) {
  constexpr int kMostLabel = 120;
  Screen plain = screen;  // comments, and never longer than a line
  plain.out = {};
  const auto diagram = diagram_of(value, plain);
  std::string out = "sequenceDiagram\n";
  if (!diagram.arrows.empty()) {
    out += fmt::format("    participant a as {}\n", mermaid_text(diagram.first));
    if (diagram.second != diagram.first)
      out += fmt::format("    participant b as {}\n", mermaid_text(diagram.second));
  }
  for (const auto& a : diagram.arrows) {
    const std::string_view first = "a", second = diagram.second == diagram.first ? "a" : "b";
    out += fmt::format("    {}{}{}: {} #40;{}{}#41;\n", a.forth ? first : second,
                       a.arrival == Arrival::sure        ? "->>"
                       : a.arrival == Arrival::ambiguous ? "-->>"
                                                         : "--x",
                       a.forth ? second : first, mermaid_text(fit(a.label, kMostLabel)),
                       mermaid_text(a.note),
                       a.order_unsure ? ", may have been sent before the one above" : "");
  }
  std::string_view foot;
  const auto below = footer(value, diagram.arrows.size(), "messages", plain);
  for (foot = below; !foot.empty();) {
    const auto end = std::min(foot.find('\n'), foot.size());
    out += fmt::format("%% {}\n", foot.substr(0, end));
    foot.remove_prefix(std::min(end + 1, foot.size()));
  }
  return out;
}

}  // namespace scope::node::cli
