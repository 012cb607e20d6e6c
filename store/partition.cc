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

Result<std::shared_ptr<Partition>> Partition::open(const std::string& folder, std::uint32_t number,
                                                   const PartitionOptions& options) {
  std::shared_ptr<Partition> p(new Partition(file_name(folder, number), number));
  ASSIGN_OR_RETURN(p->env_, lmdb::Env::open(p->path_, {.map_bytes = options.map_bytes,
                                                       .read_only = !options.writable,
                                                       .sync = options.sync}));
  RETURN_IF_ERROR(p->open_databases(options.writable));
  RETURN_IF_ERROR(p->load_units());
  return p;
}

Partition::~Partition() {
  if (!unlink_) return;
  env_ = {};
  ::unlink(path_.c_str());
  ::unlink((path_ + "-lock").c_str());
}

Status Partition::open_databases(bool create) {
  ASSIGN_OR_RETURN(auto txn, lmdb::Txn::begin(env_, create));
  ASSIGN_OR_RETURN(db_.hot, txn.open_db("hot", create));
  ASSIGN_OR_RETURN(db_.blk, txn.open_db("blk", create));
  ASSIGN_OR_RETURN(db_.seg, txn.open_db("seg", create));
  ASSIGN_OR_RETURN(db_.agents, txn.open_db("agents", create));
  ASSIGN_OR_RETURN(db_.clock, txn.open_db("clock", create));
  ASSIGN_OR_RETURN(db_.names, txn.open_db("names", create));
  ASSIGN_OR_RETURN(db_.lives, txn.open_db("lives", create));
  return txn.commit();
}

std::span<const UnitRange> Partition::keep(std::vector<UnitRange> ranges) {
  return ranges_.emplace_back(std::move(ranges));
}

std::optional<SegmentValue> Partition::segment(const lmdb::Txn& txn, char kind,
                                               std::uint32_t segment,
                                               std::atomic<std::uint64_t>& bad) const {
  const auto value = txn.get(db_.seg, segment_key(kind, segment));
  if (value && !*value) return std::nullopt;
  const auto k = static_cast<std::size_t>(std::ranges::find(kSegmentKinds, kind) - kSegmentKinds);
  const auto place = k * kSegmentsChecked + segment;
  const bool keeps = segment < kSegmentsChecked;
  const auto bit = 1ULL << place % 64;
  const bool checked = keeps && (checked_[place / 64].load(std::memory_order_relaxed) & bit) != 0;
  auto opened = value ? SegmentValue::open(**value, checked)
                      : Result<SegmentValue>(std::unexpected(value.error()));
  if (!opened) {
    ++bad;
    return std::nullopt;
  }
  if (keeps && !checked) checked_[place / 64].fetch_or(bit, std::memory_order_relaxed);
  return *opened;
}

Status Partition::load_units() {
  ASSIGN_OR_RETURN(const auto txn, lmdb::Txn::begin(env_, false));
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn, db_.seg));
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
