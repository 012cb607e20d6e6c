// The store alone: ETF batches of three nodes through the writer, decoding included. Prints {"figures": {...}}.
//
// Load   5,000 processes and 500 functions (zipf), batches of 250 events: calls with arguments and returns, sends, fetches
//        and takings of GenServer calls, states. Batches are made in slices of 60,000 events outside the measured time, so that
//        no two are the same and little memory is taken; each slice ends with a flush, which is measured.
// commit_ms_p50: of the last commit of each slice, its encoding of blocks included.
// Rivals (rivals.h) get the same slices, one after the other with ours, already decoded; rates are medians over the slices,
//        sizes and the times of questions are taken at the end.
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "analysis/aggregate.h"
#include "analysis/clock_model.h"
#include "analysis/state_at.h"
#include "test/bench/rivals.h"
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

// The events of a batch, as the rivals want them.
class Decoded final : public codec::RecordSink {
 public:
  void add(Bytes message, std::uint32_t node, const BatchMaker& m) {
    const auto& kept = messages_.emplace_back(message.begin(), message.end());
    const auto header = codec::read_batch_header(*codec::view(kept));
    SCOPE_CHECK(header.has_value());
    node_ = node;
    const auto first = events_.size();
    const auto stats = codec::decode_records(*header, {{}, m.node(), m.creation()},
                                             strings_.emplace_back(), *this);
    SCOPE_CHECK(stats.malformed == 0);
    const auto list = codec::view_message(header->events);
    SCOPE_CHECK(list.has_value());
    auto it = *list->list();
    for (auto i = first; i < events_.size(); ++i, it.next()) events_[i].term = it.item().bytes();
  }
  void record(const codec::TraceRecord& r) override {
    auto& e = events_.emplace_back();
    e.node = node_;
    e.record = r;
    if (r.mfa) {
      const auto name = fmt::format("{}:{}/{}", r.mfa.module, r.mfa.function, r.mfa.arity);
      e.function = functions_.try_emplace(name, static_cast<std::uint32_t>(functions_.size() + 1))
                       .first->second;
    }
  }
  std::span<const RivalEvent> events() const { return events_; }
  void clear() {
    events_.clear();
    strings_.clear();
    messages_.clear();
  }

 private:
  std::deque<std::vector<std::byte>> messages_;
  std::deque<codec::BatchStrings> strings_;
  std::vector<RivalEvent> events_;
  std::map<std::string, std::uint32_t> functions_;
  std::uint32_t node_ = 0;
};

double median(std::vector<double> list) {
  std::ranges::sort(list);
  return list.empty() ? 0 : list[list.size() / 2];
}

// A store in a folder of its own, and batches for it: made in slices outside the measured time, so that memory stays small
// and no batch is used twice.
class Load {
 public:
  Load() {
    folder = (std::filesystem::temp_directory_path() / "scope_bench_XXXXXX").string();
    SCOPE_CHECK(::mkdtemp(folder.data()) != nullptr);
    options.path = folder + "/db";
    auto opened = store::TraceStore::open(options, &listener_);
    SCOPE_CHECK(opened.has_value());
    store = std::move(*opened);
    for (unsigned i = 0; i < kNodes; ++i) {
      makers.emplace_back(fmt::format("node{}@host", i), 5 + i, 1000 + i);
      numbers_.push_back(store->incarnation(makers.back().node(), 5 + i, 1000 + i)->number);
    }
  }
  ~Load() {
    store.reset();
    std::filesystem::remove_all(folder);
  }

  void next() {
    slice.clear();
    slice_bytes = 0;
    for (int k = 0; k < 240; ++k) {
      const auto i = static_cast<std::size_t>(k % kNodes);
      auto message = make_message(makers[i], random_, ++seqs_[i], clocks_[i]);
      slice_bytes += message.size();
      slice.push_back(BatchMaker::incoming(numbers_[i], seqs_[i], std::move(message)));
    }
  }
  static constexpr std::uint64_t kSlice = 240 * kBatchEvents;

