// Big-endian numbers in and out of byte buffers. Internal to cnode/dist.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "ei_codec/term_view.h"

namespace scope::node {

using ByteBuffer = std::vector<std::byte>;

// Reads fields from the front; after the first read past the end ok() is false and everything reads as zero.
class WireReader {
 public:
  explicit WireReader(codec::Bytes bytes) : rest_(bytes) {}

  template <typename T>
  T number() {
    T value = 0;
    for (std::byte b : take(sizeof(T))) {
      value = static_cast<T>((static_cast<std::uint64_t>(value) << 8) | std::to_integer<T>(b));
    }
    return value;
  }
  codec::Bytes take(std::size_t n) {
    if (n > rest_.size()) {
      ok_ = false;
      rest_ = {};
      return {};
    }
    codec::Bytes head = rest_.first(n);
    rest_ = rest_.subspan(n);
    return head;
  }
  std::string_view text(std::size_t n) {
    codec::Bytes b = take(n);
    return {reinterpret_cast<const char*>(b.data()), b.size()};
  }
  codec::Bytes rest() const { return rest_; }
  bool ok() const { return ok_; }

 private:
  codec::Bytes rest_;
  bool ok_ = true;
};

template <typename T>
void put(ByteBuffer& out, T value) {
  for (int shift = (static_cast<int>(sizeof(T)) - 1) * 8; shift >= 0; shift -= 8) {
    out.push_back(static_cast<std::byte>((static_cast<std::uint64_t>(value) >> shift) & 0xFF));
  }
}
inline void put(ByteBuffer& out, codec::Bytes bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}
inline void put(ByteBuffer& out, std::string_view text) {
  put(out, std::as_bytes(std::span(text)));
}

}  // namespace scope::node
