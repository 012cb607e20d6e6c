// BatchStrings: the atoms that a compact batch names by number (capture_record.h, Strings).
//
// Life   Owned by whoever keeps the batch's records: TraceRecord::strings points here, so it stays in its place and lives
//        as long as they do. Its texts point into the batch's message. One read() fills it; empty for an etf batch.
// Thread One until it is filled, then any.
#pragma once

#include <memory>

#include "ei_codec/term_view.h"

namespace scope::codec {

class BatchStrings final : public StringTable {
 public:
  static constexpr std::size_t kMost = 65'536;  // so that a small batch cannot ask for much memory

  BatchStrings() = default;
  BatchStrings(const BatchStrings&) = delete;
  BatchStrings& operator=(const BatchStrings&) = delete;

  // malformed: cut off, no UTF-8, a number twice; too_large: more than kMost. Then it holds nothing.
  Status read(Bytes strings);

  // nullptr: the table does not hold it. In this form for the codec's own readers, which ask for every record.
  const std::string_view* find(std::uint32_t id) const {
    if (!slots_) return nullptr;
    for (std::size_t i = place(id);; i = (i + 1) & mask_) {
      if (slots_[i].text.data() == nullptr) return nullptr;
      if (slots_[i].id == id) return &slots_[i].text;
    }
  }
  std::optional<std::string_view> atom(std::uint32_t id) const override {
    const std::string_view* const text = find(id);
    return text ? std::optional(*text) : std::nullopt;
  }

  std::size_t size() const { return size_; }
  std::size_t memory() const { return slots_ ? (mask_ + 1) * sizeof(Slot) : 0; }  // bytes

 private:
  struct Slot {
    std::string_view text;  // no data: a free slot
    std::uint32_t id = 0;
  };
  // By multiplication: numbers that were given one after the other spread evenly. The factor is chosen at random once, so
  // that no peer can choose numbers that meet.
  std::size_t place(std::uint32_t id) const {
    return static_cast<std::size_t>((id * kFactor) >> shift_);
  }
  static const std::uint64_t kFactor;

  std::unique_ptr<Slot[]> slots_;  // a power of two, at most half full
  std::size_t mask_ = 0, size_ = 0;
  unsigned shift_ = 63;
};

}  // namespace scope::codec
