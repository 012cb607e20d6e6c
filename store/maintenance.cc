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

void add_damage(VerifyReport& report, std::uint32_t partition, std::string what) {
  ++report.damaged;
  if (report.damages.size() < VerifyReport::kMostDamages)
    report.damages.push_back({partition, std::move(what)});
}

class Checker {
 public:
  Checker(VerifyReport& report, std::uint32_t number) : report_(report), number_(number) {}

  void run(const Partition& partition, std::span<const Unit> units, const Progress& progress) {
    for (const auto& unit : units) {
      if (progress.stopped()) return;
      const auto here = partition.read();
      if (!here) return bad(to_string(here.error()));
      check_block(*here, unit);
    }
    for (const char kind : kSegmentKinds) {
      const auto here = partition.read();
      if (!here) return bad(to_string(here.error()));
      const auto done = each_row(here->txn, here->db().seg, Key(kind), [&](Bytes key, Bytes value) {
        ++report_.indexes;
        if (!SegmentValue::open(value, false))
          bad(fmt::format("index '{}' of segment {}", kind, KeyReader(key.subspan(1)).u32()));
      });
      if (!done) bad(to_string(done.error()));
    }
    const auto here = partition.read();
    if (!here) return bad(to_string(here.error()));
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
  void bad(std::string what) { add_damage(report_, number_, std::move(what)); }

  VerifyReport& report_;
  const std::uint32_t number_;
};

Result<std::shared_ptr<Partition>> open_partition(const std::string& folder, std::uint32_t number) {
  return open_attached(folder, number, {});
}

}  // namespace

std::vector<PartitionReport::Database> databases_of(const PartitionTxn& here) {
  std::vector<PartitionReport::Database> out;
  for (const auto& [name, dbi] : here.db().all()) {
    const auto size = here.txn.size(dbi);
    out.push_back({name, size.entries, size.bytes});
  }
  return out;
}

Result<std::shared_ptr<Partition>> open_attached(const std::string& folder, std::uint32_t number,
                                                 const PartitionOptions& options) {
  if (!fs::exists(Partition::file_name(folder, number)))
    return fail(Code::bad_value, Partition::file_name(folder, number) + " is missing");
  return Partition::open(folder, number, options);
}

Status check_partition(const Partition& partition, std::span<const Unit> units,
                       const Progress& progress, VerifyReport& report) {
  progress.at(partition.number());
  ++report.partitions;
  Checker(report, partition.number()).run(partition, units, progress);
  if (progress.stopped()) return fail(Code::closed, "the store is being closed");
  return {};
}

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

