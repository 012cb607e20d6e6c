#include <gtest/gtest.h>

#include "cnode/dist/tls.h"

namespace scope::node {
namespace {

TEST(TlsOptfile, IsReadAsOtpReadsIt) {
  const auto sides = parse_ssl_dist_optfile(R"(% the cluster's
[{server, [{certfile, "/a/100%.pem"}, {keyfile, "/a/n.key"},
           {secure_renegotiate, true}, {verify, verify_peer}, {fail_if_no_peer_cert, true}]}, % both
 {client, [{cacertfile, "/a/ca.pem"}, {verify, verify_peer}, {server_name_indication, disable}]}].
)");
  ASSERT_TRUE(sides) << to_string(sides.error());
  EXPECT_EQ(sides->server.cert, "/a/100%.pem");
  EXPECT_EQ(sides->server.key, "/a/n.key");
  EXPECT_TRUE(sides->server.verify && sides->server.required && sides->server.host_named);
  EXPECT_EQ(sides->client.ca, "/a/ca.pem");
  EXPECT_TRUE(sides->client.verify);
  EXPECT_FALSE(sides->client.host_named);
}

TEST(TlsOptfile, WhatIsNotSaidIsNotVerified) {
  const auto sides = parse_ssl_dist_optfile(R"([{server, [{certfile, "n.pem"}]}].)");
  ASSERT_TRUE(sides);
  EXPECT_FALSE(sides->server.verify || sides->server.required || sides->client.verify);
}

TEST(TlsOptfile, WhatMaySayWhomToBelieveIsNotGuessedAt) {
  for (const std::string_view text :
       {"", ".", "[", "[{server}].", "{server, []}.", "[{server, {}}].", "[{client, []}].",
        "[{server, [{crl_check, true}]}].", "[{server, [{verify_fun, {m, f, []}}]}].",
        "[{server, [{verify, peer}]}].", "[{server, [{certfile, 7}]}].", "[{server, [certfile]}].",
        "[{server, [{certfile, \"a\\\"b\"}]}].", "[{server, [{certfile, ~a}]}].",
        "[{server, [{certfile, \"open", "[{other, []}]."}) {
    const auto sides = parse_ssl_dist_optfile(text);
    ASSERT_FALSE(sides) << text;
    EXPECT_EQ(sides.error().code, Code::bad_value) << text;
    EXPECT_EQ(sides.error().field, "ssl_dist_optfile") << text;
  }
}

TEST(TlsOptfile, NestsNoDeeperThanItsLength) {
  for (const std::size_t n : {100U, 8000U, 9000U}) {
    EXPECT_FALSE(parse_ssl_dist_optfile(std::string(n, '[')));
    EXPECT_FALSE(parse_ssl_dist_optfile(std::string(n / 2, '{') + std::string(n / 2, '}')));
  }
}

TEST(Tls, SaysWhichFileDoesNotServe) {
  const auto field = [](TlsFiles files) {
    const auto tls = Tls::load({std::move(files), {}});
    return tls ? std::string("fine") : tls.error().field;
  };
  EXPECT_EQ(field({}), "tls_cert");
  EXPECT_EQ(field({"/does/not/exist.pem", {}, {}, {}}), "tls_cert");
  EXPECT_FALSE((TlsSettings{}.wanted()));
}

}  // namespace
}  // namespace scope::node
