#include "ei_codec/record_forms.h"

#include <algorithm>

namespace scope::codec {
namespace {

using namespace etf;

// Calls free(p, n) for what may be anything in the (checked) term at `at`, and is_float(p). false: it holds something rare, and
// gets no form.
template <typename Free, typename Float>
bool free_term(const std::byte* at, Free free, Float is_float) {
  std::size_t pending = 1;
  do {
    --pending;
    switch (u8(at)) {
      case kSmallInteger:
        free(at + 1, 1);
        at += 2;
        break;
      case kInteger:
        free(at + 1, 4);
        at += 5;
        break;
      case kSmallBig:
        free(at + 2, std::size_t{1} + u8(at + 1));
        at += 3 + u8(at + 1);
        break;
      case kBinary:
        free(at + 5, be32(at + 1));
        at += 5 + be32(at + 1);
        break;
      case kString:
        free(at + 3, be16(at + 1));
        at += 3 + be16(at + 1);
        break;
      case kNewPid:
      case kV4Port:
        at = skip_atom(at + 1);
        free(at, 8);
        at += 12;
        break;
      case kNewerReference: {
        const std::size_t ids = std::size_t{4} * be16(at + 1);
        at = skip_atom(at + 3) + 4;
        free(at, ids);
        at += ids;
        break;
      }
      case kSmallTuple:
        pending += u8(at + 1);
        at += 2;
        break;
      case kLargeTuple:
        pending += be32(at + 1);
        at += 5;
        break;
      case kList:
        pending += std::size_t{be32(at + 1)} + 1;
        at += 5;
        break;
      case kMap:
        pending += std::size_t{be32(at + 1)} * 2;
        at += 5;
        break;
      case kNil:
        ++at;
        break;
      case kNewFloat:
        is_float(at + 1);
        at += 9;
        break;
      default:
        at = skip_atom(at);
        if (!at) return false;
    }
  } while (pending != 0);
  return true;
}

}  // namespace

void RecordForms::add(Bytes bytes, bool mfa, const TraceRecord& record) {
  if (credit_ <= 0) {
    if (++waited_ < kLater) return;
    waited_ = 0;
    credit_ = kFirstCredit / 4;
    key_ = key(bytes, mfa);
  }
  const std::size_t size = bytes.size();
  Set& set = sets_[key_ % kSets];
  if (size > kMostBytes || set.places.back() != 0) return;
  if (set.met[0] != key_ && set.met[1] != key_) {
    set.met = {key_, set.met[0]};
    return;
  }
  --credit_;
  std::array<std::byte, kMostBytes> mask;
  std::memset(mask.data(), 0xFF, size);
  const auto free = [&](const std::byte* at, std::size_t n) {
    std::memset(mask.data() + (at - bytes.data()), 0, n);
  };
  Form form;
  form.size = static_cast<std::uint32_t>(size);
  form.at = static_cast<std::uint32_t>(bytes_.size());
  form.record = record;
  free(bytes.data() + 8, 16);
  std::uint32_t at = mfa ? 32 : 24;
  if (record.has(TraceRecord::kHashed)) {
    form.hash_at = at;
    free(bytes.data() + at, 8);
    at += 8;
  }
  if (record.has(TraceRecord::kTruncated)) {
    form.original_at = at;
    free(bytes.data() + at, 4);
    at += 4;
  }
  // Another peer must be equal as it is.
  if (record.peer.kind == Peer::Kind::pid && record.peer.node.empty()) {
    const auto* const ids = skip_atom(bytes.data() + at + 1);
    form.peer_at = static_cast<std::uint32_t>(ids - bytes.data());
    free(ids, 8);
  } else if (record.peer.kind == Peer::Kind::alias && u8(bytes.data() + at) == kNewerReference) {
    const auto* const ids = skip_atom(bytes.data() + at + 3) + 4;
    form.alias_at = static_cast<std::uint32_t>(ids - bytes.data());
    free(ids, std::size_t{4} * record.peer.alias.count);
  }
  if (!record.payload.empty()) {
    form.payload_at = static_cast<std::uint32_t>(record.payload.data() - bytes.data());
    const auto is_float = [&](const std::byte* p) {
      if (form.float_count == form.floats.size()) return;  // then it must be equal
      form.floats[form.float_count++] = static_cast<std::uint16_t>(p - bytes.data());
      free(p, 8);
    };
    if (!free_term(record.payload.data(), free, is_float)) return;
  }
  const std::size_t steps = (size + 15) / 16;
  bytes_.resize(form.at + 32 * steps);
  for (std::size_t i = 0; i < steps; ++i) {
    const std::size_t from = std::min(16 * i, size - 16);
    const Vector with = vector(mask.data() + from), want = vector(bytes.data() + from) & with;
    std::byte* const to = bytes_.data() + form.at + 32 * i;
    std::memcpy(to, &with, sizeof with);
    std::memcpy(to + 16, &want, sizeof want);
  }
  forms_.push_back(form);
  *std::ranges::find(set.places, 0) = static_cast<std::uint16_t>(forms_.size());
}

}  // namespace scope::codec
