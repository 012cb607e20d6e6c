#include "store/edge_store.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "store/key_format.h"

namespace scope::store {
namespace {

constexpr unsigned kEdgesVersion = 1, kStateVersion = 1;
constexpr std::size_t kCutBytes = 20;
constexpr std::size_t kDropAtOnce = 512;  // keys of one transaction

Key slice_key(std::int64_t slice) { return Key('s').i64(slice); }
Key part_key(std::int64_t slice, std::uint32_t part) { return Key('p').i64(slice).u32(part); }

std::vector<std::byte> encode(const SliceState& s) {
  ByteWriter body;
  body.i64(s.clock);
  body.u64(s.units);
  for (const std::uint64_t n : {s.rows, s.edges, std::uint64_t{s.parts}, std::uint64_t{s.corrupt},
                                std::uint64_t{s.crowded}, std::uint64_t{s.cuts.size()}})
    body.varint(n);
  for (const auto& cut : s.cuts) {
    body.u32(cut.incarnation);
    body.i64(cut.from.ns);
    body.i64(cut.until.ns);
  }
  ByteWriter out;
  out.u8(kStateVersion);
  out.u64(XXH3_64bits(body.data(), body.size()));
  out.raw(body.bytes());
  return std::move(out.vector());
}

std::optional<SliceState> decode(std::int64_t slice, Bytes value) {
  ByteReader head(value);
  const auto version = head.u8();
  const auto hash = head.u64();
  const auto body = head.rest();
  if (version != kStateVersion || XXH3_64bits(body.data(), body.size()) != hash)
    return std::nullopt;
  ByteReader in(body);
  SliceState s;
  s.slice = slice;
  s.clock = in.i64();
  s.units = in.u64();
  s.rows = in.varint();
  s.edges = in.varint();
  s.parts = static_cast<std::uint32_t>(in.varint());
  s.corrupt = static_cast<std::uint32_t>(in.varint());
  s.crowded = in.varint() != 0;
  const auto cuts = in.varint();
  if (!in.ok() || in.left() % kCutBytes != 0 || cuts != in.left() / kCutBytes) return std::nullopt;
  for (std::uint64_t i = 0; i < cuts; ++i) {
    SliceCut cut;
    cut.incarnation = in.u32();
    cut.from.ns = in.i64();
    cut.until.ns = in.i64();
    s.cuts.push_back(cut);
  }
  return s;
}

Result<lmdb::Env> open_env(const std::string& path, bool sync) {
  lmdb::EnvOptions options;
  options.map_bytes = kEdgeMapBytes;
  options.sync = sync;
  ASSIGN_OR_RETURN(auto env, lmdb::Env::open(path, options));
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  // What is mapped beyond a file's end is SIGBUS to touch.
  if (!error && size > 0 && size < env.used_bytes())
    return fail(Code::corrupt, path + " is shorter than it says");
  return env;
}

}  // namespace

const SliceCut* SliceState::cut(Incarnation incarnation) const {
  const auto at = std::ranges::lower_bound(cuts, incarnation, {}, &SliceCut::incarnation);
  return at != cuts.end() && at->incarnation == incarnation ? &*at : nullptr;
}

Result<std::unique_ptr<EdgeStore>> EdgeStore::open(const std::string& folder,
                                                   std::uint64_t store_id, std::uint64_t rules,
                                                   bool sync, std::shared_ptr<Counters> counters) {
  const auto path = path_of(folder);
  auto env = open_env(path, sync);
  if (!env && env.error().code == Code::corrupt) {
    if (counters) counters->add(Counter::corrupt_edges);
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
    std::filesystem::remove(path + "-lock", ignored);
    env = open_env(path, sync);
  }
  if (!env) return std::unexpected(env.error());
  ByteWriter meta;
  meta.u8(kEdgesVersion);
  meta.u64(store_id);
  meta.u64(rules);
  ASSIGN_OR_RETURN(auto txn, lmdb::Txn::begin(*env, true));
  ASSIGN_OR_RETURN(const auto db, txn.open_db("edges", true));
  ASSIGN_OR_RETURN(const auto found, txn.get(db, Key('m')));
  const bool ours = found && std::ranges::equal(*found, meta.bytes());
  RETURN_IF_ERROR(txn.commit());
  auto out = std::unique_ptr<EdgeStore>(new EdgeStore(*std::move(env), db, std::move(counters)));
  if (ours) return out;
  // First all that is there goes, then it is called ours.
  RETURN_IF_ERROR(out->clear());
  ASSIGN_OR_RETURN(auto mark, lmdb::Txn::begin(out->env_, true));
  RETURN_IF_ERROR(mark.put(db, Key('m'), meta.bytes()));
  RETURN_IF_ERROR(mark.commit());
  return out;
}

// The states first, so that a crash in between leaves parts that no state names.
Status EdgeStore::remove(std::int64_t slice, bool all) {
  const std::lock_guard lock(writing_);
  for (const char kind : {'s', 'p'}) {
    for (bool more = true; more;) {
      ASSIGN_OR_RETURN(auto txn, lmdb::Txn::begin(env_, true));
      std::vector<std::vector<std::byte>> keys;
      {
        const Key from = all ? Key(kind) : Key(kind).i64(slice);
        ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn, db_));
        ASSIGN_OR_RETURN(bool there, cursor.seek(from));
        while (there && starts_with(cursor.key(), from) && keys.size() < kDropAtOnce) {
          keys.emplace_back(cursor.key().begin(), cursor.key().end());
          ASSIGN_OR_RETURN(there, cursor.next());
        }
      }
      for (const auto& key : keys) RETURN_IF_ERROR(txn.del(db_, key));
      more = keys.size() == kDropAtOnce;
      if (!keys.empty()) RETURN_IF_ERROR(txn.commit());
    }
  }
  const std::lock_guard seen(mutex_);
  if (all) {
    damaged_.clear();
  } else {
    damaged_.erase(slice);
  }
  return {};
}

