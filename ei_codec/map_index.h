// MapIndex: finds values of a map by any key, in about constant time after one walk. A pointer into the map's bytes,
// which must outlive it. For the codec's own sources.
#pragma once

#include <unordered_map>

#include "ei_codec/match_hash.h"
#include "ei_codec/term_view.h"

namespace scope::codec {

class MapIndex {
 public:
  explicit MapIndex(MapView map) {
    pairs_.reserve(map.left());
    for (; !map.done(); map.next()) pairs_.emplace(structural_hash(map.key()), map);
  }
  std::optional<TermView> find(const TermView& key) const {
    auto [at, end] = pairs_.equal_range(structural_hash(key));
    for (; at != end; ++at) {
      if (equal(at->second.key(), key)) return at->second.value();
    }
    return std::nullopt;
  }

 private:
  std::unordered_multimap<std::uint64_t, MapView> pairs_;
};

}  // namespace scope::codec
