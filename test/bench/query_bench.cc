// How long questions take over a recorded cluster (benchmarks: suite query), asked as a BEAM node asks them: from the
// request term to the encoded reply. Prints {"figures": ...} as its last line.
//
//   bench_query [--quick] [--events N]        default: 10,000,000 events; --quick: 2,000,000 and fewer questions
//
// NAME_p50_ms: warm; NAME_p50_ms_cold: nothing of the store's files in memory (cold_left says how much was all the same);
// NAME_p50_ms_under_ingest: while 200,000 events/s of the same model arrive, as far as the machine can (ingest_events_per_s).
// text_10m: a text that one event holds, times 10,000,000 / events. hash_2s: the rows of one message's content within 2 s of its
// sending, as get_message_flow looks for them (analysis::scan: no request asks for that alone).
// Comparisons with SQLite and a file: suite store, where all hold the same events.
//
// Model: 3 nodes, 600 servers and 4,400 clients, 500 functions, all chosen by a Zipf law; calls between nodes with their
// messages, function calls and states, 10,000 events/s; clocks that differ by hours; blocks and tail as they come.
#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <random>
#include <thread>

#include "analysis/event_scan.h"
#include "ei_codec/term_print.h"
#include "test/bench/recorded_cluster.h"
#include "test/unit/service/term.h"

namespace scope::node {
namespace {

using codec::PidParts;
using codec::TermBuilder;
using namespace scope::test;

constexpr std::uint32_t kFunctions = 500;

// Every so many events an exchange carries a trace id, in each of its rows that has a body.
constexpr std::uint32_t kTraceEvery = 1024;
std::string trace_id(std::uint64_t n) { return fmt::format("{:032x}", n + 1); }

class Bench : public RecordedCluster {
 public:
  explicit Bench(std::string folder) : RecordedCluster(std::move(folder), 100'000) {
    for (std::uint32_t i = 0; i < kFunctions; ++i) {
      modules_.push_back(fmt::format("Elixir.Shop.Part{}", i / 10));
      functions_.push_back(fmt::format("handle_{}", i % 10));
    }
  }

  std::pair<std::string, std::string> function(std::uint32_t i) const {
    return {modules_[i], functions_[i]};
  }

  void record(std::uint64_t events) {
    first = store->now().ns - static_cast<std::int64_t>(events) * 100'000 - 1000 * kMs;
    now_ = first;
    while (recorded < events) exchange();
    recorded_all();
  }
  // More of the same at `rate` a second until `stop`; on a thread of its own, and nobody else records then.
  void feed(double rate, const std::atomic<bool>& stop) {
    using Clock = std::chrono::steady_clock;
    const auto begin = Clock::now();
    std::uint64_t fed = 0;
    while (!stop) {
      const double due = std::chrono::duration<double>(Clock::now() - begin).count() * rate;
      if (static_cast<double>(fed) >= due) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        continue;
      }
      exchange();
      fed += 8;
    }
    fed_per_s =
        static_cast<double>(fed) / std::chrono::duration<double>(Clock::now() - begin).count();
  }
  double fed_per_s = 0;

  std::vector<std::pair<PidParts, PidParts>> pairs;
  std::uint64_t recorded = 0;
  Zipf functions{kFunctions};

 private:
  // A call and its answer: eight events.
  void exchange() {
    std::string body(60, 'x');
    const auto c = client(clients_(made_)), s = server(servers_(made_));
    const std::uint32_t ci = node_of(c), si = node_of(s);
    const auto n = static_cast<std::uint32_t>(recorded);
    const auto f = functions(made_);
    const codec::Mfa mfa{modules_[f], functions_[f], 2};
    std::snprintf(body.data(), body.size(), "order %u of customer %u", n, n * 7919);
    if (n % kTraceEvery == 0) body = fmt::format("00-{}-00f067aa0ba902b7-01", trace_id(n));
    const auto request = gen_call(c, n, body);
    const auto reply = tup({num(n), atm("ok"), bin(body)});
    makers_[ci].send(c, s, request, tick(ci));
    makers_[si].fetch(s, request, tick(si)).take(s, request, tick(si));
    makers_[si].call(s, mfa, tick(si)).returned(s, mfa, reply, tick(si));
    makers_[si].state(s, server_state(n, body), tick(si)).send(s, c, reply, tick(si));
    makers_[ci].fetch(c, reply, tick(ci));
    recorded += 8;
    ship(1000);
    if (n % 97 == 0 && last == 0) pairs.emplace_back(c, s);
  }

