#include "ei_codec/batch_strings.h"

#include <bit>
#include <random>

#include "ei_codec/term_tags.h"
#include "fmt/format.h"

namespace scope::codec {
namespace {

constexpr std::size_t kHead = 6;  // id:32 length:16

std::uint64_t random_odd() {
  std::random_device device;
  return (std::uint64_t{device()} << 32 | device()) | 1;
}

}  // namespace

const std::uint64_t BatchStrings::kFactor = random_odd();

Status BatchStrings::read(Bytes strings) {
  slots_.reset();
  size_ = 0;
  std::size_t count = 0;
  for (Bytes left = strings; !left.empty(); ++count) {
    if (left.size() < kHead) return fail(Code::malformed, "a batch's atoms are cut off");
    const std::size_t size = kHead + etf::le16(left.data() + 4);
    if (left.size() < size) return fail(Code::malformed, "a batch's atoms are cut off");
    left = left.subspan(size);
  }
  if (count > kMost) {
    return fail(Code::too_large, fmt::format("a batch with {} atoms; {} may be", count, kMost));
  }
  if (count == 0) return {};
  const std::size_t capacity = std::bit_ceil(2 * count), all = count;
  auto slots = std::make_unique<Slot[]>(capacity);
  mask_ = capacity - 1;
  shift_ = 64 - static_cast<unsigned>(std::countr_zero(capacity));
  for (const std::byte* at = strings.data(); count > 0; --count) {
    const std::uint32_t id = etf::le32(at);
    const std::string_view text(etf::chars(at + kHead), etf::le16(at + 4));
    if (!etf::valid_atom(at + kHead, text.size())) {
      return fail(Code::malformed, fmt::format("a batch's atom {} is no atom's text", id));
    }
    std::size_t i = place(id);
    for (; slots[i].text.data() != nullptr; i = (i + 1) & mask_) {
      if (slots[i].id == id) return fail(Code::malformed, "a batch gives two atoms one number");
    }
    slots[i] = {text, id};
    at += kHead + text.size();
  }
  slots_ = std::move(slots);
  size_ = all;
  return {};
}

}  // namespace scope::codec
