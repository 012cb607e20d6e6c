// The parts of an encoded block (block.h has the grammar, block_format.h the entries): the head, columns, messages, frames,
// each checked when it is opened, decoded when it is first asked for. For block_reader.cc.
//
// Life   All refer to the block's bytes; a Frame refers to its Head and Messages.
// Thread One object, one thread.
// Errors corrupt, with the part's name; what was checked may be read without checks.
#pragma once

#include <array>
#include <cstring>
#include <string_view>
#include <vector>

#include "store/block.h"
#include "store/block_format.h"

namespace scope::store::block_format {

std::unexpected<Error> corrupt(std::string_view what);

// Of an old version the first `bytes` of what is there today.
template <typename T>
T load_first(const std::byte* at, std::size_t bytes) {
  T out;
  std::memcpy(static_cast<void*>(&out), at, bytes);
  return out;
}

// Fixed-size entries inside the head, read in place.
template <typename T>
class Entries {
 public:
  Entries() = default;
  Entries(const std::byte* at, std::size_t size, std::size_t bytes = sizeof(T))
      : at_(at), size_(size), bytes_(bytes) {}
  T operator[](std::size_t i) const { return load_first<T>(at_ + i * bytes_, bytes_); }
  std::size_t size() const { return size_; }

 private:
  const std::byte* at_ = nullptr;
  std::size_t size_ = 0, bytes_ = sizeof(T);
};

// A column of the directory: little-endian values of 0, 1, 2 or 4 bytes.
struct Narrow {
  const std::byte* at = nullptr;
  unsigned width = 0;
  std::uint32_t operator[](std::size_t i) const {
    std::uint32_t value = 0;
    std::memcpy(&value, at + i * width, width);
    return value;
  }
};

// The head, checked: after parse() every entry and every piece lies inside the block.
struct Head {
  Bytes block;
  Header h;
  Entries<IncarnationEntry> incarnations;
  Entries<NodeEntry> nodes;
  Narrow ids, serials, first_rows, classes;
  Entries<FrameEntry> frames;
  Entries<Piece> chunks;

  Status parse(Bytes bytes);
  Result<Bytes> piece(const Piece& piece, std::string_view what) const;
  // Decompresses into `out`, which is resized. `most`: the bound on its size.
  Status unpack(const Piece& piece, std::size_t most, std::string_view what,
                std::vector<std::byte>& out) const;

  std::uint32_t process_end(std::size_t incarnation) const {
    return incarnation + 1 < incarnations.size() ? incarnations[incarnation + 1].first_process
                                                 : h.processes;
  }
  std::uint32_t row_end(std::size_t process) const {
    return process + 1 < h.processes ? first_rows[process + 1] : h.rows;
  }
  // The last one that begins at or before the row.
  std::size_t process_of(std::size_t row) const {
    std::size_t low = 0, high = h.processes;
    while (high - low > 1) {
      const auto middle = (low + high) / 2;
      (first_rows[middle] <= row ? low : high) = middle;
    }
    return low;
  }
  bool has_messages() const { return h.version >= 3; }
  // The rows that can hold one of these trace ids, ascending. nullopt: any can.
  Result<std::optional<std::vector<std::uint32_t>>> rows_with(
      std::span<const std::uint64_t> trace_keys) const;
  std::uint32_t stream_bytes(unsigned stream) const {
    return stream == kStates ? h.state_bytes : stream == kOthers ? h.other_bytes : h.message_bytes;
  }
  std::size_t first_chunk(unsigned stream) const {
    return (stream > kStates ? std::size_t{h.state_chunks} : 0) +
           (stream > kOthers ? h.other_chunks : 0);
  }
  std::size_t frame_rows(std::size_t frame) const {
    return std::min<std::size_t>(kFrameRows, h.rows - frame * kFrameRows);
  }
};

// Values of a column; the planes stay where they are.
struct Column {
  const std::byte* planes = nullptr;
  std::size_t n = 0;
  unsigned width = 0;

  bool parse(ByteReader& in, std::size_t count) {
    n = count;
    width = in.u8();
    if (!in.ok() || width > 8) return false;
    const auto bytes = in.raw(width * count);
    planes = bytes.data();
    return in.ok();
  }
  std::uint64_t operator[](std::size_t i) const {
    std::uint64_t value = 0;
    for (unsigned p = 0; p < width; ++p)
      value |= std::to_integer<std::uint64_t>(planes[p * n + i]) << (8 * p);
    return value;
  }
};

// The block's messages, decoded when they are first asked for. Of an old block there are none.
struct Messages {
  std::vector<std::byte> bytes;
  std::array<Column, kMessageColumns> columns;
  std::vector<std::uint32_t> at;  // within the stream
  bool open = false;

  Status load(const Head& head);
  Status check(const Head& head);  // only whether it is damaged

 private:
  bool checked_ = false;
};

// A payload within the streams.
struct Place {
  std::uint8_t stream;
  std::uint32_t at, size;
};

// One frame, each part decoded when it is first asked for.
class Frame {
 public:
  Frame(const Head& head, Messages& messages) : head_(head), messages_(messages) {}

  Status open(std::size_t index);
  Status open_times();
  // Those of one process's rows here, [begin, end); from the second process on, all.
  Status open_times(std::size_t begin, std::size_t end, std::int64_t oldest);
  Status open_rest();
  // Only whether what open_rest() needs is damaged: a block is so for every reader, whichever rows they take.
  Status check_rest();
  // REQUIRES open_rest(), and of the first that the row has kHashed
  std::uint64_t match_hash(std::size_t i) const {
    const auto value = rest[kMessage][hash_at_[i]];
    return head_.has_messages() ? messages_.columns[kHash][message_of_[hash_at_[i]]] : value;
  }
  Place place(std::size_t i) const {
    if (head_.has_messages() && (kinds[kFlags][i] & codec::TraceRecord::kHashed) != 0 &&
        rest[kMessage][hash_at_[i]] % 2 == 0) {
      const auto m = message_of_[hash_at_[i]];
      return {kMessages, messages_.at[m], static_cast<std::uint32_t>(messages_.columns[kBytes][m])};
    }
    const bool state = kinds[kType][i] == std::uint64_t(codec::EventType::state_change);
    return {state ? kStates : kOthers, payload_at_[i],
            static_cast<std::uint32_t>(rest[kPayload][i])};
  }

  std::array<Column, kKindColumns> kinds;
  std::array<Column, kRestColumns> rest;
  std::vector<std::int64_t> times;
  std::vector<std::uint32_t> alias_at;  // where in aliases each begins
  Bytes aliases;

 private:
  Status find_messages(std::size_t hashed);

  const Head& head_;
  Messages& messages_;
  std::vector<std::uint32_t> payload_at_;  // within its stream
  std::vector<std::uint32_t> hash_at_;     // place among the rows with kHashed
  std::vector<std::uint32_t> message_of_;  // of each of those
  std::size_t index_ = SIZE_MAX, rows_ = 0;
  std::size_t timed_begin_ = 0, timed_end_ = 0;
  bool have_times_ = false, have_rest_ = false, checked_rest_ = false;
  std::vector<std::byte> kinds_bytes_, rest_bytes_;
};

}  // namespace scope::store::block_format
