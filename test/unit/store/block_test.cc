// Blocks by themselves: what is encoded is read back, and damaged bytes are an error, whatever they say.
#include "store/block.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "store/block_format.h"
#include "store/trace_ids.h"
#include "test/unit/store/store_fixture.h"

namespace scope::test {
namespace {

using namespace store::block_format;
using codec::EventType;
using codec::Peer;
using codec::TraceRecord;
using store::BlockEncoder;
using store::StoredRow;

// Names in memory for both directions.
class MemoryNames final : public store::BlockNames, public store::NameSource {
 public:
  explicit MemoryNames(Incarnation count) : infos_(count) {
    for (Incarnation i = 0; i < count; ++i) {
      infos_[i].number = infos_[i].home = i + 1;
      infos_[i].node = fmt::format("n{}@host", i);
      infos_[i].creation = 10 + i;
    }
  }
  store::NameId atom(std::string_view text) override { return table_.atom(text); }
  store::NameId mfa(const Mfa& mfa) override { return table_.mfa(mfa); }
  Result<std::string_view> atom(store::NameId id) override { return table_.atom(id); }
  Result<Mfa> mfa(store::NameId id) override { return table_.mfa(id); }
  const store::IncarnationInfo& incarnation(Incarnation n) override { return infos_[n - 1]; }
  Incarnation home_of(std::string_view, std::uint32_t) override { return 0; }

