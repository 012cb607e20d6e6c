// What the property test cannot compare with a BEAM: caps, structs, JSON's forms, and differences.
#include "ei_codec/term_print.h"

#include <gtest/gtest.h>

#include "ei_codec/term_builder.h"
#include "ei_codec/term_diff.h"
#include "test/unit/ei_codec/codec_fixture.h"

namespace scope::codec {
namespace {

std::string erlang(const TermBuilder& b, std::size_t cap = 1000) {
  return print(*view(b.bytes()), Syntax::erlang, cap);
}
std::string elixir(const TermBuilder& b, std::size_t cap = 1000) {
  return print(*view(b.bytes()), Syntax::elixir, cap);
}
std::string json(const TermBuilder& b, std::size_t cap = 1000) {
  return print(*view(b.bytes()), Syntax::json, cap);
}

TEST(Print, Structs) {
  TermBuilder b;
  b.map(3)
      .atom("name")
      .binary("Ann")
      .atom("__struct__")
      .atom("Elixir.Shop.User")
      .atom("age")
      .integer(4);
  EXPECT_EQ(elixir(b), "%Shop.User{name: \"Ann\", age: 4}");
  EXPECT_EQ(erlang(b), "#{name => <<\"Ann\">>,'__struct__' => 'Elixir.Shop.User',age => 4}");
  EXPECT_EQ(json(b), R"({"name":"Ann","__struct__":"Elixir.Shop.User","age":4})");
}

TEST(Print, KeywordsAndMixedMaps) {
  TermBuilder b;
  b.tuple(2).list(2).tuple(2).atom("a").integer(1).tuple(2).atom("b c").integer(2).nil();
  b.map(2).atom("a").integer(1).binary("k").atom("Elixir.Foo");
  EXPECT_EQ(elixir(b), R"({[a: 1, "b c": 2], %{:a => 1, "k" => Foo}})");
  EXPECT_EQ(json(b), R"([[["a",1],["b c",2]],{"$map":[["a",1],["k","Elixir.Foo"]]}])");
}

TEST(Print, JsonForms) {
  TermBuilder b;
  b.list(7).atom("nil").atom("true").unsigned_integer(UINT64_MAX).binary(bytes_of({255, 0}));
  b.real(1).list(1).integer(1).atom("tail").pid({"a@b", 1, 2, 3}).nil();
  EXPECT_EQ(json(b), R"([null,true,18446744073709551615,{"$binary":"/wA="},1.0,)"
                     R"({"$list":[1],"$tail":"tail"},"#PID<a@b.1.2>"])");
  TermBuilder nasty;
  nasty.map(1).atom("true").pid({"a\n\"b", 1, 2, 3});
  EXPECT_EQ(json(nasty), R"({"true":"#PID<'a\\n\"b'.1.2>"})");
}

// Whatever is shown may reach a terminal.
TEST(Print, NoControlCharacterComesOutAsItIs) {
  for (std::uint32_t c = 0; c < 0xA0; c == 31 ? c = 127 : ++c) {
    std::string text = "ab";
    if (c < 128) {
      text += static_cast<char>(c);
    } else {
      text += {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
    }
    TermBuilder binary, atom, list;
    binary.binary(text + "cd");
    atom.atom(text);
    list.list(3).integer('a').integer(c).integer('b').nil();
    for (const auto* b : {&binary, &atom, &list}) {
      for (const auto syntax : {Syntax::erlang, Syntax::elixir, Syntax::json}) {
        const std::string shown = print(*view(b->bytes()), syntax);
        for (std::size_t i = 0; i < shown.size(); ++i) {
          const auto at = static_cast<unsigned char>(shown[i]);
          const bool c1 = at == 0xC2 && static_cast<unsigned char>(shown[i + 1]) < 0xA0;
          EXPECT_FALSE(at < 32 || at == 127 || c1)
              << "character " << c << " in " << shown << " syntax " << static_cast<int>(syntax);
        }
      }
    }
  }
}

TEST(Print, CapsAreMarkedEverywhere) {
  TermBuilder b;
  b.tuple(2).list(3).integer(1000).integer(2000).integer(3000).nil().binary(std::string(100, 'x'));
  EXPECT_EQ(erlang(b, 40), "{[1000,2000,3000],...}");
  EXPECT_TRUE(erlang(b, 50).starts_with("{[1000,2000,3000],<<\"xxxx"));
  EXPECT_TRUE(erlang(b, 50).ends_with("xx\"...>>}"));
  EXPECT_EQ(elixir(b, 24), "{[1000, ...], ...}");
  EXPECT_EQ(json(b, 30), R"([[1000,"..."],"..."])");
  for (std::size_t cap = 0; cap < 140; ++cap) {
    for (const Syntax s : {Syntax::erlang, Syntax::elixir, Syntax::json}) {
      EXPECT_LE(print(*view(b.bytes()), s, cap).size(), std::max(cap, kMinPrint));
    }
  }
}

TEST(Print, HugeIntegersAreHexadecimal) {
  Buffer big = bytes_of({111, 0, 0, 8, 0, 1});
  big.resize(6 + 2048, std::byte{0xAB});
  EXPECT_TRUE(print(*view(big), Syntax::erlang, 10'000).starts_with("-16#ABAB"));
  EXPECT_TRUE(print(*view(big), Syntax::json, 10'000).starts_with("\"-0xABAB"));
  EXPECT_EQ(print(*view(big), Syntax::erlang, 100), "...");
}

// A cap bounds the work, too: a small text of a large term takes no time.
TEST(Print, CostsWhatItShows) {
  TermBuilder wide;
  wide.list(1'000'000);
  for (int i = 0; i < 1'000'000; ++i) wide.tuple(2).atom("k").integer(i);
  wide.nil();
  for (int round = 0; round < 500; ++round) {
    for (const Syntax s : {Syntax::erlang, Syntax::elixir, Syntax::json}) {
      ASSERT_LE(print(TermView::unchecked(wide.bytes().data(), nullptr), s, 200).size(), 200u);
    }
  }
}

std::string difference(const TermBuilder& a, const TermBuilder& b, const DiffLimits& limits = {}) {
  TermBuilder out;
  write_diff(diff(*view(a.bytes()), *view(b.bytes()), limits), out);
  return erlang(out, 10'000);
}

TEST(Diff, ByPath) {
  TermBuilder a, b;
  a.map(3)
      .atom("n")
      .integer(1)
      .atom("gone")
      .atom("x")
      .atom("l")
      .list(3)
      .atom("p")
      .atom("q")
      .atom("r")
      .nil();
  b.map(3)
      .atom("l")
      .list(4)
      .atom("new")
      .atom("p")
      .atom("q")
      .atom("r")
      .nil()
      .atom("n")
      .integer(2)
      .atom("more")
      .nil();
  EXPECT_EQ(difference(a, b),
            "#{added => [{[l,0],new},{[more],[]}],removed => [{[gone],x}],changed => [{[n],1,2}]}");
  EXPECT_EQ(difference(a, a), "#{added => [],removed => [],changed => []}");
}

TEST(Diff, TuplesByIndexUnlessTagsDiffer) {
  TermBuilder a, b, c;
  a.tuple(3).atom("state").integer(1).tuple(1).integer(5);
  b.tuple(3).atom("state").integer(1).tuple(1).integer(6);
  c.tuple(3).atom("other").integer(1).tuple(1).integer(6);
  EXPECT_EQ(difference(a, b), "#{added => [],removed => [],changed => [{[2,0],5,6}]}");
  EXPECT_EQ(difference(a, c),
            "#{added => [],removed => [],changed => [{[],{state,1,{5}},{other,1,{6}}}]}");
}

TEST(Diff, Limits) {
  TermBuilder a, b;
  a.list(50);
  b.list(50);
  for (int i = 0; i < 50; ++i) {
    a.integer(i + 1000);
    b.integer(i + 2000);
  }
  a.nil();
  b.nil();
  const TermDiff cut = diff(*view(a.bytes()), *view(b.bytes()), {.max_entries = 10});
  EXPECT_TRUE(cut.cut);
  EXPECT_EQ(cut.changed.size(), 10u);
  TermBuilder out;
  write_diff(cut, out);
  EXPECT_EQ(view(out.bytes())->map()->find("cut")->atom(), "true");
  EXPECT_FALSE(diff(*view(a.bytes()), *view(b.bytes()), {.max_entries = 50}).cut);
  TermBuilder deep, deeper;
  deep.tuple(1).tuple(1).tuple(1).integer(1);
  deeper.tuple(1).tuple(1).tuple(1).integer(2);
  EXPECT_EQ(difference(deep, deeper, {.max_depth = 2}),
            "#{added => [],removed => [],changed => [{[0,0],{1},{2}}]}");
}

}  // namespace
}  // namespace scope::codec
