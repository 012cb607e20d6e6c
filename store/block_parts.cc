#include "store/block_parts.h"

#include <fmt/format.h>
#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <memory>

namespace scope::store::block_format {

using codec::TraceRecord;

namespace {

ZSTD_DCtx* decompressor() {
  thread_local const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context{ZSTD_createDCtx(),
                                                                                  &ZSTD_freeDCtx};
  return context.get();
}

}  // namespace

std::unexpected<Error> corrupt(std::string_view what) {
  return fail(Code::corrupt, fmt::format("a block's {} is damaged", what));
}

Status Head::parse(Bytes bytes) {
  block = bytes;
  if (bytes.size() < kOldHeader) return corrupt("header");
  h = load_first<Header>(bytes.data(), kOldHeader);  // what it lacks stays as it is made
  const auto own_size = header_size(h.version);
  if (h.magic != kMagic || h.head_end > bytes.size() || h.head_end < own_size ||
      h.end != bytes.size())
    return corrupt("header");
  h = load_first<Header>(bytes.data(), own_size);
  if (h.version == 0 || h.version > kVersion || (h.flags & ~kAllFlags) != 0)
    return fail(Code::corrupt,
                fmt::format("a block of version {}, made by a later release?", h.version));
  if (XXH3_64bits_withSeed(bytes.data() + kHashFrom, h.head_end - kHashFrom, h.flags) !=
      h.head_xxh3)
    return corrupt("head");
  if (h.rows == 0 || h.rows > kMaxBlockRows || h.processes == 0 || h.processes > h.rows ||
      h.incarnations == 0 || h.incarnations > h.processes || h.id_width > 4 || h.serial_width > 4 ||
      h.row_width > 4 || h.messages > h.rows ||
      (h.trace_rows != kTraceRowsUnknown &&
       h.trace_rows > std::uint64_t{kMostTraceRows} * h.rows) ||
      h.frames != (h.rows + kFrameRows - 1) / kFrameRows)
    return corrupt("header");

  const std::uint64_t directory =
      std::uint64_t{h.processes} * (1U + h.id_width + h.serial_width + h.row_width);
  const std::uint64_t chunk_count =
      std::uint64_t{h.state_chunks} + h.other_chunks + h.message_chunks;
  const auto frame_bytes = frame_size(h.version);
  const std::uint64_t expected =
      own_size + h.incarnations * std::uint64_t{sizeof(IncarnationEntry)} +
      h.nodes * std::uint64_t{sizeof(NodeEntry)} + directory +
      h.frames * std::uint64_t{frame_bytes} + chunk_count * sizeof(Piece);
  if (expected != h.head_end) return corrupt("head");
  const std::byte* at = bytes.data() + own_size;
  incarnations = {at, h.incarnations};
  nodes = {at += h.incarnations * sizeof(IncarnationEntry), h.nodes};
  ids = {at += h.nodes * sizeof(NodeEntry), h.id_width};
  serials = {at += std::size_t{h.processes} * h.id_width, h.serial_width};
  first_rows = {at += std::size_t{h.processes} * h.serial_width, h.row_width};
  classes = {at += std::size_t{h.processes} * h.row_width, 1};
  frames = {at += h.processes, h.frames, frame_bytes};
  chunks = {at += h.frames * frame_bytes, static_cast<std::size_t>(chunk_count)};

  const auto chunks_for = [](std::uint32_t size) { return (size + kChunkBytes - 1) / kChunkBytes; };
  if (chunks_for(h.state_bytes) != h.state_chunks || chunks_for(h.other_bytes) != h.other_chunks ||
      chunks_for(h.message_bytes) != h.message_chunks)
    return corrupt("list of chunks");
  for (std::size_t i = 0; i < incarnations.size(); ++i) {
    const auto entry = incarnations[i];
    if (entry.node >= h.nodes || process_end(i) > h.processes ||
        entry.first_process >= process_end(i) || (i == 0 && entry.first_process != 0) ||
        (i > 0 && entry.number <= incarnations[i - 1].number))
      return corrupt("list of incarnations");
  }
  return {};
}

Result<Bytes> Head::piece(const Piece& piece, std::string_view what) const {
  if (piece.offset < h.head_end || piece.offset > block.size() ||
      piece.bytes > block.size() - piece.offset)
    return corrupt(what);
  const auto bytes = block.subspan(piece.offset, piece.bytes);
  if (static_cast<std::uint32_t>(XXH3_64bits(bytes.data(), bytes.size())) != piece.xxh3)
    return corrupt(what);
  return bytes;
}

Status Head::unpack(const Piece& p, std::size_t most, std::string_view what,
                    std::vector<std::byte>& out) const {
  if (p.raw > most) return corrupt(what);
  ASSIGN_OR_RETURN(const auto packed, piece(p, what));
  out.resize(p.raw);
  const auto size =
      ZSTD_decompressDCtx(decompressor(), out.data(), out.size(), packed.data(), packed.size());
  if (ZSTD_isError(size) || size != out.size()) return corrupt(what);
  return {};
}

Result<std::optional<std::vector<std::uint32_t>>> Head::rows_with(
    std::span<const std::uint64_t> trace_keys) const {
  std::optional<std::vector<std::uint32_t>> out;
  if (h.version < 4 || h.trace_rows == kTraceRowsUnknown) return out;
  out.emplace();
  const std::size_t n = h.trace_rows;
  if (n == 0) return out;
  std::vector<std::byte> bytes;
  RETURN_IF_ERROR(unpack(h.trace_table, n * 16 + 64, "list of trace ids", bytes));
  ByteReader in(bytes);
  std::array<Column, kTraceColumns> columns;
  for (auto& c : columns) {
    if (!c.parse(in, n)) return corrupt("list of trace ids");
  }
  if (!in.done()) return corrupt("list of trace ids");
  std::uint64_t row = 0;
  for (std::size_t i = 0; i < n; ++i) {
    row += columns[kRow][i];
    if (row >= h.rows) return corrupt("list of trace ids");
    const auto print = columns[kPrint][i];
    if ((out->empty() || out->back() != row) &&
        std::ranges::any_of(trace_keys, [&](auto key) { return trace_print(key) == print; }))
      out->push_back(static_cast<std::uint32_t>(row));
  }
  return out;
}

Status Messages::load(const Head& head) {
  if (open) return {};
  const std::size_t n = head.h.messages;
  if (n > 0) {
    RETURN_IF_ERROR(head.unpack(head.h.message_table, n * 16 + 64, "list of messages", bytes));
    ByteReader in(bytes);
    for (auto& c : columns) {
      if (!c.parse(in, n)) return corrupt("list of messages");
    }
    if (!in.done()) return corrupt("list of messages");
  }
  at.resize(n);
  std::uint64_t next = 0;
  for (std::size_t i = 0; i < n; ++i) {
    at[i] = static_cast<std::uint32_t>(next);
    const auto size = columns[kBytes][i];
    if (size > head.h.message_bytes - next) return corrupt("list of messages");
    next += size;
  }
  open = true;
  return {};
}

Status Messages::check(const Head& head) {
  if (open || checked_ || head.h.messages == 0) return {};
  RETURN_IF_ERROR(head.piece(head.h.message_table, "list of messages"));
  checked_ = true;
  return {};
}

Status Frame::open(std::size_t index) {
  if (index == index_) return {};
  index_ = index;
  have_times_ = have_rest_ = checked_rest_ = false;
  timed_begin_ = timed_end_ = 0;
  rows_ = head_.frame_rows(index);
  RETURN_IF_ERROR(head_.unpack(head_.frames[index].kinds, rows_ * 64 + 64, "frame", kinds_bytes_));
  ByteReader in(kinds_bytes_);
  for (auto& c : kinds) {
    if (!c.parse(in, rows_)) return corrupt("frame");
  }
  return in.done() ? Status{} : corrupt("frame");
}

Status Frame::open_times(std::size_t begin, std::size_t end, std::int64_t oldest) {
  if (have_times_ || (timed_begin_ <= begin && end <= timed_end_)) return {};
  if (timed_end_ > 0) return open_times();
  ASSIGN_OR_RETURN(const auto bytes, head_.piece(head_.frames[index_].times, "frame's times"));
  times.resize(rows_);
  ByteReader in(bytes);
  in.skip_varints(begin);
  auto time = static_cast<std::uint64_t>(oldest);
  for (std::size_t i = begin; i < end; ++i)
    times[i] = static_cast<std::int64_t>(time += in.varint());
  if (!in.ok()) return corrupt("frame's times");
  timed_begin_ = begin;
  timed_end_ = end;
  return {};
}

Status Frame::open_times() {
  if (have_times_) return {};
  ASSIGN_OR_RETURN(const auto bytes, head_.piece(head_.frames[index_].times, "frame's times"));
  times.resize(rows_);
  ByteReader in(bytes);
  const std::size_t begin = index_ * kFrameRows;
  std::size_t process = head_.process_of(begin), incarnation = 0;
  for (std::size_t i = 0; i < rows_; ++process) {
    while (process >= head_.process_end(incarnation) && incarnation + 1 < head_.incarnations.size())
      ++incarnation;
    const std::size_t end = process + 1 < head_.h.processes
                                ? std::min<std::size_t>(head_.row_end(process) - begin, rows_)
                                : rows_;
    auto time = static_cast<std::uint64_t>(head_.incarnations[incarnation].oldest);
    for (; i < end; ++i) times[i] = static_cast<std::int64_t>(time += in.varint());
  }
  if (!in.done()) return corrupt("frame's times");
  have_times_ = true;
  return {};
}

Status Frame::check_rest() {
  if (have_rest_ || checked_rest_) return {};
  RETURN_IF_ERROR(head_.piece(head_.frames[index_].rest, "frame's rest"));
  if (head_.has_messages()) RETURN_IF_ERROR(messages_.check(head_));
  checked_rest_ = true;
  return {};
}

Status Frame::open_rest() {
  if (have_rest_) return {};
  const auto entry = head_.frames[index_];
  RETURN_IF_ERROR(head_.unpack(entry.rest, rows_ * 128 + 64, "frame's rest", rest_bytes_));
  ByteReader in(rest_bytes_);
  hash_at_.resize(rows_);
  std::uint32_t hashes = 0;
  for (std::size_t i = 0; i < rows_; ++i) {
    hash_at_[i] = hashes;
    if ((kinds[kFlags][i] & TraceRecord::kHashed) != 0) ++hashes;
  }
  for (unsigned c = 0; c < kRestColumns; ++c) {
    if (!rest[c].parse(in, c == kMessage ? hashes : rows_)) return corrupt("frame's rest");
  }
  aliases = in.rest();
  ByteReader alias_in(aliases);
  alias_at.clear();
  while (alias_in.left() > 0) {
    alias_at.push_back(static_cast<std::uint32_t>(aliases.size() - alias_in.left()));
    const auto count = alias_in.u8();
    alias_in.raw(std::size_t{count} * 4);
    if (!alias_in.ok() || count > 5) return corrupt("frame's rest");
  }
  if (head_.has_messages() && hashes > 0) RETURN_IF_ERROR(find_messages(hashes));
  payload_at_.resize(rows_);
  std::uint64_t at[2] = {entry.state_at, entry.other_at};
  const std::uint64_t ends[2] = {head_.h.state_bytes, head_.h.other_bytes};
  for (std::size_t i = 0; i < rows_; ++i) {
    const unsigned s = kinds[kType][i] == std::uint64_t(codec::EventType::state_change) ? 0 : 1;
    const auto size = rest[kPayload][i];
    if (at[s] > ends[s] || size > ends[s] - at[s]) return corrupt("frame's rest");
    payload_at_[i] = static_cast<std::uint32_t>(at[s]);
    at[s] += size;
  }
  have_rest_ = true;
  return {};
}

Status Frame::find_messages(std::size_t hashed) {
  RETURN_IF_ERROR(messages_.load(head_));
  message_of_.resize(hashed);
  std::uint64_t next = head_.frames[index_].first_message, last = head_.h.messages;
  for (std::size_t i = 0; i < hashed; ++i) {
    const auto ref = rest[kMessage][i] / 2;
    if (ref != kSameMessage) last = ref == kNextMessage ? next++ : ref - kPlaceFrom;
    if (last >= head_.h.messages) return corrupt("frame's rest");
    message_of_[i] = static_cast<std::uint32_t>(last);
  }
  return {};
}

}  // namespace scope::store::block_format
