// Distribution over TLS, as `-proto_dist inet_tls` has it: the same handshake and packets on a TLS connection, but for
// the handshake's frames, whose lengths have 4 bytes (OTP: inet_tls_dist.erl).
//
// Whom we believe (verify, the default): a node that we connect to needs a certificate of our CA that names its host; one
// that connects to us needs one of our CA. Without verify nobody's is looked at, and a peer may have none.
// TLS 1.2 and 1.3.
//
// Life   A Tls is immutable; links keep the one that they were made with.
// Thread Any for load(); the rest the io_context's.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "cnode/dist/awaitable.h"
#include "cnode/dist/stream.h"
#include "ei_codec/base/result.h"

namespace scope::node {

class TcpStream;

struct TlsFiles {
  std::string cert;      // PEM: ours, and what lies between it and the CA
  std::string key;       // PEM; empty: it is in `cert`
  std::string ca;        // PEM: whose certificates are believed
  std::string password;  // of the key
  bool verify = true;
  bool required = true;    // by a server that verifies: a peer without a certificate is refused
  bool host_named = true;  // by a client that verifies: the certificate names the peer's host
};
struct TlsSettings {
  TlsFiles files;
  std::string optfile;  // as for erl -ssl_dist_optfile; then `files` counts for nothing
  bool wanted() const { return !files.cert.empty() || !files.ca.empty() || !optfile.empty(); }
};

// The two sides that an ssl_dist_optfile has: [{server, [{certfile, "..."}, ...]}, {client, [...]}].
struct TlsSides {
  TlsFiles server, client;
};
// Read are certfile, keyfile, cacertfile, password, verify, fail_if_no_peer_cert and {server_name_indication, disable};
// what makes no difference to whom is believed is passed over (ciphers, versions, depth, ...), anything else refused.
// bad_value: the option, or where the text is none.
Result<TlsSides> parse_ssl_dist_optfile(std::string_view text);
Result<TlsSides> read_ssl_dist_optfile(const std::string& path);

class Tls {
 public:
  // bad_value: a file that cannot be read or does not fit the others (field: which); what is missing.
  static Result<std::shared_ptr<const Tls>> load(const TlsSettings& settings);
  ~Tls();

  // The TLS handshake over a connection that is there. auth_failed: a certificate that is not believed, ours or theirs;
  // closed, io: as of streams. The connection is the Stream's from then on.
  static Awaitable<Result<std::shared_ptr<Stream>>> accept(std::shared_ptr<const Tls> self,
                                                           std::shared_ptr<TcpStream> tcp);
  // `host`: the one that the peer's certificate has to name.
  static Awaitable<Result<std::shared_ptr<Stream>>> connect(std::shared_ptr<const Tls> self,
                                                            std::shared_ptr<TcpStream> tcp,
                                                            std::string host);

 private:
  struct Impl;
  explicit Tls(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace scope::node
