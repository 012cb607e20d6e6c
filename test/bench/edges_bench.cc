// bench_edges [--events N] [--rate PER_SECOND]: what it costs to keep where messages arrived, and what message flows gain.
// Three nodes whose clocks differ by hours; calls of 4,400 clients to 600 servers by a Zipf law, six events each: the request
// sent, fetched, taken and answered, the reply fetched. CPU is that of the deriving thread. Flows are asked with and without
// kept edges in turns, 100 messages a page, of pairs that talk much.
#include <fmt/format.h>
#include <stdlib.h>
#include <time.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "analysis/edge_builder.h"
#include "analysis/message_flow.h"
#include "test/bench/recorded_cluster.h"

namespace scope::analysis {
namespace {

using test::RecordedCluster;

double cpu_s() {
  timespec t{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}
double wall_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
double anonymous_mb() {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("RssAnon:")) return std::stod(line.substr(8)) / 1024;
  }
  return 0;
}

class Cluster : public RecordedCluster {
 public:
  Cluster(const std::string& folder, std::uint64_t events, std::int64_t step)
      : RecordedCluster(folder, step) {
    now_ = first = store->now().ns;
    for (std::uint32_t n = 0; n < events / 6; ++n) {
      const auto c = client(clients_(made_)), s = server(servers_(made_));
      if (n % 16 == 0) pairs.emplace_back(c, s);
      const auto from = node_of(c), to = node_of(s);
      const auto request = test::gen_call(c, n, "item");
      codec::RefParts ref{c.node, c.creation, 3, {n & 0x3FFFF, n * 2654435761U, 12345}};
      const test::Term reply = [ref, n](codec::TermBuilder& b) {
        b.tuple(2).reference(ref).tuple(2).atom("ok").integer(n);
      };
      makers_[from].send(c, s, request, tick(from));
      makers_[to].fetch(s, request, tick(to)).take(s, request, tick(to));
      makers_[to].send(s, c, reply, tick(to)).state(s, test::int_term(n), tick(to));
      makers_[from].fetch(c, reply, tick(from));
      ship(500);
    }
    recorded_all();
  }
  std::vector<std::pair<codec::PidParts, codec::PidParts>> pairs;
};

struct Times {
  std::vector<double> ms;
  double at(double q) {
    std::ranges::sort(ms);
    return ms[static_cast<std::size_t>(q * static_cast<double>(ms.size() - 1))];
  }
};

PidSpec spec(const codec::PidParts& p) { return {std::string(p.node), p.creation, p.id, p.serial}; }

int run(std::uint64_t events, std::int64_t rate) {
  std::string folder = (std::filesystem::temp_directory_path() / "scope-bench-XXXXXX").string();
  SCOPE_CHECK(mkdtemp(folder.data()) != nullptr);
  {
    Cluster cluster(folder + "/db", events, 1'000'000'000 / rate);
    auto opened = store::EdgeStore::open(folder, 1, kEdgeRules, true, nullptr);
    SCOPE_CHECK(opened.has_value());
    const std::shared_ptr<store::EdgeStore> kept = *std::move(opened);
    EdgeBuilder builder(*kept, nullptr, {.alone = true});
    Context context{cluster.store->snapshot(), cluster.store->now(), {}, nullptr};
    const auto memory = anonymous_mb();
    auto most = memory;
    const auto cpu = cpu_s(), wall = wall_s();
    std::uint64_t rows = 0, edges = 0, bytes = 0, slices = 0;
    while (true) {
      const auto step = builder.step(context);
      SCOPE_CHECK(step.has_value());
      if (!step->derived) break;
      ++slices;
      rows += step->rows;
      edges += step->edges;
      bytes += step->bytes;
      most = std::max(most, anonymous_mb());
    }
    const auto n = static_cast<double>(events);
    fmt::print("{} events, {} a second, {} slices: {} edges\n", events, rate, slices, edges);
    fmt::print(
        "deriving: {:.2f} us of CPU per event, {:.2f} per message row read; {:.0f} events/s\n",
        (cpu_s() - cpu) * 1e6 / n, (cpu_s() - cpu) * 1e6 / static_cast<double>(rows),
        n / (wall_s() - wall));
    fmt::print("bytes: {:.1f} an edge, {:.2f} an event; memory {:+.1f} MB after a slice\n",
               static_cast<double>(bytes) / static_cast<double>(edges),
               static_cast<double>(bytes) / n, most - memory);
    Times with, without;
    std::uint64_t messages = 0, other = 0;
    for (int i = 0; i < 300; ++i) {
      const auto& [c, s] = cluster.pairs[cluster.random() % cluster.pairs.size()];
      std::vector<std::optional<EventId>> first;
      for (const bool use : {false, true}) {
        auto asked = context;
        if (use) asked.edges = kept;
        const auto from = wall_s();
        const auto flow = message_flow(asked, spec(c), spec(s), {});
        (use ? with : without).ms.push_back((wall_s() - from) * 1e3);
        SCOPE_CHECK(flow.has_value());
        for (std::size_t k = 0; k < flow->messages.size(); ++k) {
          const auto& fetch = flow->messages[k].fetch;
          const auto id = fetch ? std::optional(fetch->id) : std::nullopt;
          if (!use) {
            first.push_back(id);
          } else {
            ++messages;
            other += first[k] != id;
          }
        }
      }
    }
    fmt::print(
        "flow, {} messages, {} of them with another fetch: p50 {:.2f} ms, p99 {:.2f}; "
        "without kept edges {:.2f} and {:.2f}\n",
        messages, other, with.at(0.5), with.at(0.99), without.at(0.5), without.at(0.99));
  }
  std::filesystem::remove_all(folder);
  return 0;
}

}  // namespace
}  // namespace scope::analysis

int main(int argc, char** argv) {
  std::uint64_t events = 2'000'000;
  std::int64_t rate = 10'000;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--events") == 0) events = std::strtoull(argv[i + 1], nullptr, 10);
    if (std::strcmp(argv[i], "--rate") == 0) rate = std::strtoll(argv[i + 1], nullptr, 10);
  }
  return scope::analysis::run(events, rate);
}
