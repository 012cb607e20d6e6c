// Explain: how a question was answered, for `explain => true`: the plan, what was read, the time in each step.
// Thread: one, as the query.
#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>
#include <vector>

#include "store/view.h"

namespace scope::analysis {

struct Explain {
  struct Step {
    std::string_view name;
    std::int64_t ns = 0;
  };
  std::vector<store::Candidates::Step> plan;  // the indexes, in the order of their use
  std::uint32_t units = 0;                    // blocks, and batches of the tail, that there are
  std::uint32_t candidates = 0;               // that the indexes left over
  std::uint64_t blocks_read = 0, tail_read = 0, rollup_cells = 0;
  // That met the conditions which a unit judges itself, as far as they were looked at.
  std::uint64_t rows_read = 0;
  std::vector<Step> steps;

  void add(std::string_view name, std::int64_t ns) {
    for (auto& step : steps) {
      if (step.name == name) return void(step.ns += ns);
    }
    steps.push_back({name, ns});
  }
};

// Adds the time of its scope to a step. `explain` may be null: then it does nothing.
class Timed {
 public:
  Timed(Explain* explain, std::string_view name)
      : explain_(explain), name_(name), begin_(explain ? Clock::now() : Clock::time_point()) {}
  ~Timed() {
    if (explain_) explain_->add(name_, std::chrono::nanoseconds(Clock::now() - begin_).count());
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  Explain* explain_;
  std::string_view name_;
  Clock::time_point begin_;
};

}  // namespace scope::analysis
