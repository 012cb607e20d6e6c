// Request parsing by table: Erlang terms in, typed queries or errors that name the fault out.
#include "cnode/service/parse.h"

#include <gtest/gtest.h>

#include "cnode/service/requests.h"
#include "cnode/service/trace_spec.h"
#include "test/unit/service/term.h"

namespace scope::node {
namespace {

using namespace scope::test;

TEST(ParseTime, EveryForm) {
  struct Case {
    Term term;
    std::string expected;
  };
  const auto shown = [](const analysis::TimeSpec& time) -> std::string {
    if (const auto* at = std::get_if<ClusterTime>(&time)) return std::to_string(at->ns);
    if (std::holds_alternative<analysis::Now>(time)) return "now";
    if (const auto* ago = std::get_if<analysis::Ago>(&time))
      return "ago " + std::to_string(ago->ns);
    const auto& at = std::get<analysis::AtNode>(time);
    return at.node + " " + std::to_string(at.system_ns);
  };
  const Case cases[] = {
      {num(1'700'000'000'000'000'000), "1700000000000000000"},
      {atm("now"), "now"},
      {tup({atm("ago"), num(5), atm("second")}), "ago 5000000000"},
      {tup({atm("ago"), num(2), atm("minutes")}), "ago 120000000000"},
      {tup({atm("ago"), num(7), atm("ms")}), "ago 7000000"},
      {tup({atm("at"), atm("a@h"), num(12)}), "a@h 12"},
      {bin("1970-01-01T00:00:01Z"), "1000000000"},
      {bin("1970-01-01 00:00:01.5"), "1500000000"},
      {bin("1970-01-01T01:00:00+01:00"), "0"},
      {bin("2026-11-20T14:02:11.123456789Z"), "1795183331123456789"},
      {str("1970-01-02"), "86400000000000"},
      {tup({atm("ago"), num(-5), atm("second")}), "bad_value"},
      {tup({atm("ago"), num(5), atm("parsec")}), "bad_value"},
      {tup({atm("ago"), num(INT64_MAX), atm("day")}), "bad_value"},
      {bin("2026-02-30T00:00:00Z"), "bad_value"},
      {bin("yesterday"), "bad_value"},
      {atm("yesterday"), "bad_value"},
      {bin(""), "bad_value"},
  };
  for (const auto& c : cases) {
    const Made term(c.term);
    const auto got = read_time(term.view, "time");
    EXPECT_EQ(got ? shown(*got) : std::string(code_name(got.error().code)), c.expected)
        << printed(term.view);
    EXPECT_TRUE(got || got.error().field == "time");
  }
}

TEST(ParseProcess, EveryForm) {
  struct Case {
    Term term;
    std::string expected;
  };
  const auto shown = [](const analysis::ProcessSpec& spec) -> std::string {
    if (const auto* pid = std::get_if<analysis::PidSpec>(&spec)) {
      return "pid " + pid->node + " " + std::to_string(pid->creation) + " " +
             std::to_string(pid->id);
    }
    if (const auto* name = std::get_if<analysis::NameSpec>(&spec)) {
      return "name " + name->name + " " + name->node;
    }
    const auto& text = std::get<analysis::TextSpec>(spec);
    return "text " + std::to_string(text.id) + " " + std::to_string(text.serial) + " " + text.node;
  };
  const Case cases[] = {
      {proc("a@h", 7, 5), "pid a@h 7 5"},
      {atm("srv"), "name srv "},
      {tup({atm("srv"), atm("a@h")}), "name srv a@h"},
      {bin("<0.123.4>"), "text 123 4 "},
      {str("<0.123.4>"), "text 123 4 "},
      {bin("#PID<0.123.4>"), "text 123 4 "},
      {bin("<shop@my.host.123.4>"), "text 123 4 shop@my.host"},
      {tup({bin("<0.123.4>"), atm("a@h")}), "text 123 4 a@h"},
      {bin("Elixir.Shop"), "name Elixir.Shop "},
      {bin("<0.123>"), "bad_value"},
      {bin("<0.x.4>"), "bad_value"},
      {bin("<0.99999999999.4>"), "bad_value"},
      {num(5), "bad_value"},
      {tup({tup({atm("a"), atm("b")}), atm("a@h")}), "bad_value"},
      {str(""), "bad_value"},
  };
  for (const auto& c : cases) {
    const Made term(c.term);
    const auto got = read_process(term.view, "pid");
    EXPECT_EQ(got ? shown(*got) : std::string(code_name(got.error().code)), c.expected)
        << printed(term.view);
  }
}

TEST(ParseFilter, AFullFilterAsMapAndAsList) {
  const std::vector<std::pair<std::string, Term>> options = {
      {"pid", bin("<0.5.0>")},
      {"node", atm("a@h")},
      {"type", lst({atm("message_receive"), bin("function_entry")})},
      {"mfa", tup({atm("m"), atm("f"), atm("_")})},
      {"module", lst({atm("m"), str("n")})},
      {"peer", atm("srv")},
      {"since", tup({atm("ago"), num(1), atm("hour")})},
      {"until", atm("now")},
      {"limit", num(7)},
      {"order", atm("oldest_first")},
      {"min_duration", tup({num(3), atm("ms")})},
      {"deadline", num(250)},
      {"trace_id", bin("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")},
      {"cursor", atm("none")},
  };
  for (const bool as_map : {true, false}) {
    const Made term(as_map ? mp(options) : kw(options));
    const auto got = read_filter(term.view);
    ASSERT_TRUE(got) << to_string(got.error());
    const auto& f = got->filter;
    EXPECT_EQ(std::get<analysis::TextSpec>(*f.pid).node, "a@h") << "the filter's node completes it";
    EXPECT_EQ(f.nodes, std::vector<std::string>{"a@h"});
    EXPECT_EQ(f.types, 1u << 1 | 1u << 5 | 1u << 6);
    EXPECT_EQ(f.mfa->module, "m");
    EXPECT_FALSE(f.mfa->arity);
    EXPECT_EQ(f.modules, (std::vector<std::string>{"m", "n"}));
    EXPECT_EQ(f.limit, 7u);
    EXPECT_EQ(f.order, analysis::Order::oldest_first);
    EXPECT_EQ(f.min_duration_ns, 3'000'000);
    EXPECT_EQ(got->deadline, std::chrono::milliseconds(250));
    EXPECT_EQ(got->filter.trace_id, store::read_trace_id("0af7651916cd43dd8448eb211c80319c"));
    EXPECT_TRUE(f.cursor.empty());
  }
}

TEST(ParseFilter, FaultsAreNamed) {
  struct Case {
    Term term;
    Code code;
    std::string field, hint;
  };
  const auto one = [](std::string key, Term value) {
    return kw({{std::move(key), std::move(value)}});
  };
  const Case cases[] = {
      {one("modul", atm("m")), Code::unknown_key, "modul", "did you mean module?"},
      {one("form", atm("m")), Code::unknown_key, "form", "known keys: pid, node"},
      {one("limit", num(0)), Code::bad_value, "limit", "from 1 to 10000"},
      {one("limit", atm("all")), Code::bad_value, "limit", "integer"},
      {one("type", atm("mesage_send")), Code::bad_value, "type", "did you mean message_send?"},
      {one("type", lst({})), Code::bad_value, "type", "at least one"},
      {one("mfa", tup({atm("m"), num(1), num(1)})), Code::bad_value, "mfa", "{Module, Function"},
      {one("order", atm("up")), Code::bad_value, "order", "newest_first"},
      {one("match", tup({tup({atm("$1")}), lst({tup({atm(">>"), atm("$1"), num(3)})})})),
       Code::bad_value, "match", "no guard function >>"},
      {one("match", tup({tup({atm("$1")}), lst({tup({atm(">"), atm("$2"), num(3)})})})),
       Code::bad_value, "match", "not in the pattern"},
      {one("text", num(3)), Code::bad_value, "text", "atom or a string"},
      {one("text", bin(std::string(2000, 'x'))), Code::bad_value, "text", "1024"},
      {one("explain", num(3)), Code::bad_value, "explain", "true or false"},
      {one("trace_id", bin("x")), Code::bad_value, "trace_id", "32 hex digits"},
      {one("trace_id", bin(std::string(32, '0'))), Code::bad_value, "trace_id", "32 hex digits"},
      {one("cursor", num(1)), Code::bad_value, "cursor", "next"},
      {num(5), Code::bad_request, "options", "keyword list or a map"},
      {lst({num(5)}), Code::bad_request, "options", "keyword list or a map"},
      {mp({}), Code::internal, "", ""},  // no fault
  };
  for (const auto& c : cases) {
    const Made term(c.term);
    const auto got = read_filter(term.view);
    if (c.field.empty()) {
      EXPECT_TRUE(got);
      continue;
    }
    ASSERT_FALSE(got) << printed(term.view);
    EXPECT_EQ(code_name(got.error().code), code_name(c.code)) << printed(term.view);
    EXPECT_EQ(got.error().field, c.field);
    EXPECT_NE(got.error().message.find(c.hint), std::string::npos) << got.error().message;
  }
}

TEST(ParseTraceSpec, EverythingOfApiMd) {
  const Made term(
      kw({{"profile", atm("balanced")},
          {"nodes", lst({atm("a@h"), atm("b@h")})},
          {"modules", atm("shop")},
          {"mfas", lst({tup({atm("m"), atm("f"), num(2)}), tup({atm("m"), atm("_"), atm("_")})})},
          {"pids", lst({proc("a@h", 7, 5), tup({bin("<0.6.0>"), atm("b@h")})})},
          {"names", lst({atm("srv"), tup({atm("x"), atm("b@h")})})},
          {"events", lst({atm("calls"), atm("state_change")})},
          {"sample", real(0.25)},
          {"fan_out", real(0.5)},
          {"budget", num(2)},
          {"for", tup({num(5), atm("minute")})},
          {"args", atm("true")},
          {"caps", mp({{"state", num(4096)}})},
          {"all", atm("false")}}));
  const auto got = parse_trace_spec(term.view);
  ASSERT_TRUE(got) << to_string(got.error());
  EXPECT_EQ(got->profile, "balanced");
  EXPECT_EQ(got->nodes.size(), 2u);
  EXPECT_EQ(got->modules, std::vector<std::string>{"shop"});
  EXPECT_EQ(got->mfas[0].arity, 2);
  EXPECT_TRUE(got->mfas[1].function.empty());
  EXPECT_EQ(got->pids[1].node, "b@h");
  EXPECT_EQ(got->names[1].node, "b@h");
  EXPECT_EQ(got->events, 1u << 1 | 1u << 2 | 1u << 3 | 1u << 7);
  EXPECT_EQ(got->sample, 0.25);
  EXPECT_EQ(got->budget_percent, 2.0);
  EXPECT_EQ(got->for_ms, 300'000);
  EXPECT_EQ(got->args, true);
  EXPECT_EQ(got->caps.state, 4096u);
  EXPECT_FALSE(got->caps.args || got->all);
  codec::TermBuilder out;
  encode(out, *got);
  const auto again = parse_trace_spec(*codec::view(out.bytes()));
  ASSERT_TRUE(again) << "what status shows can be given to start again: "
                     << to_string(again.error());
  EXPECT_EQ(again->events, got->events);
  EXPECT_EQ(again->fan_out, 0.5);
  EXPECT_EQ(again->pids.size(), 2u);
}

TEST(ParseTraceSpec, FaultsAreNamed) {
  const std::tuple<std::string, Term, Code> cases[] = {
      {"profil", atm("x"), Code::unknown_key},
      {"profile", atm("fast"), Code::bad_value},
      {"sample", num(0), Code::bad_value},
      {"sample", real(1.5), Code::bad_value},
      {"fan_out", real(0.0001), Code::bad_value},
      {"fan_out", num(2), Code::bad_value},
      {"budget", num(101), Code::bad_value},
      {"for", num(0), Code::bad_value},
      {"for", num(-1), Code::bad_value},
      {"events", atm("foo"), Code::bad_value},
      {"pids", bin("<0.1.0>"), Code::bad_value},
      {"all", num(1), Code::bad_value},
      {"caps", kw({{"stat", num(1)}}), Code::unknown_key},
  };
  for (const auto& [key, value, code] : cases) {
    const Made term(kw({{key, value}}));
    const auto got = parse_trace_spec(term.view);
    ASSERT_FALSE(got) << key;
    EXPECT_EQ(code_name(got.error().code), code_name(code)) << key;
  }
}

TEST(FindRequest, SuggestsTheNearest) {
  const std::tuple<Term, Code, std::string> cases[] = {
      {atm("helo"), Code::not_available, "did you mean hello?"},
      {tup({atm("get_event"), mp({})}), Code::not_available, "did you mean {get_events"},
      {tup({atm("get_events")}), Code::bad_request, "wrong number of arguments"},
      {atm("get_events"), Code::bad_request, "wrong number of arguments"},
      {tup({atm("explain_state"), num(1)}), Code::not_available, "later version"},
      {atm("subscribe"), Code::bad_request, "wrong number of arguments"},
      {atm("xyzzyxyzzyxyzzy"), Code::not_available, "known: hello"},
      {num(5), Code::bad_request, "an atom or a tuple"},
      {tup({num(5), num(6)}), Code::bad_request, "an atom or a tuple"},
      {tup({}), Code::bad_request, "an atom or a tuple"},
  };
  for (const auto& [value, code, hint] : cases) {
    const Made term(value);
    const auto got = find_request(term.view);
    ASSERT_FALSE(got) << printed(term.view);
    EXPECT_EQ(code_name(got.error().code), code_name(code)) << printed(term.view);
    EXPECT_NE(got.error().message.find(hint), std::string::npos) << got.error().message;
  }
}

}  // namespace
}  // namespace scope::node
