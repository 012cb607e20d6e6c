// The machine's clock, which libfaketime does not reach: the system call itself. A NIF of scope_clocks.erl.
#include <erl_nif.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace {

ERL_NIF_TERM machine(ErlNifEnv* env, int, const ERL_NIF_TERM[]) {
  timespec t{};
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
  return enif_make_int64(env, ErlNifSInt64{t.tv_sec} * 1'000'000'000 + t.tv_nsec);
}

ErlNifFunc functions[] = {{"machine", 0, machine, 0}};

}  // namespace

ERL_NIF_INIT(scope_clocks, functions, nullptr, nullptr, nullptr, nullptr)
