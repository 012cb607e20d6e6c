// A sealed block that says anything, its hashes right: what read_block() gives is whole, or it is an error.
//   input = filter:1 edit*          edit = where:1 offset:2 value:1
//   where: 0 the head (offset from its first byte, its hash made anew), else a piece: its content before compression
#include <xxhash.h>
#include <zstd.h>

#include <cstdlib>
#include <cstring>
#include <map>

#include "ei_codec/term_builder.h"
#include "store/block.h"
#include "store/block_format.h"
#include "store/trace_ids.h"
#include "test/fuzz/recipe.h"

using namespace scope;
using namespace scope::store;
using namespace scope::store::block_format;
using ByteBuffer = std::vector<std::byte>;

namespace {

class Names final : public BlockNames, public NameSource {
 public:
  NameId atom(std::string_view text) override { return table_.atom(text); }
  NameId mfa(const codec::Mfa& mfa) override { return table_.mfa(mfa); }
  Result<std::string_view> atom(NameId id) override { return table_.atom(id); }
  Result<codec::Mfa> mfa(NameId id) override { return table_.mfa(id); }
  const IncarnationInfo& incarnation(Incarnation n) override { return infos_[n - 1]; }
  Incarnation home_of(std::string_view, std::uint32_t) override { return 0; }

