// One run: a store, the operations on it, and the model of what it must hold. What is asked and compared: store_checks.cc.
// One thread. A difference ends the run (RC_FAIL).
#pragma once

#include <rapidcheck.h>

#include <random>
#include <thread>

#include "analysis/query.h"
#include "store/maintenance.h"
#include "test/property/store_model.h"

namespace scope::test {

struct Op {
  enum Kind : std::uint8_t {
    batch,
    late,
    shuffled,
    again,
    clock,
    flush,
    check,
    reopen,
    retain,
    protect,
    archive,
    attach,
    detach,
  };
  Kind kind = batch;
  std::uint8_t node = 0;
  std::uint16_t count = 0;  // events
  std::uint32_t seed = 0;
};

inline void showValue(const Op& op, std::ostream& out) {
  static constexpr const char* kNames[] = {"batch",   "late",   "shuffled", "again",  "clock",
                                           "flush",   "check",  "reopen",   "retain", "protect",
                                           "archive", "attach", "detach"};
  out << kNames[op.kind] << "(" << int{op.node} << ", " << op.count << ", " << op.seed << ")";
}

inline constexpr int kAgents = 3;
inline constexpr std::int64_t kEpoch = 1'600'000'000'000'000'000;
inline constexpr int kTickBits = 22;  // a tick is 4 ms
inline constexpr ClusterTime kNow{kEpoch + 100'000'000'000'000};
inline constexpr std::string_view kWords[] = {"alder", "birch", "cedar", "maple", "willow"};

// Four ids; the last one stands alone.
inline std::string trace_id(std::size_t i) { return fmt::format("{:032x}", 0xabcdef01 * (i + 1)); }
inline std::string traceparent(std::size_t i) {
  return i == 3 ? trace_id(i) : fmt::format("00-{}-00f067aa0ba902b7-01", trace_id(i));
}

class Run {
 public:
  Run() {
    options_.path = folder_.path() + "/db";
    options_.sync = false;
    options_.block_rows = 60;
    options_.map_bytes = 256u << 20;
    calm_options_ = options_;
    calm_options_.path = folder_.path() + "/calm";
    calm_options_.block_rows = 1u << 20;
    open();
    // The same hash key.
    std::filesystem::create_directories(calm_options_.path);
    std::filesystem::copy_file(options_.path + "/manifest", calm_options_.path + "/manifest");
    auto calm = store::TraceStore::open(calm_options_, nullptr);
    RC_ASSERT(calm.has_value());
    calm_ = std::move(*calm);
    for (unsigned i = 0; i < kAgents; ++i) {
      // The first two are agents of one VM; the last one's raw times begin below 0.
      makers_.emplace_back(i < 2 ? "a@host" : "b@host", i < 2 ? 7 : 8, 100 + i);
      auto& m = makers_.back();
      for (auto* s : {store_.get(), calm_.get()}) {
        const auto info = s->incarnation(m.node(), m.creation(), m.agent_id());
        RC_ASSERT(info.has_value());
        numbers_[i] = info->number;
      }
      behind_[i] = kEpoch - (i == 2 ? -(5LL << 30) : 1'000'000'000'000 * (i + 1));
      ticks_[i] = (kEpoch - behind_[i]) >> kTickBits;
      measure(i, 0);
    }
  }

  // In every second run all rows come in the order of their times.
  void order(bool in_time) { in_time_ = in_time; }

  void apply(Op op) {
    if (in_time_ && (op.kind == Op::late || op.kind == Op::shuffled)) op.kind = Op::batch;
    switch (op.kind) {
      case Op::batch:
      case Op::late:
      case Op::shuffled:
        return record(op);
      case Op::again:
        if (last_[op.node]) append(*store_, *last_[op.node]);
        return;
      case Op::clock:
        return measure(op.node, op.seed);
      case Op::flush:
        return flush();
      case Op::check:
        return check(op.seed);
      case Op::reopen:
        store_.reset();
        options_.block_rows = 1 + op.seed % 150;
        options_.partition_bytes = op.seed % 7 == 0 ? 1 : op.seed % 7 < 4 ? 150'000 : 1u << 30;
        return open();
      case Op::retain:
        return retain(op.seed);
      default:
        return maintain(op);
    }
  }
  void check(std::uint32_t seed);

