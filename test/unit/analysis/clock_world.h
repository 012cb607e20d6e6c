// Clocks whose truth is known, and a view that has nothing but their versions.
#pragma once

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "store/view.h"

namespace scope::analysis {

inline constexpr std::int64_t kSecond = 1'000'000'000;

// A view that has clocks only: what the model reads.
class Clocks : public store::View {
 public:
  explicit Clocks(std::vector<store::ClockVersion> versions) : versions_(std::move(versions)) {
    std::ranges::sort(versions_, [](const auto& a, const auto& b) {
      return std::tie(a.incarnation, a.raw_at, a.version) <
             std::tie(b.incarnation, b.raw_at, b.version);
    });
    infos_.push_back({1, 1, "a@h", 1, 7, 0, ClusterTime{0}});
    infos_.push_back({2, 2, "b@h", 1, 8, 0, ClusterTime{0}});
    infos_.push_back({3, 3, "c@h", 1, 9, 0, ClusterTime{0}});
  }
  std::span<const store::Unit> units() const override { return {}; }
  store::Lsn upper() const override { return 0; }
  std::span<const store::IncarnationInfo> incarnations() const override { return infos_; }
  std::span<const store::ClockVersion> clocks() const override { return versions_; }
  Result<store::Rows> read(const store::Unit&, const store::RowFilter&) const override {
    return {};
  }
  Result<std::vector<store::Life>> lives(ProcessId, std::shared_ptr<const void>&) const override {
    return {};
  }
  Result<std::vector<store::NameSpell>> name_spells(std::string_view, std::string_view,
                                                    std::shared_ptr<const void>&) const override {
    return {};
  }
  Result<std::vector<store::NameSpell>> names_of(ProcessId,
                                                 std::shared_ptr<const void>&) const override {
    return {};
  }

 private:
  std::vector<store::IncarnationInfo> infos_;
  std::vector<store::ClockVersion> versions_;
};

// A node's raw clock: rate errors (ppm) from given raw times on. cluster = raw + offset(raw).
struct TrueClock {
  std::int64_t start_offset;
  std::vector<std::pair<std::int64_t, double>> rates;  // (from raw ns, ppm)

  std::int64_t cluster(std::int64_t raw) const {
    double offset = 0;
    for (std::size_t i = 0; i < rates.size() && rates[i].first < raw; ++i) {
      const std::int64_t end = i + 1 < rates.size() ? std::min(raw, rates[i + 1].first) : raw;
      offset += rates[i].second * 1e-6 * static_cast<double>(end - rates[i].first);
    }
    return raw + start_offset + static_cast<std::int64_t>(offset);
  }
};

}  // namespace scope::analysis
