#include "cnode/dist/handshake.h"

#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <deque>

namespace scope::node {
namespace {

std::string hex(codec::Bytes bytes) {
  std::string out;
  for (std::byte b : bytes) {
    constexpr char kDigits[] = "0123456789ABCDEF";
    out += kDigits[std::to_integer<int>(b) >> 4];
    out += kDigits[std::to_integer<int>(b) & 15];
  }
  return out;
}

// The values are erlang:md5([Cookie, integer_to_list(Challenge)]).
TEST(HandshakeDigest, IsWhatErlangComputes) {
  EXPECT_EQ(hex(handshake_digest(Cookie("secret"), 4294967295u)),
            "5DFD181E69AA587CC812EB333E6536B6");
  EXPECT_EQ(hex(handshake_digest(Cookie(""), 0)), "CFCD208495D565EF66E7DFF9F98764DA");
}

TEST(HandshakeDigest, ComparesWholeDigestsOnly) {
  const Digest d = handshake_digest(Cookie("a"), 1);
  EXPECT_TRUE(same_digest(d, d));
  EXPECT_FALSE(same_digest(d, codec::Bytes(d).first(15)));
  EXPECT_FALSE(same_digest(d, handshake_digest(Cookie("b"), 1)));
}

Hello sample() { return {0x4D075F4FBC, 7, "scope@host", 0xFEDCBA98}; }

codec::Bytes body(const ByteBuffer& frame) { return codec::Bytes(frame).subspan(2); }

// Each message: written, read, and refused when cut at any length.
template <typename Parse>
void refuses_every_cut(const ByteBuffer& frame, Parse parse) {
  const codec::Bytes whole = body(frame);
  EXPECT_TRUE(parse(whole));
  for (std::size_t n = 0; n < whole.size(); ++n) EXPECT_FALSE(parse(whole.first(n))) << n;
}

TEST(HandshakeMessages, RoundTripAndCuts) {
  const Hello hello = sample();
  const auto name = parse_name(body(encode_name(hello)));
  ASSERT_TRUE(name);
  EXPECT_EQ(name->name, hello.name);
  EXPECT_EQ(name->creation, hello.creation);
  EXPECT_EQ(name->flags & hello.flags, hello.flags);
  refuses_every_cut(encode_name(hello), [](codec::Bytes b) { return parse_name(b).has_value(); });

  const auto challenge = parse_challenge(body(encode_challenge(hello)));
  ASSERT_TRUE(challenge);
  EXPECT_EQ(challenge->challenge, hello.challenge);
  EXPECT_EQ(challenge->name, hello.name);
  refuses_every_cut(encode_challenge(hello),
                    [](codec::Bytes b) { return parse_challenge(b).has_value(); });

  const Digest digest = handshake_digest(Cookie("x"), 5);
  const ByteBuffer reply_frame = encode_reply(9, digest);
  const auto reply = parse_reply(body(reply_frame));
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->challenge, 9u);
  EXPECT_TRUE(same_digest(digest, reply->digest));
  refuses_every_cut(reply_frame, [](codec::Bytes b) { return parse_reply(b).has_value(); });
  refuses_every_cut(encode_ack(digest), [](codec::Bytes b) { return parse_ack(b).has_value(); });

