// What bench_store feeds the store with.
//
// Load   5,000 processes and 500 functions (zipf), batches of 250 events: calls with arguments and returns, sends, fetches
//        and takings of GenServer calls, states. Batches are made in slices of 60,000 events outside the measured time, so that
//        no two are the same and little memory is taken; each slice ends with a flush, which is measured.
// Churn  a new process every 10 events, spawned and ended.
#pragma once

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <random>
#include <thread>

#include "test/unit/store/batch_maker.h"

namespace scope::test {

using Clock = std::chrono::steady_clock;
constexpr int kNodes = 3, kBatchEvents = 250;
constexpr std::int64_t kEpoch =
    1'000'000'000'000'000'000;  // so that times take the 8 bytes that they take on nodes

inline double seconds_since(Clock::time_point t) {
  return std::chrono::duration<double>(Clock::now() - t).count();
}
inline double cpu_seconds() {
  rusage u{};
  getrusage(RUSAGE_SELF, &u);
  const auto s = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return s(u.ru_utime) + s(u.ru_stime);
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

// `next_process`: of churn the last process, which counts.
inline std::vector<std::byte> make_message(BatchMaker& m, std::mt19937& random, std::uint64_t seq,
                                           std::int64_t& clock,
                                           std::uint32_t* next_process = nullptr) {
  static const Zipf pids(5000, 1.0), functions(500, 1.0);
  static const std::vector<std::string> modules = [] {
    std::vector<std::string> out;
    for (int i = 0; i < 60; ++i) out.push_back(fmt::format("Elixir.Shop.Module{}", i));
    return out;
  }();
  static constexpr std::string_view kWords[] = {"order", "customer", "pending", "paid",
                                                "stock", "berlin",   "paris"};
  std::string text;
  std::size_t turn = 0;
  while (m.events() < kBatchEvents) {
    clock += 300 + static_cast<std::int64_t>(random() % 2000);
    auto p = m.own(100 + pids(random)), q = m.own(100 + pids(random));
    if (next_process) {
      if (m.events() / 10 != turn || turn == 0) {
        turn = m.events() / 10;
        if (*next_process > 0) m.exit(m.own(10'000 + *next_process), atom_term("normal"), clock);
        m.spawn(p, m.own(10'000 + ++*next_process), {"proc_lib", "init_p", 5}, clock);
      }
      q = m.own(10'000 + *next_process);
      if (random() % 2 == 0) std::swap(p, q);
    }
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

class CommitTimes final : public store::StoreListener {
 public:
  void on_committed(Incarnation, std::uint64_t) override {}
  void on_out_of_order(Incarnation, std::uint64_t, std::uint64_t) override { std::abort(); }
  void on_published() override {}
};

// A store in a folder of its own, and batches for it: made in slices outside the measured time, so that memory stays small
// and no batch is used twice.
class Load {
 public:
  explicit Load(bool churn = false) : churn_(churn) {
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
      auto message = make_message(makers[i], random_, ++seqs_[i], clocks_[i],
                                  churn_ ? &processes_[i] : nullptr);
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
  const bool churn_;
  CommitTimes listener_;
  std::mt19937 random_{1};
  std::vector<std::uint32_t> processes_ = std::vector<std::uint32_t>(kNodes);
  std::vector<Incarnation> numbers_;
  std::vector<std::int64_t> clocks_ = std::vector<std::int64_t>(kNodes, kEpoch);
  std::vector<std::uint64_t> seqs_ = std::vector<std::uint64_t>(kNodes);
};

}  // namespace scope::test
