// A segment's index that says anything, its hash taken for right: asked, it answers or is an error.
//   input = kind:1 edit*            edit = offset:2 value:1
//   The edits are of the body; of edges (e) before they are compressed.
#include <zstd.h>

#include <cstdlib>
#include <cstring>
#include <map>

#include "store/segment.h"
#include "test/fuzz/recipe.h"

using namespace scope;
using namespace scope::store;
using ByteBuffer = std::vector<std::byte>;

namespace {

constexpr std::size_t kHead = 17;  // of a value, before its body

std::vector<std::shared_ptr<const BlockIndex>> make_blocks() {
  std::vector<std::shared_ptr<const BlockIndex>> blocks;
  for (std::uint32_t b = 0; b < 3; ++b) {
    auto index = std::make_shared<BlockIndex>();
    for (std::uint32_t i = 0; i < 12; ++i) {
      index->processes.push_back({{1 + i / 8, i * 3, i % 2}, static_cast<std::uint8_t>(i * 7)});
      index->hashes.push_back((i + 1) * (~0ULL / 13));
      index->cells.push_back(
          {1, codec::EventType::message_send, i / 4, static_cast<std::int64_t>(i), 3});
      index->edges.push_back({{1, i, 0}, codec::Peer::Kind::pid, 1, 0, 3, i, 0, {5}, {9}, 2});
      index->mfas.push_back(i + 1);
    }
    index->text.resize((kTrigrams + 63) / 64, 0x1111);
    blocks.push_back(std::move(index));
  }
  return blocks;
}

void use(char kind, const SegmentValue& value) {
  const ProcessId wanted[] = {{1, 6, 0}, {1, 9, 1}, {2, 30, 0}, {9, 9, 9}};
  RowFilter filter;
  filter.processes = wanted;
  const std::uint64_t hashes[] = {1, ~0ULL / 13, 1ULL << 63, ~0ULL};
  const std::uint32_t trigrams[] = {15, 1500, 5000, 54871};
  const NameId mfas[] = {1, 7, 99};
  std::size_t seen = 0;
  const auto count = [&seen](const auto&) -> Status {
    ++seen;
    return {};
  };
  switch (kind) {
    case 'p':
      (void)blocks_of_processes(value, filter);
      return;
    case 'm':
      (void)blocks_of_mfas(value, mfas);
      return;
    case 'h':
      (void)blocks_of_hashes(value, hashes);
      return;
    case 't':
      (void)blocks_of_texts(value, trigrams);
      return;
    case 'r':
      (void)visit_cells(value, [](const CellRun&) { return true; }, count);
      break;
    default:
      (void)visit_edges(value, {}, count);
  }
  if (seen > 2 * value.body.size() * 2000) std::abort();  // more than there can be
}

ByteBuffer unpacked(codec::Bytes packed, std::size_t most) {
  ByteBuffer out(most);
  const auto size = ZSTD_decompress(out.data(), out.size(), packed.data(), packed.size());
  if (ZSTD_isError(size)) std::abort();
  out.resize(size);
  return out;
}
ByteBuffer packed(codec::Bytes raw) {
  ByteBuffer out(ZSTD_compressBound(raw.size()));
  out.resize(ZSTD_compress(out.data(), out.size(), raw.data(), raw.size(), 1));
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto blocks = make_blocks();
  if (size == 0) return 0;
  test::Recipe in({data, size}, {});
  const char kind = kSegmentKinds[in.number() % std::size(kSegmentKinds)];
  static std::map<char, ByteBuffer> bases;
  auto& base = bases[kind];  // its body as it is edited
  if (base.empty()) {
    const auto value = encode_segment(kind, blocks);
    const auto body = codec::Bytes(value).subspan(kHead);
    base.assign(value.begin(), value.begin() + kHead);
    const auto plain =
        kind == 'e' ? unpacked(body, 1u << 20) : ByteBuffer(body.begin(), body.end());
    base.insert(base.end(), plain.begin(), plain.end());
  }
  ByteBuffer head(base.begin(), base.begin() + kHead);
  ByteBuffer body(base.begin() + kHead, base.end());
  while (!in.done()) {
    const auto offset = in.wide<std::uint16_t>();
    const auto value = static_cast<std::byte>(in.number());
    if (offset >= body.size() + 64) {
      body.resize(offset % (body.size() + 64));
    } else {
      if (offset >= body.size()) body.resize(offset + 1U);
      body[offset] = value;
    }
  }
  if (kind == 'e') body = packed(body);
  head.insert(head.end(), body.begin(), body.end());
  const ByteBuffer exact(head);
  (void)SegmentValue::open(exact, false);
  if (const auto value = SegmentValue::open(exact, true)) use(kind, *value);
  return 0;
}
