#include "store/recovery.h"

#include <spdlog/spdlog.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <boost/unordered/unordered_flat_map.hpp>
#include <filesystem>
#include <thread>

#include "store/block.h"
#include "store/key_format.h"
#include "store/segment.h"

namespace scope::store {
namespace {

namespace fs = std::filesystem;

// Of indexing anew; each holds one block's rows.
constexpr std::size_t kMostThreads = 4, kBlocksPerThread = 4;

// A crash between making or dropping a partition and writing the manifest leaves such files.
void remove_unlisted(const std::string& folder, const Manifest& manifest) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const auto name = entry.path().filename().string();
    if (name != "manifest.tmp" && !(name.starts_with("p-") && name.find(".mdb") != name.npos))
      continue;
    bool listed = false;
    for (const auto& p : manifest.partitions)
      listed |= entry.path().string().starts_with(Partition::file_name(folder, p.number));
    if (!listed) fs::remove(entry.path(), error);
  }
}

Status read_meta(StoreState& state, const lmdb::Txn& txn) {
  const auto& db = state.active->db();
  ASSIGN_OR_RETURN(const auto value, txn.get(db.agents, meta_key()));
  if (!value) return {};
  ByteReader in(*value);
  const auto version = in.u8();
  state.last_lsn = in.u64();
  state.newest = {in.i64()};
  if (version != kMetaVersion || !in.done())
    return fail(Code::corrupt, "the active partition's meta row is damaged");
  return {};
}

Status read_ordinals(StoreState& state, const lmdb::Txn& txn) {
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn, state.active->db().agents));
  const Key prefix('o');
  ASSIGN_OR_RETURN(bool found, cursor.seek(prefix));
  while (found && starts_with(cursor.key(), prefix)) {
    const auto number = KeyReader(cursor.key().subspan(1)).u32();
    RETURN_IF_ERROR(state.ordinals[number].decode(cursor.value()));
    ASSIGN_OR_RETURN(found, cursor.next());
  }
  return {};
}

// One row of the hot log, decoded as it was when it arrived.
Result<std::shared_ptr<TailBatch>> replay(StoreState& state, Lsn lsn, Bytes value) {
  ByteReader in(value);
  TailInput input;
  input.lsn = lsn;
  const auto version = in.u8();
  input.incarnation = in.u32();
  input.seq = in.u64();
  input.received = {in.i64()};
  const auto hash = in.u64();
  const auto term = in.rest();
  if (!in.ok() || version != kHotVersion || !state.incarnations.exists(input.incarnation) ||
      XXH3_64bits(term.data(), term.size()) != hash)
    return fail(Code::corrupt, "a batch of the hot log is damaged");
  auto copy = std::make_shared<std::vector<std::byte>>(term.begin(), term.end());
  ASSIGN_OR_RETURN(input.message, codec::view(*copy));
  input.buffer = std::move(copy);
  auto& ordinals = state.ordinals[input.incarnation];
  auto batch = decode_batch(input, state.manifest.hash_key, state.incarnations, ordinals);
  return batch ? std::move(batch) : empty_batch(input);
}

Status read_hot(StoreState& state, const lmdb::Txn& txn) {
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn, state.active->db().hot));
  ASSIGN_OR_RETURN(bool found, cursor.first());
  while (found) {
    const auto lsn = KeyReader(cursor.key()).u64();
    auto batch = replay(state, lsn, cursor.value());
    if (!batch) return std::unexpected(batch.error());
    state.tail.push_back(std::move(*batch));
    state.last_lsn = std::max(state.last_lsn, lsn);
    ASSIGN_OR_RETURN(found, cursor.next());
  }
  return {};
}

// A stored block decoded and indexed anew. Null: it is damaged.
std::shared_ptr<const BlockIndex> index_again(const lmdb::Txn& txn, lmdb::Dbi blk,
                                              std::uint32_t block, NameTable& names) {
  const auto value = txn.get(blk, block_key(block));
  if (!value || !*value) return nullptr;
  const auto rows = read_block(**value, {}, names, std::make_shared<Arena>());
  if (!rows) return nullptr;
  BlockIndexBuilder builder([&](std::string_view text) { return names.find(text); });
  // A message that is stored once stands at one place in memory, however many rows have it.
  boost::unordered_flat_map<std::uint64_t, const std::byte*> messages;
  for (const auto& row : rows->rows) {
    const auto& r = row.record;
    bool repeats = false;
    if (r.has(codec::TraceRecord::kHashed)) {
      const auto [it, fresh] = messages.try_emplace(r.match_hash, r.payload.data());
      repeats = !fresh && it->second == r.payload.data();
    }
    builder.add(row, names.find(r.mfa), repeats);
  }
  return builder.finish();
}

