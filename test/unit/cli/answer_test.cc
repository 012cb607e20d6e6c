#include "cnode/cli/answer.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <random>

#include "cnode/cli/verify_clean.h"
#include "ei_codec/term_builder.h"

namespace scope::node::cli {
namespace {

using codec::TermBuilder;
using codec::TermView;

constexpr std::int64_t kMay = 1714557600'000'000'000;

TermView view(const TermBuilder& b) { return *codec::view(b.bytes()); }

class Answers : public testing::Test {
 protected:
  void SetUp() override {
    setenv("TZ", "UTC", 1);
    tzset();
    elixir_.syntax = codec::Syntax::elixir;
  }
  Screen screen_, elixir_;
};

TermBuilder event(std::string_view type, std::uint32_t pairs) {
  TermBuilder b;
  b.map(pairs + 1).atom("type").atom(type);
  return b;
}

void mfa(TermBuilder& b) {
  b.atom("mfa").tuple(3).atom("Elixir.Shop.Stock").atom("take").integer(2);
}

TEST_F(Answers, EventsInALine) {
  auto call = event("function_entry", 2);
  mfa(call);
  call.atom("args").list(2).atom("apples").integer(3).nil();
  EXPECT_EQ(describe(view(call), screen_), "'Elixir.Shop.Stock':take(apples, 3)");
  EXPECT_EQ(describe(view(call), elixir_), "Shop.Stock.take(:apples, 3)");

  auto arity = event("function_entry", 2);
  mfa(arity);
  arity.atom("args").atom("unknown");
  EXPECT_EQ(describe(view(arity), elixir_), "Shop.Stock.take/2");

  auto exit = event("function_exit", 3);
  mfa(exit);
  exit.atom("result").atom("ok").atom("duration_ns").integer(1'500'000);
  EXPECT_EQ(describe(view(exit), elixir_), "Shop.Stock.take/2 -> :ok in 1.50 ms");

  auto raised = event("function_exception", 3);
  mfa(raised);
  raised.atom("class").atom("error").atom("reason").atom("badarg");
  EXPECT_EQ(describe(view(raised), elixir_), "Shop.Stock.take/2 raised :error: :badarg");

  auto cut = event("message_take", 3);
  cut.atom("message")
      .integer(1)
      .atom("behaviour")
      .atom("gen_server")
      .atom("truncated")
      .integer(4096);
  EXPECT_EQ(describe(view(cut), screen_), "1 (gen_server) [captured in part: 4.00 KB in whole]");

  auto later = event("log", 2);
  later.atom("level").atom("error").atom("text").binary(std::string_view("a\x1b"));
  EXPECT_EQ(describe(view(later), screen_), "level: error, text: <<\"a\\e\">>");
}

TEST_F(Answers, CompletenessInWords) {
  TermBuilder whole;
  whole.map(1).atom("complete").boolean(true);
  EXPECT_TRUE(completeness(view(whole)).empty());

  TermBuilder b;
  b.map(2).atom("complete").boolean(false).atom("missing").list(8);
  b.map(6)
      .atom("kind")
      .atom("gap")
      .atom("node")
      .atom("a@h")
      .atom("from")
      .integer(kMay)
      .atom("until")
      .integer(kMay);
  b.atom("dropped").atom("unknown").atom("reason").atom("agent_killed");
  b.map(2).atom("kind").atom("more_gaps").atom("count").integer(3);
  b.map(3).atom("kind").atom("not_traced").atom("node").atom("b@h").atom("reason").atom("unknown");
  b.map(3).atom("kind").atom("sampled").atom("node").atom("a@h").atom("rate").real(0.125);
  b.map(4).atom("kind").atom("sampled").atom("node").atom("a@h").atom("rate").real(0.25);
  b.atom("by").atom("receivers");
  b.map(2).atom("kind").atom("truncated").atom("count").integer(2);
  b.map(1).atom("kind").atom("deadline");
  b.map(1).atom("kind").atom("of_a_later_version");
  b.nil();
  EXPECT_EQ(completeness(view(b)),
            (std::vector<std::string>{
                std::string("a@h: a gap from 2024-05-01T10:00:00.000000Z to ") +
                    "2024-05-01T10:00:00.000000Z, nobody knows how many events (agent_killed)",
                "3 more gaps, not listed", "b@h: not traced",
                "a@h: sampled, about 12.5 % of what happened",
                "a@h: messages to about 25 % of their receivers only",
                "2 terms were captured only in part",
                "the deadline ended the search; the cursor goes on from there",
                "#{kind => of_a_later_version}"}));

  TermBuilder nothing;  // an answer that does not say is not called complete
  nothing.map(0);
  EXPECT_EQ(completeness_text(view(nothing), screen_), "completeness: not said\n");
  EXPECT_FALSE(completeness(view(nothing)).empty());
}

TEST_F(Answers, StatsShowTheKeysThatGroupsHave) {
  TermBuilder b;
  b.map(1).atom("groups").list(1).map(2);
  b.atom("key").map(1);
  mfa(b);
  b.atom("measures").map(2).atom("count").integer(7).atom("rate").real(3.5);
  b.nil();
  const auto text = render_stats(view(b), screen_);
  EXPECT_EQ(text.find("time"), text.npos) << text;
  EXPECT_NE(text.find("take/2"), text.npos) << text;
}

TEST_F(Answers, Errors) {
  TermBuilder b;
  b.tuple(2).atom("error").tuple(2).atom("unknown_key").map(3);
  b.atom("field").atom("nodee").atom("got").atom("none").atom("hint").binary(
      std::string_view("did you mean node?"));
  const auto e = unwrap(view(b));
  ASSERT_FALSE(e);
  EXPECT_EQ(e.error().code, "unknown_key");
  EXPECT_EQ(e.error().message, "unknown_key: did you mean node?");
  EXPECT_EQ(e.error().field, "nodee");
  EXPECT_EQ(e.error().got, "");

  TermBuilder strange;
  strange.integer(5);
  EXPECT_EQ(unwrap(view(strange)).error().got, "5");
}

TEST_F(Answers, CursorsGoBothWays) {
  std::mt19937 random(1);
  for (std::size_t n = 1; n < 100; ++n) {
    std::string bytes;
    for (std::size_t i = 0; i < n; ++i) bytes += static_cast<char>(random());
    TermBuilder b;
    b.map(1).atom("next").binary(std::string_view(bytes));
    const auto text = cursor_text(view(b));
    EXPECT_EQ(cursor_bytes(text), bytes);
    EXPECT_EQ(
        text.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
        std::string::npos);
  }
  EXPECT_EQ(cursor_bytes("AQL/"), cursor_bytes("AQL_"));  // as JSON has it
  EXPECT_EQ(cursor_bytes("AQ=="), "\x01");
  for (const auto* bad : {"", "!", "A B", "=", "A"}) EXPECT_FALSE(cursor_bytes(bad)) << bad;
}

// A daemon that is wrong or newer: whatever the value, something is shown.
TEST_F(Answers, AnyTermIsRendered) {
  TermBuilder b;
  b.list(9);
  b.atom("ok").integer(-1).real(1.5).binary(std::string_view("x")).tuple(0).map(0);
  b.map(3)
      .atom("nodes")
      .list(1)
      .integer(1)
      .nil()
      .atom("events")
      .list(2)
      .integer(1)
      .map(0)
      .nil()
      .atom("tracing")
      .atom("x");
  b.map(2)
      .atom("nodes")
      .map(2)
      .integer(1)
      .integer(2)
      .atom("n")
      .tuple(2)
      .atom("error")
      .integer(5)
      .atom("store")
      .integer(3);
  b.map(3)
      .atom("transitions")
      .list(1)
      .map(2)
      .atom("cause")
      .integer(1)
      .atom("diff")
      .map(1)
      .atom("changed")
      .list(1)
      .integer(1)
      .nil()
      .nil();
  b.atom("messages")
      .list(1)
      .atom("m")
      .nil()
      .atom("store")
      .map(2)
      .atom("bytes")
      .integer(-5)
      .atom("events")
      .integer(-1);
  b.nil();
  for (auto it = *view(b).list(); !it.done(); it.next()) {
    const auto v = it.item();
    for (auto render : {render_status, render_started, render_stopped, render_state, render_history,
                        render_flow, render_clocks}) {
      EXPECT_FALSE(render(v, screen_).empty());
    }
    EXPECT_FALSE(render_events(v, screen_, true).empty());
    (void)unwrap(v);
    (void)describe(v, screen_);
  }
}

TEST(VerifyClean, KnowsTheAgentsModules) {
  const auto sources = std::filesystem::path(__FILE__).parent_path() / "../../../erl/agent";
  int seen = 0;
  for (const auto& file : std::filesystem::directory_iterator(sources)) {
    const auto name = file.path().stem().string();
    if (file.path().extension() != ".erl" || !name.starts_with("scope_")) continue;
    EXPECT_TRUE(is_agent_module(name))
        << name << ": add it to kAgentModules in cnode/cli/verify_clean.cc";
    ++seen;
  }
  EXPECT_GT(seen, 5);
  EXPECT_FALSE(is_agent_module("scope_shop"));
}

}  // namespace
}  // namespace scope::node::cli
