// Causal traces as OTLP: what becomes of an answer to get_trace, byte by byte; addresses; files.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "cnode/export/otlp_batch.h"
#include "cnode/export/otlp_file.h"
#include "cnode/export/otlp_sender.h"
#include "test/unit/service/term.h"

namespace scope::node {
namespace {

using namespace scope::test;
using testing::HasSubstr;
using testing::Not;

constexpr std::int64_t kMay = 1714557600'000'000'000;

std::string id(char c) { return std::string(24, c); }

Pairs span(char own, Term parent, std::string kind, std::string certainty, const Pairs& more = {}) {
  Pairs out = {{"id", bin(id(own))},
               {"parent", std::move(parent)},
               {"kind", atm(std::move(kind))},
               {"certainty", atm(std::move(certainty))},
               {"candidates", num(1)},
               {"node", atm("shop1@localhost")},
               {"pid", proc("shop1@localhost", 7, 120)},
               {"name", bin("{take,2}")},
               {"origin", atm("none")},
               {"start", num(kMay)},
               {"start_error", num(5'000)},
               {"stop", num(kMay + 1'000'000)},
               {"stop_error", num(5'000)},
               {"queue_ns", atm("unknown")},
               {"service_ns", num(1'000'000)},
               {"error", atm("none")},
               {"critical", atm("true")}};
  for (auto& [key, value] : more) {
    bool found = false;
    for (auto& have : out) {
      if (have.first == key) have.second = value, found = true;
    }
    if (!found) out.emplace_back(key, value);
  }
  return out;
}

Term trace(std::vector<Term> spans, std::vector<Term> links = {}, const Pairs& more = {}) {
  Pairs out = {{"id", bin(id('a'))},
               {"spans", lst(std::move(spans))},
               {"links", lst(std::move(links))},
               {"cut", lst({})},
               {"completeness", mp({{"complete", atm("true")}})}};
  for (auto& [key, value] : more) {
    for (auto& have : out) {
      if (have.first == key) have.second = value;
    }
  }
  return mp(std::move(out));
}

std::string json_of(const Term& term) {
  OtlpBatch batch;
  const auto added = batch.add(Made(term).view);
  EXPECT_TRUE(added.has_value());
  return batch.json();
}

// A call over two nodes: two resources, the handling under its call, the reply as a link of the call.
Term call() {
  return trace({mp(span('a', atm("none"), "call", "exact", {{"origin", atm("process")}})),
                mp(span('b', bin(id('a')), "handle", "exact",
                        {{"node", atm("shop2@localhost")},
                         {"pid", proc("shop2@localhost", 9, 97)},
                         {"module", atm("shop_stock")},
                         {"queue_ns", num(-200)},
                         {"queue_error", num(9'000)},
                         {"error", bin("badarg")}}))},
               {tup({bin(id('b')), bin(id('a')), atm("reply")})});
}

TEST(Otlp, ACallOverTwoNodes) {
  const auto json = json_of(call());
  std::ifstream file(std::string(std::filesystem::path(__FILE__).parent_path() / "otlp_call.json"));
  std::stringstream golden;
  golden << file.rdbuf();
  EXPECT_EQ(json + "\n", golden.str());
}

TEST(Otlp, TheSameInProtobuf) {
  OtlpBatch batch;
  ASSERT_TRUE(batch.add(Made(call()).view));
  EXPECT_EQ(batch.spans(), 2u);
  const auto bytes = batch.protobuf();
  std::ifstream file(std::string(std::filesystem::path(__FILE__).parent_path() / "otlp_call.binpb"),
                     std::ios::binary);
  std::stringstream golden;
  golden << file.rdbuf();
  EXPECT_EQ(bytes, golden.str());
  if (const char* folder = std::getenv("SCOPE_OTLP_GOLDEN")) {  // writes them anew
    std::ofstream(std::string(folder) + "/otlp_call.binpb", std::ios::binary) << bytes;
    std::ofstream(std::string(folder) + "/otlp_call.json") << batch.json() << "\n";
  }
}

TEST(Otlp, OnlySureEdgesAreParents) {
  for (const std::string sure : {"exact", "unique"}) {
    const auto json = json_of(trace(
        {mp(span('a', atm("none"), "info", "exact")), mp(span('b', bin(id('a')), "cast", sure))}));
    EXPECT_THAT(json, HasSubstr("parentSpanId")) << sure;
    EXPECT_THAT(json, Not(HasSubstr("\"links\""))) << sure;
  }
  for (const std::string unsure : {"inferred", "ambiguous"}) {
    const auto json =
        json_of(trace({mp(span('a', atm("none"), "info", "exact")),
                       mp(span('b', bin(id('a')), "cast", unsure, {{"candidates", num(3)}}))}));
    EXPECT_THAT(json, Not(HasSubstr("parentSpanId"))) << unsure;
    EXPECT_THAT(
        json, HasSubstr(R"("attributes":[{"key":"scope.link","value":{"stringValue":"cause"}},)"
                        R"({"key":"scope.certainty","value":{"stringValue":")" +
                        unsure + R"("}},{"key":"scope.candidates","value":{"intValue":"3"}}]}])"));
  }
}

TEST(Otlp, KindsAsOpenTelemetryNamesThem) {
  const std::pair<const char*, const char*> kinds[] = {
      {"call", "3"},  {"handle", "2"},   {"cast", "5"}, {"info", "5"},
      {"timer", "1"}, {"function", "1"}, {"spawn", "1"}};
  for (const auto& [ours, theirs] : kinds) {
    EXPECT_THAT(json_of(trace({mp(span('a', atm("none"), ours, "exact"))})),
                HasSubstr(std::string("\"kind\":") + theirs + ","));
  }
}

TEST(Otlp, WhatIsMissingIsSaid) {
  const auto json = json_of(trace(
      {mp(span(
          'a', atm("none"), "info", "exact",
          {{"stop", atm("unknown")}, {"stop_error", atm("unknown")}, {"node", atm("unknown")}}))},
      {},
      {{"cut", lst({atm("depth"), atm("time")})},
       {"completeness",
        mp({{"complete", atm("false")},
            {"missing", lst({mp({{"kind", atm("gap")}}), mp({{"kind", atm("gap")}})})}})}}));
  EXPECT_THAT(json, HasSubstr(R"({"key":"scope.complete","value":{"boolValue":false}})"));
  EXPECT_THAT(
      json,
      HasSubstr(
          R"({"key":"scope.missing","value":{"arrayValue":{"values":[{"stringValue":"gap"}]}}})"));
  EXPECT_THAT(json, HasSubstr(R"({"values":[{"stringValue":"depth"},{"stringValue":"time"}]})"));
  EXPECT_THAT(json, HasSubstr(R"({"key":"scope.open","value":{"boolValue":true}})"));
  EXPECT_THAT(json, HasSubstr("unknown_service"));
}

TEST(Otlp, TextThatIsNoneOrTooLong) {
  const auto json = json_of(
      trace({mp(span('a', atm("none"), "info", "exact",
                     {{"name", bin("a\xff\x01z")}, {"error", bin(std::string(9'000, 'x'))}}))}));
  EXPECT_THAT(json, HasSubstr("\"name\":\"a\xEF\xBF\xBD\\u0001z\""));
  EXPECT_THAT(json, HasSubstr(std::string(kMaxText, 'x') + "…"));
  EXPECT_THAT(json, Not(HasSubstr(std::string(kMaxText + 1, 'x'))));
}

TEST(Otlp, AnAnswerOfAnotherShapeAddsNothing) {
  OtlpBatch batch;
  for (const auto& wrong :
       {atm("none"), mp({{"id", bin("short")}}), trace({}), trace({mp({{"id", bin(id('a'))}})}),
        trace({mp(span('a', atm("none"), "info", "exact")),
               mp(span('b', num(17), "info", "exact"))})}) {
    EXPECT_FALSE(batch.add(Made(wrong).view).has_value());
  }
  EXPECT_EQ(batch.spans(), 0u);
  EXPECT_EQ(batch.protobuf(), "");
}

TEST(Otlp, AnswersOfReceivers) {
  EXPECT_EQ(read_otlp_answer("", false).rejected, 0);
  EXPECT_EQ(read_otlp_answer("\x0a\x06\x08\x03\x12\x02no", false).rejected, 3);
  EXPECT_EQ(read_otlp_answer("\x0a\x06\x08\x03\x12\x02no", false).why, "no");
  EXPECT_EQ(
      read_otlp_answer(R"({"partialSuccess":{"rejectedSpans":"3","errorMessage":"no"}})", true)
          .rejected,
      3);
  EXPECT_EQ(read_otlp_answer(R"({"partialSuccess":{"rejectedSpans":4}})", true).rejected, 4);
  for (const std::string_view none : {"{}", "[", "{\"partialSuccess\":3}", "null"})
    EXPECT_EQ(read_otlp_answer(none, true).rejected, 0) << none;
}

TEST(Otlp, Addresses) {
  const auto parts = [](std::string_view url) {
    const auto e = parse_otlp_endpoint(url);
    return e ? e->host + "|" + e->port + "|" + e->target : "wrong";
  };
  EXPECT_EQ(parts("http://127.0.0.1:4318"), "127.0.0.1|4318|/v1/traces");
  EXPECT_EQ(parts("http://tempo/"), "tempo|4318|/v1/traces");
  EXPECT_EQ(parts("http://tempo:80/otlp/v1/traces"), "tempo|80|/otlp/v1/traces");
  EXPECT_EQ(parts("http://[::1]:99"), "::1|99|/v1/traces");
  for (const auto* wrong :
       {"", "tempo:4318", "https://tempo", "http://", "http://:80", "http://a:0", "http://a:66000",
        "http://a:b", "http://a b", "http://u@a", "http://a/\r\nX: y"})
    EXPECT_EQ(parts(wrong), "wrong") << wrong;
}

TEST(Otlp, AFileIsWholeOrNotThere) {
  const auto folder =
      std::filesystem::temp_directory_path() / ("scope-otlp-" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  const auto read = [](const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    std::stringstream out;
    out << in.rdbuf();
    return out.str();
  };
  OtlpBatch batch;
  ASSERT_TRUE(batch.add(Made(call()).view));
  for (const bool json : {true, false}) {
    const auto path = folder / (json ? "t.json" : "t.binpb");
    {
      auto file = OtlpFile::make(path, json);
      ASSERT_TRUE(file && file->add(batch));
    }
    EXPECT_TRUE(std::filesystem::is_empty(folder));
    auto file = OtlpFile::make(path, json);
    ASSERT_TRUE(file && file->add(batch) && file->add(batch));
    EXPECT_FALSE(std::filesystem::exists(path));
    ASSERT_TRUE(file->commit());
    if (!json) {
      EXPECT_EQ(read(path), batch.protobuf() + batch.protobuf());
    } else {
      auto twice = batch.json();
      const std::string begin = R"({"resourceSpans":[)";
      const auto inside = twice.substr(begin.size(), twice.size() - begin.size() - 2);
      EXPECT_EQ(read(path), fmt::format("{}{},{}]}}\n", begin, inside, inside));
    }
    std::filesystem::remove(path);
  }
  std::filesystem::remove_all(folder);
  EXPECT_FALSE(OtlpFile::make(folder / "x" / "t.json", true).has_value());
}

// Nobody listens on port 1: the first batch is tried as often as may be, what comes after it is dropped, and all counted.
TEST(Otlp, GivesUpAndCounts) {
  OtlpOptions options;
  options.endpoint = *parse_otlp_endpoint("http://127.0.0.1:1");
  options.first_wait = options.most_wait = std::chrono::milliseconds(1);
  options.tries = 3;
  options.queue = 1;
  OtlpSender sender(options);
  EXPECT_TRUE(sender.offer("x", 5));
  int refused = 0;
  for (int i = 0; i < 4; ++i) refused += sender.offer("x", 7) ? 0 : 1;
  EXPECT_GE(refused, 1);
  const auto counts = sender.finish();
  EXPECT_EQ(counts.sent, 0u);
  EXPECT_EQ(counts.dropped, 5u + 4 * 7u);
  EXPECT_EQ(counts.requests, 3u);
  EXPECT_EQ(counts.retries, 2u);
  EXPECT_THAT(counts.why, HasSubstr("connecting to 127.0.0.1:1"));
}

}  // namespace
}  // namespace scope::node
