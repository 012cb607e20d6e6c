// How long causal traces take over a recorded cluster (benchmarks: suite trace), asked as a BEAM node asks them: from the
// request term to the encoded reply. Prints {"figures": ...} as its last line.
//
//   bench_trace [--quick] [--events N] [--rate N]     default: 10,000,000 events, 10,000 a second; --quick: 2,000,000
//
// Model: 3 nodes whose clocks differ by hours, each known to 50 us; 600 servers and 4,400 clients by a Zipf law; each client calls
// a server (8 events). Once a second of recorded time begins a request of 1,003 spans (about 3,500 events, between which the
// others go on as before): a plain process calls a server, that ten others, each of these 49 of 500 more, one after the other.
//
// NAME_p99_ms is what the caller waits; NAME_cpu_p99_ms the processor time of it, which other load does not lengthen as much.
// trace_1000_spans: get_trace by the id of the request's root or of any span of it; list_traces: the newest 100 before a
// random time; list_traces_errors: the same, with errors only (there are none: what it costs to find nothing within 10 s).
#include <fmt/format.h>
#include <stdlib.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <future>
#include <random>

#include "ei_codec/term_print.h"
#include "test/bench/recorded_cluster.h"
#include "test/unit/service/term.h"

namespace scope::node {
namespace {

using codec::PidParts;
using codec::TermBuilder;
using namespace scope::test;

constexpr std::uint32_t kOrders = 10, kStocks = 500, kEach = 49;
constexpr std::uint64_t kSpans = 3 + 2 * kOrders + 2 * kOrders * kEach;

class Bench : public RecordedCluster {
 public:
  using RecordedCluster::RecordedCluster;

  void record(std::uint64_t events) {
    first = store->now().ns - static_cast<std::int64_t>(events) * step_ - 10'000 * kMs;
    now_ = first;
    std::int64_t next = first + 2'000 * kMs;
    while (recorded_ < events) {
      if (now_ < next || now_ > first + static_cast<std::int64_t>(events) * step_ - 5'000 * kMs) {
        exchange();
        continue;
      }
      next = now_ + 1'000 * kMs;
      request();
    }
    recorded_all();
  }

  std::vector<EventId> ids;  // a root and some spans of each request

 private:
  PidParts order(std::uint32_t i) const { return {kNames[i % 3], 1000 + i, 0, 7}; }
  PidParts stock(std::uint32_t i) const { return {kNames[i % 3], 2000 + i, 0, 7}; }
  std::int64_t tick(std::uint32_t node) {
    ++recorded_;
    ship(1000);
    return RecordedCluster::tick(node);
  }
  // A call; `inside`: what its handling does before it answers.
  template <typename Inside>
  void call(const PidParts& c, const PidParts& s, Inside inside) {
    const std::uint32_t ci = node_of(c), si = node_of(s);
    const auto n = ++calls_;
    const auto body = fmt::format("order {} of customer {}", n, n * 7919);
    const auto asked = gen_call(c, n, body);
    const auto ref = [c, n](TermBuilder& b) {
      b.tuple(2).reference({c.node, c.creation, 3, {n & 0x3FFFF, n * 2654435761U, 12345}});
      b.atom("ok");
    };
    makers_[ci].send(c, s, asked, tick(ci));
    makers_[si].fetch(s, asked, tick(si)).take(s, asked, tick(si));
    inside();
    makers_[si].send(s, c, ref, tick(si));
    makers_[si].state(s, server_state(n, body), tick(si));
    makers_[ci].fetch(c, ref, tick(ci));
  }
  void exchange() {
    const auto c = client(clients_(made_));
    call(c, server(servers_(made_)), [] {});
  }
  void request() {
    const auto c = client(kClients + 1), front = order(0);
    const auto n = static_cast<std::int64_t>(recorded_);
    const auto raw = tick(node_of(c));
    makers_[node_of(c)].fetch(c, int_term(n), raw);
    note(c, raw);
    call(c, front, [&] {
      for (std::uint32_t o = 0; o < kOrders; ++o) {
        const auto orders = order(1 + o);
        call(front, orders, [&] {
          for (std::uint32_t i = 0; i < kEach; ++i) {
            call(orders, stock(static_cast<std::uint32_t>(made_() % kStocks)), [&] {
              if (made_() % 100 == 0) exchange();
            });
            exchange();
            if (i == 20 && o % 3 == 0) note(orders, now_ - behind_[node_of(orders)] + step_);
          }
        });
      }
    });
  }
  // The event of `pid` at that raw time will be asked for; recorded only if it is (checked when asked).
  void note(const PidParts& pid, std::int64_t raw) {
    ids.push_back({{incarnation_[node_of(pid)], pid.id, pid.serial}, {raw}, 0});
  }

  std::uint64_t recorded_ = 0;
  std::uint32_t calls_ = 0;
};

struct Figure {
  double p50 = 0, p99 = 0, cpu_p50 = 0, cpu_p99 = 0;
  std::size_t asked = 0, wrong = 0;
};

double cpu_ms() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) / 1e6;
}