// The blocks of the segment that is not complete, at most 63, on all processors: who starts a daemon waits for it. One that
// is damaged stays null, and with it its segment: candidates by statistics, and read() says what is wrong.
void rebuild_open(StoreState& state) {
  auto& open = state.open;
  open.partition = state.active->number();
  open.first_block = state.last_block / kSegmentBlocks * kSegmentBlocks + 1;
  open.blocks.resize(state.last_block + 1 - open.first_block);
  std::atomic<std::uint32_t> next = 0;
  const auto work = [&] {
    const auto txn = lmdb::Txn::begin(state.active->env(), false);
    for (std::uint32_t i = 0; txn && (i = next++) < open.blocks.size();)
      open.blocks[i] =
          index_again(*txn, state.active->db().blk, open.first_block + i, *state.names);
  };
  std::vector<std::jthread> others;
  const auto threads = std::min<std::size_t>(
      {std::thread::hardware_concurrency(), kMostThreads, open.blocks.size() / kBlocksPerThread});
  for (std::size_t i = 1; i < threads; ++i) others.emplace_back(work);
  work();
}

}  // namespace

std::vector<std::byte> encode_meta(Lsn last_lsn, ClusterTime now) {
  ByteWriter out;
  out.u8(kMetaVersion);
  out.u64(last_lsn);
  out.i64(now.ns);
  return std::move(out.vector());
}

Result<StoreState> recover(const StoreOptions& options, Manifest manifest) {
  StoreState state;
  state.manifest = std::move(manifest);
  remove_unlisted(options.path, state.manifest);
  for (auto& listed : state.manifest.partitions) {
    const bool active = listed.number == state.manifest.partitions.back().number;
    const auto& folder = listed.folder.empty() ? options.path : listed.folder;
    const auto file = Partition::file_name(folder, listed.number);
    // What cannot be read is a gap, told once; what was attached was taken away by somebody who knows.
    const auto lost = [&](std::string_view why) {
      spdlog::error("store: {} is left out: {}", file, why);
      if (listed.lost || !listed.folder.empty()) return;
      listed.lost = true;
      state.lost.push_back(listed);
    };
    if (!fs::exists(file) && !(active && listed.number == 1)) {
      if (active) return fail(Code::corrupt, file + ", the active partition, is missing");
      lost("it is missing");
      continue;
    }
    auto partition = Partition::open(folder, listed.number,
                                     {.map_bytes = options.map_bytes,
                                      .writable = active,
                                      .sync = options.sync,
                                      .files = state.files});
    if (!partition && active) return std::unexpected(partition.error());
    if (!partition) {
      lost(to_string(partition.error()));
      continue;
    }
    ASSIGN_OR_RETURN(const auto here, (*partition)->read());
    RETURN_IF_ERROR(state.clocks.load(here.txn, here.db().clock));
    state.partitions.push_back(std::move(*partition));
  }
  state.active = state.partitions.back();
  if (!state.active->units_at_open().empty()) {
    const auto& unit = state.active->units_at_open().back();
    state.last_block = unit.block;
    state.last_lsn = unit.last;
  }
  ASSIGN_OR_RETURN(const auto txn, lmdb::Txn::begin(state.active->env(), false));
  state.names = std::make_unique<NameTable>();
  RETURN_IF_ERROR(state.names->load(txn, state.active->db().names));
  RETURN_IF_ERROR(state.incarnations.load(txn, state.active->db().agents));
  RETURN_IF_ERROR(read_meta(state, txn));
  RETURN_IF_ERROR(read_ordinals(state, txn));
  RETURN_IF_ERROR(read_hot(state, txn));
  rebuild_open(state);
  return state;
}

}  // namespace scope::store
