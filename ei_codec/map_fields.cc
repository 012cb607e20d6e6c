#include "ei_codec/map_fields.h"

#include <cmath>

namespace scope::codec {

std::optional<TermView> get(const TermView& map, std::string_view key) {
  const auto pairs = map.map();
  if (!pairs) return std::nullopt;
  auto value = pairs->find(key);
  if (value && value->is_atom("unknown")) return std::nullopt;
  return value;
}

std::optional<std::int64_t> get_integer(const TermView& map, std::string_view key) {
  const auto value = get(map, key);
  if (!value) return std::nullopt;
  if (const auto real = value->real(); real && std::abs(*real) < 9e18) {
    return static_cast<std::int64_t>(std::llround(*real));
  }
  return value->integer();
}

std::vector<TermView> get_list(const TermView& map, std::string_view key) {
  std::vector<TermView> out;
  const auto value = get(map, key);
  if (!value || !value->list()) return out;
  for (auto it = *value->list(); !it.done(); it.next()) out.push_back(it.item());
  return out;
}

bool get_flag(const TermView& map, std::string_view key) {
  const auto value = get(map, key);
  return value && value->is_atom("true");
}

std::string base64url(Bytes bytes) {
  std::string out;
  std::uint32_t bits = 0;
  int held = 0;
  for (const auto b : bytes) {
    bits = bits << 8 | std::to_integer<std::uint32_t>(b);
    for (held += 8; held >= 6; held -= 6) out += kBase64UrlDigits[bits >> (held - 6) & 63];
  }
  if (held > 0) out += kBase64UrlDigits[bits << (6 - held) & 63];
  return out;
}

}  // namespace scope::codec