Result<std::vector<PartitionReport>> StoreFolder::info() const {
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
    const auto here = (*partition)->read();
    if (here) report.databases = databases_of(*here);
    if (!report.active) continue;  // what a roll carried on stays behind as a copy
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

Result<VerifyReport> StoreFolder::verify(const Progress& progress) const {
  VerifyReport report;
  for (const auto& listed : manifest_.partitions) {
    const auto partition = open_partition(folder_of(listed), listed.number);
    if (!partition) {
      ++report.partitions;
      add_damage(report, listed.number, to_string(partition.error()));
      continue;
    }
    RETURN_IF_ERROR(check_partition(**partition, (*partition)->units_at_open(), progress, report));
  }
  return report;
}

Result<Numbers> copy_out(const std::string& path, const Manifest& from, ClusterTime until,
                         const std::string& to, const Progress& progress) {
  Numbers moved;
  std::error_code error;
  fs::create_directories(to, error);
  if (error) return fail(Code::io, fmt::format("{}: {}", to, error.message()), "to");
  if (fs::equivalent(to, path, error))
    return fail(Code::bad_value, "an archive is another folder than the store", "to", to);
  ASSIGN_OR_RETURN(auto found, Manifest::read(to));
  auto there = found.value_or(Manifest{});
  if (found && there.store_id != from.store_id)
    return fail(Code::bad_value, to + " holds partitions of another store", "to", to);
  there.store_id = from.store_id;
  there.hash_key = from.hash_key;
  for (const auto& p : from.partitions) {
    if (p.number == from.partitions.back().number || p.lost || !p.folder.empty() ||
        p.closed_ns == 0 || p.closed_ns > until.ns)
      continue;
    if (progress.stopped()) return fail(Code::closed, "the store is being closed");
    progress.at(p.number);
    RETURN_IF_ERROR(
        copy_durably(Partition::file_name(path, p.number), Partition::file_name(to, p.number)));
    ASSIGN_OR_RETURN(const auto copy, open_partition(to, p.number));
    std::erase_if(there.partitions, [&](const auto& q) { return q.number == p.number; });
    there.partitions.push_back(p);
    there.partitions.back().keep = false;
    moved.push_back(p.number);
  }
  if (moved.empty()) return moved;
  std::ranges::sort(there.partitions, {}, &Manifest::Partition::number);
  RETURN_IF_ERROR(there.write(to));
  return moved;
}

Result<Numbers> StoreFolder::archive(ClusterTime until, const std::string& to,
                                     const Progress& progress) {
  ASSIGN_OR_RETURN(auto moved, copy_out(path_, manifest_, until, to, progress));
  if (moved.empty()) return moved;
  auto here = manifest_;
  std::erase_if(here.partitions,
                [&](const auto& p) { return std::ranges::binary_search(moved, p.number); });
  RETURN_IF_ERROR(here.write(path_));
  manifest_ = std::move(here);
  for (const auto number : moved) {
    std::error_code error;
    fs::remove(Partition::file_name(path_, number), error);
    fs::remove(Partition::file_name(path_, number) + "-lock", error);
  }
  return moved;
}

Result<std::vector<Manifest::Partition>> attachable(const Manifest& here,
                                                    const std::string& archive) {
  std::error_code error;
  const auto folder = fs::canonical(archive, error).string();
  if (error) return fail(Code::bad_value, archive + " is no folder", "archive", archive);
  ASSIGN_OR_RETURN(const auto there, Manifest::read(folder));
  if (!there) return fail(Code::bad_value, archive + " holds no archive", "archive", archive);
  if (there->store_id != here.store_id)
    return fail(
        Code::bad_value,
        fmt::format("{} came from another store ({:016x}, this is {:016x}); start a scope of "
                    "its own on it: scope start --db {}",
                    archive, there->store_id, here.store_id, archive),
        "archive", archive);
  std::vector<Manifest::Partition> out;
  for (auto p : there->partitions) {
    const auto same = [&](const auto& q) { return q.number == p.number; };
    if (std::ranges::any_of(here.partitions, same)) continue;
    p.folder = folder;
    out.push_back(p);
  }
  return out;
}

void take_in(Manifest& here, const Manifest::Partition& partition) {
  const auto same = [&](const auto& q) { return q.number == partition.number; };
  if (std::ranges::any_of(here.partitions, same)) return;
  here.partitions.push_back(partition);
  std::ranges::sort(here.partitions, {}, &Manifest::Partition::number);
}

Result<Numbers> StoreFolder::attach(const std::string& archive) {
  ASSIGN_OR_RETURN(const auto more, attachable(manifest_, archive));
  auto here = manifest_;
  Numbers taken;
  for (const auto& p : more) {
    ASSIGN_OR_RETURN(const auto usable, open_partition(p.folder, p.number));
    take_in(here, p);
    taken.push_back(p.number);
  }
  RETURN_IF_ERROR(here.write(path_));
  manifest_ = std::move(here);
  return taken;
}

Result<Numbers> forget_attached(Manifest& here, const std::string& archive) {
  std::error_code error;
  auto folder = fs::weakly_canonical(archive, error).string();
  if (error) folder = archive;
  Numbers gone;
  std::erase_if(here.partitions, [&](const auto& p) {
    if (p.folder.empty() || (p.folder != folder && p.folder != archive)) return false;
    gone.push_back(p.number);
    return true;
  });
  if (gone.empty()) return fail(Code::bad_value, archive + " is not attached", "archive", archive);
  return gone;
}

Result<Numbers> StoreFolder::detach(const std::string& archive) {
  auto here = manifest_;
  ASSIGN_OR_RETURN(auto gone, forget_attached(here, archive));
  RETURN_IF_ERROR(here.write(path_));
  manifest_ = std::move(here);
  return gone;
}

Result<Numbers> mark_protected(Manifest& here, const std::string& path, ClusterTime from,
                               ClusterTime until, bool keep, std::uint64_t budget) {
  Numbers changed;
  std::uint64_t bytes = 0;
  for (auto& p : here.partitions) {
    const bool inside = p.made_ns <= until.ns && (p.closed_ns == 0 || p.closed_ns >= from.ns);
    if (inside && p.folder.empty() && p.keep != keep) {
      p.keep = keep;
      changed.push_back(p.number);
    }
    std::error_code error;
    if (const auto size = fs::file_size(Partition::file_name(path, p.number), error);
        p.keep && p.folder.empty() && !error)
      bytes += size;
  }
  if (keep && bytes > budget)
    return fail(Code::too_large,
                fmt::format("that would protect {} MB, and the budget is {} MB: protect less, "
                            "archive some of it, or give --budget",
                            bytes >> 20, budget >> 20),
                "budget", std::to_string(budget));
  return changed;
}

Result<Numbers> StoreFolder::protect(ClusterTime from, ClusterTime until, bool keep,
                                     std::uint64_t budget) {
  auto here = manifest_;
  ASSIGN_OR_RETURN(auto changed, mark_protected(here, path_, from, until, keep, budget));
  RETURN_IF_ERROR(here.write(path_));
  manifest_ = std::move(here);
  return changed;
}

}  // namespace scope::store
