// An ssl_dist_optfile, as OTP's ssl application reads it. ei reads the terms; here is what they mean.
#include <ei.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <memory>

#include "cnode/dist/tls.h"
#include "ei_codec/term_view.h"

namespace scope::node {
namespace {

using codec::TermView;

// ei's reader recurses: what nests deeper than this many bytes can is none.
constexpr std::size_t kMaxFile = 8192;

// No difference to whom is believed.
constexpr std::array<std::string_view, 14> kPassedOver = {"secure_renegotiate",
                                                          "client_renegotiation",
                                                          "depth",
                                                          "reuse_session",
                                                          "reuse_sessions",
                                                          "honor_cipher_order",
                                                          "honor_ecc_order",
                                                          "ciphers",
                                                          "versions",
                                                          "eccs",
                                                          "signature_algs",
                                                          "hibernate_after",
                                                          "session_tickets",
                                                          "ktls"};

std::unexpected<Error> bad(std::string_view what, std::string got = {}) {
  return fail(Code::bad_value, fmt::format("the ssl_dist_optfile: {}", what), "ssl_dist_optfile",
              std::move(got));
}

// Without comments and the full stop, which ei_x_format does not know. A % in a quoted text is none.
Result<std::string> terms_only(std::string_view text) {
  std::string out;
  char quote = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '~' || c == '\\' || c == '\0')
      return bad("has a character that is not read here", {c});
    if (quote == 0 && c == '%') {
      i = std::min(text.find('\n', i), text.size());
      out += '\n';
      continue;
    }
    if (c == '"' || c == '\'') quote = quote == 0 ? c : quote == c ? char{0} : quote;
    out += c;
  }
  while (!out.empty() && std::string_view(" \t\r\n").contains(out.back())) out.pop_back();
  if (out.ends_with('.')) out.pop_back();
  return out;
}

Status read_option(const TermView& option, TlsFiles& files) {
  const auto name = option.arity() == 2u ? option.element(0).atom().value_or("") : "";
  if (name.empty()) return bad("an option is a tuple {Name, Value}");
  const TermView value = option.element(1);
  const auto text = value.text();
  const auto atom = value.atom().value_or("");
  for (const auto& [known, field] : {std::pair{"certfile", &TlsFiles::cert},
                                     {"keyfile", &TlsFiles::key},
                                     {"cacertfile", &TlsFiles::ca},
                                     {"password", &TlsFiles::password}}) {
    if (name != known) continue;
    if (!text) return bad(fmt::format("{} takes a text", name));
    files.*field = *text;
    return {};
  }
  if (name == "verify") {
    if (atom != "verify_peer" && atom != "verify_none")
      return bad("verify takes verify_peer or verify_none");
    files.verify = atom == "verify_peer";
  } else if (name == "fail_if_no_peer_cert") {
    files.required = atom == "true";
  } else if (name == "server_name_indication" && atom == "disable") {
    files.host_named = false;
  } else if (std::ranges::find(kPassedOver, name) == kPassedOver.end()) {
    return bad("has an option that is not known here and may say whom to believe",
               std::string(name));
  }
  return {};
}

Status read_side(const TermView& options, TlsFiles& files) {
  // What OTP takes where nothing is said.
  files.verify = files.required = false;
  auto list = options.list();
  if (!list) return bad("a side's options are a list");
  for (; !list->done(); list->next()) RETURN_IF_ERROR(read_option(list->item(), files));
  return {};
}

}  // namespace

Result<TlsSides> parse_ssl_dist_optfile(std::string_view text) {
  if (text.size() > kMaxFile) return bad(fmt::format("is longer than {} bytes", kMaxFile));
  ASSIGN_OR_RETURN(const std::string terms, terms_only(text));
  ei_x_buff made{};
  if (ei_x_new(&made) != 0) return fail(Code::io, "out of memory");
  const std::unique_ptr<ei_x_buff, int (*)(ei_x_buff*)> keeper(&made, ei_x_free);
  if (ei_x_format(&made, terms.c_str()) != 0) return bad("is no Erlang term");
  const auto term = codec::view_message(
      std::as_bytes(std::span(made.buff, static_cast<std::size_t>(made.index))));
  if (!term) return bad("is no Erlang term");
  auto list = term->list();
  if (!list) return bad("is a list of {server, Options} and {client, Options}");
  TlsSides sides;
  bool server = false, client = false;
  for (; !list->done(); list->next()) {
    const TermView side = list->item();
    const auto name = side.arity() == 2u ? side.element(0).atom().value_or("") : "";
    if (name != "server" && name != "client") return bad("has {server, ..} and {client, ..} only");
    (name == "server" ? server : client) = true;
    RETURN_IF_ERROR(read_side(side.element(1), name == "server" ? sides.server : sides.client));
  }
  if (!server) return bad("says nothing of the server's side");
  if (!client) sides.client.verify = false;  // as OTP does
  return sides;
}

Result<TlsSides> read_ssl_dist_optfile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text(kMaxFile + 1, '\0');
  if (in) in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad() || !in.is_open())
    return fail(Code::bad_value, fmt::format("cannot read {}", path), "ssl_dist_optfile", path);
  text.resize(static_cast<std::size_t>(in.gcount()));
  return parse_ssl_dist_optfile(text);
}

}  // namespace scope::node
