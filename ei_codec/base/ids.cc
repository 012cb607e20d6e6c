#include "ei_codec/base/ids.h"

namespace scope {
namespace {

// Big-endian, so that the bytes sort as the fields do; the sign bit of the time is flipped for the same reason.
template <typename T>
void put(std::array<std::byte, EventId::kBytes>& out, std::size_t& at, T value) {
  for (int shift = (static_cast<int>(sizeof(T)) - 1) * 8; shift >= 0; shift -= 8) {
    out[at++] = static_cast<std::byte>((value >> shift) & 0xFF);
  }
}

template <typename T>
T get(const std::array<std::byte, EventId::kBytes>& in, std::size_t& at) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>((value << 8) | static_cast<T>(in[at++]));
  }
  return value;
}

constexpr std::uint64_t kSignBit = 1ULL << 63;

}  // namespace

std::array<std::byte, EventId::kBytes> EventId::to_bytes() const {
  std::array<std::byte, kBytes> out{};
  std::size_t at = 0;
  put(out, at, process.incarnation);
  put(out, at, process.id);
  put(out, at, process.serial);
  put(out, at, static_cast<std::uint64_t>(time.ns) ^ kSignBit);
  put(out, at, ordinal);
  return out;
}

EventId EventId::from_bytes(const std::array<std::byte, kBytes>& bytes) {
  EventId id;
  std::size_t at = 0;
  id.process.incarnation = get<std::uint32_t>(bytes, at);
  id.process.id = get<std::uint32_t>(bytes, at);
  id.process.serial = get<std::uint32_t>(bytes, at);
  id.time.ns = static_cast<std::int64_t>(get<std::uint64_t>(bytes, at) ^ kSignBit);
  id.ordinal = get<std::uint32_t>(bytes, at);
  return id;
}

}  // namespace scope
