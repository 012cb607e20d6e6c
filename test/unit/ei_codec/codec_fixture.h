// What the codec's unit tests share: bytes from lists and hex, and the golden files.
#pragma once

#include <cstdint>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "ei_codec/term_view.h"

namespace scope::codec {

using Buffer = std::vector<std::byte>;

inline Buffer bytes_of(std::initializer_list<int> values) {
  Buffer out;
  for (const int v : values) out.push_back(static_cast<std::byte>(v));
  return out;
}

inline Buffer from_hex(std::string_view hex) {
  Buffer out;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    out.push_back(static_cast<std::byte>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
  }
  return out;
}

inline std::string golden_path(const std::string& name) {
  const std::string here = __FILE__;
  return here.substr(0, here.rfind("/unit/")) + "/golden/" + name;
}

inline Buffer golden(const std::string& name) {
  std::ifstream in(golden_path(name), std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto* p = reinterpret_cast<const std::byte*>(text.data());
  return {p, p + text.size()};
}

// A copy whose end is the end of its allocation, so that a sanitizer sees a byte read past it.
class Exact {
 public:
  explicit Exact(Bytes bytes) : size_(bytes.size()), data_(new std::byte[bytes.size()]) {
    std::copy(bytes.begin(), bytes.end(), data_.get());
  }
  std::span<std::byte> get() const { return {data_.get(), size_}; }

 private:
  std::size_t size_;
  std::unique_ptr<std::byte[]> data_;
};

}  // namespace scope::codec
