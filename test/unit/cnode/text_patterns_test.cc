#include "cnode/text_patterns.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace scope::node {
namespace {

// secret, card, open (of a text that was cut), or none.
std::uint16_t run(const TextPatterns& p, std::string_view text, bool cut) {
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

// The most that one of them knows.
std::uint16_t run(const std::vector<TextPatterns>& all, std::string_view text, bool cut = false) {
  std::uint16_t most = 0;
  for (const auto& p : all) most = std::max(most, run(p, text, cut));
  return most;
}

TEST(TextPatterns, DefaultsFindSecretsAndLeaveTheRest) {
  const auto p = compile_text_patterns(true, {});
  ASSERT_TRUE(p) << to_string(p.error());
  ASSERT_EQ(p->size(), 1u);
  EXPECT_LE(p->front().next.size() / p->front().columns, 2000u);
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

TEST(TextPatterns, UsersOwnHaveRoomBesideTheDefaults) {
  const std::vector<std::string> own{
      "sk_live_[a-z0-9]{8}",     "akia[a-z0-9]{16}",
      "ghp_[a-z0-9]{36}",        "xox[bp]-[0-9]{10}",
      "cust-[a-z0-9]+-[0-9]{4}", "iban:? *[a-z]{2}[0-9]{2}(?: ?[a-z0-9]{4}){3}"};
  const auto p = compile_text_patterns(true, own);
  ASSERT_TRUE(p) << to_string(p.error());
  EXPECT_LE(p->size(), 5u);
  for (const auto text : {"it is sk_live_4eC39HqL", "AKIAIOSFODNN7EXAMPLE", "xoxb-0123456789",
                          "of cust-a1-4711", "IBAN: DE89 3704 0044 0532", "password=x"}) {
    EXPECT_EQ(run(*p, text), TextPatterns::kSecret) << text;
  }
  for (const auto text : {"sk_live_4eC39Hq", "akia", "xoxb-012345678", "cust--4711", "iban of"})
    EXPECT_EQ(run(*p, text), 0) << text;
  EXPECT_EQ(run(*p, "akiaiosfodn", true), TextPatterns::kOpen);
  // Not without end.
  EXPECT_FALSE(compile_text_patterns(true, std::vector<std::string>(33, own[0])));
  std::vector<std::string> large;
  for (char c = 'c'; c < 'm'; ++c) large.push_back("[ab]*a[ab]{10}" + std::string(1, c));
  const auto wrong = compile_text_patterns(true, large);
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code, Code::bad_value);
}

}  // namespace
}  // namespace scope::node
