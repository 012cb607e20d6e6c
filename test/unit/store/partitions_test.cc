// Many partitions, lost ones, protected ones, archives, and what `scope store` does to a folder.
#include <fstream>
#include <random>
#include <set>
#include <thread>

#include "store/maintenance.h"
#include "test/unit/store/store_fixture.h"

namespace scope::test {
namespace {

using codec::EventType;
using store::StoreFolder;

class PartitionsTest : public StoreTest {
 protected:
  PartitionsTest() {
    options_.sync = false;
    options_.block_rows = 40;
    options_.partition_bytes = 120'000;
  }
  // Batches of 40 rows each, until there are so many partitions.
  void fill(std::uint64_t partitions) {
    for (int i = 0; store_->stats().partitions < partitions; ++i) {
      ASSERT_LT(i, 100'000);
      for (int k = 0; k < 40; ++k) {
        text_.resize(300);
        for (auto& c : text_) c = static_cast<char>('a' + random_() % 26);
        ++clock_;
        maker_.state(maker_.own(1 + static_cast<unsigned>(clock_ / 400)),
                     server_state(clock_, text_), clock_);
      }
      append(maker_.batch(number_, ++seq_));
      if (i % 4 == 3) flush();
    }
    flush();
  }
  void start() {
    open();
    number_ = incarnation(maker_);
    store::ClockVersion clock;
    clock.incarnation = number_;
    clock.offset_ns = store_->now().ns - clock_;
    clock.measured_at = store_->now();
    ASSERT_TRUE(store_->add_clock(clock));
    flush();
  }
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::count_if(std::filesystem::directory_iterator(options_.path), {}, [](const auto& e) {
          return e.path().filename().string().starts_with("p-") && e.path().extension() == ".mdb";
        }));
  }
  static std::size_t open_maps(const std::string& folder) {
    std::ifstream in("/proc/self/maps");
    std::size_t n = 0;
    for (std::string line; std::getline(in, line);) n += line.find(folder + "/p-") != line.npos;
    return n;
  }
  StoreFolder folder() {
    auto opened = StoreFolder::open(options_.path);
    EXPECT_TRUE(opened) << to_string(opened.error());
    return *std::move(opened);
  }
  static constexpr ClusterTime kEver{INT64_MAX};

