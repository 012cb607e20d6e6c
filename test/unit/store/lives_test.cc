// Lives of processes and the names they held, wherever the rows are: tail, blocks, older partitions.
#include <random>

#include "test/unit/store/store_fixture.h"

namespace scope::test {
namespace {

using codec::EventType;

constexpr Mfa kHandleCall{"shop_orders", "handle_call", 3};

// Lives and names, as analysis asks for them, wherever the rows are.
class LivesTest : public StoreTest {
 protected:
  std::string lives(std::uint32_t id) {
    std::shared_ptr<const void> owner;
    const auto found = store_->snapshot()->lives({n_, id, 0}, owner);
    if (!found) return to_string(found.error());
    std::string out;
    for (const auto& l : *found) {
      const auto time = [](const std::optional<RawTime>& t) {
        return t ? std::to_string(t->ns) : "-";
      };
      out += fmt::format("{}.{} {} {} {} {}:{} parent {}@{};", l.process.incarnation, l.process.id,
                         time(l.spawned), time(l.exited), time(l.seen_alive), l.initial_call.module,
                         l.initial_call.function, l.parent ? l.parent->id : 0,
                         l.parent ? l.parent->node : "");
    }
    return out;
  }
  static std::string to_text(const std::vector<store::NameSpell>& spells) {
    std::string out;
    for (const auto& s : spells)
      out += fmt::format("{}={} {}..{}{};", s.name, s.process.id, s.from.ns,
                         s.until ? std::to_string(s.until->ns) : "",
                         s.from_baseline ? " baseline" : "");
    return out;
  }
  std::string holders(std::string_view name, std::string_view node = "shop@host") {
    std::shared_ptr<const void> owner;
    const auto found = store_->snapshot()->name_spells(node, name, owner);
    return found ? to_text(*found) : to_string(found.error());
  }
  std::string names(std::uint32_t id) {
    std::shared_ptr<const void> owner;
    const auto found = store_->snapshot()->names_of({n_, id, 0}, owner);
    return found ? to_text(*found) : to_string(found.error());
  }
  void begin_anew(std::uint32_t block_rows) {
    store_.reset();
    std::filesystem::remove_all(options_.path);
    options_.block_rows = block_rows;
    open();
    seq_ = 0;
    n_ = incarnation(m_);
  }
  void seal() {
    for (std::uint32_t i = 0; i < options_.block_rows; ++i) m_.call(m_.own(1), kHandleCall, 1);
    append(m_.batch(n_, ++seq_));
    flush();
    ASSERT_EQ(tail_units(*store_->snapshot()), 0U);
  }

