// What an Erlang port does with its two ends: whole reads of stdin and whole writes of stdout. One thread.
#pragma once

#include <unistd.h>

#include <cstddef>

namespace scope::test {

// false: the end, or an error.
inline bool read_all(void* data, std::size_t size) {
  for (auto* p = static_cast<char*>(data); size > 0;) {
    const ssize_t n = ::read(STDIN_FILENO, p, size);
    if (n <= 0) return false;
    p += n;
    size -= static_cast<std::size_t>(n);
  }
  return true;
}

inline bool write_all(const void* data, std::size_t size) {
  for (const auto* p = static_cast<const char*>(data); size > 0;) {
    const ssize_t n = ::write(STDOUT_FILENO, p, size);
    if (n <= 0) return false;
    p += n;
    size -= static_cast<std::size_t>(n);
  }
  return true;
}

}  // namespace scope::test
