// ByteWriter and ByteReader: the plain little-endian encoding inside stored values. Keys are big-endian: key_format.h.
//
// ByteReader checks every length against the end. After a read that does not fit, ok() is false for good and further
// reads give zeros and empty spans: decode everything, then ask ok() once.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "ei_codec/term_view.h"

namespace scope::store {

using codec::Bytes;

inline Bytes as_bytes(std::string_view text) { return std::as_bytes(std::span(text)); }
inline std::string_view as_text(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// An unaligned little-endian load. REQUIRES sizeof(T) readable bytes. (Big-endian machines are not supported.)
template <typename T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

class ByteWriter {
 public:
  template <typename T>
  void fixed(T value) {
    const auto at = bytes_.size();
    bytes_.resize(at + sizeof(T));
    std::memcpy(bytes_.data() + at, &value, sizeof(T));
  }
  void u8(unsigned value) { bytes_.push_back(static_cast<std::byte>(value)); }
  void u32(std::uint32_t value) { fixed(value); }
  void u64(std::uint64_t value) { fixed(value); }
  void i64(std::int64_t value) { fixed(value); }
  void varint(std::uint64_t value) {
    while (value >= 0x80) {
      u8(static_cast<unsigned>(value & 0x7F) | 0x80U);
      value >>= 7;
    }
    u8(static_cast<unsigned>(value));
  }
  void raw(Bytes bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
  void text(std::string_view text) {
    varint(text.size());
    raw(as_bytes(text));
  }
  std::size_t size() const { return bytes_.size(); }
  std::byte* data() { return bytes_.data(); }
  Bytes bytes() const { return bytes_; }
  void clear() { bytes_.clear(); }
  std::vector<std::byte>& vector() { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

class ByteReader {
 public:
  explicit ByteReader(Bytes bytes) : at_(bytes.data()), end_(bytes.data() + bytes.size()) {}

  template <typename T>
  T fixed() {
    if (left() < sizeof(T)) return failed<T>();
    T value = load<T>(at_);
    at_ += sizeof(T);
    return value;
  }
  std::uint8_t u8() { return fixed<std::uint8_t>(); }
  std::uint32_t u32() { return fixed<std::uint32_t>(); }
  std::uint64_t u64() { return fixed<std::uint64_t>(); }
  std::int64_t i64() { return fixed<std::int64_t>(); }
  std::uint64_t varint() {
    if (left() >= 8) {
      const auto word = load<std::uint64_t>(at_);
      if ((word & 0x80) == 0) {
        ++at_;
        return word & 0x7F;
      }
      if (const auto ends = ~word & 0x8080808080808080ULL; ends != 0) {  // within the eight
        const auto bits = static_cast<unsigned>(std::countr_zero(ends)) + 1;
        at_ += bits / 8;
        auto x = word & (~0ULL >> (64 - bits)) & 0x7F7F7F7F7F7F7F7FULL;
        x = (x & 0x007F007F007F007FULL) | (x & 0x7F007F007F007F00ULL) >> 1;
        x = (x & 0x00003FFF00003FFFULL) | (x & 0x3FFF00003FFF0000ULL) >> 2;
        return (x & 0x0FFFFFFFULL) | (x & 0x0FFFFFFF00000000ULL) >> 4;
      }
    }
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (at_ == end_) return failed<std::uint64_t>();
      const auto byte = std::to_integer<std::uint64_t>(*at_++);
      value |= (byte & 0x7F) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    return failed<std::uint64_t>();
  }
  void skip_varints(std::size_t n) {  // their lengths are not checked
    while (n >= 8 && left() >= 8) {   // eight bytes end at most eight
      const auto ends = ~load<std::uint64_t>(at_) >> 7 & 0x0101010101010101ULL;
      n -= ends * 0x0101010101010101ULL >> 56;  // their number
      at_ += 8;
    }
    while (n-- > 0) varint();
  }
  Bytes raw(std::size_t size) {
    if (left() < size) return failed<Bytes>();
    const Bytes bytes(at_, size);
    at_ += size;
    return bytes;
  }
  std::string_view text() { return as_text(raw(varint())); }
  Bytes rest() { return raw(left()); }

  std::size_t left() const { return static_cast<std::size_t>(end_ - at_); }
  bool ok() const { return ok_; }
  bool done() const { return ok_ && at_ == end_; }

 private:
  template <typename T>
  T failed() {
    ok_ = false;
    at_ = end_;
    return T{};
  }
  const std::byte* at_;
  const std::byte* end_;
  bool ok_ = true;
};

}  // namespace scope::store
