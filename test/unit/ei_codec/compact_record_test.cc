// The native tracer's payload: the same records as from the Erlang tracer's, and nothing but counting of what is broken.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "ei_codec/term_builder.h"
#include "ei_codec/term_print.h"
#include "test/unit/ei_codec/codec_fixture.h"
#include "test/unit/ei_codec/compact_maker.h"

namespace scope::codec {
namespace {

constexpr std::string_view kNode = "n";
constexpr std::uint32_t kCreation = 1;

// Everything that a record says; its term without local atoms.
std::string text(const TraceRecord& r) {
  std::string term;
  if (!r.payload.empty()) {
    TermBuilder copy;
    copy.term(r.term());
    term = print(*view(copy.bytes()), Syntax::erlang, 100'000);
    EXPECT_EQ(print(r.term(), Syntax::erlang, 100'000), term);
  }
  std::string ids;
  for (std::uint32_t i = 0; i < r.peer.alias.count; ++i)
    ids += fmt::format(".{}", r.peer.alias.ids[i]);
  return fmt::format("{} {:x} {}.{} {} {}:{}/{} {:x} {} to {} {} {} {}.{} {} {} {} {}",
                     event_type_name(r.type), r.flags, r.pid.id, r.pid.serial, r.time.ns,
                     r.mfa.module, r.mfa.function, r.mfa.arity, r.match_hash, r.original_bytes,
                     static_cast<int>(r.peer.kind), r.peer.node, r.peer.creation, r.peer.id,
                     r.peer.serial, r.peer.name, r.peer.alias.node, ids, term);
}

struct Texts : RecordSink {
  std::vector<std::string> all, compact;  // of every record; of those that have a compact form
  void record(const TraceRecord& r) override {
    all.push_back(text(r));
    if (CompactMaker::has_form(r)) compact.push_back(all.back());
  }
};

TermBuilder message(Bytes strings, Bytes records) {
  TermBuilder b = TermBuilder::with_version();
  b.tuple(7).atom("batch").integer(7).integer(1).tuple(2).integer(10).integer(20).nil().integer(5);
  b.tuple(4).atom("compact").integer(1).binary(strings).binary(records);
  return b;
}

Texts read(Bytes message, DecodeStats* stats = nullptr, std::string_view node = kNode,
           std::uint32_t creation = kCreation) {
  Texts out;
  const auto header = read_batch_header(*view_message(message));
  EXPECT_TRUE(header) << (header ? "" : to_string(header.error()));
  if (!header) return out;
  BatchStrings strings;
  const DecodeStats got = decode_records(*header, {{}, node, creation}, strings, out);
  EXPECT_EQ(got.records, out.all.size());
  if (stats) *stats = got;
  return out;
}
Texts read(Bytes strings, Bytes records, DecodeStats& stats) {
  return read(message(strings, records).bytes(), &stats);
}

std::uint32_t creation_of(const Buffer& etf) {
  const auto events = view_message(read_batch_header(*view_message(etf))->events);
  return events->list()->item().element(1).pid()->creation;
}

TEST(CompactGolden, BatchIsTheSameAsItsEtf) {
  const Buffer etf = golden("batch_etf_v1.etf"), compact = golden("batch_compact_v1.etf");
  const auto creation = creation_of(etf);
  DecodeStats stats;
  const Texts want = read(etf, nullptr, "shop@golden.example", creation);
  const Texts got = read(compact, &stats, "shop@golden.example", creation);
  EXPECT_GT(want.compact.size(), 40u);
  EXPECT_THAT(got.compact, testing::ElementsAreArray(want.compact));
  EXPECT_EQ(got.all.size(), got.compact.size() + 2);  // the gaps
  EXPECT_EQ(stats.malformed, 0u);
}

// A record with everything that its kind has, and ways to spoil it.
class Compact : public testing::Test {
 protected:
  // head, mfa, hash, original, peer, payload: each by itself, and put together by record().
  struct Parts {
    EventType kind = EventType::function_entry;
    unsigned arity = 0, flags = 0;
    std::vector<int> rest;  // bytes
  };
  static Buffer record(const Parts& p) {
    Buffer out = bytes_of({0, 0, 0, 0, static_cast<int>(p.kind), static_cast<int>(p.arity),
                           static_cast<int>(p.flags & 255), static_cast<int>(p.flags >> 8)});
    for (const std::uint64_t word : {std::uint64_t{77}, std::uint64_t{2} << 32 | 1}) {
      for (int i = 0; i < 8; ++i) out.push_back(static_cast<std::byte>(word >> (8 * i)));
    }
    for (const int byte : p.rest) out.push_back(static_cast<std::byte>(byte));
    out[0] = static_cast<std::byte>(out.size());
    out.resize((out.size() + 7) / 8 * 8);
    return out;
  }
  // The record between two that are sound.
  bool good(const Parts& p) {
    const Buffer sound = record({EventType::process_exit, 0, 0, {kOk}}), middle = record(p);
    Buffer records = sound;
    records.insert(records.end(), middle.begin(), middle.end());
    records.insert(records.end(), sound.begin(), sound.end());
    DecodeStats stats;
    const Texts out = read(strings_, records, stats);
    EXPECT_FALSE(stats.unreadable);
    EXPECT_EQ(out.all.size() + stats.malformed, 3u);
    EXPECT_GE(out.all.size(), 2u);
    if (out.all.size() == 3) seen_ = out.all[1];
    return out.all.size() == 3;
  }

  static constexpr int kOk = 106;                           // []
  const Buffer strings_ = bytes_of({1, 0, 0, 0, 1, 0, 'm',  //
                                    2, 0, 0, 0, 1, 0, 'f',  //
                                    3, 0, 0, 0, 1, 0, 'n',  //
                                    9, 0, 0, 0, 7, 0, 't', 'i', 'm', 'e', 'o', 'u', 't'});
  const std::vector<int> mfa_ = {1, 0, 0, 0, 2, 0, 0, 0};
  const std::vector<int> pid_ = {88, 0xFB, 0, 0, 0, 3, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 1};
  const std::vector<int> hash_ = {1, 2, 3, 4, 5, 6, 7, 8};
  std::string seen_;

  static std::vector<int> join(std::initializer_list<std::vector<int>> parts) {
    std::vector<int> out;
    for (const auto& p : parts) out.insert(out.end(), p.begin(), p.end());
    return out;
  }
};

TEST_F(Compact, EachKind) {
  using enum EventType;
  const std::vector<int> local = {0xFB, 0, 0, 0, 9}, cut = {100, 0, 0, 0}, ok = {kOk};
  EXPECT_TRUE(good({function_entry, 2, 0, mfa_}));
  EXPECT_EQ(seen_, "function_entry 0 1.2 77 m:f/2 0 0 to 0  0 0.0    ");
  EXPECT_TRUE(good({function_entry, 2, TraceRecord::kTruncated, join({mfa_, cut, ok})}));
  EXPECT_EQ(seen_, "function_entry 1 1.2 77 m:f/2 0 100 to 0  0 0.0    []");
  EXPECT_TRUE(good({message_send, 0, TraceRecord::kHashed, join({hash_, pid_, local})}));
  EXPECT_EQ(seen_, "message_send 4 1.2 77 :/0 807060504030201 0 to 1  1 5.6    timeout");
  EXPECT_TRUE(good({message_fetch, 0, TraceRecord::kHashed, join({hash_, local})}));
  EXPECT_EQ(seen_, "message_fetch 24 1.2 77 :/0 807060504030201 0 to 0  0 0.0    timeout");
  EXPECT_TRUE(good({message_fetch, 0, TraceRecord::kTruncated, join({cut, ok})}));
  EXPECT_EQ(seen_, "message_fetch 1 1.2 77 :/0 0 100 to 0  0 0.0    []") << "no hash to make";
  EXPECT_TRUE(good({state_change, 1, TraceRecord::kEndState, join({mfa_, ok})}));
  EXPECT_TRUE(good({process_spawn, 1, TraceRecord::kChildSide, join({mfa_, pid_})}));
  EXPECT_TRUE(good({process_link, 0, 0, pid_}));
  EXPECT_TRUE(good({process_register, 0, 0, local}));
}

TEST_F(Compact, WhatDoesNotFitIsMalformedAndNothingElseIs) {
  using enum EventType;
  const std::vector<int> ok = {kOk}, local = {0xFB, 0, 0, 0, 9}, unknown = {0xFB, 0, 0, 0, 8};
  EXPECT_FALSE(good({static_cast<EventType>(0), 0, 0, {}}));
  for (unsigned kind = 14; kind <= 255; ++kind) {
    EXPECT_FALSE(good({static_cast<EventType>(kind), 0, 0, {}})) << kind;
  }
  EXPECT_FALSE(good({function_entry, 0, 0, {1, 0, 0, 0}}));
  EXPECT_FALSE(good({function_entry, 0, 0, {1, 0, 0, 0, 8, 0, 0, 0}}));
  EXPECT_FALSE(good({function_entry, 0, 0, join({mfa_, {kOk, kOk}})}));
  EXPECT_FALSE(good({function_entry, 0, 0, join({mfa_, {104, 1}})}));
  EXPECT_FALSE(good({function_entry, 0, 0, join({mfa_, unknown})}));
  EXPECT_FALSE(good({function_entry, 0, TraceRecord::kTruncated, join({mfa_, {1, 0, 0}})}));
  EXPECT_FALSE(good({process_exit, 1, 0, ok})) << "an arity where no function is";
  EXPECT_FALSE(good({message_send, 0, 0, {}}));
  EXPECT_FALSE(good({message_send, 0, 0, ok})) << "no peer";
  EXPECT_FALSE(good({message_fetch, 0, TraceRecord::kHashed, {1, 2, 3}}));
  EXPECT_FALSE(good({message_fetch, 0, TraceRecord::kHashBounded, ok}));
  EXPECT_FALSE(good({process_spawn, 1, 0, join({mfa_, local})})) << "a name is no child";
  EXPECT_FALSE(good({process_link, 0, 0, join({pid_, ok})}));
  EXPECT_FALSE(good({process_register, 0, 0, {}}));
  EXPECT_FALSE(good({process_register, 0, 0, ok}));
  // Every flag, on every kind: only where it has a meaning.
  for (unsigned kind = 1; kind <= 13; ++kind) {
    for (unsigned flag = 0; flag < 16; ++flag) {
      const bool message = kind >= 4 && kind <= 6, call = kind == 7 || kind == 8;
      const bool may = ((flag == 0 || flag == 10) && kind <= 9) || (flag <= 2 && message) ||
                       (flag == 3 && kind == 4) || ((flag == 6 || flag == 8) && kind == 7) ||
                       (flag == 9 && kind == 8);
      Parts p{static_cast<EventType>(kind), 0, 1U << flag, {}};
      if (flag == 1) p.flags |= TraceRecord::kHashed;
      if (kind <= 3 || kind == 6 || call) p.rest = mfa_;
      if (flag == 1 || flag == 2) p.rest = join({p.rest, hash_});
      if (flag == 0) p.rest = join({p.rest, {100, 0, 0, 0}});
      if (kind == 4 || kind == 8 || kind == 10 || kind == 11) p.rest = join({p.rest, pid_});
      if (kind >= 12) p.rest = join({p.rest, local});
      EXPECT_EQ(good(p), may) << "kind " << kind << " flag " << flag;
    }
  }
}

TEST_F(Compact, ASizeThatCannotBeEndsTheBatch) {
  const Buffer sound = record({EventType::process_exit, 0, 0, {kOk}});
  for (const int size : {0, 1, 23, 26, 255}) {
    Buffer records = sound;
    Buffer bad = record({EventType::process_exit, 0, 0, {}});
    bad[0] = static_cast<std::byte>(size);
    records.insert(records.end(), bad.begin(), bad.end());
    DecodeStats stats;
    EXPECT_EQ(read(strings_, records, stats).all.size(), 1u) << size;
    EXPECT_TRUE(stats.unreadable) << size;
  }
  DecodeStats stats;  // the last record's padding may be missing
  EXPECT_EQ(read(strings_, Bytes(sound).first(25), stats).all.size(), 1u);
  EXPECT_FALSE(stats.unreadable);
}

TEST(BatchStrings, ReadsWhatIsThere) {
  BatchStrings strings;
  Buffer many;
  for (std::uint32_t i = 0; i < BatchStrings::kMost; ++i) {
    const std::uint32_t id = i * 0x10000 + i;
    for (const std::uint32_t byte : {id, id >> 8, id >> 16, id >> 24, 1u, 0u, 'a' + i % 26})
      many.push_back(static_cast<std::byte>(byte));
  }
  ASSERT_TRUE(strings.read(many));
  EXPECT_EQ(strings.size(), BatchStrings::kMost);
  for (std::uint32_t i = 0; i < BatchStrings::kMost; ++i) {
    ASSERT_EQ(strings.atom(i * 0x10000 + i), std::string(1, static_cast<char>('a' + i % 26)));
  }
  EXPECT_EQ(strings.atom(5), std::nullopt);
  many.insert(many.end(), {std::byte{9}, {}, {}, {}, {}, {}});
  EXPECT_EQ(strings.read(many).error().code, Code::too_large);
  EXPECT_EQ(strings.atom(0), std::nullopt) << "nothing of what was there before";
  EXPECT_TRUE(strings.read({}));
  EXPECT_TRUE(strings.read(bytes_of({1, 0, 0, 0, 0, 0})));
  EXPECT_EQ(strings.atom(1), "");
  EXPECT_TRUE(strings.read(bytes_of({1, 0, 0, 0, 2, 0, 0xC3, 0xBC})));
}

TEST(BatchStrings, RefusesTheRest) {
  BatchStrings strings;
  const auto refused = [&](const Buffer& bytes) {
    const bool bad = !strings.read(bytes);
    return bad && strings.size() == 0 && !strings.atom(1);
  };
  EXPECT_TRUE(refused(bytes_of({1, 0, 0, 0, 1, 0, 'a', 1, 0, 0, 0, 1, 0, 'a'})));
  EXPECT_TRUE(refused(bytes_of({1, 0, 0, 0, 1, 0, 0xC3})));
  EXPECT_TRUE(refused(bytes_of({1, 0, 0, 0, 2, 0, 'a'})));
  EXPECT_TRUE(refused(bytes_of({1, 0, 0, 0, 1})));
  Buffer longest = bytes_of({1, 0, 0, 0, 255, 0});
  longest.resize(6 + 255, std::byte{'x'});
  EXPECT_TRUE(strings.read(longest));
  longest[4] = {};
  longest[5] = std::byte{1};
  longest.push_back(std::byte{'x'});
  EXPECT_TRUE(refused(longest));
}

// A batch whose every byte may be wrong.
class BrokenCompact : public testing::Test {
 protected:
  void SetUp() override {
    batch_ = golden("batch_compact_v1.etf");
    const auto header = read_batch_header(*view_message(batch_));
    strings_ = header->strings;
    records_ = header->events;
    creation_ = creation_of(golden("batch_etf_v1.etf"));
    whole_ = read(message(strings_, records_).bytes(), nullptr, kGolden, creation_).all.size();
    ASSERT_GT(whole_, 40u);
  }
  Texts read_broken(Bytes strings, Bytes records, DecodeStats& stats) {
    const Exact message_bytes(message(strings, records).bytes());  // sees a read past the end
    return read(message_bytes.get(), &stats, kGolden, creation_);
  }
  static constexpr std::string_view kGolden = "shop@golden.example";
  Buffer batch_;
  Bytes strings_, records_;
  std::uint32_t creation_ = 0;
  std::size_t whole_ = 0;
};

TEST_F(BrokenCompact, CutAtEveryLength) {
  DecodeStats stats;
  std::size_t before = 0;
  for (std::size_t n = 0; n < records_.size(); ++n) {
    const auto got = read_broken(strings_, records_.first(n), stats).all.size();
    EXPECT_GE(got, before);
    EXPECT_EQ(stats.malformed, stats.unreadable ? 1u : 0u);
    before = got;
  }
  EXPECT_EQ(before, whole_);  // a part of the last padding is no loss
  for (std::size_t n = 0; n < strings_.size(); ++n) {
    const auto got = read_broken(strings_.first(n), records_, stats).all.size();
    EXPECT_LT(got, whole_);
    EXPECT_TRUE(stats.unreadable || stats.malformed > 0);
    if (stats.unreadable) {
      EXPECT_EQ(got, 0u);
    }
  }
}

TEST_F(BrokenCompact, FlippedBytes) {
  std::mt19937 random(23);
  for (int round = 0; round < 6000; ++round) {
    Buffer strings(strings_.begin(), strings_.end()), records(records_.begin(), records_.end());
    Buffer& broken = round % 4 == 0 ? strings : records;
    for (unsigned flips = 1 + static_cast<unsigned>(random() % 4); flips > 0; --flips) {
      broken[random() % broken.size()] = static_cast<std::byte>(random());
    }
    DecodeStats stats;
    const auto got = read_broken(strings, records, stats).all.size();
    EXPECT_TRUE(got == whole_ || stats.malformed > 0);
  }
}

// What was found out about the records before must not show: each record of many kinds, with each byte changed (and two as in a
// float that is no number), is the same after two that it was made from as by itself.
class AfterAlike : public BrokenCompact {
 protected:
  void check_all(Bytes strings, Bytes records) {
    std::mt19937 random(5);
    std::set<std::uint64_t> seen;  // heads: size, kind, arity, flags
    while (!records.empty()) {
      const auto padded = std::size_t{etf::le32(records.data()) + 7} / 8 * 8;
      const Bytes record = records.first(std::min(padded, records.size()));
      records = records.subspan(record.size());
      if (!seen.insert(etf::le64(record.data())).second) continue;
      for (std::size_t i = 4; i < record.size(); ++i) {
        const auto byte = std::to_integer<unsigned>(record[i]);
        for (const unsigned value : {byte, byte + 1, byte ^ 0x80, 0u, 0x7Fu, 0xFFu, 104u, 251u,
                                     static_cast<unsigned>(random())})
          check(strings, record, i, {static_cast<std::byte>(value)});
        if (i + 1 < record.size()) check(strings, record, i, {std::byte{0x7F}, std::byte{0xFF}});
      }
    }
    EXPECT_GT(seen.size(), 10u);
  }

 private:
  void check(Bytes strings, Bytes record, std::size_t i, std::initializer_list<std::byte> with) {
    Buffer alone(record.begin(), record.end());
    alone.resize((alone.size() + 7) / 8 * 8);
    Buffer after = alone;
    after.insert(after.end(), alone.begin(), alone.end());
    std::ranges::copy(with, alone.begin() + static_cast<std::ptrdiff_t>(i));
    after.insert(after.end(), alone.begin(), alone.end());
    DecodeStats alone_stats, after_stats;
    const Texts want = read_broken(strings, alone, alone_stats);
    const Texts got = read_broken(strings, after, after_stats);
    ASSERT_EQ(got.all.size(), want.all.size() + 2) << i;
    ASSERT_EQ(after_stats.malformed, alone_stats.malformed) << i;
    if (!want.all.empty()) {
      ASSERT_EQ(got.all.back(), want.all.back()) << i;
    }
  }
};

TEST_F(AfterAlike, IsReadAsAlone) { check_all(strings_, records_); }

TEST_F(AfterAlike, IsReadAsAloneWithHashesGiven) {
  const Buffer etf = golden("genserver_mix.etf");
  creation_ = creation_of(etf);
  struct Maker : RecordSink {
    CompactMaker maker;
    explicit Maker(std::uint32_t creation) : maker(std::string(kGolden), creation, true) {}
    void record(const TraceRecord& r) override {
      if (CompactMaker::has_form(r)) maker.record(r);
    }
  } sink(creation_);
  BatchStrings none;
  decode_records(*read_batch_header(*view_message(etf)), {{}, kGolden, creation_}, none, sink);
  check_all(sink.maker.strings(), sink.maker.records());
}

TEST(CompactMaker, WritesWhatTheReaderReads) {
  const Buffer etf = golden("batch_etf_v1.etf");
  const auto creation = creation_of(etf);
  const auto header = read_batch_header(*view_message(etf));
  struct OnlyCompact : RecordSink {
    CompactMaker maker;
    explicit OnlyCompact(std::uint32_t creation) : maker("shop@golden.example", creation) {}
    void record(const TraceRecord& r) override {
      if (CompactMaker::has_form(r)) maker.record(r);
    }
  } sink(creation);
  BatchStrings none;
  decode_records(*header, {{}, "shop@golden.example", creation}, none, sink);
  DecodeStats stats;
  const Texts want = read(etf, nullptr, "shop@golden.example", creation);
  const Texts got = read(message(sink.maker.strings(), sink.maker.records()).bytes(), &stats,
                         "shop@golden.example", creation);
  EXPECT_THAT(got.all, testing::ElementsAreArray(want.compact));
  EXPECT_EQ(stats.malformed, 0u);
}

}  // namespace
}  // namespace scope::codec
