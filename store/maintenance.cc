#include "store/maintenance.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>

#include "store/block.h"
#include "store/incarnations.h"
#include "store/key_format.h"
#include "store/partition.h"

namespace scope::store {
namespace {

namespace fs = std::filesystem;

// A copy that is on disk when this comes back.
Status copy_durably(const std::string& from, const std::string& to) {
  const auto temporary = to + ".tmp";
  std::error_code error;
  fs::copy_file(from, temporary, fs::copy_options::overwrite_existing, error);
  if (error) {
    fs::remove(temporary, error);
    return fail(error == std::errc::no_space_on_device ? Code::disk_full : Code::io,
                fmt::format("{} could not be copied to {}", from, to));
  }
  const int fd = ::open(temporary.c_str(), O_RDONLY | O_CLOEXEC);
  const bool synced = fd >= 0 && ::fsync(fd) == 0;
  if (fd >= 0) ::close(fd);
  if (!synced || std::rename(temporary.c_str(), to.c_str()) != 0) {
    fs::remove(temporary, error);
    return fail(Code::io, fmt::format("{} could not be made safe on disk", to));
  }
  return {};
}

Result<std::shared_ptr<Partition>> open_partition(const std::string& folder, std::uint32_t number) {
  if (!fs::exists(Partition::file_name(folder, number)))
    return fail(Code::bad_value, Partition::file_name(folder, number) + " is missing");
  return Partition::open(folder, number, {});
}

// Calls back for each row of `dbi` with that prefix.
Status each_row(const lmdb::Txn& txn, lmdb::Dbi dbi, Bytes prefix,
                const std::function<void(Bytes key, Bytes value)>& use) {
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn, dbi));
  Result<bool> found = prefix.empty() ? cursor.first() : cursor.seek(prefix);
  for (;; found = cursor.next()) {
    if (!found) return std::unexpected(found.error());
    if (!*found || !starts_with(cursor.key(), prefix)) return {};
    use(cursor.key(), cursor.value());
  }
}

class Checker {
 public:
  Checker(VerifyReport& report, std::uint32_t number) : report_(report), number_(number) {}

  void run(const std::string& folder) {
    ++report_.partitions;
    const auto partition = open_partition(folder, number_);
    if (!partition) return bad(to_string(partition.error()));
    for (const auto& unit : (*partition)->units_at_open()) {
      const auto here = (*partition)->read();
      if (!here) return bad(to_string(here.error()));
      check_block(*here, unit);
    }
    const auto here = (*partition)->read();
    if (!here) return bad(to_string(here.error()));
    for (const char kind : kSegmentKinds) {
      const auto done = each_row(here->txn, here->db().seg, Key(kind), [&](Bytes key, Bytes value) {
        ++report_.indexes;
        if (!SegmentValue::open(value, false))
          bad(fmt::format("index '{}' of segment {}", kind, KeyReader(key.subspan(1)).u32()));
      });
      if (!done) bad(to_string(done.error()));
    }
    const auto done = each_row(here->txn, here->db().hot, {}, [&](Bytes key, Bytes value) {
      ++report_.hot_batches;
      ByteReader in(value);
      const auto version = in.u8();
      in.raw(4 + 8 + 8);
      const auto hash = in.u64();
      const auto term = in.rest();
      if (!in.ok() || version != kHotVersion || XXH3_64bits(term.data(), term.size()) != hash)
        bad(fmt::format("batch {} of the hot log", KeyReader(key).u64()));
    });
    if (!done) bad(to_string(done.error()));
  }

 private:
  void check_block(const PartitionTxn& here, const Unit& unit) {
    ++report_.blocks;
    const auto name = fmt::format("block {} (batches {} to {}, {} events)", unit.block, unit.first,
                                  unit.last, unit.rows);
    const auto value = here.txn.get(here.db().blk, block_key(unit.block));
    if (!value || !*value) return bad(name + ": it is missing");
    auto arena = std::make_shared<Arena>();
    NameReader names(here.txn, here.db().names, *arena);
    const auto rows = read_block(**value, {}, names, arena);
    if (!rows) return bad(fmt::format("{}: {}", name, rows.error().message));
    report_.rows += rows->rows.size();
    if (rows->rows.size() != unit.rows) bad(name + ": it holds another number of events");
  }
  void bad(std::string what) {
    ++report_.damaged;
    if (report_.damages.size() < VerifyReport::kMostDamages)
      report_.damages.push_back({number_, std::move(what)});
  }

