// Random operations on a store, and every kind of question asked of it, against a model in memory (store_model.h).
//
// What    A run is a list of operations: batches of three agents (two of one VM), in time, late or shuffled, as the Erlang
//         and as the native tracer send them, some sent twice; clock versions; opening anew with another size of block and
//         partition (a partition per block among them); retention; protecting, archiving, attaching and detaching.
//         After each `check`, and at the end: rows by filter, candidates, rollups, edges, clocks and cuts, get_events with cursors
//         (while more arrives), state_at and counts are compared with the model; scans that make no row, with those that make all; lives, names, histories, flows,
//         durations, queue times and peers with a second store that never seals, rolls or closes: it answers from its tail alone.
// Fails   RapidCheck prints the seed, the smallest list of operations that still fails, and how to run it again:
//         RC_PARAMS="reproduce=..." or RC_PARAMS="seed=... max_success=...".
#include "test/property/store_run.h"

namespace rc {
template <>
struct Arbitrary<scope::test::Op> {
  static Gen<scope::test::Op> arbitrary() {
    using scope::test::Op;
    return gen::build<Op>(gen::set(&Op::kind, gen::weightedElement<Op::Kind>({{30, Op::batch},
                                                                              {8, Op::late},
                                                                              {8, Op::shuffled},
                                                                              {3, Op::again},
                                                                              {5, Op::clock},
                                                                              {6, Op::flush},
                                                                              {5, Op::check},
                                                                              {5, Op::reopen},
                                                                              {2, Op::retain},
                                                                              {2, Op::protect},
                                                                              {3, Op::archive},
                                                                              {3, Op::attach},
                                                                              {1, Op::detach}})),
                          gen::set(&Op::node, gen::inRange<std::uint8_t>(0, 3)),
                          gen::set(&Op::count, gen::inRange<std::uint16_t>(0, 120)),
                          gen::set(&Op::seed, gen::inRange<std::uint32_t>(0, 1u << 20)));
  }
};
}  // namespace rc

int main() {
  using scope::test::Op;
  return rc::check("a store answers as a plain list does",
                   [](const std::vector<Op>& ops) {
                     scope::test::Run run;
                     run.order(!ops.empty() && ops.front().seed % 2 == 0);
                     for (const auto& op : ops) run.apply(op);
                     run.check(1);
                   })
             ? 0
             : 1;
}