// One question after the other, `rounds` of them or as many as fit into 20 s (quick: 8 s).
Figure measure(int rounds, bool quick, const std::function<bool()>& ask) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> ms, cpu;
  Figure out;
  const auto end = Clock::now() + std::chrono::seconds(quick ? 8 : 20);
  for (int i = -2; i < rounds && (Clock::now() < end || ms.size() < 3); ++i) {
    const auto start = Clock::now();
    const double used = cpu_ms();
    const bool right = ask();
    if (i < 0) continue;
    ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    cpu.push_back(cpu_ms() - used);
    ++out.asked;
    out.wrong += !right;
  }
  std::ranges::sort(ms);
  out.p50 = ms[ms.size() / 2];
  out.p99 = ms[std::min(ms.size() - 1, ms.size() * 99 / 100)];
  std::ranges::sort(cpu);
  out.cpu_p50 = cpu[cpu.size() / 2];
  out.cpu_p99 = cpu[std::min(cpu.size() - 1, cpu.size() * 99 / 100)];
  return out;
}

int run(std::uint64_t events, std::int64_t rate, bool quick) {
  std::string folder = (std::filesystem::temp_directory_path() / "scope-trace-XXXXXX").string();
  SCOPE_CHECK(mkdtemp(folder.data()) != nullptr);
  std::string figures;
  std::size_t wrong = 0;
  {
    Bench bench(folder, 1'000'000'000 / rate);
    bench.record(events);
    NoControls controls;
    Service service(*bench.store, controls,
                    {1, 1, 256, std::chrono::milliseconds(30'000), "bench", "scope@bench"});
    const auto ask = [&](const Term& term, auto judge) {
      auto made = std::make_shared<Made>(term);
      std::promise<bool> promise;
      service.handle({made->view, made, "", "", nullptr}, [&](TermBuilder reply) {
        const auto view = codec::view(reply.bytes());
        const bool ok = view && view->is_tuple("ok", 2) && judge(*view->element(1).map());
        if (!ok && wrong++ < 3 && view) {
          std::fprintf(stderr, "wrong: %s\n",
                       codec::print(*view, codec::Syntax::erlang, 300).c_str());
        }
        promise.set_value(ok);
      });
      return promise.get_future().get();
    };
    const auto add = [&](const char* name, const Figure& f) {
      figures += fmt::format(
          "{0}\"{1}_p50_ms\": {2:.3f}, \"{1}_p99_ms\": {3:.3f}, \"{1}_cpu_p50_ms\": {4:.3f}, "
          "\"{1}_cpu_p99_ms\": {5:.3f}",
          figures.empty() ? "" : ", ", name, f.p50, f.p99, f.cpu_p50, f.cpu_p99);
      std::fprintf(stderr,
                   "%-20s p50 %8.3f ms  p99 %8.3f ms  CPU %8.3f %8.3f ms (%zu asked, %zu wrong)\n",
                   name, f.p50, f.p99, f.cpu_p50, f.cpu_p99, f.asked, f.wrong);
    };
    const int rounds = quick ? 100 : 1000;
    auto& random = bench.random;
    add("trace_1000_spans", measure(rounds, quick, [&] {
          const auto id = bench.ids[random() % bench.ids.size()].to_bytes();
          const std::string text(reinterpret_cast<const char*>(id.data()), id.size());
          return ask(tup({atm("get_trace"), bin(text)}), [](const codec::MapView& map) {
            return map.find("spans")->list()->left() == kSpans &&
                   map.find("completeness")->map()->find("complete")->is_atom("true");
          });
        }));
    const auto list = [&](Pairs filter) {
      const auto until =
          bench.first + 20'000 * kMs +
          static_cast<std::int64_t>(
              random() % static_cast<std::uint64_t>(bench.last - bench.first - 25'000 * kMs));
      filter.push_back({"until", num(until)});
      filter.push_back({"since", num(until - 10'000 * kMs)});
      return tup({atm("get_traces"), kw(filter)});
    };
    add("list_traces", measure(rounds, quick, [&] {
          return ask(list({}), [](const codec::MapView& map) {
            return map.find("traces")->list()->left() == 100;
          });
        }));
    add("list_traces_errors", measure(rounds / 10, quick, [&] {
          return ask(list({{"errors", atm("true")}}), [](const codec::MapView& map) {
            return map.find("traces")->kind() == codec::TermKind::nil;
          });
        }));
  }
  std::filesystem::remove_all(folder);
  fmt::print(
      "{{\"figures\": {{{}, \"wrong\": {}}}, \"limits\": {{\"trace_1000_spans_p99_ms\": \"<= 50\", "
      "\"list_traces_p99_ms\": \"<= 100\", \"wrong\": \"<= 0\"}}, \"conditions\": {{\"events\": "
      "{}, "
      "\"events_per_s\": {}}}}}\n",
      figures, wrong, events, rate);
  return 0;
}

}  // namespace
}  // namespace scope::node

int main(int argc, char** argv) {
  std::uint64_t events = 10'000'000;
  std::int64_t rate = 10'000;
  bool quick = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      events = 2'000'000;
      quick = true;
    } else if (std::strcmp(argv[i], "--events") == 0 && i + 1 < argc) {
      events = std::strtoull(argv[++i], nullptr, 10);
    } else if (std::strcmp(argv[i], "--rate") == 0 && i + 1 < argc) {
      rate = std::strtoll(argv[++i], nullptr, 10);
    } else {
      std::fprintf(stderr, "usage: bench_trace [--quick] [--events N] [--rate N]\n");
      return 2;
    }
  }
  return scope::node::run(events, rate, quick);
}
