// Sequence diagrams of an answer to get_message_flow.
#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <fstream>

#include "cnode/cli/answer.h"
#include "test/unit/service/term.h"

namespace scope::node::cli {
namespace {

using namespace scope::test;

constexpr std::int64_t kMay = 1714557600'000'000'000;

const Term kFront = proc("a@h", 7, 1), kStock = proc("b@h", 7, 2);

// Its source, also into a file of $SCOPE_MERMAID (test/support/mermaid_reads).
std::string mermaid(const codec::TermView& value, const Screen& screen) {
  static int number = 0;
  auto text = render_flow_mermaid(value, screen);
  if (const char* folder = std::getenv("SCOPE_MERMAID")) {
    std::ofstream(std::string(folder) + "/" + std::to_string(++number) + ".mmd") << text;
  }
  return text;
}

Term message(bool forth, std::int64_t sent_us, Term what, std::string matched, Pairs more) {
  Pairs pairs = {{"from", forth ? kFront : kStock}, {"to", forth ? kStock : kFront},
                 {"message", std::move(what)},      {"sent", num(kMay + sent_us * 1000)},
                 {"sent_error", num(5'000)},        {"matched", atm(std::move(matched))}};
  pairs.insert(pairs.end(), more.begin(), more.end());
  return mp(std::move(pairs));
}

Pairs arrived(std::int64_t sent_us, std::int64_t latency_us) {
  return {{"fetched", num(kMay + (sent_us + latency_us) * 1000)},
          {"latency_ns", num(latency_us * 1000)},
          {"error_ns", num(10'000)},
          {"candidates", num(3)}};
}

// Newest first, as the daemon answers.
Term flow(std::vector<Term> messages, Term next = atm("none")) {
  return mp({{"messages", lst(std::move(messages))},
             {"next", std::move(next)},
             {"completeness", mp({{"complete", atm("true")}})}});
}

Term three() {
  return flow({message(true, 2'000, atm("lost"), "unknown", {}),
               message(false, 1'005, tup({atm("reply"), num(1)}), "ambiguous", arrived(1'005, 40)),
               message(true, 1'000, atm("hello"), "unique", arrived(1'000, 250))});
}

class Diagrams : public testing::Test {
 protected:
  void SetUp() override {
    setenv("TZ", "UTC", 1);
    tzset();
    terminal_.out.width = 80;
  }
  Screen screen_, terminal_;
};

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> out(1);
  for (const char c : text) {
    if (c == '\n') {
      out.emplace_back();
    } else {
      out.back() += c;
    }
  }
  return out;
}

TEST_F(Diagrams, OldestAboveEachWithHowSureItIs) {
  EXPECT_EQ(render_flow_diagram(Made(three()).view, terminal_),
            "2024-05-01Z       <a@h.1.0>  <b@h.2.0>\n"
            " 10:00:00.001000  ├─ hello ───────▶│  250 µs ±10.0 µs\n"
            "~10:00:00.001005  │◀╌╌╌ {reply,1} ╌┤  40.0 µs ±10.0 µs, one of 3\n"
            " 10:00:00.002000  ├╌ lost ╌╌╌╌╌╌╌╌✗│  no arrival recorded\n"
            "╌╌▶ which arrival is its own is not sure; ✗ no arrival recorded; ~ may have been\n"
            "sent before the line above\n"
            "complete\n");
}

// By the clocks' times the answer to the first was sent after the second was, which the asker sent when it had it.
TEST_F(Diagrams, NoAnswerStandsBelowWhatItLedTo) {
  const auto text = render_flow_diagram(
      Made(flow({message(false, 1'030, atm("answer"), "exact", arrived(1'030, -15)),
                 message(true, 1'020, atm("second"), "exact", arrived(1'020, 20)),
                 message(true, 1'000, atm("first"), "exact", arrived(1'000, 20))}))
          .view,
      terminal_);
  EXPECT_LT(text.find("first"), text.find("answer")) << text;
  EXPECT_LT(text.find("answer"), text.find("second")) << text;
  EXPECT_EQ(text.find('~'), std::string::npos) << text;
}

// The clocks cannot tell, but a process answers after it was asked, and asks again after it was answered.
TEST_F(Diagrams, WhatCausedWhatIsInOrder) {
  const auto call = tup({atm("$gen_call"), tup({kFront, atm("ref")}), tup({atm("take"), num(1)})});
  const auto reply =
      tup({[](codec::TermBuilder& b) { b.reference({"a@h", 1, 2, {1, 2}}); }, atm("ok")});
  const auto text =
      render_flow_diagram(Made(flow({message(true, 1'000, call, "exact", arrived(1'000, 2)),
                                     message(false, 1'003, reply, "exact", arrived(1'003, 2)),
                                     message(true, 1'006, tup({atm("$gen_cast"), atm("stop")}),
                                             "unique", arrived(1'006, 2))}))
                              .view,
                          terminal_);
  EXPECT_EQ(text.find('~'), std::string::npos) << text;
  for (const std::string_view label : {"├─ call {take,1} ─", " reply ok ─┤", "├─ cast stop ─"})
    EXPECT_NE(text.find(label), std::string::npos) << label << " in\n" << text;
}

TEST_F(Diagrams, FitAnyTerminal) {
  const Made whole(three());
  for (int width = 30; width < 130; ++width) {
    terminal_.out.width = width;
    for (const auto& line : lines(render_flow_diagram(whole.view, terminal_)))
      EXPECT_LE(display_width(line), width) << line;
  }
}

TEST_F(Diagrams, AreColouredOnlyWhereTheTerminalIs) {
  EXPECT_EQ(render_flow_diagram(Made(three()).view, terminal_).find('\x1b'), std::string::npos);
  terminal_.out.color = true;
  const auto text = render_flow_diagram(Made(three()).view, terminal_);
  for (const std::string_view color : {"\x1b[32m├─ hello", "\x1b[33m│◀", "\x1b[31m├╌ lost"})
    EXPECT_NE(text.find(color), std::string::npos) << color;
}

TEST_F(Diagrams, OfOneProcessThatSendsToItself) {
  const Made alone(flow({mp({{"from", kFront},
                             {"to", kFront},
                             {"message", atm("tick")},
                             {"sent", num(kMay)},
                             {"matched", atm("unknown")}})}));
  const auto text = render_flow_diagram(alone.view, terminal_);
  EXPECT_NE(text.find("├╌↩ tick"), std::string::npos) << text;
  EXPECT_EQ(text.find("b@h"), std::string::npos) << text;
  EXPECT_NE(mermaid(alone.view, screen_).find("a--xa: tick"), std::string::npos);
}

TEST_F(Diagrams, AsMermaid) {
  EXPECT_EQ(
      mermaid(Made(three()).view, terminal_),
      "sequenceDiagram\n"
      "    participant a as #60;a#64;h.1.0#62;\n"
      "    participant b as #60;b#64;h.2.0#62;\n"
      "    a->>b: hello #40;250 µs ±10.0 µs#41;\n"
      "    b-->>a: #123;reply,1#125; #40;40.0 µs ±10.0 µs, one of 3, may have been sent before "
      "the one above#41;\n"
      "    a--xb: lost #40;no arrival recorded#41;\n"
      "%% complete\n");
}

TEST_F(Diagrams, NothingOfAMessageIsMermaidsOwn) {
  const Made evil(
      flow({message(true, 0, str("a;b%%c#d\n: end\x1b[31m"), "unique", arrived(0, 1))}));
  const auto text = mermaid(evil.view, screen_);
  const auto all = lines(text);
  ASSERT_EQ(all.size(), 6u) << text;  // as many lines as without it
  const auto label = all[3].substr(all[3].find(": ") + 2);
  EXPECT_EQ(label.find_first_of("%:\x1b"), std::string::npos) << label;
  for (std::size_t at = label.find('#'); at != std::string::npos; at = label.find('#', at + 1)) {
    const auto end = label.find_first_not_of("0123456789", at + 1);
    EXPECT_TRUE(end > at + 1 && label[end] == ';') << label;
  }
}

TEST_F(Diagrams, OfNothing) {
  const Made nothing(flow({}));
  EXPECT_EQ(render_flow_diagram(nothing.view, terminal_), "no messages\ncomplete\n");
  EXPECT_EQ(mermaid(nothing.view, screen_), "sequenceDiagram\n%% no messages\n%% complete\n");
}

}  // namespace
}  // namespace scope::node::cli
