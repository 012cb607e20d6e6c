// PayloadMemo: what was found out about the payloads just read. A message is traced when it is sent, fetched and taken, and
// each time its bytes are the same: they are checked and hashed once. Lives while one batch is read; its payloads must
// outlive it. For the codec's own sources.
#pragma once

#include <array>
#include <cstring>

#include "ei_codec/match_hash.h"
#include "ei_codec/term_tags.h"

namespace scope::codec {

class PayloadMemo {
 public:
  struct Entry {
    Bytes bytes;
    bool local_atoms = false, hashed = false;
    MatchHash hash;
  };
  // The place for these bytes: theirs if its `bytes` are set, else free for what the caller finds out.
  Entry& at(Bytes payload) {
    Entry& entry = entries_[place(payload)];
    if (entry.bytes.size() != payload.size() ||
        std::memcmp(entry.bytes.data(), payload.data(), payload.size()) != 0) {
      entry = {};
    }
    return entry;
  }

 private:
  static constexpr unsigned kBits = 6;
  // By words of the middle and the end: the beginnings of messages are alike.
  static std::size_t place(Bytes payload) {
    const std::size_t n = payload.size();
    if (n < 8) return n;
    const std::uint64_t mixed =
        etf::le64(payload.data() + n - 8) ^ etf::le64(payload.data() + n / 2 - 4) * 3 ^ n;
    return static_cast<std::size_t>(mixed * 0x9E3779B97F4A7C15ULL >> (64 - kBits));
  }
  std::array<Entry, 1u << kBits> entries_;
};

}  // namespace scope::codec