 private:
  NameTable table_;
  IncarnationInfo infos_[2] = {{1, 1, "a@h", 7, 1, 0, {}, {}}, {2, 2, "b@h", 8, 2, 0, {}, {}}};
};

constexpr std::string_view kTraceId = "4bf92f3577b34da6a3ce929d0e0e4736";

struct Base {
  Base() {
    std::vector<ByteBuffer> payloads(60);
    std::vector<StoredRow> rows(60);
    std::vector<const StoredRow*> order;
    for (std::uint32_t i = 0; i < 60; ++i) {
      codec::TermBuilder term;
      term.tuple(3).atom("order").integer(i);
      term.binary(std::string_view(i % 7 == 0 ? kTraceId : "some text"));
      payloads[i].assign(term.bytes().begin(), term.bytes().end());
      auto& row = rows[i];
      row.process = {1 + i % 2, 5 + i % 4, i % 3};
      auto& r = row.record;
      r.type = static_cast<codec::EventType>(1 + i % codec::kMaxEventType);
      r.pid = {row.process.id, row.process.serial};
      r.time = {1000 + i * 10};
      if (i % 2 == 0) r.mfa = {"gen", "call", 4};
      r.peer.kind = static_cast<codec::Peer::Kind>(i % 6);
      r.peer.node = i % 4 == 0 ? "a@h" : "c@h";
      r.peer.name = "srv";
      r.peer.id = i;
      r.peer.alias = {"c@h", 3, 3, {i, 2, 3}};
      if (i % 3 == 0) {
        r.flags = codec::TraceRecord::kHashed;
        r.match_hash = i * 0x9E3779B97F4A7C15ULL;
      }
      r.payload = payloads[i];
      order.push_back(&row);
    }
    block = BlockEncoder().encode(order, 1, 2, names).bytes;
    const auto h = load<Header>(block.data());
    const std::size_t count = h.state_chunks + h.other_chunks + h.message_chunks;
    const auto chunks = h.head_end - count * sizeof(Piece);
    for (std::size_t i = 0; i < count; ++i) pieces.emplace_back(chunks + i * sizeof(Piece), true);
    pieces.emplace_back(offsetof(Header, message_table), true);
    pieces.emplace_back(offsetof(Header, trace_table), true);
    const auto frames = chunks - h.frames * sizeof(FrameEntry);
    pieces.emplace_back(frames + offsetof(FrameEntry, kinds), true);
    pieces.emplace_back(frames + offsetof(FrameEntry, times), false);
    pieces.emplace_back(frames + offsetof(FrameEntry, rest), true);
    for (const auto& [at, packed] : pieces) contents.push_back(content(at, packed));
  }
  ByteBuffer content(std::size_t at, bool packed) const {
    const auto p = load<Piece>(block.data() + at);
    if (!packed) return {block.begin() + p.offset, block.begin() + p.offset + p.bytes};
    ByteBuffer out(p.raw);
    if (ZSTD_decompress(out.data(), out.size(), block.data() + p.offset, p.bytes) != p.raw)
      std::abort();
    return out;
  }
  Names names;
  ByteBuffer block;
  std::vector<std::pair<std::size_t, bool>> pieces;  // where its entry is; is it compressed?
  std::vector<ByteBuffer> contents;
};

// The piece's new content, at the end of the block.
void replace(ByteBuffer& block, std::size_t at, bool packed, const ByteBuffer& content) {
  ByteBuffer stored = content;
  if (packed) {
    stored.resize(ZSTD_compressBound(content.size()));
    stored.resize(ZSTD_compress(stored.data(), stored.size(), content.data(), content.size(), 1));
  }
  auto p = load<Piece>(block.data() + at);
  p = {static_cast<std::uint32_t>(block.size()), static_cast<std::uint32_t>(stored.size()),
       packed ? static_cast<std::uint32_t>(content.size()) : p.raw,
       static_cast<std::uint32_t>(XXH3_64bits(stored.data(), stored.size()))};
  std::memcpy(block.data() + at, &p, sizeof p);
  block.insert(block.end(), stored.begin(), stored.end());
}

// Touches all that a reader may touch.
void judge(const Rows& rows, const RowFilter& filter) {
  codec::TermBuilder out;
  for (const auto& row : rows.rows) {
    if (!wants_process(filter, row.process) || !wants_record(filter, row.record)) std::abort();
    if (row.record.payload.empty()) continue;
    out.clear();
    out.term(row.record.term());
    if (!codec::validate(out.bytes())) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Base base;
  test::Recipe in({data, size}, {});
  const auto choices = in.number();
  ByteBuffer block = base.block;
  std::map<std::size_t, ByteBuffer> changed;
  std::map<std::size_t, std::byte> head;
  for (int edits = 0; edits < 1000 && !in.done(); ++edits) {
    const std::size_t where = in.number() % (base.pieces.size() + 1);
    const auto offset = in.wide<std::uint16_t>();
    const auto value = static_cast<std::byte>(in.number());
    if (where == 0) {
      head[offset] = value;
      continue;
    }
    auto& content = changed.try_emplace(where - 1, base.contents[where - 1]).first->second;
    if (offset >= content.size() + 64) {  // shorter or longer
      content.resize(offset % (content.size() + 64));
    } else {
      if (offset >= content.size()) content.resize(offset + 1U);
      content[offset] = value;
    }
  }
  for (const auto& [i, content] : changed)
    replace(block, base.pieces[i].first, base.pieces[i].second, content);
  auto h = load<Header>(block.data());
  const auto head_end = h.head_end;
  h.end = static_cast<std::uint32_t>(block.size());
  std::memcpy(block.data(), &h, sizeof h);
  for (const auto& [offset, value] : head) {
    if (offset < head_end) block[offset] = value;
  }
  h = load<Header>(block.data());
  if (h.head_end >= kHashFrom && h.head_end <= block.size()) {
    h.head_xxh3 = XXH3_64bits_withSeed(block.data() + kHashFrom, h.head_end - kHashFrom, h.flags);
    std::memcpy(block.data(), &h, sizeof h);
  }
  const ByteBuffer exact(block);  // a read past the end is seen

  const ProcessId wanted[] = {{1, 5, 0}, {1, 7, 2}, {2, 6, 1}};
  const MfaPattern mfas[] = {{"gen", "call", std::nullopt}};
  const std::uint64_t hashes[] = {0, 3 * 0x9E3779B97F4A7C15ULL};
  const Incarnation incarnations[] = {1};
  const std::uint64_t traces[] = {trace_key(*read_trace_id(kTraceId)), 0};
  RowFilter filter;
  if ((choices & 1) != 0) filter.processes = wanted;
  if ((choices & 2) != 0) filter.mfas = mfas;
  if ((choices & 4) != 0) filter.match_hashes = hashes;
  if ((choices & 8) != 0) filter.incarnations = incarnations;
  filter.newest_only = (choices & 16) != 0;
  filter.payload = (choices & 32) == 0;
  if ((choices & 64) != 0) filter.types = 0x00FF00FE;
  if ((choices & 128) != 0) filter.traces = traces;
  const auto rows = read_block(exact, filter, base.names, std::make_shared<Arena>());
  if (!rows && rows.error().code != Code::corrupt) std::abort();
  if (rows) judge(*rows, filter);
  // Some of them only: whatever is damaged, no other row.
  filter.newest_only = false;
  filter.choose = [](const RowKey& key) {
    return key.id.time.ns % 5 == 0 ? Choice::leave_older
           : key.id.time.ns % 2    ? Choice::make
                                   : Choice::leave;
  };
  const auto some = read_block(exact, filter, base.names, std::make_shared<Arena>());
  if (!some && some.error().code != Code::corrupt) std::abort();
  if (some) judge(*some, filter);
  return 0;
}
