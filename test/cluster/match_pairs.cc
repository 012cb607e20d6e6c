// What the matcher makes of a whole store, for whoever knows better (match_SUITE, `scripts/bench match`).
//
//   match_pairs DB [TRUTH]      nobody else has the store open
//
// Prints `SEND ARRIVAL HOW CANDIDATES` for each pair, events by their ids in hexadecimal, and `NAME NUMBER` for each of:
// rows and seconds (of the best of three passes, decoding included), the matcher's counters, and of the clocks, over the
// sure pairs of two nodes: `crossing`, `causality_violations` (corrected arrival before its send; the first of them as
// `early SEND ARRIVAL by NS`), `clock_bound_violations`
// (by more than both ends' errors: a bound was wrong) and `clock_bound_median_us` (of both ends' errors); `told_late`: the pairs
// out of order for which there is one in the opposite direction, so that no clocks have both sends before their arrivals. The
// row of a send to another node may be late (clock_pairs.cc): of these two, one is.
//
// TRUTH: lines `NODE MACHINE RAW`, what a node's raw clock said when the machine's said MACHINE, by time; nodes with the first
// line's name (before its number) are the reference. Then `offset_error_us_max_NAME` with how far a node's corrected time was from the truth, against the
// reference's at most 0.2 s away, and `offset_bound_violations`: by more than both errors (each as `beyond`); and of the
// pairs that are out of order those whose arrival came before its send by the machine's clock, too: `traced_late` (clock_pairs.cc).
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "analysis/clock_cone.h"
#include "analysis/message_match.h"
#include "analysis/row_stream.h"
#include "store/trace_store.h"

