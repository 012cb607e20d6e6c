// Recipe: a fuzzer's bytes as instructions, so that most inputs are well-formed and their parts are found one by one.
//
// What   number() and pick() take bytes from the front (zero at the end). term() makes one term: at most `kMostTerms` of
//        them and 12 deep, its atoms mostly out of a vocabulary.
// Life   The bytes and the vocabulary outlive it.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "ei_codec/term_builder.h"

namespace scope::test {

class Recipe {
 public:
  Recipe(std::span<const std::uint8_t> bytes, std::span<const std::string_view> vocabulary)
      : rest_(bytes), vocabulary_(vocabulary) {}

  bool done() const { return rest_.empty(); }
  std::uint8_t number() { return static_cast<std::uint8_t>(wide<std::uint8_t>()); }
  template <typename T>
  T wide() {
    T value = 0;
    const auto n = std::min(sizeof value, rest_.size());
    if (n > 0) std::memcpy(&value, rest_.data(), n);
    rest_ = rest_.subspan(n);
    return value;
  }
  std::span<const std::uint8_t> take(std::size_t n) {
    const auto out = rest_.first(std::min(n, rest_.size()));
    rest_ = rest_.subspan(out.size());
    return out;
  }
  std::string_view text(std::size_t n) {
    const auto bytes = take(n);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  std::string_view word() { return vocabulary_[number() % vocabulary_.size()]; }

  static constexpr std::string_view kOurs = "scope@h", kTheirs = "a@h";
  codec::PidParts pid(std::string_view node) { return {node, number(), number() / 64U, 7}; }
  codec::RefParts reference() {
    codec::RefParts ref;
    ref.node = number() % 2 == 0 ? kTheirs : kOurs;
    ref.creation = 7;
    ref.count = 1 + number() % 5U;
    for (std::uint32_t i = 0; i < ref.count; ++i) ref.ids[i] = number();
    return ref;
  }

  void term(codec::TermBuilder& out, unsigned depth = 0) {
    const auto what = number();
    if (++terms_ > kMostTerms || depth > 12) {
      out.nil();
      return;
    }
    switch (what % 18) {
      default:
        out.atom(word());
        return;
      case 4:
        out.integer(number());
        return;
      case 5:
        out.integer(wide<std::int64_t>());
        return;
      case 6:
        out.real(static_cast<double>(wide<std::int16_t>()) / 16);
        return;
      case 7:
        out.binary(text(number() % 32));
        return;
      case 8:
        out.binary(word());
        return;
      case 9:
        out.charlist(text(number() % 16));
        return;
      case 10:
        out.pid(pid(number() % 2 == 0 ? kTheirs : kOurs));
        return;
      case 11:
        out.reference(reference());
        return;
      case 12: {
        const std::uint32_t n = number() % 6;
        out.tuple(n);
        for (std::uint32_t i = 0; i < n; ++i) term(out, depth + 1);
        return;
      }
      case 13:
      case 14: {
        const std::uint32_t n = number() % 6;
        out.list(n);
        for (std::uint32_t i = 0; i < n; ++i) term(out, depth + 1);
        what == 14 + 18 && n > 0 ? term(out, depth + 1) : void(out.nil());
        return;
      }
      case 15: {  // options: a list of {Key, Value}
        const std::uint32_t n = number() % 6;
        out.list(n);
        for (std::uint32_t i = 0; i < n; ++i) {
          out.tuple(2).atom(word());
          term(out, depth + 1);
        }
        out.nil();
        return;
      }
      case 16: {
        const std::uint32_t n = number() % 6;
        out.map(n);
        for (std::uint32_t i = 0; i < n; ++i) {
          out.atom(word());
          term(out, depth + 1);
        }
        return;
      }
      case 17:
        out.atom(text(number() % 16));
        return;
    }
  }

 private:
  static constexpr unsigned kMostTerms = 2000;
  std::span<const std::uint8_t> rest_;
  std::span<const std::string_view> vocabulary_;
  unsigned terms_ = 0;
};

}  // namespace scope::test
