// Cookie: the cluster's shared secret. Never printed: there is no operator<< and no formatter; its
// bytes are wiped when it dies or is moved from. text() is for the digest of the handshake only.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "ei_codec/base/result.h"

namespace scope::node {

class Cookie {
 public:
  Cookie() = default;
  explicit Cookie(std::string_view text);
  Cookie(const Cookie& other) : Cookie(other.text()) {}
  Cookie(Cookie&& other) noexcept;
  Cookie& operator=(Cookie other) noexcept;
  ~Cookie();

  // The first line of the file without trailing white space. Logs a warning when group or others
  // may read it. not_available: no such file; io: cannot be read; bad_value: empty, over 255 bytes,
  // or not printable.
  static Result<Cookie> from_file(const std::filesystem::path& path);
  // $HOME/.erlang.cookie, as the BEAM does.
  static Result<Cookie> from_home();

  std::string_view text() const { return {text_.data(), text_.size()}; }
  bool empty() const { return text_.empty(); }

 private:
  void wipe() noexcept;
  std::string text_;
};

using CookiesByNode = std::map<std::string, Cookie, std::less<>>;

}  // namespace scope::node