namespace scope::analysis {
namespace {

struct Pair {
  EventId send, arrival;
  Matched how = Matched::unknown;
  std::uint32_t candidates = 0;
  std::int64_t took_ns = 0;   // by corrected time
  std::int64_t error_ns = 0;  // of both ends together; 0 on one node
};

struct Pairs : MatchSink {
  void matched(const Message& send, const Message& arrival, Matched how,
               std::uint32_t candidates) override {
    all.push_back({send.id, arrival.id, how, candidates, arrival.at.time.ns - send.at.time.ns,
                   slack(send.at, send.id, arrival.at, arrival.id)});
  }
  void taken(const Message&, const Message&) override {}
  std::vector<Pair> all;
};

constexpr std::size_t kAdvanceEvery = 1024;

struct Pass {
  Pairs pairs;
  MatchStats stats;
  std::size_t rows = 0;
  std::uint64_t corrupt = 0;
  double seconds = 0;
};

void run(const store::View& view, const Context& context, Pass& out) {
  const auto begun = std::chrono::steady_clock::now();
  const ClockModel clock(view);
  ScanSpec spec;
  spec.types = codec::bit(codec::EventType::message_send) |
               codec::bit(codec::EventType::message_fetch) |
               codec::bit(codec::EventType::message_take);
  spec.order = Order::oldest_first;
  spec.payload = true;
  RowStream rows(context, clock, spec);
  Receivers receivers(context, clock);
  MessageMatcher matcher(out.pairs);
  for (RowStream::Item item; rows.next(item);) {
    if (++out.rows % kAdvanceEvery == 0) matcher.advance(item.at.time);
    matcher.add(receivers.message(*item.row, item.at));
  }
  matcher.finish();
  out.stats = matcher.stats();
  out.corrupt = rows.corrupt_blocks();
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

std::string hex(const EventId& id) {
  std::string out;
  for (const auto byte : id.to_bytes()) out += fmt::format("{:02x}", static_cast<unsigned>(byte));
  return out;
}

// What the machine's clock said at a raw time, between two readings that are no more than 0.3 s apart and have no step between.
class Truth {
 public:
  Truth(const store::View& view, const char* path) {
    std::ifstream in(path == nullptr ? "" : path);
    std::string node;
    std::int64_t machine = 0, raw = 0;
    while (in >> node >> machine >> raw) {
      for (const auto& i : view.incarnations()) {
        if (i.node == node && i.agent_id != 0) readings_[i.number].emplace_back(raw, machine);
      }
    }
  }
  std::optional<std::int64_t> machine(const EventId& id) const {
    const auto known = readings_.find(id.process.incarnation);
    if (known == readings_.end()) return std::nullopt;
    const auto& all = known->second;
    const auto b = std::ranges::upper_bound(all, std::pair(id.time.ns, INT64_MAX));
    if (b == all.begin() || b == all.end()) return std::nullopt;
    const auto a = std::prev(b);
    const auto raw = b->first - a->first, machine = b->second - a->second;
    if (machine > 300'000'000 || std::abs(raw - machine) > machine / 50) return std::nullopt;
    return a->second +
           static_cast<std::int64_t>(static_cast<double>(id.time.ns - a->first) *
                                     static_cast<double>(machine) / static_cast<double>(raw));
  }

 private:
  std::map<Incarnation, std::vector<std::pair<std::int64_t, std::int64_t>>> readings_;
};

// By node, the most; the number beyond the errors that were said.
void judge_offsets(const store::View& view, const char* path) {
  const ClockModel clock(view);
  std::ifstream in(path);
  std::string node, reference;
  std::int64_t machine = 0, raw = 0, behind = 0, behind_error = 0, behind_at = 0;
  std::map<std::string, std::int64_t> most;
  std::size_t violations = 0, samples = 0;
  const auto name_of = [](const std::string& n) { return n.substr(0, n.find_first_of("_@")); };
  while (in >> node >> machine >> raw) {
    if (reference.empty()) reference = name_of(node);
    const auto info = std::ranges::find_if(
        view.incarnations(), [&](const auto& i) { return i.node == node && i.agent_id != 0; });
    if (info == view.incarnations().end()) continue;
    const auto at = clock.cluster(info->number, RawTime{raw});
    if (at.error_ns == kUnknownError) continue;
    if (name_of(node) == reference) {
      behind = at.time.ns - machine;
      behind_error = at.error_ns;
      behind_at = machine;
    } else if (behind_at != 0 && machine - behind_at < 200'000'000) {
      const auto wrong = std::abs(at.time.ns - machine - behind);
      auto& worst = most[name_of(node)];
      worst = std::max(worst, wrong);
      if (wrong > at.error_ns + behind_error) {
        ++violations;
        fmt::print("beyond {} at {} wrong by {} of {} and {}\n", node, machine, wrong, at.error_ns,
                   behind_error);
      }
      ++samples;
    }
  }
  for (const auto& [name, worst] : most) {
    fmt::print("offset_error_us_max_{} {:.3f}\n", name, static_cast<double>(worst) / 1000);
  }
  fmt::print("offset_samples {}\noffset_bound_violations {}\n", samples, violations);
}

// Pairs by their two nodes, and raw times that are near: which of them contradict each other, whatever the clocks.
class Opposite {
 public:
  explicit Opposite(const std::vector<Pair>& all) {
    for (const auto& p : all) {
      if (p.how == Matched::ambiguous || p.error_ns == 0) continue;
      pairs_[{p.send.process.incarnation, p.arrival.process.incarnation}].push_back(&p);
    }
    for (auto& [nodes, pairs] : pairs_)
      std::ranges::sort(pairs, {}, [](const Pair* p) { return p->arrival.time; });
  }
  bool contradicts(const Pair& p) const {
    constexpr std::int64_t kNear = 10'000'000;
    const auto raw = [](const Pair& pair) { return pair.arrival.time.ns - pair.send.time.ns; };
    const auto at = pairs_.find({p.arrival.process.incarnation, p.send.process.incarnation});
    if (at == pairs_.end()) return false;
    const auto first = std::ranges::lower_bound(at->second, p.send.time.ns - kNear, {},
                                                [](const Pair* q) { return q->arrival.time.ns; });
    for (auto q = first; q != at->second.end(); ++q) {
      const auto apart = std::abs((*q)->arrival.time.ns - p.send.time.ns);
      if ((*q)->arrival.time.ns > p.send.time.ns + kNear) break;
      if (raw(p) + raw(**q) + part(std::int64_t{2} * kWideDriftPpb, apart) < 0) return true;
    }
    return false;
  }

 private:
  std::map<std::pair<Incarnation, Incarnation>, std::vector<const Pair*>> pairs_;
};

int main(const char* path, const char* truth) {
  store::StoreOptions options;
  options.path = path;
  auto store = store::TraceStore::open(options, nullptr);
  if (!store) {
    fmt::print(stderr, "match_pairs: {}\n", store.error().message);
    return 1;
  }
  Context context;
  context.view = (*store)->snapshot();
  context.now = (*store)->now();
  Pass pass;
  run(*context.view, context, pass);
  double best = pass.seconds;
  for (int again = 0; again < 2; ++again) {
    Pass other;
    run(*context.view, context, other);
    best = std::min(best, other.seconds);
  }
  for (const auto& p : pass.pairs.all) {
    fmt::print("{} {} {} {}\n", hex(p.send), hex(p.arrival), name(p.how), p.candidates);
  }
  std::vector<std::int64_t> errors;
  const Truth clock_truth(*context.view, truth);
  const auto traced_late = [&](const Pair& p) {
    const auto sent = clock_truth.machine(p.send), arrived = clock_truth.machine(p.arrival);
    return sent && arrived && *arrived < *sent;
  };
  const Opposite opposite(pass.pairs.all);
  std::size_t violations = 0, unbounded = 0, late = 0, told_late = 0;
  constexpr std::size_t kMostNamed = 20;
  for (const auto& p : pass.pairs.all) {
    if (p.how == Matched::ambiguous || p.error_ns == 0) continue;
    errors.push_back(p.error_ns / 2);
    late += p.took_ns < 0 && traced_late(p);
    told_late += p.took_ns < 0 && opposite.contradicts(p);
    if (p.took_ns < 0 && violations++ < kMostNamed) {
      fmt::print("early {} {} by {}\n", hex(p.send), hex(p.arrival), -p.took_ns);
    }
    unbounded += p.took_ns < -p.error_ns;
  }
  std::ranges::sort(errors);
  const auto& s = pass.stats;
  fmt::print("rows {}\nseconds {:.6f}\ncorrupt {}\nsends {}\narrivals {}\n", pass.rows, best,
             pass.corrupt, s.sends, s.arrivals);
  fmt::print("exact {}\nunique {}\nambiguous {}\nunmatched_sends {}\nunmatched_arrivals {}\n",
             s.exact, s.unique, s.ambiguous, s.unmatched_sends, s.unmatched_arrivals);
  fmt::print("system {}\nunhashed {}\nfell_out {}\n", s.system, s.unhashed, s.fell_out);
  fmt::print("crossing {}\ncausality_violations {}\nclock_bound_violations {}\n", errors.size(),
             violations, unbounded);
  fmt::print("traced_late {}\ntold_late {}\n", late, told_late);
  if (!errors.empty()) {
    fmt::print("clock_bound_median_us {:.3f}\n",
               static_cast<double>(errors[errors.size() / 2]) / 1000);
  }
  if (truth != nullptr) judge_offsets(*context.view, truth);
  (*store)->close();
  return 0;
}

}  // namespace
}  // namespace scope::analysis

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) {
    fmt::print(stderr, "usage: match_pairs DB [TRUTH]\n");
    return 64;
  }
  return scope::analysis::main(argv[1], argc == 3 ? argv[2] : nullptr);
}
