// scope_nif's library: loading, setting up, settings, the lease and the monitor. See erl/agent/scope_nif.erl.
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>

#include "erl/c_src/budget.h"
#include "erl/c_src/encode.h"
#include "erl/c_src/layout.h"
#include "erl/c_src/state.h"

namespace scope::tracer {

static_assert(std::endian::native == std::endian::little && sizeof(void*) == 8,
              "records are little-endian, and terms are read as 64-bit words");

State g;
Atoms a;

namespace {

ErlNifResourceType* monitor_type = nullptr;

// Pages, so that all of one can be given back and be zero again.
constexpr std::size_t kRulesBytes = (sizeof(Rules) + 4095) & ~std::size_t{4095};
Rules* rule_set(unsigned i) {
  return reinterpret_cast<Rules*>(reinterpret_cast<std::byte*>(g.rule_sets) + i * kRulesBytes);
}

void agent_down(ErlNifEnv*, void*, ErlNifPid*, ErlNifMonitor*) { g.off.store(true); }

void make_atoms(ErlNifEnv* env) {
  const std::pair<ERL_NIF_TERM*, const char*> all[] = {
      {&a.trace, "trace"},
      {&a.discard, "discard"},
      {&a.remove, "remove"},
      {&a.ok, "ok"},
      {&a.trace_status, "trace_status"},
      {&a.call, "call"},
      {&a.return_from, "return_from"},
      {&a.exception_from, "exception_from"},
      {&a.send, "send"},
      {&a.send_dead, "send_to_non_existing_process"},
      {&a.receive, "receive"},
      {&a.spawn, "spawn"},
      {&a.spawned, "spawned"},
      {&a.exit, "exit"},
      {&a.link, "link"},
      {&a.getting_linked, "getting_linked"},
      {&a.unlink, "unlink"},
      {&a.getting_unlinked, "getting_unlinked"},
      {&a.reg, "register"},
      {&a.unreg, "unregister"},
      {&a.extra, "extra"},
      {&a.match_spec_result, "match_spec_result"},
      {&a.args, "args"},
      {&a.take, "take"},
      {&a.state, "state"},
      {&a.final, "final"},
      {&a.wake, "scope_wake"},
      {&a.ring_full, "ring_full"},
      {&a.error, "error"},
      {&a.busy, "busy"},
      {&a.none, "none"},
      {&a.any, "_"},
      {&a.plain, "plain"},
      {&a.spec, "spec"}};
  for (const auto& [term, text] : all) *term = enif_make_atom(env, text);
}

int on_load(ErlNifEnv* env, void**, ERL_NIF_TERM) {
  make_atoms(env);
  ErlNifResourceTypeInit init{};
  init.down = agent_down;
  monitor_type = enif_open_resource_type_x(
      env, "scope_monitor", &init,
      static_cast<ErlNifResourceFlags>(ERL_NIF_RT_CREATE | ERL_NIF_RT_TAKEOVER), nullptr);
  return monitor_type ? 0 : 1;
}
int upgrade(ErlNifEnv* env, void** data, void**, ERL_NIF_TERM info) {
  return on_load(env, data, info);
}

void release_monitor() {
  if (g.monitor) enif_release_resource(g.monitor);
  g.monitor = nullptr;
}

void unload(ErlNifEnv*, void*) {
  g.ready.store(false);
  release_monitor();
  drain_teardown();
  if (g.memory) munmap(g.memory, g.memory_bytes);
  g.memory = nullptr;
  if (g.rule_sets) munmap(g.rule_sets, 2 * kRulesBytes);
  g.rule_sets = nullptr;
}

ERL_NIF_TERM fail(ErlNifEnv* env, const char* why) {
  return enif_make_tuple2(env, a.error, enif_make_atom(env, why));
}

std::uint64_t number(ErlNifEnv* env, ERL_NIF_TERM map, const char* key, std::uint64_t otherwise) {
  ERL_NIF_TERM term;
  ErlNifUInt64 value;
  return enif_get_map_value(env, map, enif_make_atom(env, key), &term) &&
                 enif_get_uint64(env, term, &value)
             ? value
             : otherwise;
}

// setup(#{memory, threads, creation, node, random, samples..}) -> ok | {error, Why}
ERL_NIF_TERM setup(ErlNifEnv* env, int, const ERL_NIF_TERM argv[]) {
  if (g.memory) return fail(env, "already");
  if (const char* wrong = calibrate(env, argv[0])) return fail(env, wrong);
  ERL_NIF_TERM node;
  if (!enif_get_map_value(env, argv[0], enif_make_atom(env, "node"), &node))
    return fail(env, "node");
  names.node = atom_id(node);
  names.dots = atom_id(enif_make_atom(env, "..."));
  names.fun = atom_id(enif_make_atom(env, "fun"));
  names.redacted = atom_id(enif_make_atom(env, "$scope_redacted"));
  names.none = atom_id(a.none);
  names.creation = static_cast<std::uint32_t>(number(env, argv[0], "creation", 0));
  const std::uint64_t threads =
      std::clamp<std::uint64_t>(number(env, argv[0], "threads", 1), 1, kMaxRings);
  const std::uint64_t memory = number(env, argv[0], "memory", 32u << 20);
  g.rings = static_cast<unsigned>(threads);
  g.ring_bytes = std::bit_floor(std::clamp<std::uint64_t>(memory / 2 / threads, 65536, 1u << 20));
  g.ring_stride = (sizeof(Ring) + g.ring_bytes + kMaxRecord + 4095) & ~std::size_t{4095};
  g.memory_bytes = g.ring_stride * threads;
  // Address space; a page becomes memory when its thread first writes there.
  void* p = mmap(nullptr, g.memory_bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED || !drain_setup()) return fail(env, "memory");
  g.memory = static_cast<std::byte*>(p);
  p = mmap(nullptr, 2 * kRulesBytes, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return fail(env, "memory");
  g.rule_sets = static_cast<Rules*>(p);
  ERL_NIF_TERM random;
  ErlNifBinary bytes;
  if (!enif_get_map_value(env, argv[0], enif_make_atom(env, "random"), &random) ||
      !enif_inspect_binary(env, random, &bytes) || bytes.size != 16) {
    return fail(env, "random");
  }
  std::memcpy(g.own_key.data(), bytes.data, 16);
  constexpr std::uint32_t kDefault[kCaps] = {256, 256, 256, 256, 4096};
  for (unsigned i = 0; i < kCaps; ++i) g.cap[i].store(kDefault[i]);
  for (unsigned i = 0; i < g.rings; ++i)
    g.ring(i)->last = INT64_MIN + 1;  // no time yet: before all
  g.sample.store(65536);
  g.receivers.store(65536);
  g.lease_until.store(now() + 6'000'000'000);
  g.ready.store(true);
  return a.ok;
}

// lease(Ms) -> ok | {expired, Ns}: tracing goes on for so long; it had ended so long ago.
ERL_NIF_TERM lease(ErlNifEnv* env, int, const ERL_NIF_TERM argv[]) {
  unsigned ms;
  if (!enif_get_uint(env, argv[0], &ms)) return enif_make_badarg(env);
  const std::int64_t t = now();
  g.lease_until.store(t + std::int64_t{ms} * 1'000'000);
  const std::int64_t since = g.expired.exchange(0);
  return since == 0 ? a.ok
                    : enif_make_tuple2(env, enif_make_atom(env, "expired"),
                                       enif_make_int64(env, t - since));
}

// stop() -> ok: every tracee loses its flags when it runs next.
ERL_NIF_TERM stop(ErlNifEnv*, int, const ERL_NIF_TERM[]) {
  g.off.store(true);
  release_monitor();
  return a.ok;
}

// watch(Agent) -> ok: its death is a stop.
ERL_NIF_TERM watch(ErlNifEnv* env, int, const ERL_NIF_TERM argv[]) {
  ErlNifPid pid;
  if (!enif_get_local_pid(env, argv[0], &pid)) return enif_make_badarg(env);
  release_monitor();
  g.monitor = enif_alloc_resource(monitor_type, 8);
  if (!g.monitor || enif_monitor_process(env, g.monitor, &pid, nullptr) != 0)
    return fail(env, "dead");
  return a.ok;
}

// drainer(Wake) -> Dry: the caller drains, and is about to wait: wake it with scope_wake when a ring fills (1), or at any
// event (2). One that comes at the same moment may not wake it: it looks once more, a while later. Dry: since when the budget's
// bucket is, by our clock, or 0; what found that out while the caller was at work woke nobody.
ERL_NIF_TERM drainer(ErlNifEnv* env, int, const ERL_NIF_TERM argv[]) {
  unsigned wake;
  if (!enif_get_uint(env, argv[0], &wake)) return enif_make_badarg(env);
  g.wake.store(0);
  if (!enif_self(env, &g.drainer)) return enif_make_badarg(env);
  g.wake.store(wake);
  return enif_make_int64(env, bucket.dry.load());
}

ERL_NIF_TERM set_share(ErlNifEnv* env, ERL_NIF_TERM share, std::atomic<std::uint32_t>& of) {
  unsigned n;
  if (!enif_get_uint(env, share, &n) || n > 65536) return enif_make_badarg(env);
  of.store(n);
  return a.ok;
}

ERL_NIF_TERM set_sample(ErlNifEnv* env, int, const ERL_NIF_TERM argv[]) {
  return set_share(env, argv[0], g.sample);
}

ERL_NIF_TERM set_receivers(ErlNifEnv* env, int, const ERL_NIF_TERM argv[]) {
  return set_share(env, argv[0], g.receivers);
}

// set_procs(Wanted, Follow): are process events wanted, and does the agent ask whose child is whose
ERL_NIF_TERM set_procs(ErlNifEnv* env, int, const ERL_NIF_TERM argv[]) {
  const ERL_NIF_TERM yes = enif_make_atom(env, "true");
  g.procs.store(argv[0] == yes);
  g.follow.store(argv[1] == yes);
  return a.ok;
}

ERL_NIF_TERM set_caps(ErlNifEnv* env, int, const ERL_NIF_TERM argv[]) {
  constexpr const char* kNames[kCaps] = {"message", "args", "result", "reason", "state"};
  for (unsigned i = 0; i < kCaps; ++i) {
    const std::uint64_t cap = number(env, argv[0], kNames[i], g.cap[i].load());
    g.cap[i].store(static_cast<std::uint32_t>(std::clamp<std::uint64_t>(cap, 5, kMaxCap)));
  }
  return a.ok;
}

// A key is given once in an agent's life, before messages are hashed with it; a second one is refused.
ERL_NIF_TERM set_key(ErlNifEnv* env, int, const ERL_NIF_TERM argv[]) {
  ErlNifBinary b;
  if (!enif_inspect_binary(env, argv[0], &b) || b.size != 16) return enif_make_badarg(env);
  if (g.keyed.load())
    return std::memcmp(g.key.data(), b.data, 16) == 0 ? a.ok : fail(env, "another_key");
  std::memcpy(g.key.data(), b.data, 16);
  g.keyed.store(true);
  return a.ok;
}

bool read_row(ErlNifEnv* env, ERL_NIF_TERM term, RoleRow& row) {
  int n;
  const ERL_NIF_TERM* e;
  if (!enif_get_tuple(env, term, &n, &e) || n != 5 || !is_atom(e[0]) || !is_atom(e[1]))
    return false;
  row = {};
  row.module_plus_1 = atom_id(e[0]) + 1;
  row.function_plus_1 = e[1] == a.any ? 0 : atom_id(e[1]) + 1;
  unsigned arity = kAnyArity;
  if (e[2] != a.any && (!enif_get_uint(env, e[2], &arity) || arity > 255)) return false;
  row.arity = static_cast<std::uint16_t>(arity);
  row.role = e[3] == a.plain   ? Role::plain
             : e[3] == a.spec  ? Role::spec
             : e[3] == a.args  ? Role::args
             : e[3] == a.take  ? Role::take
             : e[3] == a.state ? Role::state
             : e[3] == a.final ? Role::final
                               : Role::none;
  ERL_NIF_TERM head, list = e[4];
  for (; enif_get_list_cell(env, list, &head, &list); ++row.depth) {
    unsigned step;
    if (row.depth == 4 || !enif_get_uint(env, head, &step) || step == 0 || step > 65535)
      return false;
    row.path[row.depth] = static_cast<std::uint16_t>(step);
  }
  return row.role != Role::none;
}

// set_roles([{M, F | '_', A | '_', plain | spec | args | take | state | final, Path}]) -> ok | busy | {error, Why}
// busy: somebody may still look at the table before the last one; try again in a millisecond.
ERL_NIF_TERM set_roles(ErlNifEnv* env, int, const ERL_NIF_TERM argv[]) {
  if (!g.ready.load()) return fail(env, "not_set_up");
  for (unsigned i = 0; i < std::min(g.claimed.load(), g.rings); ++i) {
    const auto flight = static_cast<std::int64_t>(g.ring(i)->in_flight.load());
    if (flight != 0 && flight <= g.swapped) return a.busy;
  }
  RoleTable& table = g.roles.load() == &g.tables[0] ? g.tables[1] : g.tables[0];
  std::memset(&table, 0, sizeof table);
  ERL_NIF_TERM head, list = argv[0];
  for (; enif_get_list_cell(env, list, &head, &list); ++table.rows) {
    RoleRow row;
    if (!read_row(env, head, row)) return enif_make_badarg(env);
    if (table.rows == kRoleSlots / 2) return fail(env, "too_many");
    table.wide_arity |= row.arity == kAnyArity && row.function_plus_1 != 0;
    table.wide_function |= row.function_plus_1 == 0;
    std::size_t i = slot_of(row.module_plus_1, row.function_plus_1, row.arity);
    while (table.slot[i].module_plus_1 != 0) i = (i + 1) & (kRoleSlots - 1);
    table.slot[i] = row;
  }
  g.roles.store(&table);
  g.swapped = now();
  return a.ok;
}

// set_redaction(none | {Words, Records, Calls, Text}) -> ok | busy | {error, Why}      redact.h; busy as set_roles
ERL_NIF_TERM set_redaction(ErlNifEnv* env, int, const ERL_NIF_TERM argv[]) {
  if (!g.ready.load()) return fail(env, "not_set_up");
  const Rules* next = nullptr;
  if (argv[0] != a.none) {
    for (unsigned i = 0; i < std::min(g.claimed.load(), g.rings); ++i) {
      const auto flight = static_cast<std::int64_t>(g.ring(i)->in_flight.load());
      if (flight != 0 && flight <= g.rules_swapped) return a.busy;
    }
    // Not the one in use, nor the one that was when nothing was redacted for a while.
    static unsigned last = 0;
    Rules* const rules = rule_set(last ^= 1);
    (void)madvise(rules, kRulesBytes, MADV_DONTNEED);
    if (const char* wrong = rules->build(env, argv[0])) {
      last ^= 1;
      return fail(env, wrong);
    }
    next = rules;
  }
  g.rules.store(next, std::memory_order_seq_cst);
  g.rules_swapped = now();
  return a.ok;
}

// active() -> is this the tracer?
ERL_NIF_TERM active(ErlNifEnv* env, int, const ERL_NIF_TERM[]) {
  return enif_make_atom(env, g.ready.load() ? "true" : "false");
}

// layout() -> what calibration found, for the tests: [refs | aliases | bigs | cells | funs]
ERL_NIF_TERM found(ErlNifEnv* env, int, const ERL_NIF_TERM[]) {
  ERL_NIF_TERM list = enif_make_list(env, 0);
  const auto add_if = [&](bool there, const char* what) {
    if (there) list = enif_make_list_cell(env, enif_make_atom(env, what), list);
  };
  add_if(layout.funs, "funs");
  add_if(layout.cells, "cells");
  add_if(layout.big_tag[0] != 0, "bigs");
  add_if(layout.alias.count != 0, "aliases");
  add_if(layout.reference.count != 0, "refs");
  return list;
}

// cpu() -> {Thread, Ns}: which one the caller runs on, and what time it has had.
ERL_NIF_TERM cpu(ErlNifEnv* env, int, const ERL_NIF_TERM[]) {
  timespec t;
  (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return enif_make_tuple2(env, enif_make_uint64(env, pthread_self()),
                          enif_make_int64(env, std::int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec));
}

ErlNifFunc functions[] = {{"enabled", 3, enabled, 0},
                          {"trace", 5, trace, 0},
                          {"setup", 1, setup, 0},
                          {"drain", 0, drain, 0},
                          {"pending", 0, pending, 0},
                          {"spenders", 0, spenders, 0},
                          {"counters", 0, counters, 0},
                          {"lease", 1, lease, 0},
                          {"stop", 0, stop, 0},
                          {"watch", 1, watch, 0},
                          {"drainer", 1, drainer, 0},
                          {"set_sample", 1, set_sample, 0},
                          {"set_receivers", 1, set_receivers, 0},
                          {"set_budget", 1, set_budget, 0},
                          {"set_procs", 2, set_procs, 0},
                          {"set_caps", 1, set_caps, 0},
                          {"set_key", 1, set_key, 0},
                          {"set_roles", 1, set_roles, 0},
                          {"set_redaction", 1, set_redaction, 0},
                          {"active", 0, active, 0},
                          {"calibrated", 0, found, 0},
                          {"cpu", 0, cpu, 0}};

}  // namespace
}  // namespace scope::tracer

using scope::tracer::functions;
using scope::tracer::on_load;
using scope::tracer::unload;
using scope::tracer::upgrade;
extern "C" __attribute__((visibility("default"))) ErlNifEntry* nif_init(void);
ERL_NIF_INIT(scope_nif, functions, on_load, nullptr, upgrade, unload)
