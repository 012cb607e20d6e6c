// get_events with match, text and explain, over a real store; and what an answer says it lacks.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <thread>

#include "analysis/get_events.h"
#include "analysis/text_search.h"
#include "test/unit/analysis/world.h"

namespace scope::analysis {
namespace {

using codec::PidParts;
using codec::TermBuilder;
using test::Term;
using test::World;

constexpr std::int64_t kMs = 1'000'000;

std::shared_ptr<const MatchSpec> compiled(const Term& term) {
  TermBuilder b;
  term(b);
  const auto view = codec::view(b.bytes());
  const auto spec = MatchSpec::compile(*view);
  EXPECT_TRUE(spec) << to_string(spec.error());
  return spec ? *spec : nullptr;
}

// {order, N, _} with N in [low, high): {{order, '$1', '_'}, [{'>=', '$1', low}, {'<', '$1', high}]}
Term orders_between(std::int64_t low, std::int64_t high) {
  return [=](TermBuilder& b) {
    b.tuple(2).tuple(3).atom("order").atom("$1").atom("_");
    b.list(2).tuple(3).atom(">=").atom("$1").integer(low);
    b.tuple(3).atom("<").atom("$1").integer(high).nil();
  };
}
Term order(std::int64_t n, std::string name) {
  return [=](TermBuilder& b) {
    b.tuple(3).atom("order").integer(n).map(1).atom("name").binary(std::string_view(name));
  };
}
// What is left of a large order: {order, N, #{'...' => '...'}} of `bytes` bytes, or its number left out as well.
Term cut_order(std::optional<std::int64_t> n, std::int64_t bytes) {
  return [=](TermBuilder& b) {
    b.tuple(4).atom("$scope_cut").integer(bytes);
    b.tuple(3).atom("order");
    n ? b.integer(*n) : b.atom("...");
    b.map(1).atom("...").atom("...").atom("none");
  };
}

struct Sent {
  std::int64_t number, time;
  std::string name;
};

TEST(MatchAndText, EveryPageGivesWhatAPlainListGives) {
  World world([](auto& o) { o.block_rows = 128; });
  auto& node = world.node("a@h", 1, 3'600'000 * kMs);
  std::mt19937_64 random(5);
  std::vector<Sent> sent;
  std::int64_t at = 1000 * kMs;
  for (int i = 0; i < 40; ++i) {
    for (int k = 0; k < 30; ++k) {
      const auto number = static_cast<std::int64_t>(sent.size());
      std::string name(1 + random() % 6, 'a');
      for (auto& c : name) c = static_cast<char>('a' + random() % 4);
      sent.push_back({number, at += 1000, name});
      node.send(node.own(5 + static_cast<std::uint32_t>(random() % 3)), node.own(90),
                order(number, name), at - 3'600'000 * kMs);
      node.fetch(node.own(90), test::atom_term("noise"), at - 3'600'000 * kMs + 1);
    }
    world.append(node);
  }
  const auto context = world.context(at + 1);
  for (int query = 0; query < 40; ++query) {
    Filter filter;
    std::int64_t low = 0, high = INT64_MAX;
    if (random() % 3 > 0) {
      low = static_cast<std::int64_t>(random() % sent.size());
      high = low + static_cast<std::int64_t>(random() % 500);
      filter.match = compiled(orders_between(low, high));
    }
    if (filter.match == nullptr || random() % 2 == 0) {
      filter.text = sent[random() % sent.size()].name.substr(0, 2);
    }
    filter.limit = 1 + static_cast<std::uint32_t>(random() % 50);
    filter.order = random() % 2 == 0 ? Order::newest_first : Order::oldest_first;
    std::vector<std::int64_t> want, got;
    for (const auto& s : sent) {
      const bool text = s.name.find(filter.text) != std::string::npos ||
                        std::string("order name").find(filter.text) != std::string::npos;
      if (s.number >= low && s.number < high && text) want.push_back(s.number);
    }
    if (filter.order == Order::newest_first) std::reverse(want.begin(), want.end());
    do {
      const auto page = get_events(context, filter);
      ASSERT_TRUE(page) << to_string(page.error());
      EXPECT_EQ(page->completeness.undecided, 0u);
      for (const auto& event : page->events) {
        got.push_back(*event.row.record.term().element(1).integer());
      }
      filter.cursor = page->next;
    } while (!filter.cursor.empty());
    ASSERT_EQ(got, want) << filter.text << " " << low << " " << high;
  }
}

// A row that was cut where the pattern looks is neither given nor forgotten.
TEST(MatchAndText, WhatWasCutIsCountedAsUndecidedOnItsPageOnly) {
  World world([](auto& o) { o.block_rows = 16; });
  auto& node = world.node("a@h", 1);
  std::int64_t at = 1000 * kMs;
  // 30 orders; every third lost its number, every fifth only its rest.
  std::set<std::int64_t> whole, open;
  for (std::int64_t i = 0; i < 30; ++i) {
    at += kMs;
    const bool lost = i % 3 == 0, cut = i % 5 == 0;
    node.fetch(
        node.own(7),
        lost || cut ? cut_order(lost ? std::nullopt : std::optional(i), 5000) : order(i, "x"), at);
    (lost ? open : whole).insert(i);
    if (i % 4 == 0) world.append(node);
  }
  world.append(node);
  Filter filter;
  filter.match = compiled(orders_between(5, 25));
  filter.limit = 4;
  std::set<std::int64_t> got;
  std::uint64_t undecided = 0, pages = 0;
  do {
    const auto page = get_events(world.context(at + 1), filter);
    ASSERT_TRUE(page);
    EXPECT_FALSE(page->completeness.undecided_at_least);
    undecided += page->completeness.undecided;
    for (const auto& e : page->events) got.insert(*e.row.record.term().element(1).integer());
    filter.cursor = page->next;
    ++pages;
  } while (!filter.cursor.empty());
  std::set<std::int64_t> want;
  for (const auto i : whole) {
    if (i >= 5 && i < 25) want.insert(i);
  }
  EXPECT_EQ(got, want);
  EXPECT_GT(pages, 3u);
  EXPECT_EQ(undecided, open.size()) << "each of them on one page";

  // Text that is not in the part that is there may be in the rest.
  Filter text;
  text.text = "zzz";
  const auto page = get_events(world.context(at + 1), text);
  ASSERT_TRUE(page);
  EXPECT_TRUE(page->events.empty());
  // All that were cut at all, but what an index left out, which is said.
  EXPECT_TRUE(page->completeness.undecided == 14u || page->completeness.undecided_at_least);
  EXPECT_LE(page->completeness.undecided, 14u);
  EXPECT_FALSE(page->completeness.complete());
}

TEST(MatchAndText, TheReasonOfAnExceptionAndArgumentsThatWereNotCaptured) {
  World world;
  auto& node = world.node("a@h", 1);
  const auto p = node.own(7);
  node.call(p, {"m", "f", 1}, 1 * kMs);
  node.role(
      p, {"m", "f", 1}, "args", [](TermBuilder& b) { b.list(1).integer(1000).nil(); }, 2 * kMs);
  node.raised(p, {"m", "f", 1}, test::atom_term("badarg"), 3 * kMs);
  world.append(node);
  Filter filter;
  filter.match = compiled(test::atom_term("badarg"));
  auto page = get_events(world.context(kMs * 10), filter);
  ASSERT_TRUE(page);
  ASSERT_EQ(page->events.size(), 1u);
  EXPECT_EQ(page->events[0].row.record.type, codec::EventType::function_exception);
  EXPECT_EQ(page->completeness.undecided, 1u) << "the call whose arguments nobody captured";
  filter.match = compiled(test::atom_term("_"));
  page = get_events(world.context(kMs * 10), filter);
  EXPECT_EQ(page->events.size(), 3u) << "'_' is anything, also what was not captured";
  EXPECT_EQ(page->completeness.undecided, 0u);
}

TEST(Text, IsFoundInAtomsBinariesCharlistsAndFunctionsOnly) {
  const auto has = [](std::string_view text, const Term& term) {
    TermBuilder b;
    term(b);
    return TextSearch(text).in(*codec::view(b.bytes()));
  };
  const Term charlist = [](TermBuilder& b) {
    b.charlist(
        "gr\xFC"
        "n");
  };  // Latin-1 in STRING_EXT
  EXPECT_TRUE(has("ell", test::atom_term("hello")));
  EXPECT_FALSE(has("Ell", test::atom_term("hello")));
  EXPECT_TRUE(has("ell", test::binary_term("hello")));
  EXPECT_TRUE(has("grün", charlist));
  EXPECT_FALSE(has("grun", charlist));
  EXPECT_FALSE(has("a", test::int_term(0x6161616161))) << "the bytes of a number";
  const Term two = [](TermBuilder& b) {
    b.list(2).binary(std::string_view("ab")).binary(std::string_view("cd")).nil();
  };
  EXPECT_FALSE(has("bc", two));
  EXPECT_FALSE(has("m", two)) << "the tag of a binary is an m";
  codec::TraceRecord call;
  call.type = codec::EventType::function_entry;
  call.mfa = {"Elixir.Shop", "take", 2};
  EXPECT_EQ(TextSearch("Shop:take/2").matches(call), Verdict::yes);
  EXPECT_EQ(TextSearch("hop").matches(call), Verdict::yes);
  EXPECT_EQ(TextSearch("nowhere").matches(call), Verdict::unknown) << "no arguments were captured";
}

// No pattern and no term, however made, takes more than its steps.
TEST(Match, WorkIsBounded) {
  TermBuilder b;
  b.list(60'000);
  for (int i = 0; i < 60'000; ++i) b.tuple(1).integer(i);
  b.nil();
  // Eight lengths of the list, each walked: more than the steps of a row.
  TermBuilder m;
  m.tuple(2).atom("$1").list(1).tuple(9).atom("andalso");
  for (int i = 0; i < 8; ++i) m.tuple(3).atom(">").tuple(2).atom("length").atom("$1").integer(0);
  m.nil();
  const auto spec = MatchSpec::compile(*codec::view(m.bytes()));
  ASSERT_TRUE(spec);
  EXPECT_EQ((*spec)->matches(*codec::view(b.bytes()), false), Verdict::unknown);
}

TEST(Explain, SaysWhatWasReadAndTheNewestNeedsLittle) {
  World world([](auto& o) { o.block_rows = 64; });
  auto& node = world.node("a@h", 1);
  std::int64_t at = 1000 * kMs;
  for (int i = 0; i < 40; ++i) {
    for (int k = 0; k < 64; ++k) node.fetch(node.own(7), test::int_term(k), at += kMs);
    world.append(node);
  }
  Filter filter;
  filter.explain = true;
  filter.limit = 5;
  const auto page = get_events(world.context(at + 1), filter);
  ASSERT_TRUE(page && page->explain);
  const auto& e = *page->explain;
  EXPECT_GE(e.units, 40u);
  EXPECT_EQ(e.candidates, e.units);
  EXPECT_LE(e.blocks_read + e.tail_read, 2u) << "newest first without reading the rest";
  EXPECT_GE(e.rows_read, 5u);
  ASSERT_FALSE(e.plan.empty());
  std::set<std::string_view> steps;
  for (const auto& step : e.steps) steps.insert(step.name);
  EXPECT_EQ(steps, (std::set<std::string_view>{"resolve", "plan", "read", "load", "completeness"}));
  filter.since = ClusterTime{at - 100 * kMs};
  const auto part = get_events(world.context(at + 1), filter);
  EXPECT_LE(part->explain->candidates, 4u) << "time leaves the newest units only";
}

TEST(Completeness, SaysWhatRetentionTook) {
  World world([](auto& o) {
    o.block_rows = 64;
    o.partition_bytes = 200'000;
    o.retain_bytes = 600'000;
  });
  auto& node = world.node("a@h", 1);
  std::int64_t at = 1000 * kMs;
  std::mt19937_64 random(1);
  Filter walk;
  walk.limit = 200;
  walk.order = Order::newest_first;
  bool dropped = false;
  for (int i = 0; i < 400 && !dropped; ++i) {
    for (int k = 0; k < 64; ++k) {
      std::string noise(200, ' ');
      for (auto& c : noise) c = static_cast<char>(random());
      node.fetch(node.own(7), test::binary_term(noise), at += kMs);
    }
    world.append(node);
    const auto context = world.context(at + 1);
    if (i == 100) {  // a walk begins, and goes on when what it has not seen yet is gone
      const auto page = get_events(context, walk);
      ASSERT_TRUE(page);
      walk.cursor = page->next;
    }
    dropped = context.view->units().front().first > 150;
    // It looks once a second.
    if (i > 200) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  ASSERT_TRUE(dropped) << "retention did not run";
  Filter all;
  all.order = Order::oldest_first;
  all.limit = 3;
  const auto context = world.context(at + 1);
  auto page = get_events(context, all);
  ASSERT_TRUE(page);
  ASSERT_TRUE(page->completeness.retention);
  EXPECT_EQ(*page->completeness.retention, page->events.front().at.time);
  all.since = page->events[1].at.time;
  EXPECT_FALSE(get_events(context, all)->completeness.retention);
  const auto rest = get_events(context, walk);
  ASSERT_TRUE(rest) << to_string(rest.error());
  EXPECT_TRUE(rest->completeness.retention) << "what the walk had still to see was dropped";
}

}  // namespace
}  // namespace scope::analysis
