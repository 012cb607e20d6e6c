// The distribution handshake, both sides, over any Stream (distribution.md section 2). Internal to cnode/dist.
// The messages are pure functions on bytes; each is framed by a length of 2 bytes, over TLS of 4.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "cnode/dist/awaitable.h"
#include "cnode/dist/cookie.h"
#include "cnode/dist/stream.h"
#include "cnode/dist/wire.h"
#include "ei_codec/base/result.h"

namespace scope::node {

namespace flags {
inline constexpr std::uint64_t kPublished = 0x1, kMonitor = 0x8, kMonitorName = 0x20;
inline constexpr std::uint64_t kSendSender = 0x80000, kExitPayload = 0x400000;
inline constexpr std::uint64_t kFragments = 0x800000;
inline constexpr std::uint64_t kMandatory25 = 0x4000000, kNameMe = 2ull << 32;
inline constexpr std::uint64_t kAlias = 8ull << 32;
// What MANDATORY_25_DIGEST stands for.
inline constexpr std::uint64_t kMandatory25Set = 0x1070F94;
// What we require: the set of 25, 32-bit ids (V4_NC) and UNLINK_ID. OTP 25 and later and their ei have all.
inline constexpr std::uint64_t kRequired = kMandatory25Set | (4ull << 32) | 0x2000000;
// What we offer: hidden, fragments, no atom cache.
inline constexpr std::uint64_t kOurs = 0x4D075F4FBC | kFragments;
}  // namespace flags

using Digest = std::array<std::byte, 16>;
// md5 of the cookie followed by the challenge in decimal.
Digest handshake_digest(const Cookie& cookie, std::uint32_t challenge);
// In a time that does not depend on where they differ.
bool same_digest(const Digest& a, codec::Bytes b);

struct Hello {
  std::uint64_t flags = 0;
  std::uint32_t creation = 0;
  std::string name;
  std::uint32_t challenge = 0;  // in a challenge only
};
ByteBuffer encode_name(const Hello& hello);
ByteBuffer encode_status(std::string_view status);
ByteBuffer encode_challenge(const Hello& hello);
ByteBuffer encode_reply(std::uint32_t challenge, const Digest& digest);
ByteBuffer encode_ack(const Digest& digest);
Result<Hello> parse_name(codec::Bytes body);
Result<std::string_view> parse_status(codec::Bytes body);
Result<Hello> parse_challenge(codec::Bytes body);
struct ChallengeReply {
  std::uint32_t challenge = 0;
  codec::Bytes digest;
};
Result<ChallengeReply> parse_reply(codec::Bytes body);
Result<codec::Bytes> parse_ack(codec::Bytes body);

// "scope@host": one @, both sides non-empty, at most 255 bytes, printable.
bool valid_node_name(std::string_view name);

struct HandshakeSelf {
  std::string name;
  std::uint32_t creation = 0;
  Cookie cookie;
  std::shared_ptr<const CookiesByNode> cookies =
      nullptr;  // of those that have another; may be null

  const Cookie& cookie_for(std::string_view peer) const {
    if (!cookies) return cookie;
    const auto it = cookies->find(peer);
    return it == cookies->end() ? cookie : it->second;
  }
};

// We connected. Result: the peer, with the flags that both sides have. Errors as Node::connect's; busy: the peer
// connects to us at the same time and its attempt wins.
Awaitable<Result<Hello>> handshake_connect(std::shared_ptr<Stream> stream, HandshakeSelf self,
                                           std::string expected_name);

// A peer connected. `gate` is told who and says what becomes of it.
enum class Gate : std::uint8_t { ok, ok_simultaneous, nok, alive, not_allowed };
using GateKeeper = std::function<Gate(const Hello& peer)>;
Awaitable<Result<Hello>> handshake_accept(std::shared_ptr<Stream> stream, HandshakeSelf self,
                                          GateKeeper gate);

}  // namespace scope::node
