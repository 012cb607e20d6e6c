// The drainer's side: what all rings hold up to a proven cut, in the order of time, as one batch's strings and records.
#include <sys/mman.h>

#include <algorithm>

#include "erl/c_src/budget.h"
#include "erl/c_src/encode.h"
#include "erl/c_src/hash.h"
#include "erl/c_src/layout.h"
#include "erl/c_src/record_text.h"
#include "erl/c_src/state.h"
#include "erl/c_src/wire_term.h"

namespace scope::tracer {
namespace {

constexpr std::size_t kBatch = 65536;
constexpr std::size_t kSeen = 32768;  // slots; a batch has at most a quarter as many atoms
constexpr std::size_t kMostAtoms = kSeen / 4;
constexpr unsigned kMostFamily = 1000;

struct Seen {
  std::uint32_t generation, id;
};
struct Scratch {
  std::uint32_t generation;
  std::uint32_t atoms;
  std::uint32_t ids[kSeen / 2];
  Seen seen[kSeen];
  AtomTexts texts;
  std::byte out[kBatch + kHiddenGrowth * kMaxRecord + 64];
  Ring* active[kMaxRings];
  Spenders spenders;
};
Scratch* scratch = nullptr;
std::int64_t cut_before = INT64_MIN;
std::int64_t pass_before = 0;
VmClock vm_clock;
std::int64_t cut_told = INT64_MIN;  // the last cut, in the VM's time

// Of what is not before the last cut.
std::int64_t told(std::int64_t t) { return std::max(vm_clock.vm(t), cut_told); }

void see(std::uint32_t id) {
  for (std::size_t i = (id * 2654435761u) >> 17;; i = (i + 1) & (kSeen - 1)) {
    Seen& s = scratch->seen[i];
    if (s.generation == scratch->generation) {
      if (s.id == id) return;
      continue;
    }
    if (scratch->atoms == kSeen / 2) return;  // cannot be: see kMostAtoms
    s = {scratch->generation, id};
    scratch->ids[scratch->atoms++] = id;
    return;
  }
}

// The sizes of items in which there is nothing to be seen, by their tags; most of what there is.
constexpr auto kPlain = [] {
  std::array<std::uint8_t, 256> size{};
  size[etf::kNil] = size[etf::kExport] = 1;
  size[etf::kSmallInteger] = size[etf::kSmallTuple] = 2;
  size[etf::kInteger] = size[etf::kLargeTuple] = size[etf::kMap] = 5;
  size[etf::kNewFloat] = 9;
  return size;
}();

// The local atoms of the terms from `p` to `end`; and is there a text in them that is to be hidden? A binary's mark of
// having been cut goes. `arguments`: the first list is one of arguments.
bool see_terms(std::byte* p, const std::byte* end, const TextPatterns* texts, bool arguments) {
  bool secret = false;
  while (p < end) {
    const auto tag = std::to_integer<std::uint8_t>(*p);
    if (tag == etf::kLocalAtom) see(be32(p + 1));
    if (const unsigned size = tag == etf::kLocalAtom ? 5 : kPlain[tag]) {
      p += size;
      continue;
    }
    const WireItem item = wire_item(p);
    switch (item.tag) {
      case kCutBinary:
      case etf::kBinary:
        if (texts && !secret) {
          secret = texts->secret(reinterpret_cast<const std::uint8_t*>(item.body),
                                 static_cast<std::size_t>(item.next - item.body),
                                 item.tag == kCutBinary, false);
        }
        *p = std::byte{etf::kBinary};
        break;
      case etf::kList:
        if (texts && !secret && !arguments) secret = list_has_secret(*texts, p);
        arguments = false;
        break;
      case 0:
        return secret;  // never: nothing else is written
      default:
        if (item.atom && std::to_integer<unsigned>(*item.atom) == etf::kLocalAtom)
          see(be32(item.atom + 1));
    }
    p += item.next - p;
  }
  return secret;
}

// The record at `at` is our copy of the ring's, `in_ring`. Its size, which is another if texts had to be hidden.
std::uint32_t see_record(ErlNifEnv* env, std::byte* at, const std::byte* in_ring,
                         const RecordHead& head, const TextPatterns* texts) {
  std::byte* p = at + kHeader;
  if (head.kind <= kException || head.kind == kTake || head.kind == kState || head.kind == kSpawn) {
    see(load<std::uint32_t>(p));
    see(load<std::uint32_t>(p + 4));
    p += 8;
  }
  if (head.flags & kHashed) p += 8;
  if (head.flags & kTruncated) p += 4;
  if (!see_terms(p, at + head.size, texts, has_arguments(head))) return head.size;
  see(names.redacted);
  see(names.none);
  return hide_texts(env, *texts, in_ring, in_ring + (p - at), scratch->texts, at);
}

const RecordHead& head_of(const Ring& ring, std::uint64_t position) {
  return *reinterpret_cast<const RecordHead*>(ring.data + (position & (g.ring_bytes - 1)));
}

ERL_NIF_TERM ids(ErlNifEnv* env, std::uint32_t id, std::uint32_t serial) {
  return enif_make_tuple2(env, enif_make_uint(env, id), enif_make_uint(env, serial));
}

// Whose child is whose, for the agent: the child's side of a spawn, and ends. False: the event is not wanted itself.
bool family(ErlNifEnv* env, const std::byte* at, const RecordHead& head, ERL_NIF_TERM& list,
            unsigned& n) {
  if (head.kind != kSpawn && head.kind != kProcessExit) return true;
  if (g.follow.load(std::memory_order_relaxed)) {
    const ERL_NIF_TERM pid = ids(env, head.id, head.serial);
    if (head.kind == kProcessExit) {
      list = enif_make_list_cell(env, enif_make_tuple2(env, a.exit, pid), list);
      ++n;
    } else if (head.flags & kChildSide) {
      const std::byte* p = at + kHeader + 8 + (head.flags & kTruncated ? 4 : 0);
      if (std::to_integer<unsigned>(p[0]) == etf::kNewPid &&
          std::to_integer<unsigned>(p[1]) == etf::kLocalAtom) {
        const ERL_NIF_TERM parent = ids(env, be32(p + 6), be32(p + 10));
        list = enif_make_list_cell(env, enif_make_tuple3(env, a.spawned, pid, parent), list);
        ++n;
      }
    }
  }
  return g.procs.load(std::memory_order_relaxed);
}

// In the order of scope_beat:kinds/0.
enum { kCalls, kArgs, kReturns, kSends, kFetches, kProcs, kTakes, kStates, kKinds };
unsigned kind_of(const RecordHead& head) {
  switch (head.kind) {
    case kEntry:
      return head.size > kHeader + 8 ? kArgs : kCalls;
    case kExit:
    case kException:
      return kReturns;
    case kSend:
      return kSends;
    case kFetch:
      return kFetches;
    case kTake:
      return kTakes;
    case kState:
      return kStates;
    default:
      return kProcs;
  }
}

ERL_NIF_TERM strings(ErlNifEnv* env) {
  ErlNifBinary b;
  if (!enif_alloc_binary(4096, &b)) return 0;
  std::size_t used = 0;
  for (std::uint32_t i = 0; i < scratch->atoms; ++i) {
    if (b.size - used < 6 + 1024 && !enif_realloc_binary(&b, b.size * 2)) break;
    const std::uint32_t id = scratch->ids[i];
    const int size = atom_utf8(env, atom_of(id), reinterpret_cast<char*>(b.data) + used + 6);
    if (size < 0) continue;  // the reader says so of the records that name it
    const auto length = static_cast<std::uint16_t>(size);
    std::memcpy(b.data + used, &id, 4);
    std::memcpy(b.data + used + 4, &length, 2);
    used += 6 + length;
  }
  (void)enif_realloc_binary(&b, used);
  return enif_make_binary(env, &b);
}

// Gaps of what the rings had no room for since they were last told.
ERL_NIF_TERM gaps(ErlNifEnv* env, unsigned rings) {
  std::uint64_t n = 0;
  std::int64_t from = INT64_MAX, until = INT64_MIN;
  for (unsigned i = 0; i < rings; ++i) {
    Ring& ring = *g.ring(i);
    const std::uint64_t dropped = ring.dropped.load(std::memory_order_acquire);
    const std::uint64_t told = get(ring.dropped_told);
    if (dropped == told) continue;
    n += dropped - told;
    from = std::min(from, ring.drop_first.load(std::memory_order_relaxed));
    until = std::max(until, ring.drop_last.load(std::memory_order_relaxed));
    ring.dropped_told.store(dropped, std::memory_order_relaxed);
  }
  const std::uint64_t ringless = g.ringless.load(std::memory_order_relaxed);
  const std::uint64_t told = get(g.ringless_told);
  if (ringless != told) {
    g.ringless_told.store(ringless, std::memory_order_relaxed);
    n += ringless - told;
    from = std::min(from, pass_before);
    until = std::max(until, now());
  }
  if (n == 0) return enif_make_list(env, 0);
  return enif_make_list1(env, enif_make_tuple4(env, a.ring_full, enif_make_uint64(env, n),
                                               enif_make_int64(env, vm_clock.vm(from)),
                                               enif_make_int64(env, vm_clock.vm(until))));
}

// A record of another filling of the bucket says nothing of who empties this one.
bool spenders_wanted(std::int64_t t) {
  if (!bucket.limited.load(std::memory_order_relaxed)) return false;
  Spenders& spenders = scratch->spenders;
  const bool filled = spenders.since < bucket.filled.load(std::memory_order_relaxed);
  if (filled || (t - spenders.since > kBurst && dry_since() == 0)) spenders.forget(t);
  return true;
}

// What was rejected since the last time: {N, From, Until} | none.
ERL_NIF_TERM rejects(ErlNifEnv* env, unsigned rings, std::int64_t t) {
  std::uint64_t rejected = 0;
  for (unsigned i = 0; i < rings; ++i) {
    Ring& ring = *g.ring(i);
    const std::uint64_t now_rejected = get(ring.rejected);
    rejected += now_rejected - get(ring.rejected_told);
    ring.rejected_told.store(now_rejected, std::memory_order_relaxed);
  }
  if (rejected == 0) return a.none;
  return enif_make_tuple3(env, enif_make_uint64(env, rejected),
                          enif_make_int64(env, vm_clock.vm(pass_before)),
                          enif_make_int64(env, vm_clock.vm(t)));
}

}  // namespace

bool drain_setup() {
  void* p = mmap(nullptr, sizeof(Scratch), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  scratch = p == MAP_FAILED ? nullptr : static_cast<Scratch*>(p);
  vm_clock.begin();
  cut_before = pass_before = now();
  return scratch != nullptr;
}

void drain_teardown() {
  if (scratch) munmap(scratch, sizeof(Scratch));
  scratch = nullptr;
}

// drain() -> {N, First, Last, Cut, Gaps, Strings, Records, More, Family, Rejected, Counts}; More: call again at once.
ERL_NIF_TERM drain(ErlNifEnv* env, int, const ERL_NIF_TERM[]) {
  if (!g.ready.load() || g.draining.exchange(true)) return a.busy;
  const std::int64_t t = now();
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const unsigned rings = std::min(g.claimed.load(), g.rings);
  std::int64_t cut = t;
  unsigned n_active = 0;
  for (unsigned i = 0; i < rings; ++i) {
    Ring& ring = *g.ring(i);
    const auto flight = static_cast<std::int64_t>(ring.in_flight.load(std::memory_order_seq_cst));
    if (flight != 0) cut = std::min(cut, flight);
    ring.until = ring.head.load(std::memory_order_acquire);
    if (ring.until != ring.tail.load(std::memory_order_relaxed))
      scratch->active[n_active++] = &ring;
  }
  cut = std::max(cut, cut_before);
  vm_clock.look();

  if (++scratch->generation == 0) ++scratch->generation;
  scratch->atoms = 0;
  ERL_NIF_TERM family_list = enif_make_list(env, 0);
  unsigned n_family = 0;
  std::uint64_t n = 0, of[kKinds] = {};
  std::size_t used = 0;
  std::int64_t first = 0, last = 0;
  bool more = false;
  const Rules* const rules = g.rules.load(std::memory_order_acquire);
  const TextPatterns* const texts = rules && rules->texts().any() ? &rules->texts() : nullptr;
  const bool spending = spenders_wanted(t);
  Ring** const active = scratch->active;
  const auto time_at = [](const Ring* r) {
    return head_of(*r, r->tail.load(std::memory_order_relaxed)).time;
  };
  while (n_active > 0 && !more) {
    // The ring with the oldest record, up to the oldest of the others.
    unsigned best = 0;
    std::int64_t oldest = INT64_MAX, bound = cut;
    for (unsigned i = 0; i < n_active; ++i) {
      const std::int64_t at = time_at(active[i]);
      if (at < oldest) {
        bound = std::min(bound, oldest);
        oldest = at;
        best = i;
      } else {
        bound = std::min(bound, at);
      }
    }
    if (oldest >= cut) break;
    Ring& ring = *active[best];
    std::uint64_t tail = ring.tail.load(std::memory_order_relaxed);
    // Of equal times either may go first; at least one goes.
    for (bool once = true; tail != ring.until; once = false) {
      const RecordHead& head = head_of(ring, tail);
      if (!once && head.time >= bound) break;
      if (used >= kBatch || scratch->atoms >= kMostAtoms - 2048 || n_family >= kMostFamily) {
        more = true;
        cut = head.time;
        break;
      }
      const std::uint64_t padded = (head.size + 7u) & ~7ull;
      const auto* at = reinterpret_cast<const std::byte*>(&head);
      if (family(env, at, head, family_list, n_family)) {
        std::byte* const copy = scratch->out + used;
        std::memcpy(copy, at, padded);
        std::uint32_t size = see_record(env, copy, at, head, texts);
        if (spending) {
          const auto kind = static_cast<Kind>(head.kind);
          const bool payload = kind_of(head) != kCalls;
          scratch->spenders.add(head.id, head.serial, cost_of(kind, payload, head.size));
        }
        last = told(head.time);
        std::memcpy(copy + offsetof(RecordHead, time), &last, sizeof last);
        while (size % 8 != 0) copy[size++] = std::byte{0};
        ++of[kind_of(head)];
        used += size;
        if (n++ == 0) first = last;
      }
      tail += padded;
    }
    ring.tail.store(tail, std::memory_order_release);
    if (tail == ring.until) active[best] = active[--n_active];
  }
  cut_before = std::max(cut, cut_before);
  cut_told = told(cut_before);
  const ERL_NIF_TERM gap_list = gaps(env, rings);
  const ERL_NIF_TERM rejected = rejects(env, rings, t);
  pass_before = t;

  ERL_NIF_TERM records;
  unsigned char* bytes = enif_make_new_binary(env, used, &records);
  if (used) std::memcpy(bytes, scratch->out, used);
  ERL_NIF_TERM counts[kKinds];
  for (unsigned i = 0; i < kKinds; ++i) counts[i] = enif_make_uint64(env, of[i]);
  ERL_NIF_TERM fields[11] = {enif_make_uint64(env, n),
                             enif_make_int64(env, first),
                             enif_make_int64(env, last),
                             enif_make_int64(env, cut_told),
                             gap_list,
                             strings(env),
                             records,
                             enif_make_atom(env, more ? "true" : "false"),
                             0,
                             rejected,
                             enif_make_list_from_array(env, counts, kKinds)};
  (void)enif_make_reverse_list(env, family_list, &fields[8]);
  g.draining.store(false);
  if (!fields[5])
    fields[5] = records;  // no memory for names: the reader counts what it cannot name
  return enif_make_tuple_from_array(env, fields, 11);
}

// spenders() -> [{{Id, Serial}, Part}]: who spent most of what was drained since the bucket was filled, at most 32, the
// largest first, and which part of all that was spent, 0.0 to 1.0. By the drainer.
ERL_NIF_TERM spenders(ErlNifEnv* env, int, const ERL_NIF_TERM[]) {
  constexpr std::size_t kMost = 32;
  if (!g.ready.load() || g.draining.exchange(true)) return enif_make_list(env, 0);
  std::array<Spenders::Slot, kMost> most{};
  const Spenders& of = scratch->spenders;
  std::partial_sort_copy(std::begin(of.slot), std::end(of.slot), most.begin(), most.end(),
                         [](const auto& x, const auto& y) { return x.spent > y.spent; });
  ERL_NIF_TERM list = enif_make_list(env, 0);
  for (auto it = most.rbegin(); it != most.rend(); ++it) {
    if (it->spent <= 0) continue;
    const double part = static_cast<double>(it->spent) / static_cast<double>(of.all);
    list = enif_make_list_cell(
        env, enif_make_tuple2(env, ids(env, it->id, it->serial), enif_make_double(env, part)),
        list);
  }
  g.draining.store(false);
  return list;
}

// Bytes that wait in the rings; the part of the fullest that is full, in 1/256; what was lost and not yet told; when
// the budget's bucket was found dry, {our time, ns ago}, or 0; how often tracees began to run, in all.
ERL_NIF_TERM pending(ErlNifEnv* env, int, const ERL_NIF_TERM[]) {
  const unsigned rings = std::min(g.claimed.load(), g.rings);
  std::uint64_t sum = 0, most = 0, lost = 0, scheduled = 0;
  if (bucket.limited.load(std::memory_order_relaxed))
    (void)found_dry(bucket.paid.load(std::memory_order_relaxed), now());
  const std::int64_t dry = dry_since();
  for (unsigned i = 0; i < rings; ++i) {
    const Ring& ring = *g.ring(i);
    const std::uint64_t held =
        ring.head.load(std::memory_order_acquire) - ring.tail.load(std::memory_order_relaxed);
    sum += held;
    most = std::max(most, held);
    scheduled += get(ring.scheduled);
    lost +=
        get(ring.dropped) - get(ring.dropped_told) + get(ring.rejected) - get(ring.rejected_told);
  }
  return enif_make_tuple5(
      env, enif_make_uint64(env, sum),
      enif_make_uint64(env, most * 256 / std::max<std::size_t>(1, g.ring_bytes)),
      enif_make_uint64(env, lost),
      dry ? enif_make_tuple2(env, enif_make_int64(env, dry), enif_make_int64(env, now() - dry))
          : enif_make_int64(env, 0),
      enif_make_uint64(env, scheduled));
}

ERL_NIF_TERM counters(ErlNifEnv* env, int, const ERL_NIF_TERM[]) {
  const unsigned rings = std::min(g.claimed.load(), g.rings);
  std::uint64_t pushed = 0, rejected = 0, scheduled = 0, bytes = 0, dropped = g.ringless.load(),
                held = 0;
  for (unsigned i = 0; i < rings; ++i) {
    const Ring& ring = *g.ring(i);
    pushed += get(ring.pushed);
    dropped += get(ring.dropped);
    rejected += get(ring.rejected);
    scheduled += get(ring.scheduled);
    bytes += get(ring.bytes);
    held += ring.head.load() - ring.tail.load();
  }
  const std::pair<const char*, std::uint64_t> values[] = {
      {"pushed", pushed}, {"dropped", dropped},         {"rejected", rejected},
      {"bytes", bytes},   {"ring_bytes", g.ring_bytes}, {"rings", g.rings},
      {"held", held},     {"scheduled", scheduled}};
  ERL_NIF_TERM map = enif_make_new_map(env);
  for (const auto& [name, value] : values) {
    (void)enif_make_map_put(env, map, enif_make_atom(env, name), enif_make_uint64(env, value),
                            &map);
  }
  return map;
}

}  // namespace scope::tracer
