// The identities that all parts share (model.md, Identity). Plain values, no ownership, any thread.
//
// Incarnation   a small permanent number of (node name, creation, agent id). Agent id 0: a node that was only heard
//               of. Numbers start at 1; 0 is "none". The table lives in the store (names database) and never reuses.
// ProcessId     (incarnation, id, serial). No dictionary of pids.
// EventId       (process, raw time, ordinal among equals). Opaque to users; 24 bytes, big-endian, on the wire a
//               binary. The same in the hot tail and in a block, stable across restarts.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace scope {

// Nanoseconds of a node's own clock: never rewritten, comparable only within one incarnation.
struct RawTime {
  std::int64_t ns = 0;
  auto operator<=>(const RawTime&) const = default;
};

// Nanoseconds since 1970 on the daemon's monotonic timeline, anchored once per store (model.md, Time).
struct ClusterTime {
  std::int64_t ns = 0;
  auto operator<=>(const ClusterTime&) const = default;
};

using Incarnation = std::uint32_t;
inline constexpr Incarnation kNoIncarnation = 0;

struct ProcessId {
  Incarnation incarnation = kNoIncarnation;
  std::uint32_t id = 0;
  std::uint32_t serial = 0;

  explicit operator bool() const { return incarnation != kNoIncarnation; }
  auto operator<=>(const ProcessId&) const = default;
};

struct EventId {
  ProcessId process;
  RawTime time;
  std::uint32_t ordinal =
      0;  // among events of this process with the same raw time, in arrival order

  static constexpr std::size_t kBytes = 24;
  std::array<std::byte, kBytes> to_bytes() const;
  static EventId from_bytes(const std::array<std::byte, kBytes>& bytes);
  auto operator<=>(const EventId&) const = default;
};

// A process in the terms of the node that talks about it: node and creation are resolved to an incarnation later.
struct LocalPid {
  std::uint32_t id = 0;
  std::uint32_t serial = 0;
  auto operator<=>(const LocalPid&) const = default;
};

}  // namespace scope

template <>
struct std::hash<scope::ProcessId> {
  std::size_t operator()(const scope::ProcessId& p) const noexcept {
    std::uint64_t h = (std::uint64_t{p.incarnation} << 32 | p.id) * 0x9E3779B97F4A7C15ULL;
    h ^= (h >> 29) ^ (std::uint64_t{p.serial} * 0xBF58476D1CE4E5B9ULL);
    return static_cast<std::size_t>(h ^ (h >> 32));
  }
};
