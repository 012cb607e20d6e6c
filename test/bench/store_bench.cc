// The store alone: ETF batches of three nodes through the writer, decoding included. Prints {"figures": {...}}.
//
// commit_ms_p50: of the last commit of each slice, its encoding of blocks included.
// cpu_over_zstd1: the store's CPU over that of zstd -1 of the same batches, one by one. In the file are pages of the hot log
//        that wait to be used again, a few MB whatever the file's size: the fewer the events, the more they weigh.
// paced  500 events/s in 20 batches; what the kernel was given to write for each (its own journal not counted).
// recorded  real batches of a file (BATCHES, or build/bench/batches.bin if it is there), their blocks over zstd -1 of each
//        batch. `bench_store --record STORE_FOLDER FILE` adds the hot log of a store that no daemon has; STORE_FOLDER is
//        changed, so give it a copy.
// Rivals (rivals.h) get the same slices, one after the other with ours, already decoded; rates are medians over the slices,
//        sizes and the times of questions are taken at the end.
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <fstream>
#include <map>
#include <set>

#include "analysis/aggregate.h"
#include "analysis/clock_model.h"
#include "analysis/state_at.h"
#include "store/bytes.h"
#include "store/key_format.h"
#include "store/lmdb.h"
#include "test/bench/rivals.h"
#include "test/bench/store_load.h"

namespace scope::test {
namespace {

double status_mb(std::string_view key) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(key)) return std::stod(line.substr(key.size() + 1)) / 1024;
  }
  return 0;
}

struct Figures {
  std::string text;
  void add(std::string_view name, double value) {
    text += fmt::format("{}\"{}\": {:.6g}", text.empty() ? "" : ", ", name, value);
    std::fprintf(stderr, "%-28s %12.4g\n", std::string(name).c_str(), value);
  }
};

// The events of a batch, as the rivals want them.
class Decoded final : public codec::RecordSink {
 public:
  void add(Bytes message, std::uint32_t node, const BatchMaker& m) {
    const auto& kept = messages_.emplace_back(message.begin(), message.end());
    const auto header = codec::read_batch_header(*codec::view(kept));
    SCOPE_CHECK(header.has_value());
    node_ = node;
    const auto first = events_.size();
    const auto stats = codec::decode_records(*header, {{}, m.node(), m.creation()},
                                             strings_.emplace_back(), *this);
    SCOPE_CHECK(stats.malformed == 0);
    const auto list = codec::view_message(header->events);
    SCOPE_CHECK(list.has_value());
    auto it = *list->list();
    for (auto i = first; i < events_.size(); ++i, it.next()) events_[i].term = it.item().bytes();
  }
  void record(const codec::TraceRecord& r) override {
    auto& e = events_.emplace_back();
    e.node = node_;
    e.record = r;
    if (r.mfa) {
      const auto name = fmt::format("{}:{}/{}", r.mfa.module, r.mfa.function, r.mfa.arity);
      e.function = functions_.try_emplace(name, static_cast<std::uint32_t>(functions_.size() + 1))
                       .first->second;
    }
  }
  std::span<const RivalEvent> events() const { return events_; }
  void clear() {
    events_.clear();
    strings_.clear();
    messages_.clear();
  }

 private:
  std::deque<std::vector<std::byte>> messages_;
  std::deque<codec::BatchStrings> strings_;
  std::vector<RivalEvent> events_;
  std::map<std::string, std::uint32_t> functions_;
  std::uint32_t node_ = 0;
};

double median(std::vector<double> list) {
  std::ranges::sort(list);
  return list.empty() ? 0 : list[list.size() / 2];
}

// zstd -1, one context.
class Zstd {
 public:
  std::size_t size_of(Bytes bytes) {
    out_.resize(ZSTD_compressBound(bytes.size()));
    const auto size =
        ZSTD_compressCCtx(context_.get(), out_.data(), out_.size(), bytes.data(), bytes.size(), 1);
    SCOPE_CHECK(!ZSTD_isError(size));
    return size;
  }

 private:
  std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context_{ZSTD_createCCtx(), &ZSTD_freeCCtx};
  std::vector<std::byte> out_;
};

