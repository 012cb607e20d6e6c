#include "cnode/agents/trace_wire.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "ei_codec/term_builder.h"
#include "ei_codec/term_print.h"

namespace scope::node {
namespace {

using codec::TermBuilder;

std::string text(const std::vector<std::byte>& bytes) {
  auto v = codec::view(bytes);
  return v ? codec::print(*v, codec::Syntax::erlang, 4096) : to_string(v.error());
}

TEST(TraceWire, AStartForOneNodeLeavesOutTheOthersPids) {
  TraceSpec spec;
  spec.pids = {{"a@h", 1, 10, 0}, {"b@h", 1, 11, 0}};
  spec.for_ms = 5000;
  spec.fan_out = 0.25;
  auto start = text(
      encode_start(7, spec, "a@h", {"me", ClusterTime{6'000'000'000}}, ClusterTime{1'000'000'000}));
  EXPECT_NE(start.find("{start,7,"), std::string::npos) << start;
  EXPECT_NE(start.find("a@h.10"), std::string::npos) << start;
  EXPECT_EQ(start.substr(0, start.find("meta")).find("b@h.11"), std::string::npos) << start;
  EXPECT_NE(start.find("ms => 5000"), std::string::npos) << start;
  EXPECT_NE(start.find("fan_out => 0.25"), std::string::npos) << start;
  EXPECT_EQ(start.find("all => true"), std::string::npos) << start;
}

// {start, [{follow, [{front, 'a@h'}, {m, f, 2}]}, {shots, 3}]}: every node is the system tracer, one marks.
TEST(TraceWire, AFollowGoesToAllNodesAndMarksOnOne) {
  TermBuilder options;
  options.list(2).tuple(2).atom("follow").list(1).tuple(2).atom("front").atom("a@h").nil();
  options.tuple(2).atom("shots").integer(3).nil();
  const auto spec = parse_trace_spec(*codec::view(options.bytes()));
  ASSERT_TRUE(spec) << to_string(spec.error());
  EXPECT_EQ(spec->names.size(), 1u);  // who is followed is traced
  const auto there = text(encode_start(7, *spec, "a@h", {"me", {}}, {})),
             elsewhere = text(encode_start(7, *spec, "b@h", {"me", {}}, {}));
  EXPECT_NE(there.find("follow => #{shots => 3,pids => [],names => [front],mfas => []}"),
            std::string::npos)
      << there;
  EXPECT_NE(there.find("events => [state,takes]"), std::string::npos) << there;
  EXPECT_NE(elsewhere.find("follow => #{shots => 3,pids => [],names => [],mfas => []}"),
            std::string::npos)
      << elsewhere;
  EXPECT_EQ(elsewhere.find("all => true"), std::string::npos) << elsewhere;
  // What the agent gives back is what was asked: nothing is added twice.
  TermBuilder again;
  encode(again, *spec);
  const auto read = read_trace_spec(*codec::view(again.bytes()));
  ASSERT_TRUE(read) << to_string(read.error());
  EXPECT_EQ(read->names.size(), 1u);
  EXPECT_EQ(read->follow.names.size(), 1u);
  EXPECT_EQ(read->follow.shots, 3u);

  TermBuilder any;
  any.list(1).tuple(2).atom("follow").tuple(3).atom("m").atom("f").atom("_").nil();
  const auto refused = parse_trace_spec(*codec::view(any.bytes()));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().field, "follow");
}

TEST(TraceWire, WhoAskedAndUntilWhenComesBackFromTheAgent) {
  TraceSpec spec;
  spec.modules = {"lists"};
  auto start = encode_start(9, spec, "a@h", {"<1.2.3> on x@h", ClusterTime{77}}, ClusterTime{1});
  auto sent = *codec::view(start);
  TermBuilder status;  // the agent gives the spec back as it was
  status.tuple(2).atom("ok").map(1).atom("tracing").map(1).integer(9).term(sent.element(2));
  auto found = read_traces(*codec::view(status.bytes()));
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].id, 9u);
  EXPECT_EQ(found[0].meta.by, "<1.2.3> on x@h");
  EXPECT_EQ(found[0].meta.expires->ns, 77);
  EXPECT_EQ(found[0].spec.modules, std::vector<std::string>{"lists"});
}

TEST(TraceWire, CallsAreOnlyAskedForWithFunctions) {
  TraceSpec everything;
  everything.profile = "deep_dive_dev";
  auto groups = agent_events(everything);
  EXPECT_EQ(std::ranges::count(groups, "calls"), 0);
  everything.modules = {"m"};
  groups = agent_events(everything);
  EXPECT_EQ(std::ranges::count(groups, "calls"), 1);
}

TEST(TraceWire, RefusalsKeepTheirMeaning) {
  TermBuilder owned;
  owned.tuple(2).atom("error").tuple(2).atom("owned_by").atom("dbg");
  EXPECT_EQ(refusal_of(*codec::view(owned.bytes())).code, Code::owned_by);
  TermBuilder bad;
  bad.tuple(2).atom("error").tuple(3).atom("bad_spec").atom("pids").atom("local_pid_expected");
  auto e = refusal_of(*codec::view(bad.bytes()));
  EXPECT_EQ(e.code, Code::bad_value);
  EXPECT_EQ(e.field, "pids");
}

}  // namespace
}  // namespace scope::node
