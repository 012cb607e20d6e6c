// What the tracing threads, the drainer and the agent share. One instance; everything in it is plain or atomic, made in
// setup and given back when the library goes.
#pragma once

#include <erl_nif.h>

#include <array>
#include <atomic>
#include <cstdint>

#include "erl/c_src/clock.h"
#include "erl/c_src/redact.h"
#include "erl/c_src/ring.h"

namespace scope::tracer {

enum Kind : std::uint8_t {  // EventType of ei_codec/trace_event.h
  kEntry = 1,
  kExit = 2,
  kException = 3,
  kSend = 4,
  kFetch = 5,
  kTake = 6,
  kState = 7,
  kSpawn = 8,
  kProcessExit = 9,
  kLink = 10,
  kUnlink = 11,
  kRegister = 12,
  kUnregister = 13
};
enum Flag : std::uint16_t {  // TraceRecord::Flag
  kTruncated = 1,
  kHashBounded = 2,
  kHashed = 4,
  kDeadReceiver = 8,
  kEndState = 64,
  kChildSide = 512,
  kRedacted = 1024
};
enum Cap : unsigned { kMessageCap, kArgsCap, kResultCap, kReasonCap, kStateCap, kCaps };

// What of a call is wanted, by function; `arity` kAny: every arity, function 0: every function.
inline constexpr std::uint16_t kAnyArity = 256;
enum class Role : std::uint8_t { none, plain, spec, args, take, state, final };
struct RoleRow {
  std::uint32_t module_plus_1, function_plus_1;  // 0: the slot is free; of the function: any
  std::uint16_t arity;
  Role role;
  std::uint8_t depth;     // of the path
  std::uint16_t path[4];  // the argument, then elements of tuples or lists, from 1
};
inline constexpr std::size_t kRoleSlots = 16384;
struct RoleTable {
  bool wide_arity, wide_function;
  std::uint32_t rows;
  RoleRow slot[kRoleSlots];
};

inline std::size_t slot_of(std::uint32_t module, std::uint32_t function, std::uint32_t arity) {
  return ((module * 0x9E3779B1u) ^ (function * 0x85EBCA77u) ^ (arity * 0xC2B2AE3Du)) >> 7 &
         (kRoleSlots - 1);
}

inline constexpr unsigned kMaxRings = 2048;

struct State {
  std::atomic<bool> ready, off, procs, follow, keyed;
  std::atomic<std::int64_t> lease_until;
  std::atomic<std::int64_t> expired;             // 0, or when the lease was over
  std::atomic<std::uint32_t> sample, receivers;  // of 65536
  std::atomic<std::uint32_t> cap[kCaps];
  std::array<std::byte, 16> key, own_key;  // own: random, for marks before the session's is known
  std::atomic<const RoleTable*> roles;
  RoleTable tables[2];
  std::int64_t swapped;             // when the table was changed last
  std::atomic<const Rules*> rules;  // nullptr: nothing is redacted
  Rules* rule_sets;                 // two
  std::int64_t rules_swapped;

  std::byte* memory;
  std::size_t memory_bytes, ring_bytes, ring_stride;
  unsigned rings;
  std::atomic<unsigned> claimed;
  std::atomic<std::uint64_t> ringless;  // events on threads that got no ring
  std::atomic<std::uint64_t> ringless_told;

  std::atomic<unsigned> wake;  // the drainer waits: wake it when a ring fills (1), at any event (2)
  ErlNifPid drainer;
  std::atomic<bool> draining;
  void* monitor;  // resource with the monitor on the agent

  Ring* ring(unsigned i) const { return reinterpret_cast<Ring*>(memory + i * ring_stride); }
};
extern State g;

struct Atoms {
  ERL_NIF_TERM trace, discard, remove, ok, trace_status, call, return_from, exception_from, send,
      send_dead, receive, spawn, spawned, exit, link, getting_linked, unlink, getting_unlinked, reg,
      unreg, extra, match_spec_result, spec, args, take, state, final, wake, ring_full, error, busy,
      none, any, plain;
};
extern Atoms a;

// trace.cc
ERL_NIF_TERM enabled(ErlNifEnv*, int, const ERL_NIF_TERM[]);
ERL_NIF_TERM trace(ErlNifEnv*, int, const ERL_NIF_TERM[]);
// budget.cc
ERL_NIF_TERM set_budget(ErlNifEnv*, int, const ERL_NIF_TERM[]);
// drain.cc
ERL_NIF_TERM drain(ErlNifEnv*, int, const ERL_NIF_TERM[]);
ERL_NIF_TERM pending(ErlNifEnv*, int, const ERL_NIF_TERM[]);
ERL_NIF_TERM spenders(ErlNifEnv*, int, const ERL_NIF_TERM[]);
ERL_NIF_TERM counters(ErlNifEnv*, int, const ERL_NIF_TERM[]);
bool drain_setup();
void drain_teardown();

}  // namespace scope::tracer
