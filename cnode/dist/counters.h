// The distribution layer's counters: one table gives name, severity and help to status, Prometheus
// and the docs. Severities: info, error (a peer or the network is at fault), data_loss (something
// was dropped here).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace scope::node {

#define SCOPE_DIST_COUNTERS(X)                                                                  \
  X(links_up, info, "links that finished their handshake")                                      \
  X(links_down, info, "links that ended, for any reason")                                       \
  X(bytes_in, info, "bytes read from links")                                                    \
  X(bytes_out, info, "bytes written to links")                                                  \
  X(packets_in, info, "packets read, ticks not counted")                                        \
  X(packets_out, info, "packets queued, ticks not counted")                                     \
  X(ticks_in, info, "ticks read")                                                               \
  X(ticks_out, info, "ticks written")                                                           \
  X(spawn_refused, info, "spawn requests answered with notsup")                                 \
  X(rpc_answered, info, "rpc and erpc calls answered from the allow-list")                      \
  X(rpc_refused, info, "rpc and erpc calls to functions that are not on the allow-list")        \
  X(no_receiver, info,                                                                          \
    "messages to names, pids or aliases that are not there (late replies, too)")                \
  X(too_deep, data_loss, "messages dropped because they are nested deeper than we read")        \
  X(epmd_lost, error, "times the registration with epmd was lost")                              \
  X(handshake_failed, error, "handshakes that failed, either side, wrong cookies not counted")  \
  X(handshake_auth, error, "handshakes that failed for a wrong cookie")                         \
  X(handshake_timeout, error, "handshakes that took too long")                                  \
  X(handshake_limit, error, "connections closed at once: too many half-made handshakes")        \
  X(protocol_errors, error, "links closed because the peer broke the protocol")                 \
  X(packet_too_large, error, "links closed for a packet over the limit")                        \
  X(tick_timeouts, error, "links closed because nothing was heard")                             \
  X(queue_overflow, error, "links closed because the peer does not read what we must tell it")  \
  X(send_busy, error, "messages refused to the sender in this node: the link's queue was full") \
  X(escaped, error, "exceptions that escaped a coroutine or a process: a bug")

enum class DistCounter : std::size_t {
#define SCOPE_ENUM(name, severity, help) name,
  SCOPE_DIST_COUNTERS(SCOPE_ENUM)
#undef SCOPE_ENUM
      count_
};

enum class Severity : std::uint8_t { info, error, data_loss };

struct DistCounterInfo {
  std::string_view name;
  Severity severity;
  std::string_view help;
};

inline constexpr std::array kDistCounterInfo = {
#define SCOPE_ROW(name, severity, help) DistCounterInfo{#name, Severity::severity, help},
    SCOPE_DIST_COUNTERS(SCOPE_ROW)
#undef SCOPE_ROW
};

// Owned by the io_context's thread.
class DistCounters {
 public:
  void add(DistCounter c, std::uint64_t n = 1) { values_[static_cast<std::size_t>(c)] += n; }
  std::uint64_t get(DistCounter c) const { return values_[static_cast<std::size_t>(c)]; }

 private:
  std::array<std::uint64_t, static_cast<std::size_t>(DistCounter::count_)> values_{};
};

}  // namespace scope::node
