#include "cnode/cli/table.h"

#include <gtest/gtest.h>

#include <sstream>

namespace scope::node::cli {
namespace {

constexpr Terminal kPipe{};
constexpr Terminal width(int n) { return {false, n}; }

Table sample() {
  Table t({{"name"}, {"n", true}, {"nothing"}, {"what", false, true}});
  t.add({"stock", "7", "", "a rather long text that may be cut"});
  t.add({"жжж", "1,234", "", "短い"});
  return t;
}

TEST(Table, Golden) {
  EXPECT_EQ(sample().render(kPipe),
            "name       n  what\n"
            "stock      7  a rather long text that may be cut\n"
            "жжж    1,234  短い\n");
}

TEST(Table, CutToTheTerminal) {
  EXPECT_EQ(sample().render(width(30)),
            "name       n  what\n"
            "stock      7  a rather long t…\n"
            "жжж    1,234  短い\n");
  std::istringstream lines(sample().render(width(24)));
  for (std::string line; std::getline(lines, line);) EXPECT_LE(display_width(line), 24) << line;
}

TEST(Table, TheWidestColumnsGiveFirst) {
  Table t({{"a", false, true}, {"b", false, true}});
  t.add({std::string(40, 'a'), std::string(20, 'b')});
  EXPECT_EQ(t.render(width(42), false), std::string(19, 'a') + "…  " + std::string(20, 'b') + "\n");
  EXPECT_EQ(t.render(width(22), false), std::string(9, 'a') + "…  " + std::string(9, 'b') + "…\n");
  EXPECT_EQ(t.render(width(3), false),
            std::string(7, 'a') + "…  " + std::string(7, 'b') + "…\n");  // never below 8
}

TEST(Table, ColourAddsNoWidth) {
  Table t({{"a"}, {"b"}});
  t.add({{"x", Paint::red}, "y"});
  EXPECT_EQ(t.render({true, 80}, false), "\x1b[31mx\x1b[0m  y\n");
  EXPECT_EQ(Table({{"a"}}).render(kPipe), "");
}

TEST(Text, Printable) {
  EXPECT_EQ(printable("a\x1b[31m\r\n\t\x7f"), "a\\x{1B}[31m\\x{D}\\n\\t\\x{7F}");
  EXPECT_EQ(printable("\xc2\x9b\xe2\x80\xae"),
            "\\x{9B}\\x{202E}");  // C1 control, right-to-left override
  EXPECT_EQ(printable("\xff\xc3"), "\\x{FF}\\x{C3}");
  EXPECT_EQ(printable("\xed\xa0\x80"), "\\x{ED}\\x{A0}\\x{80}");  // a surrogate
  EXPECT_EQ(printable("日本 жук é"), "日本 жук é");
}

TEST(Text, Widths) {
  EXPECT_EQ(display_width("abc"), 3);
  EXPECT_EQ(display_width("日本"), 4);
  EXPECT_EQ(display_width("e\xcc\x81"), 1);
  EXPECT_EQ(fit("日本語", 5), "日本…");
  EXPECT_EQ(fit("日本語", 4), "日…");
  EXPECT_EQ(fit("abc", 3), "abc");
  EXPECT_EQ(fit("abc", 0), "");
}

TEST(Text, Wrap) {
  EXPECT_EQ(wrap("one two three", 8), "one two\nthree");
  EXPECT_EQ(wrap("one two three", 0), "one two three");
  EXPECT_EQ(wrap("one two three", 9, 2), "  one two\n  three");
  EXPECT_EQ(wrap("abcdefghij kl", 4), "abcd\nefgh\nij\nkl");
  EXPECT_EQ(wrap("", 4), "");
  for (int w = 4; w < 40; ++w) {
    std::istringstream lines(
        wrap("a wide text 日本語日本語 with wordsthatarelong and short", w, 2));
    for (std::string line; std::getline(lines, line);)
      EXPECT_LE(display_width(line), w) << w << ": " << line;
  }
}

}  // namespace
}  // namespace scope::node::cli