 private:
  void open() {
    auto opened = store::TraceStore::open(options_, nullptr);
    if (!opened) RC_FAIL(to_string(opened.error()));
    store_ = std::move(*opened);
  }
  static void flush(store::TraceStore& s) { RC_ASSERT(s.flush(60'000).has_value()); }
  void flush() {
    flush(*store_);
    flush(*calm_);
  }
  static void append(store::TraceStore& s, const store::IncomingBatch& batch) {
    while (!s.append(batch)) flush(s);
  }

  void record(const Op& op) {
    std::mt19937 random(op.seed);
    auto& m = makers_[op.node];
    auto& tick = ticks_[op.node];
    const auto seq = ++seqs_[op.node];
    // Equal times of a process may meet within a batch and across one boundary of batches (tail.h): batches in time share
    // their low bits by twos, others have their own.
    const bool in_time = op.kind == Op::batch;
    disordered_ |= !in_time;
    const auto low =
        static_cast<std::int64_t>(in_time ? seq / 2 * 2 : seq * 2 + 1) % (1 << kTickBits);
    auto at = op.kind == Op::late ? tick - static_cast<std::int64_t>(random() % 3000) : tick;
    for (int i = 0; i < op.count; ++i) {
      at += random() % 3;
      const auto back = op.kind == Op::shuffled ? static_cast<std::int64_t>(random() % 40) : 0;
      event(m, random, ((at - back) << kTickBits) + low);
    }
    if (random() % 8 == 0) {
      const auto t = (at << kTickBits) + low;
      m.gap(random() % 2 ? "overload" : "hold_full", 3, t - 1000, t);
    }
    tick = std::max(tick, at);
    const bool compact = m.has_compact_form() && random() % 2;
    auto batch = m.batch(numbers_[op.node], seq);
    model_.add(batch, m, store_->hash_key());
    append(*calm_, batch);
    if (compact) {
      batch = BatchMaker::incoming(numbers_[op.node], seq,
                                   m.compact(batch.message.bytes(), store_->hash_key()));
    }
    append(*store_, batch);
    last_[op.node] = batch;
  }

  void event(BatchMaker& m, std::mt19937& random, std::int64_t t) {
    const auto pid = [&] { return m.own(static_cast<unsigned>(10 + random() % 6)); };
    const auto any = [&] {
      const auto& other = makers_[random() % kAgents];
      return other.own(static_cast<unsigned>(10 + random() % 6));
    };
    const Mfa mfa{random() % 2 ? "shop" : "Elixir.Stock", random() % 3 ? "call" : "rare",
                  static_cast<std::uint8_t>(random() % 2)};
    std::string word(kWords[std::min<std::size_t>(random() % 12, 4)]);
    if (random() % 6 == 0) word = traceparent(random() % 4);
    const auto n = static_cast<std::uint32_t>(random() % 40);
    const auto message = gen_call(m.own(10 + n % 6), n, word);
    switch (random() % 14) {
      case 0:
        m.call(pid(), mfa, t);
        break;
      case 1:
        m.returned(pid(), mfa, binary_term(word), t);
        break;
      case 2:
      case 3:
        m.state(pid(), server_state(n, word), t);
        break;
      case 4:
      case 5:
        m.send(pid(), any(), message, t);
        break;
      case 6:
        m.fetch(pid(), message, t);
        break;
      case 7:
        m.take(pid(), message, t);
        break;
      case 8:
        m.spawn(pid(), pid(), mfa, t);
        break;
      case 9:
        if (random() % 4 == 0) m.exit(pid(), atom_term("normal"), t);
        break;
      case 10:
        m.registered(pid(), random() % 2 ? "stock" : "orders", t, random() % 3 != 0);
        break;
      case 11:
        m.send_to(pid(), atom_term("stock"), int_term(n), t);
        break;
      case 12:
        m.role(
            pid(), mfa, "args",
            [&](TermBuilder& b) { b.list(1).binary(std::string_view(word)).nil(); }, t);
        break;
      default:
        if (random() % 20 == 0) {
          m.alive(pid(), "orders", {}, mfa, t);
        } else {
          m.link(pid(), any(), t, random() % 2);
        }
    }
  }

  // A new version of an agent's clock: corrected time must not turn back, so it moves by less than 1 %.
  void measure(unsigned i, std::uint32_t seed) {
    store::ClockVersion v;
    v.incarnation = numbers_[i];
    v.raw_at = RawTime{ticks_[i] << kTickBits};
    if (measured_[i] && v.raw_at <= *measured_[i]) return;
    const auto way = measured_[i] ? (v.raw_at.ns - measured_[i]->ns) / 200 : 0;
    behind_[i] += way == 0 ? 0 : static_cast<std::int64_t>(seed) % (2 * way) - way;
    measured_[i] = v.raw_at;
    v.offset_ns = behind_[i];
    v.lower_ns = v.offset_ns - 50'000;
    v.upper_ns = v.offset_ns + 50'000;
    v.raw_to_system_ns = behind_[i];
    v.measured_at = ClusterTime{++versions_};
    v.source = 1;
    clocks_.push_back(v);
    for (auto* s : {store_.get(), calm_.get()}) RC_ASSERT(s->add_clock(v).has_value());
  }

  // ---- partitions: what the manifest lists is there, all else is not
  store::Manifest manifest() {
    const auto read = store::Manifest::read(options_.path);
    RC_ASSERT(read.has_value() && read->has_value());
    for (const auto& p : (*read)->partitions) first_[p.number] = p.first_lsn;
    return **read;
  }
  void set_absent() {
    const auto now = manifest();
    std::vector<std::pair<store::Lsn, store::Lsn>> absent;
    for (auto it = first_.begin(); it != first_.end(); ++it) {
      if (std::ranges::find(now.partitions, it->first, &store::Manifest::Partition::number) !=
          now.partitions.end())
        continue;
      const auto next = std::next(it);
      RC_ASSERT(next != first_.end() && next->first == it->first + 1);
      if (next->second > it->second) absent.emplace_back(it->second, next->second);
      dropped_ = true;
    }
    model_.set_absent(std::move(absent));
  }
  void retain(std::uint32_t seed) {
    store_.reset();
    const auto before = manifest();
    auto options = options_;
    std::swap(options, options_);
    options_.retain_bytes = 1 + seed % 400'000;
    options_.partition_bytes = 1u << 30;  // no rolls meanwhile
    open();
    const auto due = [&] {
      const auto now = manifest();
      std::uint64_t bytes = 0, mine = 0;
      for (const auto& p : now.partitions) {
        if (p.keep || !p.folder.empty()) continue;
        ++mine;
        bytes += std::filesystem::file_size(options_.path + fmt::format("/p-{:08}.mdb", p.number));
      }
      return mine > 1 && bytes > options_.retain_bytes && !now.partitions.front().keep;
    };
    for (int i = 0; i < 300 && due(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    store_.reset();
    options_ = options;
    const auto after = manifest();
    for (const auto& p : before.partitions) {
      if (!p.keep && p.folder.empty()) continue;
      RC_ASSERT(std::ranges::find(after.partitions, p.number,
                                  &store::Manifest::Partition::number) != after.partitions.end());
    }
    set_absent();
    open();
  }
  void maintain(const Op& op) {
    store_.reset();
    (void)manifest();
    {
      auto folder = store::StoreFolder::open(options_.path);
      if (!folder) RC_FAIL(to_string(folder.error()));
      const auto to = folder_.path() + "/archive";
      if (op.kind == Op::protect) {
        RC_ASSERT(folder->protect({0}, {INT64_MAX}, op.seed % 3 != 0).has_value());
      } else if (op.kind == Op::archive) {
        const auto moved = folder->archive({INT64_MAX}, to);
        if (!moved) RC_FAIL(to_string(moved.error()));
        archived_ |= !moved->empty();
      } else if (archived_ && op.kind == Op::attach) {
        const auto taken = folder->attach(to);
        if (!taken) RC_FAIL(to_string(taken.error()));
      } else if (archived_ && op.kind == Op::detach) {
        (void)folder->detach(to);  // perhaps nothing was attached
      }
      if (op.seed % 4 == 0) {
        const auto report = folder->verify();
        RC_ASSERT(report.has_value());
        if (report->damaged != 0) RC_FAIL(report->damages.front().what);
      }
    }
    set_absent();
    open();
  }

  // ---- questions
  analysis::Context context(const std::shared_ptr<const store::View>& view) const {
    return {view, kNow, {}, nullptr};
  }
  ProcessId some_process(std::mt19937& random) const {
    return {numbers_[random() % kAgents], static_cast<std::uint32_t>(10 + random() % 7), 0};
  }
  analysis::PidSpec some_pid(std::mt19937& random) const {
    const auto& m = makers_[random() % kAgents];
    return {m.node(), m.creation(), static_cast<std::uint32_t>(10 + random() % 6), 0};
  }
  // A time near some row.
  std::optional<store::StoredRow> some_row(std::mt19937& random) const {
    if (model_.all().empty()) return std::nullopt;
    return model_.all()[random() % model_.all().size()].row;
  }
  void check_rows(const store::View& view, std::mt19937& random);
  void check_sums(const store::View& view, std::mt19937& random);
  void check_walk(std::mt19937& random);
  void check_scan(const std::shared_ptr<const store::View>& view, std::mt19937& random);
  void check_state(const std::shared_ptr<const store::View>& view, std::mt19937& random);
  void check_counts(const std::shared_ptr<const store::View>& view, std::mt19937& random);
  void check_calm(const std::shared_ptr<const store::View>& view, std::mt19937& random);
  analysis::Filter some_filter(const analysis::ClockModel& clock, std::mt19937& random) const;

  TempFolder folder_;
  store::StoreOptions options_, calm_options_;
  std::unique_ptr<store::TraceStore> store_, calm_;
  StoreModel model_;
  std::vector<BatchMaker> makers_;
  Incarnation numbers_[kAgents] = {};
  std::int64_t behind_[kAgents] = {}, ticks_[kAgents] = {};
  std::optional<RawTime> measured_[kAgents];
  std::uint64_t seqs_[kAgents] = {};
  std::optional<store::IncomingBatch> last_[kAgents];
  std::vector<store::ClockVersion> clocks_;
  std::int64_t versions_ = 0;
  std::map<std::uint32_t, store::Lsn> first_;  // of each partition that ever was
  bool archived_ = false, dropped_ = false;
  // Agents send each process's rows in the order of their times. Lives and names, what is found by them (flow, peer), and the
  // pairing of waits follow the order of arrival; all else must hold for rows that come late, too.
  bool disordered_ = false, in_time_ = false;
};

}  // namespace scope::test