  BatchMaker m_{"shop@host", 3, 77};
  Incarnation n_ = 0;
  std::uint64_t seq_ = 0;
};

TEST_F(LivesTest, AreTheSameInTailBlocksAndBoth) {
  for (const int sealed_until : {0, 1, 2, 3}) {
    begin_anew(50);
    const auto step = [&](int number) {
      append(m_.batch(n_, ++seq_));
      flush();
      if (number <= sealed_until) seal();
    };
    m_.alive(m_.own(5), "orders", m_.own(2), {"orders", "init", 1}, 10);
    m_.spawn(m_.own(5), m_.own(6), {"worker", "run", 0}, 20);
    m_.registered(m_.own(6), "w", 21);
    step(1);
    m_.registered(m_.own(6), "w", 30, false).registered(m_.own(7), "w", 31);
    m_.exit(m_.own(5), atom_term("normal"), 40).spawned(m_.own(8), m_.own(7), {"x", "y", 0}, 41);
    step(2);
    m_.registered(m_.own(8), "orders", 50)
        .exit(m_.own(7), atom_term("kill"), 60)
        .exit(m_.own(8), atom_term("a"), 70);
    step(3);
    EXPECT_EQ(lives(5), "1.5 - 40 10 orders:init parent 2@shop@host;") << sealed_until;
    EXPECT_EQ(lives(6), "1.6 20 - - worker:run parent 5@shop@host;");
    EXPECT_EQ(lives(8), "1.8 41 70 - x:y parent 7@shop@host;");
    EXPECT_EQ(lives(99), "");
    EXPECT_EQ(holders("w"), "w=6 21..30;w=7 31..60;");
    EXPECT_EQ(holders("orders"), "orders=5 10..40 baseline;orders=8 50..70;");
    EXPECT_EQ(holders("orders", ""), holders("orders"));
    EXPECT_EQ(holders("orders", "else@host"), "");
    EXPECT_EQ(names(7), "w=7 31..60;");
    EXPECT_EQ(names(5), "orders=5 10..40 baseline;");
  }
}

// In one nanosecond a name goes from 6 to 5, and 9 is said to be spawned by 6 and then by 5: as it arrived, whether a seal comes between or not.
TEST_F(LivesTest, ATieIsInTheOrderOfArrivalWhereverTheSealsAre) {
  for (const bool between : {false, true}) {
    begin_anew(50);
    m_.registered(m_.own(6), "w", 50);
    append(m_.batch(n_, ++seq_));
    flush();
    if (between) seal();
    m_.registered(m_.own(6), "w", 50, false).registered(m_.own(5), "w", 50);
    m_.spawn(m_.own(6), m_.own(9), {"first", "run", 0}, 50);
    m_.spawn(m_.own(5), m_.own(9), {"second", "run", 0}, 50);
    append(m_.batch(n_, ++seq_));
    flush();
    for (const bool sealed : {false, true}) {
      if (sealed) seal();
      EXPECT_EQ(holders("w"), "w=5 50..;w=6 50..50;") << between << sealed;
      EXPECT_EQ(names(6), "w=6 50..50;") << between << sealed;
      EXPECT_TRUE(lives(9).contains("first")) << lives(9) << between << sealed;
    }
  }
}

// What a seal looks up and writes, many processes and names at a time, against the same rows in the tail.
TEST_F(LivesTest, OfManyProcessesAreTheSameInBlocksAsInTheTail) {
  constexpr std::uint32_t kProcesses = 40;
  for (unsigned seed = 1; seed <= 6; ++seed) {
    std::vector<std::string> answers[2];
    for (const bool sealed : {false, true}) {
      begin_anew(1000);
      std::mt19937 random(seed);
      std::int64_t time = 0;
      for (int batch = 0; batch < 4; ++batch) {
        for (int i = 0; i < 30; ++i) {
          const auto p = m_.own(2 + static_cast<std::uint32_t>(random()) % kProcesses);
          const auto name = fmt::format("n{}", random() % 12);
          time += 10;
          switch (random() % 4) {
            case 0:
              m_.spawn(m_.own(1), p, {"worker", "run", 0}, time);
              break;
            case 1:
              m_.registered(p, name, time, random() % 4 != 0);
              break;
            default:
              m_.exit(p, atom_term("normal"), time);
          }
        }
        append(m_.batch(n_, ++seq_));
        flush();
        if (sealed) seal();
      }
      for (std::uint32_t id = 2; id < 2 + kProcesses; ++id)
        answers[sealed].push_back(lives(id) + names(id));
      for (int i = 0; i < 12; ++i) answers[sealed].push_back(holders(fmt::format("n{}", i)));
    }
    ASSERT_EQ(answers[0], answers[1]) << "seed " << seed;
  }
}

TEST_F(LivesTest, OutliveTheirPartition) {
  options_.block_rows = 100;
  options_.partition_bytes = 300'000;
  options_.retain_bytes = 700'000;
  open();
  n_ = incarnation(m_);
  m_.alive(m_.own(5), "orders", m_.own(2), {"orders", "init", 1}, 10);
  m_.spawn(m_.own(5), m_.own(6), {"worker", "run", 0}, 20).exit(m_.own(6), atom_term("normal"), 30);
  seal();
  std::mt19937 random(7);
  while (store_->stats().partitions < 2 || store_->snapshot()->units().front().partition < 3) {
    for (std::int64_t i = 0; i < 100; ++i) {
      std::string text(200, ' ');
      for (auto& c : text) c = static_cast<char>(random() % 256);
      m_.send(m_.own(5), m_.own(2), binary_term(text), static_cast<std::int64_t>(seq_ * 100) + i);
    }
    append(m_.batch(n_, ++seq_));
    flush();
    ASSERT_LT(seq_, 2000U);
    if (seq_ % 100 == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(300));  // retention looks each second
  }
  EXPECT_EQ(lives(5), "1.5 - - 10 orders:init parent 2@shop@host;");
  EXPECT_EQ(lives(6), "") << "it was gone before the roll, and went with its partition";
  EXPECT_EQ(holders("orders"), "orders=5 10.. baseline;");
  m_.exit(m_.own(5), atom_term("normal"), 1'000'000'000);
  seal();
  EXPECT_EQ(names(5), "orders=5 10..1000000000 baseline;");
  reopen();
  EXPECT_EQ(names(5), "orders=5 10..1000000000 baseline;");
}

}  // namespace
}  // namespace scope::test
