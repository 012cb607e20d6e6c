// One ring of bytes for each thread that runs Erlang code: that thread writes, the drainer reads. Records lie whole:
// one that begins before the end runs on into the slack behind it. Positions only grow; an index is position & mask.
//
// in_flight   0, or a time that is not later than that of the record being written: what the drainer's cut is proven
//             by. It is set before the clock is read, with a full barrier, and cleared after the record is there.
// Counters are written by one side only; the other reads them whenever it likes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "erl/c_src/hash.h"

namespace scope::tracer {

inline constexpr std::size_t kMaxCap = 16384;              // of one encoded term
inline constexpr std::size_t kMaxRecord = kMaxCap + 1024;  // with all that goes with it
inline constexpr std::size_t kHeader = 24, kPeerCap = 330;

// The wire's record header, as it stands in the ring (little-endian, aligned to 8).
struct RecordHead {
  std::uint32_t size;
  std::uint8_t kind, arity;
  std::uint16_t flags;
  std::int64_t time;
  std::uint32_t id, serial;
};
static_assert(sizeof(RecordHead) == kHeader);

template <typename T>
using Relaxed = std::atomic<T>;

struct Ring {
  // the writer's
  alignas(64) std::atomic<std::uint64_t> head;
  std::atomic<std::uint64_t> in_flight;
  std::uint64_t tail_seen;
  std::int64_t last;
  std::int64_t tokens;  // of the budget: see budget.h
  Relaxed<std::uint64_t> pushed, dropped, rejected, bytes;
  Relaxed<std::uint64_t> scheduled;  // tracees that began to run, for which the VM asks us
  Relaxed<std::int64_t> drop_first, drop_last;
  // the drainer's
  alignas(64) std::atomic<std::uint64_t> tail;
  Relaxed<std::uint64_t> dropped_told, rejected_told;
  std::uint64_t until;  // the head that this pass reads to
  // the writer's again
  alignas(64) AtomTexts texts;
  alignas(64) std::byte data[];
};

inline std::uint64_t get(const Relaxed<std::uint64_t>& a) {
  return a.load(std::memory_order_relaxed);
}
inline void add(Relaxed<std::uint64_t>& a, std::uint64_t n) {  // by its one writer
  a.store(get(a) + n, std::memory_order_relaxed);
}

}  // namespace scope::tracer
