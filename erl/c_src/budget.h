// The first line of the budget: a bucket for all rings together, in the tracee's path. See budget.cc.
//
// Everything costs time: as much as the budget needs to pay for it. `paid` is when all that was taken will have been
// paid for; it may be a tenth of a second ahead of now at the most. A ring takes 10 ms' worth at once, so that rings rarely meet.
// What finds the bucket dry says when (`dry`), once, and wakes the drainer; from then on events are turned away and
// every tracee loses its flags when it runs next, until set_budget says otherwise. A tracee that begins to run pays, too, but nobody
// can be woken there: the next event that takes a share finds it out, or the drainer when it looks.
//
// Who spent it: the drainer adds up what each tracee's records cost, in slots by the hash of the pid. Of those that share
// a slot one is remembered, with what it spent more than all others there together: never more than it did.
#pragma once

#include <algorithm>

#include "erl/c_src/state.h"

namespace scope::tracer {

inline constexpr std::int64_t kBurst = 100'000'000, kShare = 10'000'000;

struct Bucket {
  std::atomic<bool> limited;
  std::atomic<std::int64_t> paid, dry, filled;  // dry: when, or 0; filled: when
  std::atomic<std::uint32_t> args, kind[16], byte_256, small, rejected, scheduled;
};
extern Bucket bucket;

// The drainer's, of what it took out since the bucket was filled, and of the last tenth of a second at most.
struct Spenders {
  static constexpr std::size_t kSlots = 1024;
  struct Slot {
    std::uint32_t id, serial;
    std::int64_t spent;
  };
  std::int64_t since, all;
  Slot slot[kSlots];

  void forget(std::int64_t t);
  void add(std::uint32_t id, std::uint32_t serial, std::int64_t cost);
};

// True: it is, and that is new.
inline bool found_dry(std::int64_t paid, std::int64_t t) {
  std::int64_t wet = 0;
  return paid - t > kBurst && bucket.dry.compare_exchange_strong(wet, t);
}

// Until when all is paid for, if a share had to be taken; else 0.
inline std::int64_t take(Ring& ring, std::int64_t cost, std::int64_t t) {
  ring.tokens -= cost;
  if (ring.tokens >= 0) return 0;
  const std::int64_t need = kShare - ring.tokens;
  ring.tokens = kShare;
  std::int64_t before = bucket.paid.load(std::memory_order_relaxed), after;
  do {
    after = std::max(before, t) + need;
  } while (!bucket.paid.compare_exchange_weak(before, after, std::memory_order_relaxed));
  return after;
}

// True: that was the last of it.
inline bool pay(Ring& ring, std::int64_t cost, std::int64_t t) {
  return found_dry(take(ring, cost, t), t);
}

inline std::int64_t cost_of(Kind kind, bool payload, std::uint32_t size) {
  const auto& cost = kind == kEntry && payload ? bucket.args : bucket.kind[kind];
  const std::uint32_t small = bucket.small.load(std::memory_order_relaxed);
  const std::uint64_t bytes = size > small ? size - small : 0;
  return cost.load(std::memory_order_relaxed) +
         static_cast<std::int64_t>(bytes * bucket.byte_256.load(std::memory_order_relaxed) >> 8);
}

inline bool pay_event(Ring& ring, Kind kind, bool payload, std::uint32_t size, std::int64_t t) {
  if (!bucket.limited.load(std::memory_order_relaxed)) return false;
  return pay(ring, cost_of(kind, payload, size), t);
}

// What came here and is not recorded.
inline bool pay_for_nothing(Ring& ring, std::int64_t t) {
  return bucket.limited.load(std::memory_order_relaxed) &&
         pay(ring, bucket.rejected.load(std::memory_order_relaxed), t);
}

// A tracee begins to run, or a call event comes: the VM asks the same of both.
inline void pay_schedule(Ring& ring, std::int64_t t) {
  add(ring.scheduled, 1);
  if (bucket.limited.load(std::memory_order_relaxed))
    (void)take(ring, bucket.scheduled.load(std::memory_order_relaxed), t);
}

// It was a call, whose own cost has that in it.
inline void take_schedule_back(Ring& ring) {
  add(ring.scheduled, std::uint64_t(-1));
  if (bucket.limited.load(std::memory_order_relaxed))
    ring.tokens += bucket.scheduled.load(std::memory_order_relaxed);
}

inline std::int64_t dry_since() { return bucket.dry.load(std::memory_order_relaxed); }

}  // namespace scope::tracer
