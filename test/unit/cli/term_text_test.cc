// Terms as people type them for --match: what comes out is what Erlang would read.
#include "cnode/cli/term_text.h"

#include <gtest/gtest.h>

#include "ei_codec/term_print.h"

namespace scope::node::cli {
namespace {

std::string again(std::string_view text) {
  const auto term = parse_term(text);
  if (!term) return "wrong: " + term.error().message;
  const auto view = codec::view(term->bytes());
  if (!view || view->size() != term->bytes().size()) return "no term";
  return codec::print(*view, codec::Syntax::erlang);
}

TEST(TermText, IsReadAsErlangReadsIt) {
  for (const std::string_view text :
       {"ok", "'_'", "'$1'", "{add,'_'}", "[]", "[1,-2,1.5]", "[a|'$1']", "[{set,'$1'}|'_']", "{}",
        "#{}", "#{a => 1,b => #{c => '_'}}", "<<\"abc\">>", "<<>>", "\"abc\"",
        "{{'$1'},[{'>','$1',3}]}"}) {
    EXPECT_EQ(again(text), text);
  }
  EXPECT_EQ(again(" { add , '_' } . "), "{add,'_'}");
  EXPECT_EQ(again("{_,$1}"), "{'_','$1'}");
  EXPECT_EQ(again("'it\\'s'"), "'it\\'s'");
  EXPECT_EQ(again("<<\"\xD0\xB6\"/utf8>>"), "<<\"\xD0\xB6\"/utf8>>");
}

TEST(TermText, WhatIsWrongIsSaidWithItsPlace) {
  for (const std::string_view text : {"", "{", "{a,}", "[a|b,c]", "#{a}", "#{a => }", "<<1>>", "'a",
                                      "Abc", "1 2", "99999999999999999999", "{a b}"}) {
    EXPECT_TRUE(again(text).starts_with("wrong: expected ")) << text << ": " << again(text);
  }
  EXPECT_TRUE(again(std::string(200, '{')).starts_with("wrong: expected fewer levels"));
}

}  // namespace
}  // namespace scope::node::cli
