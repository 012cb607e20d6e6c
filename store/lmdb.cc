#include "store/lmdb.h"

#include <fmt/format.h>
#include <lmdb.h>

#include <cerrno>

namespace scope::store::lmdb {
namespace {

std::unexpected<Error> failed(int rc, const char* what) {
  const auto text = fmt::format("{}: {} ({})", what, mdb_strerror(rc), rc);
  switch (rc) {
    case MDB_MAP_FULL:
      return fail(Code::too_large, text);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EIO:  // LMDB answers EIO to a short write, which is what a full disk gives
      return fail(Code::disk_full, text + "; free some room, the store goes on by itself");
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
    case MDB_NOTFOUND:
      return fail(Code::corrupt, text);
    default:
      return fail(Code::io, text);
  }
}

MDB_val to_val(Bytes bytes) { return {bytes.size(), const_cast<std::byte*>(bytes.data())}; }
Bytes to_bytes(const MDB_val& v) { return {static_cast<const std::byte*>(v.mv_data), v.mv_size}; }

}  // namespace

void Env::Close::operator()(MDB_env* env) const { mdb_env_close(env); }
void Txn::Abort::operator()(MDB_txn* txn) const { mdb_txn_abort(txn); }
void Cursor::Close::operator()(MDB_cursor* cursor) const { mdb_cursor_close(cursor); }

Result<Env> Env::open(const std::string& path, const EnvOptions& options) {
  MDB_env* raw = nullptr;
  if (int rc = mdb_env_create(&raw); rc != 0) return failed(rc, "mdb_env_create");
  Env env;
  env.env_.reset(raw);
  mdb_env_set_mapsize(raw, options.map_bytes);
  mdb_env_set_maxdbs(raw, 16);
  mdb_env_set_maxreaders(raw, 512);
  unsigned flags = MDB_NOSUBDIR | MDB_NORDAHEAD | MDB_NOTLS;
  if (options.read_only) flags |= MDB_RDONLY | MDB_NOLOCK;
  if (!options.sync) flags |= MDB_NOSYNC;
  if (int rc = mdb_env_open(raw, path.c_str(), flags, 0600); rc != 0)
    return failed(rc, ("open " + path).c_str());
  return env;
}

std::uint64_t Env::used_bytes() const {
  MDB_envinfo info{};
  MDB_stat stat{};
  mdb_env_info(env_.get(), &info);
  mdb_env_stat(env_.get(), &stat);
  return (std::uint64_t{info.me_last_pgno} + 1) * stat.ms_psize;
}

std::uint64_t Env::map_bytes() const {
  MDB_envinfo info{};
  mdb_env_info(env_.get(), &info);
  return info.me_mapsize;
}

Result<Txn> Txn::begin(const Env& env, bool write) {
  MDB_txn* raw = nullptr;
  const int rc = mdb_txn_begin(env.get(), nullptr, write ? 0 : MDB_RDONLY, &raw);
  if (rc != 0) return failed(rc, "mdb_txn_begin");
  Txn txn;
  txn.txn_.reset(raw);
  return txn;
}

Result<Dbi> Txn::open_db(const char* name, bool create) {
  Dbi dbi = 0;
  const int rc = mdb_dbi_open(txn_.get(), name, create ? MDB_CREATE : 0U, &dbi);
  if (rc != 0) return failed(rc, fmt::format("database {}", name).c_str());
  return dbi;
}

DatabaseSize Txn::size(Dbi dbi) const {
  MDB_stat stat{};
  if (mdb_stat(txn_.get(), dbi, &stat) != 0) return {};
  const auto pages = stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages;
  return {stat.ms_entries, std::uint64_t{pages} * stat.ms_psize};
}

Result<std::optional<Bytes>> Txn::get(Dbi dbi, Bytes key) const {
  MDB_val k = to_val(key), v{};
  const int rc = mdb_get(txn_.get(), dbi, &k, &v);
  if (rc == MDB_NOTFOUND) return std::optional<Bytes>{};
  if (rc != 0) return failed(rc, "get");
  return std::optional<Bytes>(to_bytes(v));
}

Status Txn::put(Dbi dbi, Bytes key, Bytes value) {
  MDB_val k = to_val(key), v = to_val(value);
  if (int rc = mdb_put(txn_.get(), dbi, &k, &v, 0); rc != 0) return failed(rc, "put");
  return {};
}

Status Txn::append(Dbi dbi, Bytes key, Bytes value) {
  MDB_val k = to_val(key), v = to_val(value);
  if (int rc = mdb_put(txn_.get(), dbi, &k, &v, MDB_APPEND); rc != 0) return failed(rc, "append");
  return {};
}

Result<std::byte*> Txn::reserve(Dbi dbi, Bytes key, std::size_t size, bool append) {
  MDB_val k = to_val(key), v{size, nullptr};
  const unsigned flags = MDB_RESERVE | (append ? MDB_APPEND : 0U);
  if (int rc = mdb_put(txn_.get(), dbi, &k, &v, flags); rc != 0) return failed(rc, "put");
  return static_cast<std::byte*>(v.mv_data);
}

Result<bool> Txn::del(Dbi dbi, Bytes key) {
  MDB_val k = to_val(key);
  const int rc = mdb_del(txn_.get(), dbi, &k, nullptr);
  if (rc != 0 && rc != MDB_NOTFOUND) return failed(rc, "del");
  return rc == 0;
}

Status Txn::commit() {
  if (int rc = mdb_txn_commit(txn_.release()); rc != 0) return failed(rc, "commit");
  return {};
}

Result<Cursor> Cursor::open(const Txn& txn, Dbi dbi) {
  MDB_cursor* raw = nullptr;
  if (int rc = mdb_cursor_open(txn.get(), dbi, &raw); rc != 0) return failed(rc, "cursor");
  Cursor cursor;
  cursor.cursor_.reset(raw);
  return cursor;
}

Result<bool> Cursor::move(int op, Bytes key) {
  MDB_val k = to_val(key), v{};
  const int rc = mdb_cursor_get(cursor_.get(), &k, &v, static_cast<MDB_cursor_op>(op));
  if (rc == MDB_NOTFOUND) return false;
  if (rc != 0) return failed(rc, "cursor");
  key_ = to_bytes(k);
  value_ = to_bytes(v);
  return true;
}

Result<bool> Cursor::first() { return move(MDB_FIRST, {}); }
Result<bool> Cursor::last() { return move(MDB_LAST, {}); }
Result<bool> Cursor::seek(Bytes key) { return move(MDB_SET_RANGE, key); }
Result<bool> Cursor::next() { return move(MDB_NEXT, {}); }
Result<bool> Cursor::previous() { return move(MDB_PREV, {}); }

}  // namespace scope::store::lmdb