  BatchMaker maker_{"shop@host", 3, 77};
  Incarnation number_ = 0;
  std::uint64_t seq_ = 0;
  std::int64_t clock_ = 1'000;
  std::mt19937 random_{3};
  std::string text_;
};

TEST_F(PartitionsTest, TwoHundredAreReadThroughSixtyFourOpenOnes) {
  start();
  fill(200);
  const auto rows = rows_of(*store_->snapshot());
  EXPECT_EQ(rows.size(), seq_ * 40);
  EXPECT_LE(open_maps(options_.path), 66U);
  reopen();
  EXPECT_LE(open_maps(options_.path), 66U);
  EXPECT_EQ(rows_of(*store_->snapshot()), rows);
  EXPECT_LE(open_maps(options_.path), 66U);
  // Eight readers that each want another one of them.
  const auto view = store_->snapshot();
  std::vector<std::jthread> readers;
  std::atomic<std::size_t> seen = 0;
  for (unsigned r = 0; r < 8; ++r) {
    readers.emplace_back([&, r] {
      const auto units = view->units();
      for (std::size_t i = 0; i < units.size(); ++i) {
        const auto rows_here = view->read(units[(i * 37 + r * 101) % units.size()], {});
        if (rows_here) seen += rows_here->rows.size();
      }
    });
  }
  readers.clear();
  EXPECT_EQ(seen, 8 * rows.size());
  const ProcessId old{number_, 3, 0};
  store::Selection s;
  s.rows.processes = {&old, 1};
  const auto found = view->candidates(s);
  EXPECT_GE(found.units.size(), 1U);
  EXPECT_LE(found.units.size(), 12U);
}

TEST_F(PartitionsTest, ALostOneIsAGapToldOnce) {
  start();
  fill(4);
  const auto before = rows_of(*store_->snapshot()).size();
  store_.reset();
  std::filesystem::remove(options_.path + "/p-00000002.mdb");
  std::ofstream(options_.path + "/p-00000003.mdb", std::ios::binary) << std::string(50'000, 'x');
  const auto gaps = [&] {
    store::RowFilter f;
    f.types = 1U << static_cast<unsigned>(EventType::gap);
    return rows_of(*store_->snapshot(), f);
  };
  open();
  flush();
  const auto told = gaps();
  EXPECT_EQ(told.size(), 2U);
  EXPECT_LT(rows_of(*store_->snapshot()).size(), before);
  reopen();
  EXPECT_EQ(gaps(), told);
  fill(store_->stats().partitions + 1);
  reopen();
  EXPECT_EQ(gaps(), told);
}

TEST_F(PartitionsTest, WhatIsProtectedStaysWithinItsBudget) {
  start();
  fill(6);
  EXPECT_FALSE(StoreFolder::open(options_.path)) << "a daemon has it";
  store_.reset();
  std::vector<std::uint32_t> kept;
  {
    auto f = folder();
    const auto third = f.manifest()->partitions[2];
    const auto too_much = f.protect({0}, kEver, true, 100'000);
    ASSERT_FALSE(too_much);
    EXPECT_EQ(too_much.error().code, Code::too_large);
    const auto done = f.protect({third.made_ns + 1}, {third.closed_ns - 1}, true);
    ASSERT_TRUE(done);
    kept = *done;
  }
  EXPECT_EQ(kept, std::vector<std::uint32_t>{3});
  options_.retain_bytes = 1;
  open();
  const auto partitions = [&] {
    std::set<std::uint32_t> out;
    const auto view = store_->snapshot();
    for (const auto& u : view->units()) {
      if (!u.tail) out.insert(u.partition);
    }
    return out;
  };
  for (int i = 0; i < 100 && partitions().contains(1); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const auto left = partitions();
  EXPECT_TRUE(left.contains(3));
  EXPECT_FALSE(left.contains(2));
  EXPECT_FALSE(left.contains(4));
  store_.reset();
  ASSERT_TRUE(folder().protect({0}, kEver, false));
  open();
  for (int i = 0; i < 100 && partitions().contains(3); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(partitions().contains(3));
}

TEST_F(PartitionsTest, AnArchiveIsReadBesideLiveData) {
  start();
  fill(5);
  const auto rows = rows_of(*store_->snapshot());
  store_.reset();
  const auto to = folder_.path() + "/archive";
  {
    auto f = folder();
    const auto moved = f.archive(kEver, to);
    ASSERT_TRUE(moved) << to_string(moved.error());
    EXPECT_EQ(*moved, (std::vector<std::uint32_t>{1, 2, 3, 4}));
    EXPECT_EQ(files(), 1U);
    EXPECT_FALSE(f.archive(kEver, options_.path));
  }
  open();
  EXPECT_LT(rows_of(*store_->snapshot()).size(), rows.size());
  store::RowFilter gaps;
  gaps.types = 1U << static_cast<unsigned>(EventType::gap);
  EXPECT_TRUE(rows_of(*store_->snapshot(), gaps).empty());
  fill(3);
  store_.reset();
  {
    auto f = folder();
    const auto taken = f.attach(to);
    ASSERT_TRUE(taken) << to_string(taken.error());
    EXPECT_EQ(taken->size(), 4U);
    EXPECT_TRUE(f.attach(to)->empty()) << "twice is once";
    const auto report = *f.verify();
    EXPECT_EQ(report.damaged, 0U) << report.damages.front().what;
    EXPECT_EQ(report.rows, seq_ * 40);
    EXPECT_GT(report.indexes, 0U);
  }
  options_.retain_bytes = 1;  // retention leaves attached partitions alone
  open();
  for (int i = 0; i < 100 && store_->stats().partitions > 5; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const auto all = rows_of(*store_->snapshot());
  EXPECT_TRUE(std::ranges::includes(all, std::vector(rows.begin(), rows.begin() + 400)));
  EXPECT_EQ(store_->stats().corrupt_blocks, 0U);
  store_.reset();
  options_.retain_bytes = 0;
  ASSERT_TRUE(folder().detach(to));
  EXPECT_FALSE(folder().detach(to));
  open();
  EXPECT_LT(rows_of(*store_->snapshot()).size(), all.size());
  store_.reset();
  // Another store's archive is refused.
  TempFolder other;
  options_.path = other.path() + "/db";
  start();
  store_.reset();
  const auto refused = folder().attach(to);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::bad_value);
}

TEST_F(PartitionsTest, VerifyNamesWhatIsDamaged) {
  start();
  fill(2);
  store_.reset();
  EXPECT_EQ(folder().verify()->damaged, 0U);
  const auto file = options_.path + "/p-00000001.mdb";
  std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(f)), {});
  const auto at = bytes.find("SBLK");
  ASSERT_NE(at, bytes.npos);
  f.seekp(static_cast<std::streamoff>(at + 200));
  f.put(static_cast<char>(~bytes[at + 200]));
  f.close();
  const auto report = *folder().verify();
  ASSERT_EQ(report.damaged, 1U);
  EXPECT_EQ(report.damages.front().partition, 1U);
  EXPECT_TRUE(report.damages.front().what.starts_with("block ")) << report.damages.front().what;
}

}  // namespace
}  // namespace scope::test
