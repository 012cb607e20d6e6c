// What is acknowledged outlives all that may happen: rolls, retention, a full map, a full disk, damage, kill -9.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>

#include "store/edge_store.h"
#include "test/unit/store/store_fixture.h"

namespace scope::test {
namespace {

class RetentionTest : public StoreTest {
 protected:
  // Partitions of 400 KB, 15 KB a batch.
  RetentionTest() {
    options_.block_rows = 200;
    options_.partition_bytes = 400'000;
    open();
    n_ = incarnation(m_);
  }
  void some(int batches) {
    for (int k = 0; k < batches; ++k) {
      for (std::int64_t i = 0; i < 50; ++i) {
        std::string text(300, ' ');
        for (auto& c : text) c = static_cast<char>(random_() % 256);
        m_.state(m_.own(static_cast<unsigned>(random_() % 20)), server_state(i, text),
                 static_cast<std::int64_t>(seq_ * 50) + i);
      }
      append(m_.batch(n_, ++seq_));
    }
    flush();
  }
  void await_bytes(std::uint64_t most) {
    for (int i = 0; i < 100 && store_->stats().bytes_on_disk > most; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_LE(store_->stats().bytes_on_disk, most);
  }

 private:
  BatchMaker m_{"shop@host", 3, 77};
  Incarnation n_ = kNoIncarnation;
  std::mt19937 random_{1};
  std::uint64_t seq_ = 0;
};

// They go with their blocks, and can be made again: they never take more than half of it.
TEST_F(RetentionTest, KeptEdgesCountAgainstTheBudgetOfBytes) {
  some(200);
  const auto before = store_->stats().bytes_on_disk;
  options_.retain_bytes = before + 100'000;
  const auto with_edges = [&](std::size_t parts) {
    store_.reset();
    auto edges = store::EdgeStore::open(options_.path, 1, 1, false, nullptr);
    ASSERT_TRUE(edges) << to_string(edges.error());
    for (std::uint32_t part = 0; part < parts; ++part)
      ASSERT_TRUE((*edges)->put(1, part, std::vector<std::byte>(100'000)));
    open();
  };
  with_edges(6);
  await_bytes(options_.retain_bytes - 600'000);
  EXPECT_GT(store_->stats().bytes_on_disk, before / 2);
  with_edges(before / 50'000);
  await_bytes(options_.retain_bytes / 2);
  EXPECT_GT(store_->stats().bytes_on_disk,
            options_.retain_bytes / 2 - 2 * options_.partition_bytes);
}

TEST_F(RetentionTest, RollsAndDropsWholePartitions) {
  some(200);
  EXPECT_GE(store_->stats().partitions, 3U);
  auto before = rows_of(*store_->snapshot());
  EXPECT_EQ(before.size(), 10'000U);
  reopen();
  EXPECT_EQ(rows_of(*store_->snapshot()), before);
  EXPECT_EQ(store_->stats().events_stored, 10'000U);
  some(1);
  EXPECT_EQ(rows_of(*store_->snapshot()).size(), 10'050U);
  before = rows_of(*store_->snapshot());

  options_.retain_bytes = 1'000'000;
  reopen();
  auto view = store_->snapshot();
  const auto shown = rows_of(*view);  // retention may have been at work already
  const auto files = [&] {
    return std::count_if(std::filesystem::directory_iterator(options_.path), {}, [](const auto& e) {
      return e.path().filename().string().starts_with("p-") && e.path().extension() == ".mdb";
    });
  };
  await_bytes(options_.retain_bytes);
  const auto left = rows_of(*store_->snapshot());
  EXPECT_LT(left.size(), before.size());
  EXPECT_TRUE(rows_of(*view) == shown) << "a view keeps what it shows";
  view.reset();
  const auto partitions = static_cast<long>(store_->stats().partitions);
  for (int i = 0; i < 100 && files() > partitions; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(files(), static_cast<long>(store_->stats().partitions));
  reopen();
  EXPECT_EQ(rows_of(*store_->snapshot()), left);
}

TEST_F(StoreTest, AFullMapIsRolled) {
  options_.map_bytes = 2u << 20;
  options_.partition_bytes = 1u << 30;
  options_.block_rows = 4000;
  open();
  BatchMaker m("shop@host", 3, 77);
  const auto n = incarnation(m);
  std::mt19937 random(1);
  for (std::uint64_t seq = 1; seq <= 60; ++seq) {
    for (std::int64_t i = 0; i < 50; ++i) {
      std::string text(1000, ' ');
      for (auto& c : text) c = static_cast<char>(random() % 256);
      m.send(m.own(1), m.own(2), binary_term(text), static_cast<std::int64_t>(seq * 50) + i);
    }
    append(m.batch(n, seq));
    flush();
  }
  EXPECT_GE(store_->stats().partitions, 2U);
  EXPECT_EQ(rows_of(*store_->snapshot()).size(), 3000U);
  reopen();
  EXPECT_EQ(rows_of(*store_->snapshot()).size(), 3000U);
}

TEST_F(StoreTest, AFullDiskStopsAcknowledgementsAndLosesNothing) {
  open();
  BatchMaker m("shop@host", 3, 77);
  const auto n = incarnation(m);
  std::mt19937 random(1);
  const auto batch = [&](std::uint64_t seq) {
    for (std::int64_t i = 0; i < 50; ++i) {
      std::string text(500, ' ');
      for (auto& c : text) c = static_cast<char>(random() % 256);
      m.send(m.own(1), m.own(2), binary_term(text), static_cast<std::int64_t>(seq * 50) + i);
    }
    return m.batch(n, seq);
  };
  // No file of this process may grow beyond 600 KB: to the store that is a full disk.
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit small{600'000, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  std::uint64_t seq = 0;
  for (; seq < 40 && store_->stats().commit_failures == 0; (void)store_->flush(200))
    append(batch(++seq));
  EXPECT_GT(store_->stats().commit_failures, 0U);
  const auto acked = listener_.committed(n);
  EXPECT_LT(acked, seq);
  EXPECT_EQ(rows_of(*store_->snapshot()).size(), seq * 50) << "the tail is still readable";
  setrlimit(RLIMIT_FSIZE, &old);
  flush();
  EXPECT_EQ(listener_.committed(n), seq);
  const auto rows = rows_of(*store_->snapshot());
  EXPECT_EQ(rows.size(), seq * 50);
  reopen();
  EXPECT_EQ(rows_of(*store_->snapshot()), rows);
}

// A disk that is really full: a tmpfs of 3 MB, which takes root to mount.
TEST_F(StoreTest, AFullTmpfsStopsAcknowledgementsAndLosesNothing) {
  const auto disk = folder_.path() + "/disk";
  std::filesystem::create_directory(disk);
  if (::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=3m") != 0)
    GTEST_SKIP() << "a tmpfs cannot be mounted here: " << std::strerror(errno);
  options_.path = disk + "/db";
  options_.map_bytes = 64u << 20;
  options_.block_rows = 400;
  open();
  BatchMaker m("shop@host", 3, 77);
  const auto n = incarnation(m);
  std::mt19937 random(1);
  std::uint64_t seq = 0;
  for (; seq < 200 && store_->stats().commit_failures == 0; (void)store_->flush(200)) {
    for (std::int64_t i = 0; i < 50; ++i) {
      std::string text(500, ' ');
      for (auto& c : text) c = static_cast<char>(random() % 256);
      m.send(m.own(1), m.own(2), binary_term(text), static_cast<std::int64_t>(seq * 50) + i);
    }
    append(m.batch(n, ++seq));
  }
  EXPECT_GT(store_->stats().commit_failures, 0U);
  EXPECT_LT(listener_.committed(n), seq);
  EXPECT_EQ(rows_of(*store_->snapshot()).size(), seq * 50) << "what is there is still readable";
  // Ended like this, it opens again, on the disk that is full: with what was acknowledged.
  const auto acked = listener_.committed(n);
  store_.reset();
  {
    auto again = store::TraceStore::open(options_, nullptr);
    if (again) {
      EXPECT_GE(rows_of(*(*again)->snapshot()).size(), acked * 50);
    } else {
      EXPECT_EQ(again.error().code, Code::disk_full) << to_string(again.error());
    }
  }
  ASSERT_EQ(::mount("tmpfs", disk.c_str(), "tmpfs", MS_REMOUNT, "size=64m"), 0);
  open();
  flush();
  const auto rows = rows_of(*store_->snapshot());
  EXPECT_GE(rows.size(), acked * 50);
  reopen();
  EXPECT_EQ(rows_of(*store_->snapshot()), rows);
  store_.reset();
  EXPECT_EQ(::umount2(disk.c_str(), MNT_DETACH), 0);
}

// What a view shows of the tail it holds itself, and sealed blocks never change: so however long it is held, and asked, the pages
// that the hot log frees are used again once a reading is over. A transaction held for as long as the view would keep all
// that 2,400 commits free: 60 MB and more.
// What a commit frees is used again by the next but one, unless a transaction of a reader that began before is still open.
// Here nobody runs beside the writer: a reader that lost the processor for 100 ms within its transaction would cost what is
// written meanwhile, and how much that is says nothing about the store.
class Growth : public StoreTest {
 protected:
  void begin() {
    options_.block_rows = 400;
    options_.sync = false;
    store_.reset();
    std::filesystem::remove_all(options_.path);
    open();
    n_ = incarnation(m_ = BatchMaker("shop@host", 3, 77));
    seq_ = 0;
  }
  void commit(std::int64_t step) {  // the time from row to row
    for (std::int64_t i = 0; i < 60; ++i) {
      m_.state(m_.own(static_cast<unsigned>(i % 9)), server_state(i, std::string(200, 'x')),
               static_cast<std::int64_t>(++rows_) * step);
    }
    append(m_.batch(n_, ++seq_));
    flush();
  }
  double bytes() const {
    return static_cast<double>(std::filesystem::file_size(options_.path + "/p-00000001.mdb"));
  }
  BatchMaker m_{"shop@host", 3, 77};
  Incarnation n_ = 0;
  std::uint64_t seq_ = 0, rows_ = 0;
};

TEST_F(Growth, AReaderThatNeverLetsGoDoesNotMakeTheFileGrow) {
  const auto fill = [&](bool held) {
    begin();
    std::shared_ptr<const store::View> view;
    for (int i = 1; i <= 2400; ++i) {
      commit(1);
      if (held && i == 50) view = store_->snapshot();
      if (view == nullptr || i % 4 != 0) continue;
      EXPECT_TRUE(view->rollup({}, [](const store::RollupCell&) {}));
      EXPECT_TRUE(view->edges({}, [](const store::EdgeCell&) {}));
      for (const auto& unit : view->units()) EXPECT_TRUE(view->read(unit, {}));
    }
    if (held) {
      EXPECT_EQ(rows_of(*view).size(), 50U * 60) << "and it still shows what it showed";
      EXPECT_GT(store_->stats().longest_read_ns, 0);
    }
    return bytes();
  };
  const double alone = fill(false), with = fill(true);
  EXPECT_LE(with, alone + 1e6);
  RecordProperty("alone_kb", static_cast<int>(alone / 1000));
  RecordProperty("with_kb", static_cast<int>(with / 1000));
}

TEST_F(Growth, AQuestionThatTakesLongDoesNotMakeTheFileGrow) {
  const auto fill = [&](bool asked) {
    begin();
    for (int i = 0; i < 40; ++i) commit(1'000'000'000);  // a cell of the rollup for each row
    int cells = 0;
    const auto cell = [&] {
      ++cells;
      commit(1);
    };
    if (asked) {
      EXPECT_TRUE(store_->snapshot()->rollup({}, [&](const store::RollupCell&) { cell(); }));
      EXPECT_GE(cells, 2400);
    } else {
      for (int i = 0; i < 2400; ++i) cell();
    }
    return bytes();
  };
  const double alone = fill(false), with = fill(true);
  // Of 2,400 commits at most 256 lie between two looks at the clock.
  RecordProperty("alone_kb", static_cast<int>(alone / 1000));
  RecordProperty("with_kb", static_cast<int>(with / 1000));
  EXPECT_LE(with, alone + 60e6);
}

TEST_F(StoreTest, ADamagedBlockIsNamedAndCounted) {
  options_.block_rows = 100;
  open();
  BatchMaker m("shop@host", 3, 77);
  const auto n = incarnation(m);
  for (int i = 0; i < 200; ++i)
    m.state(m.own(static_cast<unsigned>(i % 9)), server_state(i, "text"), i);
  append(m.batch(n, 1));
  flush();
  store_.reset();
  const auto file = options_.path + "/p-00000001.mdb";
  std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(f)), {});
  const auto at = bytes.find("SBLK");
  ASSERT_NE(at, bytes.npos);
  f.seekp(static_cast<std::streamoff>(at + 130));
  f.put(static_cast<char>(~bytes[at + 130]));
  f.close();
  open();
  const auto view = store_->snapshot();
  int bad = 0;
  for (const auto& unit : view->units()) {
    const auto rows = view->read(unit, {});
    if (rows) continue;
    ++bad;
    EXPECT_EQ(rows.error().code, Code::corrupt);
    EXPECT_TRUE(rows.error().message.starts_with(
        fmt::format("block {} of partition 1 (batches 1 to 1)", unit.block)))
        << rows.error().message;
  }
  EXPECT_EQ(bad, 1);
  EXPECT_EQ(store_->stats().corrupt_blocks, 1U);
}

// Batch `seq` of the crash test: its rows follow from its number alone.
store::IncomingBatch crash_batch(BatchMaker& m, Incarnation n, std::uint64_t seq) {
  std::mt19937 random(static_cast<unsigned>(seq));
  const auto count = 1 + random() % 60;
  for (unsigned i = 0; i < count; ++i) {
    const auto p = m.own(static_cast<unsigned>(random() % 30));
    const auto t = static_cast<std::int64_t>(seq * 100 + i / 3);
    if (random() % 2) {
      m.state(p, server_state(t, "crash"), t);
    } else {
      m.send(p, BatchMaker::far("stock@host", 2, 9), gen_call(p, i, "crash"), t);
    }
  }
  return seq % 2 ? m.batch(n, seq) : m.compact_batch(n, seq, {});  // hashes are not compared
}

// Writes each acknowledged number to a file, with one system call: what was written there is known to outlive a kill.
class AckFile final : public store::StoreListener {
 public:
  explicit AckFile(int fd) : fd_(fd) {}
  void on_committed(Incarnation, std::uint64_t seq) override {
    if (::pwrite(fd_, &seq, sizeof seq, 0) != sizeof seq) std::abort();
  }
  void on_out_of_order(Incarnation, std::uint64_t, std::uint64_t) override { std::abort(); }
  void on_published() override {}

 private:
  int fd_;
};

[[noreturn]] void run_until_killed(const store::StoreOptions& options, int fd) {
  AckFile acks(fd);
  auto store = store::TraceStore::open(options, &acks);
  if (!store) std::_Exit(3);
  BatchMaker m("shop@host", 3, 77);
  const auto info = (*store)->incarnation("shop@host", 3, 77);
  if (!info) std::_Exit(4);
  for (auto seq = info->last_committed_seq;;) {
    auto batch = crash_batch(m, info->number, ++seq);
    while (!(*store)->append(batch)) {
    }
    std::this_thread::sleep_for(std::chrono::microseconds(400));
  }
}

TEST_F(StoreTest, KilledAtAnyMomentLosesNothingThatWasAcknowledged) {
  options_.block_rows = 500;
  options_.partition_bytes = 400'000;
  const auto ack_path = folder_.path() + "/acks";
  std::ofstream(ack_path, std::ios::binary) << std::string(8, '\0');
  std::mt19937 random(std::random_device{}());
  std::uint64_t acked_before = 0;
  const auto* rounds = std::getenv("SCOPE_KILLS");
  for (int round = 0; round < (rounds ? std::atoi(rounds) : 20); ++round) {
    const int fd = ::open(ack_path.c_str(), O_RDWR);
    ASSERT_GE(fd, 0);
    const pid_t child = ::fork();
    if (child == 0) run_until_killed(options_, fd);
    // Mostly once something new was acknowledged, else wherever it is: at its start perhaps.
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    for (std::uint64_t now = 0; round % 4 != 3 && std::chrono::steady_clock::now() < give_up;) {
      ASSERT_EQ(::pread(fd, &now, sizeof now, 0), static_cast<ssize_t>(sizeof now));
      if (now > acked_before) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 150));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself: " << WEXITSTATUS(status);
    std::uint64_t acked = 0;
    ASSERT_EQ(::pread(fd, &acked, sizeof acked, 0), static_cast<ssize_t>(sizeof acked));
    ::close(fd);
    ASSERT_GE(acked, acked_before);
    acked_before = acked;
    open();
    const auto info = store_->incarnation("shop@host", 3, 77);
    ASSERT_TRUE(info);
    EXPECT_GE(info->last_committed_seq, acked);
    // What is there is what a store that was never killed has, ids and all.
    const auto rows = rows_of(*store_->snapshot());
    store_.reset();
    TempFolder other;
    auto calm_options = options_;
    calm_options.path = other.path() + "/db";
    calm_options.sync = false;
    {
      auto calm = store::TraceStore::open(calm_options, nullptr);
      ASSERT_TRUE(calm);
      BatchMaker m("shop@host", 3, 77);
      const auto n = (*calm)->incarnation("shop@host", 3, 77)->number;
      for (std::uint64_t seq = 1; seq <= info->last_committed_seq; ++seq) {
        const auto batch = crash_batch(m, n, seq);
        while (!(*calm)->append(batch)) ASSERT_TRUE((*calm)->flush(10'000));
      }
      ASSERT_TRUE((*calm)->flush(10'000));
      // The hash key differs from store to store, so hashes are left out.
      const auto without_hash = [](std::vector<std::string> list) {
        for (auto& s : list) s.erase(s.find(" hash="), s.find(" orig=") - s.find(" hash="));
        return list;
      };
      ASSERT_EQ(without_hash(rows), without_hash(rows_of(*(*calm)->snapshot())))
          << "round " << round;
    }
  }
  EXPECT_GE(acked_before, 8U) << "too slow a machine to say anything";
}

// Hours of it in minutes: small partitions come and go while everything is asked; what is shown is what was not dropped,
// and neither disk nor memory grow. SCOPE_SOAK_EVENTS: how many (10 million under the label `long`).
TEST_F(StoreTest, ASoakWithRetentionRunning) {
  const auto* wanted = std::getenv("SCOPE_SOAK_EVENTS");
  const std::uint64_t events = wanted ? std::strtoull(wanted, nullptr, 10) : 200'000;
  constexpr std::uint64_t kBatch = 500;
  options_.block_rows = 4096;
  options_.partition_bytes = 4u << 20;
  options_.retain_bytes = 24u << 20;
  options_.map_bytes = 256u << 20;
  options_.sync = false;
  if (!wanted) {
    options_.partition_bytes = 1u << 20;
    options_.retain_bytes = 4u << 20;
  }
  open();
  BatchMaker m("shop@host", 3, 77);
  const auto n = incarnation(m);
  std::mt19937 random(1);
  const auto anon_mb = [] {
    std::ifstream in("/proc/self/status");
    for (std::string line; std::getline(in, line);) {
      if (line.starts_with("RssAnon:")) return std::stod(line.substr(8)) / 1024;
    }
    return 0.0;
  };
  std::atomic<bool> stop = false;
  std::atomic<std::uint64_t> asked = 0, wrong = 0;
  store::RowFilter bare;
  bare.payload = false;
  std::jthread reader([&] {
    while (!stop) {
      // Rows are numbered by their times: those of a view are an unbroken stretch up to its end.
      const auto view = store_->snapshot();
      std::uint64_t rows = 0, counted = 0;
      std::int64_t first = INT64_MAX, last = 0;
      for (const auto& unit : view->units()) {
        const auto read = view->read(unit, bare);
        if (!read) {
          ++wrong;
          continue;
        }
        rows += read->rows.size();
        for (const auto& row : read->rows) {
          first = std::min(first, row.record.time.ns);
          last = std::max(last, row.record.time.ns);
        }
      }
      const auto info = view->rollup({}, [&](const store::RollupCell& c) { counted += c.rows; });
      if (!info || !info->missing.empty() || counted != rows ||
          (rows > 0 && static_cast<std::uint64_t>(last - first) + 1 != rows))
        ++wrong;
      ++asked;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  std::int64_t t = 0;
  double anon_early = 0, anon_late = 0;
  for (std::uint64_t seq = 1; seq * kBatch <= events; ++seq) {
    for (std::uint64_t i = 0; i < kBatch; ++i) {
      std::string text(60, ' ');
      for (auto& c : text) c = static_cast<char>('a' + random() % 26);
      // A new process every 10 events.
      ++t;
      m.state(m.own(static_cast<unsigned>(t / 10 % 1'000'000)), server_state(t, text), t);
    }
    append(m.batch(n, seq));
    const auto share = static_cast<double>(seq * kBatch) / static_cast<double>(events);
    if (share > 0.3 && anon_early == 0) anon_early = anon_mb();
    if (share > 0.3) anon_late = std::max(anon_late, anon_mb());
  }
  flush();
  stop = true;
  reader.join();
  EXPECT_GT(asked, 0U);
  EXPECT_EQ(wrong, 0U);
  const auto kept = options_.retain_bytes + options_.partition_bytes;
  for (int i = 0; i < 200 && store_->stats().bytes_on_disk > kept; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_LE(store_->stats().bytes_on_disk, kept);
  // A sanitizer keeps what was freed for a while.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
  anon_late = std::min(anon_late, anon_early);
#endif
#endif
  EXPECT_LE(anon_late, anon_early + 64) << "MB of anonymous memory, from a third of the way on";
  // Another partition may go between the two looks.
  std::size_t rows = 0;
  const auto counted = [&] {
    for (int i = 0; i < 100; ++i) {
      rows = rows_of(*store_->snapshot(), bare).size();
      if (store_->stats().events_stored == rows) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return false;
  };
  EXPECT_TRUE(counted()) << "what was dropped is counted no more";
  EXPECT_LT(rows, static_cast<std::size_t>(t));
  reopen();
  EXPECT_TRUE(counted());
  EXPECT_GT(rows, 0U);
}

}  // namespace
}  // namespace scope::test
