#include "store/partition.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "store/key_format.h"

namespace scope::store {
namespace {
constexpr unsigned kUnitVersion = 1;
}

std::string Partition::file_name(const std::string& folder, std::uint32_t number) {
  return fmt::format("{}/p-{:08}.mdb", folder, number);
}

void OpenFiles::touch(const std::shared_ptr<const PartitionFile>& file) {
  std::shared_ptr<const PartitionFile> closed;  // outside the lock
  const std::lock_guard lock(mutex_);
  const auto it = std::ranges::find(files_, file);
  if (it != files_.end()) {
    files_.splice(files_.begin(), files_, it);
    return;
  }
  files_.push_front(file);
  if (files_.size() <= most_) return;
  closed = std::move(files_.back());
  files_.pop_back();
}

void OpenFiles::forget(const PartitionFile* file) {
  const std::lock_guard lock(mutex_);
  std::erase_if(files_, [file](const auto& f) { return f.get() == file; });
}

std::size_t OpenFiles::size() const {
  const std::lock_guard lock(mutex_);
  return files_.size();
}

PartitionTxn::Watch::~Watch() {
  if (!files) return;
  const std::int64_t ns = (std::chrono::steady_clock::now() - since).count();
  auto longest = files->longest_read_ns.load();
  while (ns > longest && !files->longest_read_ns.compare_exchange_weak(longest, ns)) {
  }
}

Result<std::shared_ptr<Partition>> Partition::open(const std::string& folder, std::uint32_t number,
                                                   const PartitionOptions& options) {
  std::shared_ptr<Partition> p(new Partition(file_name(folder, number), number, options));
  if (options.writable) {
    ASSIGN_OR_RETURN(p->written_, p->open_file(true));
    p->file_ = p->written_;
  } else if (!options.files) {
    ASSIGN_OR_RETURN(p->kept_, p->open_file(false));
    p->file_ = p->kept_;
  }
  RETURN_IF_ERROR(p->load_units());
  return p;
}

Partition::~Partition() {
  if (options_.files) options_.files->forget(file_.lock().get());
  if (!unlink_) return;
  written_ = kept_ = nullptr;
  ::unlink(path_.c_str());
  ::unlink((path_ + "-lock").c_str());
}

Result<std::shared_ptr<const PartitionFile>> Partition::open_file(bool writable) const {
  auto file = std::make_shared<PartitionFile>();
  ASSIGN_OR_RETURN(file->env, lmdb::Env::open(path_, {.map_bytes = options_.map_bytes,
                                                      .read_only = !writable,
                                                      .sync = options_.sync}));
  auto& db = file->db;
  ASSIGN_OR_RETURN(auto txn, lmdb::Txn::begin(file->env, writable));
  ASSIGN_OR_RETURN(db.hot, txn.open_db("hot", writable));
  ASSIGN_OR_RETURN(db.blk, txn.open_db("blk", writable));
  ASSIGN_OR_RETURN(db.seg, txn.open_db("seg", writable));
  ASSIGN_OR_RETURN(db.agents, txn.open_db("agents", writable));
  ASSIGN_OR_RETURN(db.clock, txn.open_db("clock", writable));
  ASSIGN_OR_RETURN(db.names, txn.open_db("names", writable));
  ASSIGN_OR_RETURN(db.lives, txn.open_db("lives", writable));
  RETURN_IF_ERROR(txn.commit());
  return file;
}

// Readers that still use the environment as it was opened for writing keep it; the next one opens it anew.
void Partition::end_writing() {
  const std::lock_guard lock(mutex_);
  ended_bytes_ = written_->env.used_bytes();
  if (options_.files) {
    options_.files->touch(written_);
  } else {
    kept_ = written_;
  }
  written_ = nullptr;
}

Result<std::shared_ptr<const PartitionFile>> Partition::use(bool& written) const {
  const std::lock_guard lock(mutex_);
  written = written_ != nullptr;
  auto file = file_.lock();
  if (!file) {
    ASSIGN_OR_RETURN(file, open_file(false));
    file_ = file;
  }
  if (options_.files && !written_) options_.files->touch(file);
  return file;
}

Result<PartitionTxn> Partition::read() const {
  PartitionTxn out;
  bool written = false;
  ASSIGN_OR_RETURN(out.file, use(written));
  if (written) out.watch.files = options_.files;
  ASSIGN_OR_RETURN(out.txn, lmdb::Txn::begin(out.file->env, false));
  return out;
}

std::uint64_t Partition::used_bytes() const {
  return written_ ? written_->env.used_bytes() : ended_bytes_.load();
}

std::span<const UnitRange> Partition::keep(std::vector<UnitRange> ranges) {
  return ranges_.emplace_back(std::move(ranges));
}

std::optional<SegmentValue> Partition::segment(const PartitionTxn& here, char kind,
                                               std::uint32_t segment, Counters& bad) const {
  const auto value = here.txn.get(here.db().seg, segment_key(kind, segment));
  if (value && !*value) return std::nullopt;
  const auto k = static_cast<std::size_t>(std::ranges::find(kSegmentKinds, kind) - kSegmentKinds);
  const auto place = k * kSegmentsChecked + segment;
  const bool keeps = segment < kSegmentsChecked;
  const auto bit = 1ULL << place % 64;
  const bool checked = keeps && (checked_[place / 64].load(std::memory_order_relaxed) & bit) != 0;
  auto opened = value ? SegmentValue::open(**value, checked)
                      : Result<SegmentValue>(std::unexpected(value.error()));
  if (!opened) {
    bad.add(Counter::corrupt_indexes);
    return std::nullopt;
  }
  if (keeps && !checked) checked_[place / 64].fetch_or(bit, std::memory_order_relaxed);
  return *opened;
}

Status Partition::load_units() {
  ASSIGN_OR_RETURN(const auto here, read());
  if (!written_) ended_bytes_ = here.file->env.used_bytes();
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(here.txn, here.db().seg));
  const Key prefix('u');
  ASSIGN_OR_RETURN(bool found, cursor.seek(prefix));
  while (found && starts_with(cursor.key(), prefix)) {
    ByteReader in(cursor.value());
    Unit unit;
    unit.partition = number_;
    unit.block = KeyReader(cursor.key().subspan(1)).u32();
    const auto version = in.u8();
    unit.first = in.u64();
    unit.last = in.u64();
    unit.rows = in.u32();
    unit.types = in.u32();
    in.u32();  // bytes
    const auto count = in.varint();
    std::vector<UnitRange> ranges;
    for (std::uint64_t i = 0; i < count && in.ok(); ++i) {
      UnitRange range;
      range.incarnation = in.u32();
      range.oldest = {in.i64()};
      range.newest = {in.i64()};
      range.rows = in.u32();
      ranges.push_back(range);
    }
    if (version != kUnitVersion || !in.done())
      return fail(Code::corrupt, fmt::format("the block table of {} is damaged", path_));
    unit.ranges = keep(std::move(ranges));
    units_.push_back(unit);
    ASSIGN_OR_RETURN(found, cursor.next());
  }
  return {};
}

std::vector<std::byte> encode_unit(const Unit& unit, std::span<const UnitRange> ranges,
                                   std::size_t bytes) {
  ByteWriter out;
  out.u8(kUnitVersion);
  out.u64(unit.first);
  out.u64(unit.last);
  out.u32(unit.rows);
  out.u32(unit.types);
  out.u32(static_cast<std::uint32_t>(bytes));
  out.varint(ranges.size());
  for (const auto& r : ranges) {
    out.u32(r.incarnation);
    out.i64(r.oldest.ns);
    out.i64(r.newest.ns);
    out.u32(r.rows);
  }
  return std::move(out.vector());
}

}  // namespace scope::store