// Of a store that nobody has open.
template <typename Use>
void each_value(const std::string& folder, const char* database, Use use) {
  for (const auto& e : std::filesystem::directory_iterator(folder)) {
    // Partitions: the audit log has other databases.
    if (e.path().extension() != ".mdb" || !e.path().stem().string().starts_with("p-")) continue;
    auto env = store::lmdb::Env::open(e.path().string(), {.map_bytes = 4ull << 30});
    SCOPE_CHECK(env.has_value());
    auto txn = store::lmdb::Txn::begin(*env, false);
    SCOPE_CHECK(txn.has_value());
    const auto dbi = txn->open_db(database, false);
    SCOPE_CHECK(dbi.has_value());
    auto cursor = store::lmdb::Cursor::open(*txn, *dbi);
    SCOPE_CHECK(cursor.has_value());
    for (auto on = cursor->first(); on && *on; on = cursor->next()) use(cursor->value());
  }
}
double value_bytes(const std::string& folder, std::initializer_list<const char*> databases) {
  double out = 0;
  for (const auto* name : databases)
    each_value(folder, name, [&](Bytes value) { out += static_cast<double>(value.size()); });
  return out;
}

double rows_in_blocks(const store::TraceStore& store) {
  double out = 0;
  for (const auto& unit : store.snapshot()->units()) out += unit.tail ? 0 : unit.rows;
  return out;
}

void alone(std::uint64_t events, Figures& figures) {
  const double anon_before = status_mb("RssAnon:");
  Load load;
  std::vector<double> commit_ms;
  double seconds = 0, peak_anon = 0, slice_mb = 0;
  std::uint64_t raw_bytes = 0, zstd_bytes = 0;
  double zstd_cpu = 0;
  Zstd zstd;
  for (std::uint64_t done = 0; done < events; done += Load::kSlice) {
    load.next();
    const auto cpu_begin = cpu_seconds();
    for (const auto& batch : load.slice) zstd_bytes += zstd.size_of(batch.message.bytes());
    zstd_cpu += cpu_seconds() - cpu_begin;
    raw_bytes += load.slice_bytes;
    slice_mb = std::max(slice_mb, static_cast<double>(load.slice_bytes) / 1e6);
    seconds += load.append();
    commit_ms.push_back(static_cast<double>(load.store->stats().commit_ns_last) / 1e6);
    peak_anon = std::max(peak_anon, status_mb("RssAnon:"));
  }
  const auto stats = load.store->stats();
  const auto stored = static_cast<double>(stats.events_stored);
  figures.add("events", stored);
  figures.add("events_per_s", stored / seconds);
  figures.add("cpu_us_per_event", load.cpu * 1e6 / stored);
  figures.add("cpu_over_zstd1", load.cpu / zstd_cpu);
  figures.add("zstd1_bytes_per_event", static_cast<double>(zstd_bytes) / stored);
  figures.add("raw_bytes_per_event", static_cast<double>(raw_bytes) / stored);
  figures.add("malformed", static_cast<double>(stats.malformed));
  figures.add("rss_anon_mb", peak_anon - anon_before);
  figures.add("rss_anon_generator_mb", slice_mb);
  figures.add("commit_ms_p50", median(commit_ms));
  const double sealed = rows_in_blocks(*load.store);
  load.store.reset();
  figures.add("bytes_per_event", load.file_bytes() / stored);
  figures.add("blocks_bytes_per_event", value_bytes(load.options.path, {"blk"}) / sealed);
  figures.add("indexes_bytes_per_event", value_bytes(load.options.path, {"seg"}) / sealed);
  const auto begin = Clock::now();
  auto again = store::TraceStore::open(load.options, nullptr);
  SCOPE_CHECK(again.has_value());
  figures.add("reopen_ms", seconds_since(begin) * 1e3);
}

void churn(std::uint64_t events, Figures& figures) {
  Load load(true);
  for (std::uint64_t done = 0; done < events; done += Load::kSlice) {
    load.next();
    load.append();
  }
  const auto stored = static_cast<double>(load.store->stats().events_stored);
  load.store.reset();
  figures.add("bytes_per_event_churn", load.file_bytes() / stored);
  figures.add("cpu_us_per_event_churn", load.cpu * 1e6 / stored);
}

double bytes_written() {
  std::ifstream in("/proc/self/io");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("write_bytes:")) return std::stod(line.substr(12));
  }
  return 0;
}

