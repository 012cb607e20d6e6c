#include "store/trace_ids.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>

namespace scope::store {
namespace {

constexpr std::size_t kDigits = 32;
constexpr std::uint8_t kNone = 16;

constexpr std::array<std::uint8_t, 256> kValue = [] {
  std::array<std::uint8_t, 256> out{};
  out.fill(kNone);
  for (unsigned i = 0; i < 10; ++i) out['0' + i] = static_cast<std::uint8_t>(i);
  for (unsigned i = 0; i < 6; ++i) {
    out['a' + i] = out['A' + i] = static_cast<std::uint8_t>(10 + i);
  }
  return out;
}();

bool digits(const std::uint8_t* at, std::size_t count) {
  return std::all_of(at, at + count, [](std::uint8_t b) { return kValue[b] != kNone; });
}

// REQUIRES 2 * kBytes digits.
template <std::size_t kBytes = 16>
std::optional<std::array<std::uint8_t, kBytes>> id_at(const std::uint8_t* at) {
  std::array<std::uint8_t, kBytes> id;
  for (std::size_t i = 0; i < id.size(); ++i) {
    id[i] = static_cast<std::uint8_t>(kValue[at[2 * i]] << 4 | kValue[at[2 * i + 1]]);
  }
  if (std::ranges::all_of(id, [](std::uint8_t b) { return b == 0; })) return std::nullopt;
  return id;
}

// Is what stands at `at` (32 digits of [begin, end)) the id of a traceparent?
bool in_traceparent(const std::uint8_t* begin, const std::uint8_t* at, const std::uint8_t* end) {
  return at - begin >= 3 && end - at >= 52 && at[-1] == '-' && digits(at - 3, 2) && at[32] == '-' &&
         digits(at + 33, 16) && at[49] == '-' && digits(at + 50, 2);
}
// A binary's or a string's content? Their heads end with the length.
bool is_plain(const std::uint8_t* begin, const std::uint8_t* at) {
  static constexpr std::uint8_t kBinary[] = {'m', 0, 0, 0, kDigits}, kString[] = {'k', 0, kDigits};
  const auto after = [&](const auto& head) {
    return static_cast<std::size_t>(at - begin) >= sizeof head &&
           std::memcmp(at - sizeof head, head, sizeof head) == 0;
  };
  return after(kBinary) || after(kString);
}

template <typename Each>  // each(id, where its digits stand): true: go on
void each_id(Bytes payload, Each each) {
  if (payload.size() < kDigits) return;
  const auto* const begin = reinterpret_cast<const std::uint8_t*>(payload.data());
  const auto* const end = begin + payload.size();
  for (const auto* probe = begin + (kDigits - 1); probe < end; probe += kDigits) {
    if (kValue[*probe] == kNone) continue;
    const auto* from = probe;
    while (from > begin && kValue[from[-1]] != kNone) --from;
    const auto* to = probe + 1;
    while (to < end && kValue[*to] != kNone) ++to;
    // The term behind a plain id may begin with a byte that is a digit, too.
    if (static_cast<std::size_t>(to - from) >= kDigits &&
        (is_plain(begin, from) ||
         (static_cast<std::size_t>(to - from) == kDigits && in_traceparent(begin, from, end)))) {
      const auto id = id_at(from);
      if (id && !each(*id, from)) return;
    }
    probe += static_cast<std::size_t>(to - probe - 1) / kDigits *
             kDigits;  // the next one lies behind the run
  }
}

}  // namespace

std::optional<TraceId> read_trace_id(std::string_view text) {
  const auto* begin = reinterpret_cast<const std::uint8_t*>(text.data());
  if (text.size() == 55 && digits(begin + 3, kDigits) &&
      in_traceparent(begin, begin + 3, begin + text.size())) {
    return id_at(begin + 3);
  }
  if (text.size() != kDigits || !digits(begin, kDigits)) return std::nullopt;
  return id_at(begin);
}

std::uint64_t trace_key(const TraceId& id) { return XXH3_64bits(id.data(), id.size()); }

std::optional<TraceContext> first_traceparent(Bytes payload) {
  const auto* const begin = reinterpret_cast<const std::uint8_t*>(payload.data());
  std::optional<TraceContext> out;
  each_id(payload, [&](const TraceId& trace, const std::uint8_t* at) {
    if (!in_traceparent(begin, at, begin + payload.size())) return true;
    const auto span = id_at<8>(at + kDigits + 1);
    if (span) out = {trace, *span};
    return !out;
  });
  return out;
}

void add_trace_keys(Bytes payload, std::vector<std::uint64_t>& out) {
  each_id(payload, [&](const TraceId& id, const std::uint8_t*) {
    out.push_back(trace_key(id));
    return true;
  });
}

bool has_trace_id(Bytes payload, const TraceId& id) {
  bool found = false;
  each_id(payload, [&](const TraceId& here, const std::uint8_t*) {
    found = here == id;
    return !found;
  });
  return found;
}

}  // namespace scope::store
