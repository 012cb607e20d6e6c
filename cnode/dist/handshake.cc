#include "cnode/dist/handshake.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <sodium.h>

#include <algorithm>
#include <boost/asio/awaitable.hpp>

#include "cnode/dist/tcp_stream.h"

namespace scope::node {
namespace {

constexpr std::size_t kMaxFrame = 1024;   // the longest is a challenge: 19 bytes and a name of 255
constexpr std::size_t kFramedLength = 2;  // what framed() writes
// What a peer that speaks TLS begins with, read as a length: its alert on our name, its own hello.
constexpr std::uint32_t kTlsAlert = 0x1503, kTlsHandshake = 0x1603;
constexpr std::string_view kMaybeTls = "if it speaks TLS, give --tls-cert, --tls-key and --tls-ca";

ByteBuffer framed(const ByteBuffer& body) {
  ByteBuffer out;
  put(out, static_cast<std::uint16_t>(body.size()));
  put(out, codec::Bytes(body));
  return out;
}

ByteBuffer body_of(char tag) { return {static_cast<std::byte>(tag)}; }

Error malformed(std::string_view what) {
  return Error{Code::malformed, fmt::format("handshake: {}", what), {}, {}};
}

// Flags, for both name and challenge.
std::uint64_t expand(std::uint64_t f) {
  return (f & flags::kMandatory25) != 0 ? f | flags::kMandatory25Set : f;
}

Result<Hello> finish(WireReader& in, Hello hello) {
  const auto length = in.number<std::uint16_t>();
  hello.name = in.text(length);
  hello.flags = expand(hello.flags);
  if (!in.ok()) return std::unexpected(malformed("cut off"));  // trailing bytes are allowed
  return hello;
}

Awaitable<Result<ByteBuffer>> read_frame(std::shared_ptr<Stream> stream) {
  std::array<std::byte, 4> head{};
  const auto in = std::span(head).last(stream->handshake_length_bytes());
  CO_RETURN_IF_ERROR(co_await read_exactly(stream, in));
  const auto length = WireReader(head).number<std::uint32_t>();
  if (length == kTlsAlert || length == kTlsHandshake) {
    co_return fail(Code::auth_failed, std::string(kMaybeTls), "tls");
  }
  if (length == 0 || length > kMaxFrame) co_return std::unexpected(malformed("a frame's length"));
  ByteBuffer body(length);
  CO_RETURN_IF_ERROR(co_await read_exactly(stream, body));
  co_return body;
}

Awaitable<Status> write_frame(std::shared_ptr<Stream> stream, ByteBuffer frame) {
  frame.insert(frame.begin(), stream->handshake_length_bytes() - kFramedLength, std::byte{0});
  co_return co_await write_all(stream, frame);
}

std::uint32_t new_challenge() { return randombytes_random(); }

Status check_flags(const Hello& peer) {
  const std::uint64_t missing = flags::kRequired & ~peer.flags;
  if (missing == 0) return {};
  return fail(Code::malformed,
              fmt::format("{} lacks distribution flags that we need ({:#x}); OTP 25 or later is "
                          "required",
                          peer.name, missing));
}

// A peer with another cookie closes without a word.
Error closed_means_cookie(Error e, std::string_view peer) {
  if (e.code != Code::closed) return e;
  return Error{Code::auth_failed,
               fmt::format("{} closed the connection when it saw our digest: its cookie is another "
                           "one",
                           peer),
               "cookie",
               {}};
}

}  // namespace

Digest handshake_digest(const Cookie& cookie, std::uint32_t challenge) {
  const std::string number = std::to_string(challenge);
  Digest digest{};
  EVP_MD_CTX* md5 = EVP_MD_CTX_new();
  const bool good =
      md5 != nullptr && EVP_DigestInit_ex(md5, EVP_md5(), nullptr) == 1 &&
      EVP_DigestUpdate(md5, cookie.text().data(), cookie.text().size()) == 1 &&
      EVP_DigestUpdate(md5, number.data(), number.size()) == 1 &&
      EVP_DigestFinal_ex(md5, reinterpret_cast<unsigned char*>(digest.data()), nullptr) == 1;
  EVP_MD_CTX_free(md5);
  SCOPE_CHECK(good);
  return digest;
}

bool same_digest(const Digest& a, codec::Bytes b) {
  return b.size() == a.size() && sodium_memcmp(a.data(), b.data(), a.size()) == 0;
}

ByteBuffer encode_name(const Hello& hello) {
  ByteBuffer body = body_of('N');
  put(body, hello.flags);
  put(body, hello.creation);
  put(body, static_cast<std::uint16_t>(hello.name.size()));
  put(body, std::string_view(hello.name));
  return framed(body);
}

ByteBuffer encode_status(std::string_view status) {
  ByteBuffer body = body_of('s');
  put(body, status);
  return framed(body);
}

ByteBuffer encode_challenge(const Hello& hello) {
  ByteBuffer body = body_of('N');
  put(body, hello.flags);
  put(body, hello.challenge);
  put(body, hello.creation);
  put(body, static_cast<std::uint16_t>(hello.name.size()));
  put(body, std::string_view(hello.name));
  return framed(body);
}

ByteBuffer encode_reply(std::uint32_t challenge, const Digest& digest) {
  ByteBuffer body = body_of('r');
  put(body, challenge);
  put(body, codec::Bytes(digest));
  return framed(body);
}

ByteBuffer encode_ack(const Digest& digest) {
  ByteBuffer body = body_of('a');
  put(body, codec::Bytes(digest));
  return framed(body);
}

Result<Hello> parse_name(codec::Bytes bytes) {
  WireReader in(bytes);
  if (in.text(1) != "N") {
    return std::unexpected(malformed("a name of a protocol before OTP 23, or no name at all"));
  }
  Hello hello;
  hello.flags = in.number<std::uint64_t>();
  hello.creation = in.number<std::uint32_t>();
  return finish(in, std::move(hello));
}

Result<std::string_view> parse_status(codec::Bytes bytes) {
  WireReader in(bytes);
  if (in.text(1) != "s") return std::unexpected(malformed("a status was expected"));
  return in.text(in.rest().size());
}

Result<Hello> parse_challenge(codec::Bytes bytes) {
  WireReader in(bytes);
  if (in.text(1) != "N") return std::unexpected(malformed("a challenge was expected"));
  Hello hello;
  hello.flags = in.number<std::uint64_t>();
  hello.challenge = in.number<std::uint32_t>();
  hello.creation = in.number<std::uint32_t>();
  return finish(in, std::move(hello));
}

Result<ChallengeReply> parse_reply(codec::Bytes bytes) {
  WireReader in(bytes);
  if (in.text(1) != "r") return std::unexpected(malformed("a reply to the challenge was expected"));
  ChallengeReply reply;
  reply.challenge = in.number<std::uint32_t>();
  reply.digest = in.take(sizeof(Digest));
  if (!in.ok() || !in.rest().empty()) return std::unexpected(malformed("a reply's length"));
  return reply;
}

Result<codec::Bytes> parse_ack(codec::Bytes bytes) {
  WireReader in(bytes);
  if (in.text(1) != "a") return std::unexpected(malformed("an acknowledgement was expected"));
  const codec::Bytes digest = in.take(sizeof(Digest));
  if (!in.ok() || !in.rest().empty()) return std::unexpected(malformed("a digest's length"));
  return digest;
}

bool valid_node_name(std::string_view name) {
  const std::size_t at = name.find('@');
  return name.size() <= 255 && at != name.npos && at > 0 && at + 1 < name.size() &&
         name.find('@', at + 1) == name.npos &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c != '\x7f'; });
}

