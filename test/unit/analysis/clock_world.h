// Clocks whose truth is known, and a view that has nothing but their versions.
#pragma once

#include <algorithm>
#include <cstdlib>
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

// A node's raw clock: rate errors (ppm) from given raw times on. cluster = raw + offset(raw). After `step_at` it is ahead by
// `step` (behind: it stood still so long), which the times in `rates` do not count.
struct TrueClock {
  std::int64_t start_offset;
  std::vector<std::pair<std::int64_t, double>> rates;  // (from raw ns, ppm)
  std::int64_t step_at = INT64_MAX, step = 0;

  std::int64_t cluster(std::int64_t raw) const {
    if (raw > step_at) raw -= step;
    double offset = 0;
    for (std::size_t i = 0; i < rates.size() && rates[i].first < raw; ++i) {
      const std::int64_t end = i + 1 < rates.size() ? std::min(raw, rates[i + 1].first) : raw;
      offset += rates[i].second * 1e-6 * static_cast<double>(end - rates[i].first);
    }
    return raw + start_offset + static_cast<std::int64_t>(offset);
  }
  std::int64_t raw(std::int64_t at) const {
    const TrueClock steady{start_offset, rates};
    std::int64_t raw = at - start_offset;
    for (int i = 0; i < 8; ++i) raw -= steady.cluster(raw) - at;
    return raw > step_at ? std::max(step_at + 1, raw + step) : raw;
  }
  // With everything on its node.
  bool stands_still(std::int64_t at) const { return std::abs(cluster(raw(at)) - at) > 1000; }
};

}  // namespace scope::analysis
