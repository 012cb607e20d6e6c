// set_budget: what the budget has to do with time is scope_budget's to say, and comes here as numbers.
#include "erl/c_src/budget.h"

#include <cstring>

namespace scope::tracer {

Bucket bucket;

void Spenders::forget(std::int64_t t) {
  since = t;
  all = 0;
  std::memset(slot, 0, sizeof slot);
}

void Spenders::add(std::uint32_t id, std::uint32_t serial, std::int64_t cost) {
  all += cost;
  Slot& s = slot[(id * 2654435761u ^ serial * 0x85EBCA77u) >> 22];
  if (s.id == id && s.serial == serial) {
    s.spent += cost;
  } else if (s.spent >= cost) {
    s.spent -= cost;
  } else {
    s = {id, serial, cost - s.spent};
  }
}

// set_budget(none | {Debt, [Cost of each of scope_beat:kinds/0], Rejected, Scheduled, PerByte256, Small}) -> ok
// All in ns of the budget's time; Debt: how much of the second is taken. Not dry any more.
ERL_NIF_TERM set_budget(ErlNifEnv* env, int, const ERL_NIF_TERM argv[]) {
  int n;
  const ERL_NIF_TERM* e;
  if (argv[0] == a.none) {
    bucket.limited.store(false);
    bucket.dry.store(0);
    return a.ok;
  }
  ErlNifSInt64 debt;
  unsigned cost[8] = {}, rejected, scheduled, byte_256, small;
  if (!enif_get_tuple(env, argv[0], &n, &e) || n != 6 || !enif_get_int64(env, e[0], &debt) ||
      !enif_get_uint(env, e[2], &rejected) || !enif_get_uint(env, e[3], &scheduled) ||
      !enif_get_uint(env, e[4], &byte_256) || !enif_get_uint(env, e[5], &small)) {
    return enif_make_badarg(env);
  }
  ERL_NIF_TERM head, list = e[1];
  for (unsigned& c : cost) {
    if (!enif_get_list_cell(env, list, &head, &list) || !enif_get_uint(env, head, &c))
      return enif_make_badarg(env);
  }
  constexpr unsigned kOf[16] = {5, 0, 2, 2, 3, 4, 6, 7, 5, 5, 5, 5, 5, 5, 5, 5};  // by Kind
  for (unsigned k = 0; k < 16; ++k) bucket.kind[k].store(cost[kOf[k]]);
  bucket.args.store(cost[1]);
  bucket.rejected.store(rejected);
  bucket.scheduled.store(scheduled);
  bucket.byte_256.store(byte_256);
  bucket.small.store(small);
  const std::int64_t t = now();
  bucket.paid.store(t + debt);
  bucket.filled.store(t);
  bucket.limited.store(true);
  bucket.dry.store(0);
  return a.ok;
}

}  // namespace scope::tracer