Awaitable<Result<Hello>> handshake_connect(std::shared_ptr<Stream> stream, HandshakeSelf self,
                                           std::string expected_name) {
  Hello ours{flags::kOurs, self.creation, self.name, 0};
  CO_RETURN_IF_ERROR(co_await write_frame(stream, encode_name(ours)));
  auto first = co_await read_frame(stream);
  if (!first && first.error().code == Code::closed) {
    co_return fail(Code::closed, fmt::format("{} before it said anything ({})",
                                             first.error().message, kMaybeTls));
  }
  CO_ASSIGN_OR_RETURN(ByteBuffer frame, std::move(first));
  CO_ASSIGN_OR_RETURN(std::string_view status, parse_status(frame));
  if (status == "nok") {
    co_return fail(Code::busy, fmt::format("{} is connecting to us", expected_name));
  }
  if (status == "not_allowed") {
    co_return fail(Code::refused, fmt::format("{} does not allow us to connect", expected_name));
  }
  if (status == "alive") {
    CO_RETURN_IF_ERROR(co_await write_frame(stream, encode_status("true")));
  } else if (status != "ok" && status != "ok_simultaneous") {
    co_return std::unexpected(malformed("an unknown status"));
  }

  CO_ASSIGN_OR_RETURN(ByteBuffer challenge_frame, co_await read_frame(stream));
  CO_ASSIGN_OR_RETURN(Hello peer, parse_challenge(challenge_frame));
  if (peer.name != expected_name) {
    const std::string got = valid_node_name(peer.name) ? peer.name : "a node with an invalid name";
    co_return fail(Code::bad_value,
                   fmt::format("{} answered where {} was expected", got, expected_name), "name",
                   got);
  }
  CO_RETURN_IF_ERROR(check_flags(peer));
  const std::uint32_t challenge = new_challenge();
  CO_RETURN_IF_ERROR(co_await write_frame(
      stream,
      encode_reply(challenge, handshake_digest(self.cookie_for(expected_name), peer.challenge))));
  auto ack_frame = co_await read_frame(stream);
  if (!ack_frame) {
    co_return std::unexpected(closed_means_cookie(std::move(ack_frame).error(), expected_name));
  }
  CO_ASSIGN_OR_RETURN(codec::Bytes digest, parse_ack(*ack_frame));
  if (!same_digest(handshake_digest(self.cookie_for(expected_name), challenge), digest)) {
    co_return fail(Code::auth_failed,
                   fmt::format("{} could not prove that it knows the cookie", expected_name),
                   "cookie");
  }
  peer.flags &= flags::kOurs | flags::kPublished;
  co_return peer;
}

