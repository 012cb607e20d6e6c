#include "cnode/dist/tls.h"

#include <fmt/format.h>
#include <openssl/ssl.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "cnode/dist/tcp_stream.h"

namespace scope::node {
namespace asio = boost::asio;
namespace ssl = asio::ssl;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);

// Over the socket of a TcpStream, which stays its owner: closing that one ends this.
class TlsStream : public Stream {
 public:
  TlsStream(std::shared_ptr<TcpStream> tcp, std::shared_ptr<const Tls> tls, ssl::context& context)
      : tls_(std::move(tls)), tcp_(std::move(tcp)), ssl_(tcp_->socket(), context) {}

  Awaitable<Result<std::size_t>> read_some(std::span<std::byte> into) override {
    auto [ec, n] = co_await ssl_.async_read_some(asio::buffer(into.data(), into.size()), kAwait);
    if (ec) co_return fail(closing(ec) ? Code::closed : Code::io, ec.message());
    co_return n;
  }
  Awaitable<Result<std::size_t>> write_some(codec::Bytes bytes) override {
    auto [ec, n] = co_await ssl_.async_write_some(asio::buffer(bytes.data(), bytes.size()), kAwait);
    if (ec) co_return fail(closing(ec) ? Code::closed : Code::io, ec.message());
    co_return n;
  }
  void close() override { tcp_->close(); }
  std::string peer_address() const override { return tcp_->peer_address(); }
  std::size_t handshake_length_bytes() const override { return 4; }

  auto& ssl() { return ssl_; }

 private:
  // BEAM nodes end a connection without saying so in TLS: that it ended is all that we need to know.
  static bool closing(const error_code& ec) {
    return ec == asio::error::eof || ec == ssl::error::stream_truncated ||
           ec == asio::error::operation_aborted || ec == asio::error::connection_reset ||
           ec == asio::error::broken_pipe || ec == asio::error::bad_descriptor;
  }

  std::shared_ptr<const Tls> tls_;  // has the context
  std::shared_ptr<TcpStream> tcp_;
  ssl::stream<tcp::socket&> ssl_;
};

Error describe(const error_code& ec, SSL* ssl) {
  if (const long verdict = SSL_get_verify_result(ssl); verdict != X509_V_OK) {
    return {
        Code::auth_failed,
        fmt::format("its certificate is not believed: {}", X509_verify_cert_error_string(verdict)),
        "tls",
        {}};
  }
  const bool gone = ec == asio::error::eof || ec == ssl::error::stream_truncated ||
                    ec == asio::error::connection_reset || ec == asio::error::operation_aborted;
  if (gone) {
    return {Code::auth_failed,
            "it closed the connection during the TLS handshake: does it speak TLS (-proto_dist "
            "inet_tls), and does it believe our certificate?",
            "tls",
            {}};
  }
  return {Code::auth_failed, fmt::format("no TLS connection: {}", ec.message()), "tls", {}};
}

Awaitable<Result<std::shared_ptr<Stream>>> shake(std::shared_ptr<TlsStream> stream,
                                                 ssl::stream_base::handshake_type side) {
  auto [ec] = co_await stream->ssl().async_handshake(side, kAwait);
  if (ec) co_return std::unexpected(describe(ec, stream->ssl().native_handle()));
  co_return stream;
}

Status must(const error_code& ec, std::string_view field, const std::string& file) {
  if (!ec) return {};
  return fail(Code::bad_value, fmt::format("{}: {}", file, ec.message()), std::string(field), file);
}

Status prepare(ssl::context& context, const TlsFiles& files, bool server) {
  error_code ec;
  SSL_CTX_set_min_proto_version(context.native_handle(), TLS1_2_VERSION);
  if (!files.password.empty()) {
    context.set_password_callback([password = files.password](auto, auto) { return password; }, ec);
  } else {  // not asked for on the terminal
    context.set_password_callback([](auto, auto) { return std::string(); }, ec);
  }
  if (!files.cert.empty()) {
    context.use_certificate_chain_file(files.cert, ec);
    RETURN_IF_ERROR(must(ec, "tls_cert", files.cert));
    const std::string& key = files.key.empty() ? files.cert : files.key;
    context.use_private_key_file(key, ssl::context::pem, ec);
    RETURN_IF_ERROR(must(ec, "tls_key", key));
  } else if (server) {
    return fail(Code::bad_value, "a certificate is needed to be connected to", "tls_cert");
  }
  if (!files.ca.empty()) {
    context.load_verify_file(files.ca, ec);
    RETURN_IF_ERROR(must(ec, "tls_ca", files.ca));
  } else if (files.verify) {
    return fail(Code::bad_value,
                "whose certificates are to be believed? Without verification, which is no "
                "protection, it needs no CA",
                "tls_ca");
  }
  const auto required = server && files.required ? ssl::verify_fail_if_no_peer_cert : 0;
  context.set_verify_mode(files.verify ? ssl::verify_peer | required : ssl::verify_none, ec);
  return must(ec, "tls_verify", "verify");
}

}  // namespace

struct Tls::Impl {
  ssl::context server{ssl::context::tls_server}, client{ssl::context::tls_client};
  bool host_named = true;
};

Tls::Tls(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tls::~Tls() = default;

Result<std::shared_ptr<const Tls>> Tls::load(const TlsSettings& settings) {
  TlsSides sides{settings.files, settings.files};
  if (!settings.optfile.empty()) {
    ASSIGN_OR_RETURN(sides, read_ssl_dist_optfile(settings.optfile));
  }
  auto impl = std::make_unique<Impl>();
  RETURN_IF_ERROR(prepare(impl->server, sides.server, true));
  RETURN_IF_ERROR(prepare(impl->client, sides.client, false));
  impl->host_named = sides.client.verify && sides.client.host_named;
  return std::shared_ptr<const Tls>(new Tls(std::move(impl)));
}

Awaitable<Result<std::shared_ptr<Stream>>> Tls::accept(std::shared_ptr<const Tls> self,
                                                       std::shared_ptr<TcpStream> tcp) {
  auto stream = std::make_shared<TlsStream>(std::move(tcp), self, self->impl_->server);
  co_return co_await shake(std::move(stream), ssl::stream_base::server);
}

Awaitable<Result<std::shared_ptr<Stream>>> Tls::connect(std::shared_ptr<const Tls> self,
                                                        std::shared_ptr<TcpStream> tcp,
                                                        std::string host) {
  auto stream = std::make_shared<TlsStream>(std::move(tcp), self, self->impl_->client);
  SSL_set_tlsext_host_name(stream->ssl().native_handle(), host.c_str());
  if (self->impl_->host_named) {
    auto* param = SSL_get0_param(stream->ssl().native_handle());
    if (X509_VERIFY_PARAM_set1_ip_asc(param, host.c_str()) != 1)  // no address: a name
      X509_VERIFY_PARAM_set1_host(param, host.c_str(), host.size());
  }
  co_return co_await shake(std::move(stream), ssl::stream_base::client);
}

}  // namespace scope::node
