// Any term as a request, over a small recorded cluster: it is answered once, with a term, in time.
//   input = 0xFF term (encoded, as it is) | request:1 recipe (its arguments)
// What looks after the store's files is read, but not done: it would work on this machine's folders.
#include <cstdlib>

#include "cnode/service/requests.h"
#include "test/fuzz/recipe.h"
#include "test/unit/analysis/world.h"

using namespace scope;
using namespace scope::node;
using codec::TermBuilder;
using codec::TermView;

namespace {

constexpr std::string_view kWords[] = {"pid",
                                       "pids",
                                       "since",
                                       "until",
                                       "ago",
                                       "now",
                                       "at",
                                       "second",
                                       "minute",
                                       "ms",
                                       "ns",
                                       "limit",
                                       "order",
                                       "asc",
                                       "desc",
                                       "newest",
                                       "oldest",
                                       "type",
                                       "event_type",
                                       "node",
                                       "nodes",
                                       "module",
                                       "modules",
                                       "mfa",
                                       "mfas",
                                       "match",
                                       "text",
                                       "cursor",
                                       "deadline",
                                       "explain",
                                       "min_duration",
                                       "trace_id",
                                       "all",
                                       "none",
                                       "calls",
                                       "messages",
                                       "lifecycle",
                                       "names",
                                       "links",
                                       "message",
                                       "state",
                                       "args",
                                       "result",
                                       "peer",
                                       "duration",
                                       "queue_time",
                                       "edge",
                                       "time",
                                       "count",
                                       "rate",
                                       "min",
                                       "max",
                                       "mean",
                                       "p50",
                                       "p90",
                                       "p99",
                                       "for",
                                       "budget",
                                       "caps",
                                       "force",
                                       "sample",
                                       "profile",
                                       "profiles",
                                       "info",
                                       "verify",
                                       "attach",
                                       "archive",
                                       "protect",
                                       "message_send",
                                       "message_receive",
                                       "state_change",
                                       "function_entry",
                                       "true",
                                       "false",
                                       "infinity",
                                       "_",
                                       "$1",
                                       "$2",
                                       "$_",
                                       "==",
                                       ">",
                                       "andalso",
                                       "is_atom",
                                       "element",
                                       "map_get",
                                       "srv",
                                       "a@h",
                                       "b@h",
                                       "gen_server",
                                       "gen",
                                       "2026-01-01T00:00:00Z",
                                       "#PID<0.5.0>",
                                       "<0.5.0>",
                                       "order",
                                       "store",
                                       "retain_bytes"};

class NoDaemon : public Controls {
 public:
  void status(Reply<StatusInfo> reply) override { reply(StatusInfo{}); }
  void start(TraceSpec, std::string, Reply<StartOutcome> reply) override {
    reply(StartOutcome{3, {{"a@h", {}}}, {}});
  }
  void profiles(Reply<std::vector<ProfileOutcome>> reply) override {
    reply(std::vector<ProfileOutcome>{});
  }
  void stop(std::optional<std::uint64_t>, std::string, Reply<StopOutcome> reply) override {
    reply(StopOutcome{{3}, {}});
  }
  void update_config(std::vector<std::string>, TermView, std::string,
                     Reply<std::monostate> reply) override {
    reply(std::monostate{});
  }
};

struct Recorded {
  Recorded() {
    auto& a = world.node("a@h", 7);
    auto& b = world.node("b@h", 8, 500'000);
    for (std::uint32_t i = 0; i < 40; ++i) {
      const std::int64_t at = 1'000'000LL * i;
      const auto p = a.own(5 + i % 3), q = b.own(6);
      a.send(p, q, test::gen_call(p, i, "the text"), at);
      a.call(p, {"gen", "call", 4}, at + 10);
      a.returned(p, {"gen", "call", 4}, test::int_term(i), at + 900);
      a.state(p, test::server_state(i, "s"), at + 950);
      b.fetch(q, test::gen_call(p, i, "the text"), at + 200);
    }
    a.registered(a.own(5), "srv", 1);
    world.append(a);
    world.append(b);
    SCOPE_CHECK(world.store->flush(10'000).has_value());
  }
  test::World world;
  NoDaemon daemon;
  ServiceOptions options = [] {
    ServiceOptions o;
    o.node = "scope@h";
    return o;
  }();
  Service service{*world.store, daemon, options};
  StoreJobs jobs{world.store->upkeep(), nullptr};
};

void judge(codec::Bytes answer) {
  const auto term = codec::view(answer);
  if (!term || term->size() != answer.size()) std::abort();
  if (!term->is_tuple("ok", 2) && !term->is_tuple("error", 2)) std::abort();
}

void ask(Recorded& r, const TermView& request, std::shared_ptr<const void> owner) {
  const auto def = find_request(request);
  if (!def || (*def)->lane == Lane::control) {  // answered at once, on this thread
    bool answered = false;
    r.service.handle({request, std::move(owner), "<0.9.0>", "a@h", nullptr},
                     [&answered](TermBuilder answer) {
                       answered = true;
                       judge(answer.bytes());
                     });
    if (!answered) std::abort();
    return;
  }
  if ((*def)->lane == Lane::upkeep) return (void)read_store_verb(request.element(1), {});
  if ((*def)->run == nullptr) return;
  const auto now = std::chrono::steady_clock::now();
  auto& store = *r.world.store;
  Env env{{store.snapshot(), store.now(), {now + std::chrono::seconds(2), nullptr}, nullptr},
          store,
          r.options,
          now,
          r.jobs};
  TermBuilder out;
  out.tuple(2).atom("ok");
  if ((*def)->run(request, env, out)) judge(out.bytes());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Recorded recorded;
  if (size == 0) return 0;
  auto made = std::make_shared<TermBuilder>();
  if (data[0] == 0xFF) {
    const auto term = codec::view(std::as_bytes(std::span(data + 1, size - 1)));
    if (!term) return 0;
    made->term(*term);  // not the fuzzer's own bytes: they must outlive us
  } else {
    test::Recipe recipe({data, size}, kWords);
    const auto& def = requests()[recipe.number() % requests().size()];
    if (def.arity > 1) made->tuple(def.arity);
    made->atom(def.name);
    for (std::uint32_t i = 1; i < def.arity; ++i) recipe.term(*made);
  }
  ask(recorded, *codec::view(made->bytes()), made);
  return 0;
}