  const ByteBuffer status = encode_status("ok_simultaneous");
  EXPECT_EQ(parse_status(body(status)), "ok_simultaneous");
  EXPECT_FALSE(parse_status({}));
}

TEST(HandshakeMessages, TheDigestFlagStandsForTheSetOf25) {
  Hello hello = sample();
  hello.flags = flags::kMandatory25 | (4ull << 32) | 0x2000000;
  const auto peer = parse_name(body(encode_name(hello)));
  ASSERT_TRUE(peer);
  EXPECT_EQ(peer->flags & flags::kRequired, flags::kRequired);
}

TEST(NodeNames, Validity) {
  EXPECT_TRUE(valid_node_name("a@b"));
  for (const char* bad : {"", "a", "@", "a@", "@b", "a@b@c", "a b@c", "a@b\n"}) {
    EXPECT_FALSE(valid_node_name(bad)) << bad;
  }
  EXPECT_FALSE(valid_node_name(std::string(254, 'a') + "@b"));
}

// --- both sides against each other -----------------------------------------------------------------

// Two ends of a pipe in memory.
struct Pipe {
  explicit Pipe(boost::asio::io_context& io) : wake(io) {
    wake.expires_at(std::chrono::steady_clock::time_point::max());
  }
  std::deque<std::byte> bytes;
  bool closed = false;
  boost::asio::steady_timer wake;
};

class PipeStream : public Stream {
 public:
  PipeStream(std::shared_ptr<Pipe> in, std::shared_ptr<Pipe> out)
      : in_(std::move(in)), out_(std::move(out)) {}
  Awaitable<Result<std::size_t>> read_some(std::span<std::byte> into) override {
    while (in_->bytes.empty() && !in_->closed) {
      boost::system::error_code ec;
      co_await in_->wake.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ec));
    }
    if (in_->bytes.empty()) co_return fail(Code::closed, "end");
    std::size_t n = 0;
    while (n < into.size() && !in_->bytes.empty()) {
      into[n++] = in_->bytes.front();
      in_->bytes.pop_front();
    }
    co_return n;
  }
  Awaitable<Result<std::size_t>> write_some(codec::Bytes bytes) override {
    if (out_->closed) co_return fail(Code::closed, "closed");
    const std::size_t n = std::min<std::size_t>(bytes.size(), 3);  // in small pieces
    out_->bytes.insert(out_->bytes.end(), bytes.begin(),
                       bytes.begin() + static_cast<std::ptrdiff_t>(n));
    out_->wake.cancel();
    co_return n;
  }
  void close() override {
    in_->closed = out_->closed = true;
    in_->wake.cancel();
    out_->wake.cancel();
  }
  std::string peer_address() const override { return "pipe"; }

 private:
  std::shared_ptr<Pipe> in_, out_;
};

struct Outcome {
  Result<Hello> connect = fail(Code::internal, "unset"), accept = fail(Code::internal, "unset");
};

Awaitable<void> run_connect(std::shared_ptr<Stream> s, HandshakeSelf self, std::string expected,
                            Outcome& out) {
  out.connect = co_await handshake_connect(s, self, expected);
  if (!out.connect) s->close();
}
Awaitable<void> run_accept(std::shared_ptr<Stream> s, HandshakeSelf self, Gate gate, Outcome& out) {
  GateKeeper keeper = [gate](const Hello&) { return gate; };
  out.accept = co_await handshake_accept(s, self, keeper);
  if (!out.accept) s->close();
}

Outcome shake(std::string_view cookie_a, std::string_view cookie_b, Gate gate,
              std::string expected = "b@host") {
  boost::asio::io_context io;
  auto ab = std::make_shared<Pipe>(io), ba = std::make_shared<Pipe>(io);
  auto a = std::make_shared<PipeStream>(ba, ab), b = std::make_shared<PipeStream>(ab, ba);
  Outcome out;
  using boost::asio::co_spawn, boost::asio::detached;
  co_spawn(io, run_connect(a, {"a@host", 1, Cookie(cookie_a)}, std::move(expected), out), detached);
  co_spawn(io, run_accept(b, {"b@host", 2, Cookie(cookie_b)}, gate, out), detached);
  io.run();
  return out;
}

TEST(Handshake, Succeeds) {
  for (Gate gate : {Gate::ok, Gate::ok_simultaneous, Gate::alive}) {
    const Outcome out = shake("c", "c", gate);
    ASSERT_TRUE(out.connect) << to_string(out.connect.error());
    ASSERT_TRUE(out.accept) << to_string(out.accept.error());
    EXPECT_EQ(out.connect->name, "b@host");
    EXPECT_EQ(out.connect->creation, 2u);
    EXPECT_EQ(out.accept->name, "a@host");
    EXPECT_EQ(out.accept->creation, 1u);
  }
}

TEST(Handshake, FailuresAreTold) {
  Outcome out = shake("c", "d", Gate::ok);
  EXPECT_EQ(out.accept.error().code, Code::auth_failed);
  EXPECT_EQ(out.connect.error().code, Code::auth_failed);
  out = shake("c", "c", Gate::nok);
  EXPECT_EQ(out.connect.error().code, Code::busy);
  out = shake("c", "c", Gate::not_allowed);
  EXPECT_EQ(out.connect.error().code, Code::refused);
  out = shake("c", "c", Gate::ok, "c@host");
  EXPECT_EQ(out.connect.error().code, Code::bad_value);
}

}  // namespace
}  // namespace scope::node
