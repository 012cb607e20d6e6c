// Two clocks. Everything in the library is timed with the kernel's monotonic clock, which is read without a lock; the
// VM's own takes a read lock for each look, about a fifth of what a traced call costs. What leaves the library is in the
// VM's time (erlang:monotonic_time/0), which runs at a slightly different speed while the VM corrects it.
//
// Both are read together once a pass of the drainer, which bounds the error: a time between two readings lies on the line
// between them, an older one keeps the distance of the older reading. Order is kept within and between passes, as what
// is converted is never earlier than the last pass's cut. If the VM changes its speed in between, by 1 % at the most, a time
// is wrong by at most a quarter per cent of the time between the two readings (2 to 250 ms).
//
// Thread now(): any. VmClock: the drainer.
#pragma once

#include <erl_nif.h>
#include <time.h>

#include <algorithm>
#include <cstdint>

namespace scope::tracer {

inline std::int64_t now() {
  timespec t;
  (void)clock_gettime(CLOCK_MONOTONIC, &t);
  return std::int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

class VmClock {
 public:
  // Before anything is timed.
  void begin() { before_ = last_ = read(); }

  // Reads both clocks; times up to now can be converted. REQUIRES begin().
  void look() {
    before_ = last_;
    last_ = read();
    const std::int64_t passed = last_.ours - before_.ours;
    drift_ = passed > 0
                 ? static_cast<double>(last_.vm - before_.vm - passed) / static_cast<double>(passed)
                 : 0;
  }

  std::int64_t vm(std::int64_t ours) const {
    const std::int64_t passed = ours - before_.ours;
    if (passed <= 0) return before_.vm + passed;
    if (ours > last_.ours) return last_.vm + (ours - last_.ours);
    const auto drifted = static_cast<std::int64_t>(static_cast<double>(passed) * drift_);
    return std::min(before_.vm + passed + drifted, last_.vm);
  }

 private:
  struct Pair {
    std::int64_t ours, vm;
  };
  // The best of three: between two of our readings may lie more than the VM's.
  static Pair read() {
    Pair best{};
    std::int64_t width = INT64_MAX;
    for (int i = 0; i < 3 && width > 1000; ++i) {
      const std::int64_t from = now(), vm = enif_monotonic_time(ERL_NIF_NSEC), until = now();
      if (until - from < width) best = {from + (until - from) / 2, vm};
      width = std::min(width, until - from);
    }
    return best;
  }

  Pair before_{}, last_{};
  double drift_ = 0;
};

}  // namespace scope::tracer
