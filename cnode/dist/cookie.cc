#include "cnode/dist/cookie.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sodium.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace scope::node {
namespace {

constexpr std::size_t kMaxCookie = 255;
constexpr std::size_t kMaxFile = 4096;

struct Fd {
  int fd;
  ~Fd() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

// Reserving keeps the text out of the small-string buffer, which a move would copy and not wipe.
Cookie::Cookie(std::string_view text) {
  text_.reserve(kMaxCookie + 1);
  text_ = text;
}

Cookie::Cookie(Cookie&& other) noexcept : text_(std::move(other.text_)) { other.wipe(); }

Cookie& Cookie::operator=(Cookie other) noexcept {
  wipe();
  text_.swap(other.text_);
  return *this;
}

Cookie::~Cookie() { wipe(); }

void Cookie::wipe() noexcept {
  sodium_memzero(text_.data(), text_.size());
  text_.clear();
}

Result<Cookie> Cookie::from_file(const std::filesystem::path& path) {
  const std::string shown = path.string();
  Fd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) {
    return fail(errno == ENOENT ? Code::not_available : Code::io,
                fmt::format("cannot read the cookie file {}: {}", shown, std::strerror(errno)));
  }
  struct stat info{};
  if (::fstat(file.fd, &info) == 0 && (info.st_mode & 077) != 0) {
    spdlog::warn("the cookie file {} may be read by others (mode {:o}): chmod 400 it", shown,
                 info.st_mode & 0777);
  }
  char buffer[kMaxFile];
  const ssize_t n = ::read(file.fd, buffer, sizeof buffer);
  if (n < 0) {
    return fail(Code::io,
                fmt::format("cannot read the cookie file {}: {}", shown, std::strerror(errno)));
  }
  std::string_view line(buffer, static_cast<std::size_t>(n));
  line = line.substr(0, line.find_first_of("\r\n"));
  while (!line.empty() && (line.back() == ' ' || line.back() == '\t')) line.remove_suffix(1);
  const bool printable =
      std::all_of(line.begin(), line.end(), [](char c) { return c >= ' ' && c <= '~'; });
  Cookie cookie(line.substr(0, kMaxCookie));
  const bool good = !line.empty() && line.size() <= kMaxCookie && printable;
  sodium_memzero(buffer, sizeof buffer);
  if (!good) {
    return fail(Code::bad_value,
                fmt::format("the cookie file {} must hold one line of 1 to {} printable ASCII "
                            "characters",
                            shown, kMaxCookie),
                "cookie");
  }
  return cookie;
}

Result<Cookie> Cookie::from_home() {
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') {
    return fail(Code::not_available, "HOME is not set, so there is no .erlang.cookie to read");
  }
  return from_file(std::filesystem::path(home) / ".erlang.cookie");
}

}  // namespace scope::node
