// The service over a real store: requests as a BEAM node writes them, replies as it reads them.
#include "cnode/service/service.h"

#include <gtest/gtest.h>

#include <future>

#include "cnode/service/reply.h"
#include "ei_codec/term_print.h"
#include "test/unit/analysis/world.h"
#include "test/unit/service/term.h"

namespace scope::node {
namespace {

using namespace scope::test;
using codec::TermBuilder;
using codec::TermView;

constexpr std::int64_t kMs = 1'000'000;

// The daemon's side, in memory: it records what it was asked and answers at once.
class FakeDaemon : public Controls {
 public:
  void status(Reply<StatusInfo> reply) override {
    StatusInfo info;
    info.uptime_ms = 17;
    NodeStatus n;
    n.node = "a@h";
    n.state = "tracing";
    n.incarnation = 1;
    info.nodes.push_back(n);
    info.tracing.push_back({3, "me", last_spec, {}});
    info.counters.push_back({"links_up", 5});
    info.counters.push_back({"too_deep", 2, Severity::data_loss});
    reply(std::move(info));
  }
  void start(TraceSpec spec, std::string by, Reply<StartOutcome> reply) override {
    last_spec = std::move(spec);
    last_by = std::move(by);
    StartOutcome out;
    out.id = 3;
    out.nodes = {{"a@h", {}}, {"b@h", Error{Code::node_down, "it is down", "node", "b@h"}}};
    reply(std::move(out));
  }
  void stop(std::optional<std::uint64_t> id, std::string, Reply<StopOutcome> reply) override {
    if (id && *id != 3) return reply(fail(Code::no_such_trace, "no trace with that id", "id"));
    reply(StopOutcome{{3}, {{"a@h", {}}}});
  }
  void profiles(Reply<std::vector<ProfileOutcome>> reply) override {
    reply(std::vector<ProfileOutcome>{{builtin_profiles().front(), {}}});
  }
  void update_config(std::vector<std::string> path, TermView value, std::string,
                     Reply<std::monostate> reply) override {
    last_path = std::move(path);
    last_value = codec::print(value, codec::Syntax::erlang);
    reply(std::monostate{});
  }
  TraceSpec last_spec;
  std::string last_by, last_value;
  std::vector<std::string> last_path;
};

class ServiceTest : public testing::Test {
 protected:
  ServiceTest() {
    const auto now = world.store->now().ns;
    base = now - 60'000 * kMs;
    for (int i = 0; i < 10; ++i) {
      node.send(p, q, int_term(i), base + i * kMs).fetch(q, int_term(i), base + i * kMs + 500);
      node.state(p, test::server_state(i, "s"), base + i * kMs + 900);
    }
    node.registered(p, "srv", base);
    world.append(node);
    SCOPE_CHECK(world.store->flush(5000).has_value());
  }

