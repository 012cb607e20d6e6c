// A whole store, as it was written when its formats landed, is read as it was then: manifest, partitions (hot log, blocks, segments,
// names, lives, clocks, ordinals, carried states) and the audit log. test/golden/README.md has the rule.
//
// And one that is written now holds the same; SCOPE_MAKE_GOLDEN=FOLDER leaves it there, with what is said of it.
#include <cstdlib>
#include <fstream>
#include <regex>
#include <sstream>

#include "store/audit_log.h"
#include "test/unit/store/store_fixture.h"

namespace scope::test {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr unsigned kProcesses = 9;

// Everything that can be asked of a store without knowing what a question is.
std::string all_of(const store::View& view, const store::AuditLog* audit) {
  std::string out;
  const auto section = [&](std::string_view name, std::vector<std::string> lines) {
    std::ranges::sort(lines);
    out += fmt::format("# {}\n{}\n", name, fmt::join(lines, "\n"));
  };
  const auto time = [](const std::optional<RawTime>& t) {
    return t ? std::to_string(t->ns) : std::string("-");
  };
  section("rows", rows_of(view));
  std::vector<std::string> lines;
  for (const auto& i : view.incarnations())
    lines.push_back(fmt::format("{} home {} {}/{} agent {} seq {} complete {}", i.number, i.home,
                                i.node, i.creation, i.agent_id, i.last_committed_seq,
                                time(view.complete_until(i.number))));
  section("incarnations", std::exchange(lines, {}));
  for (const auto& v : view.clocks())
    lines.push_back(fmt::format("{} {} at {} offset {} {}..{} drift {} {} system {} measured {} {}",
                                v.incarnation, v.version, v.raw_at.ns, v.offset_ns, v.lower_ns,
                                v.upper_ns, v.drift_ppb, v.drift_bound_ppb, v.raw_to_system_ns,
                                v.measured_at.ns, v.source));
  section("clocks", std::exchange(lines, {}));
  std::map<std::string, std::uint64_t> sums;
  const auto rollup = view.rollup({}, [&](const store::RollupCell& c) {
    sums[fmt::format("{} {} {} {}:{}/{}", c.incarnation, c.second, static_cast<int>(c.type),
                     c.mfa.module, c.mfa.function, c.mfa.arity)] += c.rows;
  });
  EXPECT_TRUE(rollup && rollup->missing.empty());
  for (const auto& [k, n] : sums) lines.push_back(fmt::format("{} = {}", k, n));
  section("rollups", std::exchange(lines, {}));
  sums.clear();
  const auto edges = view.edges({}, [&](const store::EdgeCell& c) {
    sums[fmt::format("{}.{} -> {} {} {}.{}", c.sender.incarnation, c.sender.id,
                     static_cast<int>(c.receiver.kind), c.receiver.node, c.receiver.name,
                     c.receiver.id)] += c.rows;
  });
  EXPECT_TRUE(edges && edges->missing.empty());
  for (const auto& [k, n] : sums) lines.push_back(fmt::format("{} = {}", k, n));
  section("edges", std::exchange(lines, {}));
  const auto newest = std::ranges::max_element(view.units(), {}, &store::Unit::partition);
  std::shared_ptr<const void> owner;
  std::vector<std::string> spells, states;
  for (std::uint32_t p = 1; p <= kProcesses; ++p) {
    const ProcessId process{1, p, 0};
    const auto lives = view.lives(process, owner);
    EXPECT_TRUE(lives);
    for (const auto& l : *lives)
      lines.push_back(fmt::format("{}.{} {} {} {} {}:{} {}", l.process.incarnation, l.process.id,
                                  time(l.spawned), time(l.exited), time(l.seen_alive),
                                  l.initial_call.module, l.initial_call.function,
                                  l.parent ? l.parent->id : 0));
    const auto names = view.names_of(process, owner);
    EXPECT_TRUE(names);
    for (const auto& s : *names)
      spells.push_back(fmt::format("{} {}.{} {}..{}", s.name, s.process.incarnation, s.process.id,
                                   s.from.ns, time(s.until)));
    const auto state = view.state_before(newest->partition, process);
    EXPECT_TRUE(state);
    if (state && *state)
      states.push_back(
          fmt::format("{} partition {} block {}", p, (*state)->partition, (*state)->block));
    // What the indexes leave holds all that there is.
    store::Selection s;
    s.rows.processes = {&process, 1};
    s.rows.types = 1U << static_cast<unsigned>(codec::EventType::state_change);
    std::size_t there = 0, found = 0;
    for (const auto& unit : view.units()) there += view.read(unit, s.rows)->rows.size();
    const auto candidates = view.candidates(s);
    for (const auto i : candidates.units) found += view.read(view.units()[i], s.rows)->rows.size();
    EXPECT_EQ(found, there);
    const std::string_view word = "maple";
    s.texts = {&word, 1};
    states.push_back(fmt::format("{}: {} states, {} units with \"maple\"", p, there,
                                 view.candidates(s).units.size()));
  }
  section("lives", std::exchange(lines, {}));
  section("names", spells);
  section("states", states);
  const auto page = audit->read({});
  EXPECT_TRUE(page);
  for (const auto& e : page->entries)
    lines.push_back(fmt::format("{} {} {}", e.number, e.at.ns, hex(e.term)));
  section("audit", std::exchange(lines, {}));
  return out;
}

class Golden : public StoreTest {
 protected:
  // The folder is one that is closed; answers what it holds.
  std::string read_back() {
    // No rolls meanwhile, whatever its age.
    options_.partition_age_ns = INT64_MAX;
    open();
    const auto audit = store::AuditLog::open(options_.path, false);
    EXPECT_TRUE(audit) << to_string(audit.error());
    const auto out = all_of(*store_->snapshot(), audit->get());
    EXPECT_EQ(store_->stats().corrupt_blocks, 0U);
    EXPECT_EQ(store_->stats().corrupt_indexes, 0U);
    store_.reset();
    return out;
  }
  // Two partitions: a whole segment of blocks and part of one, then blocks and a hot log.
  void make() {
    options_.block_rows = 8;
    open();
    BatchMaker m("shop@golden", 3, 77);
    const auto n = incarnation(m);
    store::ClockVersion v{n, 0, {kSecond}, 5, -100, 100, 7, 500, 11, {kSecond}, 1};
    ASSERT_TRUE(store_->add_clock(v));
    std::uint64_t seq = 0;
    const auto some = [&](int batches) {
      for (int k = 0; k < batches; ++k) {
        const auto t = static_cast<std::int64_t>(++seq) * kSecond / 8;
        const auto a = m.own(1 + static_cast<unsigned>(seq % kProcesses)),
                   b = m.own(1 + static_cast<unsigned>(seq / 3 % kProcesses));
        const Mfa f{"shop", seq % 5 ? "call" : "rare", 2};
        const auto message = gen_call(a, static_cast<std::uint32_t>(seq), "order of maple");
        m.call(b, f, t).send(a, b, message, t + 1).fetch(b, message, t + 2).take(b, message, t + 3);
        m.state(b, server_state(static_cast<std::int64_t>(seq), seq % 7 ? "birch" : "maple"),
                t + 4);
        m.returned(b, f, atom_term("ok"), t + 5);
        if (seq % 4 == 0) m.spawn(a, b, f, t + 6).registered(b, "stock", t + 7);
        if (seq % 9 == 0) m.exit(b, atom_term("normal"), t + 8);
        append(m.batch(n, seq));
        flush();
      }
    };
    some(90);
    store_.reset();
    options_.partition_bytes = 1;
    open();
    some(2);
    store_.reset();
    options_.partition_bytes = 1U << 30;
    open();
    some(12);
    options_.block_rows = 16384;
    store_.reset();
    open();
    some(2);
    const auto audit = store::AuditLog::open(options_.path, false);
    ASSERT_TRUE(audit);
    TermBuilder term;
    atom_term("start")(term);
    for (int i = 1; i <= 3; ++i) ASSERT_TRUE((*audit)->append({i * kSecond}, term.bytes()));
    store_.reset();
  }
};

std::string golden() {
  const std::string here = __FILE__;
  return here.substr(0, here.rfind("/unit/")) + "/golden/store_v1";
}
std::string holds() {
  std::ifstream in(golden() + "/holds.txt");
  return {std::istreambuf_iterator<char>(in), {}};
}

// Says the first line that differs.
void expect_same(const std::string& now, const std::string& then) {
  std::istringstream a(now), b(then);
  for (std::string x, y; std::getline(b, y);) {
    ASSERT_TRUE(std::getline(a, x)) << "lacks " << y;
    ASSERT_EQ(x, y);
  }
  EXPECT_EQ(now.size(), then.size());
}

TEST_F(Golden, AStoreOfVersionOneIsRead) {
  std::filesystem::copy(golden(), options_.path, std::filesystem::copy_options::recursive);
  ASSERT_GT(holds().size(), 10'000U);
  expect_same(read_back(), holds());
}

TEST_F(Golden, WhatIsWrittenNowHoldsTheSame) {
  make();
  const char* to = std::getenv("SCOPE_MAKE_GOLDEN");
  if (to != nullptr) {
    for (const auto& file : std::filesystem::directory_iterator(options_.path)) {
      if (file.path().string().ends_with("-lock") || file.path().filename() == "lock") continue;
      std::filesystem::copy(file, to);
    }
  }
  const auto now = read_back();
  if (to != nullptr) std::ofstream(std::string(to) + "/holds.txt") << now;
  // Each store has a key of its own for match hashes.
  const std::regex hash("hash=[1-9][0-9]*");
  expect_same(std::regex_replace(now, hash, "hash"), std::regex_replace(holds(), hash, "hash"));
}

}  // namespace
}  // namespace scope::test