  std::vector<std::string> modules_, functions_;
};

Term pid_term(const PidParts& p) {
  return [p](TermBuilder& b) { b.pid(p); };
}

struct Figure {
  double p50 = 0, p99 = 0;
  std::size_t empty = 0, asked = 0;
};

// Asks `make()`'s questions one after the other, `rounds` of them or as many as fit into ten seconds.
bool quick = false;

using Ask = std::function<bool()>;  // false: no answer
std::string last_error;  // its code; a state from before a process's first one is `not_recorded`

// `found`: an answer without events is none.
Ask asking(Service& service, std::function<Term()> make, bool found = false) {
  return [&service, make = std::move(make), found] {
    auto made = std::make_shared<Made>(make());
    std::promise<bool> promise;
    service.handle({made->view, made, "", "", nullptr}, [&](TermBuilder reply) {
      const auto view = codec::view(reply.bytes());
      bool good = view && view->is_tuple("ok", 2);
      if (!good && view && view->is_tuple("error", 2))
        last_error = codec::print(view->element(1), codec::Syntax::erlang, 60);
      if (good && found) {
        const auto map = view->element(1).map();
        const auto events = map ? map->find("events") : std::nullopt;
        good = events && events->kind() != codec::TermKind::nil;
      }
      promise.set_value(good);
    });
    return promise.get_future().get();
  };
}

// `before`: not measured, before each.
Figure measure(int rounds, const Ask& ask, const std::function<void()>& before = {}) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> ms;
  Figure out;
  const auto end = Clock::now() + std::chrono::milliseconds(quick ? 800 : 10'000);
  const int warm = before ? 0 : rounds / 10;
  for (int i = -warm; i < rounds && (Clock::now() < end || ms.empty()); ++i) {
    if (before) before();
    const auto start = Clock::now();
    const auto size = ask();
    if (i < 0) continue;
    ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    ++out.asked;
    if (!size) ++out.empty;
  }
  std::sort(ms.begin(), ms.end());
  if (ms.empty()) return out;
  out.p50 = ms[ms.size() / 2];
  out.p99 = ms[std::min(ms.size() - 1, ms.size() * 99 / 100)];
  return out;
}

// Puts the store's files out of memory: mapped pages first, then what is left of the files. Answers the share that stayed.
// REQUIRES that all is on disk.
double evict(const std::string& folder) {
  std::ifstream maps("/proc/self/maps");
  double there = 0, all = 0;
  for (std::string line; std::getline(maps, line);) {
    const auto at = line.find(folder);
    if (at == line.npos || !line.ends_with(".mdb")) continue;
    std::uintptr_t begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx", &begin, &end) != 2) continue;
    const auto path = line.substr(at);
    const auto file = static_cast<std::size_t>(std::filesystem::file_size(path));
    const auto size = std::min<std::size_t>(end - begin, (file + 4095) / 4096 * 4096);
    auto* const from = reinterpret_cast<void*>(begin);  // NOLINT(performance-no-int-to-ptr)
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    ::fdatasync(fd);
    ::madvise(from, size, MADV_PAGEOUT);
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
    std::vector<unsigned char> resident(size / 4096);
    if (::mincore(from, size, resident.data()) != 0) continue;
    for (const auto r : resident) there += r & 1;
    all += static_cast<double>(resident.size());
  }
  return all == 0 ? 1 : there / all;
}

int run(std::uint64_t events, int rounds) {
  std::string folder = (std::filesystem::temp_directory_path() / "scope-query-XXXXXX").string();
  SCOPE_CHECK(mkdtemp(folder.data()) != nullptr);
  std::string figures, cold;
  {
    Bench bench(folder);
    bench.record(events);
    NoControls controls;
    Service service(*bench.store, controls,
                    {1, 1, 256, std::chrono::milliseconds(30'000), "bench", "scope@bench"});
    auto& random = bench.random;
    const auto time = [&] {
      return bench.first + static_cast<std::int64_t>(
                               random() % static_cast<std::uint64_t>(bench.last - bench.first));
    };
    const std::int64_t window = (bench.last - bench.first) / 100;
    const std::uint64_t total = bench.recorded;  // before more is fed
    const auto any_pid = [&] {
      const auto i = static_cast<std::uint32_t>(random() % 5000);
      return i < kServers ? bench.server(i) : bench.client(i - kServers);
    };
    const auto events_of = [](const Pairs& filter) { return tup({atm("get_events"), kw(filter)}); };
    const auto add = [&](const char* name, const Figure& f, const char* when = "") {
      if (f.asked == 0 || f.empty == f.asked) return;  // nothing was measured
      figures += fmt::format("{}\"{}_p50_ms{}\": {:.3f}, \"{}_p99_ms{}\": {:.3f}",
                             figures.empty() ? "" : ", ", name, when, f.p50, name, when, f.p99);
      std::fprintf(stderr, "%-16s%-14s p50 %8.3f ms  p99 %8.3f ms  (%zu asked, %zu errors%s%s)\n",
                   name, when, f.p50, f.p99, f.asked, f.empty, f.empty == 0 ? "" : ": ",
                   f.empty == 0 ? "" : last_error.c_str());
    };
    const auto stats = [](const Pairs& filter, Term by) {
      return tup({atm("aggregate"), kw(filter), std::move(by), lst({atm("count")})});
    };
    struct Asked {
      const char* name;
      int rounds;
      std::function<Term()> make;
    };
    // Sends whose content is looked for: a time and a hash each.
    std::vector<std::tuple<Incarnation, RawTime, std::uint64_t>> sent;
    {
      const auto view = bench.store->snapshot();
      store::RowFilter sends;
      sends.types = 1u << static_cast<unsigned>(codec::EventType::message_send);
      sends.payload = false;
      for (int i = 0; i < 20; ++i) {
        const auto rows = view->read(view->units()[random() % view->units().size()], sends);
        for (std::size_t k = 0; rows && k < rows->rows.size(); k += 97) {
          const auto& row = rows->rows[k];
          if (row.record.has(codec::TraceRecord::kHashed))
            sent.emplace_back(row.process.incarnation, row.record.time, row.record.match_hash);
        }
      }
    }
    const Ask hash_2s = [&] {
      if (sent.empty()) return false;
      const auto [incarnation, raw, hash] = sent[random() % sent.size()];
      const analysis::Context context{bench.store->snapshot(), bench.store->now(), {}, nullptr};
      const analysis::ClockModel clock(*context.view);
      analysis::ScanSpec spec;
      spec.match_hashes = {hash};
      spec.since = clock.cluster(incarnation, raw).time;
      spec.until = ClusterTime{spec.since->ns + 2000 * kMs};
      return !analysis::scan(context, clock, spec).hits.empty();
    };
    const Asked questions[] = {
        {"newest_100", rounds, [&] { return events_of({}); }},
        {"pid_100", rounds, [&] { return events_of({{"pid", pid_term(any_pid())}}); }},
        {"pid_type_100", rounds,
         [&] { return events_of({{"pid", pid_term(any_pid())}, {"type", atm("message_send")}}); }},
        {"state_at", rounds * 3,
         [&] {
           const auto who = bench.server(static_cast<std::uint32_t>(random() % kServers));
           return tup({atm("get_state_at"), pid_term(who), num(time())});
         }},
        {"mfa_window_100", rounds,
         [&] {
           const auto [m, f] = bench.function(bench.functions(random));
           const auto from = time();
           return events_of({{"mfa", tup({atm(m), atm(f), num(2)})},
                             {"since", num(from)},
                             {"until", num(from + window)}});
         }},
        {"flow_window", rounds,
         [&] {
           const auto& [c, s] = bench.pairs[random() % bench.pairs.size()];
           const auto from = time();
           return tup({atm("get_message_flow"), pid_term(c), pid_term(s),
                       kw({{"since", num(from)}, {"until", num(from + window)}})});
         }},
        // What a process got within 2 s, by the content of one message.
        {"match_2s", rounds,
         [&] {
           const auto from = time();
           return events_of(
               {{"type", atm("message_take")},
                {"match", tup({atm("$gen_call"), atm("_"),
                               tup({atm("order"), num(static_cast<std::int64_t>(random() % total)),
                                    atm("_")})})},
                {"since", num(from)},
                {"until", num(from + 2000 * kMs)}});
         }},
        {"count_rollup", rounds,
         [&] {
           const auto [m, f] = bench.function(bench.functions(random));
           return stats({{"mfa", tup({atm(m), atm(f), num(2)})}}, lst({atm("type")}));
         }},
        {"count_by_mfa", rounds, [&] { return stats({}, lst({atm("mfa")})); }},
        {"trace_by_id", rounds,
         [&] {
           return events_of(
               {{"trace_id", bin(trace_id(random() % (total / kTraceEvery) * kTraceEvery))}});
         }},
        // A text that few events hold, and that none does.
        {"text_10m", rounds / 10,
         [&] { return events_of({{"text", bin(fmt::format("order {} of", random() % total))}}); }},
        {"text_nowhere", rounds / 10, [&] { return events_of({{"text", bin("qzxv")}}); }},
    };
    const auto scaled = [&](const char* name, Figure f) {
      if (std::strcmp(name, "text_10m") == 0) {
        f.p50 *= 1e7 / static_cast<double>(total);
        f.p99 *= 1e7 / static_cast<double>(total);
      }
      return f;
    };
    const auto all = [&](const char* when, int divide, const std::function<void()>& before = {}) {
      for (const auto& q : questions) {
        add(q.name,
            scaled(q.name, measure(std::max(1, q.rounds / divide),
                                   asking(service, q.make, std::strcmp(q.name, "trace_by_id") == 0),
                                   before)),
            when);
      }
      add("hash_2s", measure(std::max(1, rounds / divide), hash_2s, before), when);
    };
    all("", 1);
    // Whatever is asked ends by its deadline: the slowest question, over files out of memory, with a fifth of the time that
    // it takes warm, at least 100 ms.
    {
      const auto warm = measure(1, asking(service, questions[std::size(questions) - 2].make)).p50;
      const auto ms = std::max(100, static_cast<int>(warm / 5));
      Service limited(*bench.store, controls,
                      {1, 1, 256, std::chrono::milliseconds(ms), "bench", "scope@bench"});
      const auto f = measure(10, asking(limited, questions[std::size(questions) - 2].make),
                             [&] { evict(folder); });
      std::fprintf(stderr,
                   "a text that takes %.0f ms, with a deadline of %d: at most %.0f ms (%zu asked, "
                   "%zu errors)\n",
                   warm, ms, f.p99, f.asked, f.empty);
      figures += fmt::format(", \"text_deadline_ms\": {}, \"text_deadline_late_ms\": {:.0f}", ms,
                             f.p99 - ms);
    }
    double left = 0;
    evict(folder);
    if (evict(folder) < 0.1) {
      all("_cold", 10, [&] { left = std::max(left, evict(folder)); });
      figures += fmt::format(", \"cold_left\": {:.4f}", left);
    } else {
      cold = "this kernel does not put mapped pages out (MADV_PAGEOUT)";
    }
    std::atomic<bool> stop{false};
    std::thread feeder([&] { bench.feed(200'000, stop); });
    all("_under_ingest", 2);
    stop = true;
    feeder.join();
    figures += fmt::format(", \"ingest_events_per_s\": {:.0f}", bench.fed_per_s);
    figures += fmt::format(", \"events\": {}", total);
  }
  std::filesystem::remove_all(folder);
  fmt::print(
      "{{\"figures\": {{{}}}, \"limits\": {{\"state_at_p99_ms\": \"<= 0.5\", \"pid_100_p50_ms\": "
      "\"<= "
      "5\", "
      "\"newest_100_p50_ms\": \"<= 2\", \"mfa_window_100_p50_ms\": \"<= 10\", "
      "\"flow_window_p50_ms\": \"<= 3\", \"count_rollup_p50_ms\": \"<= 1\", "
      "\"state_at_p99_ms_under_ingest\": \"<= 10\"}}, \"left_out\": {{\"sqlite_count_over_ours\": "
      "\"in suite "
      "store, "
      "over the same events\", \"file_scan_state_at_over_ours\": \"in suite store\"{}}}}}\n",
      figures, cold.empty() ? "" : fmt::format(", \"cold\": \"{}\"", cold));
  return 0;
}

}  // namespace
}  // namespace scope::node

int main(int argc, char** argv) {
  std::uint64_t events = 10'000'000;
  int rounds = 1000;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      rounds = 100;
      events = 2'000'000;
      scope::node::quick = true;
    } else if (std::strcmp(argv[i], "--events") == 0 && i + 1 < argc) {
      events = std::strtoull(argv[++i], nullptr, 10);
    } else {
      std::fprintf(stderr, "usage: bench_query [--quick] [--events N]\n");
      return 2;
    }
  }
  return scope::node::run(events, rounds);
}