void paced(int seconds, Figures& figures) {
  Load load;
  constexpr int kPerSecond = 20, kEvents = 25;
  static_assert(kPerSecond * kEvents == 500);
  std::mt19937 random(3);
  BatchMaker maker("paced@host", 3, 3000);
  const auto number = load.store->incarnation(maker.node(), 3, 3000)->number;
  const double before = bytes_written();
  const auto begin = Clock::now();
  std::uint64_t seq = 0;
  std::int64_t clock = kEpoch;
  for (; seq < static_cast<std::uint64_t>(seconds) * kPerSecond;) {
    for (int i = 0; i < kEvents; ++i) {
      clock += 2'000'000;
      maker.state(maker.own(100 + static_cast<std::uint32_t>(random() % 500)),
                  server_state(static_cast<std::int64_t>(random()), "paced"), clock);
    }
    ++seq;
    while (!load.store->append(maker.batch(number, seq)))
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_until(begin + std::chrono::milliseconds(1000 / kPerSecond) * seq);
  }
  SCOPE_CHECK(load.store->flush(60'000).has_value());
  const auto stored = static_cast<double>(load.store->stats().events_stored);
  if (before > 0) figures.add("disk_bytes_per_event_at_500ps", (bytes_written() - before) / stored);
}

// A file of recorded batches: (node:text creation:4 agent:8 message:text)*, texts as ByteWriter has them.
int record(const std::string& folder, const std::string& file) {
  struct Batch {
    Incarnation incarnation;
    std::vector<std::byte> message;
  };
  std::vector<Batch> batches;
  each_value(folder, "hot", [&](Bytes value) {
    const auto message = value.subspan(store::kHotHeaderBytes);
    batches.push_back(
        {store::load<Incarnation>(value.data() + 1), {message.begin(), message.end()}});
  });
  store::StoreOptions options;
  options.path = folder;
  auto opened = store::TraceStore::open(options, nullptr);
  SCOPE_CHECK(opened.has_value());
  const auto view = (*opened)->snapshot();
  store::ByteWriter out;
  for (const auto& batch : batches) {
    for (const auto& info : view->incarnations()) {
      if (info.number != batch.incarnation || info.agent_id == 0) continue;
      out.text(info.node);
      out.u32(info.creation);
      out.u64(info.agent_id);
      out.text(store::as_text(batch.message));
    }
  }
  std::ofstream(file, std::ios::binary | std::ios::app) << store::as_text(out.bytes());
  std::fprintf(stderr, "%zu batches, %zu bytes\n", batches.size(), out.size());
  return 0;
}

void recorded(const std::string& file, Figures& figures) {
  std::ifstream in(file, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  if (bytes.empty()) return;
  Load load;
  Zstd zstd;
  struct Agent {
    Incarnation number = kNoIncarnation;
    std::uint64_t seq =
        0;  // counted here: copies of a store that runs overlap, or leave batches out
    std::set<std::uint64_t> seen;
  };
  std::map<std::uint64_t, Agent> agents;
  std::uint64_t packed = 0, raw = 0;
  store::ByteReader reader(store::as_bytes(bytes));
  while (reader.left() > 0) {
    const auto node = reader.text();
    const auto creation = reader.u32();
    const auto agent = reader.u64();
    const auto message = store::as_bytes(reader.text());
    SCOPE_CHECK(reader.ok());
    auto& [number, seq, seen] = agents[agent];
    if (seen.empty()) number = load.store->incarnation(node, creation, agent)->number;
    const auto header = codec::read_batch_header(*codec::view(message));
    SCOPE_CHECK(header.has_value());
    if (!seen.insert(header->seq).second) continue;
    packed += zstd.size_of(message);
    raw += message.size();
    auto batch = BatchMaker::incoming(number, ++seq, {message.begin(), message.end()});
    while (!load.store->append(batch)) std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
  SCOPE_CHECK(load.store->flush(60'000).has_value());
  const auto stats = load.store->stats();
  SCOPE_CHECK(stats.malformed == 0);
  if (stats.blocks == 0) return figures.add("recorded_events", 0);  // too few for one
  const double sealed = rows_in_blocks(*load.store);
  load.store.reset();
  const auto all = static_cast<double>(stats.events_stored);
  const double ours = value_bytes(load.options.path, {"blk", "seg"}) / sealed;
  figures.add("recorded_events", sealed);
  figures.add("recorded_raw_bytes_per_event", static_cast<double>(raw) / all);
  figures.add("recorded_bytes_per_event", ours);
  figures.add("bytes_over_zstd1_of_raw", ours * all / static_cast<double>(packed));
}

struct Compared {
  std::unique_ptr<Rival> rival;
  std::vector<double> rate, ratio;
  double cpu = 0;
};

template <typename Ask>
double ms_of(Ask ask) {
  const auto begin = Clock::now();
  ask();
  return seconds_since(begin) * 1e3;
}

// The same questions of each, one after the other: a state at a time, and how often a function was called. Answers must agree.
void ask_all(const Load& load, std::vector<Compared>& rivals, const Decoded& decoded,
             Figures& figures) {
  std::mt19937 random(9);
  const analysis::Context context{load.store->snapshot(), load.store->now(), {}, nullptr};
  const analysis::ClockModel clock(*context.view);
  const auto events = decoded.events();  // of the last slice
  std::vector<double> state, count;
  std::vector<std::vector<double>> its_state(rivals.size()), its_count(rivals.size());
  for (int round = 0; round < 300; ++round) {
    const auto& e = events[random() % events.size()];
    const auto& m = load.makers[e.node];
    if (e.record.type == codec::EventType::state_change) {
      const analysis::PidSpec pid{m.node(), m.creation(), e.record.pid.id, e.record.pid.serial};
      const auto at = clock.cluster(e.node + 1, e.record.time).time;
      std::size_t size = 0;
      state.push_back(ms_of([&] {
        const auto found = analysis::state_at(context, pid, at);
        SCOPE_CHECK(found.has_value());
        TermBuilder whole;
        whole.term(found->state.row.record.term());
        size = whole.size();
      }));
      for (std::size_t k = 0; k < rivals.size(); ++k) {
        const bool scans = std::strcmp(rivals[k].rival->name(), "ttb_file") == 0;
        if (scans && its_state[k].size() >= 5) continue;
        std::size_t its = 0;
        its_state[k].push_back(ms_of(
            [&] { its = rivals[k].rival->state_at(e.node, e.record.pid.id, e.record.time.ns); }));
        SCOPE_CHECK(its >= size);  // LMDB's row has a header
      }
    }
    if (round % 10 == 0 && e.function != 0) {
      analysis::AggregateSpec spec;
      spec.filter.mfa = analysis::MfaSpec{std::string(e.record.mfa.module),
                                          std::string(e.record.mfa.function), e.record.mfa.arity};
      std::uint64_t n = 0;
      count.push_back(ms_of([&] {
        const auto found = analysis::aggregate(context, spec);
        SCOPE_CHECK(found.has_value());
        for (const auto& g : found->groups) n += g.measured.rows;
      }));
      for (std::size_t k = 0; k < rivals.size(); ++k) {
        if (std::strcmp(rivals[k].rival->name(), "ttb_file") == 0) continue;
        std::uint64_t its = 0;
        its_count[k].push_back(ms_of([&] { its = rivals[k].rival->count(e.function); }));
        SCOPE_CHECK(its == n);
      }
    }
  }
  figures.add("state_at_p50_ms", median(state));
  figures.add("count_p50_ms", median(count));
  for (std::size_t k = 0; k < rivals.size(); ++k) {
    const std::string name = rivals[k].rival->name();
    figures.add(name == "ttb_file" ? "file_scan_state_at_over_ours" : name + "_state_at_over_ours",
                median(its_state[k]) / median(state));
    if (!its_count[k].empty())
      figures.add(name + "_count_over_ours", median(its_count[k]) / median(count));
  }
}

// Slice by slice: ours, then each rival.
void compared(std::uint64_t events, Figures& figures) {
  Load load;
  std::vector<Compared> rivals;
  const auto take_on = [&](std::unique_ptr<Rival> r) {
    if (r) rivals.push_back({std::move(r), {}, {}, 0});
  };
  std::vector<std::string> nodes;
  for (const auto& m : load.makers) nodes.push_back(m.node());
  take_on(make_row_lmdb(load.folder));
  take_on(make_sqlite(load.folder));
  take_on(make_etf_file(load.folder, nodes));
  Decoded decoded;
  std::uint64_t done = 0;
  while (done < events) {
    load.next();
    decoded.clear();
    for (std::size_t k = 0; k < load.slice.size(); ++k)
      decoded.add(load.slice[k].message.bytes(), static_cast<std::uint32_t>(k % kNodes),
                  load.makers[k % kNodes]);
    done += decoded.events().size();
    const double ours = load.append();
    for (auto& c : rivals) {
      const auto begin = Clock::now();
      const auto cpu_begin = cpu_seconds();
      c.rival->add(decoded.events());
      const double its = seconds_since(begin);
      c.cpu += cpu_seconds() - cpu_begin;
      c.rate.push_back(static_cast<double>(decoded.events().size()) / its);
      c.ratio.push_back(its / ours);
    }
  }
  ask_all(load, rivals, decoded, figures);
  load.store.reset();
  const double bytes = load.file_bytes();
  figures.add("compared_events", static_cast<double>(done));
  for (auto& c : rivals) {
    const auto name = c.rival->name();
    figures.add(fmt::format("{}_events_per_s", name), median(c.rate));
    figures.add(fmt::format("{}_bytes_per_event", name),
                c.rival->bytes() / static_cast<double>(done));
    figures.add(fmt::format("{}_cpu_us_per_event", name), c.cpu * 1e6 / static_cast<double>(done));
    figures.add(fmt::format("ingest_over_{}", name), median(c.ratio));
    figures.add(fmt::format("bytes_over_{}", name), bytes / c.rival->bytes());
    figures.add(fmt::format("cpu_over_{}", name), load.cpu / c.cpu);
  }
}

struct Options {
  std::uint64_t events = 5'000'000, compared = 3'000'000;  // 0: leave it out
  std::uint64_t churn = 1'000'000;
  int paced_seconds = 30;
  std::string batches;
};

int run(const Options& options) {
  Figures figures;
  if (options.events > 0) alone(options.events, figures);
  if (options.churn > 0) churn(options.churn, figures);
  if (options.paced_seconds > 0) paced(options.paced_seconds, figures);
  const bool has_batches = std::filesystem::exists(options.batches);
  if (has_batches) recorded(options.batches, figures);
  if (options.compared > 0) compared(options.compared, figures);
  std::printf("{\"figures\": {%s}", figures.text.c_str());
  if (!has_batches)
    std::printf(", \"left_out\": {\"bytes_over_zstd1_of_raw\": \"no recorded batches: --record\"}");
  std::printf(
      ", \"limits\": {\"cpu_us_per_event\": \"<= 0.6\", \"bytes_per_event\": \"<= 25\", "
      "\"bytes_over_zstd1_of_raw\": \"<= 1.3\", "
      "\"rss_anon_mb\": \"<= 45\", \"reopen_ms\": \"<= 500\", \"ingest_over_row_lmdb\": \">= 7\", "
      "\"ingest_over_sqlite\": \">= 12\", \"cpu_over_sqlite\": \"<= 0.1\", \"bytes_over_sqlite\": "
      "\"<= 0.125\", \"ingest_over_ttb_file\": \">= 0.4\", \"bytes_over_ttb_file\": \"<= 0.125\", "
      "\"sqlite_count_over_ours\": \">= 100\", \"file_scan_state_at_over_ours\": \">= 500\", "
      "\"sqlite_state_at_over_ours\": \">= 0.125\", \"row_lmdb_state_at_over_ours\": \">= 0.1\", "
      "\"cpu_over_row_lmdb\": \"<= 0.2\", \"bytes_over_row_lmdb\": \"<= 0.0834\"}}\n");
  return 0;
}

}  // namespace
}  // namespace scope::test

// bench_store [--quick] [--events N] [--compared N] [--churn N] [--paced SECONDS] [--batches FILE]; N = 0 leaves it out.
// 100 million events, 3 GB on disk: bench_store --events 100000000 --compared 0
int main(int argc, char** argv) {
  using namespace std::string_view_literals;
  scope::test::Options options;
  const char* top = std::getenv("SCOPE_TOP");
  options.batches = std::string(top ? top : ".") + "/build/bench/batches.bin";
  if (argc == 4 && argv[1] == "--record"sv) return scope::test::record(argv[2], argv[3]);
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (arg == "--quick") {
      options.events = options.churn = 600'000;
      options.compared = 1'000'000;
      options.paced_seconds = 10;
      continue;
    }
    const char* value = i + 1 < argc ? argv[++i] : "";
    const auto number = std::strtoull(value, nullptr, 10);
    if (arg == "--events") options.events = number;
    if (arg == "--compared") options.compared = number;
    if (arg == "--churn") options.churn = number;
    if (arg == "--paced") options.paced_seconds = static_cast<int>(number);
    if (arg == "--batches") options.batches = value;
  }
  return scope::test::run(options);
}
