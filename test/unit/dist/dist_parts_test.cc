// epmd's answers, cookies, gen calls.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <type_traits>

#include "cnode/dist/cookie.h"
#include "cnode/dist/epmd.h"
#include "cnode/dist/gen.h"

namespace scope::node {
namespace {

TEST(Epmd, ParsesNames) {
  const auto names = parse_names(
      "name a at port 1\nname b-c_2 at port 65535\nrubbish\nname x at port y\n"
      "name z at port 70000\nname last at port 3");
  ASSERT_EQ(names.size(), 3u);
  EXPECT_EQ(names[0].name, "a");
  EXPECT_EQ(names[1].port, 65535);
  EXPECT_EQ(names[2].name, "last");
  EXPECT_TRUE(parse_names("").empty());
}

TEST(Epmd, RegistersAsHidden) {
  const ByteBuffer b = encode_alive2("scope", 0x1234);
  WireReader in{codec::Bytes(b)};
  EXPECT_EQ(in.number<std::uint16_t>(), b.size() - 2);
  EXPECT_EQ(in.number<std::uint8_t>(), 120);
  EXPECT_EQ(in.number<std::uint16_t>(), 0x1234);
  EXPECT_EQ(in.number<std::uint8_t>(), 72);
}

TEST(Epmd, AddressOfOptionsGoesBeforeTheEnvironment) {
  ::setenv("ERL_EPMD_PORT", "1234", 1);
  ::setenv("ERL_EPMD_ADDRESS", "10.0.0.1,10.0.0.2", 1);
  NodeOptions options;
  EXPECT_EQ(epmd_address(options).port, 1234);
  EXPECT_EQ(epmd_address(options).host, "10.0.0.1");
  options.epmd_port = 5;
  options.epmd_host = "h";
  EXPECT_EQ(epmd_address(options).port, 5);
  EXPECT_EQ(epmd_address(options).host, "h");
  ::setenv("ERL_EPMD_PORT", "rubbish", 1);
  ::unsetenv("ERL_EPMD_ADDRESS");
  options = {};
  EXPECT_EQ(epmd_address(options).port, 4369);
  EXPECT_EQ(epmd_address(options).host, "127.0.0.1");
  ::unsetenv("ERL_EPMD_PORT");
}

class CookieFile : public testing::Test {
 protected:
  void SetUp() override {
    char dir[] = "/tmp/scope-cookie-XXXXXX";
    dir_ = ::mkdtemp(dir);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  Result<Cookie> read(std::string_view text) {
    const auto path = dir_ / "cookie";
    std::ofstream(path) << text;
    ::chmod(path.c_str(), 0600);
    return Cookie::from_file(path);
  }
  std::filesystem::path dir_;
};

TEST_F(CookieFile, FirstLineWithoutSpaces) {
  EXPECT_EQ(read("ABC")->text(), "ABC");
  EXPECT_EQ(read("ABC \t\r\nrest\n")->text(), "ABC");
  EXPECT_EQ(read(std::string(255, 'x'))->text().size(), 255u);
}

TEST_F(CookieFile, Failures) {
  EXPECT_EQ(Cookie::from_file(dir_ / "none").error().code, Code::not_available);
  EXPECT_EQ(Cookie::from_file(dir_).error().code, Code::io);
  for (const std::string& bad : {std::string(), std::string("\nABC"), std::string(256, 'x'),
                                 std::string("A\x01"), std::string(5000, 'x')}) {
    const auto cookie = read(bad);
    ASSERT_FALSE(cookie);
    EXPECT_EQ(cookie.error().code, Code::bad_value);
    EXPECT_EQ(cookie.error().message.find("ABC"), std::string::npos);
  }
}

TEST(CookieType, MovesLeaveNothingBehind) {
  Cookie a("short");
  Cookie b(std::move(a));
  EXPECT_TRUE(a.empty());  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(b.text(), "short");
  a = b;
  EXPECT_EQ(a.text(), "short");
}

template <typename T>
concept Streams = requires(std::ostream& out, const T& t) { out << t; };
static_assert(!Streams<Cookie>);

Message message(const codec::TermBuilder& b) { return Message::local(b.bytes(), "a@host"); }

TEST(Gen, CallsOfAllTags) {
  const codec::PidParts pid{"a@host", 1, 2, 3};
  codec::RefParts ref;
  ref.node = "a@host";
  ref.count = 3;
  ref.ids[0] = 7;
  codec::TermBuilder plain, alias, multi;
  plain.tuple(3).atom("$gen_call").tuple(2).pid(pid).reference(ref).atom("q");
  alias.tuple(3).atom("$gen_call").tuple(2).pid(pid).list(1).atom("alias").reference(ref).atom("q");
  multi.tuple(3)
      .atom("$gen_call")
      .tuple(2)
      .pid(pid)
      .tuple(2)
      .reference(ref)
      .atom("a@host")
      .atom("q");
  for (const auto* b : {&plain, &alias, &multi}) {
    const auto call = read_gen_call(message(*b));
    ASSERT_TRUE(call);
    EXPECT_EQ(call->from.monitor, Ref(ref));
    EXPECT_EQ(static_cast<bool>(call->from.alias), b == &alias);
    EXPECT_TRUE(call->request.term.is_atom("q"));
  }
}

TEST(Gen, OtherMessagesAreNoCalls) {
  codec::TermBuilder a, b, c, d;
  a.atom("$gen_call");
  b.tuple(3).atom("$gen_call").atom("x").atom("q");
  c.tuple(3).atom("$gen_call").tuple(2).atom("x").atom("y").atom("q");
  d.tuple(2).atom("$gen_cast").atom("q");
  for (const auto* t : {&a, &b, &c, &d}) EXPECT_FALSE(read_gen_call(message(*t)));
  EXPECT_TRUE(read_gen_cast(message(d))->term.is_atom("q"));
  EXPECT_FALSE(read_gen_cast(message(a)));
}

}  // namespace
}  // namespace scope::node