  VerifyReport& report_;
  const std::uint32_t number_;
};

}  // namespace

Result<StoreFolder> StoreFolder::open(const std::string& path) {
  StoreFolder out;
  out.path_ = path;
  if (!fs::exists(path + "/manifest"))
    return fail(Code::bad_value, fmt::format("{} holds no store", path), "db");
  ASSIGN_OR_RETURN(out.lock_, FolderLock::take(path));
  ASSIGN_OR_RETURN(auto found, Manifest::read(path));
  if (!found) return fail(Code::bad_value, fmt::format("{} holds no store", path), "db");
  out.manifest_ = *std::move(found);
  return out;
}

std::vector<PartitionReport> StoreFolder::info() const {
  std::vector<PartitionReport> out;
  for (const auto& listed : manifest_.partitions) {
    auto& report = out.emplace_back();
    report.listed = listed;
    report.active = &listed == &manifest_.partitions.back();
    const auto partition = open_partition(folder_of(listed), listed.number);
    if (!partition) {
      report.problem = partition.error().message;
      continue;
    }
    report.bytes = (*partition)->used_bytes();
    report.blocks = (*partition)->units_at_open().size();
    for (const auto& unit : (*partition)->units_at_open()) report.rows += unit.rows;
    if (!report.active) continue;  // what a roll carried on stays behind as a copy
    const auto here = (*partition)->read();
    if (!here ||
        !each_row(here->txn, here->db().hot, {}, [&](Bytes, Bytes) { ++report.hot_batches; }))
      report.problem = "its hot log cannot be read";
  }
  return out;
}

std::vector<IncarnationInfo> StoreFolder::agents() const {
  Incarnations table;
  const auto& active = manifest_.partitions.back();
  const auto partition = open_partition(folder_of(active), active.number);
  if (partition) {
    const auto here = (*partition)->read();
    if (here) (void)table.load(here->txn, here->db().agents);
  }
  std::vector<IncarnationInfo> out;
  for (const auto& info : table.all()) {
    if (info.agent_id != 0) out.push_back(info);
  }
  return out;
}

VerifyReport StoreFolder::verify(const std::function<void(std::uint32_t)>& each) const {
  VerifyReport report;
  for (const auto& listed : manifest_.partitions) {
    if (each) each(listed.number);
    Checker(report, listed.number).run(folder_of(listed));
  }
  return report;
}

Result<std::vector<std::uint32_t>> StoreFolder::archive(ClusterTime until, const std::string& to) {
  std::vector<std::uint32_t> moved;
  std::error_code error;
  fs::create_directories(to, error);
  if (error) return fail(Code::io, fmt::format("{}: {}", to, error.message()), "to");
  if (fs::equivalent(to, path_, error))
    return fail(Code::bad_value, "an archive is another folder than the store", "to", to);
  ASSIGN_OR_RETURN(auto found, Manifest::read(to));
  auto there = found.value_or(Manifest{});
  if (found && there.store_id != manifest_.store_id)
    return fail(Code::bad_value, to + " holds partitions of another store", "to", to);
  there.store_id = manifest_.store_id;
  there.hash_key = manifest_.hash_key;
  auto here = manifest_;
  here.partitions.clear();
  for (std::size_t i = 0; i < manifest_.partitions.size(); ++i) {
    const auto& p = manifest_.partitions[i];
    const bool last = i + 1 == manifest_.partitions.size();
    if (last || p.lost || !p.folder.empty() || p.closed_ns == 0 || p.closed_ns > until.ns) {
      here.partitions.push_back(p);
      continue;
    }
    const auto file = Partition::file_name(to, p.number);
    RETURN_IF_ERROR(copy_durably(Partition::file_name(path_, p.number), file));
    ASSIGN_OR_RETURN(const auto copy, open_partition(to, p.number));
    std::erase_if(there.partitions, [&](const auto& q) { return q.number == p.number; });
    there.partitions.push_back(p);
    there.partitions.back().keep = false;
    moved.push_back(p.number);
  }
  if (moved.empty()) return moved;
  std::ranges::sort(there.partitions, {}, &Manifest::Partition::number);
  RETURN_IF_ERROR(there.write(to));
  RETURN_IF_ERROR(here.write(path_));
  manifest_ = std::move(here);
  for (const auto number : moved) {
    fs::remove(Partition::file_name(path_, number), error);
    fs::remove(Partition::file_name(path_, number) + "-lock", error);
  }
  return moved;
}

