#include "cnode/text_patterns.h"

#include <gtest/gtest.h>

namespace scope::node {
namespace {

// secret, card, open (of a text that was cut), or none.
std::uint16_t run(const TextPatterns& p, std::string_view text, bool cut = false) {
  std::uint16_t state = 0, cards = 0;
  const auto step = [&](unsigned char c) {
    state = p.next[(state & TextPatterns::kState) * p.columns +
                   static_cast<unsigned char>(p.classes[c])];
    cards |= state & TextPatterns::kCard;
    return (state & TextPatterns::kSecret) != 0;
  };
  if (step('\n')) return TextPatterns::kSecret;
  for (const char c : text) {
    if (step(static_cast<unsigned char>(c))) return TextPatterns::kSecret;
  }
  if (cut) return cards | (state & TextPatterns::kOpen);
  return step('\n') ? TextPatterns::kSecret : cards;
}

TEST(TextPatterns, DefaultsFindSecretsAndLeaveTheRest) {
  const auto p = compile_text_patterns(true, {});
  ASSERT_TRUE(p) << to_string(p.error());
  EXPECT_LE(p->next.size() / p->columns, 2000u);
  for (const auto text :
       {"Authorization: Bearer abcdefghijklmno", "bearer  AbCdEf123456", "Basic dXNlcjpwYXNz",
        "x eyJhbGciOi.eyJzdWIiOi.sig", "/login?user=a&password=hunter2", "token=x1",
        "\"api_key\": \"k\"", "{\\\"secret\\\":\\\"s\\\"}", "amqp://guest:guest@host/",
        "postgres://u:p%40@db:5432/x", "-----BEGIN RSA PRIVATE KEY-----", "-----BEGIN PRIVATE KEY",
        "Cookie: a=b", "%{password => \"x\"}"}) {
    EXPECT_EQ(run(*p, text), TextPatterns::kSecret) << text;
  }
  for (const auto text : {"2026-11-28T16:20:59.123456Z", "http://host:8080/a@b",
                          "https://example.com/path?q=1", "the password was changed", "token",
                          "a token: ", "order 17-2233", "password=&user=x", "mailto:a@b.c"}) {
    EXPECT_EQ(run(*p, text), 0) << text;
  }
  EXPECT_EQ(run(*p, "paid with 4111 1111 1111 1111."), TextPatterns::kCard);
  EXPECT_EQ(run(*p, "4111111111111111"), TextPatterns::kCard);
}

TEST(TextPatterns, WhatWasCutInAMatchIsOpen) {
  const auto p = compile_text_patterns(true, {});
  ASSERT_TRUE(p);
  EXPECT_EQ(run(*p, "x eyJhbGciOiJIUzI1NiJ9.eyJz", true), TextPatterns::kOpen);
  EXPECT_EQ(run(*p, "card 4111 1111", true), TextPatterns::kOpen);
  EXPECT_EQ(run(*p, "card 4111 1111, and more text", true), 0);
  EXPECT_EQ(run(*p, "what was said", true), 0);
}

TEST(TextPatterns, WhatIsWrongIsSaid) {
  for (const std::string text : {"a", "abc", "a*", "(abcd", "abcd)", "[abcd", "^abcd", "abcd$",
                                 "*abcd", "ab\\1cd", "abcd{999}", "abcd{3,2}", "(?=abcd)",
                                 "ab[z-a]cd", "((((a{99}){99}){99}){99})bcde", "abcd\\"}) {
    const auto p = compile_text_patterns(true, std::span(&text, 1));
    ASSERT_FALSE(p) << text;
    EXPECT_EQ(p.error().code, Code::bad_value);
  }
  // The classical blow-up of states.
  const std::string many = "[ab]*a[ab]{20}";
  EXPECT_FALSE(compile_text_patterns(false, std::span(&many, 1)));
  const std::string own = "cust-[0-9]{6}";
  const auto p = compile_text_patterns(false, std::span(&own, 1));
  ASSERT_TRUE(p);
  EXPECT_EQ(run(*p, "of CUST-123456"), TextPatterns::kSecret);
  EXPECT_EQ(run(*p, "of cust-12345"), 0);
  EXPECT_EQ(run(*p, "password=x"), 0);
}

}  // namespace
}  // namespace scope::node
