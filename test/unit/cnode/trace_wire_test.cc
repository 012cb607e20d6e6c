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
  auto start = text(
      encode_start(7, spec, "a@h", {"me", ClusterTime{6'000'000'000}}, ClusterTime{1'000'000'000}));
  EXPECT_NE(start.find("{start,7,"), std::string::npos) << start;
  EXPECT_NE(start.find("a@h.10"), std::string::npos) << start;
  EXPECT_EQ(start.substr(0, start.find("meta")).find("b@h.11"), std::string::npos) << start;
  EXPECT_NE(start.find("ms => 5000"), std::string::npos) << start;
  EXPECT_EQ(start.find("all => true"), std::string::npos) << start;
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
