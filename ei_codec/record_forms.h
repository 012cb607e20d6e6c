// RecordForms: compact records that differ only where nothing is checked. A record that was checked whole is kept with a mask
// of its bytes that decide: head, functions, tags, lengths, atoms, creations. One that is equal under the mask is as good:
// its numbers, the content of its binaries and strings, and the ids of its pids, ports and references may be anything.
//
// Bounds A form is made of the second record that might have it, and as long as forms pay (credit_): where few records
//        are alike, few are compared. At most kSets * kWays of them, of at most kMostBytes.
// Life   One batch, whose records and BatchStrings outlive it.
// For the codec's own sources.
#pragma once

#include <array>
#include <vector>

#include "ei_codec/term_tags.h"
#include "ei_codec/trace_event.h"

namespace scope::codec {

class RecordForms {
 public:
  // What `bytes` (a whole record; `mfa`: its kind has a function) says, if its form is known: valid until the next call.
  const TraceRecord* find(Bytes bytes, bool mfa) {
    if (credit_ <= 0) return nullptr;
    key_ = key(bytes, mfa);
    for (const std::uint16_t place : sets_[key_ % kSets].places) {
      if (place == 0) break;
      Form& form = forms_[place - 1u];
      if (form.size == bytes.size() && fits(form, bytes.data())) return read(form, bytes);
    }
    return nullptr;
  }
  // The record of these bytes, which find() was asked for last, is new, and was checked. REQUIRES that the hash of a message
  // that has one stands in them.
  void add(Bytes bytes, bool mfa, const TraceRecord& record);

 private:
  static constexpr std::size_t kMostBytes = 512, kSets = 64, kWays = 2;
  static constexpr int kFirstCredit = 12, kMostCredit = 32, kLater = 256;
  typedef std::uint64_t Vector __attribute__((vector_size(16)));

  struct Form {
    std::uint32_t size = 0;
    std::uint32_t at = 0;  // in bytes_: mask and what is left under it, 16 bytes of each in turns
    std::uint32_t hash_at = 0, original_at = 0, payload_at = 0;  // 0: none to be read
    std::uint32_t peer_at = 0, alias_at = 0;  // the ids of a pid of this node, of a reference
    std::uint32_t float_count = 0;
    std::array<std::uint16_t, 4> floats;  // where: they must be numbers
    TraceRecord record;
  };
  struct Set {
    std::array<std::uint16_t, kWays> places{};  // in forms_, from 1; 0: none, nor behind it
    std::array<std::uint32_t, 2> met{};         // the keys of the last that were new
  };
  static Vector vector(const std::byte* at) {
    Vector v;
    std::memcpy(&v, at, sizeof v);
    return v;
  }
  // Size, kind, arity and flags; then the function.
  static std::uint32_t key(Bytes bytes, bool mfa) {
    std::uint64_t key = etf::le64(bytes.data());
    if (mfa && bytes.size() >= 32) key ^= etf::le64(bytes.data() + 24) * 0x9E3779B97F4A7C15ULL;
    return static_cast<std::uint32_t>((key * 0xBF58476D1CE4E5B9ULL) >> 32);
  }
  bool fits(const Form& form, const std::byte* record) const {
    const std::byte* with = bytes_.data() + form.at;
    Vector differs{};
    const auto compare = [&](const std::byte* at) {
      differs |= (vector(at) & vector(with)) ^ vector(with + 16);
      with += 32;
    };
    const std::byte* const last = record + form.size - 16;
    for (const std::byte* at = record; at < last; at += 16) compare(at);
    compare(last);
    bool good = (differs[0] | differs[1]) == 0;
    for (std::uint32_t i = 0; i < form.float_count; ++i)
      good = good && etf::finite(etf::be64(record + form.floats[i]));
    return good;
  }
  const TraceRecord* read(Form& form, Bytes bytes) {
    using namespace etf;
    if (credit_ < kMostCredit) ++credit_;
    const std::byte* const at = bytes.data();
    TraceRecord& out = form.record;
    out.time.ns = static_cast<std::int64_t>(le64(at + 8));
    out.pid = {le32(at + 16), le32(at + 20)};
    if (form.hash_at != 0) out.match_hash = le64(at + form.hash_at);
    if (form.original_at != 0) out.original_bytes = le32(at + form.original_at);
    if (form.peer_at != 0) {
      out.peer.id = be32(at + form.peer_at);
      out.peer.serial = be32(at + form.peer_at + 4);
    }
    if (form.alias_at != 0) {
      for (std::uint32_t i = 0; i < out.peer.alias.count; ++i)
        out.peer.alias.ids[i] = be32(at + form.alias_at + std::size_t{4} * i);
    }
    if (form.payload_at != 0) out.payload = bytes.subspan(form.payload_at);
    return &out;
  }

  std::array<Set, kSets> sets_;
  std::vector<Form> forms_;
  std::vector<std::byte> bytes_;
  std::uint32_t key_ = 0;
  int credit_ = kFirstCredit, waited_ = 0;
};

}  // namespace scope::codec
