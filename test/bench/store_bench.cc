// The store alone: ETF batches of three nodes through the writer, decoding included. Prints {"figures": {...}}.
//
// Load   5,000 processes and 500 functions (zipf), batches of 250 events: calls with arguments and returns, sends, fetches
//        and takings of GenServer calls, states. Batches are made in slices of 60,000 events outside the measured time, so that
//        no two are the same and little memory is taken; each slice ends with a flush, which is measured.
// commit_ms_p50: of the last commit of each slice, its encoding of blocks included.
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "test/unit/store/batch_maker.h"

namespace scope::test {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kNodes = 3, kBatchEvents = 250;
constexpr std::int64_t kEpoch =
    1'000'000'000'000'000'000;  // so that times take the 8 bytes that they take on nodes

double seconds_since(Clock::time_point t) {
  return std::chrono::duration<double>(Clock::now() - t).count();
}
double cpu_seconds() {
  rusage u{};
  getrusage(RUSAGE_SELF, &u);
  const auto s = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return s(u.ru_utime) + s(u.ru_stime);
}
double status_mb(std::string_view key) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(key)) return std::stod(line.substr(key.size() + 1)) / 1024;
  }
  return 0;
}

class Zipf {
 public:
  Zipf(unsigned n, double s) {
    double sum = 0;
    for (unsigned i = 0; i < n; ++i) sum_.push_back(sum += 1 / std::pow(i + 1, s));
  }
  unsigned operator()(std::mt19937& random) const {
    const double x = std::uniform_real_distribution<>(0, sum_.back())(random);
    return static_cast<unsigned>(std::lower_bound(sum_.begin(), sum_.end(), x) - sum_.begin());
  }

 private:
  std::vector<double> sum_;
};

