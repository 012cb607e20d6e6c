// Messages between two processes on two nodes whose clocks differ by an hour, over a real store.
#include <gtest/gtest.h>

#include "analysis/message_flow.h"
#include "ei_codec/term_print.h"
#include "test/unit/analysis/world.h"

namespace scope::analysis {
namespace {

using codec::PidParts;
using test::int_term;
using test::Term;
using test::World;

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kHour = 3'600'000 * kMs;

class FlowTest : public testing::Test {
 protected:
  World world;
  test::Node& here = world.node("a@h", 1, kHour, 100'000);
  test::Node& there = world.node("b@h", 2, -kHour, 300'000);
  PidParts a = here.own(5), b = there.own(9);

  static std::int64_t at_a(double ms) { return static_cast<std::int64_t>(ms * kMs) - kHour; }
  static std::int64_t at_b(double ms) { return static_cast<std::int64_t>(ms * kMs) + kHour; }
  void append() {
    world.append(here);
    world.append(there);
  }
  MessageFlow flow(Filter filter = {}) {
    auto got = message_flow(world.context(999'000 * kMs), test::spec(a), test::spec(b), filter);
    EXPECT_TRUE(got) << to_string(got.error());
    return got ? *std::move(got) : MessageFlow{};
  }
};

TEST_F(FlowTest, ACallAndItsReplyThroughAnAlias) {
  codec::RefParts ref{"a@h", 1, 3, {1, 2, 3}};
  const auto request = test::gen_call(a, 1, "hello");
  const Term reply = [ref](codec::TermBuilder& out) {
    out.tuple(2).list(1).atom("alias").reference(ref).atom("ok");
  };
  here.send(a, b, request, at_a(100));
  there.fetch(b, request, at_b(103)).take(b, request, at_b(108));
  there.send_to(b, [ref](codec::TermBuilder& out) { out.reference(ref); }, reply, at_b(110));
  // Another process of that VM gets a reply as well.
  there.send_to(
      b, [](codec::TermBuilder& out) { out.reference({"a@h", 1, 3, {7, 7, 7}}); }, int_term(99),
      at_b(111));
  here.fetch(a, reply, at_a(112));
  append();
  Filter filter;
  filter.order = Order::oldest_first;
  const auto got = flow(filter);
  ASSERT_EQ(got.messages.size(), 2u);
  const auto& call = got.messages[0];
  EXPECT_TRUE(call.a_to_b);
  EXPECT_EQ(call.matched, Matched::exact) << "by its reference";
  EXPECT_EQ(call.latency_ns, 3 * kMs);
  EXPECT_EQ(call.queue_ns, 8 * kMs);
  EXPECT_EQ(call.error_ns, 400'000);
  const auto& answer = got.messages[1];
  EXPECT_FALSE(answer.a_to_b);
  EXPECT_EQ(answer.matched, Matched::exact) << "by the reference it answers";
  EXPECT_EQ(answer.latency_ns, 2 * kMs);
  EXPECT_FALSE(answer.take || answer.queue_ns);
  EXPECT_TRUE(got.completeness.complete());
}

TEST_F(FlowTest, OnOneNodeTheClockCancelsOut) {
  const PidParts c = here.own(6);
  here.send(a, c, int_term(1), at_a(100)).fetch(c, int_term(1), at_a(100.5));
  append();
  const auto got =
      message_flow(world.context(999'000 * kMs), test::spec(a), test::spec(c), Filter{});
  ASSERT_TRUE(got);
  EXPECT_EQ(got->messages.at(0).error_ns, 0);
  EXPECT_EQ(got->messages.at(0).latency_ns, kMs / 2);
}

TEST_F(FlowTest, EqualContentFarApartIsUniqueAndCloseTogetherAmbiguous) {
  for (const int ms : {100, 200, 300}) {
    here.send(a, b, int_term(7), at_a(ms));
    there.fetch(b, int_term(7), at_b(ms + 2));
  }
  here.send(a, b, int_term(7), at_a(400)).send(a, b, int_term(7), at_a(400.1));
  there.fetch(b, int_term(7), at_b(402)).fetch(b, int_term(7), at_b(402));
  append();
  Filter filter;
  filter.order = Order::oldest_first;
  const auto got = flow(filter);
  ASSERT_EQ(got.messages.size(), 5u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(got.messages[static_cast<std::size_t>(i)].matched, Matched::unique) << i;
    EXPECT_EQ(got.messages[static_cast<std::size_t>(i)].latency_ns, 2 * kMs);
  }
  for (std::size_t i = 3; i < 5; ++i) {
    EXPECT_EQ(got.messages[i].matched, Matched::ambiguous);
    EXPECT_EQ(got.messages[i].candidates, 2u);
  }
  EXPECT_LT(got.messages[3].fetch->id, got.messages[4].fetch->id) << "in order";
}

// a sends first, c's message arrives first: by their order alone it would be the wrong one.
TEST_F(FlowTest, ATokenSaysWhichOfEqualMessagesItWas) {
  const auto seven = int_term(7);
  const PidParts c = here.own(6);
  for (const bool tokens : {false, true}) {
    const double at = tokens ? 100'100 : 100;
    here.send(a, b, seven, at_a(at)).send(c, b, seven, at_a(at + 0.1));
    there.fetch(b, seven, at_b(at + 2)).fetch(b, seven, at_b(at + 2.2));
    there.take(b, seven, at_b(at + 3)).take(b, seven, at_b(at + 4));
    if (!tokens) continue;
    here.token(true, a, b, 1, 0, 1, seven, at_a(at + 0.01));
    here.token(true, c, b, 2, 0, 1, seven, at_a(at + 0.11));
    there.token(false, b, c, 2, 0, 1, seven, at_b(at + 3.01));
    there.token(false, b, a, 1, 0, 1, seven, at_b(at + 4.01));
  }
  append();
  Filter filter;
  filter.order = Order::oldest_first;
  const auto got = flow(filter);
  ASSERT_EQ(got.messages.size(), 2u) << "a message with two rows is one";
  EXPECT_EQ(got.messages[0].matched, Matched::ambiguous);
  EXPECT_EQ(got.messages[0].queue_ns, 3 * kMs);
  EXPECT_EQ(got.messages[1].matched, Matched::exact);
  EXPECT_EQ(got.messages[1].candidates, 1u);
  EXPECT_EQ(got.messages[1].latency_ns, kMs * 22 / 10);
  EXPECT_EQ(got.messages[1].queue_ns, 4 * kMs);
  filter.limit = 1;
  const auto first = flow(filter);
  ASSERT_EQ(first.messages.size(), 1u);
  filter.cursor = first.next;
  const auto second = flow(filter);
  ASSERT_EQ(second.messages.size(), 1u);
  EXPECT_EQ(second.messages[0].send.row.id(), got.messages[1].send.row.id());
  EXPECT_EQ(second.messages[0].matched, Matched::exact);
}

TEST_F(FlowTest, AMessageThatOnlyItsTokenTells) {
  here.token(true, a, b, 1, 0, 1, int_term(7), at_a(100));
  there.token(false, b, a, 1, 0, 1, int_term(7), at_b(105));
  here.token(true, a, b, 1, 0, 2, int_term(7), at_a(101));  // not taken yet
  append();
  Filter filter;
  filter.order = Order::oldest_first;
  const auto got = flow(filter);
  ASSERT_EQ(got.messages.size(), 2u);
  EXPECT_EQ(got.messages[0].send.row.record.term().integer(), 7)
      << "the message, not what the token says";
  EXPECT_EQ(got.messages[0].matched, Matched::exact);
  EXPECT_EQ(got.messages[0].queue_ns, 5 * kMs);
  EXPECT_FALSE(got.messages[0].fetch);
  EXPECT_EQ(got.messages[1].matched, Matched::unknown);
}

TEST_F(FlowTest, AFetchNearerToTheNextSendThanTheClocksCanTellIsAmbiguous) {
  here.send(a, b, int_term(7), at_a(100)).send(a, b, int_term(7), at_a(102));
  there.fetch(b, int_term(7), at_b(101.9)).fetch(b, int_term(7), at_b(104));
  append();
  for (const auto& message : flow().messages) {
    EXPECT_EQ(message.matched, Matched::ambiguous) << "the errors of both clocks are 0.4 ms";
    EXPECT_EQ(message.candidates, 2u);
  }
}

TEST_F(FlowTest, ASendThatWasNeverFetchedSaysUnknown) {
  here.send(a, b, int_term(1), at_a(100));
  here.send(a, here.own(77), int_term(2), at_a(101));  // to somebody else
  there.fetch(b, int_term(3), at_b(103));
  append();
  const auto got = flow();
  ASSERT_EQ(got.messages.size(), 1u);
  EXPECT_EQ(got.messages[0].matched, Matched::unknown);
  EXPECT_FALSE(got.messages[0].fetch || got.messages[0].latency_ns || got.messages[0].error_ns);
}

TEST_F(FlowTest, AFetchBeforeTheSendIsNoMatch) {
  there.fetch(b, int_term(1), at_b(90));
  here.send(a, b, int_term(1), at_a(100));
  append();
  EXPECT_EQ(flow().messages.at(0).matched, Matched::unknown);
}

TEST_F(FlowTest, NamesAreResolvedByTheirOwnerAtThatTime) {
  const auto to_name = [](codec::TermBuilder& out) { out.tuple(2).atom("stock").atom("b@h"); };
  const PidParts before = there.own(8);
  there.registered(before, "stock", at_b(1)).registered(before, "stock", at_b(150), false);
  there.registered(b, "stock", at_b(160));
  here.send_to(a, to_name, int_term(1), at_a(100)).send_to(a, to_name, int_term(2), at_a(200));
  there.fetch(before, int_term(1), at_b(101)).fetch(b, int_term(2), at_b(201));
  append();
  const auto got = flow();
  ASSERT_EQ(got.messages.size(), 1u);
  EXPECT_EQ(
      codec::print(*codec::view(got.messages[0].send.row.record.payload), codec::Syntax::erlang),
      "2");
  EXPECT_EQ(got.messages[0].matched, Matched::unique);
}

TEST_F(FlowTest, AContentComparedOnlyInPartIsNeverUnique) {
  const Term big = [](codec::TermBuilder& out) {
    out.list(100);
    for (int i = 0; i < 100; ++i) out.atom("x");
    out.nil();
  };
  here.send(a, b, big, at_a(100));
  there.fetch(b, big, at_b(102));
  append();
  EXPECT_EQ(flow().messages.at(0).matched, Matched::ambiguous);
  EXPECT_EQ(flow().messages.at(0).candidates, 1u);
}

TEST_F(FlowTest, AReceiverTracedOnlyAtItsTakingMatchesByThat) {
  here.send(a, b, int_term(1), at_a(100));
  there.take(b, int_term(1), at_b(104));
  append();
  const auto message = flow().messages.at(0);
  EXPECT_EQ(message.matched, Matched::unique);
  EXPECT_FALSE(message.fetch);
  EXPECT_EQ(message.queue_ns, 4 * kMs);
}

TEST_F(FlowTest, PagesGiveEveryMessageOnce) {
  for (int i = 0; i < 100; ++i) {
    here.send(a, b, int_term(i), at_a(100 + i));
    there.fetch(b, int_term(i), at_b(100.8 + i));
    if (i % 10 == 0) append();
  }
  append();
  Filter filter;
  filter.limit = 7;
  std::int64_t next = 99;
  do {
    const auto page = flow(filter);
    for (const auto& m : page.messages) {
      EXPECT_EQ(*codec::view(m.send.row.record.payload)->integer(), next--);
      EXPECT_EQ(m.matched, Matched::unique);
    }
    filter.cursor = page.next;
  } while (!filter.cursor.empty());
  EXPECT_EQ(next, -1);
}

TEST_F(FlowTest, AGapAtEitherNodeIsSaid) {
  here.send(a, b, int_term(1), at_a(100));
  there.gap("overload", 5, at_b(99), at_b(110)).fetch(b, int_term(2), at_b(120));
  append();
  EXPECT_EQ(flow().completeness.gaps.size(), 1u);
}

}  // namespace
}  // namespace scope::analysis
