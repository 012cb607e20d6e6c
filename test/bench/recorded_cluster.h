// What bench_query and bench_trace record and ask: a store of three nodes whose clocks differ by hours, each known to 50 us, with
// servers and clients chosen by a Zipf law; and controls for a Service that is asked about the past only.
#pragma once

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include "cnode/service/service.h"
#include "test/unit/store/batch_maker.h"

namespace scope::test {

inline constexpr std::int64_t kMs = 1'000'000;
inline constexpr std::uint32_t kServers = 600, kClients = 4400;
inline constexpr const char* kNames[3] = {"front@bench", "orders@bench", "stock@bench"};

class Zipf {
 public:
  explicit Zipf(std::uint32_t n) {
    double sum = 0;
    for (std::uint32_t i = 1; i <= n; ++i) up_to_.push_back(sum += 1.0 / i);
  }
  std::uint32_t operator()(std::mt19937_64& random) const {
    const double at = std::uniform_real_distribution<>(0, up_to_.back())(random);
    return static_cast<std::uint32_t>(std::lower_bound(up_to_.begin(), up_to_.end(), at) -
                                      up_to_.begin());
  }

 private:
  std::vector<double> up_to_;
};

class RecordedCluster {
 public:
  // Events of all nodes lie step_ns apart.
  RecordedCluster(std::string folder, std::int64_t step_ns) : step_(step_ns) {
    store::StoreOptions options;
    options.path = std::move(folder);
    auto opened = store::TraceStore::open(options, nullptr);
    SCOPE_CHECK(opened.has_value());
    store = *std::move(opened);
    for (std::uint32_t n = 0; n < 3; ++n) {
      makers_.emplace_back(kNames[n], 7, n + 1);
      const auto info = store->incarnation(kNames[n], 7, n + 1);
      SCOPE_CHECK(info.has_value());
      incarnation_[n] = info->number;
      behind_[n] = (std::int64_t{n} + 1) * 3'600'000 * kMs;
      store::ClockVersion v;
      v.incarnation = info->number;
      v.raw_at = RawTime{store->now().ns - behind_[n]};
      v.offset_ns = behind_[n];
      v.lower_ns = behind_[n] - 50'000;
      v.upper_ns = behind_[n] + 50'000;
      v.measured_at = store->now();
      SCOPE_CHECK(store->add_clock(v).has_value());
    }
  }

  codec::PidParts server(std::uint32_t i) const { return {kNames[i % 3], 100 + i, 0, 7}; }
  codec::PidParts client(std::uint32_t i) const { return {kNames[i % 3], 10'000 + i, 0, 7}; }

  std::unique_ptr<store::TraceStore> store;
  std::mt19937_64 random{20261120};  // of the questions
  std::int64_t first = 0, last = 0;  // cluster time of what was recorded

 protected:
  static std::uint32_t node_of(const codec::PidParts& p) {
    return static_cast<std::uint32_t>(std::find(kNames, kNames + 3, p.node) - kNames);
  }
  // The raw time of that node's next event.
  std::int64_t tick(std::uint32_t node) { return (now_ += step_) - behind_[node]; }
  void ship(std::size_t least) {
    for (std::uint32_t node = 0; node < 3; ++node) {
      if (makers_[node].events() < least) continue;
      const auto batch = makers_[node].batch(incarnation_[node], ++seq_[node]);
      while (!store->append(batch)) SCOPE_CHECK(store->flush(60'000).has_value());
    }
  }
  void recorded_all() {
    ship(1);
    SCOPE_CHECK(store->flush(60'000).has_value());
    last = now_;
  }

  const std::int64_t step_;
  std::mt19937_64 made_{20261121};  // of the events
  std::vector<BatchMaker> makers_;
  Incarnation incarnation_[3] = {};
  std::int64_t behind_[3] = {};
  std::uint64_t seq_[3] = {};
  std::int64_t now_ = 0;
  const Zipf clients_{kClients}, servers_{kServers};
};

class NoControls : public node::Controls {
  void status(Reply<node::StatusInfo> r) override { r(node::StatusInfo{}); }
  void start(node::TraceSpec, std::string, Reply<node::StartOutcome> r) override {
    r(node::StartOutcome{});
  }
  void profiles(Reply<std::vector<node::ProfileOutcome>> r) override { r({}); }
  void stop(std::optional<std::uint64_t>, std::string, Reply<node::StopOutcome> r) override {
    r(node::StopOutcome{});
  }
  void update_config(std::vector<std::string>, codec::TermView, std::string,
                     Reply<std::monostate> r) override {
    r(std::monostate{});
  }
};

}  // namespace scope::test