std::vector<std::byte> make_message(BatchMaker& m, std::mt19937& random, std::uint64_t seq,
                                    std::int64_t& clock) {
  static const Zipf pids(5000, 1.0), functions(500, 1.0);
  static const std::vector<std::string> modules = [] {
    std::vector<std::string> out;
    for (int i = 0; i < 60; ++i) out.push_back(fmt::format("Elixir.Shop.Module{}", i));
    return out;
  }();
  static constexpr std::string_view kWords[] = {"order", "customer", "pending", "paid",
                                                "stock", "berlin",   "paris"};
  std::string text;
  while (m.events() < kBatchEvents) {
    clock += 300 + static_cast<std::int64_t>(random() % 2000);
    const auto p = m.own(100 + pids(random)), q = m.own(100 + pids(random));
    const auto f = functions(random);
    const Mfa mfa{modules[f % 60], f % 3 ? "handle_call" : "process",
                  static_cast<std::uint8_t>(f % 5)};
    text = fmt::format("{}-{} {}", kWords[random() % 7], random() % 100'000, kWords[random() % 7]);
    const auto n = static_cast<std::uint32_t>(random());
    switch (random() % 4) {
      case 0:
        m.role(
            p, mfa, "args",
            [&](TermBuilder& b) {
              b.list(2).integer(n % 1000).binary(std::string_view(text)).nil();
            },
            clock);
        m.returned(
            p, mfa, [&](TermBuilder& b) { b.tuple(2).atom("ok").integer(n % 1000); }, clock + 900);
        break;
      case 1:
        m.send(p, q, gen_call(p, n, text), clock);
        m.fetch(q, gen_call(p, n, text), clock + 1500).take(q, gen_call(p, n, text), clock + 1900);
        break;
      case 2:
        m.state(
            q,
            [&](TermBuilder& b) {
              b.map(4).atom("counter").integer(n).atom("name").binary(std::string_view(text));
              b.atom("items").list(20);
              for (unsigned i = 0; i < 20; ++i)
                b.tuple(2).atom(kWords[(n + i) % 7]).integer(i * (n % 13));
              b.nil().atom("pid").pid(p);
            },
            clock);
        break;
      default:
        m.call(p, mfa, clock);
    }
  }
  return m.message(seq);
}

struct Figures {
  std::string text;
  void add(std::string_view name, double value) {
    text += fmt::format("{}\"{}\": {:.6g}", text.empty() ? "" : ", ", name, value);
    std::fprintf(stderr, "%-28s %12.4g\n", std::string(name).c_str(), value);
  }
};

class CommitTimes final : public store::StoreListener {
 public:
  void on_committed(Incarnation, std::uint64_t) override {}
  void on_out_of_order(Incarnation, std::uint64_t, std::uint64_t) override { std::abort(); }
  void on_published() override {}
};

int run(std::uint64_t events) {
  Figures figures;
  std::string folder = (std::filesystem::temp_directory_path() / "scope_bench_XXXXXX").string();
  SCOPE_CHECK(::mkdtemp(folder.data()) != nullptr);
  store::StoreOptions options;
  options.path = folder + "/db";
  CommitTimes listener;
  auto opened = store::TraceStore::open(options, &listener);
  SCOPE_CHECK(opened.has_value());
  auto store = std::move(*opened);

  std::mt19937 random(1);
  std::vector<BatchMaker> makers;
  std::vector<Incarnation> numbers;
  for (unsigned i = 0; i < kNodes; ++i) {
    makers.emplace_back(fmt::format("node{}@host", i), 5 + i, 1000 + i);
    numbers.push_back(store->incarnation(makers.back().node(), 5 + i, 1000 + i)->number);
  }
  // Made in slices outside the measured time: memory stays small, and no batch is used twice.
  std::vector<std::int64_t> clocks(kNodes, kEpoch);
  std::vector<std::uint64_t> seqs(kNodes);
  std::vector<double> commit_ms;
  double seconds = 0, cpu = 0, peak_anon = 0;
  std::uint64_t done = 0, raw_bytes = 0;
  const double anon_before = status_mb("RssAnon:");
  double slice_mb = 0;
  while (done < events) {
    std::vector<store::IncomingBatch> slice;
    std::uint64_t slice_bytes = 0, slice_events = 0;
    for (int k = 0; k < 240; ++k) {
      const auto i = static_cast<std::size_t>(k % kNodes);
      auto message = make_message(makers[i], random, ++seqs[i], clocks[i]);
      slice_bytes += message.size();
      slice_events += kBatchEvents;
      slice.push_back(BatchMaker::incoming(numbers[i], seqs[i], std::move(message)));
    }
    slice_mb = std::max(slice_mb, static_cast<double>(slice_bytes) / 1e6);
    const auto begin = Clock::now();
    const auto cpu_begin = cpu_seconds();
    for (auto& batch : slice) {
      while (!store->append(batch)) std::this_thread::sleep_for(std::chrono::microseconds(500));
      batch = {};
    }
    SCOPE_CHECK(store->flush(60'000).has_value());
    seconds += seconds_since(begin);
    cpu += cpu_seconds() - cpu_begin;
    commit_ms.push_back(static_cast<double>(store->stats().commit_ns_last) / 1e6);
    peak_anon = std::max(peak_anon, status_mb("RssAnon:"));
    done += slice_events;
    raw_bytes += slice_bytes;
  }
  const auto stats = store->stats();
  const auto stored = static_cast<double>(stats.events_stored);
  figures.add("events", stored);
  figures.add("events_per_s", stored / seconds);
  figures.add("cpu_us_per_event", cpu * 1e6 / stored);
  figures.add("raw_bytes_per_event", static_cast<double>(raw_bytes) / stored);
  figures.add("malformed", static_cast<double>(stats.malformed));
  figures.add("rss_anon_mb", peak_anon - anon_before);
  figures.add("rss_anon_generator_mb", slice_mb);
  std::ranges::sort(commit_ms);
  figures.add("commit_ms_p50", commit_ms[commit_ms.size() / 2]);
  store.reset();
  double file_bytes = 0;
  for (const auto& e : std::filesystem::directory_iterator(options.path)) {
    if (e.path().extension() == ".mdb") file_bytes += static_cast<double>(e.file_size());
  }
  figures.add("bytes_per_event", file_bytes / stored);
  const auto begin = Clock::now();
  auto again = store::TraceStore::open(options, nullptr);
  SCOPE_CHECK(again.has_value());
  figures.add("reopen_ms", seconds_since(begin) * 1e3);
  again->reset();
  std::filesystem::remove_all(folder);
  std::printf("{\"figures\": {%s}}\n", figures.text.c_str());
  return 0;
}

}  // namespace
}  // namespace scope::test

int main(int argc, char** argv) {
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  return scope::test::run(quick ? 1'000'000 : 5'000'000);
}
