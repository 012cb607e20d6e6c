// Every tag, every limit, and bytes that are none of these.
#include "ei_codec/term_view.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "ei_codec/capture_record.h"
#include "ei_codec/local_atoms.h"
#include "ei_codec/match_hash.h"
#include "ei_codec/term_builder.h"
#include "ei_codec/term_diff.h"
#include "ei_codec/term_print.h"
#include "test/unit/ei_codec/codec_fixture.h"

namespace scope::codec {
namespace {

TermView good(const Buffer& bytes) {
  const auto term = view(bytes);
  EXPECT_TRUE(term) << (term ? "" : to_string(term.error()));
  if (!term) return TermView::unchecked(nullptr, nullptr);
  EXPECT_EQ(term->size(), bytes.size());
  return *term;
}

bool bad(const Buffer& bytes) { return !validate(Exact(bytes).get()); }

TEST(TermView, Integers) {
  EXPECT_EQ(good(bytes_of({97, 255})).integer(), 255);
  EXPECT_EQ(good(bytes_of({98, 255, 255, 255, 255})).integer(), -1);
  EXPECT_EQ(good(bytes_of({110, 8, 1, 0, 0, 0, 0, 0, 0, 0, 128})).integer(), INT64_MIN);
  const Buffer over = bytes_of({110, 8, 0, 0, 0, 0, 0, 0, 0, 0, 128});
  EXPECT_EQ(good(over).integer(), std::nullopt);
  EXPECT_EQ(good(over).unsigned_integer(), 1ULL << 63);
  EXPECT_EQ(good(bytes_of({111, 0, 0, 0, 2, 0, 5, 0})).integer(), 5);
  EXPECT_EQ(good(bytes_of({111, 0, 0, 0, 2, 0, 5, 0})).big()->magnitude.size(), 1u);
  EXPECT_EQ(good(bytes_of({110, 0, 0})).integer(), 0);
  EXPECT_TRUE(equal(good(bytes_of({97, 5})), good(bytes_of({110, 2, 0, 5, 0}))));
  EXPECT_EQ(good(bytes_of({97, 5})).atom(), std::nullopt);
}

TEST(TermView, Atoms) {
  EXPECT_EQ(good(bytes_of({119, 2, 'o', 'k'})).atom(), "ok");
  EXPECT_EQ(good(bytes_of({118, 0, 2, 'o', 'k'})).atom(), "ok");
  EXPECT_EQ(good(bytes_of({100, 0, 2, 'o', 'k'})).atom(), "ok");
  EXPECT_EQ(good(bytes_of({115, 2, 'o', 'k'})).atom(), "ok");
  EXPECT_EQ(good(bytes_of({119, 0})).atom(), "");
  EXPECT_TRUE(bad(bytes_of({115, 1, 0xE9})));              // Latin-1
  EXPECT_TRUE(bad(bytes_of({119, 2, 0xC0, 0x80})));        // overlong
  EXPECT_TRUE(bad(bytes_of({119, 3, 0xED, 0xA0, 0x80})));  // a surrogate
  EXPECT_TRUE(bad(bytes_of({119, 1, 0xC3})));              // half a character
  const auto long_atom = [](std::size_t characters) {
    Buffer out = bytes_of(
        {118, static_cast<int>(characters * 2 >> 8), static_cast<int>(characters * 2 & 255)});
    for (std::size_t i = 0; i < characters; ++i)
      out.insert(out.end(), {std::byte{0xD0}, std::byte{0xB6}});
    return out;
  };
  EXPECT_EQ(good(long_atom(255)).atom()->size(), 510u);
  EXPECT_TRUE(bad(long_atom(256)));
}

TEST(TermView, LocalAtomsOnlyWhereAllowed) {
  struct Table : StringTable {
    std::optional<std::string_view> atom(std::uint32_t id) const override {
      if (id == 7) return "seven";
      return std::nullopt;
    }
  } table;
  const Buffer seven = bytes_of({104, 2, 0xFB, 0, 0, 0, 7, 97, 1});
  const Buffer eight = bytes_of({104, 2, 0xFB, 0, 0, 0, 8, 97, 1});
  EXPECT_TRUE(bad(seven));
  const ValidateLimits allowed{.local_atoms = true};
  EXPECT_TRUE(validate(seven, allowed));
  EXPECT_FALSE(view(seven, allowed));
  EXPECT_FALSE(view(eight, allowed, &table));
  const auto term = view(seven, allowed, &table);
  ASSERT_TRUE(term);
  EXPECT_TRUE(term->is_tuple("seven", 2));
  TermBuilder plain;
  plain.term(*term);
  EXPECT_EQ(print(*view(plain.bytes()), Syntax::erlang), "{seven,1}");

  // Inside pids, exports and a fun, whose own length changes.
  Buffer fun = bytes_of({112, 0, 0, 0, 0, 1});
  fun.resize(22);
  const Buffer rest = bytes_of({0, 0,  0,    3,   0,    0, 0, 1, 0xFB, 0,    0, 0, 7, 97, 0,  97,
                                9, 88, 0xFB, 0,   0,    0, 7, 0, 0,    0,    1, 0, 0, 0,  2,  0,
                                0, 0,  3,    113, 0xFB, 0, 0, 0, 7,    0xFB, 0, 0, 0, 7,  97, 2});
  fun.insert(fun.end(), rest.begin(), rest.end());
  fun[4] = static_cast<std::byte>(fun.size() - 1);
  const auto closure = view(fun, allowed, &table);
  ASSERT_TRUE(closure) << to_string(closure.error());
  plain.clear();
  plain.term(*closure);
  const auto again = view(plain.bytes());
  ASSERT_TRUE(again) << to_string(again.error());
  EXPECT_TRUE(equal(*closure, *again));
  EXPECT_EQ(match_hash(*closure, {}).value, match_hash(*again, {}).value);
  EXPECT_EQ(again->fun()->module, "seven");
  EXPECT_EQ(again->fun_environment().item().export_fun()->arity, 2u);
}

// #shop:item{id = Id, price = {1,2}}, as OTP 29 sends it.
Buffer item_record(int id, int flags = 1) {
  return bytes_of({67,  0,   0,   0,   2,   flags, 119, 4,   's', 'h', 'o', 'p', 119,
                   4,   'i', 't', 'e', 'm', 119,   2,   'i', 'd', 119, 5,   'p', 'r',
                   'i', 'c', 'e', 97,  id,  104,   2,   97,  1,   97,  2});
}

TEST(TermView, NativeRecords) {
  const Buffer bytes = item_record(7);
  const auto record = good(bytes).record();
  ASSERT_TRUE(record);
  EXPECT_EQ(record->module, "shop");
  EXPECT_EQ(record->name, "item");
  EXPECT_TRUE(record->exported);
  EXPECT_EQ(record->names.left(), 2u);
  EXPECT_EQ(record->names.item().atom(), "id");
  ListView values = record->values;
  EXPECT_EQ(values.item().integer(), 7);
  values.next();
  EXPECT_EQ(values.item().arity(), 2u);
  values.next();
  EXPECT_TRUE(values.done());
  EXPECT_EQ(good(bytes_of({97, 1})).record().has_value(), false);

  EXPECT_EQ(print(good(bytes), Syntax::erlang), "#shop:item{id = 7,price = {1,2}}");
  EXPECT_EQ(print(good(bytes), Syntax::elixir), "#Record<:shop.:item id: 7, price: {1, 2}>");
  EXPECT_EQ(print(good(bytes), Syntax::json),
            R"({"$record":"shop","$name":"item","id":7,"price":[1,2]})");
  EXPECT_TRUE(equal(good(bytes), good(item_record(7))));
  const Buffer eight = item_record(8);
  EXPECT_FALSE(equal(good(bytes), good(eight)));
  EXPECT_NE(structural_hash(good(bytes)), structural_hash(good(eight)));
  EXPECT_TRUE(match_hash(good(bytes), {}).bounded);  // no tracer can look into it
  const auto changes = diff(good(bytes), good(eight));
  ASSERT_EQ(changes.changed.size(), 1u);
  EXPECT_EQ(std::get<TermView>(changes.changed[0].path.at(0)).atom(), "id");

  for (std::size_t n = 0; n < bytes.size(); ++n)
    EXPECT_TRUE(bad(Buffer(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n)))) << n;
  EXPECT_TRUE(bad(item_record(7, 2)));  // flags of a later version
  Buffer huge = bytes;
  huge[1] = huge[2] = std::byte{0xFF};
  EXPECT_TRUE(bad(huge));
}

TEST(TermView, NativeRecordsNameAtomsByNumber) {
  struct Table : StringTable {
    std::optional<std::string_view> atom(std::uint32_t id) const override {
      return id == 7 ? "seven" : "eight";
    }
  } table;
  Buffer bytes = bytes_of(
      {67, 0, 0, 0, 1, 0, 0xFB, 0, 0, 0, 7, 0xFB, 0, 0, 0, 7, 0xFB, 0, 0, 0, 7, 0xFB, 0, 0, 0, 7});
  const ValidateLimits allowed{.local_atoms = true};
  EXPECT_TRUE(bad(bytes));
  const auto term = view(bytes, allowed, &table);
  ASSERT_TRUE(term);
  TermBuilder copy;
  copy.term(*term);
  EXPECT_EQ(print(*view(copy.bytes()), Syntax::erlang), "#seven:seven{seven = seven}");
  renumber_local_atoms(bytes.data(), [](std::uint32_t id) { return id + 1; });
  EXPECT_EQ(print(*view(bytes, allowed, &table), Syntax::erlang), "#eight:eight{eight = eight}");
}

TEST(TermView, PidsPortsReferences) {
  const PidParts pid{"n", 1, 2, 3};
  EXPECT_EQ(good(bytes_of({88, 119, 1, 'n', 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3})).pid(), pid);
  EXPECT_EQ(good(bytes_of({103, 119, 1, 'n', 0, 0, 0, 1, 0, 0, 0, 2, 3})).pid(), pid);
  const PortParts port{"n", 1, 3};
  EXPECT_EQ(good(bytes_of({120, 119, 1, 'n', 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3})).port(), port);
  EXPECT_EQ(good(bytes_of({89, 119, 1, 'n', 0, 0, 0, 1, 0, 0, 0, 3})).port(), port);
  EXPECT_EQ(good(bytes_of({102, 119, 1, 'n', 0, 0, 0, 1, 3})).port(), port);
  const Buffer newer = bytes_of({90, 0, 1, 119, 1, 'n', 0, 0, 0, 3, 0, 0, 0, 9});
  EXPECT_TRUE(equal(good(newer), good(bytes_of({114, 0, 1, 119, 1, 'n', 3, 0, 0, 0, 9}))));
  EXPECT_TRUE(equal(good(newer), good(bytes_of({101, 119, 1, 'n', 0, 0, 0, 9, 3}))));
  EXPECT_TRUE(bad(bytes_of({90, 0, 0, 119, 1, 'n', 0, 0, 0, 3})));
  EXPECT_TRUE(bad(bytes_of({90, 0, 6, 119, 1, 'n', 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0,
                            2,  0, 0, 0,   3, 0,   0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6})));
  EXPECT_TRUE(
      bad(bytes_of({88, 97, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3})));  // no atom for a node
}

TEST(TermView, Floats) {
  EXPECT_EQ(good(bytes_of({70, 0x3F, 0xF8, 0, 0, 0, 0, 0, 0})).real(), 1.5);
  EXPECT_TRUE(bad(bytes_of({70, 0x7F, 0xF0, 0, 0, 0, 0, 0, 0})));
  EXPECT_TRUE(bad(bytes_of({70, 0xFF, 0xF8, 0, 0, 0, 0, 0, 0})));
  Buffer old = bytes_of({99});
  const std::string text = "1.50000000000000000000e+00";
  for (std::size_t i = 0; i < 31; ++i)
    old.push_back(static_cast<std::byte>(i < text.size() ? text[i] : 0));
  EXPECT_EQ(good(old).real(), 1.5);
  old[1] = std::byte{'x'};
  EXPECT_TRUE(bad(old));
}

TEST(TermView, ListsAndStrings) {
  const Buffer string = bytes_of({107, 0, 2, 200, 'b'});
  ListView it = *good(string).list();
  const TermView first = it.item();
  it.next();
  EXPECT_EQ(first.integer(), 200);  // outlives the step
  EXPECT_EQ(it.item().integer(), 'b');
  it.next();
  EXPECT_TRUE(it.done());
  EXPECT_TRUE(it.proper());
  const Buffer list = bytes_of({108, 0, 0, 0, 2, 97, 200, 97, 'b', 106});
  EXPECT_TRUE(equal(good(list), good(bytes_of({107, 0, 2, 200, 'b'}))));
  EXPECT_EQ(match_hash(good(list), {}).value,
            match_hash(good(bytes_of({107, 0, 2, 200, 'b'})), {}).value);
  const Buffer pair = bytes_of({108, 0, 0, 0, 1, 97, 1, 97, 2});
  ListView improper = *good(pair).list();
  EXPECT_FALSE(improper.proper());
  improper.next();
  EXPECT_EQ(improper.tail()->integer(), 2);
  EXPECT_EQ(good(bytes_of({106})).list()->left(), 0u);
  EXPECT_EQ(good(bytes_of({107, 0, 0})).kind(), TermKind::nil);
  EXPECT_TRUE(bad(bytes_of({108, 0, 0, 0, 0, 106})));
}

TEST(TermView, ListsByConsAreOneList) {
  TermBuilder b;
  constexpr int kMany = 100'000;  // far over kMaxDepth: a tail is no depth
  for (int i = 0; i < kMany; ++i) b.list_cons().integer(i);
  b.nil();
  const auto term = view(b.bytes());
  ASSERT_TRUE(term) << to_string(term.error());
  int n = 0;
  for (ListView it = *term->list(); !it.done(); it.next()) EXPECT_EQ(it.item().integer(), n++);
  EXPECT_EQ(n, kMany);
  TermBuilder flat;
  flat.list(kMany);
  for (int i = 0; i < kMany; ++i) flat.integer(i);
  flat.nil();
  EXPECT_TRUE(equal(*term, *view(flat.bytes())));
  EXPECT_EQ(structural_hash(*term), structural_hash(*view(flat.bytes())));
  EXPECT_EQ(match_hash(*term, {}).value, match_hash(*view(flat.bytes()), {}).value);
  EXPECT_EQ(print(*term, Syntax::erlang, 100), print(*view(flat.bytes()), Syntax::erlang, 100));
}

TEST(TermView, MapsCompareAsSets) {
  TermBuilder ab, ba;
  constexpr std::uint32_t kMany = 20'000;
  ab.map(kMany);
  ba.map(kMany);
  for (int i = 0; i < static_cast<int>(kMany); ++i) {
    ab.integer(i).binary("v");
    ba.integer(static_cast<int>(kMany) - 1 - i).binary("v");
  }
  EXPECT_TRUE(equal(*view(ab.bytes()), *view(ba.bytes())));
  EXPECT_TRUE(diff(*view(ab.bytes()), *view(ba.bytes())).empty());
  TermBuilder one, two;
  one.map(1).atom("a").integer(1);
  two.map(1).atom("a").integer(2);
  EXPECT_FALSE(equal(*view(one.bytes()), *view(two.bytes())));
  EXPECT_EQ(view(one.bytes())->map()->find("a")->integer(), 1);
  EXPECT_FALSE(view(one.bytes())->map()->find("b"));
}

TEST(TermView, Bitstrings) {
  EXPECT_EQ(good(bytes_of({77, 0, 0, 0, 1, 3, 0xBF})).bitstring()->bits, 3u);
  EXPECT_TRUE(
      equal(good(bytes_of({77, 0, 0, 0, 1, 3, 0xBF})), good(bytes_of({77, 0, 0, 0, 1, 3, 0xA0}))));
  EXPECT_TRUE(equal(good(bytes_of({77, 0, 0, 0, 1, 8, 5})), good(bytes_of({109, 0, 0, 0, 1, 5}))));
  EXPECT_TRUE(bad(bytes_of({77, 0, 0, 0, 1, 9, 5})));
  EXPECT_TRUE(bad(bytes_of({77, 0, 0, 0, 1, 0, 5})));
}

TEST(TermView, Text) {
  TermBuilder b;
  b.list(3).integer('a').binary("bc").list(1).integer(0x436).nil().nil();
  EXPECT_EQ(view(b.bytes())->text(), "abcж");
  EXPECT_EQ(view(b.bytes())->text(2), "ab");
  EXPECT_EQ(good(bytes_of({97, 1})).text(), std::nullopt);
  EXPECT_EQ(good(bytes_of({108, 0, 0, 0, 1, 97, 'a', 97, 'b'})).text(), std::nullopt);
}

TEST(Validate, RefusesWhatIsNotSent) {
  EXPECT_TRUE(bad({}));
  EXPECT_TRUE(bad(bytes_of({80, 0, 0, 0, 1, 0})));
  EXPECT_TRUE(bad(bytes_of({82, 0})));
  EXPECT_TRUE(bad(bytes_of({121, 0, 0, 0, 0})));
  EXPECT_TRUE(bad(bytes_of({131, 97, 1})));
  EXPECT_FALSE(view_message(bytes_of({97, 1})));
  EXPECT_FALSE(view_message(bytes_of({131, 97, 1, 0})));
  EXPECT_EQ(view_message(bytes_of({131, 97, 1}))->integer(), 1);
}

TEST(Validate, FalseLengthsCostNothing) {
  for (const int tag : {105, 108, 109, 111, 116, 112}) {
    EXPECT_TRUE(bad(bytes_of({tag, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0})));
  }
}

TEST(Validate, Depth) {
  const auto nested = [](std::size_t depth) {
    Buffer out;
    for (std::size_t i = 0; i < depth; ++i) out.insert(out.end(), {std::byte{104}, std::byte{1}});
    out.insert(out.end(), {std::byte{97}, std::byte{1}});
    return out;
  };
  const Buffer deepest = nested(kMaxDepth);
  EXPECT_TRUE(validate(deepest));
  EXPECT_TRUE(equal(good(deepest), good(deepest)));
  EXPECT_EQ(print(good(deepest), Syntax::json).size(), 2 * kMaxDepth + 1);
  EXPECT_EQ(validate(nested(kMaxDepth + 1)).error().code, Code::too_large);
  EXPECT_TRUE(bad(nested(1'000'000)));
}

TEST(Validate, Nodes) {
  const Buffer pair = bytes_of({104, 2, 106, 106});
  EXPECT_TRUE(validate(pair, {.max_nodes = 3}));
  EXPECT_EQ(validate(pair, {.max_nodes = 2}).error().code, Code::too_large);
  EXPECT_EQ(validate(Bytes(pair).first(3)).error().code, Code::malformed);
}

// validate() has a quick way and a thorough one, which counts, and is taken when there may be too many terms to count.
void both_ways(Bytes term) {
  if (term.empty()) return;
  const auto quick = validate(term), thorough = validate(term, {.max_nodes = term.size() - 1});
  if (!thorough && thorough.error().code == Code::too_large) return;
  ASSERT_EQ(quick.has_value(), thorough.has_value());
  if (quick) {
    EXPECT_EQ(*quick, *thorough);
  }
}

// Whatever validate() accepts must be safe to use in every way.
void use(Bytes bytes) {
  both_ways(bytes.subspan(1));
  const auto message = view_message(bytes);
  if (!message) return;
  for (const Syntax syntax : {Syntax::erlang, Syntax::elixir, Syntax::json}) {
    EXPECT_LE(print(*message, syntax, 300).size(), 300u);
  }
  match_hash(*message, {});
  EXPECT_TRUE(equal(*message, *message));
  EXPECT_EQ(message->size(), bytes.size() - 1);
  TermBuilder copy;
  copy.term(*message);
  diff(*message, *view(copy.bytes()));
  struct Count : RecordSink {
    std::size_t bytes = 0;
    void record(const TraceRecord& record) override { bytes += record.payload.size(); }
  } sink;
  if (const auto batch = read_batch_header(*message)) {
    BatchStrings strings;
    decode_records(*batch, {{}, "shop@golden.example", 0}, strings, sink);
  }
}

// The list of events inside the golden batch: real terms of most kinds.
Buffer golden_events() {
  const Buffer batch = golden("batch_etf_v1.etf");
  const Bytes events = read_batch_header(*view_message(batch))->events;
  return {events.begin(), events.end()};
}

TEST(Validate, CutAtEveryLength) {
  const Buffer batch = golden_events();
  ASSERT_GT(batch.size(), 1000u);
  for (std::size_t n = 0; n < batch.size(); ++n) {
    const Exact cut(Bytes(batch).first(n));
    ASSERT_FALSE(view_message(cut.get())) << n;
    if (n > 0) both_ways(Bytes(cut.get()).subspan(1));
  }
  ASSERT_TRUE(view_message(batch));
}

TEST(Validate, FlippedBytes) {
  std::mt19937 random(17);
  for (const Buffer& original :
       {golden("batch_etf_v1.etf"), golden("batch_compact_v1.etf"), golden_events()}) {
    for (int round = 0; round < 1500; ++round) {
      const Exact copy(original);
      for (unsigned flips = 1 + static_cast<unsigned>(random() % 4); flips > 0; --flips) {
        copy.get()[random() % original.size()] = static_cast<std::byte>(random());
      }
      use(copy.get());
    }
  }
}

}  // namespace
}  // namespace scope::codec
