#include "store/manifest.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "store/bytes.h"
#include "store/manifest.pb.h"

namespace scope::store {
namespace {

constexpr std::uint32_t kMagic = 0x464D4353;  // "SCMF"
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kMostBytes = 16u << 20;

std::unexpected<Error> failed(const std::string& path, const char* what) {
  const int error = errno;
  return fail(error == ENOSPC || error == EDQUOT || error == EFBIG ? Code::disk_full : Code::io,
              fmt::format("{} {}: {}", what, path, std::strerror(error)));
}

class File {
 public:
  File(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0600)) {}
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

Result<std::optional<Manifest>> Manifest::read(const std::string& folder) {
  const auto path = folder + "/manifest";
  const File file(path, O_RDONLY);
  if (file.fd() < 0) {
    if (errno == ENOENT) return std::optional<Manifest>{};
    return failed(path, "open");
  }
  std::string text;
  char buffer[65536];
  for (;;) {
    const auto n = ::read(file.fd(), buffer, sizeof buffer);
    if (n < 0) return failed(path, "read");
    if (n == 0) break;
    text.append(buffer, static_cast<std::size_t>(n));
    if (text.size() > kMostBytes) return fail(Code::corrupt, path + " is too large");
  }
  ByteReader in(as_bytes(text));
  const auto magic = in.u32();
  const auto hash = in.u64();
  const auto body = in.rest();
  proto::Manifest stored;
  if (!in.ok() || magic != kMagic || XXH3_64bits(body.data(), body.size()) != hash ||
      !stored.ParseFromArray(body.data(), static_cast<int>(body.size())))
    return fail(Code::corrupt, path + " is damaged");
  if (stored.version() != kVersion)
    return fail(Code::corrupt,
                fmt::format("{} has version {}, made by a later release?", path, stored.version()));
  Manifest out;
  out.store_id = stored.store_id();
  if (stored.hash_key().size() != out.hash_key.size() || stored.partitions().empty())
    return fail(Code::corrupt, path + " is incomplete");
  std::memcpy(out.hash_key.data(), stored.hash_key().data(), out.hash_key.size());
  for (const auto& p : stored.partitions())
    out.partitions.push_back(
        {p.number(), p.first_lsn(), p.made_ns(), p.closed_ns(), p.keep(), p.lost(), p.folder()});
  for (const auto& a : stored.anchors())
    out.anchors.push_back({a.anchor_ns(), a.at_ns(), a.step_ns()});
  return std::optional<Manifest>(std::move(out));
}

Status Manifest::write(const std::string& folder) const {
  proto::Manifest stored;
  stored.set_version(kVersion);
  stored.set_store_id(store_id);
  stored.set_hash_key(hash_key.data(), hash_key.size());
  for (const auto& p : partitions) {
    auto* out = stored.add_partitions();
    out->set_number(p.number);
    out->set_first_lsn(p.first_lsn);
    out->set_made_ns(p.made_ns);
    out->set_closed_ns(p.closed_ns);
    out->set_keep(p.keep);
    out->set_lost(p.lost);
    out->set_folder(p.folder);
  }
  const auto skip = anchors.size() - std::min(anchors.size(), kMaxAnchors);
  for (auto i = skip; i < anchors.size(); ++i) {
    auto* out = stored.add_anchors();
    out->set_anchor_ns(anchors[i].anchor_ns);
    out->set_at_ns(anchors[i].at_ns);
    out->set_step_ns(anchors[i].step_ns);
  }
  const auto body = stored.SerializeAsString();
  ByteWriter out;
  out.u32(kMagic);
  out.u64(XXH3_64bits(body.data(), body.size()));
  out.raw(as_bytes(body));

  const auto path = folder + "/manifest", temporary = path + ".tmp";
  {
    const File file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    if (file.fd() < 0) return failed(temporary, "open");
    for (Bytes left = out.bytes(); !left.empty();) {
      const auto n = ::write(file.fd(), left.data(), left.size());
      if (n < 0) return failed(temporary, "write");
      left = left.subspan(static_cast<std::size_t>(n));
    }
    if (::fsync(file.fd()) != 0) return failed(temporary, "fsync");
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) return failed(path, "rename");
  const File directory(folder, O_RDONLY | O_DIRECTORY);
  if (directory.fd() < 0 || ::fsync(directory.fd()) != 0) return failed(folder, "fsync");
  return {};
}

}  // namespace scope::store
