#include "cnode/cli/arguments.h"

#include <gtest/gtest.h>

#include "ei_codec/term_print.h"

namespace scope::node::cli {
namespace {

template <typename T>
std::string encoded(const T& value) {
  codec::TermBuilder b;
  value.encode(b);
  return codec::print(*codec::view(b.bytes()), codec::Syntax::erlang);
}

std::string process(std::string_view text, std::string_view node = {}) {
  const auto p = parse_process(text, node);
  return p ? encoded(*p) : "error: " + p.error().message;
}

TEST(Process, Pids) {
  const auto here = "{<<\"<0.123.0>\">>,a@h}";
  for (const auto* text : {"<0.123.0>@a@h", "0.123.0@a@h", "#PID<0.123.0>@a@h", "{<0.123.0>, a@h}",
                           "{0.123.0,'a@h'}", "<a@h.123.0>", "#PID<a@h.123.0>", " 0.123.0@a@h "}) {
    EXPECT_EQ(process(text), here) << text;
  }
  EXPECT_EQ(process("0.123.0", "a@h"), here);
  EXPECT_EQ(process("0.123.4"), "<<\"<0.123.4>\">>");
  EXPECT_EQ(process("<a@10.0.0.1.9.2>"), "{<<\"<0.9.2>\">>,'a@10.0.0.1'}");
  EXPECT_EQ(process("0.9.2@a@10.0.0.1", "other@h"), "{<<\"<0.9.2>\">>,'a@10.0.0.1'}");
}

TEST(Process, Names) {
  EXPECT_EQ(process("stock"), "stock");
  EXPECT_EQ(process(":stock"), "stock");
  EXPECT_EQ(process("Shop.Stock"), "'Elixir.Shop.Stock'");
  EXPECT_EQ(process("'Shop'"), "'Shop'");
  EXPECT_EQ(process("stock@a@h"), "{stock,a@h}");
  EXPECT_EQ(process("Shop.Stock@a@h"), "{'Elixir.Shop.Stock',a@h}");
  EXPECT_EQ(process("Elixir.Shop.Stock@a@h"), "{'Elixir.Shop.Stock',a@h}");
  EXPECT_EQ(process("{stock, a@h}"), "{stock,a@h}");
  EXPECT_EQ(process("{:stock, :\"a@h\"}"), "{stock,a@h}");
  EXPECT_EQ(process("stock", "a@h"), "{stock,a@h}");
}

TEST(Process, NonsenseIsRefused) {
  for (const auto* text : {"", "<", "<>", "<0.1>", "0.1", "<0.1.2", "0.1.2>", "<5.1.2>",
                           "5.1.2@a@h", "<0.1.99999999999>", "stock@h", "{a}", "{a,b}", "@a@h",
                           "a@b@c@d", "#Ref<0.1.2>", "12", "<0.-1.0>", "{,a@h}"}) {
    EXPECT_FALSE(parse_process(text)) << text << " -> " << process(text);
  }
}

std::string mfa(std::string_view text) {
  const auto m = parse_mfa(text);
  return m ? encoded(*m) : "error: " + m.error().message;
}

TEST(Mfa, AllSpellings) {
  EXPECT_EQ(mfa("lists:map/2"), "{lists,map,2}");
  EXPECT_EQ(mfa(":lists.map/2"), "{lists,map,2}");
  EXPECT_EQ(mfa("lists:map"), "{lists,map}");
  EXPECT_EQ(mfa("lists:_"), "{lists,'_','_'}");
  EXPECT_EQ(mfa("lists"), "{lists,'_','_'}");
  EXPECT_EQ(mfa("Shop.Stock.take/2"), "{'Elixir.Shop.Stock',take,2}");
  EXPECT_EQ(mfa("Shop.Stock.take!/2"), "{'Elixir.Shop.Stock','take!',2}");
  EXPECT_EQ(mfa("Shop.Stock.ok?"), "{'Elixir.Shop.Stock','ok?'}");
  EXPECT_EQ(mfa("Shop.Stock"), "{'Elixir.Shop.Stock','_','_'}");
  EXPECT_EQ(mfa("Shop"), "{'Elixir.Shop','_','_'}");
  EXPECT_EQ(mfa("'Elixir.Shop.Stock':take/2"), "{'Elixir.Shop.Stock',take,2}");
  EXPECT_EQ(mfa("'my.mod':'a/b'/1"), "{'my.mod','a/b',1}");
  EXPECT_EQ(mfa("erlang:'=:='/2"), "{erlang,'=:=',2}");
  EXPECT_EQ(mfa("m:F/1"), "{m,'F',1}");
}

TEST(Mfa, NonsenseIsRefused) {
  for (const auto* text : {"", "/2", "lists:map/", "lists:map/x", "lists:map/256", "lists:map/-1",
                           "lists/2", ":/1", "lists:/2"}) {
    EXPECT_FALSE(parse_mfa(text)) << text << " -> " << mfa(text);
  }
}

TEST(Atoms, AtMost255Characters) {
  EXPECT_TRUE(parse_atom(std::string(255, 'a')));
  EXPECT_FALSE(parse_atom(std::string(256, 'a')));
  std::string wide;
  for (int i = 0; i < 255; ++i) wide += "ж";
  EXPECT_TRUE(parse_atom(wide));
}

TEST(Lists, CommasAndRepeats) {
  EXPECT_EQ(split_commas({"a,b", " c ", "", "d,,e"}),
            (std::vector<std::string>{"a", "b", "c", "d", "e"}));
}

}  // namespace
}  // namespace scope::node::cli
