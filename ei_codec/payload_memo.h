// PayloadMemo: what was found out about the messages just read. A message is traced when it is sent, fetched and taken, and
// each time its bytes are the same, so they are checked and hashed once. Remembered are the last few messages that went to
// a process, by its number, and to whatever is no process (aliases, names). Lives while one batch is read; its payloads
// must outlive it. For the codec's own sources.
#pragma once

#include <array>
#include <cstring>

#include "ei_codec/match_hash.h"
#include "ei_codec/term_tags.h"

namespace scope::codec {

class PayloadMemo {
 public:
  static constexpr std::uint32_t kNoProcess = 0;
  struct Entry {
    Bytes bytes;
    std::uint64_t last = 0;  // its last 8 bytes
    bool local_atoms = false, hashed = false;
    MatchHash hash;
  };

  // The message that stands at `at`: equal bytes are equal terms, so it ends where that one did. nullptr: not known.
  Entry* find(std::uint32_t receiver, const std::byte* at, const std::byte* end) {
    Entry* const found = sets_[receiver % kSets].find(at, end);
    return found ? found : others_.find(at, end);
  }
  // A place for a message that was checked and is not known. nullptr: it is too short to be worth it.
  Entry* add(std::uint32_t receiver, Bytes message) {
    if (message.size() < kShortest) return nullptr;
    Set& set = receiver == kNoProcess ? others_ : sets_[receiver % kSets];
    Entry& entry = set.ways[set.next++ % kWays];
    entry = {};
    entry.bytes = message;
    entry.last = etf::le64(message.data() + message.size() - 8);
    return &entry;
  }

 private:
  static constexpr std::size_t kShortest = 16, kSets = 32, kWays = 4;
  struct Set {
    std::array<Entry, kWays> ways;
    unsigned next = 0;

    Entry* find(const std::byte* at, const std::byte* end) {
      const auto left = static_cast<std::size_t>(end - at);
      for (Entry& entry : ways) {
        const std::size_t size = entry.bytes.size();
        if (size != 0 && size <= left && etf::le64(at + size - 8) == entry.last &&
            std::memcmp(at, entry.bytes.data(), size) == 0) {
          return &entry;
        }
      }
      return nullptr;
    }
  };
  std::array<Set, kSets> sets_;
  Set others_;
};

}  // namespace scope::codec
