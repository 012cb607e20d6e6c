// Everything that is counted, in one table: name, severity, help. `status` answers all of them by name, the command
// line shows what is not as it should be. Append where it belongs; names are seen by users.
//
// Severity  info; error: a peer, the network or a disk is at fault; data_loss: something was dropped here and an answer
//           may lack it.
// Life      One Counters per daemon, shared by its parts; in tests each part makes its own.
// Thread    Any.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace scope {

// clang-format off
#define SCOPE_COUNTERS(X)                                                                        \
  /* cnode/dist */                                                                               \
  X(links_up, info, "links that finished their handshake")                                       \
  X(links_down, info, "links that ended, for any reason")                                        \
  X(bytes_in, info, "bytes read from links")                                                     \
  X(bytes_out, info, "bytes written to links")                                                   \
  X(packets_in, info, "packets read, ticks not counted")                                         \
  X(packets_out, info, "packets queued, ticks not counted")                                      \
  X(ticks_in, info, "ticks read")                                                                \
  X(ticks_out, info, "ticks written")                                                            \
  X(spawn_refused, info, "spawn requests answered with notsup")                                  \
  X(rpc_answered, info, "rpc and erpc calls answered from the allow-list")                       \
  X(rpc_refused, info, "rpc and erpc calls to functions that are not on the allow-list")         \
  X(no_receiver, info, "messages to names, pids or aliases that are not there (late replies, too)") \
  X(too_deep, data_loss, "messages dropped: nested deeper, or of more terms, than we read")       \
  X(epmd_lost, error, "times the registration with epmd was lost")                               \
  X(handshake_failed, error, "handshakes that failed, either side, wrong cookies not counted")   \
  X(handshake_auth, error, "handshakes that failed for a wrong cookie or certificate")            \
  X(handshake_timeout, error, "handshakes that took too long")                                   \
  X(handshake_limit, error, "connections closed at once: too many half-made handshakes")         \
  X(protocol_errors, error, "links closed because the peer broke the protocol")                  \
  X(packet_too_large, error, "links closed for a packet, or unfinished ones together, over the limit") \
  X(tick_timeouts, error, "links closed because nothing was heard")                              \
  X(queue_overflow, error, "links closed because the peer does not read")                        \
  X(send_busy, error, "messages refused to the sender in this node: the link's queue was full")  \
  X(escaped, error, "exceptions that escaped a coroutine or a process: a bug")                   \
  X(audit_lost, data_loss, "entries that the audit log lacks: the disk was full or too slow")    \
  /* cnode/agents */                                                                             \
  X(batches_refused, error, "batches that came outside a session or beyond the credit; sent again") \
  X(clock_not_stored, data_loss, "versions of the clock model that the store did not take")      \
  X(clock_contradictions, error, "pairs of messages that contradict the bounds of the clocks")   \
  X(gaps_not_stored, data_loss, "gaps between two agents of a node that the store did not take") \
  X(sessions_lost, error, "sessions with agents that ended without being asked to")              \
  X(resumes, error, "sessions resumed because a batch came out of order")                        \
  X(unexpected_messages, error, "messages from agents that fit no form")                         \
  X(store_full, info, "batches that waited because the store's queue was full")                  \
  /* store; since it was opened */                                                               \
  X(batches, info, "batches taken in")                                                           \
  X(batches_duplicate, info, "batches that had been taken in before")                            \
  X(batches_out_of_order, info, "batches not taken because one before them was missing")         \
  X(events, info, "events taken in")                                                             \
  X(events_malformed, data_loss, "events that could not be read; each leaves a gap")             \
  X(gaps, info, "gaps taken in")                                                                 \
  X(commits, info, "commits")                                                                    \
  X(commit_failures, error, "commits that failed; they are tried again")                         \
  X(corrupt_blocks, data_loss, "readings of blocks whose bytes are damaged")                     \
  X(corrupt_indexes, error, "readings of indexes whose bytes are damaged; blocks are read instead") \
  X(corrupt_edges, error, "readings of kept edges whose bytes are damaged; matched again instead") \
  X(edges_not_kept, error, "times that deriving edges failed: the disk is full, or their file is") \
  X(edges_derived, info, "edges of messages that were derived and kept")
// clang-format on

enum class Counter : std::size_t {
#define SCOPE_ENUM(name, severity, help) name,
  SCOPE_COUNTERS(SCOPE_ENUM)
#undef SCOPE_ENUM
      count_
};

enum class Severity : std::uint8_t { info, error, data_loss };

struct CounterInfo {
  std::string_view name;
  Severity severity;
  std::string_view help;
};

inline constexpr std::array kCounterInfo = {
#define SCOPE_ROW(name, severity, help) CounterInfo{#name, Severity::severity, help},
    SCOPE_COUNTERS(SCOPE_ROW)
#undef SCOPE_ROW
};

class Counters {
 public:
  void add(Counter c, std::uint64_t n = 1) {
    values_[static_cast<std::size_t>(c)].fetch_add(n, std::memory_order_relaxed);
  }
  std::uint64_t get(Counter c) const {
    return values_[static_cast<std::size_t>(c)].load(std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<std::uint64_t>, static_cast<std::size_t>(Counter::count_)> values_{};
};

}  // namespace scope