Result<std::vector<std::uint32_t>> StoreFolder::attach(const std::string& archive) {
  std::error_code error;
  const auto folder = fs::canonical(archive, error).string();
  if (error) return fail(Code::bad_value, archive + " is no folder", "archive", archive);
  ASSIGN_OR_RETURN(const auto there, Manifest::read(folder));
  if (!there) return fail(Code::bad_value, archive + " holds no archive", "archive", archive);
  if (there->store_id != manifest_.store_id)
    return fail(
        Code::bad_value,
        fmt::format("{} came from another store ({:016x}, this is {:016x}); start a scope of "
                    "its own on it: scope start --db {}",
                    archive, there->store_id, manifest_.store_id, archive),
        "archive", archive);
  auto here = manifest_;
  std::vector<std::uint32_t> taken;
  for (auto p : there->partitions) {
    const auto same = [&](const auto& q) { return q.number == p.number; };
    if (std::ranges::any_of(here.partitions, same)) continue;
    ASSIGN_OR_RETURN(const auto usable, open_partition(folder, p.number));
    p.folder = folder;
    here.partitions.push_back(p);
    taken.push_back(p.number);
  }
  std::ranges::sort(here.partitions, {}, &Manifest::Partition::number);
  RETURN_IF_ERROR(here.write(path_));
  manifest_ = std::move(here);
  return taken;
}

Result<std::vector<std::uint32_t>> StoreFolder::detach(const std::string& archive) {
  std::error_code error;
  auto folder = fs::weakly_canonical(archive, error).string();
  if (error) folder = archive;
  auto here = manifest_;
  std::vector<std::uint32_t> gone;
  std::erase_if(here.partitions, [&](const auto& p) {
    if (p.folder.empty() || (p.folder != folder && p.folder != archive)) return false;
    gone.push_back(p.number);
    return true;
  });
  if (gone.empty()) return fail(Code::bad_value, archive + " is not attached", "archive", archive);
  RETURN_IF_ERROR(here.write(path_));
  manifest_ = std::move(here);
  return gone;
}

Result<std::vector<std::uint32_t>> StoreFolder::protect(ClusterTime from, ClusterTime until,
                                                        bool keep, std::uint64_t budget) {
  auto here = manifest_;
  std::vector<std::uint32_t> changed;
  std::uint64_t bytes = 0;
  for (auto& p : here.partitions) {
    const bool inside = p.made_ns <= until.ns && (p.closed_ns == 0 || p.closed_ns >= from.ns);
    if (inside && p.folder.empty() && p.keep != keep) {
      p.keep = keep;
      changed.push_back(p.number);
    }
    std::error_code error;
    if (const auto size = fs::file_size(Partition::file_name(path_, p.number), error);
        p.keep && p.folder.empty() && !error)
      bytes += size;
  }
  if (keep && bytes > budget)
    return fail(Code::too_large,
                fmt::format("that would protect {} MB, and the budget is {} MB: protect less, "
                            "archive some of it, or give --budget",
                            bytes >> 20, budget >> 20),
                "budget", std::to_string(budget));
  RETURN_IF_ERROR(here.write(path_));
  manifest_ = std::move(here);
  return changed;
}

}  // namespace scope::store
