// The floor under every native tracer: one whose trace/5 does nothing. Built and loaded by test/bench/capture.
#include <erl_nif.h>

namespace {
ERL_NIF_TERM trace_atom, ok_atom;
ERL_NIF_TERM enabled(ErlNifEnv*, int, const ERL_NIF_TERM[]) { return trace_atom; }
ERL_NIF_TERM trace(ErlNifEnv*, int, const ERL_NIF_TERM[]) { return ok_atom; }
int on_load(ErlNifEnv* env, void**, ERL_NIF_TERM) {
  trace_atom = enif_make_atom(env, "trace");
  ok_atom = enif_make_atom(env, "ok");
  return 0;
}
ErlNifFunc functions[] = {{"enabled", 3, enabled, 0}, {"trace", 5, trace, 0}};
}  // namespace

ERL_NIF_INIT(capture_floor, functions, on_load, nullptr, nullptr, nullptr)