Awaitable<Result<Hello>> handshake_accept(std::shared_ptr<Stream> stream, HandshakeSelf self,
                                          GateKeeper gate) {
  CO_ASSIGN_OR_RETURN(ByteBuffer frame, co_await read_frame(stream));
  CO_ASSIGN_OR_RETURN(Hello peer, parse_name(frame));
  // A node that asks us for a name (NAME_ME) sends its host only, which is no valid name.
  const bool valid = valid_node_name(peer.name) && peer.name != self.name;
  const Status flags_fit = check_flags(peer);
  Gate decision = Gate::not_allowed;
  if (valid && flags_fit) decision = gate(peer);
  switch (decision) {
    case Gate::not_allowed:
      co_await write_frame(stream, encode_status("not_allowed"));
      if (!valid) co_return fail(Code::bad_value, "a peer with an invalid name, or with ours");
      CO_RETURN_IF_ERROR(flags_fit);
      co_return fail(Code::refused, fmt::format("{} is not allowed to connect", peer.name));
    case Gate::nok:
      co_await write_frame(stream, encode_status("nok"));
      co_return fail(Code::busy, fmt::format("we are connecting to {} already", peer.name));
    case Gate::ok:
      CO_RETURN_IF_ERROR(co_await write_frame(stream, encode_status("ok")));
      break;
    case Gate::ok_simultaneous:
      CO_RETURN_IF_ERROR(co_await write_frame(stream, encode_status("ok_simultaneous")));
      break;
    case Gate::alive: {
      CO_RETURN_IF_ERROR(co_await write_frame(stream, encode_status("alive")));
      CO_ASSIGN_OR_RETURN(ByteBuffer answer_frame, co_await read_frame(stream));
      CO_ASSIGN_OR_RETURN(std::string_view answer, parse_status(answer_frame));
      if (answer == "false") {
        co_return fail(Code::busy, fmt::format("{} keeps the link that it has", peer.name));
      }
      if (answer != "true") co_return std::unexpected(malformed("an answer to alive"));
      break;
    }
  }

  const std::uint32_t challenge = new_challenge();
  Hello ours{flags::kOurs, self.creation, self.name, challenge};
  CO_RETURN_IF_ERROR(co_await write_frame(stream, encode_challenge(ours)));
  CO_ASSIGN_OR_RETURN(ByteBuffer reply_frame, co_await read_frame(stream));
  CO_ASSIGN_OR_RETURN(ChallengeReply reply, parse_reply(reply_frame));
  if (!same_digest(handshake_digest(self.cookie_for(peer.name), challenge), reply.digest)) {
    co_return fail(Code::auth_failed, fmt::format("{} has another cookie than we", peer.name),
                   "cookie");
  }
  CO_RETURN_IF_ERROR(co_await write_frame(
      stream, encode_ack(handshake_digest(self.cookie_for(peer.name), reply.challenge))));
  peer.flags &= flags::kOurs | flags::kPublished;
  co_return peer;
}

}  // namespace scope::node
