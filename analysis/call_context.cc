#include "analysis/call_context.h"

#include <algorithm>
#include <array>

#include "ei_codec/term_view.h"

namespace scope::analysis {
namespace {

// An unsigned integer of so many bytes, its most significant one first; nullopt: it is none, is larger, or zero.
template <std::size_t kBytes>
std::optional<std::array<std::uint8_t, kBytes>> number(const codec::TermView& term) {
  std::array<std::uint8_t, kBytes> out{};
  if (const auto big = term.big(); big && !big->negative && big->magnitude.size() <= kBytes) {
    std::ranges::transform(big->magnitude, out.rbegin(),
                           [](std::byte b) { return static_cast<std::uint8_t>(b); });
  } else if (auto small = term.unsigned_integer()) {
    for (auto b = out.rbegin(); b != out.rend(); ++b, *small >>= 8) {
      *b = static_cast<std::uint8_t>(*small);
    }
  }
  if (std::ranges::all_of(out, [](std::uint8_t b) { return b == 0; })) return std::nullopt;
  return out;
}

std::optional<store::TraceContext> span_ctx(const codec::TermView& term, bool inside = false) {
  if (term.arity().value_or(0) >= 3 && term.element(0).is_atom("span_ctx")) {
    const auto trace = number<16>(term.element(1));
    const auto span = number<8>(term.element(2));
    if (trace && span) return store::TraceContext{*trace, *span};
  }
  if (const auto map = term.map(); map && !inside) {
    for (auto it = *map; !it.done(); it.next()) {
      if (const auto found = span_ctx(it.value(), true)) return found;
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<store::TraceContext> context_in_call(const codec::TraceRecord& record) {
  if (record.payload.empty()) return std::nullopt;
  if (record.mfa.module.starts_with("otel_")) {
    if (const auto arguments = record.term().list()) {
      for (auto it = *arguments; !it.done(); it.next()) {
        if (const auto found = span_ctx(it.item())) return found;
      }
    }
  }
  return store::first_traceparent(record.payload);
}

}  // namespace scope::analysis