  // Into the store; seconds until it was on disk.
  double append() {
    const auto begin = Clock::now();
    const auto cpu_begin = cpu_seconds();
    for (auto& batch : slice) {
      while (!store->append(batch)) std::this_thread::sleep_for(std::chrono::microseconds(500));
      batch = {};
    }
    SCOPE_CHECK(store->flush(60'000).has_value());
    cpu += cpu_seconds() - cpu_begin;
    return seconds_since(begin);
  }
  double file_bytes() const {
    double out = 0;
    for (const auto& e : std::filesystem::directory_iterator(options.path)) {
      if (e.path().extension() == ".mdb") out += static_cast<double>(e.file_size());
    }
    return out;
  }

  std::string folder;
  store::StoreOptions options;
  std::unique_ptr<store::TraceStore> store;
  std::vector<BatchMaker> makers;
  std::vector<store::IncomingBatch> slice;
  std::uint64_t slice_bytes = 0;
  double cpu = 0;

 private:
  CommitTimes listener_;
  std::mt19937 random_{1};
  std::vector<Incarnation> numbers_;
  std::vector<std::int64_t> clocks_ = std::vector<std::int64_t>(kNodes, kEpoch);
  std::vector<std::uint64_t> seqs_ = std::vector<std::uint64_t>(kNodes);
};

void alone(std::uint64_t events, Figures& figures) {
  const double anon_before = status_mb("RssAnon:");
  Load load;
  std::vector<double> commit_ms;
  double seconds = 0, peak_anon = 0, slice_mb = 0;
  std::uint64_t raw_bytes = 0;
  for (std::uint64_t done = 0; done < events; done += Load::kSlice) {
    load.next();
    raw_bytes += load.slice_bytes;
    slice_mb = std::max(slice_mb, static_cast<double>(load.slice_bytes) / 1e6);
    seconds += load.append();
    commit_ms.push_back(static_cast<double>(load.store->stats().commit_ns_last) / 1e6);
    peak_anon = std::max(peak_anon, status_mb("RssAnon:"));
  }
  const auto stats = load.store->stats();
  const auto stored = static_cast<double>(stats.events_stored);
  figures.add("events", stored);
  figures.add("events_per_s", stored / seconds);
  figures.add("cpu_us_per_event", load.cpu * 1e6 / stored);
  figures.add("raw_bytes_per_event", static_cast<double>(raw_bytes) / stored);
  figures.add("malformed", static_cast<double>(stats.malformed));
  figures.add("rss_anon_mb", peak_anon - anon_before);
  figures.add("rss_anon_generator_mb", slice_mb);
  figures.add("commit_ms_p50", median(commit_ms));
  load.store.reset();
  figures.add("bytes_per_event", load.file_bytes() / stored);
  const auto begin = Clock::now();
  auto again = store::TraceStore::open(load.options, nullptr);
  SCOPE_CHECK(again.has_value());
  figures.add("reopen_ms", seconds_since(begin) * 1e3);
}

struct Compared {
  std::unique_ptr<Rival> rival;
  std::vector<double> rate, ratio;
  double cpu = 0;
};

template <typename Ask>
double ms_of(Ask ask) {
  const auto begin = Clock::now();
  ask();
  return seconds_since(begin) * 1e3;
}

// The same questions of each, one after the other: a state at a time, and how often a function was called. Answers must agree.
void ask_all(const Load& load, std::vector<Compared>& rivals, const Decoded& decoded,
             Figures& figures) {
  std::mt19937 random(9);
  const analysis::Context context{load.store->snapshot(), load.store->now(), {}, nullptr};
  const analysis::ClockModel clock(*context.view);
  const auto events = decoded.events();  // of the last slice
  std::vector<double> state, count;
  std::vector<std::vector<double>> its_state(rivals.size()), its_count(rivals.size());
  for (int round = 0; round < 300; ++round) {
    const auto& e = events[random() % events.size()];
    const auto& m = load.makers[e.node];
    if (e.record.type == codec::EventType::state_change) {
      const analysis::PidSpec pid{m.node(), m.creation(), e.record.pid.id, e.record.pid.serial};
      const auto at = clock.cluster(e.node + 1, e.record.time).time;
      std::size_t size = 0;
      state.push_back(ms_of([&] {
        const auto found = analysis::state_at(context, pid, at);
        SCOPE_CHECK(found.has_value());
        TermBuilder whole;
        whole.term(found->state.row.record.term());
        size = whole.size();
      }));
      for (std::size_t k = 0; k < rivals.size(); ++k) {
        const bool scans = std::strcmp(rivals[k].rival->name(), "ttb_file") == 0;
        if (scans && its_state[k].size() >= 5) continue;
        std::size_t its = 0;
        its_state[k].push_back(ms_of(
            [&] { its = rivals[k].rival->state_at(e.node, e.record.pid.id, e.record.time.ns); }));
        SCOPE_CHECK(its >= size);  // LMDB's row has a header
      }
    }
    if (round % 10 == 0 && e.function != 0) {
      analysis::AggregateSpec spec;
      spec.filter.mfa = analysis::MfaSpec{std::string(e.record.mfa.module),
                                          std::string(e.record.mfa.function), e.record.mfa.arity};
      std::uint64_t n = 0;
      count.push_back(ms_of([&] {
        const auto found = analysis::aggregate(context, spec);
        SCOPE_CHECK(found.has_value());
        for (const auto& g : found->groups) n += g.measured.rows;
      }));
      for (std::size_t k = 0; k < rivals.size(); ++k) {
        if (std::strcmp(rivals[k].rival->name(), "ttb_file") == 0) continue;
        std::uint64_t its = 0;
        its_count[k].push_back(ms_of([&] { its = rivals[k].rival->count(e.function); }));
        SCOPE_CHECK(its == n);
      }
    }
  }
  figures.add("state_at_p50_ms", median(state));
  figures.add("count_p50_ms", median(count));
  for (std::size_t k = 0; k < rivals.size(); ++k) {
    const std::string name = rivals[k].rival->name();
    figures.add(name == "ttb_file" ? "file_scan_state_at_over_ours" : name + "_state_at_over_ours",
                median(its_state[k]) / median(state));
    if (!its_count[k].empty())
      figures.add(name + "_count_over_ours", median(its_count[k]) / median(count));
  }
}

// Slice by slice: ours, then each rival.
void compared(std::uint64_t events, Figures& figures) {
  Load load;
  std::vector<Compared> rivals;
  const auto take_on = [&](std::unique_ptr<Rival> r) {
    if (r) rivals.push_back({std::move(r), {}, {}, 0});
  };
  std::vector<std::string> nodes;
  for (const auto& m : load.makers) nodes.push_back(m.node());
  take_on(make_row_lmdb(load.folder));
  take_on(make_sqlite(load.folder));
  take_on(make_etf_file(load.folder, nodes));
  Decoded decoded;
  std::uint64_t done = 0;
  while (done < events) {
    load.next();
    decoded.clear();
    for (std::size_t k = 0; k < load.slice.size(); ++k)
      decoded.add(load.slice[k].message.bytes(), static_cast<std::uint32_t>(k % kNodes),
                  load.makers[k % kNodes]);
    done += decoded.events().size();
    const double ours = load.append();
    for (auto& c : rivals) {
      const auto begin = Clock::now();
      const auto cpu_begin = cpu_seconds();
      c.rival->add(decoded.events());
      const double its = seconds_since(begin);
      c.cpu += cpu_seconds() - cpu_begin;
      c.rate.push_back(static_cast<double>(decoded.events().size()) / its);
      c.ratio.push_back(its / ours);
    }
  }
  ask_all(load, rivals, decoded, figures);
  load.store.reset();
  const double bytes = load.file_bytes();
  figures.add("compared_events", static_cast<double>(done));
  for (auto& c : rivals) {
    const auto name = c.rival->name();
    figures.add(fmt::format("{}_events_per_s", name), median(c.rate));
    figures.add(fmt::format("{}_bytes_per_event", name),
                c.rival->bytes() / static_cast<double>(done));
    figures.add(fmt::format("{}_cpu_us_per_event", name), c.cpu * 1e6 / static_cast<double>(done));
    figures.add(fmt::format("ingest_over_{}", name), median(c.ratio));
    figures.add(fmt::format("bytes_over_{}", name), bytes / c.rival->bytes());
    figures.add(fmt::format("cpu_over_{}", name), load.cpu / c.cpu);
  }
}

struct Options {
  std::uint64_t events = 5'000'000, compared = 3'000'000;  // 0 compared: no rivals
};

int run(const Options& options) {
  Figures figures;
  alone(options.events, figures);
  if (options.compared > 0) compared(options.compared, figures);
  std::printf("{\"figures\": {%s}", figures.text.c_str());
  std::printf(
      ", \"limits\": {\"cpu_us_per_event\": \"<= 0.6\", \"bytes_per_event\": \"<= 25\", "
      "\"rss_anon_mb\": \"<= 45\", \"reopen_ms\": \"<= 500\", \"ingest_over_row_lmdb\": \">= 7\", "
      "\"ingest_over_sqlite\": \">= 12\", \"cpu_over_sqlite\": \"<= 0.1\", \"bytes_over_sqlite\": "
      "\"<= 0.125\", \"ingest_over_ttb_file\": \">= 0.4\", \"bytes_over_ttb_file\": \"<= 0.125\", "
      "\"sqlite_count_over_ours\": \">= 100\", \"file_scan_state_at_over_ours\": \">= 500\", "
      "\"sqlite_state_at_over_ours\": \">= 0.125\", \"row_lmdb_state_at_over_ours\": \">= 0.1\", "
      "\"cpu_over_row_lmdb\": \"<= 0.2\", \"bytes_over_row_lmdb\": \"<= 0.0834\"}}\n");
  return 0;
}

}  // namespace
}  // namespace scope::test

// bench_store [--quick] [--events N] [--compared N]
int main(int argc, char** argv) {
  scope::test::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (arg == "--quick") options = {600'000, 1'000'000};
    if (i + 1 == argc) break;
    if (arg == "--events") options.events = std::strtoull(argv[++i], nullptr, 10);
    if (arg == "--compared") options.compared = std::strtoull(argv[++i], nullptr, 10);
  }
  return scope::test::run(options);
}
