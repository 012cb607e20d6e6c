// SipHash-2-4 with 64 bits of output, fed piece by piece and without allocation (libsodium's takes one piece only; the
// unit test compares the two).
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace scope::codec {

class SipHash {
 public:
  explicit SipHash(const std::array<std::byte, 16>& key) {
    const std::uint64_t k0 = word(key.data()), k1 = word(key.data() + 8);
    v0_ = k0 ^ 0x736f6d6570736575ULL;
    v1_ = k1 ^ 0x646f72616e646f6dULL;
    v2_ = k0 ^ 0x6c7967656e657261ULL;
    v3_ = k1 ^ 0x7465646279746573ULL;
  }

  // The low `bytes` bytes (1..8) of value, little-endian. REQUIRES that the rest of value is 0.
  void put(std::uint64_t value, unsigned bytes) {
    pending_ |= value << (8 * held_);
    length_ += bytes;
    held_ += bytes;
    if (held_ < 8) return;
    mix(pending_);
    held_ -= 8;
    const unsigned used = bytes - held_;  // bytes of value that went into the full word: 1..8
    pending_ = used == 8 ? 0 : value >> (8 * used);
  }

  void put(const std::byte* data, std::size_t size) {
    for (; size >= 8; size -= 8, data += 8) put(word(data), 8);
    if (size == 0) return;
    std::uint64_t rest = 0;
    std::memcpy(&rest, data, size);
    put(rest, static_cast<unsigned>(size));
  }

  std::uint64_t finish() {
    mix(pending_ | std::uint64_t{length_ & 0xFFu} << 56);
    v2_ ^= 0xFF;
    for (int i = 0; i < 4; ++i) round();
    return v0_ ^ v1_ ^ v2_ ^ v3_;
  }

 private:
  static std::uint64_t word(const std::byte* p) {
    std::uint64_t v;
    std::memcpy(&v, p, 8);
    return v;
  }
  void mix(std::uint64_t m) {
    v3_ ^= m;
    round();
    round();
    v0_ ^= m;
  }
  void round() {
    v0_ += v1_;
    v1_ = std::rotl(v1_, 13) ^ v0_;
    v0_ = std::rotl(v0_, 32);
    v2_ += v3_;
    v3_ = std::rotl(v3_, 16) ^ v2_;
    v0_ += v3_;
    v3_ = std::rotl(v3_, 21) ^ v0_;
    v2_ += v1_;
    v1_ = std::rotl(v1_, 17) ^ v2_;
    v2_ = std::rotl(v2_, 32);
  }

  std::uint64_t v0_, v1_, v2_, v3_;
  std::uint64_t pending_ = 0;  // the bytes of a word that is not yet full
  unsigned held_ = 0;          // how many: 0..7
  std::uint32_t length_ = 0;   // only its low byte counts
};

}  // namespace scope::codec