 private:
  store::NameTable table_;
  std::vector<store::IncarnationInfo> infos_;
};

struct Sample {
  MemoryNames names{5};
  std::deque<std::vector<std::byte>> payloads;
  std::vector<StoredRow> rows;  // in arrival order
};

// Random rows with every field set somewhere, times and ids at their extremes too.
void fill(Sample& s, std::mt19937_64& random, std::size_t count) {
  static constexpr std::string_view kNames[] = {"a", "orders", "stock", "ünï", "gen_server"};
  std::map<std::pair<ProcessId, std::int64_t>, std::uint32_t> ordinals;
  for (std::size_t i = 0; i < count; ++i) {
    StoredRow row;
    const auto odd = random() % 50 == 0;
    row.process = {static_cast<Incarnation>(1 + random() % 5),
                   static_cast<std::uint32_t>(odd ? random() : random() % 40),
                   static_cast<std::uint32_t>(odd ? random() : 0)};
    auto& r = row.record;
    r.type = static_cast<EventType>(1 + random() % codec::kMaxEventType);
    r.flags = static_cast<std::uint16_t>(random() % 1024);
    r.pid = {row.process.id, row.process.serial};
    r.time = {odd ? static_cast<std::int64_t>(random())
                  : static_cast<std::int64_t>(random() % 1000)};
    r.ordinal = ordinals[{row.process, r.time.ns}]++;
    if (random() % 2)
      r.mfa = {kNames[random() % 5], kNames[random() % 5], static_cast<std::uint8_t>(random())};
    r.peer.kind = static_cast<Peer::Kind>(random() % 6);
    const auto node = static_cast<Incarnation>(1 + random() % 5);
    const bool named = r.peer.kind == Peer::Kind::name || r.peer.kind == Peer::Kind::remote_name;
    if (r.peer.kind != Peer::Kind::none && r.peer.kind != Peer::Kind::name) {
      r.peer.node = s.names.incarnation(node).node;
      if (!named) r.peer.creation = s.names.incarnation(node).creation;
    }
    if (named) r.peer.name = kNames[random() % 5];
    if (r.peer.kind == Peer::Kind::pid || r.peer.kind == Peer::Kind::port) {
      r.peer.id = static_cast<std::uint32_t>(random());
      r.peer.serial = static_cast<std::uint32_t>(random() % 3);
    }
    if (r.peer.kind == Peer::Kind::alias) {
      r.peer.alias.node = r.peer.node;
      r.peer.alias.creation = r.peer.creation;
      r.peer.alias.count = static_cast<std::uint32_t>(1 + random() % 5);
      for (std::uint32_t k = 0; k < r.peer.alias.count; ++k)
        r.peer.alias.ids[k] = static_cast<std::uint32_t>(random());
    }
    if (r.has(TraceRecord::kHashed)) r.match_hash = random();
    if (random() % 9 == 0) r.original_bytes = static_cast<std::uint32_t>(random());
    auto& payload = s.payloads.emplace_back();
    if (const auto bytes = random() % 400 == 0 ? random() % 100'000 : random() % 90; bytes > 0) {
      std::string text(bytes, ' ');
      for (auto& c : text) c = static_cast<char>(random() % 7);
      TermBuilder b;
      b.binary(std::as_bytes(std::span(text)));
      payload.assign(b.bytes().begin(), b.bytes().end());
    }
    r.payload = payload;
    s.rows.push_back(row);
  }
}

std::vector<std::string> texts(std::span<const StoredRow> rows) {
  std::vector<std::string> out;
  for (const auto& row : rows) out.push_back(to_text(row));
  return out;
}
std::vector<std::string> sorted_texts(std::vector<StoredRow> rows) {
  std::ranges::sort(rows, {}, &StoredRow::id);
  return texts(rows);
}

std::vector<std::byte> encode(Sample& s) {
  std::vector<const StoredRow*> rows;
  for (const auto& row : s.rows) rows.push_back(&row);
  return BlockEncoder().encode(rows, 1, 2, s.names).bytes;
}

TEST(Block, GivesBackWhatWentIn) {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    std::mt19937_64 random(seed);
    Sample s;
    fill(s, random, seed < 3 ? seed + 1 : 1 + random() % 5000);
    const auto block = encode(s);
    const auto rows = store::read_block(block, {}, s.names, std::make_shared<store::Arena>());
    ASSERT_TRUE(rows) << seed << to_string(rows.error());
    ASSERT_EQ(texts(rows->rows), sorted_texts(s.rows)) << seed;

    for (int i = 0; i < 8; ++i) {  // and by filter
      std::vector<ProcessId> processes;
      for (int k = 0; k < 5; ++k) processes.push_back(s.rows[random() % s.rows.size()].process);
      processes.push_back({2, 999'999, 0});
      std::ranges::sort(processes);
      processes.erase(std::ranges::unique(processes).begin(), processes.end());
      store::RowFilter f;
      if (random() % 2) f.processes = processes;
      f.types = static_cast<std::uint32_t>(random() % 2 ? random() : ~0ULL);
      if (random() % 2) f.until = RawTime{static_cast<std::int64_t>(random() % 1000)};
      if (random() % 3 == 0) f.from = RawTime{static_cast<std::int64_t>(random() % 500)};
      f.newest_only = random() % 2;
      const auto at = [&] { return RawTime{static_cast<std::int64_t>(random() % 1000)}; };
      const store::TimeRange ranges[] = {{1, at(), at()}, {2, at(), at()}};
      if (random() % 3 == 0) f.times = std::span(ranges).first(1 + random() % 2);
      if (random() % 3 == 0) f.payloads = static_cast<std::uint32_t>(random());
      const bool choose = random() % 2;
      const auto cut = at();
      const auto chosen = [&](const store::RowKey& key) {
        return key.id.time < cut ? store::Choice::leave_older
               : (key.flags & 1) != 0 || key.id.ordinal % 2 != 0 ||
                       key.type == EventType::message_send
                   ? store::Choice::leave
                   : store::Choice::make;
      };
      if (choose) f.choose = chosen;
      const auto in_times = [&](const StoredRow& row) {
        return f.times.empty() || std::ranges::any_of(f.times, [&](const auto& t) {
                 return t.incarnation == row.process.incarnation && row.record.time >= t.from &&
                        row.record.time <= t.until;
               });
      };
      std::map<ProcessId, StoredRow> newest;
      std::vector<StoredRow> want;
      for (const auto& row : s.rows) {
        const auto& r = row.record;
        if ((f.types >> static_cast<unsigned>(r.type) & 1U) == 0 ||
            (f.until && r.time > *f.until) || (f.from && r.time < *f.from) || !in_times(row) ||
            (!f.processes.empty() && !std::ranges::binary_search(processes, row.process)) ||
            (choose && chosen({row.id(), r.type, r.flags}) != store::Choice::make))
          continue;
        want.push_back(row);
        auto& best = newest.try_emplace(row.process, row).first->second;
        if (row.id() > best.id()) best = row;
      }
      if (f.newest_only) {
        want.clear();
        for (const auto& [process, row] : newest) want.push_back(row);
      }
      for (auto& row : want) {
        if ((f.payloads >> static_cast<unsigned>(row.record.type) & 1U) == 0)
          row.record.payload = {};
      }
      const auto some = store::read_block(block, f, s.names, std::make_shared<store::Arena>());
      ASSERT_TRUE(some);
      ASSERT_EQ(texts(some->rows), sorted_texts(want)) << seed;
    }
  }
}

void must_not_crash(std::vector<std::byte> bytes, MemoryNames& names) {
  // In an allocation of its own size, so that the sanitizer sees a step beyond its end.
  const std::uint64_t key = 0;
  for (const bool by_trace : {false, true}) {
    store::RowFilter filter;
    if (by_trace) filter.traces = {&key, 1};
    const auto rows = store::read_block(bytes, filter, names, std::make_shared<store::Arena>());
    if (!rows) {
      EXPECT_EQ(rows.error().code, Code::corrupt);
    }
  }
}

TEST(Block, DamageIsSeenWhicheverRowsAreMade) {
  const auto read = [](const auto& bytes, MemoryNames& names, bool made) {
    store::RowFilter f;
    f.payload = false;
    if (!made) f.choose = [](const auto&) { return store::Choice::leave; };
    return store::read_block(bytes, f, names, std::make_shared<store::Arena>());
  };
  std::mt19937_64 random(1);
  Sample s;
  fill(s, random, 3000);
  const auto block = encode(s);
  ASSERT_EQ(read(block, s.names, true)->rows.size(), 3000u);
  ASSERT_TRUE(read(block, s.names, false)->rows.empty());
  std::size_t damaged = 0;
  for (std::size_t i = 0; i < block.size(); i += 1 + random() % 200) {
    auto bad = block;
    bad[i] ^= std::byte{1};
    const bool seen = !read(bad, s.names, true);
    ASSERT_EQ(!read(bad, s.names, false), seen) << i;
    damaged += seen;
  }
  EXPECT_GT(damaged, 10u);
}

// Numbers of its own for each table, as batches have them.
class Numbered final : public codec::StringTable {
 public:
  explicit Numbered(std::uint32_t base) : base_(base) {}
  std::optional<std::string_view> atom(std::uint32_t id) const override {
    return id - base_ < 4 ? std::optional(kTexts[id - base_]) : std::nullopt;
  }
  std::uint32_t base() const { return base_; }

 private:
  static constexpr std::string_view kTexts[] = {"order", "n0@host", "", "größe"};
  std::uint32_t base_;
};

// Rows of two batches, and some that name no atom by number, in one block.
void fill_numbered(Sample& s, const Numbered (&tables)[2], std::size_t count) {
  for (std::uint32_t i = 0; i < count; ++i) {
    const Numbered& table = tables[i % 2];
    const auto local = [&](TermBuilder& b, std::uint32_t n) {
      const auto id = __builtin_bswap32(table.base() + n);
      std::byte term[5] = {std::byte{codec::etf::kLocalAtom}};
      std::memcpy(term + 1, &id, 4);
      b.raw(term);
    };
    TermBuilder b;
    b.tuple(3);
    i % 5 == 0 ? void(b.atom("plain")) : local(b, 0);
    b.map(1).integer(i);
    i % 5 == 0 ? void(b.integer(1)) : local(b, 2 + i % 2);
    if (i % 5 == 0) {
      b.nil();
    } else {
      b.list(1).raw(codec::Bytes(std::vector{std::byte{88}}));
      local(b, 1);
      const std::vector<std::byte> numbers(12);
      b.raw(numbers).nil();
    }
    auto& payload = s.payloads.emplace_back(b.bytes().begin(), b.bytes().end());
    StoredRow row;
    row.process = {1 + i % 3, i % 7, 0};
    row.record.type = i % 4 ? EventType::message_send : EventType::state_change;
    row.record.pid = {row.process.id, 0};
    row.record.time = {i};
    row.record.payload = payload;
    if (i % 5 != 0) row.record.strings = &table;
    s.rows.push_back(row);
  }
}

std::string trace_of(std::uint32_t n) { return fmt::format("{:032x}", n / 10 + 1); }

// Messages that are sent, fetched and taken, as two batches name their atoms; now and then one is cut on its way, or has
// another's hash, or no hash at all. Plain ones between them.
void fill_messages(Sample& s, const Numbered (&tables)[2], std::size_t count) {
  static constexpr EventType kTypes[] = {EventType::message_send, EventType::message_fetch,
                                         EventType::message_take};
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t n = i / 3, step = i % 3;
    const Numbered& table = tables[n % 4 == 0 ? step % 2 : n % 2];
    const bool cut = n % 7 == 3 && step == 2;
    TermBuilder b;
    b.tuple(3).atom("plain").integer(n / (n % 11 == 5 ? 2 : 1));
    if (n % 5 == 2 && !cut) {
      b.binary(trace_of(n));
    } else if (n % 3 == 0 || cut) {
      b.nil();
    } else {
      const auto id = __builtin_bswap32(table.base() + n % 4);
      std::byte term[5] = {std::byte{codec::etf::kLocalAtom}};
      std::memcpy(term + 1, &id, 4);
      b.raw(term);
    }
    auto& payload = s.payloads.emplace_back(b.bytes().begin(), b.bytes().end());
    StoredRow row;
    row.process = {1 + (n + step / 2) % 5, step == 0 ? n % 13 : n % 17, n % 19 == 0 ? n : 0};
    auto& r = row.record;
    r.type = kTypes[step];
    r.pid = {row.process.id, row.process.serial};
    r.time = {i};
    if (step == 0) {
      r.peer.kind = Peer::Kind::pid;
      r.peer.node = s.names.incarnation(2).node;
      r.peer.creation = 11;
      r.peer.id = n % 17;
    }
    if (step == 2) r.mfa = {"gen_server", "decode_msg", 9};
    if (n % 13 != 4) {
      r.flags = TraceRecord::kHashed;
      r.match_hash = (n % 11 == 6 ? n - 1 : n) * 0x9E3779B97F4A7C15ULL;
    }
    if (cut) r.flags |= TraceRecord::kTruncated, r.original_bytes = 1000;
    if (n % 17 == 9) {
      r.payload = {};
    } else {
      r.payload = payload;
      if (n % 3 != 0 && !cut) r.strings = &table;
    }
    s.rows.push_back(row);
  }
}

TEST(Block, AtomsByNumberGetThePartitionsNumbers) {
  const Numbered tables[2] = {Numbered(7), Numbered(4'000'000'000)};
  Sample s;
  fill_numbered(s, tables, 6000);
  const auto block = encode(s);
  const auto want = sorted_texts(s.rows);
  Result<store::Rows> rows = store::Rows{};
  {
    auto arena = std::make_shared<store::Arena>();
    rows = store::read_block(block, {}, s.names, std::move(arena));
  }
  ASSERT_TRUE(rows) << to_string(rows.error());
  EXPECT_EQ(texts(rows->rows), want);
  EXPECT_NE(hex(rows->rows[1].record.payload), payload_text(rows->rows[1].record))
      << "the atoms are not written out";
}

TEST(Block, AnAtomThatThePartitionDoesNotKnowIsCorrupt) {
  const Numbered tables[2] = {Numbered(7), Numbered(100)};
  Sample s;
  fill_numbered(s, tables, 50);
  const auto block = encode(s);
  MemoryNames others(5);
  for (const auto* text : {"a", "b", "c"}) static_cast<store::BlockNames&>(others).atom(text);
  const auto rows = store::read_block(block, {}, others, std::make_shared<store::Arena>());
  ASSERT_FALSE(rows);
}

// A file of the block's names in their order, then its rows in theirs.
class WrittenNames final : public store::NameSource {
 public:
  std::vector<std::string> rows;
  explicit WrittenNames(const std::string& path) {
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);) {
      std::istringstream words(line);
      std::string kind, a, b;
      unsigned arity = 0;
      words >> kind >> a >> b >> arity;
      if (kind == "atom") atoms_.push_back(a);
      if (kind == "mfa") mfas_.emplace_back(a, b, static_cast<std::uint8_t>(arity));
      if (kind == "row") rows.push_back(line.substr(4));
    }
  }
  Result<std::string_view> atom(store::NameId id) override {
    if (id == 0) return "";
    if (id > atoms_.size()) return fail(Code::corrupt, "no such name");
    return atoms_[id - 1];
  }
  Result<Mfa> mfa(store::NameId id) override {
    if (id == 0) return Mfa{};
    if (id > mfas_.size()) return fail(Code::corrupt, "no such name");
    const auto& [module, function, arity] = mfas_[id - 1];
    return Mfa{module, function, arity};
  }

 private:
  std::vector<std::string> atoms_;
  std::vector<std::tuple<std::string, std::string, std::uint8_t>> mfas_;
};

// NAME.bin and NAME.txt.
void golden_is_read(const std::string& name, unsigned version, std::size_t rows_in_it) {
  WrittenNames names(name + ".txt");
  std::ifstream in(name + ".bin", std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  const auto block = std::as_bytes(std::span(bytes));
  ASSERT_GE(block.size(), kOldHeader);
  std::uint16_t written = 0;
  std::memcpy(&written, block.data() + 4, sizeof written);
  ASSERT_EQ(written, version);
  const auto rows = store::read_block(block, {}, names, std::make_shared<store::Arena>());
  ASSERT_TRUE(rows) << to_string(rows.error());
  EXPECT_EQ(texts(rows->rows), names.rows);
  EXPECT_EQ(names.rows.size(), rows_in_it);
  // Its rows are found by the trace ids in them, as they were when it was written.
  std::size_t with_id = 0;
  for (const auto& row : rows->rows) {
    std::vector<std::uint64_t> keys;
    store::add_trace_keys(row.record.payload, keys);
    with_id += keys.empty() ? 0 : 1;
    for (const auto& key : keys) {
      store::RowFilter by_id;
      by_id.traces = {&key, 1};
      const auto found = store::read_block(block, by_id, names, std::make_shared<store::Arena>());
      ASSERT_TRUE(found) << to_string(found.error());
      const auto all = texts(found->rows);
      EXPECT_NE(std::ranges::find(all, to_text(row)), all.end());
      EXPECT_TRUE(version < 4 || found->rows.size() < rows_in_it);
    }
  }
  EXPECT_TRUE(version < 4 || with_id > 0);
}

std::string golden(unsigned version) {
  const std::string here = __FILE__;
  return fmt::format("{}/golden/block_v{}", here.substr(0, here.rfind("/unit/")), version);
}

TEST(Block, BlocksOfVersionOneAreRead) { golden_is_read(golden(1), 1, 60); }
TEST(Block, BlocksOfVersionTwoAreRead) { golden_is_read(golden(2), 2, 300); }
TEST(Block, BlocksOfVersionThreeAreRead) { golden_is_read(golden(3), 3, 300); }
TEST(Block, BlocksOfVersionFourAreRead) { golden_is_read(golden(4), 4, 300); }

// What the next golden file is made by: a block as it is written now, into $SCOPE_MAKE_GOLDEN where that is given.
TEST(Block, AGoldenFileIsMadeAndRead) {
  std::string own = (std::filesystem::temp_directory_path() / "scope-golden-XXXXXX").string();
  const char* to = std::getenv("SCOPE_MAKE_GOLDEN");
  if (to == nullptr) {
    ASSERT_NE(::mkdtemp(own.data()), nullptr);
    to = own.c_str();
  }
  const auto name = std::string(to) + "/block";
  const Numbered tables[2] = {Numbered(7), Numbered(4'000'000'000)};
  Sample s;
  fill_messages(s, tables, 300);
  const auto block = encode(s);
  std::ofstream(name + ".bin", std::ios::binary)
      .write(reinterpret_cast<const char*>(block.data()),
             static_cast<std::streamsize>(block.size()));
  {
    std::ofstream out(name + ".txt");
    for (store::NameId id = 1; s.names.atom(id); ++id) out << "atom " << *s.names.atom(id) << '\n';
    for (store::NameId id = 1; s.names.mfa(id); ++id) {
      const auto f = *s.names.mfa(id);
      out << fmt::format("mfa {} {} {}\n", f.module, f.function, f.arity);
    }
    for (const auto& text : sorted_texts(s.rows)) out << "row " << text << '\n';
  }
  golden_is_read(name, 4, 300);
  std::filesystem::remove_all(own);
}

// The rows that hold a trace id, wherever their payloads stand, and no others; of too many ids, and of old blocks, all rows.
TEST(Block, TraceIdsNameTheirRows) {
  const Numbered tables[2] = {Numbered(7), Numbered(4'000'000'000)};
  const auto found = [](Bytes block, store::NameSource& names, std::span<const std::uint64_t> keys,
                        const ProcessId* one = nullptr) {
    store::RowFilter f;
    f.traces = keys;
    if (one != nullptr) f.processes = {one, 1};
    const auto rows = store::read_block(block, f, names, std::make_shared<store::Arena>());
    EXPECT_TRUE(rows) << to_string(rows.error());
    return rows ? texts(rows->rows) : std::vector<std::string>{};
  };
  Sample s;
  fill_messages(s, tables, 9000);
  const auto block = encode(s);
  for (const std::uint32_t n : {2U, 17U, 1502U, 2997U, 999'999U}) {
    const auto id = *store::read_trace_id(trace_of(n));
    const std::uint64_t keys[] = {store::trace_key(id)};
    std::vector<StoredRow> want;
    for (const auto& row : s.rows) {
      if (store::has_trace_id(row.record.payload, id)) want.push_back(row);
    }
    EXPECT_EQ(want.size() >= 3, n < 3000);
    EXPECT_EQ(found(block, s.names, keys), sorted_texts(want)) << n;
    if (want.empty()) continue;
    const auto process = want.front().process;
    std::erase_if(want, [&](const StoredRow& row) { return row.process != process; });
    EXPECT_EQ(found(block, s.names, keys, &process), sorted_texts(want)) << n;
  }

  const std::uint64_t keys[] = {store::trace_key(*store::read_trace_id(trace_of(2)))};
  for (const unsigned ids : {4U, 5U}) {
    Sample few;
    std::mt19937_64 random(3);
    fill(few, random, 40);
    for (auto& row : few.rows) {
      TermBuilder b;
      b.list(ids);
      for (unsigned i = 0; i < ids; ++i) b.binary(trace_of(10 * (1 + i)));
      b.nil();
      row.record.payload = few.payloads.emplace_back(b.bytes().begin(), b.bytes().end());
    }
    EXPECT_EQ(found(encode(few), few.names, keys).size(), ids <= kMostTraceRows ? 0U : 40U) << ids;
  }
  WrittenNames names(golden(3) + ".txt");
  std::ifstream in(golden(3) + ".bin", std::ios::binary);
  const std::string old{std::istreambuf_iterator<char>(in), {}};
  EXPECT_EQ(found(std::as_bytes(std::span(old)), names, keys), names.rows);
}

TEST(Block, AMessageIsStoredOnce) {
  const Numbered tables[2] = {Numbered(7), Numbered(4'000'000'000)};
  Sample s;
  fill_messages(s, tables, 9000);
  const auto block = encode(s);
  const auto header = store::load<Header>(block.data());
  std::set<std::uint64_t> hashes;
  for (const auto& row : s.rows) {
    if (row.record.has(TraceRecord::kHashed)) hashes.insert(row.record.match_hash);
  }
  const std::size_t messages = header.messages;  // a packed field has no reference
  EXPECT_EQ(messages, hashes.size());
  const auto rows = store::read_block(block, {}, s.names, std::make_shared<store::Arena>());
  ASSERT_TRUE(rows) << to_string(rows.error());
  EXPECT_EQ(texts(rows->rows), sorted_texts(s.rows));
  // Found by their hashes, the bodies of others left where they are.
  const std::vector<std::uint64_t> few(hashes.begin(), std::next(hashes.begin(), 5));
  store::RowFilter f;
  f.match_hashes = few;
  const auto some = store::read_block(block, f, s.names, std::make_shared<store::Arena>());
  ASSERT_TRUE(some);
  std::vector<StoredRow> want;
  for (const auto& row : s.rows) {
    if (store::wants_record(f, row.record)) want.push_back(row);
  }
  EXPECT_EQ(texts(some->rows), sorted_texts(want));
}

TEST(Block, EveryTruncationIsCorrupt) {
  std::mt19937_64 random(1);
  Sample s;
  fill(s, random, 60);
  const auto block = encode(s);
  for (std::size_t n = 0; n < block.size(); ++n) {
    const std::vector<std::byte> cut(block.begin(), block.begin() + static_cast<std::ptrdiff_t>(n));
    EXPECT_FALSE(store::read_block(cut, {}, s.names, std::make_shared<store::Arena>())) << n;
  }
}

TEST(Block, EveryFlippedByteIsCorrupt) {
  const Numbered tables[2] = {Numbered(7), Numbered(100)};
  for (const bool messages : {false, true}) {
    std::mt19937_64 random(2);
    Sample s;
    messages ? fill_messages(s, tables, 60) : fill(s, random, 60);
    const auto block = encode(s);
    int unseen = 0;
    for (std::size_t i = 0; i < block.size(); ++i) {
      auto bad = block;
      bad[i] ^= static_cast<std::byte>(1 + random() % 255);
      if (store::read_block(bad, {}, s.names, std::make_shared<store::Arena>())) ++unseen;
    }
    EXPECT_EQ(unseen, 0);
  }
}

// Makes all hashes right again, so that only the checks of lengths and places stand between a flip and a crash.
void rehash(std::vector<std::byte>& block) {
  const auto h = store::load<Header>(block.data());
  const auto head_end = std::min<std::size_t>(h.head_end, block.size());
  const auto pieces = [&](std::size_t at) {
    if (at + sizeof(Piece) > head_end) return;
    auto p = store::load<Piece>(block.data() + at);
    if (p.offset > block.size() || p.bytes > block.size() - p.offset) return;
    p.xxh3 = static_cast<std::uint32_t>(XXH3_64bits(block.data() + p.offset, p.bytes));
    std::memcpy(block.data() + at, &p, sizeof p);
  };
  pieces(offsetof(Header, message_table));
  pieces(offsetof(Header, trace_table));
  const auto chunks = std::size_t{h.state_chunks} + h.other_chunks + h.message_chunks;
  if (chunks < 1000 && h.frames < 1000 &&
      chunks * sizeof(Piece) + h.frames * sizeof(FrameEntry) < head_end) {
    auto at = head_end - chunks * sizeof(Piece) - h.frames * sizeof(FrameEntry);
    for (std::uint32_t f = 0; f < h.frames; ++f, at += sizeof(FrameEntry)) {
      for (std::size_t k = 0; k < 3; ++k) pieces(at + k * sizeof(Piece));
    }
    for (std::size_t c = 0; c < chunks; ++c, at += sizeof(Piece)) pieces(at);
  }
  if (head_end > kHashFrom) {
    const std::uint64_t hash =
        XXH3_64bits_withSeed(block.data() + kHashFrom, head_end - kHashFrom, h.flags);
    std::memcpy(block.data() + 8, &hash, sizeof hash);
  }
}

TEST(Block, FlipsWithRightHashesNeverCrash) {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    std::mt19937_64 random(seed);
    Sample s;
    const Numbered tables[2] = {Numbered(7), Numbered(100)};
    seed == 4   ? fill_messages(s, tables, 900)
    : seed == 3 ? fill_numbered(s, tables, 900)
                : fill(s, random, seed == 0 ? 5 : 300 * seed * seed);
    const auto block = encode(s);
    const auto head_end = store::load<Header>(block.data()).head_end;
    for (int i = 0; i < 1200; ++i) {
      auto bad = block;
      for (auto flips = 1 + random() % 3; flips > 0; --flips) {
        const auto within = random() % 3 ? head_end : bad.size();
        bad[random() % within] = static_cast<std::byte>(random() % 4 ? random() : 255);
      }
      rehash(bad);
      must_not_crash(std::move(bad), s.names);
    }
  }
}

}  // namespace
}  // namespace scope::test
