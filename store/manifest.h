// The manifest: the list of partitions and what is made once with the store. The only place with protobuf in store/.
//
//   file `manifest` = magic:4 "SCMF" xxh3:8 (of the rest) protobuf (manifest.proto)
//
// Life   write() replaces the file atomically: a temporary file, fsync, rename, fsync of the folder.
// Errors io, disk_full, corrupt.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ei_codec/base/result.h"
#include "ei_codec/match_hash.h"

namespace scope::store {

struct Manifest {
  struct Partition {
    std::uint32_t number = 0;
    std::uint64_t first_lsn = 1;
    std::int64_t made_ns = 0, closed_ns = 0;  // cluster time; closed 0: the active one
    bool keep = false;                        // protected by the user: retention passes it over
    bool lost = false;                        // its file was missing or unusable: recorded as a gap
    std::string folder;  // attached: its file is there; retention never touches it
  };
  struct Anchor {
    std::int64_t anchor_ns = 0, at_ns = 0, step_ns = 0;
  };
  std::uint64_t store_id = 0;
  codec::HashKey hash_key{};
  std::vector<Partition> partitions;  // by number; the last one is the active one
  std::vector<Anchor> anchors;        // the newest kMaxAnchors

  static constexpr std::size_t kMaxAnchors = 1000;

  // nullopt: there is no such file.
  static Result<std::optional<Manifest>> read(const std::string& folder);
  Status write(const std::string& folder) const;
};

}  // namespace scope::store
