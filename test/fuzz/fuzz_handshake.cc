// Any bytes as what a peer says in a handshake, on both sides; as each of its messages; and as epmd's list of names.
//   input = choices:1 bytes       choices: bit 0 we connect, 1 digests are made right, 2-4 what the gate says, 5 lengths as over TLS
#include <cstdlib>

#include "cnode/dist/epmd.h"
#include "cnode/dist/handshake.h"
#include "cnode/dist/spawn.h"
#include "test/fuzz/fake_stream.h"

using namespace scope;
using namespace scope::node;

namespace {

constexpr std::string_view kCookie = "c";

// Knows the cookie: puts the right digest where the input has one of that length.
class CookieStream : public test::FakeStream {
 public:
  CookieStream(boost::asio::io_context& io, ByteBuffer says, bool knows, bool tls)
      : FakeStream(io, std::move(says), true), knows_(knows), length_bytes_(tls ? 4 : 2) {}
  std::size_t handshake_length_bytes() const override { return length_bytes_; }
  Awaitable<Result<std::size_t>> read_some(std::span<std::byte> into) override {
    if (knows_) mend();
    return FakeStream::read_some(into);
  }

 private:
  void mend() {
    const codec::Bytes rest = codec::Bytes(says_).subspan(at_);
    if (rest.empty() || (rest[0] != std::byte{'r'} && rest[0] != std::byte{'a'})) return;
    const std::size_t from = rest[0] == std::byte{'r'} ? 5 : 1;
    if (rest.size() < from + sizeof(Digest)) return;
    // The last frame that we were told holds the challenge.
    std::uint32_t challenge = 0;
    for (WireReader in(told); in.ok() && !in.rest().empty();) {
      const auto frame =
          in.take(length_bytes_ == 4 ? in.number<std::uint32_t>() : in.number<std::uint16_t>());
      if (const auto hello = parse_challenge(frame)) challenge = hello->challenge;
      if (const auto reply = parse_reply(frame)) challenge = reply->challenge;
    }
    const auto digest = handshake_digest(Cookie(kCookie), challenge);
    std::memcpy(says_.data() + at_ + from, digest.data(), digest.size());
  }
  const bool knows_;
  const std::size_t length_bytes_;
};

void judge(const Result<Hello>& result) {
  if (result && !valid_node_name(result->name)) std::abort();
}
HandshakeSelf ourselves() { return {"scope@h", 1, Cookie(kCookie)}; }
// Arguments have names: GCC 12 ends a temporary twice that is made within co_await.
Awaitable<void> accept(std::shared_ptr<Stream> stream, Gate gate) {
  const HandshakeSelf self = ourselves();
  const GateKeeper keeper = [gate](const Hello&) { return gate; };
  judge(co_await handshake_accept(stream, self, keeper));
}
Awaitable<void> connect(std::shared_ptr<Stream> stream) {
  const HandshakeSelf self = ourselves();
  const std::string expected = "a@h";
  judge(co_await handshake_connect(stream, self, expected));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::uint8_t choices = data[0];
  const auto bytes = std::as_bytes(std::span(data + 1, size - 1));
  (void)parse_name(bytes);
  (void)parse_status(bytes);
  (void)parse_challenge(bytes);
  (void)parse_reply(bytes);
  (void)parse_ack(bytes);
  (void)parse_names({reinterpret_cast<const char*>(bytes.data()), bytes.size()});

  boost::asio::io_context io;
  auto stream = std::make_shared<CookieStream>(io, ByteBuffer(bytes.begin(), bytes.end()),
                                               (choices & 2) != 0, (choices & 32) != 0);
  if ((choices & 1) != 0) {
    spawn(io, "connect", connect(stream));
  } else {
    spawn(io, "accept", accept(stream, static_cast<Gate>((choices >> 2) % 5)));
  }
  io.run();
  return 0;
}
