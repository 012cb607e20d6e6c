// The tracee's path: nothing here locks, allocates, or takes longer than the caps allow.
#include <algorithm>

#include "erl/c_src/budget.h"
#include "erl/c_src/encode.h"
#include "erl/c_src/hash.h"
#include "erl/c_src/layout.h"
#include "erl/c_src/state.h"

namespace scope::tracer {
namespace {

thread_local Ring* my_ring = nullptr;  // one pointer: large thread-locals make dlopen fail

Ring* claim() {
  const unsigned i = g.claimed.fetch_add(1);
  if (i >= g.rings) {
    g.claimed.fetch_sub(1);
    return nullptr;
  }
  return my_ring = g.ring(i);
}

// Is it none of the sample? As scope_budget:in_sample/2 has it.
bool left_out(ERL_NIF_TERM who, const std::atomic<std::uint32_t>& sample) {
  const std::uint32_t threshold = sample.load(std::memory_order_relaxed);
  if (threshold >= 65536) return false;
  const auto hash = static_cast<std::uint32_t>(enif_hash(ERL_NIF_PHASH2, who, 0)) & 0x7FFFFFF;
  return (hash * 2654435761u) >> 12 >= threshold << 4;
}

bool over_budget() {
  const std::int64_t dry = dry_since();
  if (dry == 0) return false;
  if (Ring* ring = my_ring ? my_ring : claim()) {
    add(ring->rejected, 1);
    (void)pay(*ring, bucket.rejected.load(std::memory_order_relaxed), dry);
  } else {
    g.ringless.fetch_add(1, std::memory_order_relaxed);
  }
  return true;
}

void wake_drainer(ErlNifEnv* env) {
  if (g.wake.exchange(0) != 0) (void)enif_send(env, &g.drainer, nullptr, a.wake);
}

// What was seen of the tail may be long ago: who wakes the drainer for that wakes it at every event.
bool quarter_full(Ring& ring, std::uint64_t head) {
  if (head - ring.tail_seen <= g.ring_bytes / 4) return false;
  ring.tail_seen = ring.tail.load(std::memory_order_acquire);
  return head - ring.tail_seen > g.ring_bytes / 4;
}

const RoleRow* find(const RoleTable& table, std::uint32_t module, std::uint32_t function,
                    unsigned arity) {
  for (std::size_t i = slot_of(module, function, arity);; i = (i + 1) & (kRoleSlots - 1)) {
    const RoleRow& row = table.slot[i];
    if (row.module_plus_1 == 0) return nullptr;
    if (row.module_plus_1 == module && row.function_plus_1 == function && row.arity == arity)
      return &row;
  }
}

const RoleRow* role_of(ERL_NIF_TERM module, ERL_NIF_TERM function, unsigned arity) {
  const RoleTable* table = g.roles.load(std::memory_order_acquire);
  if (!table || table->rows == 0) return nullptr;
  const std::uint32_t m = atom_id(module) + 1, f = atom_id(function) + 1;
  const RoleRow* row = find(*table, m, f, arity);
  if (!row && table->wide_arity) row = find(*table, m, f, kAnyArity);
  if (!row && table->wide_function) row = find(*table, m, 0, kAnyArity);
  return row;
}

// The term at the row's path, from the arguments; false if the arguments are not of that shape.
bool at_path(ErlNifEnv* env, const RoleRow& row, ERL_NIF_TERM term, ERL_NIF_TERM& out) {
  for (unsigned i = 0; i < row.depth; ++i) {
    int arity;
    const ERL_NIF_TERM* e;
    if (enif_get_tuple(env, term, &arity, &e)) {
      if (row.path[i] > static_cast<unsigned>(arity)) return false;
      term = e[row.path[i] - 1];
      continue;
    }
    ERL_NIF_TERM head, rest = term;
    for (unsigned n = 0; n < row.path[i]; ++n) {
      if (!list_cell(env, rest, head, rest)) return false;
    }
    term = head;
  }
  out = term;
  return true;
}

struct Event {
  Kind kind;
  std::uint8_t arity = 0;
  std::uint16_t flags = 0;
  bool has_mfa = false, has_peer = false, has_payload = false, message = false;
  Cap cap = kMessageCap;
  ERL_NIF_TERM module = 0, function = 0, peer = 0, payload = 0;
};

std::uint8_t length_of(ErlNifEnv* env, ERL_NIF_TERM list) {
  ERL_NIF_TERM head;
  unsigned n = 0;
  while (n < 255 && list_cell(env, list, head, list)) ++n;
  return static_cast<std::uint8_t>(n);
}

// {M, F, Arity | Args}; gives the arguments if they are there.
bool read_mfa(ErlNifEnv* env, ERL_NIF_TERM mfa, Event& e, ERL_NIF_TERM& args) {
  int n;
  const ERL_NIF_TERM* el;
  if (!enif_get_tuple(env, mfa, &n, &el) || n != 3 || !is_atom(el[0]) || !is_atom(el[1]))
    return false;
  e.has_mfa = true;
  e.module = el[0];
  e.function = el[1];
  args = 0;
  if (is_small(el[2])) {
    e.arity = static_cast<std::uint8_t>(small_value(el[2]));
  } else {
    e.arity = length_of(env, el[2]);
    args = el[2];
  }
  return true;
}

void set_role(Event& e, Role role, ERL_NIF_TERM term) {
  e.has_payload = true;
  e.payload = term;
  e.cap = kStateCap;
  switch (role) {
    case Role::take:
      e.kind = kTake;
      e.message = true;
      e.cap = kMessageCap;
      break;
    case Role::final:
      e.flags |= kEndState;
      [[fallthrough]];
    case Role::state:
      e.kind = kState;
      break;
    default:
      e.cap = kArgsCap;
  }
}

bool read_call(ErlNifEnv* env, ERL_NIF_TERM term, ERL_NIF_TERM opts, Event& e) {
  ERL_NIF_TERM args, found;
  e.kind = kEntry;
  if (!read_mfa(env, term, e, args)) return false;
  const RoleRow* row = role_of(e.module, e.function, e.arity);
  if (!row || row->role == Role::plain) return true;
  if (row->role == Role::spec) {  // what a match spec rebuilt: {Role, Term}
    int n;
    const ERL_NIF_TERM* el;
    if (!enif_get_map_value(env, opts, a.match_spec_result, &found) ||
        !enif_get_tuple(env, found, &n, &el) || n != 2) {
      return true;
    }
    const Role role = el[0] == a.args    ? Role::args
                      : el[0] == a.take  ? Role::take
                      : el[0] == a.state ? Role::state
                      : el[0] == a.final ? Role::final
                                         : Role::none;
    if (role != Role::none) set_role(e, role, el[1]);
    return true;
  }
  if (!args) return true;
  if (row->role == Role::args) {
    set_role(e, Role::args, args);
    return true;
  }
  if (!at_path(env, *row, args, found)) return false;  // as a match spec that does not match
  set_role(e, row->role, found);
  return true;
}

bool read_event(ErlNifEnv* env, ERL_NIF_TERM tag, ERL_NIF_TERM term, ERL_NIF_TERM opts, Event& e) {
  if (tag == a.call) return read_call(env, term, opts, e);
  ERL_NIF_TERM extra = 0, args;
  (void)enif_get_map_value(env, opts, a.extra, &extra);
  const auto payload = [&](ERL_NIF_TERM t, Cap cap) {
    e.has_payload = true;
    e.payload = t;
    e.cap = cap;
    return true;
  };
  const auto peer = [&](Kind kind, ERL_NIF_TERM t) {
    e.kind = kind;
    e.has_peer = true;
    e.peer = t;
    return t != 0;
  };
  if (tag == a.return_from || tag == a.exception_from) {
    const bool returned = tag == a.return_from;
    e.kind = returned ? kExit : kException;
    return read_mfa(env, term, e, args) && extra &&
           payload(extra, returned ? kResultCap : kReasonCap);
  }
  if (tag == a.send || tag == a.send_dead) {
    if (tag == a.send_dead) e.flags |= kDeadReceiver;
    e.message = true;
    return peer(kSend, extra) && payload(term, kMessageCap);
  }
  if (tag == a.receive) {
    e.kind = kFetch;
    e.message = true;
    return payload(term, kMessageCap);
  }
  if (tag == a.exit) {
    e.kind = kProcessExit;
    return payload(term, kReasonCap);
  }
  const bool wanted = g.procs.load(std::memory_order_relaxed);
  if (tag == a.spawn || tag == a.spawned) {
    if (tag == a.spawned) e.flags |= kChildSide;
    if (!wanted && tag == a.spawn) return false;
    if (!peer(kSpawn, term) || !extra || !read_mfa(env, extra, e, args)) return false;
    return !args || payload(args, kArgsCap);
  }
  if (!wanted) return false;
  if (tag == a.link || tag == a.getting_linked) return peer(kLink, term);
  if (tag == a.unlink || tag == a.getting_unlinked) return peer(kUnlink, term);
  e.kind = tag == a.reg ? kRegister : kUnregister;
  return (tag == a.reg || tag == a.unreg) && payload(term, kMessageCap);
}

// Writes the record at `at`, which has room for the worst case; its size.
std::uint32_t write(ErlNifEnv* env, Ring& ring, std::byte* at, const Event& e, ERL_NIF_TERM tracee,
                    std::int64_t t) {
  std::uint16_t flags = e.flags;
  std::byte* p = at + kHeader;
  const auto put = [&](auto value) {
    std::memcpy(p, &value, sizeof value);
    p += sizeof value;
  };
  if (e.has_mfa) {
    put(atom_id(e.module));
    put(atom_id(e.function));
  }
  std::byte* const rest = p;
  Secrets secrets{nullptr, g.keyed.load(std::memory_order_acquire) ? &g.key : &g.own_key,
                  &ring.texts};
  if (e.has_peer) {
    Encoder peer(env, reinterpret_cast<std::uint8_t*>(p), kPeerCap, secrets);
    peer.encode(e.peer);
    p = reinterpret_cast<std::byte*>(peer.end());
  }
  if (e.has_payload) {
    Encoder payload(env, reinterpret_cast<std::uint8_t*>(p),
                    g.cap[e.cap].load(std::memory_order_relaxed), secrets);
    secrets.rules = g.rules.load(std::memory_order_acquire);
    const Rules* const rules = e.has_mfa ? secrets.rules : nullptr;
    if (rules && e.cap == kArgsCap) {
      payload.encode_arguments(e.payload, rules->of_args(env, e.module, e.function, e.arity));
    } else if (rules && e.cap == kResultCap &&
               rules->hides_result(env, e.module, e.function, e.arity)) {
      payload.encode_hidden(e.payload);
    } else {
      payload.encode(e.payload);
    }
    std::byte* const end = reinterpret_cast<std::byte*>(payload.end());
    if (payload.cut() || payload.redacted()) {
      if (payload.redacted()) flags |= kRedacted;
      const auto size = static_cast<std::uint64_t>(end - p);
      const auto original = static_cast<std::uint32_t>(
          std::min<std::uint64_t>(std::max(payload.walked(), size + 1), 0xFFFFFFFFu));
      // A whole message is hashed by whoever reads it; of another only we have the whole.
      MatchHash hash{};
      if (e.message && g.keyed.load(std::memory_order_acquire)) {
        hash = match_hash(env, e.payload, g.key, ring.texts);
      }
      const std::size_t before = (hash.known ? 8 : 0) + (payload.cut() ? 4 : 0);
      std::memmove(rest + before, rest, static_cast<std::size_t>(end - rest));
      p = rest;
      if (hash.known) {
        flags |= hash.bounded ? kHashed | kHashBounded : kHashed;
        put(hash.value);
      }
      if (payload.cut()) {
        flags |= kTruncated;
        put(original);
      }
      p = end + before;
    } else {
      p = end;
    }
  }
  const auto size = static_cast<std::uint32_t>(p - at);
  const RecordHead head{size, e.kind, e.arity, flags, t, pid_id(tracee), pid_serial(tracee)};
  std::memcpy(at, &head, sizeof head);
  for (std::uint32_t i = size; i % 8 != 0; ++i) *p++ = std::byte{0};
  return size;
}

// Past it tracing has ended, until it is renewed; whoever finds that first says since when.
bool lease_over(std::int64_t t) {
  if (g.expired.load(std::memory_order_relaxed) != 0) return true;
  const std::int64_t until = g.lease_until.load(std::memory_order_relaxed);
  if (t <= until) return false;
  g.expired.store(until, std::memory_order_relaxed);
  return true;
}

}  // namespace

ERL_NIF_TERM enabled(ErlNifEnv*, int, const ERL_NIF_TERM argv[]) {
  if (argv[0] == a.trace_status) {
    if (!g.ready.load(std::memory_order_relaxed) || g.off.load(std::memory_order_relaxed))
      return a.remove;
    const std::int64_t t = now();
    if (lease_over(t) || dry_since() != 0) return a.remove;
    if (Ring* ring = my_ring ? my_ring : claim()) pay_schedule(*ring, t);
    return a.trace;
  }
  if (argv[0] == a.call && my_ring) take_schedule_back(*my_ring);
  if (g.off.load(std::memory_order_relaxed) || g.expired.load(std::memory_order_relaxed) != 0)
    return a.discard;
  if (!is_local_pid(argv[2]) || left_out(argv[2], g.sample) || over_budget()) return a.discard;
  return a.trace;
}

ERL_NIF_TERM trace(ErlNifEnv* env, int, const ERL_NIF_TERM argv[]) {
  Event e;
  if (!g.ready.load(std::memory_order_relaxed) || !is_local_pid(argv[2]) ||
      !read_event(env, argv[0], argv[3], argv[4], e)) {
    return a.ok;
  }
  Ring* ring = my_ring ? my_ring : claim();
  if (!ring) {
    g.ringless.fetch_add(1, std::memory_order_relaxed);
    return a.ok;
  }
  if ((e.kind == kSend || e.kind == kFetch) &&
      left_out(e.kind == kSend ? e.peer : argv[2], g.receivers)) {
    if (pay_for_nothing(*ring, now())) wake_drainer(env);
    return a.ok;
  }
  ring->in_flight.exchange(static_cast<std::uint64_t>(ring->last) | 1, std::memory_order_seq_cst);
  const std::int64_t t = now();
  ring->in_flight.store(static_cast<std::uint64_t>(t), std::memory_order_relaxed);
  ring->last = t;
  const std::size_t worst = kHeader + 32 + (e.has_peer ? kPeerCap : 0) +
                            (e.has_payload ? g.cap[e.cap].load(std::memory_order_relaxed) : 0);
  const std::uint64_t head = ring->head.load(std::memory_order_relaxed);
  if (head + worst > ring->tail_seen + g.ring_bytes)
    ring->tail_seen = ring->tail.load(std::memory_order_acquire);
  if (head + worst > ring->tail_seen + g.ring_bytes) {
    if (get(ring->dropped) == get(ring->dropped_told))
      ring->drop_first.store(t, std::memory_order_relaxed);
    ring->drop_last.store(t, std::memory_order_relaxed);
    ring->dropped.store(get(ring->dropped) + 1, std::memory_order_release);
    if (pay_for_nothing(*ring, t)) wake_drainer(env);
  } else {
    const std::uint32_t size =
        write(env, *ring, ring->data + (head & (g.ring_bytes - 1)), e, argv[2], t);
    const std::uint64_t padded = (size + 7u) & ~7u;
    add(ring->pushed, 1);
    add(ring->bytes, padded);
    ring->head.store(head + padded, std::memory_order_release);
    const unsigned wake = g.wake.load(std::memory_order_relaxed);
    if (pay_event(*ring, e.kind, e.has_payload, size, t) || wake == 2 ||
        (wake == 1 && quarter_full(*ring, head + padded))) {
      wake_drainer(env);
    }
  }
  ring->in_flight.store(0, std::memory_order_release);
  (void)lease_over(t);
  return a.ok;
}

}  // namespace scope::tracer