  // Asks and waits; the reply as an Erlang text, its terms in `reply`.
  std::string ask(const Term& term) {
    auto made = std::make_shared<Made>(term);
    std::promise<TermBuilder> promise;
    auto future = promise.get_future();
    service.handle({made->view, made, "<0.9.0>", "a@h", nullptr},
                   [&promise](TermBuilder b) { promise.set_value(std::move(b)); });
    if (future.wait_for(std::chrono::seconds(20)) != std::future_status::ready) return "no answer";
    bytes = future.get();
    const auto view = codec::view(bytes.bytes());
    if (!view || view->size() != bytes.size()) return "not a term";
    reply = *view;
    return codec::print(reply, codec::Syntax::erlang, 20'000);
  }
  // The value at a path of map keys in the {ok, Map}.
  std::string value(std::initializer_list<std::string_view> path) {
    TermView at = reply.element(1);
    for (const auto key : path) {
      const auto map = at.map();
      const auto found = map ? map->find(key) : std::nullopt;
      if (!found) return "absent";
      at = *found;
    }
    return codec::print(at, codec::Syntax::erlang);
  }

  World world;
  test::Node& node = world.node("a@h", 7);
  codec::PidParts p = node.own(5), q = node.own(6);
  std::int64_t base = 0;
  FakeDaemon daemon;
  Service service{
      *world.store, daemon, {1, 1, 256, std::chrono::milliseconds(4000), "0.1.0", "scope@h"}};
  TermBuilder bytes;
  TermView reply;
};

TEST_F(ServiceTest, Hello) {
  ask(atm("hello"));
  EXPECT_EQ(value({"api"}), "1");
  EXPECT_EQ(value({"version"}), "<<\"0.1.0\">>");
  EXPECT_NE(value({"features"}).find("get_state_at"), std::string::npos);
  EXPECT_NE(value({"features"}).find("get_trace"), std::string::npos);
  EXPECT_EQ(value({"features"}).find("explain_state"), std::string::npos);
}

TEST_F(ServiceTest, GetEventsGivesEventMapsAndACursor) {
  ask(tup({atm("get_events"),
           kw({{"pid", proc("a@h", 7, 5)}, {"limit", num(2)}, {"type", atm("message_send")}})}));
  ASSERT_TRUE(reply.is_tuple("ok", 2));
  const TermView events = *reply.element(1).map()->find("events");
  auto it = *events.list();
  ASSERT_EQ(it.left(), 2u);
  const auto map = *it.item().map();
  EXPECT_EQ(map.find("id")->binary()->size(), EventId::kBytes);
  EXPECT_TRUE(map.find("node")->is_atom("a@h"));
  EXPECT_TRUE(map.find("type")->is_atom("message_send"));
  EXPECT_EQ(map.find("time")->integer(), base + 9 * kMs);
  EXPECT_EQ(map.find("time_error")->integer(), 1000);
  EXPECT_EQ(map.find("message")->integer(), 9);
  EXPECT_EQ(map.find("to")->pid()->id, 6u);
  EXPECT_EQ(value({"completeness"}), "#{complete => true}");
  const std::string cursor(*reply.element(1).map()->find("next")->binary_text());
  ask(tup({atm("get_events"), kw({{"pid", proc("a@h", 7, 5)},
                                  {"limit", num(100)},
                                  {"type", atm("message_send")},
                                  {"cursor", bin(cursor)}})}));
  EXPECT_EQ(reply.element(1).map()->find("events")->list()->left(), 8u);
  EXPECT_EQ(value({"next"}), "none");
}

TEST_F(ServiceTest, GetStateAtByPidNameAndText) {
  for (const auto& who : {proc("a@h", 7, 5), atm("srv"), tup({atm("srv"), atm("a@h")}),
                          tup({bin("<0.5.0>"), atm("a@h")})}) {
    ask(tup({atm("get_state_at"), who, num(base + 4 * kMs + 500'000)}));
    EXPECT_EQ(value({"state", "counter"}), "4");
    EXPECT_EQ(value({"certainty"}), "proven");
    EXPECT_EQ(value({"time"}), std::to_string(base + 4 * kMs + 900));
    EXPECT_EQ(value({"why"}), "[]");
  }
  EXPECT_EQ(ask(tup({atm("get_state_at"), atm("nobody"), atm("now")})).substr(0, 23),
            "{error,{no_such_process");
}

TEST_F(ServiceTest, HistoryFlowAndClocksHaveTheirShapes) {
  ask(tup({atm("get_state_history"), proc("a@h", 7, 5), mp({})}));
  for (const char* key :
       {"event", "time", "time_error", "callback", "cause", "state", "diff", "certainty"}) {
    EXPECT_TRUE(reply.element(1).map()->find("transitions")->list()->item().map()->find(key))
        << key;
  }
  ask(tup({atm("get_message_flow"), proc("a@h", 7, 5), proc("a@h", 7, 6), mp({})}));
  const auto messages = *reply.element(1).map()->find("messages")->list();
  EXPECT_EQ(messages.left(), 10u);
  const auto first = *messages.item().map();
  for (const char* key : {"from", "to", "message", "sent", "fetched", "taken", "latency_ns",
                          "queue_ns", "error_ns", "matched", "events"}) {
    EXPECT_TRUE(first.find(key)) << key;
  }
  EXPECT_TRUE(first.find("matched")->is_atom("unique"));
  EXPECT_EQ(first.find("latency_ns")->integer(), 500);
  EXPECT_TRUE(first.find("taken")->is_atom("unknown"));
  ask(atm("clocks"));
  EXPECT_EQ(value({"nodes", "a@h", "offset_ns"}), "0");
}

TEST_F(ServiceTest, TracesHaveTheirShapes) {
  EXPECT_EQ(ask(tup({atm("get_traces"), mp({})})).substr(0, 20), "{ok,#{traces => [],n");
  for (int i = 20; i < 25; ++i) {
    node.send(p, q, int_term(i), base + i * kMs).fetch(q, int_term(i), base + i * kMs + 500);
    node.take(q, int_term(i), base + i * kMs + 700);
  }
  world.append(node);
  ASSERT_TRUE(world.store->flush(5000));
  ask(tup({atm("get_traces"), mp({{"errors", atm("false")}, {"limit", num(3)}})}));
  ASSERT_TRUE(reply.is_tuple("ok", 2));
  const auto traces = *reply.element(1).map()->find("traces")->list();
  ASSERT_EQ(traces.left(), 3u);
  EXPECT_TRUE(reply.element(1).map()->find("next")->binary());
  const auto first = *traces.item().map();
  for (const char* key : {"id", "root", "start", "start_error", "duration_ns", "spans", "nodes",
                          "errors", "certainty"}) {
    EXPECT_TRUE(first.find(key)) << key;
  }
  const std::string id(*first.find("id")->binary_text());
  ask(tup({atm("get_trace"), bin(id)}));
  ASSERT_TRUE(reply.is_tuple("ok", 2));
  EXPECT_EQ(reply.element(1).map()->find("id")->binary_text(), id);
  EXPECT_EQ(value({"cut"}), "[]");
  EXPECT_EQ(value({"links"}), "[]");
  const auto span = *reply.element(1).map()->find("spans")->list()->item().map();
  for (const char* key :
       {"id", "parent", "kind", "pid", "node", "name", "start", "start_error", "stop", "stop_error",
        "queue_ns", "queue_error", "service_ns", "error", "critical", "certainty", "events"}) {
    EXPECT_TRUE(span.find(key)) << key;
  }
  EXPECT_TRUE(span.find("parent")->is_atom("none"));

  const std::string span_id(*span.find("id")->binary_text());
  ask(tup({atm("get_order"), bin(span_id), bin(span_id)}));
  EXPECT_EQ(value({"order"}), "same");
  for (const char* key : {"why", "certainty", "path", "doubts", "time_a", "time_a_error", "time_b",
                          "time_b_error", "completeness"}) {
    EXPECT_FALSE(value({key}).empty()) << key;
  }
  EXPECT_EQ(ask(tup({atm("get_order"), bin(span_id), bin("x")})).substr(0, 33),
            "{error,{bad_value,#{field => id_b");
  EXPECT_EQ(ask(tup({atm("get_trace"), bin("short")})).substr(0, 31),
            "{error,{bad_value,#{field => id");
  EXPECT_EQ(ask(tup({atm("get_trace"), bin(std::string(24, '\xff'))})).substr(0, 20),
            "{error,{not_recorded");
  EXPECT_EQ(ask(tup({atm("get_traces"), mp({{"erors", atm("true")}})})).substr(0, 38),
            "{error,{unknown_key,#{field => erors,g");
  EXPECT_EQ(ask(tup({atm("get_traces"), mp({{"match", atm("_")}})})).substr(0, 36),
            "{error,{bad_value,#{field => match,g");
  EXPECT_EQ(ask(tup({atm("get_events"), mp({{"errors", atm("true")}})})).substr(0, 19),
            "{error,{unknown_key");
}

TEST_F(ServiceTest, ControlRequestsReachTheDaemon) {
  EXPECT_EQ(
      ask(tup({atm("start"), kw({{"modules", atm("m")}})})),
      "{ok,#{id => 3,nodes => #{a@h => ok,b@h => {error,{node_down,#{field => node,got => "
      "<<\"b@h\">>,hint => <<\"it is down\">>}}}},predictions => #{a@h => unknown},left_out => #{},"
      "expires => infinity}}");
  EXPECT_EQ(daemon.last_by, "<0.9.0> on a@h");
  EXPECT_EQ(daemon.last_spec.modules, std::vector<std::string>{"m"});
  ask(atm("status"));
  EXPECT_EQ(value({"uptime_ms"}), "17");
  EXPECT_EQ(value({"nodes", "a@h", "state"}), "tracing");
  EXPECT_EQ(value({"nodes", "a@h", "dropped"}), "unknown");
  EXPECT_EQ(value({"nodes", "a@h", "clock", "offset_ns"}), "0");
  EXPECT_EQ(value({"store", "events"}), "31");
  EXPECT_EQ(value({"store", "oldest"}), std::to_string(base));
  EXPECT_EQ(value({"counters", "links_up"}), "5");
  EXPECT_EQ(value({"data_loss", "too_deep"}), "2");
  EXPECT_EQ(ask(tup({atm("stop"), num(9)})).substr(0, 21), "{error,{no_such_trace");
  EXPECT_EQ(ask(tup({atm("stop"), atm("all")})), "{ok,#{stopped => [3],nodes => #{a@h => ok}}}");
  EXPECT_EQ(ask(tup({atm("update_config"), lst({atm("store"), atm("retain_bytes")}), num(5)})),
            "{ok,ok}");
  EXPECT_EQ(daemon.last_path, (std::vector<std::string>{"store", "retain_bytes"}));
  ask(tup({atm("update_config"), bin("store.retain_bytes"), num(6)}));
  EXPECT_EQ(daemon.last_path, (std::vector<std::string>{"store", "retain_bytes"}));
  EXPECT_EQ(daemon.last_value, "6");
}

TEST_F(ServiceTest, FaultsAnswerWithCodeFieldGotAndHint) {
  EXPECT_EQ(ask(tup({atm("get_events"), kw({{"limit", num(0)}})})),
            "{error,{bad_value,#{field => limit,got => <<\"0\">>,hint => <<\"must be an integer "
            "from 1 to "
            "10000\">>}}}");
  EXPECT_EQ(ask(atm("explain_state")).substr(0, 21), "{error,{not_available");
  EXPECT_EQ(ask(num(1)).substr(0, 19), "{error,{bad_request");
}

TEST_F(ServiceTest, EveryRequestOfRandomBytesIsAnswered) {
  // Every request name with wrong arguments of every kind, in every place.
  const Term junk[] = {num(-1),   atm("x"), bin("\xff\xfe"), lst({num(1), num(2)}),
                       mp({}),    tup({}),  real(1e300),     proc("z@z", 0, 0),
                       str("abc")};
  for (const auto* name : {"hello", "status", "start", "stop", "update_config", "get_events",
                           "get_state_at", "get_state_history", "get_message_flow", "clocks",
                           "get_trace", "get_traces", "get_order", "nonsense"}) {
    for (const auto& a : junk) {
      for (const auto& b : junk) {
        for (const auto& request :
             {tup({atm(name), a}), tup({atm(name), a, b}), tup({atm(name), a, b, a})}) {
          const auto text = ask(request);
          ASSERT_TRUE(text.starts_with("{ok,") || text.starts_with("{error,{")) << text;
        }
      }
    }
  }
}

TEST_F(ServiceTest, TooManyAtomsIsAnError) {
  for (int i = 0; i < 6000; ++i) {
    node.send(p, q, atom_term("atom_" + std::to_string(i)), base + 20 * kMs + i);
  }
  world.append(node);
  ASSERT_TRUE(world.store->flush(5000));
  EXPECT_EQ(ask(tup({atm("get_events"), kw({{"limit", num(10'000)}})})).substr(0, 22),
            "{error,{too_many_atoms");
  EXPECT_EQ(ask(tup({atm("get_events"), kw({{"limit", num(4000)}})})).substr(0, 4), "{ok,");
}

TEST_F(ServiceTest, AFullQueueAnswersBusyAndStopAnswersTheRest) {
  Service small{*world.store, daemon, {1, 1, 2, std::chrono::milliseconds(4000), "v", "n@h"}};
  auto made = std::make_shared<Made>(tup({atm("get_events"), mp({})}));
  std::atomic<int> ok{0}, busy{0}, closed{0};
  std::promise<void> entered, release;
  auto gate = release.get_future().share();
  std::atomic<bool> first{true};
  const auto count = [&](TermBuilder b) {
    const auto view = *codec::view(b.bytes());
    if (view.is_tuple("ok", 2)) {
      ++ok;
      if (first.exchange(false)) {
        entered.set_value();
        gate.wait();
      }
    } else {
      const auto code = *view.element(1).element(0).atom();
      if (code == "busy") ++busy;
      if (code == "closed") ++closed;
    }
  };
  small.handle({made->view, made, "", "", nullptr}, count);
  entered.get_future().wait();  // the only thread of the lane is held in this reply
  for (int i = 0; i < 5; ++i) small.handle({made->view, made, "", "", nullptr}, count);
  EXPECT_EQ(busy, 3);
  std::thread stopper([&] { small.stop(); });
  while (closed < 2) std::this_thread::yield();
  release.set_value();
  stopper.join();
  EXPECT_EQ(ok, 1);
  small.handle({made->view, made, "", "", nullptr}, count);
  EXPECT_EQ(closed, 3);
}

TEST_F(ServiceTest, ACallerThatWentAwayStopsItsQuery) {
  auto made = std::make_shared<Made>(tup({atm("get_events"), mp({})}));
  const auto gone = std::make_shared<std::atomic<bool>>(true);
  std::promise<std::string> promise;
  service.handle({made->view, made, "", "", gone}, [&](TermBuilder b) {
    promise.set_value(codec::print(*codec::view(b.bytes()), codec::Syntax::erlang));
  });
  EXPECT_EQ(promise.get_future().get().substr(0, 14), "{error,{closed");
  EXPECT_EQ(service.stats().cancelled, 1u);
}

TEST_F(ServiceTest, CoverageOfTheDaemonIsPartOfCompleteness) {
  auto coverage = std::make_shared<analysis::Coverage>();
  coverage->not_traced.push_back({"b@h", "refused"});
  coverage->sampled.push_back({"a@h", 0.5});
  coverage->sampled.push_back({"b@h", 0.25, true});
  service.set_coverage(coverage);
  ask(tup({atm("get_events"), mp({})}));
  EXPECT_EQ(value({"completeness", "complete"}), "false");
  EXPECT_EQ(value({"completeness", "missing"}),
            "[#{kind => not_traced,node => b@h,reason => refused,since => unknown},"
            "#{kind => sampled,node => a@h,rate => 0.5},"
            "#{kind => sampled,node => b@h,rate => 0.25,by => receivers}]");
  ask(tup({atm("get_events"), kw({{"node", atm("a@h")}})}));
  EXPECT_EQ(value({"completeness", "missing"}), "[#{kind => sampled,node => a@h,rate => 0.5}]");
}

TEST_F(ServiceTest, AKindOfEventsThatIsAskedForByNameMustBeTraced) {
  auto coverage = std::make_shared<analysis::Coverage>();
  coverage->kinds.push_back({"a@h", codec::EventType::message_send, ClusterTime{5}});
  service.set_coverage(coverage);
  ask(tup({atm("get_events"), kw({{"type", atm("message_send")}})}));
  EXPECT_EQ(value({"completeness", "missing"}),
            "[#{kind => not_traced,node => a@h,"
            "reason => 'no trace there asks for message_send',since => 5}]");
  ask(tup({atm("get_events"), kw({{"type", atm("message_send")}, {"until", num(4)}})}));
  EXPECT_EQ(value({"completeness", "complete"}), "true");
  ask(tup({atm("get_events"), kw({{"type", atm("message_take")}})}));
  EXPECT_EQ(value({"completeness", "complete"}), "true");
  ask(tup({atm("get_events"), mp({})}));
  EXPECT_EQ(value({"completeness", "complete"}), "true");
}

TEST_F(ServiceTest, AFunctionThatIsAskedForMustBeNamedByATrace) {
  auto coverage = std::make_shared<analysis::Coverage>();
  analysis::TraceScope calls;
  calls.types = bit(codec::EventType::function_entry);
  calls.modules = {"shop"};
  calls.functions = {{"stock", "take", 2}};
  analysis::NodeScope scope;
  scope.node = "a@h";
  scope.since = ClusterTime{5};
  scope.traces = {calls};
  coverage->scopes = {scope};
  service.set_coverage(coverage);
  ask(tup({atm("get_events"), kw({{"mfa", tup({atm("stock"), atm("give"), num(2)})}})}));
  EXPECT_EQ(value({"completeness", "missing"}),
            "[#{kind => not_traced,node => a@h,reason => 'no trace there names stock:give/2',"
            "since => 5}]");
  ask(tup({atm("get_events"), kw({{"mfa", tup({atm("stock"), atm("take"), num(2)})}})}));
  EXPECT_EQ(value({"completeness", "complete"}), "true");
  ask(tup({atm("get_events"), kw({{"module", atm("shop")}})}));
  EXPECT_EQ(value({"completeness", "complete"}), "true");
  ask(tup({atm("get_events"), kw({{"module", atm("stock")}})}));
  EXPECT_EQ(value({"completeness", "missing"}),
            "[#{kind => not_traced,node => a@h,reason => 'no trace there names all of stock',"
            "since => 5}]");
  ask(tup({atm("get_events"), kw({{"module", atm("orders")}})}));
  EXPECT_EQ(value({"completeness", "complete"}), "false");
  ask(tup({atm("get_events"), kw({{"module", atm("orders")}, {"until", num(5)}})}));
  EXPECT_EQ(value({"completeness", "complete"}), "true");
  ask(tup({atm("get_events"), kw({{"module", atm("orders")}, {"type", atm("message_send")}})}));
  EXPECT_EQ(value({"completeness", "complete"}), "true");
}

TEST(CountAtoms, CountsDistinctAtomsOfEveryKindOfTerm) {
  TermBuilder b;
  b.tuple(7).atom("a").atom("b").atom("a");
  b.pid({"n@h", 1, 2, 3}).reference({"n@h", 1, 3, {1, 2, 3}}).port({"m@h", 5, 6});
  b.map(2)
      .atom("k")
      .binary(std::string_view("text"))
      .integer(1)
      .list(2)
      .real(1.5)
      .integer(1LL << 60)
      .nil();
  EXPECT_EQ(count_atoms(b.bytes()), 5u);
  EXPECT_EQ(count_atoms(b.bytes(), 2), 3u);
}

}  // namespace
}  // namespace scope::node