Status EdgeStore::drop(std::int64_t slice) { return remove(slice, false); }
Status EdgeStore::clear() { return remove(0, true); }

Status EdgeStore::put(std::int64_t slice, std::uint32_t part, Bytes bytes) {
  const std::lock_guard lock(writing_);
  ASSIGN_OR_RETURN(auto txn, lmdb::Txn::begin(env_, true));
  RETURN_IF_ERROR(txn.put(db_, part_key(slice, part), bytes));
  return txn.commit();
}

Status EdgeStore::finish(const SliceState& state) {
  const std::lock_guard lock(writing_);
  ASSIGN_OR_RETURN(auto txn, lmdb::Txn::begin(env_, true));
  RETURN_IF_ERROR(txn.put(db_, slice_key(state.slice), encode(state)));
  return txn.commit();
}

void EdgeStore::report(std::int64_t slice) const {
  if (counters_) counters_->add(Counter::corrupt_edges);
  const std::lock_guard lock(mutex_);
  damaged_.insert(slice);
}

std::vector<std::int64_t> EdgeStore::damaged() const {
  const std::lock_guard lock(mutex_);
  return {damaged_.begin(), damaged_.end()};
}

Result<std::vector<SliceState>> EdgeStore::states() const {
  std::vector<SliceState> out;
  ASSIGN_OR_RETURN(const auto txn, lmdb::Txn::begin(env_, false));
  ASSIGN_OR_RETURN(auto cursor, lmdb::Cursor::open(txn, db_));
  const Key prefix('s');
  ASSIGN_OR_RETURN(bool there, cursor.seek(prefix));
  while (there && starts_with(cursor.key(), prefix)) {
    KeyReader key(cursor.key().subspan(1));
    const auto slice = key.i64();
    if (auto state = key.done() ? decode(slice, cursor.value()) : std::nullopt) {
      out.push_back(*std::move(state));
    } else {
      report(slice);
    }
    ASSIGN_OR_RETURN(there, cursor.next());
  }
  return out;
}

Result<EdgeReport> EdgeStore::check() const {
  EdgeReport out;
  out.bytes = env_.used_bytes();
  ASSIGN_OR_RETURN(const auto all, states());
  const auto unreadable = damaged();
  for (const auto slice : unreadable)
    out.damaged += std::ranges::find(all, slice, &SliceState::slice) == all.end();
  for (const auto& known : all) {
    // A transaction for each: it may be derived again meanwhile.
    ASSIGN_OR_RETURN(const auto here, read());
    ASSIGN_OR_RETURN(const auto state, here.state(known.slice));
    if (!state) continue;
    if (out.slices++ == 0) out.first = state->slice;
    out.last = state->slice;
    out.parts += state->parts;
    std::uint64_t edges = 0;
    bool whole = true;
    for (std::uint32_t i = 0; i < state->parts && whole; ++i) {
      const auto part = here.part(state->slice, i);
      const auto rows = part ? part->all() : std::unexpected(part.error());
      whole = rows.has_value();
      if (whole) edges += rows->size();
    }
    out.edges += edges;
    if (whole && edges == state->edges) continue;
    ++out.damaged;
    report(state->slice);
  }
  return out;
}

Result<EdgeStore::Reading> EdgeStore::read() const {
  ASSIGN_OR_RETURN(auto txn, lmdb::Txn::begin(env_, false));
  return Reading(*this, std::move(txn));
}

Result<std::optional<SliceState>> EdgeStore::Reading::state(std::int64_t slice) const {
  ASSIGN_OR_RETURN(const auto value, txn_.get(store_.db_, slice_key(slice)));
  if (!value) return std::optional<SliceState>{};
  auto state = decode(slice, *value);
  if (!state) store_.report(slice);
  return state;
}

Result<EdgePart> EdgeStore::Reading::part(std::int64_t slice, std::uint32_t number) const {
  ASSIGN_OR_RETURN(const auto value, txn_.get(store_.db_, part_key(slice, number)));
  if (!value)
    return fail(Code::corrupt, fmt::format("part {} of slice {} is missing", number, slice));
  return EdgePart::open(*value);
}

}  // namespace scope::store
